"""What networks over single bases share that are trained on the task alone: codes of bases, the training loop, losses and scores."""

import math
from abc import abstractmethod
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

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
"""Codes 0 to 3 are A, C, G, T; this code is any other base."""
BEYOND = 5
"""The code of what is beyond the end of a sequence."""
COMPLEMENT = torch.tensor([3, 2, 1, 0, N_BASES, BEYOND], dtype=torch.uint8)

SCHEDULES = ("constant", "one_cycle")
STRANDS = ("forward", "both", "auto")


@dataclass(frozen=True)
class NetworkSettings:
    """Training of a network.

    Parameters
    ----------
    lr, weight_decay
        Of AdamW.
    schedule
        ``constant``, or ``one_cycle``: warm-up over the first fifth of all steps, then cosine decay to 0 (Smith and Topin, 2019).
    max_epochs, max_steps
        It is trained for so many epochs, or fewer where they would be more than so many steps, but for one at least.
    patience
        It stops where validation has not improved for so many epochs; None does not stop. It goes back to the best epoch in any case.
    strands
        ``forward``: sequences are read as they are given. ``both``: each training sequence is read as its reverse complement with
        probability 1/2 in every epoch, and scores are the mean over the logits of both strands. ``auto``: as the task is
        fine-tuned, by ``data.reverse_complement`` of its card, where that is ``auto`` as `data.dependence.strand_gain` finds: labels that depend on
        the strand (promoters, splicing, reporters on a plasmid) are lost where both are read alike.
    """

    lr: float = 1e-3
    weight_decay: float = 1e-3
    batch_size: int = 128
    schedule: str = "constant"
    max_epochs: int = 12
    max_steps: int | None = None
    patience: int | None = 3
    strands: str = "forward"

    def __post_init__(self) -> None:
        for name, choices in (("schedule", SCHEDULES), ("strands", STRANDS)):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}={getattr(self, name)!r} is unknown; choose from {', '.join(choices)}")


class NetworkBaseline(LabelMethod):
    """A network over single bases, trained from new weights; the epoch with the lowest validation loss predicts the test part.

    The two sequences of a pair are read one after the other with N between them, and so is their reverse complement.

    Parameters
    ----------
    settings
        Those of `settings_class`.
    """

    omics = ("dna",)
    deterministic = False
    settings_class: ClassVar[type[NetworkSettings]]

    def __init__(self, name: str, **settings: Any):
        super().__init__(name)
        self.settings: Any = self.settings_class(**settings)

    @abstractmethod
    def network(self, n_outputs: int) -> nn.Module:
        """Codes of bases [B, L] to logits [B, outputs], with new weights."""

    def identity(self, task: TaskSpec | None = None) -> dict[str, Any]:
        return super().identity(task) | asdict(self.settings)

    def predict(self, examples: Examples, seed: int, folder: Path) -> dict[str, np.ndarray]:
        codes = torch.from_numpy(base_codes(examples.texts or []))
        return {name: self._predict_one(examples, codes, name, seed) for name in examples.kinds}

    def _predict_one(self, examples: Examples, codes: torch.Tensor, name: str, seed: int) -> np.ndarray:
        labels = {part: examples.labels(part, name).astype(float) for part in ("train", "validation")}
        loss = Loss(labels_as(examples, name), labels["train"])
        of_parts = {part: (codes[examples.parts[part]], of_part) for part, of_part in labels.items()}

        settings = self.settings
        if settings.strands == "auto":
            settings = replace(settings, strands="both" if examples.data.other_strand(examples.kinds) else "forward")
        torch.manual_seed(seed)
        net = self.network(len(examples.kinds[name].classes) or 1)
        train(net, of_parts["train"], of_parts["validation"], loss, settings, seed)
        return loss.scores(logits_of(net, codes[examples.parts["test"]], settings.strands))


def n_epochs(settings: NetworkSettings, n_examples: int) -> int:
    """Epochs that so many training examples are read."""
    if settings.max_steps is None:
        return settings.max_epochs
    return max(1, min(settings.max_epochs, round(settings.max_steps / n_batches(settings, n_examples))))


def n_batches(settings: NetworkSettings, n_examples: int) -> int:
    """Steps of one epoch."""
    return max(1, n_examples // settings.batch_size)


def train(
    net: nn.Module,
    training: tuple[torch.Tensor, np.ndarray],
    validation: tuple[torch.Tensor, np.ndarray],
    loss: "Loss",
    settings: NetworkSettings,
    seed: int,
) -> float:
    """Train a network on codes and labels, leave it as it was after its best epoch, and return the validation loss of that."""
    (codes, labels), order = training, np.random.default_rng(seed)
    n, epochs = n_batches(settings, len(labels)), n_epochs(settings, len(labels))
    optimizer = torch.optim.AdamW(net.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    schedule = one_cycle(optimizer, n * epochs) if settings.schedule == "one_cycle" else None
    best: tuple[float, dict] = (np.inf, net.state_dict())
    n_worse = 0
    for _ in range(epochs):
        net.train()
        for rows in np.array_split(order.permutation(len(labels)), n):
            shown = codes[rows]
            if settings.strands == "both":
                shown = torch.where(torch.from_numpy(order.random(len(rows)) < 0.5)[:, None], reverse_complement(shown), shown)
            optimizer.zero_grad()
            loss(net(shown), labels[rows]).backward()
            optimizer.step()
            if schedule is not None:
                schedule.step()
        validation_loss = float(loss(logits_of(net, validation[0], settings.strands), validation[1]))
        n_worse = 0 if validation_loss < best[0] else n_worse + 1
        if not n_worse:
            best = validation_loss, {k: v.clone() for k, v in net.state_dict().items()}
        if settings.patience is not None and n_worse >= settings.patience:
            break
    net.load_state_dict(best[1])
    return best[0]


def one_cycle(optimizer: torch.optim.Optimizer, n_steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    """Warm-up over the first fifth of all steps, then cosine decay to 0."""
    n_warmup = max(1, n_steps // 5)

    def factor(step: int) -> float:
        if step < n_warmup:
            return (step + 1) / n_warmup
        return 0.5 * (1 + math.cos(math.pi * (step - n_warmup) / max(1, n_steps - n_warmup)))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


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


@torch.no_grad()
def logits_of(net: nn.Module, codes: torch.Tensor, strands: str = "forward") -> torch.Tensor:
    """Logits [n, outputs] in evaluation mode, 512 examples at a time; with ``both`` the mean over both strands."""
    net.eval()
    if strands == "both":
        return torch.cat([(net(chunk) + net(reverse_complement(chunk))) / 2 for chunk in codes.split(512)])
    return torch.cat([net(chunk) for chunk in codes.split(512)])


def one_hot(codes_BL: torch.Tensor) -> torch.Tensor:
    """Codes of bases [B, L] as [B, L, 4], zeros where there is none of the four."""
    return functional.one_hot(codes_BL.long(), BEYOND + 1)[..., :N_BASES].float()


def reverse_complement(codes_BL: torch.Tensor) -> torch.Tensor:
    """The codes of the other strand [B, L], which begins in the first column again, whatever the lengths of the sequences."""
    lengths = (codes_BL != BEYOND).sum(1, keepdim=True)
    place = (lengths - 1 - torch.arange(codes_BL.shape[1])) % codes_BL.shape[1]
    return COMPLEMENT[codes_BL.gather(1, place).long()]


def base_codes(texts: list[str]) -> np.ndarray:
    """Codes of bases [n, longest]: 0 to 3 for A, C, G, T, 4 for all else, 5 beyond the end."""
    code_of = np.full(256, N_BASES, np.uint8)
    for code, letters in enumerate(("Aa", "Cc", "Gg", "TtUu")):
        code_of[[ord(letter) for letter in letters]] = code
    rows = [code_of[np.frombuffer(text.encode("ascii", "replace"), np.uint8)] for text in texts]
    codes = np.full((len(rows), max(map(len, rows))), BEYOND, np.uint8)
    for padded, row in zip(codes, rows, strict=True):
        padded[: len(row)] = row
    return codes
