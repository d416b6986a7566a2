"""The house rules: what a folder may import, how long a function or file is, what an interface is made of.

Every exception is written here with its reason; one that is needed no more fails too, so that the lists only get shorter.
"""

import ast
import configparser
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

import pytest
import yaml
from hydra.utils import get_object

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "bmfm"

FLOOR = ("special", "hashing", "files", "expressions", "metrics", "targets", "label_kinds", "cli", "places", "ledger", "launch")
"""Modules of the root that every folder may import, and that import no folder."""

FOLDERS = (
    "genome", "cells", "storage", "tokenizers", "data", "objectives", "models", "checkpoints", "inference", "variants", "perturbation", "interpret",
    "exporting", "serving", "training", "evaluation", "experiments",
)  # fmt: skip
"""A folder imports the floor, itself, and what is before it here."""

LONGEST_FUNCTION, MOST_ARGUMENTS, LONGEST_FILE = 80, 10, 420

LONG_FUNCTIONS: dict[str, str] = {}
"""{module.function: why it is one piece}"""

MANY_ARGUMENTS: dict[str, str] = {
    "bmfm.tokenizers.rna.CellTokenizer.__init__": "settings of one YAML file, conf/tokenizer/cells.yaml, each by its name",
}
"""{module.function: why these are no record}"""

LONG_FILES: dict[str, str] = {}
"""{module: why it is one file}"""

FEELERS: dict[str, str] = {
    "bmfm.cells.matrix": "what is stored is an array of h5py, zarr or SciPy, of which the last has no attributes",
}
"""{module: why it must ask an object what it has, rather than know it by its type}"""


def _module(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {_module(file): file for file in sorted(PACKAGE.rglob("*.py")) if "conf" not in file.relative_to(PACKAGE).parts}


@cache
def _tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text())


def _imports_of(node: ast.AST, module: str) -> set[str]:
    """Modules of the package that one statement imports."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, f"{module}: line {node.lineno} is a relative import: write the module's whole name"
        names = [f"{node.module}.{alias.name}" if f"{node.module}.{alias.name}" in MODULES else str(node.module) for alias in node.names]
    else:
        return set()
    return {name for name in names if name.partition(".")[0] == "bmfm"}


@cache
def _imports(module: str) -> frozenset[str]:
    """Modules of the package that a module imports, anywhere in it."""
    return frozenset(name for node in ast.walk(_tree(module)) for name in _imports_of(node, module)) - {module}


def _floor_of(module: str) -> int:
    """The place of a module in the house, 0 at the bottom."""
    parts = module.split(".")
    if len(parts) == 1:
        return 0  # `import bmfm` brings the version; what it forwards to is imported when it is asked for
    if parts[1] in FOLDERS:
        return 1 + FOLDERS.index(parts[1])
    return 0 if parts[1] in FLOOR else 1 + len(FOLDERS)


def test_every_folder_has_its_place():
    folders = {file.parent.name for file in PACKAGE.glob("*/__init__.py")} - {"conf"}
    assert folders == set(FOLDERS)
    assert {f"bmfm.{name}" for name in FLOOR} <= MODULES.keys()


@pytest.mark.parametrize("folder", [*FOLDERS, *FLOOR])
def test_a_folder_imports_only_what_is_above_it(folder):
    upwards = {
        f"{module} imports {other}"
        for module in MODULES
        if module.startswith(f"bmfm.{folder}.") or module == f"bmfm.{folder}"
        for other in _imports(module)
        if _floor_of(other) > _floor_of(module)
    }
    assert not upwards


def _circle(edges: Mapping[str, Iterable[str]]) -> list[str]:
    """Nodes of a circle in a graph, none where there is no circle."""
    done: set[str] = set()
    path: list[str] = []

    def visit(node: str) -> list[str]:
        if node in path:
            return [*path[path.index(node) :], node]
        if node in done:
            return []
        path.append(node)
        circle = next((found for other in sorted(edges.get(node, ())) if (found := visit(other))), [])
        path.pop()
        done.add(node)
        return circle

    return next((found for node in sorted(edges) if (found := visit(node))), [])


def test_circles_are_seen():
    assert _circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert not _circle({"a": {"b", "c"}, "b": {"c"}, "c": set()})


def test_no_imports_in_circles():
    """Of modules, imports inside functions included."""
    assert not _circle({module: _imports(module) - {"bmfm"} for module in MODULES})


@cache
def _functions() -> list[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Every function by its full name, methods and functions in functions included."""
    functions = []

    def visit(node: ast.AST, name: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                if not isinstance(child, ast.ClassDef):
                    functions.append((f"{name}.{child.name}", child))
                visit(child, f"{name}.{child.name}")
            else:
                visit(child, name)

    for module in MODULES:
        visit(_tree(module), module)
    return functions


def _n_arguments(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    arguments = function.args
    named = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    return len(named) - (named[:1] in (["self"], ["cls"]))


def _n_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return (function.end_lineno or 0) - function.lineno + 1


def test_functions_are_short():
    assert {name: _n_lines(f) for name, f in _functions() if _n_lines(f) > LONGEST_FUNCTION and name not in LONG_FUNCTIONS} == {}


def test_functions_have_few_arguments():
    assert {name: _n_arguments(f) for name, f in _functions() if _n_arguments(f) > MOST_ARGUMENTS and name not in MANY_ARGUMENTS} == {}


def test_files_do_one_thing():
    lengths = {module: len(file.read_text().splitlines()) for module, file in MODULES.items()}
    assert {module: n for module, n in lengths.items() if n > LONGEST_FILE and module not in LONG_FILES} == {}


def _feels(module: str) -> bool:
    """Whether a module asks for an attribute by its name, to do without where there is none."""
    calls = [node for node in ast.walk(_tree(module)) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    optional = [c for c in calls if c.func.id == "getattr" and len(c.args) == 3 and isinstance(c.args[1], ast.Constant)]  # type: ignore[attr-defined]
    return bool(optional) or any(c.func.id == "hasattr" for c in calls)  # type: ignore[attr-defined]


def test_an_interface_is_a_type():
    """What an object can do is in its contract; nobody feels for its attributes."""
    assert [module for module in MODULES if _feels(module) and module not in FEELERS] == []


def test_exceptions_are_needed():
    """Whatever is listed above still needs to be."""
    functions = dict(_functions())
    assert [name for name in LONG_FUNCTIONS if name not in functions or _n_lines(functions[name]) <= LONGEST_FUNCTION] == []
    assert [name for name in MANY_ARGUMENTS if name not in functions or _n_arguments(functions[name]) <= MOST_ARGUMENTS] == []
    assert [m for m in LONG_FILES if m not in MODULES or len(MODULES[m].read_text().splitlines()) <= LONGEST_FILE] == []
    assert [m for m in FEELERS if m not in MODULES or not _feels(m)] == []


def test_every_package_is_installed():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    listed = set(setup["options"]["packages"].split())
    assert listed == {m for m, file in MODULES.items() if file.name == "__init__.py"} | {"bmfm.conf"}


@cache
def _targets() -> list[tuple[str, str]]:
    """Every class or function that a shipped YAML names as `_target_`, and the file."""
    names: set[tuple[str, str]] = set()
    for folder in ("conf", "recipes"):
        for file in sorted((ROOT / folder).rglob("*.yaml")):
            todo = [yaml.safe_load(file.read_text())]
            while todo:
                part = todo.pop()
                if isinstance(part, dict):
                    names |= {(part["_target_"], str(file.relative_to(ROOT)))} if "_target_" in part else set()
                    todo += part.values()
                elif isinstance(part, list):
                    todo += part
    return sorted(names)


@pytest.mark.parametrize("name", sorted({name for name, _ in _targets()}))
def test_every_target_resolves(name):
    pytest.importorskip(name.partition(".")[0])  # loggers and launchers are optional
    assert callable(get_object(name)), [file for target, file in _targets() if target == name]
