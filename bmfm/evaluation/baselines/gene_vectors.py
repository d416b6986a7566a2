"""Vectors of genes by name: from a table, from the embeddings of a model of cells, or drawn."""

from collections.abc import Callable
from hashlib import blake2b

import numpy as np
import pandas as pd

RANDOM = "random"
"""In place of a table or model: vectors that are drawn."""


def random_vector(name: str, size: int, seed: int) -> np.ndarray:
    """Standard normal numbers [size], a function of the name and the seed alone."""
    key = int.from_bytes(blake2b(f"{seed}|{name}".encode(), digest_size=8).digest())
    return np.random.default_rng(key).normal(size=size)


def vectors_of_table(path: str) -> Callable[[str], np.ndarray | None]:
    """Vectors of the names in a table's first column; ValueError where one repeats, or a value is no number."""
    from bmfm.data.tables import read_table

    table = read_table(path, ids=[0])
    table = table if isinstance(table.index, pd.RangeIndex) else table.reset_index()
    names, rest = table.iloc[:, 0].astype(str), table.iloc[:, 1:]
    if (repeated := names[names.duplicated()]).size:
        raise ValueError(f"{path}: {repeated.iloc[0]!r} stands in two rows; keep one vector of each gene")
    if (
        not rest.shape[1]
        or not all(np.issubdtype(dtype, np.number) for dtype in rest.dtypes)
        or not np.isfinite(rest.to_numpy(float)).all()
    ):
        raise ValueError(f"{path}: the first column must hold names of genes, and all others numbers, without missing values")
    vectors = dict(zip(names, rest.to_numpy(float), strict=True))
    return vectors.get


def vectors_of_model(name: str) -> Callable[[str], np.ndarray | None]:
    """Embeddings of genes of a model of cells; ValueError where it has none."""
    from bmfm.inference.loading import load
    from bmfm.tokenizers.rna import CellTokenizer

    predictor = load(name, device="cpu")
    tokenizer = predictor.tokenizer
    if not isinstance(tokenizer, CellTokenizer) or tokenizer.vocabulary is None:
        raise ValueError(f"{name} is a model of {tokenizer.omics}, which has no embeddings of genes; give a table of vectors of genes")
    rows = predictor.model.embedding_table().detach().numpy().astype(float)

    find = tokenizer.vocabulary.find

    def vector(gene: str) -> np.ndarray | None:
        number = find(gene)[0]
        return rows[number] if number >= 0 else None

    return vector
