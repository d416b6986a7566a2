"""Masked language modelling of discrete tokens: of DNA, or of a cell's genes."""

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch.nn import functional

from bmfm.data.spec import DataSpec
from bmfm.genome.alphabet import BASES
from bmfm.objectives.masking import Masking
from bmfm.objectives.objective import HasHeads, Loss, Objective
from bmfm.special import IGNORE
from bmfm.tokenizers.batch import Batch

PARTS = ("reference", "variant")
SALT = 23
"""Of the draws of hidden tokens."""


class MaskedLanguageModel(Objective):
    """Predict hidden tokens from both sides.

    The label is the token that is hidden, or where the batch has ``label_probs`` at its place, that distribution over the four bases: the
    loss is then the cross entropy with it, and accuracy and the unigram's loss are expectations under it.

    Parameters
    ----------
    masking
        Which tokens are hidden.
    tied
        Whether the head's matrix is the token embedding.
    weight
        Of this loss among all.
    """

    def __init__(self, masking: Masking, tied: bool = True, weight: float = 1.0):
        super().__init__()
        self.masking, self.tied, self.weights = masking, tied, {"cross_entropy": weight}

    def setup(self, name: str, spec: DataSpec) -> None:
        counts = spec.statistics["token_counts"]
        self.name, self.plain_ids, self.vocabulary = name, spec.plain_ids, spec.vocabulary
        self.heads = {name: {"size": len(self.vocabulary), "transform": True, "tied": "input_ids" if self.tied else None}}
        self.masking.setup(self.vocabulary)
        self.unigram = self.baseline = torch.from_numpy(np.log((counts + 1) / (counts + 1).sum())).float()

    def prepare(self, batch: Batch, keys: np.ndarray, training: bool = True) -> None:
        """Hide tokens in ``input_ids`` and add their ids as labels [B, L]."""
        mask_action = self.masking.choose(batch, keys, SALT, training)
        batch["labels"][self.name] = torch.where(torch.from_numpy(mask_action > 0), batch["original_ids"], IGNORE)
        self.masking.replace_ids(batch, keys, mask_action, self.plain_ids)

    def label_counts(self, batch: Batch) -> dict[str, torch.Tensor]:
        return {"cross_entropy": (batch["labels"][self.name] != IGNORE).sum()}

    def _logits(self, model: HasHeads, batch: Batch, hidden_BLH: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Logits [M, V], labels [M] and places [M] of the M hidden tokens; the head sees nothing else."""
        labels = batch["labels"][self.name].flatten()
        places = (labels != IGNORE).nonzero().squeeze(1)
        hidden_MH = hidden_BLH.flatten(0, 1).index_select(0, places)
        return model.head(self.name, hidden_MH), labels[places], places

    def _soft_labels(self, batch: Batch, places: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Which of the hidden tokens have a distribution as their label, [m] numbers, and these distributions [m, V]."""
        probs = batch["label_probs"].flatten(0, 1)[places].float()
        rows = (~probs[:, 0].isnan()).nonzero().squeeze(1)
        targets = torch.zeros(len(rows), len(self.vocabulary), device=probs.device)
        targets[:, [self.vocabulary.index(base) for base in BASES[:4]]] = probs[rows]
        return rows, targets

    def losses(self, model: HasHeads, batch: Batch, hidden_BLH: torch.Tensor) -> dict[str, Loss]:
        logits, labels, places = self._logits(model, batch, hidden_BLH)
        if "label_probs" in batch:
            total = _cross_entropies(logits.float(), labels, *self._soft_labels(batch, places)).sum()
        else:
            total = functional.cross_entropy(logits.float(), labels, reduction="sum")
        return {"cross_entropy": Loss(total, torch.tensor(len(labels), device=total.device), self.weights["cross_entropy"])}

    def update_metrics(self, model: HasHeads, batch: Batch, hidden_BLH: torch.Tensor) -> dict[str, torch.Tensor]:
        """``loss/cross_entropy`` [3], ``parts`` [2, 4] (without, with a variant; tokens, loss, hits, unigram loss)."""
        logits, labels, places = self._logits(model, batch, hidden_BLH)
        self.unigram = self.unigram.to(labels.device)
        hits, unigram_loss = (logits.argmax(1) == labels).float(), -self.unigram[labels]
        if "label_probs" in batch:
            rows, targets = self._soft_labels(batch, places)
            loss = _cross_entropies(logits.float(), labels, rows, targets)
            hits = hits.index_copy(0, rows, targets.gather(1, logits[rows].argmax(1, keepdim=True))[:, 0])
            unigram_loss = unigram_loss.index_copy(0, rows, -targets @ self.unigram)
        else:
            loss = functional.cross_entropy(logits.float(), labels, reduction="none")
        columns = torch.stack([torch.ones_like(loss), loss, hits, unigram_loss], 1).double()
        variant = batch["has_variant"].flatten()[places] if "has_variant" in batch else torch.zeros_like(labels, dtype=torch.bool)
        parts = torch.stack([~variant, variant]).double() @ columns
        n, total, _, unigram = parts.sum(0)
        sums = {"loss/cross_entropy": torch.stack([total, n, unigram]), "parts": parts}
        if self.masking.adaptive:
            by_gene = torch.zeros(len(self.vocabulary), 2, dtype=torch.float64, device=labels.device)
            sums["errors"] = by_gene.index_add_(0, labels, columns[:, [1, 0]])
        return sums

    def adapt(self, sums: Mapping[str, torch.Tensor]) -> None:
        if "errors" in sums:
            self.masking.adapt(*sums["errors"].unbind(1))

    def compute_metrics(self, sums: Mapping[str, torch.Tensor]) -> dict[str, float]:
        """Metrics over all hidden tokens, and where there are variants, by part."""
        parts = sums["parts"]
        metrics: dict[str, float] = {}
        by_part = [(f"_{part}", row) for part, row in zip(PARTS, parts, strict=True)] if parts[1, 0] else []
        for suffix, row in (("", parts.sum(0)), *by_part):
            n, loss, hits, unigram = row.tolist()
            metrics[f"tokens{suffix}"] = n
            if n:
                metrics |= {f"loss{suffix}": loss / n, f"perplexity{suffix}": math.exp(min(loss / n, 50.0))}
                metrics |= {f"accuracy{suffix}": hits / n, f"unigram_loss{suffix}": unigram / n}
        return metrics

    def rows(self, metrics: Mapping[str, float]) -> list[tuple[str, str]]:
        return [
            (
                label,
                f"loss {metrics[f'loss{part}']:.4f} (unigram {metrics[f'unigram_loss{part}']:.4f}), "
                f"accuracy {metrics[f'accuracy{part}']:.4f}, perplexity {metrics[f'perplexity{part}']:.1f}, n = {metrics[f'tokens{part}']:,.0f}",
            )
            for part, label in (("", "all hidden tokens"), ("_reference", "without a variant"), ("_variant", "with a variant"))
            if f"loss{part}" in metrics
        ]

    def state_dict(self) -> dict:
        return self.masking.state_dict()

    def load_state_dict(self, state: dict) -> None:
        self.masking.load_state_dict(state)


def _cross_entropies(logits: torch.Tensor, labels: torch.Tensor, rows: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Losses [M] of logits [M, V] by labels [M], and of those `rows` [m] that have one by distributions `targets` [m, V]."""
    hard = functional.cross_entropy(logits, labels, reduction="none")
    return hard.index_copy(0, rows, functional.cross_entropy(logits[rows], targets, reduction="none"))
