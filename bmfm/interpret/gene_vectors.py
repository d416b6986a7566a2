"""Embeddings of genes: a table, neighbours, and which gene sets these are of."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import false_discovery_control, hypergeom

from bmfm.files import open_whole, require_file
from bmfm.inference.predictor import Predictor
from bmfm.interpret.cells import cell_tokenizer, gene_id


def gene_embeddings(predictor: Predictor) -> pd.DataFrame:
    """The embedding of every gene of a model, as its input has it [genes, H], float32; rows are genes by name."""
    tokenizer = cell_tokenizer(predictor)
    first, end = tokenizer.plain_ids
    table = predictor.model.embedding_table().detach().float().cpu().numpy()
    return pd.DataFrame(table[first:end], index=pd.Index(tokenizer.names[first:end], name="gene"))


def neighbours(predictor: Predictor, gene: str, k: int = 20) -> pd.DataFrame:
    """The genes whose embeddings are nearest to that of a gene, by the cosine once the mean of all genes is taken off.

    Parameters
    ----------
    gene
        A symbol, an alias or an Ensembl id.
    k
        How many.

    Returns
    -------
    pandas.DataFrame
        ``gene`` and ``cosine``, the nearest first.

    Raises
    ------
    ValueError
        If the model does not know the gene, or `k` is no number of others.
    """
    vectors = gene_embeddings(predictor)
    if isinstance(k, bool) or not 1 <= k < len(vectors):
        raise ValueError(f"k={k!r} must be from 1 to {len(vectors) - 1:,}, the number of other genes")
    values = vectors.to_numpy(np.float64)
    values = values - values.mean(0)
    values /= np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
    place = gene_id(predictor, gene) - cell_tokenizer(predictor).plain_ids[0]
    cosine = values @ values[place]
    cosine[place] = -np.inf
    nearest = np.argsort(-cosine, kind="stable")[:k]
    return pd.DataFrame({"gene": vectors.index[nearest], "cosine": cosine[nearest]})


def enrichment(genes: Sequence[str], gene_sets: Any, background: Sequence[str]) -> pd.DataFrame:
    """Gene sets that some genes are enriched in, by the hypergeometric distribution.

    Parameters
    ----------
    genes
        Some of the background.
    gene_sets
        {name: genes}, or a GMT file.
    background
        All genes that might have been among `genes`; those of a set that are not in it are left out, and counted.

    Returns
    -------
    pandas.DataFrame
        For each set of which something is in the background: ``set``, ``overlap``, ``size`` (in the background), ``n_left_out``, ``fold`` (overlap over what is expected),
        ``p`` of so many or more, ``fdr`` (Benjamini and Hochberg over all sets), ``genes``; the smallest p first.

    Raises
    ------
    ValueError
        If no set has a gene of the background.
    """
    sets = gene_sets if isinstance(gene_sets, Mapping) else read_gmt(gene_sets)
    chosen, every, rows = set(genes), set(background), []
    for name, members in sets.items():
        known = set(members) & every
        if not known:
            continue
        both = sorted(known & chosen)
        p = float(hypergeom.sf(len(both) - 1, len(every), len(known), len(chosen & every)))
        expected = len(known) * len(chosen & every) / len(every)
        left_out = len(set(members)) - len(known)
        rows.append((name, len(both), len(known), left_out, len(both) / expected if expected else np.nan, p, ", ".join(both)))
    if not rows:
        raise ValueError(
            f"none of the {len(sets):,} gene sets has a gene that the model knows: their genes must be symbols, as those of the model"
        )
    table = pd.DataFrame(rows, columns=["set", "overlap", "size", "n_left_out", "fold", "p", "genes"])
    table.insert(6, "fdr", false_discovery_control(table["p"]))
    return table.sort_values("p", kind="stable").reset_index(drop=True)


def read_gmt(path: str | Path) -> dict[str, list[str]]:
    """Gene sets of a GMT file, maybe gzipped: a set a line, its name, a description and its genes, with tabs between them.

    Raises
    ------
    ValueError
        Naming the file and the line that is none, or a name that stands twice.
    """
    sets: dict[str, list[str]] = {}
    file = require_file(path, "file of gene sets (GMT)")
    with open_whole(file) as stream:
        for number, line in enumerate(stream, 1):
            name, *rest = (part.strip() for part in line.decode().rstrip("\r\n").split("\t"))
            if not name and not rest:
                continue
            if not name or len(rest) < 2:
                raise ValueError(f"{file}, line {number}: a gene set needs a name, a description and genes, with tabs between them")
            if name in sets:
                raise ValueError(f"{file}, line {number}: the gene set {name!r} stands twice; give each a name of its own")
            sets[name] = [gene for gene in rest[1:] if gene]
    return sets
