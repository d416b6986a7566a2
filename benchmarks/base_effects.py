"""What methods of explanation say of bases, beside what saturation mutagenesis measured there.

python benchmarks/base_effects.py --data FOLDER [--checkpoint bmfm-dna-mini] [--tasks satmut_dev,satmut_test] [--methods mlm,dependency]

The measured effect of a base is the mean size of the effects of its substitutions (Kircher et al., Nature Communications 2019), of variants as the
card of the task keeps them; bases with fewer than two of them are left out. Printed are Spearman correlations with it, as the mean over elements
with the middle 95% of a bootstrap over loci, as they are and without what the mean number of barcodes says, since few barcodes make large
effects by chance. No score is fitted to the effects. Five loci a task are few: intervals are wide.

mlm contribution     log-probability of the base that is there, hidden, less the mean over the four
mlm change           mean size of the log-likelihood ratios of its substitutions
mlm information      information content of the position in bits
dependency           mean effect of mutating it on what is expected elsewhere
k-mer likelihood     log frequency of the 7 bases around in the shipped megabase of chromosome 20, less the mean over the four middle bases
GC                   share of G and C among the 21 bases around
centre               nearness to the middle of the element
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import bmfm
from bmfm.evaluation.examples.variants import VariantExamples
from bmfm.evaluation.task_files import read_examples, read_task
from bmfm.files import ASSETS
from bmfm.genome.alphabet import COMPLEMENT, decode
from bmfm.genome.reference import Reference
from bmfm.interpret.dna_likelihood import information, probabilities
from bmfm.metrics import rank_correlations
from bmfm.variants.sequence_sets import CODES

K, GC_WINDOW, LEAST = 7, 21, 2


def measured(examples: VariantExamples) -> pd.DataFrame:
    """Of each base: ``element, at`` (0-based), ``effect`` and ``barcodes``, means over its substitutions."""
    table = examples.variants.assign(effect=examples.table["effect"].abs().to_numpy(), barcodes=examples.table["covariate"].to_numpy())
    table = table[(table["ref"].str.len() == 1) & (table["alt"].str.len() == 1)]
    bases = table.groupby(["chrom", "pos"])[["effect", "barcodes"]].agg(["mean", "size"])
    bases = bases[bases[("effect", "size")] >= LEAST]
    return pd.DataFrame(
        {
            "element": bases.index.get_level_values(0),
            "at": bases.index.get_level_values(1) - 1,
            "effect": bases[("effect", "mean")].to_numpy(),
            "barcodes": bases[("barcodes", "mean")].to_numpy(),
        }
    )


def kmer_scores(codes: np.ndarray) -> np.ndarray:
    """See the module's text, [L]; both strands of the genome are counted."""
    reference = Reference.from_fasta(ASSETS / "genome" / "chr20_slice.fa.gz")
    contig = reference.contigs[0]
    genome = reference.fetch(contig["name"], 0, contig["length"])
    powers = 4 ** np.arange(K)
    counts = np.ones(4**K)
    for strand in (genome, COMPLEMENT[genome][::-1]):
        windows = np.lib.stride_tricks.sliding_window_view(strand, K)
        counts += np.bincount(windows[(windows < 4).all(1)] @ powers, minlength=4**K)
    padded = np.pad(codes, K // 2, mode="reflect")
    around = np.lib.stride_tricks.sliding_window_view(padded, K).astype(np.int64)
    is_known = (around < 4).all(1)  # near N nothing is said: 0
    number, step = np.where(is_known, around @ powers, 0), np.where(is_known, powers[K // 2], 0)
    of_each = np.log(np.stack([counts[number + (int(code) - codes.astype(np.int64)) * step] for code in CODES]))
    return np.log(counts[number]) - of_each.mean(0)


def scores_of(model: Any, text: str, codes: np.ndarray, methods: list[str], batch_size: int) -> dict[str, np.ndarray]:
    """Scores [L] of the bases of one element."""
    is_gc = pd.Series(np.isin(codes, [1, 3]).astype(float))
    scores = {
        "k-mer likelihood": kmer_scores(codes),
        "GC": is_gc.rolling(GC_WINDOW, center=True, min_periods=1).mean().to_numpy(),
        "centre": -np.abs(np.arange(len(codes)) - (len(codes) - 1) / 2),
    }
    if "mlm" in methods:
        found = model.mutagenesis([text], batch_size=batch_size, progress=False)
        scores["mlm contribution"] = found.attribution("centered")[0]
        scores["mlm change"] = np.abs(found.values[0]).sum(0) / 3
        scores["mlm information"] = information(probabilities(found))[0]
    if "dependency" in methods:
        scores["dependency"] = model.dependency_map([text], batch_size=batch_size, progress=False).influence()[0]
    return scores


def partial(r: np.ndarray) -> float:
    """Rank correlation of the first two of three without what the third says, of their correlations [3, 3]."""
    return float((r[0, 1] - r[0, 2] * r[1, 2]) / np.sqrt((1 - r[0, 2] ** 2) * (1 - r[1, 2] ** 2)))


def interval(values: np.ndarray, loci: np.ndarray, n_draws: int = 10_000) -> tuple[float, float]:
    """Middle 95% of the mean over elements, whose loci are drawn with repetition."""
    rng, names = np.random.default_rng(0), np.unique(loci)
    weights = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), n_draws)[:, np.searchsorted(names, loci)]
    low, high = np.quantile(weights @ values / weights.sum(1), [0.025, 0.975])
    return float(low), float(high)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--checkpoint", default="bmfm-dna-mini")
    parser.add_argument("--tasks", default="satmut_dev,satmut_test")
    parser.add_argument("--methods", default="mlm,dependency")
    parser.add_argument("--batch-size", type=int, default=32)
    arguments = parser.parse_args()
    model = bmfm.load(arguments.checkpoint)
    for task in arguments.tasks.split(","):
        examples = read_examples(read_task(f"variants/{task}", ["checkpoint=none"]), arguments.data)
        assert isinstance(examples, VariantExamples) and examples.reference is not None
        bases, rows = measured(examples), []
        lengths = {c["name"]: c["length"] for c in examples.reference.contigs}
        for element, of_element in bases.groupby("element"):
            codes = examples.reference.fetch(element, 0, lengths[element])
            at, effect, barcodes = (of_element[name].to_numpy() for name in ("at", "effect", "barcodes"))
            for name, values in scores_of(model, decode(codes), codes, arguments.methods.split(","), arguments.batch_size).items():
                r = rank_correlations(values[at], effect, barcodes)(np.full(len(at), 1 / len(at)))
                rows.append((element, name, len(at), r[0, 1], partial(r)))
            print(f"{task} {element}: {len(at):,} of {lengths[element]:,} bases", flush=True)
        table = pd.DataFrame(rows, columns=["element", "score", "n", "spearman", "without barcodes"])
        table["locus"] = table["element"].str.replace(r"h\d$", "", regex=True)  # two experiments on one sequence
        print(f"\n{'score':18s}  Spearman                 without barcodes")
        for name, of_score in table.groupby("score", sort=False):
            words = []
            for figure in ("spearman", "without barcodes"):
                low, high = interval(of_score[figure].to_numpy(), of_score["locus"].to_numpy())
                words.append(f"{of_score[figure].mean():6.3f} [{low:6.3f}, {high:6.3f}]")
            print(f"{name:18s}  {'  '.join(words)}")
        print(table.pivot(index="element", columns="score", values="without barcodes").round(3).to_string(), "\n", flush=True)


if __name__ == "__main__":
    main()
