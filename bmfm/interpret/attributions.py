"""Attributions of embedded tokens: integrated gradients and gradient x input, for every backbone.

Integrated gradients (Sundararajan et al., ICML 2017) follow one straight path, ``b + a (x - b)`` with a from 0 to 1, from baseline embeddings
b to those of the example, x, all tokens together; what the fields of a token add up to is one input. The attribution of a token is
``sum_H (x - b) * mean gradient along the path``, in the unit of what is explained; those of all tokens add up to f(x) - f(b)
(completeness), and how far they are from it is reported. Where x and b are the same, as at special tokens, an attribution is 0.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from bmfm.inference.predictor import Predictor
from bmfm.interpret.targets import Target
from bmfm.tokenizers.batch import Batch

METHODS = ("ig", "grad_x_input")
TOLERANCE = 0.05
"""Share of f(x) - f(b) by which attributions may miss it before steps are doubled, and before there is a warning."""
LEAST = 1e-5
"""Differences of f that are taken for none."""


@dataclass
class Attributions:
    """Of the N examples of a padded batch.

    Attributes
    ----------
    tokens
        [N, L] float32, attribution of every token.
    gradient
        [N, L, H] float32, the mean gradient along the path; of gradient x input the gradient at the example.
    values
        [N, K] float32, all numbers of the target for the examples themselves.
    columns
        [N] int64, which of these is explained.
    end, start
        [N] float32, what is explained, of the example and of the baseline.
    n_steps
        [N] int64, steps that were taken.
    """

    tokens: torch.Tensor
    gradient: torch.Tensor
    values: torch.Tensor
    columns: torch.Tensor
    end: torch.Tensor
    start: torch.Tensor
    n_steps: torch.Tensor

    @property
    def delta(self) -> torch.Tensor:
        """[N] how far the sums of the attributions are from f(x) - f(b)."""
        return (self.tokens.sum(1) - (self.end - self.start)).abs()

    @property
    def is_complete(self) -> torch.Tensor:
        """[N] bool, whether that is within `TOLERANCE`."""
        return self.delta <= (self.end - self.start).abs() * TOLERANCE + LEAST

    def of_content(self, batch: Batch) -> list[np.ndarray]:
        """Attributions of each example's content tokens [L_b], without the special tokens around them: in the order of `Inputs.spans`."""
        width = self.tokens.shape[1]
        flat = self.tokens.flatten()[batch["content_index"]].cpu().numpy()
        n = torch.bincount(batch["content_index"] // width, minlength=len(self.tokens))
        return np.split(flat, n.cumsum(0)[:-1].cpu().numpy())


def attribute(
    predictor: Predictor,
    batch: Batch,
    target: Target,
    baseline: torch.Tensor,
    method: str = "ig",
    n_steps: int = 50,
    batch_size: int = 32,
    precision: str | None = None,
) -> Attributions:
    """Attributions of the tokens of a batch of `Predictor.batches`, by ``ig`` or ``grad_x_input``.

    Parameters
    ----------
    baseline
        Embeddings [N, L, H] that the path begins at, see `with_content`.
    n_steps
        Nodes of the Gauss-Legendre rule of integrated gradients. Examples whose attributions do not add up within `TOLERANCE` are done
        once more with twice as many.
    batch_size
        Rows that are run at once, whether of different examples or steps: what bounds the memory.

    Raises
    ------
    ValueError
        If the method is unknown, or rows hold several examples.
    """
    if method not in METHODS:
        raise ValueError(f"method={method!r} is unknown; choose from {', '.join(METHODS)}")
    if isinstance(n_steps, bool) or not isinstance(n_steps, int) or n_steps < 1:
        raise ValueError(f"n_steps={n_steps!r} must be a whole number of at least 1")
    with torch.no_grad():
        inputs = predictor.model.embed(batch).detach()
        baseline = baseline.to(inputs)
        values, started = (_values(predictor, batch, target, x, batch_size, precision) for x in (inputs, baseline))
    columns = target.columns(values)
    end, start = (x.gather(1, columns[:, None])[:, 0] for x in (values, started))
    path = _Path(predictor, batch, target, inputs, baseline, columns, batch_size, precision)
    every = torch.arange(len(columns), device=columns.device)
    nodes = _gauss_legendre(n_steps) if method == "ig" else [(1.0, 1.0)]
    steps = torch.full_like(columns, len(nodes))
    gradient = path.mean_gradient(every, nodes)
    tokens = ((inputs - baseline).float() * gradient).sum(-1)
    result = Attributions(tokens, gradient, values, columns, end, start, steps)
    if method == "ig" and not result.is_complete.all():
        again = (~result.is_complete).nonzero()[:, 0]
        gradient[again] = path.mean_gradient(again, _gauss_legendre(2 * n_steps))
        tokens[again] = ((inputs[again] - baseline[again]).float() * gradient[again]).sum(-1)
        steps[again] = 2 * n_steps
    return result


def with_content(predictor: Predictor, batch: Batch, **changed: torch.Tensor) -> torch.Tensor:
    """Embeddings [N, L, H] of a batch whose content has other fields, as a baseline: special tokens and padding keep their own.

    Parameters
    ----------
    changed
        Fields [N, L] of the batch, as ``values`` or ``input_ids``.
    """
    other: Any = {**batch, **changed}
    with torch.no_grad():
        own, content = predictor.model.embed(batch), batch["content_index"]
        replaced = predictor.model.embed(other).flatten(0, 1)[content]
        return own.flatten(0, 1).index_copy(0, content, replaced.to(own.dtype)).view_as(own)


def _gauss_legendre(n: int) -> list[tuple[float, float]]:
    """Nodes between 0 and 1 and their weights, whose sum is 1."""
    nodes, weights = np.polynomial.legendre.leggauss(n)
    return list(zip(((nodes + 1) / 2).tolist(), (weights / 2).tolist(), strict=True))


@dataclass(frozen=True)
class _Path:
    """The straight paths of the examples of a batch, from their baselines to themselves."""

    predictor: Predictor
    batch: Batch
    target: Target
    inputs: torch.Tensor
    baseline: torch.Tensor
    columns: torch.Tensor
    batch_size: int
    precision: str | None

    def mean_gradient(self, rows: torch.Tensor, nodes: list[tuple[float, float]]) -> torch.Tensor:
        """Weighted sum of the gradients [m, L, H] of some examples [m] at places on their paths, (place, weight) each."""
        total = torch.zeros((len(rows), *self.inputs.shape[1:]), device=self.inputs.device)
        first = 0
        for some in rows.split(self.batch_size):
            self._add(total[first : first + len(some)], some, nodes)
            first += len(some)
        return total

    def _add(self, total: torch.Tensor, rows: torch.Tensor, nodes: list[tuple[float, float]]) -> None:
        """Add the gradients of at most `batch_size` examples [m] at all nodes, as many of these at once as there is room for."""
        inputs, baseline, n = self.inputs[rows], self.baseline[rows], len(nodes)
        # weights go into what is derived, times n, so that small types of numbers hold them
        weights = total.new_tensor([weight * n for _, weight in nodes])
        at_once = min(n, max(1, self.batch_size // len(rows)))
        path = inputs.new_empty((at_once, *inputs.shape))  # made once, as new memory costs more than what is computed in it
        batch, columns, n_of_batch = self.batch, self.columns, 0
        for first in range(0, n, at_once):
            some = nodes[first : first + at_once]
            k = len(some)
            if k != n_of_batch:
                batch, columns, n_of_batch = select_rows(self.batch, rows.repeat(k)), self.columns[rows].repeat(k), k
            for piece, (place, _) in zip(path, some, strict=False):
                torch.lerp(baseline, inputs, place, out=piece)
            outputs = self.predictor.forward(batch, path[:k].flatten(0, 1), grad=True, precision=self.precision)
            weighted = self.target.gradient(outputs, columns, weights[first : first + k].repeat_interleave(len(rows)))
            del outputs  # or its graph would live until that of the next nodes is made
            for piece in weighted.unflatten(0, (k, len(rows))):  # one after the other: the sum is the same for whatever batch
                total += piece
        total /= n


def _values(
    predictor: Predictor, batch: Batch, target: Target, embeddings: torch.Tensor, batch_size: int, precision: str | None
) -> torch.Tensor:
    """All numbers of a target [N, K] for embeddings [N, L, H]."""
    pieces = []
    for rows in torch.arange(len(embeddings), device=embeddings.device).split(batch_size):
        pieces.append(target.values(predictor.forward(select_rows(batch, rows), embeddings[rows], precision=precision)))
    return torch.cat(pieces)


_SHARED = ("control_profiles", "gene_panel_mask")
_PROFILES = ("full_profile", "shown_profile")


def select_rows(batch: Batch, rows: torch.Tensor) -> Batch:
    """Some rows [m] of a padded batch, in this order, each as often as it is named.

    Raises
    ------
    ValueError
        If its rows hold several examples.
    """
    if batch.get("packed"):
        raise ValueError("rows of this batch hold several examples: attributions need a padded batch, as the Predictor makes them")
    n, width = batch["input_ids"].shape
    new = torch.arange(len(rows), device=rows.device)
    chosen: dict[str, Any] = {}
    for name, value in batch.items():
        if name in _PROFILES:
            which, entries = _entries(value["row"], rows, n)  # type: ignore[index]
            chosen[name] = {key: x[entries] for key, x in value.items()} | {"row": which}  # type: ignore[attr-defined]
        else:
            chosen[name] = value[rows] if isinstance(value, torch.Tensor) and name not in (*_SHARED, "content_index") else value
    chosen["example_ids"] = torch.where(chosen["example_ids"] < 0, -1, new[:, None])
    chosen["cls_index"] = chosen["cls_index"] % width + new * width
    if "content_index" in batch:
        which, entries = _entries(batch["content_index"] // width, rows, n)
        chosen["content_index"] = batch["content_index"][entries] % width + which * width
    selected: Any = chosen
    return selected


def _entries(row: torch.Tensor, rows: torch.Tensor, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Places of the entries of some rows [m] in flat arrays whose entries are of ascending `row` [nnz], and the new row of each."""
    lengths = torch.bincount(row, minlength=n)
    starts, taken = (lengths.cumsum(0) - lengths)[rows], lengths[rows]
    which = torch.repeat_interleave(torch.arange(len(rows), device=rows.device), taken)
    return which, torch.arange(len(which), device=rows.device) - (taken.cumsum(0) - taken)[which] + starts[which]
