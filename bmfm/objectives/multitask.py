"""Several objectives at once: a mapping of names to objectives, whose weighted losses add up."""

from collections.abc import Collection, Iterable, Mapping
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import nn

from bmfm.data.module import BatchModule
from bmfm.data.spec import DataSpec
from bmfm.objectives.objective import HasHeads, Loss, Objective
from bmfm.tokenizers.batch import Batch

Sums = dict[str, torch.Tensor]
V = TypeVar("V")


class Decoder(Protocol):
    """The last linear map of a head."""

    bias: nn.Parameter | None


class Decoders(Protocol):
    """The heads of a model."""

    def decoder(self, name: str) -> Decoder:
        """The linear map of a head."""
        ...


class HasDecoders(Protocol):
    """A model whose heads can be initialised."""

    @property
    def pretrained_heads(self) -> frozenset[str]:
        """Names of heads whose weights come from a checkpoint."""
        ...

    @property
    def heads(self) -> Decoders: ...


def add_up(parts: Iterable[Mapping[str, torch.Tensor]]) -> Sums:
    """Scores of batches, or of devices, as those of all: sums are added, rows (``objective/each/...``) put one after the other."""
    values: dict[str, list[torch.Tensor]] = {}
    for part in parts:
        for name, value in part.items():
            values.setdefault(name, []).append(value)
    return {n: torch.cat(v) if "/each/" in n else torch.stack(v).sum(0) if len(v) > 1 else v[0] for n, v in values.items()}


def weighted_mean(losses: Mapping[str, tuple[torch.Tensor, torch.Tensor, float]]) -> torch.Tensor:
    """sum(w_i L_i) / sum(w_i) over the losses with at least one label, where L_i = total_i / n_i.

    n_i counts the labels of all batches that a step adds up, total_i is this batch's share. A loss without a label adds
    nothing, and what is not a number in it goes nowhere.
    """
    weighted, weights = [], []
    for total, n, weight in losses.values():
        there = n > 0
        weighted.append(torch.where(there, weight * total / n.clamp(min=1e-8), 0.0))
        weights.append(weight * there.to(total.dtype))
    return torch.stack(weighted).sum() / torch.stack(weights).sum().clamp(min=1e-8)


def named_sums(of_tasks: Mapping[str, Mapping[str, torch.Tensor]]) -> Sums:
    """Sums (float64) and rows by ``objective/name``, on the CPU, from those of each objective."""
    return {
        f"{name}/{key}": (value if key.startswith("each/") else value.double()).cpu()
        for name, sums in of_tasks.items()
        for key, value in sums.items()
    }


class Objectives:
    """The objectives of a run by name.

    Parameters
    ----------
    tasks
        {name: objective}; a name is the head's, the metrics' and, for labels, by default the column's.
    """

    def __init__(self, tasks: Mapping[str, Objective]):
        self.tasks = dict(tasks)
        if not self.tasks:
            raise ValueError("there is nothing to learn: choose an objective, as objective=mlm")

    @property
    def needs(self) -> set[str]:
        return set().union(*(task.needs for task in self.tasks.values()))

    @property
    def heads(self) -> dict[str, dict]:
        return {name: head for task in self.tasks.values() for name, head in task.heads.items()}

    @property
    def labels(self) -> dict[str, np.ndarray | list[np.ndarray]]:
        """What the data put into every batch, see `Objective`."""
        return {name: labels for task in self.tasks.values() for name, labels in task.labels.items()}

    @property
    def notes(self) -> dict[str, str]:
        """{what: figures} for a run's summary."""
        return {what: text for task in self.tasks.values() for what, text in task.notes.items()}

    def setup(self, spec: DataSpec) -> None:
        """Learn classes and baselines from the training part."""
        for name, task in self.tasks.items():
            task.setup(name, spec)

    def connect(self, data: BatchModule) -> None:
        """Learn classes and baselines from some data, which from then on serve what the objectives need, and their labels."""
        data.need(self.needs)
        self.setup(data.spec())
        for name, labels in self.labels.items():
            data.add_labels(name, labels)
        for what, text in self.notes.items():
            data.note(what, text)
        data.objectives = self

    def check_monitored(self) -> None:
        """Raise a ValueError, before training begins, where the loss that chooses the best checkpoint would not exist."""
        monitored = {name: task for name, task in self.tasks.items() if task.monitored}
        if not monitored:
            raise ValueError(
                f"objectives {', '.join(self.tasks)} are all reversed: nothing is left to choose the best checkpoint by; add one that is learned"
            )
        if all("validation" in task.unscored for task in monitored.values()):
            raise ValueError(
                f"no validation example has a label of {', '.join(monitored)}: the best checkpoint could not be chosen. Split by "
                "data.split.by=stratified +data.split.column=..., or leave the validation part out (data.split.validation=0)"
            )

    @torch.no_grad()
    def init_output_biases(self, model: HasDecoders) -> None:
        """Set the heads' biases so that untrained heads say what the baselines say, rather than that all is alike."""
        for name, baseline in (item for task in self.tasks.values() for item in task.baselines.items()):
            if name in model.pretrained_heads:
                continue
            bias = model.heads.decoder(name).bias
            if bias is not None:
                bias.copy_(baseline)

    def prepare(self, batch: Batch, keys: np.ndarray, training: bool = True) -> Batch:
        """Let each objective change the batch and add its labels."""
        batch.setdefault("labels", {})
        batch["original_ids"] = batch["input_ids"].clone()
        for task in self.tasks.values():
            task.prepare(batch, keys, training)
        return batch

    def label_counts(self, batch: Batch) -> dict[str, float]:
        """Number of labels of every loss in a prepared batch."""
        return {f"{name}/{loss}": float(n) for name, task in self.tasks.items() for loss, n in task.label_counts(batch).items()}

    def losses(self, model: HasHeads, batch: Batch, hidden_BLH: torch.Tensor) -> dict[str, Loss]:
        return {
            f"{name}/{loss}": value for name, task in self.tasks.items() for loss, value in task.losses(model, batch, hidden_BLH).items()
        }

    @torch.no_grad()
    def update_metrics(self, model: HasHeads, batch: Batch, hidden_BLH: torch.Tensor, leave_out: Collection[str] = ()) -> Sums:
        """Sums (float64) and rows of a batch by ``objective/name``, on the CPU, see `add_up`; of all objectives but some."""
        tasks = {name: task for name, task in self.tasks.items() if name not in leave_out}
        return named_sums({name: task.update_metrics(model, batch, hidden_BLH) for name, task in tasks.items()})

    def compute_metrics(self, sums: Mapping[str, torch.Tensor]) -> dict[str, float]:
        """Every objective's metrics under its name; ``loss`` and ``baseline_loss`` are the weighted means over all that are monitored.

        Losses of labels that the encoder shall forget are shown under their names alone: where it forgets a label well, its loss
        is high, and a mean with it would prefer the model that forgets least.
        """
        metrics: dict[str, float] = {}
        losses, baselines = {}, {}
        for name, task in self.tasks.items():
            of_task = _of(name, sums)
            for key, (total, n, baseline) in ((k, v.unbind()) for k, v in of_task.items() if k.startswith("loss/")):
                if n <= 0:
                    continue
                loss = key.removeprefix("loss/")
                metrics |= {
                    f"{name}/{loss}": float(total / n),
                    f"{name}/{loss}_baseline": float(baseline / n),
                    f"{name}/{loss}_n": float(n),
                }
                if task.monitored:
                    weight = task.weights[loss]
                    losses[f"{name}/{loss}"], baselines[f"{name}/{loss}"] = (total, n, weight), (baseline, n, weight)
            metrics |= {f"{name}/{key}": value for key, value in task.compute_metrics(of_task).items()}
        if losses:
            metrics = {"loss": float(weighted_mean(losses)), "baseline_loss": float(weighted_mean(baselines))} | metrics
        return metrics

    def rows(self, metrics: Mapping[str, float]) -> list[tuple[str, str]]:
        """Lines of a run's summary, (what, figures)."""
        return [
            (f"{name}, {what}" if what else name, text) for name, task in self.tasks.items() for what, text in task.rows(_of(name, metrics))
        ]

    def tables(self, sums: Mapping[str, torch.Tensor]) -> dict[str, list[dict]]:
        """Tables too long for a summary, {file name: rows}: for one, the genes predicted best and worst."""
        scored = {name: of_task for name in self.tasks if (of_task := _of(name, sums))}
        return {f"{name}_genes": rows for name, of_task in scored.items() if (rows := self.tasks[name].table(of_task))}

    def adapt(self, sums: Mapping[str, torch.Tensor]) -> None:
        """Let objectives learn from held-out errors, after a validation: adaptive masking."""
        for name, task in self.tasks.items():
            task.adapt(_of(name, sums))

    def state_dict(self) -> dict[str, dict]:
        return {name: task.state_dict() for name, task in self.tasks.items()}

    def load_state_dict(self, state: Mapping[str, dict]) -> None:
        for name, of_task in state.items():
            self.tasks[name].load_state_dict(of_task)


def _of(name: str, values: Mapping[str, V]) -> dict[str, V]:
    """The values of one objective, without its name before them."""
    return {key.removeprefix(f"{name}/"): value for key, value in values.items() if key.startswith(f"{name}/")}
