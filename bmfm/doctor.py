"""Show what is installed, which attention kernels and devices can be used, and where caches and configuration are: ``bmfm doctor``.

Attention kernels are tried on a small input rather than looked up, which takes some seconds. With ``--json`` the same facts are
printed for programs, and for reports of bugs.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import shutil
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bmfm import __version__
from bmfm.cli import config_folders
from bmfm.files import cache_root

VARIABLES = {
    "BMFM_CACHE": "folder of stores that are built once, in place of ~/.cache/bmfm",
    "BMFM_CONFIG_DIR": "folder of configuration of your own, as --config-dir",
    "BMFM_DATA": "folder below which the files of benchmark tasks lie, as data_root",
}
NOT_THERE = "is not installed"


# --- packages -----------------------------------------------------------------------------------------------------------


def packages(requirements: list[str] | None = None) -> list[dict[str, Any]]:
    """What the package needs, and each extra; by the metadata of its installation.

    Parameters
    ----------
    requirements
        Lines as in ``pyproject.toml``; None takes those of bmfm.

    Returns
    -------
    list
        For each: ``name``, ``needed`` (versions), ``extra`` (None for what is always needed), ``version`` (None where it is not
        installed) and ``problem`` (None where all is well).
    """
    from packaging.requirements import Requirement

    if requirements is None:
        try:
            requirements = importlib.metadata.requires("bmfm") or []
        except importlib.metadata.PackageNotFoundError:
            requirements = []
    rows = []
    for line in requirements:
        requirement = Requirement(line)
        extra = next((e for e in _extras(line) if not requirement.marker or requirement.marker.evaluate({"extra": e})), None)
        if requirement.marker and not requirement.marker.evaluate({"extra": extra or ""}):
            continue  # of another platform
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            version = None
        problem = NOT_THERE if version is None else None
        if version is not None and not requirement.specifier.contains(version, prereleases=True):
            problem = f"version {version} is not {requirement.specifier}"
        rows.append(
            {"name": requirement.name, "needed": str(requirement.specifier), "extra": extra, "version": version, "problem": problem}
        )
    return rows


def _extras(line: str) -> list[str]:
    """The extra that a line of requirements names in its marker."""
    _, separator, name = line.partition("extra ==")
    return [name.strip(" '\"")] if separator else []


def remedies(rows: list[dict[str, Any]]) -> dict[str, str]:
    """For each extra with something missing, and for the package itself (``bmfm``), the command that installs what is missing."""
    missing = defaultdict(list)
    for row in rows:
        if row["problem"]:
            missing[row["extra"] or "bmfm"].append(f"'{row['name']}{row['needed']}'")
    flags = {"gpu": "--no-build-isolation "}  # flash-attn compiles against the torch that is installed
    return {extra: f"pip install {flags.get(extra, '')}{' '.join(names)}" for extra, names in missing.items()}


# --- devices and kernels ------------------------------------------------------------------------------------------------


def devices() -> list[dict[str, Any]]:
    """The CPU, and each GPU: memory in bytes, compute capability, and whether it computes in bf16."""
    import torch

    pages, page = (os.sysconf(name) if name in os.sysconf_names else 0 for name in ("SC_PHYS_PAGES", "SC_PAGE_SIZE"))
    cpu = {"name": "cpu", "model": platform.processor() or platform.machine(), "memory": pages * page or None}
    rows: list[dict[str, Any]] = [cpu | {"capability": None, "bf16": True, "threads": torch.get_num_threads(), "cores": os.cpu_count()}]
    for i in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(i)
        free, total = torch.cuda.mem_get_info(i)
        row = {"name": f"cuda:{i}", "model": facts.name, "memory": total, "free": free, "capability": f"{facts.major}.{facts.minor}"}
        rows.append(row | {"bf16": facts.major >= 8})
    if torch.backends.mps.is_available():
        rows.append({"name": "mps", "model": "Apple GPU", "memory": None, "capability": None, "bf16": True})
    return rows


def _sdpa(q: Any) -> Any:
    import torch

    return torch.nn.functional.scaled_dot_product_attention(q, q, q)


def _eager(q: Any) -> Any:
    return (q @ q.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1) @ q


def _flex(q: Any) -> Any:
    import torch
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention)(q, q, q)


def _flash(q: Any) -> Any:
    import torch

    from bmfm.models import flash_attention
    from bmfm.models.attention import choose

    kernel, capability = flash_attention.kernel_for(0.0), torch.cuda.get_device_capability() if q.is_cuda else (0, 0)
    choose("flash_attention_2", torch.bfloat16, q.device.type, q.shape[-1], kernel is not None, capability)
    if kernel == flash_attention.NAME:
        ends = torch.tensor([0, q.shape[2]], dtype=torch.int32, device=q.device)
        states, _ = flash_attention.attention_forward(torch.nn.Identity(), q, q, q, None, cu_seq_lens_q=ends, max_length_q=q.shape[2])
        return states.transpose(1, 2)
    from flash_attn import flash_attn_func

    return flash_attn_func(*3 * [q.transpose(1, 2).contiguous()]).transpose(1, 2)


KERNELS: dict[str, Callable] = {"sdpa": _sdpa, "flex_attention": _flex, "flash_attention_2": _flash, "eager": _eager}
"""One call of each implementation that ``model.attention`` may name."""


def kernels() -> list[dict[str, Any]]:
    """Which attention kernels run on the best device, in the precision that training has there; tried on a small input.

    Returns
    -------
    list
        For each: ``name``, ``device``, ``dtype``, ``runs``, and ``problem`` (why it does not run; None where it does).
    """
    import torch

    on_gpu = torch.cuda.is_available()
    dtype = torch.bfloat16 if on_gpu else torch.float32
    q = torch.randn(1, 2, 128, 64, device="cuda" if on_gpu else "cpu", dtype=dtype)
    right = _eager(q.float())
    rows = []
    for name, run in KERNELS.items():
        problem = None
        try:
            gap = (run(q).float() - right).abs().max().item()
            if not gap < 0.05:
                problem = f"it differs from attention written out, by {gap:.2g}"
        except Exception as error:
            problem = " ".join(str(error).split())[:300] or type(error).__name__
        rows.append(
            {
                "name": name,
                "device": q.device.type,
                "dtype": str(dtype).removeprefix("torch."),
                "runs": problem is None,
                "problem": problem,
            }
        )
    return rows


# --- places -------------------------------------------------------------------------------------------------------------


def cache(folder: Path | None = None) -> dict[str, Any]:
    """The cache folder: whether it can be written, the room that is left (bytes), and number and size of what it holds, by kind."""
    root = folder or cache_root()
    there = next(p for p in (root, *root.absolute().parents) if p.exists())
    kinds = {}
    for kind in sorted(p for p in root.iterdir() if p.is_dir()) if root.is_dir() else []:
        files = [f for f in kind.rglob("*") if f.is_file() and not f.is_symlink()]
        kinds[kind.name] = {"entries": len(list(kind.glob("*/key.json"))), "bytes": sum(f.stat().st_size for f in files)}
    return {"folder": str(root), "writable": os.access(there, os.W_OK), "free": shutil.disk_usage(there).free, "kinds": kinds}


def configuration() -> list[dict[str, Any]]:
    """The folders that configuration is read from, the package's first, and whether each is there."""
    return [{"folder": str(folder), "exists": folder.is_dir()} for folder in config_folders()]


def variables() -> list[dict[str, Any]]:
    """Environment variables of bmfm: value (None where it is not set) and meaning (None for one that bmfm does not know)."""
    names = [*VARIABLES, *sorted(n for n in os.environ if n.startswith("BMFM_") and n not in VARIABLES)]
    return [{"name": name, "value": os.environ.get(name), "meaning": VARIABLES.get(name)} for name in names]


# --- the report ---------------------------------------------------------------------------------------------------------


def examine() -> dict[str, Any]:
    """All facts; where torch cannot be imported, ``torch`` says why, and there are no devices and no kernels."""
    rows = packages()
    facts: dict[str, Any] = {
        "bmfm": __version__,
        "where": str(Path(__file__).parent),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": rows,
        "remedies": remedies(rows),
        "torch": None,
        "devices": [],
        "kernels": [],
        "configuration": configuration(),
        "cache": cache(),
        "variables": variables(),
    }
    try:
        import torch
    except Exception as error:  # a broken installation is what this command is for
        return facts | {"torch": f"cannot be imported: {error}"}
    cuda = torch.version.cuda or torch.version.hip
    return facts | {"torch": f"{torch.__version__}, {cuda or 'CPU build'}", "devices": devices(), "kernels": kernels()}


def _size(n: int | None) -> str:
    return "" if n is None else f"{n / 2**30:,.1f} GiB" if n >= 2**27 else f"{n / 2**20:,.1f} MiB"


def show(facts: dict[str, Any]) -> None:
    """Print the facts as tables; plain text where the output is no terminal."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 140, highlight=False)

    def table(title: str, columns: list[str], rows: list[list[Any]]) -> None:
        console.print(f"[bold]{escape(title)}[/bold]", soft_wrap=True)
        grid = Table(*columns, box=None, pad_edge=False)
        for row in rows:
            grid.add_row(*(escape(str(cell if cell is not None else "")) for cell in row))
        console.print(grid)
        console.print()

    console.print(escape(f"bmfm {facts['bmfm']} at {facts['where']}; Python {facts['python']}; {facts['platform']}"))
    console.print(escape(f"torch {facts['torch']}"), end="\n\n")
    needed = [[r["name"], r["needed"], r["extra"] or "always", r["version"], r["problem"] or "ok"] for r in facts["packages"]]
    table("Packages", ["package", "needed", "for", "installed", ""], needed)
    if not needed:
        console.print("bmfm runs from a folder and is not installed, so what it needs is not known: pip install -e .")
    for extra, command in facts["remedies"].items():
        console.print(f"for {'bmfm itself' if extra == 'bmfm' else f'the extra {extra}'}: {escape(command)}", soft_wrap=True)
    console.print()
    columns = ["device", "", "memory", "free", "compute capability", "bf16"]
    rows = [
        [d["name"], d["model"], _size(d["memory"]), _size(d.get("free")), d["capability"], "yes" if d["bf16"] else "no"]
        for d in facts["devices"]
    ]
    table("Devices", columns, rows)
    rows = [[k["name"], "runs" if k["runs"] else "does not run", f"{k['dtype']} on {k['device']}", k["problem"]] for k in facts["kernels"]]
    table("Attention kernels", ["model.attention=", "", "tried in", "why not"], rows)
    table("Configuration", ["folder", ""], [[c["folder"], "" if c["exists"] else "is not there"] for c in facts["configuration"]])
    stored = facts["cache"]
    rows = [[kind, n["entries"], _size(n["bytes"])] for kind, n in stored["kinds"].items()]
    state = "can be written" if stored["writable"] else "cannot be written: set BMFM_CACHE to a folder that can"
    table(f"Cache: {stored['folder']} ({state}; {_size(stored['free'])} free)", ["kind", "entries", "size"], rows)
    rows = [
        [v["name"], "is not set" if v["value"] is None else v["value"], v["meaning"] or "is not known to bmfm"] for v in facts["variables"]
    ]
    table("Environment", ["variable", "value", "meaning"], rows)


def main() -> None:
    """Print the report; status 1 where something that is always needed is missing."""
    parser = argparse.ArgumentParser(prog="bmfm doctor", description=" ".join(str(__doc__).split("\n\n")[1].split()))
    parser.add_argument("--json", action="store_true", help="print the facts as JSON")
    arguments = parser.parse_args()
    facts = examine()
    if arguments.json:
        print(json.dumps(facts, indent=1))
    else:
        show(facts)
    sys.exit(int("bmfm" in facts["remedies"]))


if __name__ == "__main__":
    main()
