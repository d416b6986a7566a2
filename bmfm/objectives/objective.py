"""The contract of objectives: what a model is trained for."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import NamedTuple, Protocol

import numpy as np
import torch

from bmfm.data.spec import DataSpec
from bmfm.tokenizers.batch import Batch


class Loss(NamedTuple):
    """Sum of a loss over its labels, the number of labels (or their summed weight), and the weight among all losses."""

    total: torch.Tensor
    n: torch.Tensor
    weight: float = 1.0


class HasHeads(Protocol):
    """What an objective uses of a model."""

    def head(self, name: str, states_MH: torch.Tensor) -> torch.Tensor:
        """Logits [M, size] of one head for M states."""
        ...

    def pool(self, hidden_BLH: torch.Tensor, batch: Batch, pooling: str | int | None = None) -> torch.Tensor:
        """One state an example [N, H]."""
        ...

    def label(self, name: str, hidden_BLH: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Logits [N, size] of a head of examples."""
        ...

    def perturbation_targets(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """The cell [T] and the vector [T, H] of each target of a perturbation."""
        ...


class Objective(ABC):
    """Labels from a batch, the heads that predict them, losses with names, and metrics as sums.

    Attributes
    ----------
    name
        The head's, the metrics' and, for labels, by default the column's.
    needs
        What it wants of the data beside tokens: ``full_profile`` (every gene of a cell), ``shown_in_part`` (held-out cells with
        dropout and thinning as in training, for what reconstructs the rest), ``hidden_counts`` (of cells whose counts the tokenizer splits),
        or nothing.
    heads
        {name: description} (`models.heads.Heads`), known once it is set up.
    baseline
        Logits [size] that know nothing of the input, as the frequencies of tokens: where the head's bias begins.
    weights
        {loss: weight}.
    monitored
        Whether its losses are part of the one that chooses the best checkpoint; those of labels that the encoder shall forget are not.
    unscored
        Parts (validation, test) that have no label of it.
    labels
        {name: labels of all examples [n, ...], or of all their tokens, n arrays}, which the data put into every batch.
    notes
        {what: figures} for a run's summary.
    """

    name: str = ""
    needs: frozenset[str] = frozenset()
    heads: dict[str, dict]
    baseline: torch.Tensor
    weights: dict[str, float]
    monitored: bool = True
    unscored: frozenset[str] | set[str] = frozenset()

    def __init__(self) -> None:
        self.heads = {}
        self.labels: dict[str, np.ndarray | list[np.ndarray]] = {}
        self.notes: dict[str, str] = {}

    @property
    def baselines(self) -> dict[str, torch.Tensor]:
        """Where the biases of the heads begin, {head: logits [size]}."""
        return {self.name: self.baseline}

    @abstractmethod
    def setup(self, name: str, spec: DataSpec) -> None:
        """Learn classes and baselines from the training part."""

    def prepare(self, batch: Batch, keys: np.ndarray, training: bool = True) -> None:  # noqa: B027 (there may be nothing to do)
        """Change a CPU batch in place: hide tokens, add ``labels``.

        It depends on the examples' keys [N], and in training on what was learned from held-out errors (`adapt`), which never moves
        held-out masks.
        """

    @abstractmethod
    def label_counts(self, batch: Batch) -> dict[str, torch.Tensor]:
        """{loss: number (or summed weight) of the labels of a prepared batch}, without a model: what the losses of all batches of an
        optimiser step are divided by is known before the first of them."""

    @abstractmethod
    def losses(self, model: HasHeads, batch: Batch, hidden_BLH: torch.Tensor) -> dict[str, Loss]:
        """Losses by name."""

    @abstractmethod
    def update_metrics(self, model: HasHeads, batch: Batch, hidden_BLH: torch.Tensor) -> dict[str, torch.Tensor]:
        """{name: sums} that add up over batches and devices.

        ``loss/x`` holds (sum of the loss, number of labels, sum of the baseline's loss); names that begin with ``each/`` hold a row for
        each example instead, which are put one after the other.
        """

    @abstractmethod
    def compute_metrics(self, sums: Mapping[str, torch.Tensor]) -> dict[str, float]:
        """Metrics from the sums of all batches."""

    def rows(self, metrics: Mapping[str, float]) -> list[tuple[str, str]]:
        """Lines of a run's summary, (what, figures)."""
        return [("", ", ".join(f"{k.replace('_', ' ')} {v:.4f}" for k, v in metrics.items()))] if metrics else []

    def table(self, sums: Mapping[str, torch.Tensor]) -> list[dict]:
        """A table too long for a summary: for one, how well each gene is predicted."""
        return []

    def adapt(self, sums: Mapping[str, torch.Tensor]) -> None:  # noqa: B027
        """Learn from held-out errors, after a validation."""

    def state_dict(self) -> dict:
        """What `adapt` has learned, for a checkpoint of a run."""
        return {}

    def load_state_dict(self, state: dict) -> None:  # noqa: B027
        """Go on with what a checkpoint holds."""
