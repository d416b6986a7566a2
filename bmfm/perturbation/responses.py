"""Predicted responses: control cells and a list of perturbations in, perturbed cells or their mean profiles out.

The model gives the change of every gene for a control cell that is told a perturbation (`objectives.perturbation`). The response of a context is the
mean change over some of its control cells; predicted cells are control cells that are changed (`predicted_cells`). Genes that the model does not know
keep the values of the control.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.sparse import csr_matrix, vstack
from tqdm.auto import tqdm

from bmfm.cells.perturbations import KINDS, Perturbations, encode_conditions, kind_id
from bmfm.inference.inputs import Inputs
from bmfm.inference.predictor import Predictor
from bmfm.inference.run_parts import Part, run_parts, work_on
from bmfm.ledger import Ledger, Shard
from bmfm.objectives.perturbation import respond
from bmfm.perturbation.asked import Asked, read_asked
from bmfm.perturbation.controls import Controls, read_controls
from bmfm.perturbation.draws import changed_counts, fold_changes, shifts
from bmfm.perturbation.options import ResponseOptions
from bmfm.tokenizers.base import Tokens
from bmfm.tokenizers.rna import CellTokenizer

CHUNK = 4096
"""Pairs of a perturbation and a control cell that are tokenized at a time."""

PART = 1024
"""Pairs whose results are kept together where a prediction is interrupted, or shared by workers; a perturbation is not parted."""


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
    """Conditions in the ids of the model.

    Raises
    ------
    ValueError
        Naming targets that the model does not know, and doses that it cannot compare with those of its training.
    """
    tokenizer = predictor.tokenizer
    assert isinstance(tokenizer, CellTokenizer) and tokenizer.vocabulary is not None
    find, units = tokenizer.vocabulary.find, predictor.model.config.heads[response_head(predictor)].get("dose_units", [])
    for condition in asked.conditions:
        has_dose = any(dose is not None for dose in condition.doses)
        if has_dose and (condition.unit not in units):
            trained = f"in {', '.join(map(repr, units))}" if units else "without doses"
            raise ValueError(f"{condition}: the model was trained {trained}; give {'doses in that unit' if units else 'the name alone'}")
        if units and not has_dose and any(target in (tokenizer.drugs or ()) for target in condition.targets):
            raise ValueError(
                f"{condition} has no dose, and the model was trained with doses: write it behind the name, as {condition}@1{units[0]}"
            )
    return encode_conditions(asked.conditions, asked.kinds, lambda name: find(name)[0], len(tokenizer), tokenizer.drugs or ())


def kind_of(predictor: Predictor, kind: str | None) -> str:
    """The kind of perturbations that do not state theirs: as given, or the only one that the model was trained with.

    Raises
    ------
    ValueError
        If it was trained with several, and none is given.
    """
    trained = predictor.model.config.heads[response_head(predictor)].get("trained_kinds", [])
    if kind is not None:
        return KINDS[kind_id(kind)]
    if len(trained) != 1:
        raise ValueError(
            f"kind: the model was trained with {', '.join(trained) or 'kinds that it does not name'}; say which is asked about"
        )
    return trained[0]


def known_targets(predictor: Predictor) -> set[str]:
    """Names of the genes and drugs of a model."""
    tokenizer = predictor.tokenizer
    assert isinstance(tokenizer, CellTokenizer)
    first, end = tokenizer.plain_ids
    return {*tokenizer.names[first:end], *(tokenizer.drugs or ())}


@dataclass(frozen=True)
class _Pairs:
    """Pairs of a perturbation and a control cell of its context, [n] numbers of each, perturbation by perturbation."""

    number: np.ndarray
    cell: np.ndarray

    @classmethod
    def of(cls, controls: Controls, asked: Asked) -> "_Pairs":
        cells = [controls.of(context) for context in asked.context_ids]
        return cls(np.repeat(np.arange(len(asked)), [len(c) for c in cells]), np.concatenate(cells))

    def cells(self, number: int) -> np.ndarray:
        """Control cells of a perturbation."""
        first, last = np.searchsorted(self.number, [number, number + 1])
        return self.cell[first:last]


def changes(predictor: Predictor, controls: Controls, asked: Asked, options: ResponseOptions) -> Iterator[Change]:
    """The change of every chosen control cell after each perturbation of its context, one perturbation after the other."""
    pairs = _Pairs.of(controls, asked)
    first_of = np.searchsorted(pairs.number, np.arange(len(asked) + 1))
    held: dict[int, np.ndarray] = {}
    filled = np.zeros(len(asked), np.int64)
    for rows, found in _forward(predictor, controls, asked, pairs, options):
        for q in np.unique(pairs.number[rows]):
            of_q = pairs.number[rows] == q
            into = held.setdefault(int(q), np.empty((first_of[q + 1] - first_of[q], found.shape[1]), np.float32))
            into[rows[of_q] - first_of[q]] = found[of_q]
            filled[q] += of_q.sum()
        for q in [q for q in held if filled[q] == len(held[q])]:
            yield Change(q, pairs.cells(q), held.pop(q))


def mean_changes(predictor: Predictor, controls: Controls, asked: Asked, options: ResponseOptions) -> np.ndarray:
    """Mean change [Q, V] float32 over the chosen control cells after each perturbation; no single cell is kept."""
    pairs = _Pairs.of(controls, asked)
    sums = np.zeros((len(asked), len(predictor.tokenizer)))
    for rows, found in _forward(predictor, controls, asked, pairs, options):
        np.add.at(sums, pairs.number[rows], found)
    return (sums / np.bincount(pairs.number, minlength=len(asked))[:, None]).astype(np.float32)


def _forward(
    predictor: Predictor, controls: Controls, asked: Asked, pairs: _Pairs, options: ResponseOptions
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Numbers of some pairs [b] and their changes [b, V], batch by batch, until all were there."""
    head = response_head(predictor)
    description = predictor.model.config.heads[head]
    perturbations, n = encode_asked(predictor, asked), len(pairs.number)
    chunks = partial(_tokens, controls.tokens, perturbations, pairs)
    inputs = Inputs(pd.RangeIndex(n), n, chunks, np.arange(n), np.ones(n, np.int64))
    with tqdm(total=n, unit="cell", desc="responses", delay=3, disable=options.progress is False) as bar:
        for rows, batch in predictor.batches(inputs, options.batch_size):
            out = predictor.forward(batch, precision=options.precision)
            with torch.no_grad():
                found = respond(predictor.model, head, batch, out.pool(description.get("cls", 0)), description["outputs"])["change"]
            bar.update(len(rows))
            yield rows, found.cpu().numpy()


def _tokens(tokens: Tokens, perturbations: Perturbations, pairs: _Pairs) -> Iterator[tuple[int, Tokens]]:
    """Tokens of control cells with the perturbation of each pair, some at a time."""
    for start in range(0, len(pairs.number), CHUNK):
        some = slice(start, start + CHUNK)
        taken = replace(tokens, full_profile=None).take(pairs.cell[some])
        taken.example_fields |= perturbations.take(pairs.number[some]).as_fields()
        yield start, taken


def to_genes(change: np.ndarray, controls: Controls) -> np.ndarray:
    """Changes [m, V] of the vocabulary as those of the file's genes [m, G]; 0 where the model does not know the gene."""
    return np.where(controls.gene_ids >= 0, change[:, controls.gene_ids.clip(min=0)], 0.0)


def predict_means(predictor: Predictor, controls: Controls, asked: Asked, options: ResponseOptions) -> np.ndarray:
    """Mean profile [Q, G] after each perturbation: the mean of all controls of the context, and the mean change of the chosen ones."""
    return (controls.means[asked.context_ids] + to_genes(mean_changes(predictor, controls, asked, options), controls)).clip(min=0)


def _parts(predictor: Predictor, controls: Controls, asked: Asked, pairs: _Pairs, options: ResponseOptions) -> Iterator[Part]:
    """Predicted rows [m, G] of some perturbations after those of others, as sparse matrices."""
    first_of = np.searchsorted(pairs.number, np.arange(len(asked) + 1))
    quiet = replace(options, progress=False)

    def compute(first: int, last: int) -> Shard:
        some = asked[first:last]
        if options.rows == "profiles":
            rows: Any = csr_matrix(predict_means(predictor, controls, some, quiet))
        else:
            # counts are drawn by the number of the perturbation among all
            found = (replace(change, number=first + change.number) for change in changes(predictor, controls, some, quiet))
            cells = {change.number: predicted_cells(controls, change, options.unit, options.seed) for change in found}
            rows = vstack([cells[q] for q in range(first, last)], "csr")
        return {"data": rows.data, "indices": rows.indices, "indptr": rows.indptr}

    first = number = 0
    while first < len(asked):
        last = max(first + 1, int(np.searchsorted(first_of, first_of[first] + PART, "right")) - 1)
        yield Part(number, int(first_of[last] - first_of[first]), partial(compute, first, last))
        first, number = last, number + 1


def predict_responses(predictor: Predictor, data: Any, perturbations: Any, ledger: Ledger | None = None, **options: Any) -> Any:
    """Perturbed cells, or their mean profiles, as an AnnData.

    Parameters
    ----------
    data
        Control cells, or a whole screen of which the controls are taken (``condition``): an AnnData, or a path.
    perturbations
        Names of conditions (``KLF1``, ``KLF1+MAP2K6``, ``Drug@10uM``), or a table or file with them, see `asked.read_asked`.
    ledger
        Where rows of finished perturbations are kept; a worker adds to it, and returns nothing.
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
    asked = read_asked(perturbations, controls.contexts, kind_of(predictor, chosen.kind), known_targets(predictor))
    pairs = _Pairs.of(controls, asked)
    parts = _parts(predictor, controls, asked, pairs, chosen)
    if ledger is not None and ledger.is_worker:
        return work_on(parts, ledger)
    found = run_parts(parts, ledger, len(pairs.number), "cell", chosen.progress)
    matrix: Any = vstack(
        [csr_matrix((s["data"], s["indices"], s["indptr"]), (len(s["indptr"]) - 1, len(controls.var))) for s in found], "csr"
    )
    if chosen.rows == "profiles":
        obs = _obs(asked, controls, np.arange(len(asked)), None)
    else:
        obs = _obs(asked, controls, pairs.number, pairs.cell)
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
        "kinds_not_trained": sorted(set(asked.kinds) - set(head.get("trained_kinds", asked.kinds))),
        "contexts": pd.DataFrame(
            {"control_cells": controls.n_found, "used": [len(controls.of(i)) for i in range(len(controls.contexts))]}, controls.contexts
        ),
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
