"""Classes that a configuration names by ``_target_``, a dotted path: those of this package, and of others that are installed.

The configuration of a run is code of its user. A ``config.json`` is data of others, so a class that it names is taken from an
installed module alone: never from the folder of the model, nor from the current folder, and it must be of the kind that is
expected before anything of it is called.
"""

import importlib
import inspect
import re
import sys
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from bmfm.storage.config import shown
from bmfm.storage.remote_code import remote_code_is_allowed

T = TypeVar("T")

DOTTED = re.compile(r"[A-Za-z]\w*(\.[A-Za-z]\w*)+")
PACKAGE = "bmfm.models."


def find_class(target: object, kind: type[T], where: str, folder: Path | None = None) -> type[T]:
    """The class of a dotted path.

    Parameters
    ----------
    kind
        What it must be a subclass of.
    where
        The file or command, and the key in it, for errors.
    folder
        Of the model whose ``config.json`` names it, from which nothing is taken unless ``remote_code=true`` was asked for; None for the
        configuration of a run, whose user may name anything.

    Raises
    ------
    ValueError
        Naming `where`, what is wrong, and what can be done.
    """
    if not isinstance(target, str) or not DOTTED.fullmatch(target):
        raise ValueError(f"{where} is {shown(target)}, the dotted path of a class is expected, as {PACKAGE}backbones.bert.Bert")
    module, _, name = target.rpartition(".")
    if folder is not None and module not in sys.modules and not remote_code_is_allowed():
        _refuse_untrusted(module, f"{where} names {target}", folder)
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        package = module.split(".")[0]
        remedy = (
            "look for a mistake in its name" if package == "bmfm" else f"install the package that {package} belongs to, or import it first"
        )
        raise ValueError(f"{where} names {target}, which cannot be imported ({shown(str(error), 200)}): {remedy}") from error
    if not (inspect.isclass(found) and issubclass(found, kind) and not inspect.isabstract(found)):
        raise ValueError(
            f"{where} names {target}, which is no {kind.__name__} that can be made: name a subclass of {kind.__module__}.{kind.__name__}"
        )
    return found


def make(target: object, kind: type[T], settings: dict[str, Any], where: str) -> T:
    """An instance of the class of a dotted path; a setting that it does not take, or lacks, is a ValueError that names it."""
    made = find_class(target, kind, where)
    try:
        inspect.signature(made).bind(**settings)
    except TypeError as error:
        raise ValueError(f"{where}: settings do not fit {made.__name__}: {error}") from None
    return made(**settings)


def path_of(found: type) -> str:
    """The dotted path of a class."""
    return f"{found.__module__}.{found.__qualname__}"


def _refuse_untrusted(module: str, what: str, folder: Path) -> None:
    """Raise a ValueError if importing a module would run code that nobody installed.

    Modules of Python itself are no models, and importing some of them does something (opens a browser, prints).
    """
    package = module.split(".")[0]
    if package == "bmfm":
        if not f"{module}.".startswith(PACKAGE):
            raise ValueError(f"{what}, which is no part of a model: those of this package begin with {PACKAGE}")
        return
    if package in sys.stdlib_module_names or module.endswith("__main__"):
        raise ValueError(f"{what}, which is no part of a model")
    places = _places(find_spec(package))
    if any(place.resolve().is_relative_to(folder.resolve()) for place in places):
        raise ValueError(
            f"{what}, which lies in the model's own folder: its code is not run unless you say so; read it, then ask for it by remote_code=true"
        )
    if any(place.resolve().parent == Path.cwd() for place in places) and _places(PathFinder.find_spec(package, _installed())) != places:
        raise ValueError(
            f"{what}, which was found in the current folder {Path.cwd()} and is not installed: install it, or import {package} yourself first"
        )


def _places(spec: ModuleSpec | None) -> list[Path]:
    """The file of a module, or the folders of a package; none where there is no such module."""
    return [Path(place) for place in (spec.submodule_search_locations or [spec.origin or ""])] if spec else []


def _installed() -> list[str]:
    """Where modules are looked for, without the current folder, which Python puts first or writes as an empty name."""
    first = sys.path[0] if sys.path and not sys.flags.safe_path else None
    rest = sys.path[1:] if first is not None and Path(first or ".").resolve() == Path.cwd() else sys.path
    return [entry for entry in rest if Path(entry).is_absolute()]
