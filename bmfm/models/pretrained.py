"""Gene vectors learned elsewhere (from DNA, from text, by gene2vec) as the first rows of a gene embedding."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch

from bmfm.models.embeddings import TokenEmbedding


def read_vectors(path: str | Path) -> pd.DataFrame:
    """A table [G, D] of float32 with gene names as its index.

    The first column of a CSV, TSV or Parquet file names the gene, all others are the vector; an ``.npz`` file holds
    ``genes`` [G] and ``vectors`` [G, D].
    """
    from bmfm.files import open_whole, require_file

    file = require_file(path, "table of gene vectors (model.pretrained_genes.path)")
    if file.suffix == ".npz":
        arrays = np.load(file, allow_pickle=False)
        return pd.DataFrame(arrays["vectors"].astype(np.float32), index=arrays["genes"].astype(str))
    if file.suffix == ".parquet":
        table = pd.read_parquet(file)
    else:
        with open_whole(file) as lines:
            table = pd.read_csv(lines, sep="\t" if ".tsv" in file.name else ",")
    if not isinstance(table.index, pd.Index) or table.index.dtype.kind in "iu":
        table = table.set_index(table.columns[0])
    try:
        table = table.astype(np.float32)
    except ValueError as error:
        raise ValueError(f"{file}: every column but the first must be a number; {error}") from None
    if table.isna().any(axis=None):
        raise ValueError(f"{file}: gene {table.index[table.isna().any(axis=1)][0]!r} has a missing number")
    return table


def load_pretrained_embeddings(embedding: TokenEmbedding, vectors: pd.DataFrame, genes: dict[str, int]) -> int:
    """Write the vectors of known genes into the embedding; returns how many genes of the vocabulary have one.

    With ``frozen`` those rows never change; all other genes, and special tokens, are learned.
    """
    pairs = [(genes[str(name)], i) for i, name in enumerate(vectors.index) if str(name) in genes]
    if not pairs:
        raise ValueError(
            f"none of the {len(vectors):,} names in the table of gene vectors (first: {vectors.index[0]!r}) is in the vocabulary"
        )
    ids, rows = (torch.tensor(column) for column in zip(*pairs, strict=True))
    with torch.no_grad():
        embedding.embedding.weight[ids] = torch.from_numpy(vectors.to_numpy()[rows.numpy()])
        if embedding.frozen:
            embedding.trained[ids] = 0
    return len(ids)
