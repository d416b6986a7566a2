"""What an allele changes in the states of a model and in what its heads predict: both windows through the model, side by side."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from bmfm.inference.outputs import Outputs
from bmfm.inference.predictor import Predictor
from bmfm.tokenizers.base import Tokens
from bmfm.tokenizers.sequences import SequenceTokenizer
from bmfm.variants.alleles import INS
from bmfm.variants.questions import batches_of
from bmfm.variants.windows import AlleleWindows

DISTANCES = ("emb_l2", "emb_l1", "emb_cos", "emb_cos_mean", "emb_dot")


def changes(
    predictor: Predictor,
    windows: AlleleWindows,
    what: tuple[bool, bool],
    radius: int = 128,
    layer: int | None = None,
    batch_size: int = 32,
    precision: str | None = None,
    done: Callable[[int], Any] | None = None,
) -> dict[str, np.ndarray]:
    """Distances between states with REF and with ALT, and changes of label heads, {column: float64 [A]}.

    States of tokens are those of each of their bases. Bases are compared with those at the same distance from the change, up to `radius` on each
    side and as far as both windows reach; those of alleles of equal length with one another. Inserted bases are averaged with the base before
    them, deleted ones have none to be compared with.

    Parameters
    ----------
    what
        Whether distances are computed, and whether heads are.
    radius, layer
        See `scoring.ScoreOptions`.

    Returns
    -------
    dict
        ``emb_l2``, ``emb_l1``: of the differences, all bases together; ``emb_cos``: 1 - cosine of all states as one vector; ``emb_cos_mean``: of their
        means; ``emb_dot``: sum of inner products. ``head_NAME``: ALT less REF for numbers, the largest absolute change of a class's logit for classes,
        and ``head_NAME_CLASS`` each class's.
    """
    distances, heads = what
    names = [name for name, head in predictor.labels.items() if head["pooling"] != "token"] if heads else []
    columns: dict[str, np.ndarray] = {name: np.zeros(len(windows)) for name in DISTANCES if distances}
    with torch.inference_mode():
        for numbers, rows, batch, tokens in _pairs(predictor, windows, max(1, batch_size // 2)):
            outputs = predictor.forward(batch, all_layers=layer is not None, precision=precision)
            if distances:
                found = _distances(outputs, layer, predictor.tokenizer, windows.take(numbers), tokens, rows, radius)  # type: ignore[arg-type]
                for name, values in found.items():
                    columns[name][numbers] = values
            for name in names:
                for column, values in _head_changes(outputs, predictor, name, rows).items():
                    columns.setdefault(column, np.zeros(len(windows)))[numbers] = values
            if done:
                done(len(rows))
    return columns


def _pairs(predictor: Predictor, windows: AlleleWindows, n_pairs: int) -> Iterator[tuple[np.ndarray, np.ndarray, Any, Tokens]]:
    """Numbers of some alleles [n], and a batch with their windows with REF, then with ALT: place of each row [2n], batch, tokens."""
    for start in range(0, len(windows), n_pairs):
        numbers = np.arange(start, min(start + n_pairs, len(windows)))
        chosen = windows.take(numbers)
        both = [predictor.tokenizer.encode(of, np.zeros(len(of), np.uint64), 1 << 40) for of in (chosen.ref, chosen.alt)]
        ids = np.concatenate([t.ids for t in both])
        offsets = np.concatenate([both[0].offsets, both[0].offsets[-1] + both[1].offsets[1:]])
        fields = {name: np.concatenate([t.fields[name] for t in both]) for name in both[0].fields}
        tokens = Tokens(ids, offsets, fields)
        ((rows, batch),) = batches_of(predictor, tokens, len(tokens))
        yield numbers, rows, batch, tokens


def _distances(
    outputs: Outputs, layer: int | None, tokenizer: SequenceTokenizer, windows: AlleleWindows, tokens: Tokens, rows: np.ndarray, radius: int
) -> dict[str, np.ndarray]:
    """See `changes`."""
    states = outputs.tokens(layer).float()
    n = len(windows)
    lengths = tokens.lengths[rows]
    begin_of_row = np.empty(2 * n, np.int64)
    begin_of_row[rows] = np.cumsum(lengths) - lengths
    pair, at_ref, at_alt = _aligned(windows, radius)
    of_base = [_token_of_base(tokenizer, tokens, row, int(windows.width[row % n])) + begin_of_row[row] for row in range(2 * n)]
    starts = np.cumsum([0, *map(len, of_base)])
    flat = np.concatenate(of_base)
    device = states.device
    ref = states[torch.from_numpy(flat[starts[pair] + at_ref]).to(device)]
    alt = states[torch.from_numpy(flat[starts[n + pair] + at_alt]).to(device)]
    _average_insertions(alt, states, windows, pair, at_alt, flat, starts)
    owner = torch.from_numpy(pair).to(device)

    def summed(values: torch.Tensor) -> torch.Tensor:
        return torch.zeros((n, *values.shape[1:]), dtype=torch.float64, device=device).index_add_(0, owner, values.double())

    difference = ref - alt
    dot, norms = summed((ref * alt).sum(1)), (summed(ref.square().sum(1)) * summed(alt.square().sum(1))).sqrt()
    means = torch.nn.functional.cosine_similarity(summed(ref), summed(alt), eps=1e-12)
    found = {
        "emb_l2": summed(difference.square().sum(1)).sqrt(), "emb_l1": summed(difference.abs().sum(1)),
        "emb_cos": (1 - dot / norms.clamp(min=1e-12)).clamp(min=0), "emb_cos_mean": (1 - means).clamp(min=0), "emb_dot": dot,
    }  # fmt: skip
    return {name: values.cpu().numpy() for name, values in found.items()}


def _token_of_base(tokenizer: SequenceTokenizer, tokens: Tokens, row: int, width: int) -> np.ndarray:
    """The token that each base of a row belongs to [W], counted from the row's first."""
    spans = tokenizer.spans(tokens[row], width)
    return np.repeat(np.arange(len(spans)), spans[:, 1] - spans[:, 0])


def _aligned(windows: AlleleWindows, radius: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bases of both windows that are compared: number of the allele, place with REF, place with ALT, [B] each."""
    left = np.minimum(radius, np.minimum(windows.at_ref, windows.at_alt))
    right = np.minimum(radius, np.minimum(windows.right_ref, windows.right_alt))
    same = np.where(windows.alleles.n_ref == windows.alleles.n_alt, windows.alleles.n_ref, 0)
    total = left + same + right
    pair = np.repeat(np.arange(len(windows)), total)
    within = np.arange(len(pair)) - np.repeat(np.cumsum(total) - total, total)
    is_right = within >= (left + same)[pair]
    at_ref = windows.at_ref[pair] - left[pair] + within + np.where(is_right, (windows.alleles.n_ref - same)[pair], 0)
    at_alt = windows.at_alt[pair] - left[pair] + within + np.where(is_right, (windows.alleles.n_alt - same)[pair], 0)
    return pair, at_ref, at_alt


def _average_insertions(
    alt: torch.Tensor,
    states: torch.Tensor,
    windows: AlleleWindows,
    pair: np.ndarray,
    at_alt: np.ndarray,
    flat: np.ndarray,
    starts: np.ndarray,
) -> None:
    """Give the base before an insertion, in the genome, the mean of its state and those of the inserted bases."""
    n = len(windows)
    for a in np.flatnonzero(windows.alleles.kind == INS):
        begin, end = int(windows.at_alt[a]), int(windows.at_alt[a] + windows.alleles.n_alt[a])
        anchor = end if windows.reverse else begin - 1
        bases = np.arange(begin, end + 1) if windows.reverse else np.arange(begin - 1, end)
        mean = states[torch.from_numpy(flat[starts[n + a] + bases]).to(states.device)].mean(0)
        place = np.flatnonzero((pair == a) & (at_alt == anchor))
        alt[torch.from_numpy(place).to(states.device)] = mean


def _head_changes(outputs: Outputs, predictor: Predictor, name: str, rows: np.ndarray) -> dict[str, np.ndarray]:
    logits = outputs.logits(name).double().cpu().numpy()
    in_order = np.empty_like(logits)
    in_order[rows] = logits
    n = len(rows) // 2
    change = in_order[n:] - in_order[:n]
    classes = predictor.labels[name].get("classes")
    if not classes:
        return (
            {f"head_{name}": change[:, 0]} if change.shape[1] == 1 else {f"head_{name}_{i}": change[:, i] for i in range(change.shape[1])}
        )
    each = {f"head_{name}_{c}": change[:, i] for i, c in enumerate(classes)} if len(classes) == change.shape[1] else {}
    return {f"head_{name}": np.abs(change).max(1)} | each
