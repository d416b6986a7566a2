"""Foundation models of genomic DNA with its variants, and of single-cell RNA."""

__version__ = "0.1.0"


def load(name, backend="torch", **options):
    """A model with its tokenizer, ready to embed, predict and score: a `bmfm.api.Model`; options as of `bmfm.inference.load`.

    With ``backend="onnx"``, a folder that ``python -m bmfm.export format=onnx`` wrote, as `bmfm.exporting.onnx.OnnxPredictor`.
    """
    if backend == "onnx":
        from bmfm.exporting.onnx import load_onnx

        return load_onnx(name, **options)
    if backend != "torch":
        raise ValueError(f"backend={backend!r} is unknown; choose torch, or onnx for a folder that python -m bmfm.export wrote")
    from bmfm.api import Model
    from bmfm.inference import load as _load

    return _load(name, kind=Model, **options)
