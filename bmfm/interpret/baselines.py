"""Baselines of cells, and the part of an attribution that goes through the summary of a cell to its genes.

A model whose [CLS] gets a summary (`models.summary`) sees every gene twice: as a token, and in the summary. Both begin at the baseline
and go to the cell on one path, so that nothing of what a gene does is lost. What [CLS] gets along it is shared out among the genes: the summary is
a sum over genes, a norm and a linear map; with the mean and the scale of the norm as they are at the cell (and, of the baseline, as they are there),
it is exactly the sum of one vector for each gene.
"""

from typing import Any, NamedTuple

import numpy as np
import torch

from bmfm.inference.predictor import Predictor
from bmfm.interpret.attributions import Attributions, with_content
from bmfm.models.embeddings import TokenEmbedding
from bmfm.models.summary import CellSummary, weighted_sums
from bmfm.special import MASK
from bmfm.tokenizers.batch import Batch


class CellBaseline(NamedTuple):
    """Where the paths of the cells of a batch begin.

    Attributes
    ----------
    embeddings
        [N, L, H].
    profile
        [nnz] values, at the baseline, of the genes of ``batch["shown_profile"]``; None of models without a summary.
    """

    embeddings: torch.Tensor
    profile: torch.Tensor | None


def cell_baseline(predictor: Predictor, batch: Batch, kind: str, means: np.ndarray | None = None) -> CellBaseline:
    """The baseline of a batch of cells.

    Parameters
    ----------
    kind
        ``zero_value``, ``mask`` (which the summary knows as 0) or ``mean_cell``.
    means
        [V] mean value of each gene, for ``mean_cell``.

    Raises
    ------
    ValueError
        If the model reads no values.
    """
    if "values" not in batch or "values" not in predictor.model.config.fields:
        raise ValueError(
            "this model reads no values of genes, so that there is no path along them: choose method=occlusion baseline=absent"
        )
    content, values = batch["content_index"], batch["values"].clone()
    of_genes = None if means is None else torch.from_numpy(means).to(values)
    flat = values.view(-1)
    if kind == "mean_cell":
        assert of_genes is not None
        flat[content] = of_genes[batch["input_ids"].flatten()[content]]
    else:
        flat[content] = -(MASK + 1.0) if kind == "mask" else 0.0
    embeddings = with_content(predictor, batch, values=values)
    if not isinstance(_summary(predictor), CellSummary):
        return CellBaseline(embeddings, None)
    shown = batch["shown_profile"]
    of_profile = torch.zeros_like(shown["value"]) if kind != "mean_cell" or of_genes is None else of_genes[shown["gene"]]
    other: Any = {**batch, "shown_profile": {**shown, "value": of_profile}}
    first = batch["cls_index"]
    with torch.no_grad():
        of_cls = predictor.model.embed(other).flatten(0, 1)[first]
        embeddings = embeddings.flatten(0, 1).index_copy(0, first, of_cls).view_as(embeddings)
    return CellBaseline(embeddings, of_profile)


def of_summary(predictor: Predictor, batch: Batch, baseline: CellBaseline, found: Attributions) -> torch.Tensor:
    """What the genes of ``batch["shown_profile"]`` [nnz] contribute through the summary; of a cell they add up to the attribution of [CLS]."""
    encoder, tokens = _summary(predictor), predictor.model.embeddings.encoder("input_ids")
    assert isinstance(encoder, CellSummary) and baseline.profile is not None
    shown, n = batch["shown_profile"], len(batch["cls_index"])
    with torch.no_grad():
        table = tokens.embedding.weight if isinstance(tokens, TokenEmbedding) else tokens.table()
        project = tokens.project if isinstance(tokens, TokenEmbedding) else torch.nn.Identity()
        gradient = found.gradient.flatten(0, 1)[batch["cls_index"]] @ encoder.dense.weight.float() * encoder.norm.weight.float()
        gradient = gradient - gradient.mean(1, keepdim=True)
        total = torch.zeros_like(shown["value"])
        for sign, values in ((1.0, shown["value"]), (-1.0, baseline.profile)):
            sums = project(weighted_sums(table, shown["gene"], values, shown["row"], n)).float()
            scaled = gradient / (sums.var(1, unbiased=False, keepdim=True) + encoder.norm.eps).sqrt()
            if isinstance(project, torch.nn.Linear):
                scaled = scaled @ project.weight.float()
            for some in torch.arange(len(values), device=values.device).split(1 << 16):
                total[some] += sign * values[some] * (table[shown["gene"][some]].float() * scaled[shown["row"][some]]).sum(1)
    return total


def _summary(predictor: Predictor) -> Any:
    return predictor.model.embeddings.encoder("summary") if "summary" in predictor.model.config.fields else None
