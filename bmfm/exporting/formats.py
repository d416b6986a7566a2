"""A model as a file: ONNX (float32, or int8 weights), or a program of torch.export."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from bmfm.exporting.network import Network

OPSET = 20
ONE_FILE = 1_500_000_000
"""Bytes of weights up to which they are kept inside of the ONNX file, which can hold 2 GB."""

ONNX_FILE, PROGRAM_FILE = "model.onnx", "model.pt2"


def dynamic_shapes(network: Network) -> tuple[tuple[dict[int, object], ...]]:
    """The dimensions of each input that may be of any size: examples, tokens and, of profiles, genes."""
    n, length, genes = torch.export.Dim("batch"), torch.export.Dim("length"), torch.export.Dim("genes")
    return (tuple({0: n, 1: genes if name.startswith("profile") else length} for name in network.inputs),)


def write_program(network: Network, examples: Sequence[torch.Tensor], file: Path) -> None:
    """Write a program of torch.export, with any number and length of examples."""
    with torch.no_grad(), quiet():
        program = torch.export.export(network, tuple(examples), dynamic_shapes=dynamic_shapes(network))
    torch.export.save(program, file)


def write_onnx(network: Network, examples: Sequence[torch.Tensor], file: Path) -> None:
    """Write an ONNX graph of opset `OPSET` with any number and length of examples.

    Parameters
    ----------
    examples
        Inputs of at least two examples, which the graph is traced with.

    Raises
    ------
    ValueError
        If the graph holds for so many examples, or examples of this length, alone.
    """
    size = sum(p.numel() * p.element_size() for p in network.parameters())
    with torch.no_grad(), quiet():
        program = torch.onnx.export(
            network, tuple(examples), dynamo=True, dynamic_shapes=dynamic_shapes(network), opset_version=OPSET, optimize=True, verbose=False
        )
    assert program is not None
    graph = program.model.graph
    for node in graph:  # which are named after what they compute, maybe as an output is to be called
        for value in node.outputs:
            value.name = f"{value.name}.value"
    for names, values in ((network.inputs, graph.inputs), (network.outputs, graph.outputs)):
        for name, value in zip(names, values, strict=True):
            value.name = name
    if fixed := [str(value.name) for value in graph.inputs if any(isinstance(size, int) for size in value.shape or ())]:
        raise ValueError(
            f"the layers of this model fix the number or length of examples ({', '.join(fixed)}): it cannot be exported to ONNX"
        )
    program.save(file, external_data=size > ONE_FILE)


@contextmanager
def quiet() -> Iterator[None]:
    """Without the logs and warnings of exporters, which name every node that they look at."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def quantize(file: Path, target: Path) -> None:
    """Write an ONNX graph with int8 weights, a scale a channel, of products with constant matrices; their inputs become int8 as they come
    (dynamic quantization). Embeddings, norms, convolutions and attention stay float32."""
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = file.with_suffix(".prepared.onnx")
    try:
        with quiet():
            quant_pre_process(file, prepared, skip_symbolic_shape=True)
            quantize_dynamic(
                prepared, target, op_types_to_quantize=["MatMul", "Gemm"], per_channel=True, weight_type=QuantType.QInt8,
                extra_options={"MatMulConstBOnly": True},
            )  # fmt: skip
    finally:
        prepared.unlink(missing_ok=True)
