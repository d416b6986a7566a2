"""A model folder to a folder for another runtime, which is written only if it computes the same."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch

from bmfm import __version__
from bmfm.checkpoints.transformers_format import is_hf_compatible, to_transformers
from bmfm.exporting.formats import ONNX_FILE, OPSET, PROGRAM_FILE, quantize, write_onnx, write_program
from bmfm.exporting.network import EMBEDDING, STATES, Network, network_inputs, output_of
from bmfm.exporting.onnx import RECORD, open_session, run_session, write_record
from bmfm.exporting.parity import Parity, Run, compare, real_examples
from bmfm.inference.inputs import Inputs
from bmfm.inference.predictor import Predictor
from bmfm.storage.folders import BACKGROUND, CALIBRATION, TRAINING_DATA

FORMATS, PRECISIONS = ("onnx", "torch_export", "safetensors_hf"), ("fp32", "int8")
CARRIED = ("README.md", TRAINING_DATA, CALIBRATION, BACKGROUND)
"""Files of a model folder that hold for the exported model, too."""


def export(
    predictor: Predictor,
    output: str | Path,
    format: str = "onnx",
    precision: str = "fp32",
    examples: str | Path | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write a model for another runtime into a folder, with its tokenizer and `export.json`, and return what that says.

    Parameters
    ----------
    format
        ``onnx``; ``torch_export``, a program of torch.export; ``safetensors_hf``, a ModernBERT as transformers has it.
    precision
        ``fp32``, or (of ONNX) ``int8``.
    examples
        A FASTA file, of which 16 windows of the model's context are compared, or an .h5ad, of which the first 16 cells; None takes some that ship.

    Raises
    ------
    FileExistsError, ImportError, ValueError
        If the folder is there, a package is missing, the model has no such form, or the written model computes something else. Nothing is left then.
    """
    folder = Path(output)
    if format not in FORMATS:
        raise ValueError(f"format={format!r} is unknown; choose from {', '.join(FORMATS)}")
    if precision not in PRECISIONS or (precision == "int8" and format != "onnx"):
        raise ValueError(f"precision={precision} with format={format}: int8 is for format=onnx; choose precision=fp32")
    if predictor.device.type != "cpu":
        raise ValueError('models are exported from the CPU: load this one with device="cpu"')
    if folder.exists() and not overwrite:
        raise FileExistsError(f"output={folder} is there already; choose another folder, or overwrite=true")
    if folder.exists() and not (folder / RECORD).is_file():
        raise FileExistsError(
            f"output={folder} is there already and holds no exported model, which alone overwrite=true replaces; choose another folder"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as made:
        partial = Path(made) / "folder"
        partial.mkdir()
        record = _write(predictor, partial, format, precision, _read_examples(predictor, examples))
        if folder.exists():
            shutil.rmtree(folder)
        partial.rename(folder)
    return record


def _read_examples(predictor: Predictor, file: str | Path | None) -> Inputs:
    try:
        inputs = predictor.read(real_examples(predictor, file))
        chunks = list(inputs.chunks())
    except ValueError as error:
        if file is not None:
            raise
        raise ValueError(f"the examples that ship do not suit this model ({error}): name a file of others by examples=FILE") from error
    inputs.chunks = lambda: iter(chunks)
    return inputs


def _write(predictor: Predictor, folder: Path, format: str, precision: str, examples: Inputs) -> dict[str, Any]:
    record: dict[str, Any] = {"format": format, "precision": precision, "dtype": "float32", "pooling": predictor.model.config.pooling}
    if format == "safetensors_hf":
        parity = _write_transformers(predictor, folder, examples)
    else:
        network = Network(predictor.model)
        record |= {"inputs": network.inputs, "outputs": network.outputs}
        record |= {"opset": OPSET} if format == "onnx" else {}
        predictor.model.config.save_pretrained(folder)
        run = (_write_graph if format == "onnx" else _write_program)(network, _traced(predictor, network, examples), folder, precision)
        parity = compare(predictor, run, network.inputs, examples)
    parity.check(precision)
    predictor.tokenizer.save_pretrained(folder)
    for name in CARRIED:
        if predictor.folder and (predictor.folder / name).is_file():
            shutil.copyfile(predictor.folder / name, folder / name)
    record |= {"versions": _versions(format), "parity": parity.as_dict()}
    write_record(folder, record)
    return record


def _traced(predictor: Predictor, network: Network, examples: Inputs) -> list[torch.Tensor]:
    """Inputs of a batch of several examples."""
    _, batch = next(predictor.batches(examples, 3))
    return [t.cpu() for t in network_inputs(batch, network.inputs)]


def _write_graph(network: Network, traced: list[torch.Tensor], folder: Path, precision: str) -> Run:
    if precision == "int8":
        with tempfile.TemporaryDirectory(dir=folder.parent) as floats:
            write_onnx(network, traced, Path(floats) / ONNX_FILE)
            quantize(Path(floats) / ONNX_FILE, folder / ONNX_FILE)
    else:
        write_onnx(network, traced, folder / ONNX_FILE)
    session = open_session(folder / ONNX_FILE)

    def run(tensors: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        feed = {name: t.numpy() for name, t in zip(network.inputs, tensors, strict=True)}
        return dict(zip(network.outputs, run_session(session, network.outputs, feed, precision == "int8"), strict=True))

    return run


def _write_program(network: Network, traced: list[torch.Tensor], folder: Path, precision: str) -> Run:
    write_program(network, traced, folder / PROGRAM_FILE)
    program = torch.export.load(folder / PROGRAM_FILE).module()

    def run(tensors: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        with torch.inference_mode():
            return dict(zip(network.outputs, program(*tensors), strict=True))

    return run


def _write_transformers(predictor: Predictor, folder: Path, examples: Inputs) -> Parity:
    """A folder that transformers loads without this package, compared as transformers reads it."""
    if not is_hf_compatible(predictor.model):
        raise ValueError(
            f"format=safetensors_hf: transformers' ModernBertForMaskedLM cannot hold this model ({predictor.model.backbone.name}, fields "
            f"{', '.join(predictor.model.config.fields)}, heads {', '.join(predictor.model.config.heads) or 'none'}): it is for model=modernbert of DNA "
            "tokens with the head mlm alone; choose format=onnx"
        )
    from transformers import ModernBertForMaskedLM

    to_transformers(predictor.model).save_pretrained(folder)
    theirs = ModernBertForMaskedLM.from_pretrained(folder, local_files_only=True).eval()

    def run(tensors: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        ids, mask = tensors
        with torch.inference_mode():
            outputs = theirs(input_ids=ids, attention_mask=mask, output_hidden_states=True)
            states = theirs.model(input_ids=ids, attention_mask=mask).last_hidden_state
        counted = mask * (torch.arange(mask.shape[1]) > 0)
        mean = (states * counted[..., None]).sum(1) / counted.sum(1, keepdim=True)
        pooling = predictor.model.config.pooling
        pooled = mean if pooling == "mean" else predictor.model.pool(states, _batch_of(mask), pooling)
        return {STATES: states, EMBEDDING: pooled, output_of("mlm"): outputs.logits}

    return compare(predictor, run, ["input_ids", "attention_mask"], examples)


def _batch_of(mask_BL: torch.Tensor) -> Any:
    n, length = mask_BL.shape
    example = torch.arange(n)[:, None].expand(n, length)
    return {"example_ids": torch.where(mask_BL > 0, example, -1), "cls_index": torch.arange(n) * length}


def _versions(format: str) -> dict[str, str]:
    from importlib.metadata import version

    packages = ["torch", "transformers", *(["onnx", "onnxscript", "onnxruntime"] if format == "onnx" else [])]
    return {"bmfm": __version__} | {name: version(name) for name in packages}
