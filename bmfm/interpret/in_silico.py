"""Genes deleted, set or scaled in silico: how far that moves what a model makes of a cell.

Deleting one gene of hundreds hardly moves an embedding, and genes that are expressed more move it more. So a gene is judged beside genes of like
expression: ``z`` and ``p`` by the means of the nearest (`perturbation.screen.matched`), ``rank_p`` by a rank-sum test of its shifts in single cells against
those of random genes of the same tenth of the expression, as Geneformer's analysis does (Theodoris et al., Nature 2023). What is ranked is what
the model makes of its input; whether cells would do the same has to be measured.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import false_discovery_control, ranksums

from bmfm.inference.predictor import Predictor
from bmfm.inference.run_parts import check_finite, run_parts, work_on
from bmfm.interpret.cells import ChosenCells, cell_tokenizer, choose_cells, gene_id
from bmfm.interpret.edit_run import EditRun
from bmfm.interpret.edits import Edit, shown_genes
from bmfm.interpret.options import InSilicoOptions, known_options
from bmfm.interpret.shifts import Shifts, make_shifts
from bmfm.perturbation.screen import LEAST_MATCHED, matched, nearest_in_expression
from bmfm.tokenizers.base import Tokenizer

N_BINS, N_NULL = 10, 2000
"""Bins of expression, and shifts of random genes that are drawn of each."""


def perturb_in_silico(
    predictor: Predictor,
    data: Any,
    genes: str | Sequence[str] = "all",
    kind: str = "delete",
    readout: str = "embedding",
    goal: dict[str, str] | None = None,
    **options: Any,
) -> Any:
    """What edits of genes do to what a model makes of cells, one row an edit, the largest first.

    Parameters
    ----------
    data
        An AnnData or its path.
    genes
        ``all`` that at least `min_cells` cells show; or names, of which those joined by ``+`` are edited together, as ``KLF1+MAP2K6``.
    kind
        ``delete``, ``set=VALUE`` or ``scale=FACTOR``, see `edits.Edit`. Deleted and scaled are genes in the cells that show them (of several, one at
        least); set they are in all cells.
    readout
        ``embedding``; ``head:NAME:CLASS`` (change of the class's log-odds), ``head:NAME`` (the same of each cell's own predicted class, or the change of the number of
        a regression), ``head:NAME:GENE``; or ``decoder`` (change of the decoded profile; ``decoder:NAME`` of several).
    goal
        ``{column, start, end}``, of the embedding: an ``.obs`` column and two of its values. Cells of `start` are edited, and the shift is how far
        they move along the straight line to the centroid of `end`.
    options
        Those of `InSilicoOptions`.

    Returns
    -------
    pandas.DataFrame
        ``gene``, ``n_cells`` and ``n_genes`` (edited together), ``expression`` (mean value over the cells), means of the shifts with their standard deviations (``NAME_sd``),
        and of the first of them ``matched_mean``, ``matched_sd``, ``z``, ``p``, ``fdr``, ``rank_p``, ``rank_fdr``. Of several genes together nothing is tested.
        Shifts are, of an embedding, with a goal ``goal_shift`` (the projection on the line, over its length: 1 is all the way)
        and ``goal_cosine`` (change of the cosine to the centroid of `end`), and always ``cosine_shift`` (1 - cosine to the unedited) and
        ``distance``, and, where it is a mean of tokens, ``cosine_shift_others`` and ``distance_others``, the same without the places of the edited genes in either
        mean: what became of all other genes; ``log_odds``, ``value`` or ``profile_distance``; of a decoder ``downstream`` names the genes that move most.
        ``attrs`` say what was read and left out. With ``profiles=True``, a second table [edits, genes] in the same order: mean changes of all genes.

    Raises
    ------
    KeyError, ValueError
        Naming what cannot be used.
    """
    chosen = InSilicoOptions(**known_options(InSilicoOptions, options))
    tokenizer = cell_tokenizer(predictor)
    edit = Edit.parse(kind, tokenizer.n_bins is not None)
    if tokenizer.positions and edit.kind != "delete":
        raise ValueError(f"kind={kind}: this model reads the rank of genes, which a value does not say; choose delete")
    sets = None if isinstance(genes, str) and genes == "all" else _named(predictor, [genes] if isinstance(genes, str) else genes)
    if sets is None and edit.kind == "set" and not edit.is_binned and edit.amount == 0:
        raise ValueError("kind=set=0 of all genes: choose delete, or name genes")
    room = max(map(len, sets)) if sets and edit.kind == "set" else 1 if edit.kind == "set" else 0
    shifts = make_shifts(predictor, data, readout, goal, chosen, room)
    cells = choose_cells(predictor, data, chosen, shifts.rows, room)
    expression, n_shown = _expression(cells, len(tokenizer))
    compared = _compared(sets, expression, n_shown, chosen)
    edited = np.full((len(compared), max(map(len, compared))), -1)
    for i, ids in enumerate(compared):
        edited[i, : len(ids)] = ids
    run = EditRun(predictor, cells.inputs, edited, edit, shifts, chosen)
    if chosen.ledger is not None and chosen.ledger.is_worker:
        return work_on(run.parts(), chosen.ledger)
    found = _run(run, _genes_of(tokenizer))
    return _table(predictor, cells, compared, sets, expression, found, shifts, chosen)


def _named(predictor: Predictor, genes: Sequence[str]) -> list[tuple[int, ...]]:
    """Ids of the genes that are edited together, of each name."""
    if not len(genes):
        raise ValueError("genes is empty: name at least one, or give all")
    return [tuple(dict.fromkeys(gene_id(predictor, name.strip()) for name in str(names).split("+"))) for names in genes]


def _expression(cells: ChosenCells, n_genes: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean value of each gene [V] over the cells, 0 where one does not show it; and how many show it above 0."""
    sums, n = np.zeros(n_genes), np.zeros(n_genes, np.int64)
    for _, tokens in cells.inputs.chunks():
        _, gene, value = shown_genes(tokens)
        sums += np.bincount(gene, value, n_genes)
        n += np.bincount(gene[value > 0], minlength=n_genes)
    return sums / cells.inputs.n_rows, n


def _compared(
    sets: list[tuple[int, ...]] | None, expression: np.ndarray, n_shown: np.ndarray, options: InSilicoOptions
) -> list[tuple[int, ...]]:
    """All sets of genes that are edited: those that are asked for, each once, and single genes that these are compared with."""
    enough = np.flatnonzero(n_shown >= options.min_cells)
    if sets is None:
        if not len(enough):
            raise ValueError(f"no gene is shown by {options.min_cells} cells (min_cells)")
        return [(int(i),) for i in enough]
    single = {s[0] for s in sets if len(s) == 1}
    ids = np.union1d(enough, np.array(sorted(single), np.int64)).astype(np.int64)
    nearest = nearest_in_expression(ids, expression[ids], single, options.n_matched) if single else np.empty(0, np.int64)
    return list(dict.fromkeys([*sets, *((int(i),) for i in nearest)]))


@dataclass
class _Sums:
    """Shifts of S edits, added up.

    Attributes
    ----------
    edit, shift
        [P] number of the edit and [P] the first shift, of every pair of an edit and a cell.
    n, total, squares
        [S], [S, K] and [S, K] of all K shifts.
    downstream
        [S] names of the genes that a decoder says are moved most, and their mean changes; None of other readouts.
    profile
        [S, genes] mean changes of decoded profiles; None where they are not asked for.
    """

    edit: np.ndarray
    shift: np.ndarray
    n: np.ndarray
    total: np.ndarray
    squares: np.ndarray
    downstream: list[str] | None = None
    profile: np.ndarray | None = None


def _genes_of(tokenizer: Tokenizer) -> Sequence[str]:
    """Names of the genes, without special tokens."""
    return tokenizer.names[slice(*tokenizer.plain_ids)]


def _run(run: EditRun, names: Sequence[str]) -> _Sums:
    """Shifts of every edit in every cell that it changes, added up part by part."""
    n, k, has_profile = len(run.genes), len(run.shifts.names), run.shifts.has_profile
    sums = _Sums(np.empty(0, np.int32), np.empty(0, np.float32), np.zeros(n, np.int64), np.zeros((n, k)), np.zeros((n, k)))
    edit, shift, downstream, profile = [], [], [], []
    work = (n, "edit") if has_profile else (run.inputs.n_rows, "cell")
    for part in run_parts(run.parts(), run.options.ledger, *work, run.options.progress):
        edit.append(part["edit"])
        shift.append(part["values"][:, 0].astype(np.float32))
        np.add.at(sums.n, part["edit"], 1)
        np.add.at(sums.total, part["edit"], part["values"])
        np.add.at(sums.squares, part["edit"], part["values"] ** 2)
        if has_profile:
            for moved, changes in zip(part["moved"].tolist(), part["moved_by"].tolist(), strict=True):
                downstream.append(", ".join(f"{names[i]} {change:+.3g}" for i, change in zip(moved, changes, strict=True) if change))
            profile += [part["profile"]] if run.options.profiles else []
    sums.edit, sums.shift = np.concatenate(edit), np.concatenate(shift)
    sums.downstream = downstream if has_profile else None
    sums.profile = np.concatenate(profile) if profile else None
    return sums


def _table(
    predictor: Predictor,
    cells: ChosenCells,
    compared: list[tuple[int, ...]],
    sets: list[tuple[int, ...]] | None,
    expression: np.ndarray,
    sums: _Sums,
    shifts: Shifts,
    options: InSilicoOptions,
) -> Any:
    """One row an edit that was asked for."""
    names = predictor.tokenizer.names
    table = pd.DataFrame(
        {"gene": ["+".join(names[i] for i in s) for s in compared], "n_genes": [len(s) for s in compared], "n_cells": sums.n}
    )
    table["expression"] = [float(expression[list(s)].mean()) for s in compared]
    n = np.maximum(sums.n, 1)[:, None]
    mean = np.where(sums.n[:, None] > 0, sums.total / n, 0.0)
    spread = np.sqrt(np.maximum(sums.squares / n - mean**2, 0) * n / np.maximum(n - 1, 1))
    for k, name in enumerate(shifts.names):
        table[name], table[f"{name}_sd"] = mean[:, k], np.where(sums.n > 1, spread[:, k], np.nan)
    single = np.flatnonzero((table["n_genes"] == 1) & (sums.n > 0))
    tests = ("matched_mean", "matched_sd", "z", "p", "fdr", "rank_p", "rank_fdr")
    table = table.assign(**dict.fromkeys(tests, np.nan))
    if 0 < len(single) <= LEAST_MATCHED:
        warnings.warn(
            f"only {len(single)} single genes are edited in at least one cell: too few of like expression to compare with; lower min_cells or give more cells",
            stacklevel=4,
        )
    if len(single) > 3:
        of_single = table["expression"].to_numpy()[single]
        results = matched(mean[single, 0], of_single, min(options.n_matched, len(single) - 1))
        results["rank_p"] = rank_sum(sums.edit, sums.shift, single, of_single, options.seed)
        for name, values in results.items():
            table.loc[single, name] = values
    profiles = None if sums.profile is None else pd.DataFrame(sums.profile, table["gene"].to_numpy(), _genes_of(predictor.tokenizer))
    if sums.downstream is not None:
        table["downstream"] = sums.downstream
    if sets is not None:
        place = {s: i for i, s in enumerate(compared)}
        table = table.iloc[list(dict.fromkeys(place[s] for s in sets))]
    for p, fdr in (("p", "fdr"), ("rank_p", "rank_fdr")):
        tested = table[p].notna()
        if tested.any():
            table.loc[tested, fdr] = false_discovery_control(table.loc[tested, p])
    check_finite(table[shifts.names[0]].to_numpy(), "shifts by edits", table["gene"].to_numpy())
    by = table["z"] if table["z"].notna().all() else table[shifts.names[0]]
    table = table.loc[by.abs().sort_values(ascending=False, kind="stable").index]
    asked = table.index
    table = table.reset_index(drop=True)
    table.attrs |= {
        "readout": shifts.words, "n_cells": cells.inputs.n_rows, "n_genes_compared": len(compared), "n_genes_the_model_does_not_know": cells.n_unknown,
        "n_empty_cells": 0 if cells.inputs.empty is None else int(cells.inputs.empty.sum()),
    }  # fmt: skip
    return table if profiles is None else (table, profiles.iloc[asked])


def rank_sum(edit: np.ndarray, shift: np.ndarray, single: np.ndarray, expression: np.ndarray, seed: int) -> np.ndarray:
    """P of a rank-sum test of the shifts of single genes against those of random others of the same bin of expression.

    Parameters
    ----------
    edit, shift
        [P] number of the edit and its shift in a cell.
    single, expression
        [m] numbers of the edits that are tested, and how the gene of each is expressed.
    """
    order = np.argsort(edit, kind="stable")
    edit, shift = edit[order], shift[order]
    first = np.searchsorted(edit, [single, single + 1])
    rank = np.argsort(np.argsort(expression, kind="stable"), kind="stable")
    bins = rank * N_BINS // len(single)
    p, rng = np.full(len(single), np.nan), np.random.default_rng(seed)
    for b in np.unique(bins):
        members = np.flatnonzero(bins == b)
        places = np.concatenate([np.arange(*first[:, i]) for i in members])
        drawn = rng.choice(places, min(N_NULL, len(places)), replace=False)
        for i in members:
            null = shift[drawn[edit[drawn] != single[i]]]
            own = shift[slice(*first[:, i])]
            if len(own) > 1 and len(null) > 1:
                p[i] = ranksums(own, null).pvalue
    return p
