"""Attention between genes as sparse edges, beside what explains most of it without a model's help.

Attention is no explanation: it can be changed without changing what a model says (Jain and Wallace, NAACL 2019), values and later layers decide
what becomes of it, and most of it follows the gene that is looked at, whoever looks. So every edge comes with that gene's mean attention
(``source_mean``) and with the correlation of the two genes over the same cells (``coexpression``), and the table says how much of it these two tell.
Edges are no gene regulatory network before they were evaluated as one.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.sparse import csr_matrix
from scipy.stats import spearmanr
from tqdm.auto import tqdm

from bmfm.inference.predictor import Predictor
from bmfm.interpret.cells import ChosenCells, cell_tokenizer, choose_cells, gene_id
from bmfm.interpret.edits import shown_genes
from bmfm.interpret.options import CellOptions, known_options
from bmfm.models.backbones.transformer import AttentionBackbone
from bmfm.tokenizers.batch import Batch

ROLLOUT = "rollout"
HEADS = ("mean", "max", "each")


@dataclass(frozen=True)
class AttentionOptions(CellOptions):
    """Which attention becomes edges.

    Attributes
    ----------
    layer
        The number of a layer (-1 is the last), or ``rollout``: the product of ``(A + 1) / 2`` over all layers, with rows that add up to 1 (Abnar and Zuidema, ACL
        2020), whose A is the mean or the largest over the heads.
    heads
        ``mean`` over the heads, the largest (``max``), or edges of ``each`` head by itself, which a rollout has not.
    genes
        Between which genes; None takes the `n_genes` that most cells show.
    n_genes
        See there.
    top_k
        Edges that are kept of each target gene (and head), the heaviest.
    min_cells
        Cells, at least, that must show both genes of an edge.
    """

    max_cells: int | None = 200
    batch_size: int = 8
    layer: int | str = ROLLOUT
    heads: str = "mean"
    genes: Sequence[str] | None = None
    n_genes: int = 500
    top_k: int = 10
    min_cells: int = 5


def attention_edges(predictor: Predictor, data: Any, **options: Any) -> pd.DataFrame:
    """Mean attention between genes over cells, one row an edge.

    Parameters
    ----------
    data
        An AnnData or its path.
    options
        Those of `AttentionOptions`.

    Returns
    -------
    pandas.DataFrame
        ``head`` (``mean``, ``max`` or its number), ``source`` (the gene that is looked at, the key), ``target`` (the gene that looks, the query), ``weight`` (the mean over the cells that show both), ``n_cells``,
        ``source_mean`` (the mean weight of the source over all targets) and ``coexpression`` (Pearson correlation of the values over all
        cells, 0 where a gene is not shown), the heaviest first. ``attrs``: ``spearman``, of each head the rank correlations of the weights of all pairs with these two baselines, ``source_mean``
        and ``coexpression`` (its size), and what was left out.

    Raises
    ------
    ValueError
        If the model has no attention between genes, or names cannot be used.
    """
    chosen = AttentionOptions(**known_options(AttentionOptions, options))
    tokenizer, backbone = cell_tokenizer(predictor), predictor.model.backbone
    if not isinstance(backbone, AttentionBackbone):
        raise ValueError(f"{backbone.name} has no attention from gene to gene: attributions (model.explain) say what its output comes from")
    n_layers = len(backbone.layers)
    if chosen.layer != ROLLOUT and (not isinstance(chosen.layer, int) or not -n_layers <= chosen.layer < n_layers):
        raise ValueError(f"layer={chosen.layer!r}: give rollout, or the number of one of the {n_layers} layers")
    if chosen.heads not in HEADS or (chosen.heads == "each" and chosen.layer == ROLLOUT):
        raise ValueError(f"heads={chosen.heads!r}: choose from {', '.join(HEADS)}; each, of one layer")
    cells = choose_cells(predictor, data, chosen)
    values = _values(cells, len(tokenizer))
    ids = _genes(predictor, values, chosen)
    place = np.full(len(tokenizer), -1)
    place[ids] = np.arange(len(ids))
    totals: Any = 0.0  # [heads, G, G]
    n = np.zeros((len(ids), len(ids)), np.int64)
    with tqdm(total=cells.inputs.n_rows, unit="cell", disable=chosen.progress is False, delay=0 if chosen.progress else 3) as bar:
        for rows, batch in predictor.batches(cells.inputs, chosen.batch_size):
            maps = attention_maps(predictor, batch, chosen.layer, chosen.heads, chosen.precision).cpu().numpy()
            if not np.ndim(totals):
                totals = np.zeros((maps.shape[1], *n.shape))
            for weights, of_row, is_special in zip(
                maps, batch["input_ids"].cpu().numpy(), batch["special_tokens_mask"].cpu().numpy(), strict=True
            ):
                at = np.flatnonzero(~is_special & (place[of_row] >= 0))
                pair = np.ix_(place[of_row[at]], place[of_row[at]])
                totals[:, *pair] += weights[:, at[:, None], at]
                n[pair] += 1
            bar.update(len(rows))
    return _edges(predictor, ids, totals, n, values, chosen, cells)


def attention_maps(
    predictor: Predictor, batch: Batch, layer: int | str = ROLLOUT, heads: str = "mean", precision: str | None = None
) -> torch.Tensor:
    """Attention of one layer, or the rollout over all [N, 1, L, L], of ``each`` head [N, heads, L, L]: row the query, column the key."""
    backbone = predictor.model.backbone
    assert isinstance(backbone, AttentionBackbone)
    with _recorded(backbone, heads) as maps, torch.no_grad():
        predictor.forward(batch, precision=precision)
    if layer != ROLLOUT:
        assert isinstance(layer, int)
        return maps[layer]
    identity = torch.eye(maps[0].shape[-1], device=maps[0].device)
    total = identity.expand_as(maps[0])
    for weights in maps:
        mixed = (weights + identity) / 2
        total = mixed / mixed.sum(-1, keepdim=True) @ total
    return total


@contextmanager
def _recorded(backbone: AttentionBackbone, heads: str) -> Iterator[list[torch.Tensor]]:
    """A list that fills with the attention of each layer [N, 1 or heads, L, L] while the body runs the model, with the kernel that gives weights."""
    before, maps = backbone.attention, []

    def record(module: torch.nn.Module, arguments: object, output: Any) -> None:
        if isinstance(output, tuple) and len(output) > 1 and isinstance(output[1], torch.Tensor) and output[1].ndim == 4:
            weights = output[1].float()
            of_layer.append(weights if heads == "each" else weights.amax(1, True) if heads == "max" else weights.mean(1, True))

    of_layer: list[torch.Tensor] = []

    def end_layer(module: torch.nn.Module, arguments: object, output: Any) -> None:
        if not of_layer:
            raise ValueError(f"layers of {backbone.name} do not give their attention weights")
        maps.append(of_layer[0])
        of_layer.clear()

    hooks = [part.register_forward_hook(record) for layer in backbone.layers for part in layer.modules() if part is not layer]
    hooks += [layer.register_forward_hook(end_layer) for layer in backbone.layers]
    backbone.use_attention("eager")
    try:
        yield maps
    finally:
        backbone.use_attention(before)
        for hook in hooks:
            hook.remove()


def _values(cells: ChosenCells, n_genes: int) -> csr_matrix:
    """Values that the cells show [n, V]."""
    row, gene, value = [], [], []
    for start, tokens in cells.inputs.chunks():
        of_row, of_gene, of_value = shown_genes(tokens)
        row.append(start + of_row)
        gene.append(of_gene)
        value.append(of_value)
    entries = (np.concatenate(value), (np.concatenate(row), np.concatenate(gene)))
    return csr_matrix(entries, (cells.inputs.n_rows, n_genes))


def _genes(predictor: Predictor, values: csr_matrix, options: AttentionOptions) -> np.ndarray:
    """Ids of the genes between which edges are sought."""
    if options.genes is not None:
        return np.array(sorted({gene_id(predictor, gene) for gene in options.genes}), np.int64)
    n_cells = np.asarray((values > 0).sum(0)).ravel()
    most = np.argsort(-n_cells, kind="stable")[: options.n_genes]
    return np.sort(most[n_cells[most] >= options.min_cells])


def _edges(
    predictor: Predictor,
    ids: np.ndarray,
    totals: np.ndarray,
    n: np.ndarray,
    values: csr_matrix,
    options: AttentionOptions,
    cells: ChosenCells,
) -> pd.DataFrame:
    names = np.array(predictor.tokenizer.names, object)[ids]
    kept = (n >= options.min_cells) & ~np.eye(len(ids), dtype=bool)
    if not kept.any():
        raise ValueError(f"no two of the {len(ids):,} genes are shown together by {options.min_cells} cells (min_cells)")
    with np.errstate(divide="ignore", invalid="ignore"):
        coexpression = np.nan_to_num(np.corrcoef(values[:, ids].toarray().astype(np.float64), rowvar=False)).reshape(len(ids), len(ids))
    tables, spearman = [], {}
    for number, total in enumerate(totals):
        head = number if options.heads == "each" else options.heads
        weight = np.where(kept, total / np.maximum(n, 1), np.nan)
        source_mean = np.nansum(weight, 0) / np.maximum(kept.sum(0), 1)
        order = np.argsort(-np.nan_to_num(weight, nan=-np.inf), 1, kind="stable")[:, : options.top_k]
        target, source = np.repeat(np.arange(len(ids)), order.shape[1]), order.ravel()
        edges = kept[target, source]
        target, source = target[edges], source[edges]
        tables.append(pd.DataFrame(
            {
                "head": head, "source": names[source], "target": names[target], "weight": weight[target, source], "n_cells": n[target, source],
                "source_mean": source_mean[source], "coexpression": coexpression[target, source],
            }
        ))  # fmt: skip
        baselines = {"source_mean": np.broadcast_to(source_mean, weight.shape)[kept], "coexpression": np.abs(coexpression)[kept]}
        spearman[str(head)] = {name: float(spearmanr(weight[kept], x).statistic) for name, x in baselines.items()}
    table = pd.concat(tables).sort_values("weight", ascending=False, kind="stable").reset_index(drop=True)
    table.attrs = {
        "layer": options.layer, "n_cells": cells.inputs.n_rows, "n_genes": len(ids), "n_pairs_seen_together_too_rarely": int((~kept).sum() - len(ids)),
        "spearman": spearman, "note": "attention is weak evidence: compare weights with source_mean and coexpression",
    }  # fmt: skip
    return table
