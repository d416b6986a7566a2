"""The metrics of the Virtual Cell Challenge 2025 (Arc Institute): `cell-eval` 0.7.6 as preset ``cell-eval-0.7.6`` of `cell-eval2` has it.

The program is followed where it says more than its description, or other things: own target genes are left out of the discrimination
score alone; means of fold changes are geometric; p are adjusted over all genes.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix
from scipy.spatial.distance import cdist

from bmfm.evaluation.perturbation.comparison import CONTROL, Comparison, GroupedCells
from bmfm.evaluation.perturbation.moments import check_sizes, group_sums, lognormalised
from bmfm.evaluation.perturbation.ranksum import DifferentialExpression, changes_against


def vcc2025(comparison: Comparison) -> pd.DataFrame:
    """The metrics of each condition.

    Counts are scaled to the median total of the measured cells, on both sides, and their log(1 + x) is taken. Log-normalised values are
    taken for such as they are.

    Returns
    -------
    pandas.DataFrame
        By condition: ``des``, the overlap of the genes of largest fold change among those that change, measured and predicted, over as
        many as are measured to change; ``pds_l1``, 1 less the rank of the own measured change among those of all conditions by distance
        from the predicted, over their number P, so that chance is (P + 1) / 2P; ``mae`` of mean profiles.
    """
    p = len(comparison.conditions)
    totals = np.asarray(comparison.real.values.sum(1)).ravel() if comparison.unit == "counts" else np.ones(1)
    both = lognormalised(comparison, float(np.median(totals[totals > 0])))
    (real_sums, n_real), (sums, n_predicted) = group_sums(both.real, p), group_sums(both.predicted, p)
    check_sizes(comparison, n_real, n_predicted)
    real, predicted, control = real_sums[:p] / n_real[:p, None], sums[:p] / n_predicted[:p, None], real_sums[CONTROL] / n_real[CONTROL]
    controls = both.real.of(CONTROL)
    columns = {
        "des": overlap(_changes(both.real, controls, p), _changes(both.predicted, controls, p)),
        "pds_l1": pds_l1(predicted - control, real - control, comparison.own),
        "mae": np.abs(predicted - real).mean(1),
    }
    return pd.DataFrame(columns, index=pd.Index(comparison.conditions, name="condition"))


def _changes(cells: GroupedCells, controls: csr_matrix, n_groups: int) -> DifferentialExpression:
    def prepared(values: csr_matrix) -> tuple[csr_matrix, np.ndarray]:
        return values, np.expm1(np.asarray(values.astype(np.float64).mean(0)).ravel())

    def groups() -> Iterator[tuple[csr_matrix, np.ndarray]]:
        return (prepared(cells.of(code)) for code in range(n_groups))

    return changes_against(groups(), prepared(controls), np.arange(cells.values.shape[1]))


def overlap(real: DifferentialExpression, predicted: DifferentialExpression) -> np.ndarray:
    """`des` of each condition; 0 where nothing is measured to change."""
    shares = np.zeros(len(real.lfc))
    for i in range(len(shares)):
        largest = []
        for changes in (real, predicted):
            genes = np.flatnonzero(changes.significant[i])
            largest.append(genes[np.argsort(-np.abs(changes.lfc[i, genes]), kind="stable")])
        if n := len(largest[0]):
            shares[i] = len(np.intersect1d(largest[0], largest[1][:n])) / n
    return shares


def pds_l1(predicted: np.ndarray, real: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Discrimination score by city-block distance, the own target of the predicted condition left out of its row; [P]."""
    distance = cdist(predicted, real, "cityblock")
    ranks = np.empty(len(distance))
    for p, columns in enumerate(map(np.flatnonzero, own)):
        row = np.maximum(distance[p] - np.abs(real[:, columns] - predicted[p, columns]).sum(1), 0)
        ranks[p] = np.flatnonzero(np.argsort(row) == p)[0]
    return 1 - ranks / len(ranks)
