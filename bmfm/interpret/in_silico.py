"""Genes deleted, set or scaled in silico: how far that moves what a model makes of a cell.

Deleting one gene of hundreds hardly moves an embedding, and genes that are expressed more move it more. So a gene is judged beside genes of like
expression: ``z`` and ``p`` by the means of the nearest (`perturbation.screen.matched`), ``rank_p`` by a rank-sum test of its shifts in single cells against
those of random genes of the same tenth of the expression, as Geneformer's analysis does (Theodoris et al., Nature 2023). What is ranked is what
the model makes of its input; whether cells would do the same has to be measured.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.stats import false_discovery_control, ranksums
from tqdm.auto import tqdm

from bmfm.inference.predictor import Predictor
from bmfm.interpret.cells import ChosenCells, cell_tokenizer, choose_cells, gene_id
from bmfm.interpret.edits import Edit, edited_inputs, shown_genes
from bmfm.interpret.options import CellOptions, known_options
from bmfm.interpret.parts import read_part, write_part
from bmfm.interpret.shifts import Shifts, make_shifts
from bmfm.perturbation.screen import LEAST_MATCHED, matched, nearest_in_expression
from bmfm.tokenizers.base import Tokens

N_BINS, N_NULL = 10, 2000
"""Bins of expression, and shifts of random genes that are drawn of each."""
PAIRS = 1 << 16
"""Pairs of a cell and an edit whose shifts are computed before they are added up."""


@dataclass(frozen=True)
class InSilicoOptions(CellOptions):
    """How genes are edited.

    Attributes
    ----------
    min_cells
        Cells, at least, that must show a gene for it to be edited; genes that are asked for by name are edited in any case.
    n_matched
        Genes of like expression that each is compared with.
    n_downstream
        Of a decoder, genes that are named as moved most by each edit.
    profiles
        Of a decoder, return the mean changes of all genes, too.
    parts
        Folder of finished pieces, which the next run with the same options uses again; not of decoders, whose profiles are many.
    """

    min_cells: int = 10
    n_matched: int = 50
    n_downstream: int = 10
    profiles: bool = False
    parts: Path | None = None


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
        ``distance``; ``log_odds``, ``value`` or ``profile_distance``; of a decoder ``downstream`` names the genes that move most.
        ``attrs`` say what was read and left out. With ``profiles=True``, a second table [edits, V] in the same order: mean changes of all genes.

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
    found = _run(predictor, cells, compared, edit, shifts, chosen)
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
    profile
        [S, V] sums of the changes of decoded profiles; None of other readouts.
    """

    edit: list[np.ndarray]
    shift: list[np.ndarray]
    n: np.ndarray
    total: np.ndarray
    squares: np.ndarray
    profile: np.ndarray | None


def _run(
    predictor: Predictor, cells: ChosenCells, sets: list[tuple[int, ...]], edit: Edit, shifts: Shifts, options: InSilicoOptions
) -> _Sums:
    """Shifts of every edit in every cell that it changes."""
    k, width = len(shifts.names), max(map(len, sets))
    genes = np.full((len(sets), width), -1)
    for i, ids in enumerate(sets):
        genes[i, : len(ids)] = ids
    profile = np.zeros((len(sets), shifts.n_outputs), np.float32) if shifts.has_profile else None
    sums = _Sums([], [], np.zeros(len(sets), np.int64), np.zeros((len(sets), k)), np.zeros((len(sets), k)), profile)
    number = 0
    with tqdm(total=cells.inputs.n_rows, unit="cell", disable=options.progress is False, delay=0 if options.progress else 3) as bar:
        for _, tokens in cells.inputs.chunks():
            # so few cells at a time that the pairs of a piece are bounded, whatever the number of genes
            size = max(1, PAIRS // len(sets))
            for first in range(0, len(tokens), size):
                some = tokens.take(np.arange(first, min(first + size, len(tokens))))
                parts = None if sums.profile is not None else options.parts
                piece = read_part(parts, number)
                if piece is None:
                    piece = _shifts_of(predictor, some, genes, edit, shifts, options, sums.profile)
                    write_part(parts, number, piece)
                _add(piece, sums)
                number += 1
                bar.update(len(some))
    return sums


def _shifts_of(
    predictor: Predictor,
    tokens: Tokens,
    genes: np.ndarray,
    edit: Edit,
    shifts: Shifts,
    options: InSilicoOptions,
    profile: np.ndarray | None,
) -> dict[str, np.ndarray]:
    """Number of the edit [P] and shifts [P, K] of all edits of some cells; changes of decoded profiles are added to the sums at once."""
    cell, number = _pairs(tokens, genes, edit)
    values = np.empty((len(cell), len(shifts.names)))
    if len(cell):
        none = np.full((len(tokens), 1), -1)
        unedited = _outputs(predictor, edited_inputs(tokens, np.arange(len(tokens)), none, Edit("delete")), shifts, options)
        for rows, batch in predictor.batches(edited_inputs(tokens, cell, genes[number], edit), options.batch_size):
            with torch.inference_mode():
                outputs = shifts.outputs(predictor.forward(batch, precision=options.precision))
                before = unedited[torch.from_numpy(cell[rows]).to(outputs.device)]
                values[rows] = shifts(before, outputs).double().cpu().numpy()
            if profile is not None:
                np.add.at(profile, number[rows], (outputs - before).float().cpu().numpy())
    return {"edit": number.astype(np.int32), "values": values}


def _add(piece: dict[str, np.ndarray], sums: _Sums) -> None:
    """Add what was found of some cells."""
    edit, values = piece["edit"], piece["values"]
    sums.edit.append(edit)
    sums.shift.append(values[:, 0].astype(np.float32))
    np.add.at(sums.n, edit, 1)
    np.add.at(sums.total, edit, values)
    np.add.at(sums.squares, edit, values**2)


def _outputs(predictor: Predictor, inputs: Any, shifts: Shifts, options: InSilicoOptions) -> torch.Tensor:
    """What shifts are measured of, for every example [n, ...]."""
    pieces, order = [], []
    with torch.inference_mode():
        for rows, batch in predictor.batches(inputs, options.batch_size):
            pieces.append(shifts.outputs(predictor.forward(batch, precision=options.precision)))
            order.append(rows)
    every = torch.cat(pieces)
    return every[torch.from_numpy(np.argsort(np.concatenate(order))).to(every.device)]


def _pairs(tokens: Tokens, genes: np.ndarray, edit: Edit) -> tuple[np.ndarray, np.ndarray]:
    """Cell and number of the edit, of all that change anything: where values are set every cell that shows some gene, else those that show one of these."""
    row, gene, _ = shown_genes(tokens)
    if edit.kind == "set":
        cells = np.unique(row)
        return np.repeat(cells, len(genes)), np.tile(np.arange(len(genes)), len(cells))
    edit_of, of_gene = np.nonzero(genes >= 0)[0], genes[genes >= 0]
    order = np.argsort(of_gene, kind="stable")
    first, end = (np.searchsorted(of_gene[order], gene, side) for side in ("left", "right"))
    cell = np.repeat(row, end - first)
    place = np.arange(len(cell)) - np.repeat(np.cumsum(end - first) - (end - first), end - first) + np.repeat(first, end - first)
    pairs = np.unique(np.stack([cell, edit_of[order][place]], 1), axis=0)
    return pairs[:, 0], pairs[:, 1]


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
        results["rank_p"] = rank_sum(np.concatenate(sums.edit), np.concatenate(sums.shift), single, of_single, options.seed)
        for name, values in results.items():
            table.loc[single, name] = values
    profiles = None if sums.profile is None else pd.DataFrame(sums.profile / n, table["gene"].to_numpy(), list(names))
    if profiles is not None:
        table["downstream"] = _downstream(profiles, options.n_downstream)
    if sets is not None:
        place = {s: i for i, s in enumerate(compared)}
        table = table.iloc[list(dict.fromkeys(place[s] for s in sets))]
    for p, fdr in (("p", "fdr"), ("rank_p", "rank_fdr")):
        tested = table[p].notna()
        if tested.any():
            table.loc[tested, fdr] = false_discovery_control(table.loc[tested, p])
    by = table["z"] if table["z"].notna().all() else table[shifts.names[0]]
    table = table.loc[by.abs().sort_values(ascending=False, kind="stable").index]
    asked = table.index
    table = table.reset_index(drop=True)
    table.attrs |= {
        "readout": shifts.words, "n_cells": cells.inputs.n_rows, "n_genes_compared": len(compared), "n_genes_the_model_does_not_know": cells.n_unknown,
        "n_empty_cells": 0 if cells.inputs.empty is None else int(cells.inputs.empty.sum()),
    }  # fmt: skip
    return (table, profiles.iloc[asked]) if options.profiles and profiles is not None else table


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


def _downstream(profiles: pd.DataFrame, n: int) -> list[str]:
    """Names of the `n` genes whose decoded value moves most by each edit, and their mean changes."""
    change, names = profiles.to_numpy(), profiles.columns
    top = np.argsort(-np.abs(change), 1, kind="stable")[:, :n]
    return [", ".join(f"{names[i]} {change[row, i]:+.3g}" for i in genes) for row, genes in enumerate(top)]
