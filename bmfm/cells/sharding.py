"""The command that shuffles many files of cells into a collection, and what it says of them."""

import hashlib
import json
import shutil
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bmfm.cells.collection import Layout, write_collection
from bmfm.cells.formats import find_sources
from bmfm.cells.unified import Union, unite
from bmfm.files import fingerprint
from bmfm.ledger import Ledger
from bmfm.places import is_experiment


def identity(path: Path | str) -> dict[str, Any]:
    """What a file, or a folder with all files in it, is known by: path, size and time of the last change; of an address the address alone."""
    if isinstance(path, str):
        return {"path": path}
    if not path.is_dir():
        return fingerprint(path)
    inside = [p.stat() for p in sorted(path.rglob("*")) if p.is_file()]
    return {
        "path": str(path.resolve()),
        "bytes": sum(s.st_size for s in inside),
        "mtime_ns": max((s.st_mtime_ns for s in inside), default=0),
    }


def run(config: Any) -> None:
    """Run a composed ``bmfm shard_cells``.

    Raises
    ------
    ValueError
        Where an input changed while it was read, or unfinished work on other inputs or with other settings lies beside the output.
    """
    from tqdm.auto import tqdm

    output = Path(config.output).expanduser().absolute()
    found = find_sources(config.path if isinstance(config.path, str) else list(config.path))
    paths = [p if is_experiment(p) else Path(p).expanduser() for p in found]
    layout = Layout(config.cells, config.chunk, config.shard)
    settings = {"counts": config.counts, "gene_column": config.gene_column, "obs": config.obs and list(config.obs), "seed": config.seed}
    identities = [identity(p) for p in paths]
    plan = {"inputs": identities, "settings": settings | {"layout": asdict(layout)}}
    if output.exists() and not config.overwrite:
        raise SystemExit(f"bmfm: {output} exists already; choose another output, or overwrite=true")
    _check_unfinished(output, plan)
    ledger = Ledger.of_plan(output, plan)
    assert isinstance(ledger.folder, Path)
    with ledger.finishing() as is_there:
        if not is_there:
            print(f"another process has written {output} meanwhile")
            return
        with tqdm(total=2 * len(paths), unit="file", desc="looking through files", disable=not config.progress) as bar:
            union = unite(paths, config.counts, config.gene_column, settings["obs"], bar.update)
        print("\n".join(report(union)))
        facts = {"layout": asdict(layout), "settings": settings, "inputs": _inputs(union, identities), "obs": _obs(union)}
        with tqdm(total=2 * union.n_cells, unit="cell", desc="shuffling", disable=not config.progress) as bar:
            finished = write_collection(ledger.folder, union, config.seed, layout, facts, bar.update)
        if changed := [p for p, was in zip(paths, identities, strict=True) if identity(p) != was]:
            raise ValueError(f"{changed[0]} was changed while it was read: nothing is written; remove {ledger.folder} and start again")
        if output.exists():
            shutil.rmtree(output)
        finished.rename(output)
    print(f"{union.n_cells:,} cells of {len(paths)} files written to {output}; train on them with data.path={config.output}")


def _check_unfinished(output: Path, plan: dict[str, Any]) -> None:
    """Refuse to begin beside work for the same output that was not finished and has another plan."""
    for folder in sorted(output.parent.glob(f".{output.name}.*")):
        file = folder / "plan.json"
        if not file.is_file() or (was := json.loads(file.read_text())) == json.loads(json.dumps(plan)):
            continue
        changed = [a["path"] for a, b in zip(was["inputs"], plan["inputs"], strict=False) if a != b]
        why = f"{changed[0]} changed since" if changed else "its files or settings are others"
        raise ValueError(
            f"{folder} holds unfinished work for {output}, and {why}: remove that folder to begin anew, or undo the change to go on"
        )


def report(union: Union) -> Iterable[str]:
    """What is in the files, and what becomes of what they have not in common."""
    n = len(union.files)
    yield f"{n} files, {union.n_cells:,} cells, {len(union.genes):,} genes ({len(union.panels)} distinct sets of genes)"
    for file in union.files:
        n_genes = len(union.panels[file.panel])
        said = [f"{file.n_cells:,} cells, counts from {file.key}, {n_genes:,} genes"]
        said += [f"{file.n_known:,} of them in files before it"] if file is not union.files[0] else []
        said += [f"{file.n_other:,} features left out that are no genes"] if file.n_other else []
        said += [f"{file.n_shared:,} columns added to others of the same gene"] if file.n_shared else []
        yield f"{file.name}: {', '.join(said)}"
        if file is not union.files[0] and file.n_known < n_genes / 2:
            yield f"  most genes of {file.name} are in no file before it: are they named in another way (gene_column)?"
    if len({f.key for f in union.files}) > 1:
        yield "counts are read from different matrices of the files; counts=X (or raw, layers/NAME) asks for one of all"
    for column in union.obs.values():
        if column.is_mixed:
            yield f".obs {column.name}: of different types in the files, kept as text"
        if column.n_files < n:
            yield f".obs {column.name}: {column.n_missing:,} cells without a value; {n - column.n_files} files lack the column"
    for name, count in union.n_differing.items():
        yield f".var {name}: {count:,} times a file says something else of a gene than a file before it; the first is kept"


def _inputs(union: Union, identities: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the manifest says of each file; the digest is that of its names of genes."""
    names = list(union.genes)
    digests = [hashlib.sha256("\n".join(names[g] for g in genes).encode()).hexdigest()[:16] for genes in union.panels]
    return [
        {"name": name, "cells": f.n_cells, "counts": f.key, "genes": digests[f.panel], "features_left_out": f.n_other, **who}
        for name, f, who in zip(union.file_names, union.files, identities, strict=True)
    ]


def _obs(union: Union) -> dict[str, Any]:
    return {c.name: {"kind": c.kind, "missing": c.n_missing, "files": c.n_files} for c in union.obs.values()}
