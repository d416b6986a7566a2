"""Metrics of the Virtual Cell Challenge 2026 on many cells: seconds, peak memory, and the rank-sum test beside SciPy's.

Run: ``python benchmarks/perturbation_metrics.py [--perturbations 200 --genes 20000 --cells 50000 --density 0.1]``. Made-up counts of as many
measured cells, a tenth of which are controls, and as many predicted ones.
"""

import argparse
import resource
import time
from pathlib import Path

import numpy as np
from scipy.optimize import brentq
from scipy.sparse import csr_matrix, vstack
from scipy.stats import mannwhitneyu

from bmfm.evaluation.perturbation.comparison import CONTROL, Comparison, GroupedCells
from bmfm.evaluation.perturbation.moments import group_sums, jackknife_noise, log_counts, pseudobulks
from bmfm.evaluation.perturbation.ranksum import rank_sum, sorted_columns
from bmfm.evaluation.perturbation.vcc2026 import differential_expression, vcc2026


def draw(rng: np.random.Generator, n: int, rate: np.ndarray) -> csr_matrix:
    """Poisson counts [n, G], float32 CSR."""
    return csr_matrix(rng.poisson(rng.lognormal(0, 0.3, (n, 1)) * rate).astype(np.float32))


def made_up(perturbations: int, genes: int, cells: int, density: float, seed: int = 0) -> Comparison:
    """Counts of perturbations that move a twentieth of the genes, and a prediction of half of each change."""
    rng = np.random.default_rng(seed)
    rate = rng.lognormal(0, 1.5, genes)
    rate *= brentq(lambda scale: (1 - np.exp(-scale * rate)).mean() - density, 1e-6, 1e3)
    n_each = int(cells * 0.9) // perturbations
    real, predicted = [], []
    for _ in range(perturbations):
        lfc = np.where(rng.random(genes) < 0.05, rng.normal(0, 1, genes), 0)
        real.append(draw(rng, n_each, rate * np.exp2(lfc)))
        predicted.append(draw(rng, n_each, rate * np.exp2(lfc / 2)))
    codes = np.repeat(np.arange(perturbations), n_each)
    controls = [draw(rng, 250, rate) for _ in range((cells - len(codes)) // 250)]
    all_codes = np.append(codes, np.full(250 * len(controls), CONTROL))
    names = [f"G{i:05d}" for i in range(genes)]
    return Comparison(
        "made up", names[:perturbations], names, [np.array([i]) for i in range(perturbations)],
        GroupedCells(vstack([*real, *controls], "csr"), all_codes), GroupedCells(vstack(predicted, "csr"), codes), "counts",
    )  # fmt: skip


def peak_gib() -> float:
    """Peak memory of this process since it was last set back, where Linux tells it."""
    for line in Path("/proc/self/status").read_text().splitlines() if Path("/proc/self/status").is_file() else ():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def against_scipy(comparison: Comparison, n_genes: int = 200) -> None:
    """One condition against the controls, of a few genes."""
    genes = np.linspace(0, len(comparison.genes) - 1, n_genes).astype(int)
    group, controls = (log_counts(comparison.real.of(code), 1e6)[:, genes] for code in (0, CONTROL))
    reference = sorted_columns(controls)
    start_time = time.perf_counter()
    ours = rank_sum(group, reference, np.arange(n_genes))
    ours_took = time.perf_counter() - start_time
    start_time = time.perf_counter()
    theirs = np.nan_to_num(mannwhitneyu(group.toarray(), controls.toarray(), method="asymptotic").pvalue, nan=1.0)
    theirs_took = time.perf_counter() - start_time
    difference = np.abs(ours - theirs).max()
    print(
        f"rank sums of {n_genes} genes: {1e3 * ours_took:.1f} ms, by SciPy {1e3 * theirs_took:.1f} ms; p differ by {difference:.1e} at most"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--perturbations", type=int, default=200)
    parser.add_argument("--genes", type=int, default=20_000)
    parser.add_argument("--cells", type=int, default=50_000)
    parser.add_argument("--density", type=float, default=0.1)
    arguments = parser.parse_args()
    vcc2026(made_up(4, 50, 3000, 0.5))  # compiles
    comparison = made_up(**vars(arguments))
    values = comparison.real.values
    data = (values.nnz + comparison.predicted.values.nnz) * 8 / 2**30
    print(f"{values.shape[0]:,} measured cells, {values.nnz / np.prod(values.shape):.1%} of values not 0; both sides {data:.2f} GiB")
    Path("/proc/self/clear_refs").write_text("5")
    start_time = time.perf_counter()
    table = vcc2026(comparison)
    print(f"vcc2026: {time.perf_counter() - start_time:.1f} s, peak {peak_gib():.2f} GiB with the data; {len(table)} conditions")
    start_time = time.perf_counter()
    sums, _ = group_sums(comparison.real, arguments.perturbations)
    pseudobulks(sums)
    print(f"  sums of one side: {time.perf_counter() - start_time:.1f} s")
    start_time = time.perf_counter()
    for code in range(arguments.perturbations):
        jackknife_noise(comparison.real.of(code), sums[code])
    print(f"  sampling noise of one side: {time.perf_counter() - start_time:.1f} s")
    start_time = time.perf_counter()
    differential_expression(comparison.real, comparison.real.of(CONTROL), arguments.perturbations)
    print(f"  differential expression of one side: {time.perf_counter() - start_time:.1f} s")
    against_scipy(comparison)


if __name__ == "__main__":
    main()
