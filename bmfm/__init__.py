"""Foundation models of genomic DNA with its variants, and of single-cell RNA."""

__version__ = "0.1.0"


def _find_room_for_kernels() -> None:
    """Name a folder to numba where it would refuse to import our kernels, as it finds none to keep them in once they are compiled: in
    containers whose package and home are both read-only. It is in ``$BMFM_CACHE``, or one of this process."""
    import os
    from pathlib import Path

    def can_be_written(folder: Path) -> bool:
        return os.access(next(f for f in (folder, *folder.parents) if f.exists()), os.W_OK)

    home = Path(os.path.expanduser(os.environ.get("XDG_CACHE_HOME") or "~/.cache")).absolute()  # noqa: PTH111  # which a home that is not there does not end
    if "NUMBA_CACHE_DIR" in os.environ or can_be_written(Path(__file__).absolute().parent) or can_be_written(home):
        return
    if kept := os.environ.get("BMFM_CACHE"):
        os.environ["NUMBA_CACHE_DIR"] = str(Path(kept) / "numba")
        return
    import atexit
    import shutil
    import tempfile

    os.environ["NUMBA_CACHE_DIR"] = tempfile.mkdtemp(prefix="bmfm-numba-")
    atexit.register(shutil.rmtree, os.environ["NUMBA_CACHE_DIR"], ignore_errors=True)


_find_room_for_kernels()


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
