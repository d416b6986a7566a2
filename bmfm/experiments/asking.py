"""What a trained model says of loci: probabilities of the four bases at a masked place, and its loss over whole blocks."""

from collections.abc import Iterator

import numpy as np

from bmfm.genome.alphabet import BASES, COMPLEMENT, decode
from bmfm.genome.reference import Reference
from bmfm.inference.predictor import Predictor

LETTERS = BASES[:4]
_MIRROR = [LETTERS.index({"A": "T", "T": "A", "G": "C", "C": "G"}[base]) for base in LETTERS]
MASK_SHARE = 0.15
"""Of a block's bases, masked at a time when its loss is measured: as in training."""


def normalised(log_probs: np.ndarray) -> np.ndarray:
    """Log-probabilities [..., 4] that add up to 1 over the four bases."""
    largest = log_probs.max(-1, keepdims=True)
    return log_probs - largest - np.log(np.exp(log_probs - largest).sum(-1, keepdims=True))


def log_probs_at(predictor: Predictor, reference: Reference, position: np.ndarray, window: int, batch_size: int) -> np.ndarray:
    """Log-probabilities of A, G, T and C at masked places [n, 4] of the genome, between flanks of the reference.

    Both strands are asked; the mean of their log-probabilities is normalised.

    Parameters
    ----------
    position
        Places in `Reference.codes` [n].
    window
        Bases that are shown around each; at an end of a contig the window is moved inwards.
    """
    contig = np.searchsorted(reference.starts, position, "right") - 1
    last = np.maximum(reference.ends[contig] - window, reference.starts[contig])
    start = np.clip(position - window // 2, reference.starts[contig], last)
    end = np.minimum(start + window, reference.ends[contig])
    forward = [reference.codes[a:b] & 0x7F for a, b in zip(start, end, strict=True)]
    backward = [COMPLEMENT[codes][::-1] for codes in forward]
    there = _ask(predictor, forward, position - start, batch_size)
    back = _ask(predictor, backward, end - 1 - position, batch_size)[:, _MIRROR]
    return normalised((there + back) / 2)


def _ask(predictor: Predictor, windows: list[np.ndarray], place: np.ndarray, batch_size: int) -> np.ndarray:
    ids = [predictor.tokenizer.names.index(base) for base in LETTERS]
    answers = predictor.log_probs(
        [decode(codes) for codes in windows], [[p] for p in place], ids, alphabet="plain", batch_size=batch_size, progress=False
    )
    return normalised(answers.log_probs.astype(np.float64))


def losses_of_blocks(
    predictor: Predictor, reference: Reference, blocks: np.ndarray, touched: np.ndarray, batch_size: int, window: int = 500
) -> tuple[np.ndarray, np.ndarray]:
    """Summed loss of the four bases at the places of each block that no variant touches, and how many these are, [B] each.

    Of every window `MASK_SHARE` is masked at a time, on the forward strand.
    """
    losses, counts = np.zeros(len(blocks)), np.zeros(len(blocks), np.int64)
    ids = [predictor.tokenizer.names.index(base) for base in LETTERS]
    is_touched = np.zeros(len(reference.codes), bool)
    is_touched[touched] = True
    for number, (block, starts) in enumerate(_tiles(blocks, window)):
        codes = [reference.codes[a : min(a + window, block[1])] & 0x7F for a in starts]
        answers = predictor.log_probs(
            [decode(c) for c in codes], None, ids, mask_share=MASK_SHARE, alphabet="plain", batch_size=batch_size, progress=False
        )
        place = starts[answers.example] + answers.position
        base = reference.codes[place] & 0x7F
        chosen = ~is_touched[place] & (base < 4)
        log_probs = normalised(answers.log_probs.astype(np.float64))[chosen, base[chosen]]
        losses[number], counts[number] = -log_probs.sum(), chosen.sum()
    return losses, counts


def _tiles(blocks: np.ndarray, window: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for block in blocks:
        yield block, np.arange(block[0], block[1], window)
