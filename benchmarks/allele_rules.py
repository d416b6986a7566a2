"""Which rule finds the right log-likelihood ratio of an allele, where the right one is known.

python benchmarks/allele_rules.py --out FOLDER [--tokenizer dna_demo] [--steps 1500] [--variants 1000]

A genome of 1 Mb is drawn from a Markov chain of order 4, so that log p(ALT) - log p(REF) of the whole sequence is known for every allele. A small
ModernBERT is trained on its first 900 kb by recipes/dna_ref.yaml, with a vocabulary of BPE tokens (or of single bases), and scores random SNVs, and short
insertions and deletions, of the rest by every rule. Printed are the rank correlations with the truth, and with what the chain's own base frequencies say
alone.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

import bmfm
from bmfm.genome.reference import Reference
from bmfm.variants.calibration import random_variants
from bmfm.variants.scoring import score_variants

ORDER = 4


def draw_genome(path: Path, length: int, seed: int = 0) -> np.ndarray:
    """Write a genome of a random Markov chain; returns its log-probabilities [4^order, 4]."""
    rng = np.random.default_rng(seed)
    table = rng.dirichlet(np.full(4, 0.5), 4**ORDER)
    cumulative, state, letters = np.cumsum(table, 1), 0, np.empty(length, np.int64)
    draws = rng.random(length)
    for i in range(length):
        letters[i] = min(3, int(np.searchsorted(cumulative[state], draws[i])))
        state = (state * 4 + letters[i]) % 4**ORDER
    text = "".join(np.array(list("ACGT"))[letters])
    path.write_text(f">train\n{text[: length * 9 // 10]}\n>held_out\n{text[length * 9 // 10 :]}\n")
    return np.log(table)


def log_likelihood(text: str, table: np.ndarray) -> float:
    """Of a text by the chain, without its first bases."""
    letters = ["ACGT".index(base) for base in text]
    states = [sum(letters[i - ORDER + j] * 4 ** (ORDER - 1 - j) for j in range(ORDER)) for i in range(ORDER, len(letters))]
    return float(table[states, letters[ORDER:]].sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tokenizer", default="dna_demo", choices=["dna_demo", "single_base"])
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--variants", type=int, default=1000)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    fasta = arguments.out / "genome.fa"
    table = draw_genome(fasta, 1_000_000)
    run = arguments.out / f"run_{arguments.tokenizer}_{arguments.steps}"
    if not (run / "model" / "model.safetensors").is_file():
        subprocess.run(
            [
                sys.executable, "-m", "bmfm.train", "+recipe=dna_ref", f"tokenizer={arguments.tokenizer}", f"data.fasta={fasta}", f"run_dir={run}",
                "data.windows.min_length=300", "data.windows.max_length=300", "data.regions=[train]", "data.batch_size=32", "optimizer.lr=2e-3",
                "data.max_tokens=320", f"trainer.max_steps={arguments.steps}", f"trainer.val_check_interval={arguments.steps // 3}",
                "trainer.precision=bf16-mixed", "overwrite=true", "callbacks.progress=null", "trainer.enable_progress_bar=false", "model.num_hidden_layers=3",
            ],
            check=True, stdout=(arguments.out / "train.log").open("w"), stderr=subprocess.STDOUT,
        )  # fmt: skip
    model, reference = bmfm.load(run / "model"), Reference.from_fasta(fasta)
    drawn = random_variants(reference, 12 * arguments.variants, seed=1)
    drawn = drawn[drawn["chrom"] == "held_out"].head(arguments.variants).reset_index(drop=True)
    whole = fasta.read_text().split("\n")[3]
    truth = []
    for row in drawn.itertuples():
        left, right = whole[max(0, row.pos - 13) : row.pos - 1], whole[row.pos - 1 + len(row.ref) : row.pos + len(row.ref) + 12]
        truth.append(log_likelihood(left + row.alt + right, table) - log_likelihood(left + row.ref + right, table))
    truth = np.array(truth)
    kinds = {"SNV": drawn["ref"].str.len().eq(1) & drawn["alt"].str.len().eq(1)}
    kinds["indel"] = ~kinds["SNV"]
    rules = ["base", "pll", "pll_cal"] if arguments.tokenizer == "single_base" else ["span", "base_forced", "multi", "pll", "pll_cal"]
    print("| rule | SNVs scored | Spearman with the truth | indels scored | Spearman with the truth |\n|---|---|---|---|---|")
    for rule in [*rules, "auto"]:
        llr = score_variants(model, drawn, reference, allele_model=rule, background=None, progress=False)["llr"].to_numpy()
        cells = []
        for chosen in kinds.values():
            known = chosen.to_numpy() & ~np.isnan(llr)
            rank = spearmanr(llr[known], truth[known]).statistic if known.sum() > 2 else np.nan
            cells.append(f"{known.sum() / chosen.sum():.0%} | {rank:.3f}")
        print(f"| {rule} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
