"""A small convolutional network, trained on the task alone."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from bmfm.evaluation.examples.base import Examples
from bmfm.evaluation.methods.base import LabelMethod
from bmfm.evaluation.methods.probe import labels_as
from bmfm.evaluation.task_spec import TaskSpec
from bmfm.special import IGNORE

N_BASES = 4
"""Codes 0 to 3 are A, C, G, T; this code is all else, and what is beyond the end."""


@dataclass(frozen=True)
class CnnSettings:
    """Shape and training of the network.

    Parameters
    ----------
    channels, width
        Of the first convolution, whose filters span `width` bp; the second has as many channels.
    max_epochs, patience
        It stops where validation has not improved for `patience` epochs, and goes back to the best.
    """

    channels: int = 64
    width: int = 12
    dropout: float = 0.3
    lr: float = 1e-3
    batch_size: int = 128
    max_epochs: int = 12
    patience: int = 3


class CnnBaseline(LabelMethod):
    """Two convolutions over one-hot bases, pooled; trained with early stopping on validation.

    Parameters
    ----------
    settings
        See `CnnSettings`.
    """

    omics = ("dna",)
    deterministic = False

    def __init__(self, name: str, **settings: Any):
        super().__init__(name)
        self.settings = CnnSettings(**settings)

    def identity(self, task: TaskSpec | None = None) -> dict[str, Any]:
        return super().identity(task) | asdict(self.settings)

    def predict(self, examples: Examples, seed: int, folder: Path) -> dict[str, np.ndarray]:
        codes = torch.from_numpy(base_codes(examples.texts or []))
        return {name: self._predict_one(examples, codes, name, seed) for name in examples.kinds}

    def _predict_one(self, examples: Examples, codes: torch.Tensor, name: str, seed: int) -> np.ndarray:
        kind, parts = labels_as(examples, name), examples.parts
        torch.manual_seed(seed)
        order = np.random.default_rng(seed)
        train_labels = examples.labels("train", name).astype(float)
        loss = Loss(kind, train_labels)
        net = small_cnn(self.settings, len(examples.kinds[name].classes) or 1)
        optimizer = torch.optim.AdamW(net.parameters(), lr=self.settings.lr, weight_decay=1e-3)
        best: tuple[float, dict] = (np.inf, {})
        n_worse = 0
        for _ in range(self.settings.max_epochs):
            net.train()
            shuffled = order.permutation(len(train_labels))
            for rows in np.array_split(shuffled, max(1, len(shuffled) // self.settings.batch_size)):
                optimizer.zero_grad()
                loss(net(codes[parts["train"][rows]]), train_labels[rows]).backward()
                optimizer.step()
            validation = float(loss(logits_of(net, codes[parts["validation"]]), examples.labels("validation", name).astype(float)))
            n_worse = 0 if validation < best[0] else n_worse + 1
            if not n_worse:
                best = validation, {k: v.clone() for k, v in net.state_dict().items()}
            if n_worse >= self.settings.patience:
                break
        net.load_state_dict(best[1])
        return loss.scores(logits_of(net, codes[parts["test"]]))


class Loss:
    """The loss of one kind of labels, and scores from logits; numbers are standardised by the training part.

    Parameters
    ----------
    kind
        ``classification``, ``multilabel`` or ``regression``.
    train_labels
        Of the training part [n] or [n, C].
    """

    def __init__(self, kind: str, train_labels: np.ndarray):
        self.kind, self.center, self.scale = kind, 0.0, 1.0
        if kind == "regression":
            self.center, self.scale = float(np.nanmean(train_labels)), float(np.nanstd(train_labels)) or 1.0

    def __call__(self, logits: torch.Tensor, labels: np.ndarray) -> torch.Tensor:
        if self.kind == "classification":
            return functional.cross_entropy(logits, torch.from_numpy(labels.astype(np.int64)), ignore_index=IGNORE)
        is_labelled = torch.from_numpy(~np.isnan(labels))
        if self.kind == "regression":
            standardised = torch.from_numpy(((labels - self.center) / self.scale).astype(np.float32))
            return functional.mse_loss(logits[is_labelled, 0], standardised[is_labelled])
        outcomes = torch.from_numpy(np.nan_to_num(labels).astype(np.float32))
        return functional.binary_cross_entropy_with_logits(logits[is_labelled], outcomes[is_labelled])

    def scores(self, logits: torch.Tensor) -> np.ndarray:
        """Probabilities [n, C], or numbers [n]."""
        if self.kind == "regression":
            return logits[:, 0].numpy() * self.scale + self.center
        return (logits.softmax(1) if self.kind == "classification" else logits.sigmoid()).numpy().astype(float)


class OneHot(nn.Module):
    """Codes of bases [B, L] to channels [B, 4, L], zeros where there is no base."""

    def forward(self, codes_BL: torch.Tensor) -> torch.Tensor:
        return functional.one_hot(codes_BL.long(), N_BASES + 1)[..., :N_BASES].transpose(1, 2).float()


class MeanAndMax(nn.Module):
    """Mean and maximum over positions: [B, C, L] to [B, 2 C]."""

    def forward(self, x_BCL: torch.Tensor) -> torch.Tensor:
        return torch.cat([x_BCL.mean(2), x_BCL.amax(2)], 1)


def small_cnn(s: CnnSettings, n_outputs: int) -> nn.Module:
    """Codes of bases [B, L] to logits [B, outputs]."""
    return nn.Sequential(
        OneHot(),
        nn.Conv1d(N_BASES, s.channels, s.width, padding=s.width // 2), nn.ReLU(), nn.MaxPool1d(2, ceil_mode=True),
        nn.Conv1d(s.channels, s.channels, 5, padding=2), nn.ReLU(), MeanAndMax(), nn.Dropout(s.dropout),
        nn.Linear(2 * s.channels, n_outputs),
    )  # fmt: skip


@torch.no_grad()
def logits_of(net: nn.Module, codes: torch.Tensor) -> torch.Tensor:
    """Logits [n, outputs] in evaluation mode, 512 examples at a time."""
    net.eval()
    return torch.cat([net(chunk) for chunk in codes.split(512)])


def base_codes(texts: list[str]) -> np.ndarray:
    """Codes of bases [n, longest]: 0 to 3 for A, C, G, T, 4 for all else and beyond the end."""
    code_of = np.full(256, N_BASES, np.uint8)
    for code, letters in enumerate(("Aa", "Cc", "Gg", "TtUu")):
        code_of[[ord(letter) for letter in letters]] = code
    rows = [code_of[np.frombuffer(text.encode("ascii", "replace"), np.uint8)] for text in texts]
    codes = np.full((len(rows), max(map(len, rows))), N_BASES, np.uint8)
    for padded, row in zip(codes, rows, strict=True):
        padded[: len(row)] = row
    return codes
