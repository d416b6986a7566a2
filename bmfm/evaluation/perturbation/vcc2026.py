"""The metrics of the Virtual Cell Challenge 2026 (Arc Institute), as its public scorer `cell-eval2` 0.20.0 computes them.

Where the published words and that program differ, the program is followed: the rank-sum test has a continuity correction and ranks
log(1 + CPM); genes are tested whose mean CPM in the controls is above 5, p are adjusted over these; the sampling noise that the
expression error subtracts is taken over all genes, the own target included, while the distance leaves that gene out.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from bmfm.evaluation.perturbation.comparison import CONTROL, Comparison, GroupedCells
from bmfm.evaluation.perturbation.moments import check_sizes, group_sums, jackknife_noise, pseudobulks, scale_counts, sizes_of
from bmfm.evaluation.perturbation.ranksum import DifferentialExpression, changes_against

MIN_CPM = 5.0
"""Mean CPM in the controls above which a gene is tested."""
PURITY = 0.9
"""Share of correct signs that `direction_reach` asks for."""
MIN_SIGNIFICANT = 10
"""Changed genes that a condition needs for `lfc_nmae`."""


@dataclass(frozen=True)
class Side:
    """What is computed of measured or of predicted cells.

    Attributes
    ----------
    bulk, control
        [P, G] and [G] log pseudobulk profiles.
    noise, control_noise
        [P] and a number: jackknife noise of these.
    changes
        Differential expression against the controls.
    """

    bulk: np.ndarray
    control: np.ndarray
    noise: np.ndarray
    control_noise: float
    changes: DifferentialExpression


def vcc2026(comparison: Comparison) -> pd.DataFrame:
    """The metrics of each condition, from counts.

    Returns
    -------
    pandas.DataFrame
        By condition: ``pds_cosine``, ``expr_mse_unbiased``, ``expr_mse_unbiased_capped`` and ``expr_distance_unbiased`` (whose sums over
        conditions make ``expr_mse_unbiased_capped_norm``), ``direction_fidelity_yield``, ``direction_reach``, ``sig_jaccard``,
        ``lfc_nmae``, and the numbers of changed genes ``n_sig_real`` and ``n_sig_pred``. NaN where a metric is not defined.

    Raises
    ------
    ValueError
        Where values are log-normalised, or cells are missing.
    """
    check_counts(comparison)
    check_sizes(comparison, *(sizes_of(side, len(comparison.conditions)) for side in (comparison.real, comparison.predicted)))
    real = side_of(comparison.real, len(comparison.conditions))
    controls = comparison.real.of(CONTROL)
    predicted = side_of(comparison.predicted, len(comparison.conditions), (controls, real))
    return score_sides(comparison, real, predicted)


def vcc2026_of_halves(comparison: Comparison) -> Callable[[Comparison], pd.DataFrame]:
    """The metrics of a second half of the measured cells as the prediction of the first.

    Each half is compared with its own half of the controls, so that they share no noise, and errors of fold changes are those of the
    genes that change in all cells together, as in the reference scale of the challenge.
    """
    check_counts(comparison)
    p, own = len(comparison.conditions), comparison.own
    whole = differential_expression(comparison.real, comparison.real.of(CONTROL), p).without(own)

    def table(halves: Comparison) -> pd.DataFrame:
        sides = [side_of(half, p) for half in (halves.real, halves.predicted)]
        scores = score_sides(halves, *sides)
        scores["lfc_nmae"] = lfc_nmae(whole, sides[1].changes, np.nan_to_num(sides[0].changes.lfc))
        return scores

    return table


def check_counts(comparison: Comparison) -> None:
    """Raise a ValueError where values are log-normalised."""
    if comparison.unit != "counts":
        raise ValueError(
            "profile vcc2026 needs raw counts, these values are log-normalised; profiles gears, calibrated and vcc2025 take such values"
        )


def score_sides(comparison: Comparison, real: Side, predicted: Side) -> pd.DataFrame:
    """The table of `vcc2026` from what was computed of each side."""
    own = comparison.own
    real_changes, predicted_changes = real.changes.without(own), predicted.changes.without(own)
    columns: dict[str, np.ndarray] = {
        "pds_cosine": pds_cosine(predicted.bulk - predicted.control, real.bulk - real.control, comparison.panel)
    }
    columns |= expression_error(real, predicted, own)
    columns |= direction(real_changes, predicted_changes, np.asarray(comparison.genes, str))
    columns["sig_jaccard"] = sig_jaccard(real_changes.significant, predicted_changes.significant)
    columns["lfc_nmae"] = lfc_nmae(real_changes, predicted_changes)
    columns |= {"n_sig_real": real_changes.significant.sum(1), "n_sig_pred": predicted_changes.significant.sum(1)}
    return pd.DataFrame(columns, index=pd.Index(comparison.conditions, name="condition"))


def side_of(cells: GroupedCells, n_groups: int, other: tuple[csr_matrix, Side] | None = None) -> Side:
    """What metrics need of one side of counts.

    Parameters
    ----------
    other
        The controls [n, G] to compare with and the side that they belong to; None: they are among these cells.
    """
    sums, _ = group_sums(cells, n_groups)
    bulk = pseudobulks(sums)
    noise = np.array([jackknife_noise(cells.of(code), sums[code]) for code in range(n_groups)])
    if other is None:
        controls = cells.of(CONTROL)
        control, control_noise = bulk[CONTROL], jackknife_noise(controls, sums[CONTROL])
    else:
        controls, control, control_noise = other[0], other[1].control, other[1].control_noise
    return Side(bulk[:n_groups], control, noise, control_noise, differential_expression(cells, controls, n_groups))


def differential_expression(cells: GroupedCells, controls: csr_matrix, n_groups: int) -> DifferentialExpression:
    """Tests of the conditions of counts against control cells [n, G], of genes whose mean CPM in these is above `MIN_CPM`."""

    def prepared(counts: csr_matrix) -> tuple[csr_matrix, np.ndarray]:
        cpm = scale_counts(counts, 1e6)
        means = np.asarray(cpm.sum(0)).ravel() / max(1, counts.shape[0])
        np.log1p(cpm.data, out=cpm.data)
        return cpm, means

    def groups() -> Iterator[tuple[csr_matrix, np.ndarray]]:
        return (prepared(cells.of(code)) for code in range(n_groups))

    reference = prepared(controls)
    return changes_against(groups(), reference, np.flatnonzero(reference[1] > MIN_CPM))


def pds_cosine(predicted: np.ndarray, real: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """How near a predicted change is to its own measured one among those of all conditions: 1 nearest, 0.5 by chance.

    Parameters
    ----------
    predicted, real
        [P, G] changes of pseudobulks from the controls.
    targets
        [G] bool: target genes of any condition, left out.
    """
    a, b = predicted[:, ~targets], real[:, ~targets]
    norms = np.sqrt(np.einsum("pg,pg->p", a, a))[:, None] * np.sqrt(np.einsum("pg,pg->p", b, b))[None]
    products = a @ b.T
    distance = np.clip(1 - np.divide(products, norms, out=np.zeros_like(products), where=norms != 0), 0, 2)
    own = distance.diagonal()[:, None]
    before = (distance < own).sum(1) + ((distance == own).sum(1) - 1) / 2
    return 1 - before / max(1, len(distance) - 1)


def expression_error(real: Side, predicted: Side, own: np.ndarray) -> dict[str, np.ndarray]:
    """Squared errors of profiles less their sampling noise, and the same of the effects, per gene that counts.

    The noise of a prediction is credited up to that of the measured cells, and in all up to the spread of predictions between
    conditions, so that cells which scatter without effect on their sum gain nothing.
    """
    n_genes = (~own).sum(1)
    weight = np.divide(1.0, n_genes, out=np.zeros(len(own)), where=n_genes > 0)
    credit = np.minimum(predicted.noise, real.noise)
    claimed = float((credit * weight).sum())
    if claimed > 0:
        credit = credit * min(1.0, _spread(predicted.bulk, own, weight) / claimed)
    error = _squared(predicted.bulk - real.bulk, own)
    effect = _squared(real.bulk - real.control, own)
    sums = {
        "expr_mse_unbiased": error - predicted.noise - real.noise,
        "expr_mse_unbiased_capped": error - credit - real.noise,
        "expr_distance_unbiased": effect - real.noise - real.control_noise,
    }
    return {name: np.divide(x, n_genes, out=np.full(len(own), np.nan), where=n_genes > 0) for name, x in sums.items()}


def _squared(difference: np.ndarray, own: np.ndarray) -> np.ndarray:
    return np.where(own, 0, difference**2).sum(1)


def _spread(bulk: np.ndarray, own: np.ndarray, weight: np.ndarray) -> float:
    """Weighted sum of squares of profiles about their mean over conditions, own targets left out, summed over genes."""
    weights = np.where(own, 0, weight[:, None])
    deviation = bulk - bulk.mean(0)
    first, second, total = (weights * deviation).sum(0), (weights * deviation**2).sum(0), weights.sum(0)
    usable = ((~own).sum(0) >= 2) & (total > 0)
    return float(np.maximum(second[usable] - first[usable] ** 2 / total[usable], 0).sum())


def direction(real: DifferentialExpression, predicted: DifferentialExpression, genes: np.ndarray) -> dict[str, np.ndarray]:
    """`direction_fidelity_yield` and `direction_reach` of each condition.

    The first is the number of genes that are predicted to change, in the measured direction, over the larger of the numbers that are
    predicted and measured to change. The second is how far one can go down the measured changed genes, in the order of predicted
    significance, with 90% of the signs right, over their number. NaN where nothing changes.
    """
    has_direction = ~np.isnan(real.lfc) & (real.lfc != 0)
    right = has_direction & (np.sign(real.lfc) == np.sign(predicted.lfc)) & (predicted.lfc != 0)
    called = predicted.significant & has_direction
    n_real, n_called = real.significant.sum(1), called.sum(1)
    larger = np.maximum(n_real, n_called)
    fidelity = np.divide((called & right).sum(1), larger, out=np.full(len(larger), np.nan), where=larger > 0)
    order_by_name = np.argsort(np.argsort(genes, kind="stable"))
    reach = np.full(len(larger), np.nan)
    for i in np.flatnonzero(n_real):
        pool = np.flatnonzero(real.significant[i] & ~np.isnan(predicted.p[i]))
        size = np.abs(predicted.lfc[i, pool])
        keys = (order_by_name[pool], -size, predicted.p[i, pool], predicted.p_adjusted[i, pool])
        ranked = pool[np.lexsort(keys)]
        depth, hits = np.cumsum(has_direction[i, ranked]), np.cumsum(right[i, ranked])
        pure = depth[(depth > 0) & (hits >= PURITY * depth)]
        reach[i] = pure.max(initial=0) / n_real[i]
    return {"direction_fidelity_yield": fidelity, "direction_reach": reach}


def sig_jaccard(real: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Genes in both sets over genes in either, of bool [P, G]; 1 where both are empty."""
    either = (real | predicted).sum(1)
    return np.divide((real & predicted).sum(1), either, out=np.ones(len(either)), where=either > 0)


def lfc_nmae(real: DifferentialExpression, predicted: DifferentialExpression, truth: np.ndarray | None = None) -> np.ndarray:
    """Absolute errors of log2 fold changes over their sizes, of the measured changed genes; NaN with fewer than `MIN_SIGNIFICANT`.

    A fold change that is not predicted counts as 0. `truth` [P, G] are other fold changes to compare with than those of `real`.
    """
    gate = real.significant & np.isfinite(real.lfc)
    guess = np.where(np.isfinite(predicted.lfc), predicted.lfc, 0)
    error = np.where(gate, np.abs(guess - (real.lfc if truth is None else truth)), 0).sum(1)
    size = np.where(gate, np.abs(real.lfc), 0).sum(1)
    return np.divide(error, size, out=np.full(len(size), np.nan), where=(gate.sum(1) >= MIN_SIGNIFICANT) & (size > 0))
