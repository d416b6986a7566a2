"""Classes that saved data name by their path in Python, as ``_target_`` names them in YAML: found only where they are of a kind that is expected."""

import importlib
from importlib.util import find_spec
from pathlib import Path


def class_path(named: type) -> str:
    """How a class is named in saved data, as ``bmfm.label_kinds.Regression``."""
    return f"{named.__module__}.{named.__qualname__}"


def find_class(path: object, base: type, where: object, outside: Path | None = None) -> type:
    """The class that saved data name.

    A module is imported for it, as Python finds modules: this package's, or one that is installed, on PYTHONPATH, or in the
    folder of ``--config-dir``. What the data themselves bring is never imported.

    Parameters
    ----------
    path
        Module and class with dots between them.
    base
        What the class must be a subclass of.
    where
        File and key, for errors.
    outside
        Folder of the saved data: modules that lie in it are refused.

    Raises
    ------
    ValueError
        Where there is no such class, or it is another kind of thing.
    """
    expected = f"the path of a {base.__name__} is expected, as {base.__module__}.NAME"
    if not isinstance(path, str) or "." not in path or not all(part.isidentifier() for part in path.split(".")):
        raise ValueError(f"{where} is {path!r:.80}; {expected}")
    module, _, name = path.rpartition(".")
    try:
        if outside is not None:
            _refuse_code_inside(module, outside, where)
        named = getattr(importlib.import_module(module), name, None)
    except ImportError as error:
        raise ValueError(
            f"{where} is {path}, and {module} cannot be imported ({' '.join(str(error).split())[:200]}): install the package that it is of"
        ) from None
    if not isinstance(named, type) or not issubclass(named, base):
        raise ValueError(f"{where} is {path}, which is no {base.__name__}; {expected}")
    return named


def _refuse_code_inside(module: str, folder: Path, where: object) -> None:
    """Raise a ValueError where a module, or a package above it, would be read from a folder; looked at from the top, importing nothing of it."""
    parts = module.split(".")
    for n in range(1, len(parts) + 1):
        spec = find_spec(".".join(parts[:n]))
        if spec is None:
            return
        files = [spec.origin] if spec.origin else []
        for file in [*files, *(spec.submodule_search_locations or [])]:
            if Path(file).resolve().is_relative_to(folder.resolve()):
                raise ValueError(f"{where} names {module}, which lies in {folder} itself: code of a model folder is not run")
