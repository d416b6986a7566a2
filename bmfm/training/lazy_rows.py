"""AdamW whose work on a table of embeddings grows with the rows that a batch reads, not with the rows that there are.

A row without a gradient still moves: its moments shrink, they push it on, and it decays. These steps are made up for, one after the other,
when the row is read next, or when the table is saved; so every number that anybody sees is that of `torch.optim.AdamW`. A row that no batch has read yet
has no moments and only decays, for which one product is enough; and once the first moment has shrunk by a factor of 1e9, what it still adds is
below the precision of a float32, and left out.
"""

import math
from typing import Any

import numba
import numpy as np
import torch
from torch import nn

NEGLIGIBLE = 1e-9


class LazyRowsAdamW(torch.optim.AdamW):
    """AdamW of one process on a CPU, lazy in the rows of one table.

    The table's gradients are made sparse; whoever reads its weights reads them through the module or its state dict.

    Parameters
    ----------
    params, options
        As of `torch.optim.AdamW`; among them is the table's weight.
    table
        Whose weight [V, H] is float32, and read by looking up rows alone.
    """

    def __init__(self, params: Any, table: nn.Embedding, **options: Any):
        super().__init__(params, **options)
        self.table, table.sparse = table, True
        self.group = next(g for g in self.param_groups if any(p is table.weight for p in g["params"]))
        self.steps = 0
        self._begin(torch.zeros(2, *table.weight.shape), 0)
        table.register_forward_pre_hook(lambda module, arguments: self.catch_up(arguments[0]))
        table.register_state_dict_pre_hook(lambda *_: self.catch_up())
        table.register_load_state_dict_pre_hook(lambda *_: self.catch_up())
        self.register_state_dict_pre_hook(lambda _: self._publish())
        self.register_load_state_dict_post_hook(lambda _: self._restore())

    def _begin(self, moments: torch.Tensor, steps: int) -> None:
        """Moments, first and second, [2, V, H], that are those of all rows after so many steps."""
        self.moments, self.steps = moments, steps
        self.done = np.full(moments.shape[1], steps)  # steps that each row has taken
        self._forget()

    @property
    def _constants(self) -> np.ndarray:
        beta_1, beta_2 = self.group["betas"]
        return np.array([beta_1, beta_2, self.group["eps"]], np.float32)

    def _forget(self) -> None:
        """Every row has taken every step: forget what the steps were."""
        self.begun_at, self.n_kept = self.steps, 0
        self.kept = np.zeros((4, 256))  # of each step since: its length, factor of the second moment's root, decay, product of all decays

    def _keep(self) -> None:
        """Note what the next step is, for rows that take it later."""
        self.steps += 1
        rate, (beta_1, beta_2) = float(self.group["lr"]), self.group["betas"]
        if self.n_kept == self.kept.shape[1]:
            self.kept = np.concatenate([self.kept, np.zeros_like(self.kept)], 1)
        decay = 1 - rate * self.group["weight_decay"]
        all_decays = decay * (self.kept[3, self.n_kept - 1] if self.n_kept else 1.0)
        root = 1 / math.sqrt(1 - beta_2**self.steps)
        self.kept[:, self.n_kept] = rate / (1 - beta_1**self.steps), root, decay, all_decays
        self.n_kept += 1

    def catch_up(self, rows: torch.Tensor | None = None) -> None:
        """Take all steps up to now with these rows, or with all."""
        if self.n_kept:
            numbers = np.arange(len(self.done)) if rows is None else rows.detach().flatten().numpy()
            beta_1 = self.group["betas"][0]
            most = math.ceil(math.log(NEGLIGIBLE) / math.log(beta_1)) if beta_1 > 0 else 1
            weights, moments = self.table.weight.detach().numpy(), self.moments.numpy()
            _catch_up(weights, moments, self.done, numbers, self.begun_at, self.kept[:, : self.n_kept], self._constants, most)
            if rows is None:
                self._forget()

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        gradient, self.table.weight.grad = self.table.weight.grad, None
        super().step()
        if gradient is None:
            return loss
        gradient = gradient.coalesce()
        rows = gradient.indices()[0]
        self.catch_up(rows)
        self._keep()
        weights, numbers = self.table.weight.detach().numpy(), rows.numpy()
        of_step = self.kept[:3, self.n_kept - 1].astype(np.float32)
        _step(weights, self.moments.numpy(), gradient.values().numpy(), numbers, of_step, self._constants)
        self.done[numbers] = self.steps
        self.table.weight.grad = gradient
        return loss

    def _publish(self) -> None:
        """The table's state, as AdamW has it."""
        self.catch_up()
        if self.steps:
            step = torch.tensor(float(self.steps))
            self.state[self.table.weight] = {"step": step, "exp_avg": self.moments[0], "exp_avg_sq": self.moments[1]}

    def _restore(self) -> None:
        self.group = next(g for g in self.param_groups if any(p is self.table.weight for p in g["params"]))
        if saved := self.state.pop(self.table.weight, None):
            self._begin(torch.stack([saved["exp_avg"], saved["exp_avg_sq"]]), int(saved["step"]))


@numba.njit(cache=True, nogil=True, fastmath={"contract", "arcp", "reassoc", "nsz"}, error_model="numpy")
def _catch_up(weights, moments, done, rows, begun_at, kept, constants, most):
    beta_1, beta_2, eps = constants
    end = kept.shape[1]
    for row in rows:
        at = done[row] - begun_at
        if at == end:
            continue
        done[row] = begun_at + end
        before = kept[3, at - 1] if at > 0 else 1.0
        p, m, v = weights[row], moments[0, row], moments[1, row]
        if not v.any():
            p *= np.float32(kept[3, end - 1] / before)
            continue
        last = min(end, at + most)
        for j in range(at, last):
            length, root, decay = np.float32(kept[0, j]), np.float32(kept[1, j]), np.float32(kept[2, j])
            for i in range(len(p)):
                m[i] *= beta_1
                v[i] *= beta_2
                p[i] = p[i] * decay - length * m[i] / (np.sqrt(v[i]) * root + eps)
        if last < end:
            p *= np.float32(kept[3, end - 1] / kept[3, last - 1])
            m *= np.float32(beta_1 ** (end - last))
            v *= np.float32(beta_2 ** (end - last))


@numba.njit(cache=True, nogil=True, fastmath={"contract", "arcp", "reassoc", "nsz"}, error_model="numpy")
def _step(weights, moments, gradients, rows, of_step, constants):
    beta_1, beta_2, eps = constants
    length, root, decay = of_step
    one = np.float32(1)
    for n in range(len(rows)):
        p, m, v, g = weights[rows[n]], moments[0, rows[n]], moments[1, rows[n]], gradients[n]
        for i in range(len(p)):
            m[i] = beta_1 * m[i] + (one - beta_1) * g[i]
            v[i] = beta_2 * v[i] + (one - beta_2) * g[i] * g[i]
            p[i] = p[i] * decay - length * m[i] / (np.sqrt(v[i]) * root + eps)
