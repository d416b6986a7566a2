"""Baselines of cells, and the part of an attribution that goes through the summary of a cell to its genes.

A model whose [CLS] gets a summary (`models.summary`) sees every gene twice: as a token, and in the summary. Both begin at the baseline
and go to the cell on one path, so that nothing of what a gene does is lost. What [CLS] gets along it is shared out among the genes: the summary is
a sum over genes, a norm and a linear map, and what changes in it is exactly a sum over the genes whose values change (`_per_value`).
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
    check_reads_values(predictor)
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


def check_reads_values(predictor: Predictor) -> None:
    """ValueError for a model of the rank or the presence of genes, whose values can be no others."""
    if "values" not in predictor.model.config.fields:
        raise ValueError("this model reads no values of genes, which a baseline could change: choose method=occlusion baseline=absent")


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
        of_cell, of_baseline = (
            project(weighted_sums(table, shown["gene"], values, shown["row"], n)).float() for values in (shown["value"], baseline.profile)
        )
        per_value = _per_value(gradient, of_cell, of_baseline, encoder.norm.eps)
        if isinstance(project, torch.nn.Linear):
            per_value = per_value @ project.weight.float()
        change = shown["value"] - baseline.profile
        for some in torch.arange(len(change), device=change.device).split(1 << 16):
            change[some] *= (table[shown["gene"][some]].float() * per_value[shown["row"][some]]).sum(1)
    return change


def _per_value(gradient: torch.Tensor, cell: torch.Tensor, baseline: torch.Tensor, eps: float) -> torch.Tensor:
    """Vectors [N, H] whose products with what each gene changes in a sum [N, H] add up to what changes in ``gradient . norm(sum)``.

    From nothing to a cell, the scale s = 1 / standard deviation of the norm is that of the cell. Between two sums x and b, the change of x s is
    (x - b) times the mean scale, and the mean of x and b times the change of the scale; and that is a sum over genes, too, since the
    variances differ by (x - b) . (x + b) / H, of centred sums.
    """
    (of_cell, of_baseline), size = (x.var(1, unbiased=False, keepdim=True) for x in (cell, baseline)), cell.shape[1]
    at_cell, at_baseline = ((x + eps).sqrt() for x in (of_cell, of_baseline))
    both = cell + baseline
    both = both - both.mean(1, keepdim=True)
    by_scale = (both * gradient).sum(1, keepdim=True) / 2 * both / (size * at_cell * at_baseline * (at_cell + at_baseline))
    between = gradient * (1 / at_cell + 1 / at_baseline) / 2 - by_scale
    return torch.where(of_baseline == 0, gradient / at_cell, between)


def _summary(predictor: Predictor) -> Any:
    return predictor.model.embeddings.encoder("summary") if "summary" in predictor.model.config.fields else None
