"""Classes that saved data name by their path in Python, as ``_target_`` names them in YAML: found only where they are of a kind that is expected.

The configuration of a run is code of its user, and may name anything. What a ``config.json`` or a report names is data of others: a
class of theirs is taken from an installed module alone, never from the folder of the data, nor from the current folder.
"""

import importlib
import inspect
import re
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")

DOTTED = re.compile(r"[A-Za-z]\w*(\.[A-Za-z]\w*)+")


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
        Folder of the saved data: modules that lie in it, or in the current folder without being installed, are refused, unless they were
        imported already. None for the configuration of a run.

    Raises
    ------
    ValueError
        Where there is no such class, or it is another kind of thing.
    """
    expected = f"the path of a {base.__name__} is expected, as {base.__module__}.NAME"
    if not isinstance(path, str) or not path.isascii() or not DOTTED.fullmatch(path):
        raise ValueError(f"{where} is {path!a:.80}; {expected}")
    module, _, name = path.rpartition(".")
    if outside is not None and module not in sys.modules:
        _refuse_what_nobody_installed(module, outside, f"{where} names {path}")
    try:
        named = getattr(importlib.import_module(module), name, None)
    except ImportError as error:
        raise ValueError(
            f"{where} is {path}, and {module} cannot be imported ({' '.join(str(error).split())[:200]}): install the package that it is of, or put its folder on PYTHONPATH"
        ) from None
    if not isinstance(named, type) or not issubclass(named, base) or inspect.isabstract(named):
        raise ValueError(f"{where} is {path}, which is no {base.__name__}; {expected}")
    return named


def find_choice(name: str, shipped: Mapping[str, type], base: type, where: str) -> type:
    """What a setting names: one of the classes that ship, by its short name, or one of any module, by its path.

    Raises
    ------
    ValueError
        Naming the setting, `where`, and what it may be.
    """
    if name in shipped:
        return shipped[name]
    if not isinstance(name, str) or "." not in name:
        raise ValueError(
            f"{where}={name!r} is unknown; choose from {', '.join(shipped)}, or give the path of a {base.__module__}.{base.__name__}"
        )
    return find_class(name, base, where)


def make(kind: type[T], settings: Mapping[str, Any], where: object) -> T:
    """An instance of a class; a setting that it does not take, or that it needs and is not there, is a ValueError that names it."""
    try:
        inspect.signature(kind).bind(**settings)
    except TypeError as error:
        raise ValueError(f"{where}: the settings are not those of {kind.__name__}: {error}") from None
    hints = _hints(kind)
    for name in hints.keys() & settings.keys():
        check_type(settings[name], hints[name], f"{where}.{name}")
    return kind(**settings)


_WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    type(None): "null",
    list: "a list",
    dict: "named settings",
}


_ANNOTATED = ("bmfm.", "pytorch_lightning.", "torch.")
"""Packages whose classes say what types they take."""


def check_types(config: Any, find: Callable[[str], Any], where: str = "") -> None:
    """Raise a ValueError that names a setting whose value is of another kind than the class that takes it says, or NaN.

    Parameters
    ----------
    config
        Settings with ``_target_``, and others below them.
    find
        The class or function of a ``_target_``.
    where
        Path of the settings, for errors.
    """
    if isinstance(config, list):
        for number, value in enumerate(config):
            check_types(value, find, f"{where}[{number}]")
    if not isinstance(config, dict):
        return
    hints = {}
    if "_target_" in config:
        target = config["_target_"]
        if not isinstance(target, str) or "." not in target:
            raise ValueError(f"{where or 'settings'}._target_={target!r:.80} is no path of a class or function, as torch.optim.AdamW")
        hints = _hints(find(target)) if target.startswith(_ANNOTATED) else {}
    for name, value in config.items():
        path = f"{where}.{name}" if where else str(name)
        if name in hints and not (value is None and name == "max_tokens"):  # null: as long as the model was trained with
            check_type(value, hints[name], path)
        check_types(value, find, path)


def check_type(value: Any, hint: Any, where: str) -> None:
    """Raise a ValueError that names a setting, `where`, whose value is not of a type."""
    if not _fits(value, hint):
        raise ValueError(f"{where}={value!r:.80}: {' or '.join(dict.fromkeys(_words(hint)))} is expected")


def _hints(target: Any) -> dict[str, Any]:
    """Types of the arguments of a class (and of those that it is made from) or function, as far as they say and can be read."""
    hints: dict[str, Any] = {}
    for function in [vars(kind).get("__init__") for kind in reversed(target.__mro__)] if isinstance(target, type) else [target]:
        with suppress(Exception):  # names that only a type checker imports
            hints |= get_type_hints(function)
    return hints


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value of a configuration is of a type; what this function does not know fits."""
    if isinstance(value, dict) and "_target_" in value:
        return True
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, argument) for argument in arguments)
    if hint in (int, float):
        if not isinstance(value, int | float) or isinstance(value, bool) or value != value:
            return False
        if hint is float:
            return isinstance(value, float) or abs(value) < 1 << 1000
        return abs(value) < 1 << 63 and float(value).is_integer()
    if hint in (bool, type(None)):
        return isinstance(value, hint)
    if hint is str:  # YAML and the command line make numbers of names of digits
        return isinstance(value, str | int | float) and not isinstance(value, bool) and str(value) not in ("nan", "inf", "-inf")
    if origin is tuple:
        return isinstance(value, list | tuple)
    if origin in (list, Sequence):  # where several are expected, one alone may stand for a list of one
        return isinstance(value, list | tuple | str | int) and not isinstance(value, bool)
    if origin in (dict, Mapping):
        numbers = bool(arguments) and arguments[1] in (int, float)
        return isinstance(value, Mapping) and (not numbers or all(_fits(v, arguments[1]) for v in value.values()))
    return True


def _words(hint: Any) -> list[str]:
    """What a type is called in an error."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return [word for argument in arguments for word in _words(argument)]
    kind = list if origin in (list, tuple, Sequence) else dict if origin in (dict, Mapping) else hint
    return [_WORDS.get(kind, f"a {kind.__name__ if isinstance(kind, type) else kind}")]


def _refuse_what_nobody_installed(module: str, folder: Path, what: str) -> None:
    """Raise a ValueError if importing a module would run code of the data, or code that does something by itself."""
    package = module.split(".")[0]
    if package in sys.stdlib_module_names:
        raise ValueError(f"{what}, which is a module of Python itself, and is not imported")
    places = _places(find_spec(package))
    if any(place.resolve().is_relative_to(folder.resolve()) for place in places):
        raise ValueError(f"{what}, which lies in {folder} itself: code of a model folder is not run")
    here = Path.cwd().resolve()
    if any(place.resolve().parent == here for place in places) and _places(PathFinder.find_spec(package, _without_here())) != places:
        raise ValueError(
            f"{what}, which lies in the current folder {here} and is not installed: install it, put its folder on PYTHONPATH, or import {package} first"
        )


def _places(spec: ModuleSpec | None) -> list[Path]:
    """The file of a module, or the folders of a package; none where there is no such module."""
    return [Path(place) for place in (spec.submodule_search_locations or [spec.origin or ""])] if spec else []


def _without_here() -> list[str]:
    """Where modules are looked for, without the current folder as Python adds it: first, or as an empty name."""
    added = bool(sys.path) and not sys.flags.safe_path and Path(sys.path[0] or ".").resolve() == Path.cwd().resolve()
    return [entry for entry in sys.path[added:] if Path(entry).is_absolute()]
