"""What hiding genes in training does for labels on another platform, tried on a made-up one: how `rna_finetune` came to its defaults.

python benchmarks/platform_shift.py --data FOLDER --out FOLDER [--dropout 0 0.5 0.8] [--spread 2] [--kept 0.25] [--seeds 0] [--draws 0 1 2 3]
    [--set SETTING=VALUE ...]

Of `rna/sc_mixology.h5ad` the plates of CEL-seq2 alone are used: two train, one validates, and a fourth is measured as another platform might have
measured it: each gene by a factor of its own, the logarithms of which have the standard deviation --spread, and every molecule with the
probability --kept. Drop-seq, which the benchmark tests on, is left out. Printed are accuracies on these cells and their mean, logistic
regression beside them in the same run.
"""

import argparse
from contextlib import redirect_stdout
from itertools import product
from pathlib import Path

import anndata
import numpy as np
import scipy.sparse as sp

from bmfm.cli import compose
from bmfm.training.run import train

PARTS = {"celseq2_p1": "train", "celseq2_p2": "train", "celseq2_p3": "validation", "celseq2": "test"}


def another_platform(cells: anndata.AnnData, draw: int, spread: float, kept: float) -> anndata.AnnData:
    """The test cells as they are not, and all others as they are."""
    rng = np.random.default_rng(draw)
    shifted = cells[cells.obs["part"] == "test"].copy()
    counts = sp.csr_matrix(shifted.X)
    factor = np.exp(rng.normal(0, spread, counts.shape[1]))
    counts.data = rng.poisson(counts.data * factor[counts.indices] * kept).astype(np.float32)
    counts.eliminate_zeros()
    shifted.X = counts
    return anndata.concat([cells[cells.obs["part"] != "test"], shifted], merge="same")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--dropout", nargs="+", type=float, default=[0.0, 0.5, 0.8])
    parser.add_argument("--spread", type=float, default=2.0)
    parser.add_argument("--kept", type=float, default=0.25)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--draws", nargs="+", type=int, default=[0, 1, 2, 3])
    parser.add_argument("--set", nargs="+", default=[], help="more settings of bmfm train")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    cells = anndata.read_h5ad(arguments.data / "rna" / "sc_mixology.h5ad")
    cells = cells[cells.obs["batch"].isin(list(PARTS))].copy()
    cells.obs["part"] = cells.obs["batch"].astype(str).map(PARTS)
    for draw in arguments.draws:
        another_platform(cells, draw, arguments.spread, arguments.kept).write_h5ad(arguments.out / f"platform_{draw}.h5ad")
    for dropout in arguments.dropout:
        figures = []
        for draw, seed in product(arguments.draws, arguments.seeds):
            file, name = arguments.out / f"platform_{draw}.h5ad", f"{draw}_{dropout}_{seed}"
            settings = [
                "+recipe=rna_finetune", "checkpoint=bmfm-rna-mini", f"data.path={file}", "objectives.label.column=cell_line",
                "data.split.by=column", "+data.split.column=part", "+data.split.train=[train]", "data.split.validation=[validation]",
                "data.split.test=[test]", f"tokenizer.sequence_dropout={dropout}", f"seed={seed}", "trainer.precision=auto",
                f"run_dir={arguments.out / name}", "overwrite=true", "callbacks.progress=null",
                "trainer.enable_progress_bar=false", *arguments.set,
            ]  # fmt: skip
            with (arguments.out / f"{name}.log").open("w") as log, redirect_stdout(log):
                scores = train(compose("train", settings))
            figures.append([scores["test/label/accuracy"], scores["test/label/logistic_regression_accuracy"]])
            print("platform {}, dropout {}, seed {}: {:.4f} (logistic regression {:.4f})".format(draw, dropout, seed, *figures[-1]))
        print("dropout {}: {:.3f} (logistic regression {:.3f})".format(dropout, *np.mean(figures, axis=0)), flush=True)


if __name__ == "__main__":
    main()
