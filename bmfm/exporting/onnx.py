"""An exported ONNX model as a `Predictor`: the same inputs, options, embeddings, predictions and counts, by onnxruntime on CPUs."""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pandas as pd
import torch

from bmfm.checkpoints.load import check_vocabulary, read_tokenizer
from bmfm.exporting.formats import ONNX_FILE
from bmfm.exporting.network import EMBEDDING, PROFILE, STATES, network_inputs, output_of
from bmfm.files import sha256_of_file
from bmfm.inference.inputs import Inputs
from bmfm.inference.outputs import Outputs
from bmfm.inference.predictor import Predictor
from bmfm.inference.readers import reader_of
from bmfm.inference.runner import Request, Results, RunOptions
from bmfm.models.backbones.base import HiddenStates
from bmfm.models.backbones.huggingface import HuggingFaceBackbone
from bmfm.models.classes import backbone_of
from bmfm.models.config import BmfmConfig
from bmfm.models.heads import predicts_tokens
from bmfm.models.model import BmfmModel
from bmfm.storage.config import plain, read_config
from bmfm.storage.folders import FILES, on_disk, read_json
from bmfm.tokenizers.batch import Batch
from bmfm.variants.mutagenesis import Mutagenesis, mutagenesis
from bmfm.variants.scoring import score_variants

RECORD = "export.json"
"""What was exported, of what, and how far it is from it."""

NEED_TORCH = (
    "explain", "dependency_map", "perturb_in_silico", "gene_embeddings", "neighbours", "enrichment", "attention_edges", "predict_responses",
    "screen",
)  # fmt: skip
"""Methods of `bmfm.api.Model` that need gradients, states between layers, weights or other inputs than the graph has."""


def load_onnx(name: str | Path, revision: str | None = None) -> "OnnxPredictor":
    """The model of a folder that ``python -m bmfm.export format=onnx`` wrote, or of a repository on the Hub that holds such a folder.

    Raises
    ------
    FileNotFoundError, ImportError, ValueError
        Naming the file that is absent or was changed, or the package that is needed.
    """
    folder = on_disk(name, revision, (*FILES, "*.onnx", "*.onnx.data"))
    for file in (ONNX_FILE, RECORD, "config.json"):
        if not (folder / file).is_file():
            raise FileNotFoundError(
                f"{folder / file}: there is no such file, so this is no exported model; write one: python -m bmfm.export checkpoint={name} "
                "format=onnx output=DIR"
            )
    record = read_json(folder / RECORD)
    for file, expected in dict(record.get("sha256") or {}).items():
        if Path(file).name != file or not (folder / file).is_file() or sha256_of_file(folder / file) != expected:
            raise ValueError(f"{folder / file} is absent or not as {RECORD} knows it: copy the folder again, or export the model again")
    return OnnxPredictor(folder, record)


class OnnxPredictor(Predictor):
    """A `Predictor` whose network is an ONNX graph.

    Its ``model`` holds the configuration alone, without weights. What needs gradients, states of single layers, or embeddings that are given in place of
    tokens is an error that says so.
    """

    def __init__(self, folder: Path, record: Mapping[str, Any]):
        self.folder, self.record, self.device = folder, record, torch.device("cpu")
        config = BmfmConfig.from_dict(read_config(folder))
        if issubclass(backbone_of(config, folder), HuggingFaceBackbone):
            raise ValueError(
                f"{folder / 'config.json'}: backbone._target_ is a model of transformers, which is never exported: the folder is damaged"
            )
        try:
            with torch.device("meta"):
                self.model = BmfmModel(config).eval()
        except Exception as error:
            raise ValueError(f"{folder / 'config.json'} describes no model: {plain(f'{type(error).__name__}: {error}')}") from error
        self.tokenizer = read_tokenizer(folder)
        check_vocabulary(self.model, self.tokenizer, folder)
        self.reader = reader_of(self.tokenizer)
        self.counts, self.match = Counter(), None
        self.session = open_session(folder / ONNX_FILE)
        self._together: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"{super().__repr__()}\n  backend     onnxruntime, {self.record.get('precision')}"

    def __getattr__(self, name: str) -> Any:
        if name in NEED_TORCH:
            raise AttributeError(f"{name}: {_torch_is_needed(self.folder)}")
        raise AttributeError(f"{type(self).__name__} has no {name}")

    def forward(
        self,
        batch: Batch,
        embeddings: torch.Tensor | None = None,
        grad: bool = False,
        all_layers: bool = False,
        precision: str | None = None,
    ) -> Outputs:
        """Run the graph on a batch of `batches`; see `Predictor.forward`.

        Raises
        ------
        ValueError
            If gradients, states of each layer, or a run on `embeddings` are asked for, or another precision than that of the graph.
        """
        if embeddings is not None or grad or all_layers:
            asked = "a run on embeddings" if embeddings is not None else "gradients" if grad else "states of single layers"
            raise ValueError(f"{asked}: {_torch_is_needed(self.folder)}")
        if precision not in (None, "fp32"):
            raise ValueError(
                f"precision={precision}: an exported model computes as it was exported ({self.record.get('precision')}): leave it out"
            )
        return OnnxOutputs(self, batch)

    def score_variants(self, variants: Any, fasta: Any, **options: Any) -> pd.DataFrame:
        """Scores of variants, one row an ALT; see `variants.scoring.score_variants`."""
        return score_variants(self, variants, fasta, **options)

    def mutagenesis(self, sequences: Any = None, **options: Any) -> Mutagenesis:
        """Scores of every substitution of sequences or regions; see `variants.mutagenesis.mutagenesis`."""
        return mutagenesis(self, sequences, **options)

    def run(self, batch: Batch, name: str) -> dict[str, torch.Tensor]:
        """An output of the graph, and whatever else the call that is under way needs of the same batch."""
        names = list(dict.fromkeys([name, *self._together]))
        inputs = [node.name for node in self.session.get_inputs()]
        feed = {n: t.numpy() for n, t in zip(inputs, network_inputs(batch, inputs), strict=True)}
        return dict(zip(names, run_session(self.session, names, feed, self.record.get("precision") == "int8"), strict=True))

    def _check_layers(self, layers: Any) -> None:
        if len(layers):
            raise ValueError(f"layer={layers[0]}: {_torch_is_needed(self.folder)}")

    def _collect(self, inputs: Inputs, requests: Mapping[str, Request], options: RunOptions) -> Results:
        names = {"embedding": EMBEDDING, "states": STATES} | {f"label {name}": output_of(name) for name in self.labels}
        self._together = tuple(names[name] for name in requests if name != "embedding")
        try:
            return super()._collect(inputs, requests, options)
        finally:
            self._together = ()


class OnnxOutputs(Outputs):
    """Outputs of an ONNX graph for one batch; the graph runs when one is asked for."""

    def __init__(self, predictor: OnnxPredictor, batch: Batch):
        super().__init__(predictor.model, batch, torch.empty(0), HiddenStates(torch.empty(0)))
        self.predictor, self.computed = predictor, dict[str, torch.Tensor]()

    def output(self, name: str) -> torch.Tensor:
        """An output of the graph by its name."""
        if name not in self.computed:
            self.computed |= self.predictor.run(self.batch, name)
        return self.computed[name]

    def states(self, layer: int | None = None) -> torch.Tensor:
        if layer is not None:
            raise ValueError(f"layer={layer}: {_torch_is_needed(self.predictor.folder)}")
        return self.output(STATES)

    def pool(self, pooling: str | int | None = None, layer: int | None = None) -> torch.Tensor:
        pooling = self.model.check_pooling(pooling)
        if pooling == self.model.check_pooling(None) and layer is None:
            return self.output(EMBEDDING)
        if pooling in ("pooler", "balanced"):
            raise ValueError(f"pooling={pooling}: {_torch_is_needed(self.predictor.folder)}")
        return super().pool(pooling, layer)

    def logits(self, head: str) -> torch.Tensor:
        logits = self.output(output_of(head))
        return logits.flatten(0, 1)[self.batch["content_index"]] if self.model.config.heads[head].get("pooling") == "token" else logits

    def log_probs(self, places: torch.Tensor) -> torch.Tensor:
        heads = self.model.config.heads.items()
        name = next((name for name, head in heads if predicts_tokens(head, self.model.n_tokens)), None)
        if name is None:
            raise ValueError("this model has no head that predicts tokens")
        return self.output(output_of(name)).flatten(0, 1)[places].log_softmax(-1)

    def gradient(self, scalar: torch.Tensor) -> NoReturn:
        raise ValueError(f"gradients: {_torch_is_needed(self.predictor.folder)}")


def open_session(file: Path) -> Any:
    """An onnxruntime session on the CPU, with as many threads as torch has.

    Raises
    ------
    ImportError
        If onnxruntime is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError("models in ONNX need onnxruntime: pip install 'bmfm[onnx]'") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def run_session(session: Any, names: list[str], feed: dict[str, np.ndarray], row_by_row: bool = False) -> list[torch.Tensor]:
    """Some outputs of a graph, which onnxruntime computes all of.

    Parameters
    ----------
    row_by_row
        Run each example by itself, as wide as it is. So int8 graphs, which scale by the largest number that goes through together, say the same of an
        example whatever is beside it.
    """
    if not row_by_row:
        return [torch.from_numpy(values) for values in session.run(names, feed)]
    n, width = feed["input_ids"].shape
    results: list[torch.Tensor] = []
    for row in range(n):
        used = min(width, -(-int(feed["attention_mask"][row].sum()) // 8) * 8)
        of_row = {name: values[row : row + 1] if name in PROFILE else values[row : row + 1, :used] for name, values in feed.items()}
        outputs = [torch.from_numpy(values) for values in session.run(names, of_row)]
        results = results or [o.new_zeros(n, width, *o.shape[2:]) if o.ndim == 3 else o.new_zeros(n, *o.shape[1:]) for o in outputs]
        for result, output in zip(results, outputs, strict=True):
            if output.ndim == 3:
                result[row, :used] = output[0]
            else:
                result[row] = output[0]
    return results


def _torch_is_needed(folder: Path | None) -> str:
    return f"{folder} is an exported model, a graph from inputs to outputs alone; load the model folder that it was exported from (without backend=onnx)"


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Write what is known of an exported model, with the checksums of its files."""
    files = sorted(p for p in folder.iterdir() if p.suffix in (".onnx", ".data", ".pt2", ".safetensors"))
    (folder / RECORD).write_text(json.dumps({**record, "sha256": {p.name: sha256_of_file(p) for p in files}}, indent=1) + "\n")
