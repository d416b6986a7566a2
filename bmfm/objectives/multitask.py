"""Several objectives at once: a mapping of names to objectives, whose weighted losses add up."""

from collections.abc import Iterable, Mapping

import numpy as np
import torch

from bmfm.objectives import Loss


def add_up(parts: Iterable[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Scores of batches, or of devices, as those of all: sums are added, rows (``objective/each/...``) put one after the other."""
    held: dict[str, list[torch.Tensor]] = {}
    for part in parts:
        for name, value in part.items():
            held.setdefault(name, []).append(value)
    return {n: torch.cat(v) if "/each/" in n else torch.stack(v).sum(0) if len(v) > 1 else v[0] for n, v in held.items()}


def weighted_mean(losses: dict[str, tuple[torch.Tensor, torch.Tensor, float]]) -> torch.Tensor:
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


class Objectives:
    """The objectives of a run by name.

    Parameters
    ----------
    objectives
        {name: objective}; a name is the head's, the metrics' and, for labels, by default the column's.
    """

    def __init__(self, objectives: Mapping):
        self.parts = dict(objectives)
        if not self.parts:
            raise ValueError("there is nothing to learn: choose an objective, as objective=mlm")

    @property
    def needs(self) -> set[str]:
        return set().union(*(getattr(o, "needs", set()) for o in self.parts.values()))

    @property
    def heads(self) -> dict[str, dict]:
        return {name: head for o in self.parts.values() for name, head in o.heads.items()}

    def bind(self, data) -> None:
        for name, objective in self.parts.items():
            objective.bind(name, data)

    def check_monitored(self) -> None:
        """Raise a ValueError, before training begins, where the loss that chooses the best checkpoint would not exist."""
        watched = {name: o for name, o in self.parts.items() if not o.adversarial}
        if not watched:
            raise ValueError(
                f"objectives {', '.join(self.parts)} are all reversed: nothing is left to choose the best checkpoint by; add one that is learned"
            )
        if all("validation" in o.unscored for o in watched.values()):
            raise ValueError(
                f"no validation example has a label of {', '.join(watched)}: the best checkpoint could not be chosen. Split by "
                "data.split.by=stratified +data.split.column=..., or leave the validation part out (data.split.validation=0)"
            )

    def begin_at_baselines(self, model) -> None:
        """Set the heads' biases so that untrained heads say what the baselines say, rather than that all is alike."""
        with torch.no_grad():
            for name, objective in self.parts.items():
                if name in model.pretrained_heads:
                    continue
                decoder = model.heads.decoder(name)
                if decoder.bias is not None:
                    decoder.bias.copy_(objective.baseline)

    def prepare(self, batch: dict, keys: np.ndarray, training: bool = True) -> dict:
        """Let each objective change the batch and add its labels."""
        batch.setdefault("labels", {})
        batch["original_ids"] = batch["input_ids"].clone()
        for objective in self.parts.values():
            objective.prepare(batch, keys, training)
        return batch

    def label_counts(self, batch: dict) -> dict[str, float]:
        """Number of labels of every loss in a prepared batch."""
        return {f"{name}/{loss}": float(n) for name, o in self.parts.items() for loss, n in o.label_counts(batch).items()}

    def losses(self, model, batch: dict, hidden_BLH: torch.Tensor) -> dict[str, Loss]:
        return {
            f"{name}/{loss}": value
            for name, objective in self.parts.items()
            for loss, value in objective.losses(model, batch, hidden_BLH).items()
        }

    @torch.no_grad()
    def score(self, model, batch: dict, hidden_BLH: torch.Tensor) -> dict[str, torch.Tensor]:
        """Sums (float64) and rows of a batch by ``objective/name``, on the CPU, see `add_up`."""
        return {
            f"{name}/{key}": (value if key.startswith("each/") else value.double()).cpu()
            for name, objective in self.parts.items()
            for key, value in objective.score(model, batch, hidden_BLH).items()
        }

    def summarise(self, sums: dict[str, torch.Tensor]) -> dict[str, float]:
        """Every objective's metrics under its name; ``loss`` and ``baseline_loss`` are the weighted means over all.

        Losses of adversarial objectives are shown under their names alone: where the encoder forgets a label well, its loss
        is high, and a mean with it would prefer the model that forgets least.
        """
        metrics: dict[str, float] = {}
        losses, baselines = {}, {}
        for name, objective in self.parts.items():
            own = {key.removeprefix(f"{name}/"): value for key, value in sums.items() if key.startswith(f"{name}/")}
            for key, (total, n, baseline) in ((k, v.unbind()) for k, v in own.items() if k.startswith("loss/")):
                if n <= 0:
                    continue
                loss = key.removeprefix("loss/")
                metrics |= {
                    f"{name}/{loss}": float(total / n),
                    f"{name}/{loss}_baseline": float(baseline / n),
                    f"{name}/{loss}_n": float(n),
                }
                if objective.adversarial:
                    continue
                weight = objective.weights[loss]
                losses[f"{name}/{loss}"], baselines[f"{name}/{loss}"] = (total, n, weight), (baseline, n, weight)
            metrics |= {f"{name}/{key}": value for key, value in objective.summarise(own).items()}
        if losses:
            metrics = {"loss": float(weighted_mean(losses)), "baseline_loss": float(weighted_mean(baselines))} | metrics
        return metrics

    def rows(self, metrics: dict[str, float]) -> list[tuple[str, str]]:
        """Lines of a run's summary, (what, figures)."""
        out = []
        for name, objective in self.parts.items():
            own = {key.removeprefix(f"{name}/"): value for key, value in metrics.items() if key.startswith(f"{name}/")}
            out += [(f"{name}, {what}" if what else name, said) for what, said in objective.rows(own)]
        return out

    def tables(self, sums: dict[str, torch.Tensor]) -> dict[str, list[dict]]:
        """Tables too long for a summary, {file name: rows}: for one, the genes predicted best and worst."""
        out = {}
        for name, objective in self.parts.items():
            own = {key.removeprefix(f"{name}/"): value for key, value in sums.items() if key.startswith(f"{name}/")}
            if own and hasattr(objective, "table") and (rows := objective.table(own)):
                out[f"{name}_genes"] = rows
        return out

    def after_validation(self, sums: dict[str, torch.Tensor]) -> None:
        """What objectives learn from held-out errors: adaptive masking."""
        for name, objective in self.parts.items():
            if hasattr(objective, "adapt"):
                objective.adapt({key.removeprefix(f"{name}/"): value for key, value in sums.items() if key.startswith(f"{name}/")})

    def state_dict(self) -> dict:
        return {name: objective.state_dict() for name, objective in self.parts.items() if hasattr(objective, "state_dict")}

    def load_state_dict(self, state: dict) -> None:
        for name, own in state.items():
            self.parts[name].load_state_dict(own)
