"""Which tokens are hidden, and what stands in their place."""

import re
from collections.abc import Mapping

import numba
import numpy as np
import torch

from bmfm.hashing import mix, uniform
from bmfm.special import MASK

KEPT, HIDDEN, SWITCHED = 1, 2, 3


@numba.njit(cache=True)
def _choose(input_ids, example, special, keys, salt, share, masked, switched, weights, fate):
    """Fill `fate` [B, L] with KEPT, HIDDEN or SWITCHED where a token is selected; the others stay 0."""
    for row in range(input_ids.shape[0]):
        last, place = -1, 0
        for column in range(input_ids.shape[1]):
            if example[row, column] != last:
                last, place = example[row, column], 0
            place += 1
            if last < 0 or special[row, column]:
                continue
            key = mix(keys[last], salt)
            chance = share * weights[input_ids[row, column]] if len(weights) else share
            if uniform(key, 2 * place) >= chance:
                continue
            draw = uniform(key, 2 * place + 1)
            fate[row, column] = HIDDEN if draw < masked else SWITCHED if draw < masked + switched else KEPT


@numba.njit(cache=True)
def _random_ids(fate, example, keys, first, last, ids):
    """Write a random id in [first, last) where `fate` is SWITCHED: a function of the example's key and the place in it."""
    for row in range(ids.shape[0]):
        current, place = -1, 0
        for column in range(ids.shape[1]):
            if example[row, column] != current:
                current, place = example[row, column], 0
            place += 1
            if fate[row, column] == SWITCHED:
                ids[row, column] = first + np.int64(uniform(mix(keys[current], 19), place) * (last - first))


@numba.njit(cache=True)
def _random_values(fate, example, special, keys, before, values):
    """Write, where `fate` is SWITCHED, the value `before` [B, L] of a random content token of the same example."""
    content = np.empty(values.shape[1], np.int64)  # columns of an example's content
    for row in range(values.shape[0]):
        begin = 0
        while begin < values.shape[1]:
            current, end, n = example[row, begin], begin, 0
            while end < values.shape[1] and example[row, end] == current:
                if current >= 0 and not special[row, end]:
                    content[n] = end
                    n += 1
                end += 1
            for i in range(n):
                if fate[row, content[i]] == SWITCHED:
                    drawn = uniform(mix(keys[current], 31), content[i] - begin)
                    values[row, content[i]] = before[row, content[np.int64(drawn * n)]]
            begin = end


class Masking:
    """Rates of hiding, shared by the objectives that hide something.

    Parameters
    ----------
    share
        Probability that a token is selected.
    masked, switched
        Of the selected tokens, the share replaced by [MASK] and by a random other content; the rest stay as they are.
    together
        Objectives with `together` hide the same places (comasking of fields); otherwise each draws its own.
    hide
        Hidden places are seen by themselves alone, so that predictions do not lean on one another (as scGPT does).
    gene_weights
        {regular expression: factor} on the probability of genes whose name matches, as ``{"^MT-": 0.1}``.
    adaptive
        After each validation, genes predicted badly are hidden more often: probabilities are multiplied by the gene's
        mean error over the mean of all, kept between 1 / `adaptive_limit` and `adaptive_limit`.
    """

    def __init__(
        self,
        share: float = 0.15,
        masked: float = 0.9,
        switched: float = 0.0,
        together: bool = False,
        hide: bool = False,
        gene_weights: Mapping[str, float] | None = None,
        adaptive: bool = False,
        adaptive_limit: float = 4.0,
    ):
        if not (0 < share <= 1 and masked >= 0 and switched >= 0 and masked + switched <= 1):
            raise ValueError(f"masking rates share={share}, masked={masked}, switched={switched} do not fit together")
        self.share, self.masked, self.switched = share, masked, switched
        self.together, self.hide = together, hide
        self.patterns, self.adaptive, self.adaptive_limit = dict(gene_weights or {}), adaptive, adaptive_limit
        self.fixed = self.weights = np.empty(0, np.float32)

    def bind(self, names: list[str]) -> None:
        """Learn the names of the vocabulary's tokens [V]."""
        if self.patterns or self.adaptive:
            self.fixed = np.ones(len(names), np.float32)
            for pattern, factor in self.patterns.items():
                hit = np.array([re.search(pattern, name) is not None for name in names])
                if not hit.any():
                    raise ValueError(f"masking.gene_weights: no gene of the vocabulary matches {pattern!r}")
                self.fixed[hit] *= factor
            self.weights = self.fixed.copy()

    def choose(self, batch: dict, keys: np.ndarray, salt: int, training: bool = True) -> np.ndarray:
        """What becomes of each token, ``uint8`` [B, L]: 0 not selected, `KEPT`, `HIDDEN` or `SWITCHED`.

        Held-out examples (`training` false) are never hidden adaptively: their losses stay comparable over a run.
        """
        weights = self.weights if training else self.fixed
        fate = np.zeros(tuple(batch["input_ids"].shape), np.uint8)
        _choose(
            batch["original_ids"].numpy(), batch["example_ids"].numpy(),
            batch["special_tokens_mask"].numpy(), keys, 17 if self.together else salt, self.share, self.masked, self.switched, weights, fate,
        )  # fmt: skip
        if self.hide:
            unseen = torch.from_numpy(fate == HIDDEN)
            batch["isolated_mask"] = batch["isolated_mask"] | unseen if "isolated_mask" in batch else unseen
        return fate

    def replace_ids(self, batch: dict, keys: np.ndarray, fate: np.ndarray, plain: tuple[int, int]) -> None:
        """Write [MASK] and random plain tokens into ``input_ids``."""
        ids = batch["input_ids"].numpy()
        ids[fate == HIDDEN] = MASK
        if self.switched:
            _random_ids(fate, batch["example_ids"].numpy(), keys, *plain, ids)

    def replace_values(self, batch: dict, keys: np.ndarray, fate: np.ndarray) -> None:
        """Write the mask's value, and values of random other tokens of the same example, into ``values``."""
        values = batch["values"].numpy()
        if self.switched:
            _random_values(fate, batch["example_ids"].numpy(), batch["special_tokens_mask"].numpy(), keys, values.copy(), values)
        values[fate == HIDDEN] = -(MASK + 1)

    def adapt(self, errors: torch.Tensor, n: torch.Tensor) -> None:
        """Weights from the summed error and the number of labels of each gene, [V] each."""
        if not self.adaptive or not n.sum():
            return
        mean = errors.sum() / n.sum()
        factor = torch.where(n > 0, errors / n.clamp(min=1) / mean.clamp(min=1e-8), 1.0)
        self.weights = self.fixed * factor.clamp(1 / self.adaptive_limit, self.adaptive_limit).float().cpu().numpy()

    def state_dict(self) -> dict:
        return {"weights": torch.from_numpy(self.weights)}

    def load_state_dict(self, state: dict) -> None:
        self.weights = state["weights"].cpu().numpy()
