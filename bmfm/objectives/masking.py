"""Which tokens are hidden, and what stands in their place."""

import re
from collections.abc import Mapping, Sequence

import numba
import numpy as np
import torch

from bmfm.hashing import mix, uniform
from bmfm.special import MASK
from bmfm.tokenizers.batch import Batch

KEPT, MASKED, RANDOM = 1, 2, 3
SHARED_SALT = 17
"""Of the draws of objectives that hide the same places."""


@numba.njit(cache=True)
def _choose(input_ids, example, special, keys, salt, mask_prob, mask_token_prob, random_token_prob, weights, mask_action):
    """Fill `mask_action` [B, L] with KEPT, MASKED or RANDOM where a token is selected; the others stay 0."""
    for row in range(input_ids.shape[0]):
        last, place = -1, 0
        for column in range(input_ids.shape[1]):
            if example[row, column] != last:
                last, place = example[row, column], 0
            place += 1
            if last < 0 or special[row, column]:
                continue
            key = mix(keys[last], salt)
            chance = mask_prob * weights[input_ids[row, column]] if len(weights) else mask_prob
            if uniform(key, 2 * place) >= chance:
                continue
            draw = uniform(key, 2 * place + 1)
            if draw < mask_token_prob:
                mask_action[row, column] = MASKED
            else:
                mask_action[row, column] = RANDOM if draw < mask_token_prob + random_token_prob else KEPT


@numba.njit(cache=True)
def _random_ids(mask_action, example, keys, first, last, ids):
    """Write a random id in [first, last) where `mask_action` is RANDOM: a function of the example's key and the place in it."""
    for row in range(ids.shape[0]):
        current, place = -1, 0
        for column in range(ids.shape[1]):
            if example[row, column] != current:
                current, place = example[row, column], 0
            place += 1
            if mask_action[row, column] == RANDOM:
                ids[row, column] = first + np.int64(uniform(mix(keys[current], 19), place) * (last - first))


@numba.njit(cache=True)
def _random_values(mask_action, example, special, keys, before, values):
    """Write, where `mask_action` is RANDOM, the value `before` [B, L] of a random content token of the same example."""
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
                if mask_action[row, content[i]] == RANDOM:
                    drawn = uniform(mix(keys[current], 31), content[i] - begin)
                    values[row, content[i]] = before[row, content[np.int64(drawn * n)]]
            begin = end


def hide_in_summary(batch: Batch, mask_action: np.ndarray) -> None:
    """Leave genes whose tokens are MASKED or RANDOM out of ``shown_profile``, which would tell what is hidden of them."""
    if "shown_profile" in batch:
        chosen = torch.from_numpy(mask_action > KEPT)
        leave_out_of_summary(batch, batch["example_ids"][chosen], batch["original_ids"][chosen])


def leave_out_of_summary(batch: Batch, example: torch.Tensor, gene: torch.Tensor) -> None:
    """Leave genes [m] of examples [m] out of ``shown_profile``."""
    profile = batch["shown_profile"]
    n_genes = 1 + max(int(genes.max()) if len(genes) else 0 for genes in (profile["gene"], gene))
    is_hidden = torch.zeros((len(batch["cls_index"]), n_genes), dtype=torch.bool, device=gene.device)
    is_hidden[example, gene] = True
    is_shown = ~is_hidden[profile["row"], profile["gene"]]
    batch["shown_profile"] = {"row": profile["row"][is_shown], "gene": profile["gene"][is_shown], "value": profile["value"][is_shown]}


class Masking:
    """Rates of hiding, shared by the objectives that hide something.

    Parameters
    ----------
    mask_prob
        Probability that a token is selected.
    mask_token_prob, random_token_prob
        Of the selected tokens, the share replaced by [MASK] and by a random other content; the rest stay as they are.
    shared_mask
        All objectives with `shared_mask` hide the same places (comasking of fields); otherwise each draws its own.
    hide_masked_positions
        Places that hold [MASK] are seen by themselves alone, so that predictions do not lean on one another (as scGPT does).
    gene_weights
        {regular expression: factor} on the probability of genes whose name matches, as ``{"^MT-": 0.1}``.
    adaptive
        After each validation, genes predicted badly are hidden more often: probabilities are multiplied by the gene's
        mean error over the mean of all, kept between 1 / `adaptive_limit` and `adaptive_limit`.
    """

    def __init__(
        self,
        mask_prob: float = 0.15,
        mask_token_prob: float = 0.9,
        random_token_prob: float = 0.0,
        shared_mask: bool = False,
        hide_masked_positions: bool = False,
        gene_weights: Mapping[str, float] | None = None,
        adaptive: bool = False,
        adaptive_limit: float = 4.0,
    ):
        if not (0 < mask_prob <= 1 and mask_token_prob >= 0 and random_token_prob >= 0 and mask_token_prob + random_token_prob <= 1):
            raise ValueError(
                f"masking rates mask_prob={mask_prob}, mask_token_prob={mask_token_prob}, random_token_prob={random_token_prob} do not fit "
                "together: each lies between 0 and 1, and so does the sum of the last two"
            )
        self.mask_prob, self.mask_token_prob, self.random_token_prob = mask_prob, mask_token_prob, random_token_prob
        self.shared_mask, self.hide_masked_positions = shared_mask, hide_masked_positions
        self.patterns, self.adaptive, self.adaptive_limit = dict(gene_weights or {}), adaptive, adaptive_limit
        self.fixed = self.weights = np.empty(0, np.float32)

    def setup(self, names: Sequence[str]) -> None:
        """Learn the names of the vocabulary's tokens [V]."""
        if self.patterns or self.adaptive:
            self.fixed = np.ones(len(names), np.float32)
            for pattern, factor in self.patterns.items():
                matches = np.array([re.search(pattern, name) is not None for name in names])
                if not matches.any():
                    raise ValueError(f"masking.gene_weights: no gene of the vocabulary matches {pattern!r}")
                self.fixed[matches] *= factor
            self.weights = self.fixed.copy()

    def choose(self, batch: Batch, keys: np.ndarray, salt: int, training: bool = True) -> np.ndarray:
        """What becomes of each token, ``uint8`` [B, L]: 0 not selected, `KEPT`, `MASKED` or `RANDOM`.

        Held-out examples (`training` false) are never hidden adaptively: their losses stay comparable over a run.
        """
        weights = self.weights if training else self.fixed
        mask_action = np.zeros(tuple(batch["input_ids"].shape), np.uint8)
        _choose(
            batch["original_ids"].numpy(), batch["example_ids"].numpy(),
            batch["special_tokens_mask"].numpy(), keys, SHARED_SALT if self.shared_mask else salt,
            self.mask_prob, self.mask_token_prob, self.random_token_prob, weights, mask_action,
        )  # fmt: skip
        if self.hide_masked_positions:
            isolated = torch.from_numpy(mask_action == MASKED)
            batch["isolated_mask"] = batch["isolated_mask"] | isolated if "isolated_mask" in batch else isolated
        return mask_action

    def replace_ids(self, batch: Batch, keys: np.ndarray, mask_action: np.ndarray, plain: tuple[int, int]) -> None:
        """Write [MASK] and random plain tokens into ``input_ids``."""
        ids = batch["input_ids"].numpy()
        ids[mask_action == MASKED] = MASK
        hide_in_summary(batch, mask_action)
        if self.random_token_prob:
            _random_ids(mask_action, batch["example_ids"].numpy(), keys, *plain, ids)

    def replace_values(self, batch: Batch, keys: np.ndarray, mask_action: np.ndarray) -> None:
        """Write the mask's value, and values of random other tokens of the same example, into ``values``."""
        values = batch["values"].numpy()
        hide_in_summary(batch, mask_action)
        if self.random_token_prob:
            _random_values(mask_action, batch["example_ids"].numpy(), batch["special_tokens_mask"].numpy(), keys, values.copy(), values)
        values[mask_action == MASKED] = -(MASK + 1)

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
