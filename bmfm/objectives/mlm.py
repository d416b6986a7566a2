"""Masked language modelling."""

import numba
import numpy as np
import torch
from torch.nn import functional

from bmfm.hashing import mix, uniform
from bmfm.tokenizers.dna import MASK

IGNORE = -100


@numba.njit(cache=True)
def _mask(input_ids, sequence, position_ids, keys, labels, mask_id, first_plain_id, vocab_size, share, masked, random):
    for row in range(input_ids.shape[0]):
        for column in range(input_ids.shape[1]):
            token = input_ids[row, column]
            if sequence[row, column] < 0 or token < first_plain_id:
                continue
            key = mix(keys[sequence[row, column]], 17)
            place = 2 * position_ids[row, column]
            if uniform(key, place) >= share:
                continue
            labels[row, column] = token
            fate = uniform(key, place + 1)
            if fate < masked:
                input_ids[row, column] = mask_id
            elif fate < masked + random:
                input_ids[row, column] = first_plain_id + np.int64(uniform(mix(key, 1), place) * (vocab_size - first_plain_id))


class MaskedLanguageModel:
    """Predict hidden tokens from both sides.

    Parameters
    ----------
    vocab_size
        Tokens of the vocabulary; the first five are special and never hidden.
    share
        Probability that a token is selected.
    masked, random
        Of the selected tokens, the share replaced by [MASK] and by a random token; the rest stay as they are.
    """

    name = "mlm"

    def __init__(self, vocab_size: int, share: float = 0.15, masked: float = 0.9, random: float = 0.0):
        if not (0 < share <= 1 and masked >= 0 and random >= 0 and masked + random <= 1):
            raise ValueError(f"masking rates share={share}, masked={masked}, random={random} do not fit together")
        self.vocab_size, self.share, self.masked, self.random = vocab_size, share, masked, random

    def prepare(self, batch: dict, keys: np.ndarray) -> dict:
        """Hide tokens in ``input_ids`` and add ``labels["mlm"]``; which ones depends on the examples' keys [N] alone."""
        labels = np.full(batch["input_ids"].shape, IGNORE, np.int64)
        _mask(
            batch["input_ids"], batch["sequence_of_token"], batch["position_ids"], keys, labels, MASK, 5,
            self.vocab_size, self.share, self.masked, self.random,
        )  # fmt: skip
        batch["labels"] = {self.name: labels}
        return batch

    def logits(self, model, batch: dict, hidden_BLH: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Logits [M, V], labels [M] and variant flags [M] at the M hidden tokens; the head sees nothing else."""
        labels = batch["labels"][self.name].flatten()
        places = (labels != IGNORE).nonzero().squeeze(1)
        hidden_MH = hidden_BLH.flatten(0, 1).index_select(0, places)
        return model.decoder(model.head(hidden_MH)), labels[places], batch["has_variant"].flatten()[places]

    def losses(self, model, batch: dict, hidden_BLH: torch.Tensor) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """Sum of the loss over the hidden tokens, and their number."""
        logits, labels, _ = self.logits(model, batch, hidden_BLH)
        total = functional.cross_entropy(logits.float(), labels, reduction="sum")
        return {self.name: (total, torch.tensor(len(labels), device=total.device))}

    @torch.no_grad()
    def score(self, model, batch: dict, hidden_BLH: torch.Tensor, unigram: torch.Tensor) -> torch.Tensor:
        """Sums for metrics, float64 [2, 4]: rows without and with variants; tokens, loss, hits, unigram loss.

        Parameters
        ----------
        unigram
            Log-probability of each token in the training windows, [V].
        """
        logits, labels, has_variant = self.logits(model, batch, hidden_BLH)
        loss = functional.cross_entropy(logits.float(), labels, reduction="none")
        columns = torch.stack([torch.ones_like(loss), loss, (logits.argmax(1) == labels).float(), -unigram[labels]], 1)
        rows = torch.stack([~has_variant, has_variant]).to(torch.float64)
        return rows @ columns.to(torch.float64)
