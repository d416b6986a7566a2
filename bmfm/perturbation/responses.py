"""Predicted responses: control cells and a list of perturbations in, perturbed cells or their mean profiles out.

The model gives the change of every gene for a control cell that is told a perturbation (`objectives.perturbation`). The response of a context is the
mean change over some of its control cells; predicted cells are control cells that are changed (`predicted_cells`). Genes that the model does not know
keep the values of the control.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.sparse import csr_matrix, vstack
from tqdm.auto import tqdm

from bmfm.cells.perturbations import Perturbations, encode_conditions
from bmfm.inference.inputs import Inputs
from bmfm.inference.predictor import Predictor
from bmfm.objectives.perturbation import respond
from bmfm.perturbation.asked import Asked, read_asked
from bmfm.perturbation.controls import Controls, read_controls
from bmfm.perturbation.draws import changed_counts, fold_changes, shifts
from bmfm.perturbation.options import ResponseOptions
from bmfm.tokenizers.base import Tokens
from bmfm.tokenizers.rna import CellTokenizer

CHUNK = 4096
"""Pairs of a perturbation and a control cell that are tokenized at a time."""


@dataclass(frozen=True)
class Change:
    """What a model says of some control cells after one perturbation.

    Attributes
    ----------
    number
        Of the perturbation, among those that were asked about.
    cells
        [m] numbers of the control cells.
    values
        [m, V] float32, the change of every gene of the vocabulary.
    """

    number: int
    cells: np.ndarray
    values: np.ndarray


def response_head(predictor: Predictor) -> str:
    """The head that gives the change of every gene.

    Raises
    ------
    ValueError
        If the model has none.
    """
    for name, head in predictor.model.config.heads.items():
        if (head.get("outputs") or [None])[0] == "change":
            return name
    raise ValueError(
        f"this model was not trained for perturbations (its heads: {', '.join(predictor.model.config.heads) or 'none'}): train one with "
        "bmfm train +recipe=rna_perturbation"
    )


def encode_asked(predictor: Predictor, asked: Asked) -> Perturbations:
    """Conditions in the ids of the model; ValueError, naming them, where it does not know targets."""
    tokenizer = predictor.tokenizer
    assert isinstance(tokenizer, CellTokenizer) and tokenizer.vocabulary is not None
    find = tokenizer.vocabulary.find
    return encode_conditions(asked.conditions, asked.kinds, lambda name: find(name)[0], len(tokenizer), tokenizer.drugs or ())


def known_targets(predictor: Predictor) -> set[str]:
    """Names of the genes and drugs of a model."""
    tokenizer = predictor.tokenizer
    assert isinstance(tokenizer, CellTokenizer)
    first, end = tokenizer.plain_ids
    return {*tokenizer.names[first:end], *(tokenizer.drugs or ())}


def changes(
    predictor: Predictor, controls: Controls, asked: Asked, batch_size: int, precision: str | None = None, progress: bool | None = None
) -> Iterator[Change]:
    """The change of every chosen control cell after each perturbation of its context, one perturbation after the other."""
    head = response_head(predictor)
    description = predictor.model.config.heads[head]
    cls = description.get("cls", 0)
    perturbations = encode_asked(predictor, asked)
    cells = [controls.of(context) for context in asked.context_ids]
    number = np.repeat(np.arange(len(asked)), [len(c) for c in cells])
    cell = np.concatenate(cells)
    inputs = Inputs(
        pd.RangeIndex(len(number)),
        len(number),
        lambda: _pairs(controls.tokens, perturbations, number, cell),
        np.arange(len(number)),
        np.ones(len(number), np.int64),
    )
    first_of = np.searchsorted(number, np.arange(len(asked) + 1))
    held: dict[int, np.ndarray] = {}
    filled = np.zeros(len(asked), np.int64)
    with tqdm(total=len(number), unit="cell", desc="responses", delay=3, disable=progress is False) as bar:
        for rows, batch in predictor.batches(inputs, batch_size):
            out = predictor.forward(batch, precision=precision)
            with torch.no_grad():
                found = respond(predictor.model, head, batch, out.pool(cls), description["outputs"])["change"].cpu().numpy()
            for q in np.unique(number[rows]):
                of_q = number[rows] == q
                into = held.setdefault(q, np.empty((len(cells[q]), found.shape[1]), np.float32))
                into[rows[of_q] - first_of[q]] = found[of_q]
                filled[q] += of_q.sum()
            bar.update(len(rows))
            for q in [q for q in held if filled[q] == len(cells[q])]:
                yield Change(int(q), cells[q], held.pop(q))


def _pairs(tokens: Tokens, perturbations: Perturbations, number: np.ndarray, cell: np.ndarray) -> Iterator[tuple[int, Tokens]]:
    """Tokens of control cells with the perturbation of each pair, some at a time."""
    for start in range(0, len(number), CHUNK):
        some = slice(start, start + CHUNK)
        taken = replace(tokens, full_profile=None).take(cell[some])
        taken.example_fields |= perturbations.take(number[some]).as_fields()
        yield start, taken


def to_genes(change: np.ndarray, controls: Controls) -> np.ndarray:
    """Changes [m, V] of the vocabulary as those of the file's genes [m, G]; 0 where the model does not know the gene."""
    return np.where(controls.gene_ids >= 0, change[:, controls.gene_ids.clip(min=0)], 0.0)


def predict_means(predictor: Predictor, controls: Controls, asked: Asked, options: ResponseOptions) -> np.ndarray:
    """Mean profile [Q, G] after each perturbation: the mean of all controls of the context, and the mean change of the chosen ones."""
    means = controls.means[asked.context_ids].copy()
    for change in changes(predictor, controls, asked, options.batch_size, options.precision, options.progress):
        means[change.number] += to_genes(change.values.mean(0, keepdims=True), controls)[0]
    return means.clip(min=0)


def predict_responses(predictor: Predictor, data: Any, perturbations: Any, **options: Any) -> Any:
    """Perturbed cells, or their mean profiles, as an AnnData.

    Parameters
    ----------
    data
        Control cells, or a whole screen of which the controls are taken (``condition``): an AnnData, or a path.
    perturbations
        Names of conditions (``KLF1``, ``KLF1+MAP2K6``, ``Drug@10uM``), or a table or file with them, see `asked.read_asked`.
    options
        Those of `options.ResponseOptions`.

    Returns
    -------
    anndata.AnnData
        Predicted cells in the genes, and in the order of the genes, of the data, after them control cells as they are. ``.obs`` has ``target_gene`` (the
        condition; ``non-targeting`` of controls), ``condition``, ``context``, ``cell_type`` (the same), ``kind``, and ``control_cell``, the cell that
        each was predicted from. ``.uns["bmfm_perturbation"]`` says how many control cells there were, and which genes were not predicted.

    Raises
    ------
    KeyError, ValueError
        Naming the file and what of it cannot be used, or targets that the model does not know.
    """
    import anndata

    chosen = ResponseOptions(**options)
    head = predictor.model.config.heads[response_head(predictor)]
    controls = read_controls(predictor, data, chosen)
    if chosen.unit == "counts" and controls.counts is None:
        raise ValueError("unit=counts: the cells are normalised, so that it is not known how many molecules they have; choose unit=lognorm")
    asked = read_asked(perturbations, controls.contexts, chosen.kind, known_targets(predictor))
    if chosen.rows == "profiles":
        matrix: Any = csr_matrix(predict_means(predictor, controls, asked, chosen))
        obs = _obs(asked, controls, np.arange(len(asked)), None)
    else:
        found = changes(predictor, controls, asked, chosen.batch_size, chosen.precision, chosen.progress)
        parts = {change.number: (change.cells, predicted_cells(controls, change, chosen.unit, chosen.seed)) for change in found}
        matrix = vstack([parts[q][1] for q in range(len(asked))], "csr")
        number = np.repeat(np.arange(len(asked)), [len(parts[q][0]) for q in range(len(asked))])
        obs = _obs(asked, controls, number, np.concatenate([parts[q][0] for q in range(len(asked))]))
    if chosen.with_controls:
        is_mean = chosen.rows == "profiles"
        of_controls: Any = csr_matrix(controls.means) if is_mean else controls.values if chosen.unit == "lognorm" else controls.counts
        matrix = vstack([matrix, of_controls], "csr")
        obs = pd.concat([obs, _obs_of_controls(controls, is_mean)], ignore_index=True)
    obs = obs.astype("category").set_axis([f"predicted_{i}" for i in range(len(obs))])
    result = anndata.AnnData(matrix.astype(np.float32), obs, controls.var)
    unknown = controls.gene_ids < 0
    result.uns["bmfm_perturbation"] = {
        "unit": chosen.unit,
        "not_perturbed_in_training": sorted({t for c in asked.conditions for t in c.targets} - set(head.get("trained_targets", ()))),
        "control_cells": {c: int(n) for c, n in zip(controls.contexts, controls.n_found, strict=True)},
        "control_cells_used": {c: len(controls.of(i)) for i, c in enumerate(controls.contexts)},
        "genes_as_in_controls": int(unknown.sum()),
    }
    return result


def predicted_cells(controls: Controls, change: Change, unit: str, seed: int) -> csr_matrix:
    """Cells [m, G] after a perturbation, of the control cells that it was predicted for, float32.

    Log-normalised values are those of the controls with each cell's own change, shifted so that their mean changes by the mean change
    although what falls below 0 is cut (`draws.shifts`). Counts keep the noise of counts: those of the controls are thinned, or added to, by the fold
    change of the mean (`draws.changed_counts`), drawn by the seed and the number of the perturbation.
    """
    context = int(controls.context_ids[change.cells[0]])
    of_cells = to_genes(change.values, controls)
    mean = of_cells.mean(0)
    if unit == "lognorm":
        shift = shifts(controls.shift_curves[context], mean)
        return csr_matrix((controls.values[change.cells].toarray() + (of_cells - mean + shift)).clip(min=0).astype(np.float32))
    assert controls.counts is not None
    predicted, control = (controls.means[context] + mean).clip(min=0), controls.means[context]
    new_share = np.expm1(predicted) / controls.log_total
    rng = np.random.default_rng([seed, change.number])
    return changed_counts(controls.counts[change.cells], fold_changes(predicted, control), controls.shares[context], new_share, rng)


def _obs(asked: Asked, controls: Controls, number: np.ndarray, cells: np.ndarray | None) -> pd.DataFrame:
    """``.obs`` of predicted rows, each of a perturbation `number` [n] and, of single cells, predicted from a control cell [n]."""
    texts, kinds = np.array(asked.texts, object), np.array(asked.kinds, object)
    contexts = np.array(controls.contexts, object)[asked.context_ids]
    table = {"target_gene": texts, "condition": texts, "context": contexts, "cell_type": contexts, "kind": kinds}
    obs = pd.DataFrame({name: values[number] for name, values in table.items()})
    obs["control_cell"] = "" if cells is None else controls.obs.index.to_numpy(object)[cells]
    return obs


def _obs_of_controls(controls: Controls, is_mean: bool) -> pd.DataFrame:
    """``.obs`` of control rows: cells as they are, or the mean of each context."""
    contexts = np.array(controls.contexts, object)
    of_rows = contexts if is_mean else contexts[controls.context_ids]
    obs = pd.DataFrame({"target_gene": "non-targeting", "condition": "control", "context": of_rows, "cell_type": of_rows, "kind": "none"})
    obs["control_cell"] = "" if is_mean else controls.obs.index.to_numpy(object)
    return obs
