"""Integrated gradients of label heads for DNA: what each base of a sequence contributes to a class or a number.

The path is that of `attributions`, on the embeddings of tokens. Where tokens are single bases, what another base in the same place would
contribute is known too: ``(embedding of the other base - baseline) * mean gradient``, the hypothetical contributions that TF-MoDISco takes
(Shrikumar et al., arXiv 1811.00416). Where tokens are longer, their bases share what a token contributes equally, and no more is known.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from bmfm.genome.alphabet import N
from bmfm.hashing import example_keys
from bmfm.inference.predictor import Predictor
from bmfm.inference.runner import progress_bar
from bmfm.interpret.attributions import LEAST, TOLERANCE, Attributions, attribute, with_content
from bmfm.interpret.targets import Target, read_target
from bmfm.special import MASK
from bmfm.tokenizers.base import Tokens
from bmfm.tokenizers.batch import Batch
from bmfm.variants.contributions import Contributions
from bmfm.variants.mutagenesis import tokens_of
from bmfm.variants.questions import batches_of
from bmfm.variants.rules import Vocabulary
from bmfm.variants.sequence_sets import CODES, Sequences, SequenceSet, read_sequence_set, strands_to_read

BASELINES = ("mask", "shuffled")


@dataclass(frozen=True)
class PathOptions:
    """How gradients are taken.

    Attributes
    ----------
    method
        ``ig`` (integrated gradients) or ``grad_x_input``.
    baseline
        What contributions are compared with: ``mask``, the same sequence with every token hidden; ``shuffled``, sequences with the same
        dinucleotides in another order, over which is averaged (single bases).
    n_shuffled
        How many of these.
    n_steps
        Nodes of a path; where contributions do not add up, twice as many are tried.
    strands
        ``both`` is the mean; ``forward``; ``given``, of regions the strand that their BED file names; ``auto``, see `sequence_sets.strands_to_read`.
    """

    method: str = "ig"
    baseline: str = "mask"
    n_shuffled: int = 10
    n_steps: int = 50
    strands: str = "auto"
    seed: int = 0
    batch_size: int = 32
    precision: str | None = None
    progress: bool | None = None

    def __post_init__(self) -> None:
        if self.baseline not in BASELINES:
            raise ValueError(f"baseline={self.baseline!r} is unknown; choose {' or '.join(BASELINES)}")
        if self.n_shuffled < 1:
            raise ValueError(f"n_shuffled={self.n_shuffled} must be at least 1")


@dataclass
class BaseAttributions:
    """Contributions of bases, and how well they add up.

    Attributes
    ----------
    contributions
        In the unit of the target: logits, or that of a regression.
    report
        One row a sequence: ``name``, ``target`` (the class), ``value`` (of the sequence), ``baseline_value``, ``context`` (what the bases of the context contribute
        together), ``delta`` (how far the sum of all contributions is from the difference of the two values), ``n_steps`` and ``complete``.
    """

    contributions: Contributions
    report: pd.DataFrame


def base_attributions(
    predictor: Predictor,
    sequences: Sequences | None = None,
    *,
    target: str | Target,
    contrast: str = "mean",
    fasta: Any = None,
    regions: Sequence[str] | str | Path | None = None,
    length: int | None = None,
    context: int = 0,
    **options: Any,
) -> BaseAttributions:
    """Integrated gradients of a label head, of sequences or regions.

    Parameters
    ----------
    target, contrast
        See `targets.read_target`. The predicted class of a sequence is that of the mean over the strands.
    sequences, fasta, regions, length, context
        See `sequence_sets.read_sequence_set`.
    options
        Those of `PathOptions`.

    Raises
    ------
    ValueError
        If there is no such target, the model knows no [MASK], or ``baseline=shuffled`` is asked of tokens that are longer than a base.
    """
    chosen = PathOptions(**options)
    explained = target if isinstance(target, Target) else read_target(predictor, target, contrast)
    kind = Vocabulary(predictor.tokenizer).kind  # type: ignore[arg-type]
    if kind == "overlapping":
        raise ValueError("tokens of this model overlap, so that a base belongs to several: ask for in-silico mutagenesis (method=ism)")
    if chosen.baseline == "shuffled" and kind != "base":
        raise ValueError(
            "baseline=shuffled: a shuffled sequence has other tokens at other places; for tokens longer than a base choose mask"
        )
    if chosen.baseline == "mask" and not predictor.model.backbone.capabilities.mask_token:
        raise ValueError("baseline=mask: this model knows no [MASK]; choose baseline=shuffled")
    of = read_sequence_set(sequences, fasta, regions, length, context)
    readings = of.readings(strands_to_read(chosen.strands, predictor.model.config.strands))
    columns = explained_columns(predictor, explained, of, chosen.strands, chosen.batch_size, chosen.precision)
    hypothetical = np.zeros((len(of), 4, of.codes.shape[1]), np.float32)
    sums = np.zeros((3, len(of)))  # of the contributions, of the values, of those of the baselines
    n_steps = np.zeros(len(of), np.int64)
    with progress_bar(sum(len(rows) for _, rows, _ in readings), chosen.progress) as bar:
        for reverse, read, share in readings:
            for column in np.unique(columns[read]):
                rows = read[columns[read] == column]
                run = _Paths(predictor, replace(explained, column=int(column)), of.as_read(rows, reverse), kind == "base", chosen, bar)
                run.of_all()
                hypothetical[rows] += (run.hypothetical[:, ::-1, ::-1] if reverse else run.hypothetical) * share
                sums[:, rows] += run.sums * share
                n_steps[rows] = np.maximum(n_steps[rows], run.n_steps)
    inside, one_hot = of.places_in_codes, of.codes[:, None] == CODES[:, None]
    around = np.delete((hypothetical * one_hot).sum(1), inside, 1).sum(1)
    delta, difference = np.abs(sums[0] - (sums[1] - sums[2])), np.abs(sums[1] - sums[2])
    report = pd.DataFrame(
        {
            "name": of.names,
            "target": [explained.classes[c] for c in columns],
            "value": sums[1],
            "baseline_value": sums[2],
            "context": around,
            "delta": delta,
            "n_steps": n_steps,
            "complete": delta <= TOLERANCE * difference + LEAST,
        }
    )
    return BaseAttributions(Contributions(hypothetical[:, :, inside], of, explained.name, "base" if kind == "base" else "token"), report)


def explained_columns(
    predictor: Predictor, target: Target, of: SequenceSet, strands: str, batch_size: int = 32, precision: str | None = None
) -> np.ndarray:
    """Which of the numbers of a target is explained, of each sequence [n]: the largest is that of the mean over the strands."""
    if target.column is not None:
        return np.full(len(of), target.column)
    values = np.zeros((len(of), len(target.classes)))
    for reverse, read, _ in of.readings(strands_to_read(strands, predictor.model.config.strands)):
        for rows, batch in batches_of(predictor, tokens_of(predictor, of.as_read(read, reverse)), batch_size):
            with torch.inference_mode():
                values[read[rows]] += target.values(predictor.forward(batch, precision=precision)).double().cpu().numpy()
    return values.argmax(1)


class _Paths:
    """Contributions of the sequences of one strand, codes [m, L], to one number.

    Attributes
    ----------
    hypothetical
        [m, 4, L].
    sums
        [3, m]: of the contributions, of the values of the sequences, and of their baselines.
    n_steps
        [m].
    """

    def __init__(self, predictor: Predictor, target: Target, codes: np.ndarray, single: bool, options: PathOptions, bar: Any):
        self.predictor, self.target, self.codes, self.single, self.options, self.bar = predictor, target, codes, single, options, bar
        n, length = codes.shape
        self.hypothetical = np.zeros((n, 4, length), np.float32)
        self.sums, self.n_steps = np.zeros((3, n)), np.zeros(n, np.int64)
        vocabulary = Vocabulary(predictor.tokenizer)  # type: ignore[arg-type]
        self.ids = vocabulary.of_base[CODES]

    def of_all(self) -> None:
        """Fill the results, a batch at a time."""
        tokens = tokens_of(self.predictor, self.codes)
        for rows, batch in batches_of(self.predictor, tokens, self.options.batch_size):
            n_baselines = self.options.n_shuffled if self.options.baseline == "shuffled" else 1
            for number in range(n_baselines):
                baseline = self._baseline(batch, rows, number)
                found = attribute(
                    self.predictor, batch, self.target, baseline, self.options.method, self.options.n_steps, self.options.batch_size,
                    self.options.precision,
                )  # fmt: skip
                of_batch = self._of_bases(batch, baseline, found, rows) if self.single else self._of_tokens(batch, found, tokens, rows)
                self.hypothetical[rows] += of_batch / n_baselines
                parts = (found.tokens.sum(1), found.end, found.start)
                self.sums[:, rows] += np.stack([part.double().cpu().numpy() for part in parts]) / n_baselines
                self.n_steps[rows] = np.maximum(self.n_steps[rows], found.n_steps.cpu().numpy())
            self.bar.update(len(rows))

    def _baseline(self, batch: Batch, rows: np.ndarray, number: int) -> torch.Tensor:
        """Where paths begin; N of single bases is N there, too, so that it contributes nothing."""
        own = tokens_of(self.predictor, self.codes[rows])
        if self.options.baseline == "mask":
            ids = np.full_like(own.ids, MASK)
            if self.single:
                ids = np.where(self.codes[rows].reshape(-1) == N, own.ids, ids)
            return with_content(self.predictor, batch, input_ids=_laid(batch, ids))
        keys = example_keys(self.options.seed, number, content_keys(self.codes[rows]))
        shuffled = [shuffle_known(self.codes[r], np.random.default_rng(int(k))) for r, k in zip(rows, keys, strict=True)]
        return with_content(self.predictor, batch, input_ids=_laid(batch, tokens_of(self.predictor, np.stack(shuffled)).ids))

    def _of_bases(self, batch: Batch, baseline: torch.Tensor, found: Attributions, rows: np.ndarray) -> np.ndarray:
        """Hypothetical contributions [rows, 4, L]; 0 where there is N. That of the base that is there is exactly what its token contributes."""
        codes, channels = self.codes[rows], []
        of_tokens = found.tokens.flatten()[batch["content_index"]].view(codes.shape).cpu().numpy()
        for code, token in zip(CODES, self.ids, strict=True):
            other = with_content(self.predictor, batch, input_ids=torch.full_like(batch["input_ids"], int(token)))
            in_its_place = (
                ((other - baseline).float() * found.gradient).sum(-1).flatten()[batch["content_index"]].view(codes.shape).cpu().numpy()
            )
            channels.append(np.where(codes == code, of_tokens, in_its_place))
        return np.stack(channels, 1) * np.isin(codes, CODES)[:, None]

    def _of_tokens(self, batch: Batch, found: Attributions, tokens: Tokens, rows: np.ndarray) -> np.ndarray:
        """Contributions of tokens, shared equally by their bases, in the channels of these [rows, 4, L]."""
        shared = []
        for of_tokens, row in zip(found.of_content(batch), rows, strict=True):
            n_bases = np.diff(self.predictor.tokenizer.spans(tokens[row], self.codes.shape[1]), axis=1)[:, 0]
            shared.append(np.repeat(of_tokens / np.maximum(n_bases, 1), n_bases))
        return np.stack(shared)[:, None] * (self.codes[rows][:, None] == CODES[:, None])


def _laid(batch: Batch, ids: np.ndarray) -> torch.Tensor:
    """Input ids of a batch [R, L] whose content are others, one row after the other."""
    laid = batch["input_ids"].flatten().clone()
    laid[batch["content_index"]] = torch.from_numpy(ids).to(laid)
    return laid.view_as(batch["input_ids"])


def content_keys(codes: np.ndarray) -> np.ndarray:
    """A number of each sequence [n, L] that is the same wherever it stands, int64 [n]."""
    return np.array([int.from_bytes(blake2b(row.tobytes(), digest_size=8).digest(), "little", signed=True) for row in codes], np.int64)


def shuffle_known(codes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """`shuffle_dinucleotides` of each run of known bases by itself; N stays where it is."""
    out, known = codes.copy(), np.flatnonzero(codes != N)
    for run in np.split(known, np.flatnonzero(np.diff(known) > 1) + 1):
        out[run] = shuffle_dinucleotides(codes[run], rng)
    return out


def shuffle_dinucleotides(symbols: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The same symbols [L] in another order that has the same pairs of neighbours, as often (Altschul and Erickson, 1985).

    Each symbol's successors are shuffled except the last, which keeps a way to the end.
    """
    successors = {s: symbols[np.flatnonzero(symbols[:-1] == s) + 1] for s in np.unique(symbols[:-1]).tolist()}
    for s, following in successors.items():
        successors[s] = np.append(rng.permutation(following[:-1]), following[-1])
    out, used = symbols.copy(), dict.fromkeys(successors, 0)
    for i in range(1, len(symbols)):
        before = int(out[i - 1])
        out[i] = successors[before][used[before]]
        used[before] += 1
    return out
