"""In-silico screens: genes ranked by what their perturbation is predicted to do to a readout, beside genes of like expression.

An effect is worth something only where it is larger than those of other genes that are expressed as much, since the expression of a gene alone
says much of how a model responds to it. Each gene is compared with the `n_matched` screened genes of the nearest mean expression in the control
cells of the context: ``z`` is its distance from their mean in standard deviations, ``p`` how often one more of them would lie as far, by Student's distribution,
and ``fdr`` the adjusted p (Benjamini and Hochberg, 1995). What is ranked is what a model says, which has to be
compared with baselines on measured screens before it is believed (`bmfm benchmark +suite=perturbation`).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import false_discovery_control, t

from bmfm.cells.conditions import Condition
from bmfm.inference.predictor import Predictor
from bmfm.inference.run_parts import Part, join, run_parts, work_on
from bmfm.ledger import Ledger, Shard
from bmfm.perturbation.asked import Asked
from bmfm.perturbation.controls import Controls, read_controls
from bmfm.perturbation.options import ResponseOptions
from bmfm.perturbation.readouts import Readout, make_readout
from bmfm.perturbation.responses import changes, kind_of, response_head
from bmfm.tokenizers.rna import CellTokenizer

GENES_A_PART = 200
"""Genes whose effects are kept together where a screen is interrupted, or shared by workers."""

LEAST_MATCHED = 20
"""Genes of like expression, at least, from which a spread can be told."""


def screen(
    predictor: Predictor,
    data: Any,
    readout: Mapping[str, Any],
    genes: Sequence[str] | None = None,
    min_expressed: float = 0.05,
    n_matched: int = 100,
    ledger: Ledger | None = None,
    **options: Any,
) -> pd.DataFrame:
    """Predicted effects of perturbing genes, one row a gene and context, the largest effect in either direction first.

    Parameters
    ----------
    data
        Control cells, or a screen of which the controls are taken, see `responses.predict_responses`.
    readout
        See `readouts.make_readout`.
    genes
        Of interest: they alone are returned. None screens all that the file measures, the model knows, and the control cells express.
    min_expressed
        Share of the control cells of a context that must express a gene for it to be screened, or to be compared with.
    n_matched
        Genes of like expression that each is compared with.
    ledger
        Where effects of finished genes are kept, `GENES_A_PART` at a time; a worker adds to it, and its table has no rows.
    options
        Those of `options.ResponseOptions`.

    Returns
    -------
    pandas.DataFrame
        ``gene``, ``context``, ``effect`` (mean over control cells), ``se`` (its standard error over them), ``expression`` (mean of the controls,
        log-normalised), ``matched_mean``, ``matched_sd``, ``z``, ``p``, ``fdr``, ``in_readout`` (the gene is itself read), ``perturbed_in_training``.

    Raises
    ------
    KeyError, ValueError
        Naming what cannot be used, or genes that the model does not know.
    """
    chosen = ResponseOptions(**options)
    head = predictor.model.config.heads[response_head(predictor)]
    controls = read_controls(predictor, data, chosen)
    measure = make_readout(readout, predictor, data, controls, chosen)
    wanted, kind = _ids(predictor, genes), kind_of(predictor, chosen.kind)
    tables = []
    for context, name in enumerate(controls.contexts):
        ids, expression = _expressed(controls, context, min_expressed, np.array(list(wanted.values()), np.int64))
        compared = ids if genes is None else nearest_in_expression(ids, expression, set(wanted.values()), n_matched)
        if len(compared) <= LEAST_MATCHED:
            raise ValueError(
                f"context {name!r}: {len(compared)} genes are expressed by at least {min_expressed:.0%} of its control cells, too few to compare with: "
                "lower min_expressed"
            )
        names = [predictor.tokenizer.names[i] for i in compared]
        parts = _parts(names, lambda some, context=context: _effects(predictor, controls, some, kind, context, measure, chosen))  # type: ignore[misc]
        of_context = ledger and ledger.below(f"{context:04d}")
        if of_context is not None and of_context.is_worker:
            work_on(parts, of_context)
            continue
        found = join(run_parts(parts, of_context, len(names), "gene", chosen.progress))
        effect, error = found["effect"], found["error"]
        of_compared = expression[np.searchsorted(ids, compared)]
        table = pd.DataFrame({"gene": names, "context": name, "effect": effect, "se": error, "expression": of_compared})
        table = table.join(pd.DataFrame(matched(effect, of_compared, min(n_matched, len(names) - 1))))
        if genes is not None:
            table = table[np.isin(compared, list(wanted.values()))]
        tables.append(table)
    if not tables:  # of a worker
        return pd.DataFrame()
    result = pd.concat(tables, ignore_index=True)
    result["fdr"] = _adjusted(result["p"].to_numpy())
    result["in_readout"] = result["gene"].isin(measure.own)
    result["perturbed_in_training"] = result["gene"].isin(head.get("trained_targets", ()))
    result.attrs["readout"] = measure.words
    return result.reindex(result["z"].abs().sort_values(ascending=False, kind="stable").index).reset_index(drop=True)


def _parts(names: Sequence[str], effects: Callable[[Sequence[str]], Shard]) -> Iterator[Part]:
    """The genes of a context in parts."""
    for number, start in enumerate(range(0, len(names), GENES_A_PART)):
        some = names[start : start + GENES_A_PART]
        yield Part(number, len(some), partial(effects, some))


def _effects(
    predictor: Predictor, controls: Controls, names: Sequence[str], kind: str, context: int, measure: Readout, options: ResponseOptions
) -> Shard:
    """Means over control cells of what perturbing each gene does to the readout, and their standard errors, [n] each."""
    asked = Asked([Condition((gene,)) for gene in names], [kind] * len(names), np.full(len(names), context))
    effect, error = np.empty(len(names)), np.empty(len(names))
    for change in changes(predictor, controls, asked, options):
        values = measure(change, controls)
        effect[change.number] = values.mean()
        error[change.number] = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
    return {"effect": effect, "error": error}


def _ids(predictor: Predictor, genes: Sequence[str] | None) -> dict[str, int]:
    """{gene: id}, empty for None; ValueError, naming them, where the model does not know genes."""
    tokenizer = predictor.tokenizer
    assert isinstance(tokenizer, CellTokenizer) and tokenizer.vocabulary is not None
    ids = {gene: tokenizer.vocabulary.find(gene)[0] for gene in genes or ()}
    if unknown := [gene for gene, i in ids.items() if i < 0]:
        raise ValueError(f"genes: the model does not know {', '.join(unknown[:10])}{' and others' if len(unknown) > 10 else ''}")
    return ids


def _expressed(controls: Controls, context: int, min_expressed: float, also: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ids, ascending, of the genes that enough control cells of a context express, and of those asked for; and their mean values."""
    cells = controls.values[controls.of(context)]
    share = np.asarray((cells > 0).mean(0)).ravel()
    is_kept = (controls.gene_ids >= 0) & (share >= min_expressed)
    expression = pd.Series(controls.means[context][is_kept], index=controls.gene_ids[is_kept])
    everything = pd.Series(controls.means[context], index=controls.gene_ids)
    for i in also:  # genes that are not measured count as not expressed
        expression.loc[i] = float(everything.get(i, 0.0)) if np.ndim(everything.get(i, 0.0)) == 0 else float(everything[i].iloc[0])
    expression = expression[~expression.index.duplicated()].sort_index()
    return expression.index.to_numpy(np.int64), expression.to_numpy(float)


def nearest_in_expression(ids: np.ndarray, expression: np.ndarray, wanted: set[int], n_matched: int) -> np.ndarray:
    """The genes asked for, and those of like expression that they are compared with: ids, ascending."""
    order = np.argsort(expression, kind="stable")
    place = np.empty(len(ids), np.int64)
    place[order] = np.arange(len(ids))
    kept = set()
    for i in np.flatnonzero(np.isin(ids, list(wanted))):
        kept.update(order[_window(int(place[i]), len(ids), n_matched)].tolist())
    return ids[np.sort(np.fromiter(kept, np.int64, len(kept)))]


def _window(place: int, n: int, n_matched: int) -> np.ndarray:
    """Places of a gene and of the `n_matched` nearest to it in an order of n genes."""
    first = min(max(0, place - n_matched // 2), max(0, n - n_matched - 1))
    return np.arange(first, min(n, first + n_matched + 1))


def matched(effect: np.ndarray, expression: np.ndarray, n_matched: int) -> dict[str, np.ndarray]:
    """Each gene [n] beside the `n_matched` others that are nearest to it in the order of expression.

    Returns
    -------
    dict
        ``matched_mean``, ``matched_sd``, ``z`` and ``p``, [n] each.
    """
    order = np.argsort(expression, kind="stable")
    n = len(effect)
    found = {name: np.empty(n) for name in ("matched_mean", "matched_sd", "z")}
    for place, i in enumerate(order):
        others = effect[order[(window := _window(place, n, n_matched))[window != place]]]
        mean, sd = others.mean(), others.std(ddof=1)
        found["matched_mean"][i], found["matched_sd"][i] = mean, sd
        found["z"][i] = (effect[i] - mean) / sd if sd > 0 else 0.0
    spread = np.sqrt(1 + 1 / n_matched)  # the mean that it is compared with is known from so many only
    return found | {"p": 2 * t.sf(np.abs(found["z"]) / spread, n_matched - 1)}


def _adjusted(p: np.ndarray) -> np.ndarray:
    """Benjamini-Hochberg."""
    return false_discovery_control(p)
