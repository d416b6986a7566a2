"""Pairs of control and perturbed cells a second on one core, from AnnData to batches with labels, beside reading and tokenizing control cells alone.

python benchmarks/perturbation_pairs.py [--cells N] [--genes N] [--max-tokens N]
"""

import argparse
import time

import anndata
import numpy as np
import pandas as pd
from scipy.sparse import random as random_sparse

from bmfm.data.module import ExampleDataModule
from bmfm.data.perturbations import PerturbationPairs
from bmfm.objectives.multitask import Objectives
from bmfm.objectives.perturbation import PerturbationResponse
from bmfm.tokenizers.rna import CellTokenizer


def make_screen(n_cells: int, n_genes: int) -> anndata.AnnData:
    """A made-up screen of 100 perturbations and a fifth of controls, with 10% of the genes expressed."""
    rng = np.random.default_rng(0)
    counts = random_sparse(n_cells, n_genes, 0.1, "csr", dtype=np.float32, random_state=rng, data_rvs=lambda n: 1.0 + rng.poisson(1.0, n))
    condition = np.where(rng.random(n_cells) < 0.2, "control", [f"GENE{i}" for i in rng.integers(0, 100, n_cells)])
    obs = pd.DataFrame({"condition": condition, "cell_type": rng.choice(["a", "b"], n_cells)}, index=[f"c{i}" for i in range(n_cells)])
    return anndata.AnnData(counts, obs, pd.DataFrame(index=[f"GENE{i}" for i in range(n_genes)]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=20_000)
    parser.add_argument("--genes", type=int, default=5_000)
    parser.add_argument("--max-tokens", type=int, default=256)
    arguments = parser.parse_args()
    source = PerturbationPairs(make_screen(arguments.cells, arguments.genes), context="cell_type")
    data = ExampleDataModule(source, {"by": "group", "column": "condition", "validation": 0.1, "test": 0.1}, arguments.max_tokens, 64)
    start = time.perf_counter()
    data.connect(CellTokenizer("from_data", order="descending"))
    objectives = Objectives({"perturbation": PerturbationResponse({"mse": 1.0})})
    objectives.connect(data)
    data.objectives = objectives
    print(f"opened, grouped and summed in {time.perf_counter() - start:.1f} s: {source.facts()}")
    train, n = data.parts["train"], 200
    pairs = [[(0, (64 * b + i) % len(train)) for i in range(64)] for b in range(n)]
    numbers = [train.sampler(*np.array(batch, np.int64).T) for batch in pairs]
    for _ in range(2):  # once to compile and to warm up
        start = time.perf_counter()
        for of_batch in numbers:
            raw = source.take(of_batch, np.zeros(64, np.uint64)).parts["input"]
            data.tokenizer.collate(data.tokenizer.encode(raw, np.arange(64, dtype=np.uint64), arguments.max_tokens))
        alone = time.perf_counter() - start
        start = time.perf_counter()
        for batch in pairs:
            data.prepare_batch(train.__getitems__(batch))
        whole = time.perf_counter() - start
    print(f"control cells read and tokenized: {64 * n / alone:,.0f} a second; pairs to batches with labels: {64 * n / whole:,.0f} a second")


if __name__ == "__main__":
    main()
