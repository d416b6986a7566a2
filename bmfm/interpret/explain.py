"""Which genes a model's output comes from, cell by cell, in an AnnData.

The unit of an attribution is that of what is explained: logits of a class, the number of a regression, the value of a decoded gene. It is never
normalised, so that those of a cell add up to what distinguishes the cell from the baseline.
"""

import warnings
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from bmfm.inference.predictor import Predictor
from bmfm.inference.run_parts import Part, check_finite, join, run_parts, work_on
from bmfm.interpret.attributions import TOLERANCE, attribute
from bmfm.interpret.baselines import cell_baseline, check_reads_values, of_summary
from bmfm.interpret.cells import ChosenCells, cell_tokenizer, choose_cells
from bmfm.interpret.edits import Edit, cells_at_a_time, edited_inputs, shown_genes
from bmfm.interpret.options import ExplainOptions, known_options
from bmfm.interpret.tables import group_tables
from bmfm.interpret.targets import Target, read_target
from bmfm.tokenizers.base import Tokens
from bmfm.tokenizers.batch import Batch

OCCLUDED = 32
"""Cells of a part, of occlusion."""


class Found(NamedTuple):
    """What was found of the cells of a run, in any order.

    Attributes
    ----------
    row, gene, value
        [nnz] cell, gene of the model and attribution; entries of the same place add up.
    cells
        {name: [n, ...]} for each cell: its number ``row``, the target's numbers ``values``, which ``column`` is explained, ``delta``, ``difference`` and ``n_steps``.
    """

    row: np.ndarray
    gene: np.ndarray
    value: np.ndarray
    cells: dict[str, np.ndarray]


def explain(predictor: Predictor, data: Any, target: str, **options: Any) -> Any:
    """Attributions of the genes of cells.

    Parameters
    ----------
    data
        An AnnData or its path.
    target
        See `targets.read_target`.
    options
        Those of `options.ExplainOptions`.

    Returns
    -------
    anndata.AnnData
        The explained cells, a copy, with KEY = method and target, as ``ig_cell_type``: ``layers[KEY]`` sparse [cells, genes], 0 where the model was not
        shown the gene, and ``layers["KEY_seen"]``, 1 where it was; ``obs["KEY_delta"]``, how far a cell's attributions are from adding up, ``obs["KEY_difference"]``,
        what they should add up to, and ``obs["KEY_class"]``, the class that is explained; ``varm["KEY_mean"]``, means of the groups; ``uns[KEY]``: the ``table`` (see `tables.group_tables`), the groups (``classes``, in the order of
        these columns, whose names have no slash) and how it was made. Cells that show no gene the model knows are NaN in ``obs``, and in no group.

    Raises
    ------
    KeyError, ValueError
        Naming what cannot be used.
    """
    chosen = ExplainOptions(**known_options(ExplainOptions, options))
    of = read_target(predictor, target, chosen.contrast)
    if chosen.method == "occlusion" and chosen.baseline == "zero_value":
        check_reads_values(predictor)
    rows = None if chosen.classes is None else _of_classes(predictor, data, of, chosen)
    cells = choose_cells(predictor, data, chosen, rows)
    if chosen.groupby is not None and chosen.groupby not in cells.adata.obs:
        raise KeyError(
            f"there is no .obs column {chosen.groupby!r} (groupby); there are {', '.join(map(str, cells.adata.obs.columns)) or 'none'}"
        )
    parts = parts_of(predictor, cells, of, chosen)
    if chosen.ledger is not None and chosen.ledger.is_worker:
        return work_on(parts, chosen.ledger)
    every = join(run_parts(parts, chosen.ledger, cells.inputs.n_rows, "cell", chosen.progress))
    of_cells = {name.removeprefix("cells_"): x for name, x in every.items() if name.startswith("cells_")}
    found = Found(every["row"], every["gene"], every["value"], of_cells)
    return _written(predictor, cells, of, chosen, found)


def _of_classes(predictor: Predictor, data: Any, target: Target, options: ExplainOptions) -> np.ndarray:
    """Numbers of the cells that are predicted to be of the chosen classes."""
    chosen = list(options.classes or ())
    if absent := [name for name in chosen if name not in target.classes] or (not chosen and ["(none)"]):
        raise ValueError(f"classes={', '.join(map(str, absent))}: the classes of {target.name} are {', '.join(target.classes)}")
    everything = ExplainOptions(**{**vars(options), "max_cells": None})
    inputs = choose_cells(predictor, data, everything).inputs
    predicted = np.full(inputs.n_rows, -1)
    for rows, batch in predictor.batches(inputs, options.batch_size):
        predicted[rows] = target.values(predictor.forward(batch, precision=options.precision)).argmax(1).cpu().numpy()
    if inputs.empty is not None:
        predicted[inputs.empty] = -1
    rows = np.flatnonzero(np.isin(predicted, [target.classes.index(name) for name in chosen]))
    if not len(rows):
        raise ValueError(f"no cell is predicted to be {' or '.join(chosen)} (classes)")
    return rows


def parts_of(predictor: Predictor, cells: ChosenCells, target: Target, options: ExplainOptions) -> Iterator[Part]:
    """The run in parts of some cells each, see `_explain_batch`."""
    if options.method == "occlusion":
        for number, (start, tokens) in enumerate(cells_at_a_time(cells.inputs, OCCLUDED)):
            yield Part(number, len(tokens), partial(_occlude, predictor, start, tokens, target, options))
        return
    means = _mean_values(cells, len(predictor.tokenizer)) if options.baseline == "mean_cell" else None
    for number, (rows, batch) in enumerate(predictor.batches(cells.inputs, options.batch_size)):
        yield Part(number, len(rows), partial(_explain_batch, predictor, rows, batch, target, options, means))


def _explain_batch(
    predictor: Predictor, rows: np.ndarray, batch: Batch, target: Target, options: ExplainOptions, means: np.ndarray | None
) -> dict[str, np.ndarray]:
    """What is found of a batch of cells by gradients: the fields of `Found`, those of cells as ``cells_NAME``."""
    baseline = cell_baseline(predictor, batch, options.baseline, means)
    found = attribute(predictor, batch, target, baseline.embeddings, options.method, options.n_steps, options.batch_size, options.precision)
    content, width = batch["content_index"], batch["input_ids"].shape[1]
    row, gene, value = content // width, batch["input_ids"].flatten()[content], found.tokens.flatten()[content]
    if baseline.profile is not None:
        shown = batch["shown_profile"]
        value = torch.cat([value, of_summary(predictor, batch, baseline, found)])
        row, gene = torch.cat([row, shown["row"]]), torch.cat([gene, shown["gene"]])
    numbers = {
        "values": found.values, "column": found.columns, "delta": found.delta, "difference": found.end - found.start, "n_steps": found.n_steps,
    }  # fmt: skip
    part = {"row": rows[row.cpu().numpy()], "gene": gene.cpu().numpy(), "value": value.float().cpu().numpy(), "cells_row": rows}
    return part | {f"cells_{name}": x.cpu().numpy() for name, x in numbers.items()}


def _occlude(predictor: Predictor, start: int, tokens: Tokens, target: Target, options: ExplainOptions) -> dict[str, np.ndarray]:
    """What the number of some cells loses without each gene; as `_explain_batch`. Effects of single genes need not add up."""
    edit = Edit("delete") if options.baseline == "absent" else Edit("set", 0.0)
    n = len(tokens)
    values = _run_targets(predictor, edited_inputs(tokens, np.arange(n), np.full((n, 1), -1), edit), target, options)
    columns = target.columns(torch.from_numpy(values)).numpy()
    row, gene, _ = shown_genes(tokens)
    edited = _run_targets(predictor, edited_inputs(tokens, row, gene[:, None], edit), target, options)
    nan = np.full(n, np.nan, np.float32)
    return {
        "row": start + row, "gene": gene, "value": values[row, columns[row]] - edited[np.arange(len(row)), columns[row]],
        "cells_row": start + np.arange(n), "cells_values": values, "cells_column": columns, "cells_delta": nan, "cells_difference": nan,
        "cells_n_steps": np.bincount(row, minlength=n),
    }  # fmt: skip


def _run_targets(predictor: Predictor, inputs: Any, target: Target, options: Any) -> np.ndarray:
    """All numbers of a target [n, K], float32."""
    values = np.empty((inputs.n_rows, len(target.classes)), np.float32)
    with torch.inference_mode():
        for rows, batch in predictor.batches(inputs, options.batch_size):
            values[rows] = target.values(predictor.forward(batch, precision=options.precision)).cpu().numpy()
    return values


def _mean_values(cells: ChosenCells, n_genes: int) -> np.ndarray:
    """Mean value of each gene [V] over the cells, 0 where one does not show it."""
    sums = np.zeros(n_genes)
    for _, tokens in cells.inputs.chunks():
        _, gene, value = shown_genes(tokens)
        sums += np.bincount(gene, value, n_genes)
    return sums / cells.inputs.n_rows


def _written(predictor: Predictor, cells: ChosenCells, target: Target, options: ExplainOptions, found: Found) -> Any:
    """The AnnData with what was found."""
    adata, key = cells.adata, key_of(target.name, options.method)
    sums = np.bincount(found.row, found.value, adata.n_obs)
    check_finite(sums + found.cells["values"][np.argsort(found.cells["row"])].sum(1), "attributions of cells", adata.obs_names)
    values = cells.matrix(found.row, found.gene, found.value).astype(np.float32)
    seen = cells.matrix(found.row, found.gene, np.ones(len(found.row), np.float32))
    seen.data[:] = 1
    outside = np.unique(found.gene[cells.column_of[found.gene] < 0])
    order = np.argsort(found.cells["row"])
    numbers = {name: x[order] for name, x in found.cells.items()}
    empty = np.zeros(adata.n_obs, bool) if cells.inputs.empty is None else cells.inputs.empty
    adata.layers[key], adata.layers[f"{key}_seen"] = values, seen.astype(np.int8)
    for name in ("delta", "difference"):
        adata.obs[f"{key}_{name}"] = np.where(empty, np.nan, numbers[name].astype(np.float64))
    predicted = [target.classes[i] for i in numbers["values"].argmax(1)]
    explained = [None if e else target.classes[i] for i, e in zip(numbers["column"], empty, strict=True)]
    adata.obs[f"{key}_class"] = pd.Categorical(explained)
    of = predicted if options.groupby is None else [None if pd.isna(g) else str(g) for g in adata.obs[options.groupby]]
    groups = [None if e else g for g, e in zip(of, empty, strict=True)]
    means, table = group_tables(values, seen, groups, adata.var_names, options.alpha, options.top)
    adata.varm[f"{key}_mean"] = means.set_axis(_columns(list(means)), axis=1)
    n_incomplete = int((numbers["delta"] > TOLERANCE * np.abs(numbers["difference"]) + 1e-5).sum()) if options.method == "ig" else 0
    tokenizer = cell_tokenizer(predictor)
    adata.uns[key] = {
        "table": table, "classes": list(means), "target": target.name, "method": options.method, "baseline": options.baseline, "contrast": target.contrast, "n_steps": options.n_steps,
        "unit": target.unit, "values": str(tokenizer.values["kind"]),
        "n_cells": adata.n_obs, "n_empty_cells": int(empty.sum()), "n_incomplete_cells": n_incomplete, "n_doubled_cells": int((numbers["n_steps"] > options.n_steps).sum()) if options.method == "ig" else 0,
        "n_genes_the_model_does_not_know": cells.n_unknown, "n_genes_that_share_a_gene_with_one_before": cells.n_shared,
        "n_genes_shown_that_var_lacks": len(outside), "n_genes_never_shown": int((np.asarray(seen.sum(0)).ravel() == 0).sum()) - cells.n_unknown - cells.n_shared,
    }  # fmt: skip
    if n_incomplete:
        warnings.warn(
            f"attributions of {n_incomplete:,} of {adata.n_obs:,} cells miss what they should add up to by more than {TOLERANCE:.0%} with {2 * options.n_steps} steps "
            f"(.obs[{key + '_delta'!r}]): give more n_steps",
            stacklevel=3,
        )
    return adata


def key_of(target: str, method: str) -> str:
    """Under which results stand in an AnnData, whose keys have no slash."""
    return without_slash(f"{method}_{target.partition(':')[2]}")


def _columns(classes: list[str]) -> list[str]:
    """Names of columns of these classes, each another."""
    columns: list[str] = []
    for name in map(without_slash, classes):
        while name in columns:
            name += "_"
        columns.append(name)
    return columns


def without_slash(name: str) -> str:
    """A name as files of AnnData can have it."""
    return name.replace("/", "_")
