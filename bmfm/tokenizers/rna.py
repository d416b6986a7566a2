"""The cell tokenizer: which genes of a cell the model sees, in which order, and with which values.

It owns all that turns counts into fields: the gene vocabulary, the order and truncation, what is done with zeros, the
value transform, read depth, and the special tokens in front. It is saved beside the model as JSON and text.

A cell's total, by which counts are normalised, is over the genes of the vocabulary, so that a file which also counts
other transcripts gives the same values. log_normalise is log(1 + x / total * 1e4); the published code divides by total + 1.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numba
import numpy as np

from bmfm.cells.counts import Counts
from bmfm.cells.genes import EXTRA_CLS, GeneVocabulary
from bmfm.cells.values import DOWNSAMPLE, EQUAL, KINDS, POISSON, thin, transform
from bmfm.hashing import mix, uniform
from bmfm.special import SEP

ORDERS = ("random", "descending", "as_given")
ZEROS = ("expressed", "batch_wise", "interleaved", "all")
DEPTHS = ("none", "equal", "downsample", "poisson", "align", "auto")


@dataclass
class CellTokens:
    """Tokens of a batch of cells, without special tokens: cell b is ``ids[offsets[b]:offsets[b + 1]]``.

    Attributes
    ----------
    ids, values, targets
        Gene ids, input values, and the values before read depth was lowered (the same array where it was not).
    whole
        Values of every expressed gene of the cells, like `Counts.ids`: what whole-cell decoding predicts.
    depth
        [B, 2] log(1 + total) of the input and of the target, or None without read-depth tokens.
    n_truncated, n_left_out
        Cells with more expressed genes than fit, and how many genes that left out.
    """

    ids: np.ndarray
    values: np.ndarray
    targets: np.ndarray
    offsets: np.ndarray
    whole: np.ndarray
    depth: np.ndarray | None
    n_truncated: int
    n_left_out: int

    def counted(self, counts: Counts) -> dict[str, int]:
        """What became of the cells, for reports."""
        return {
            "cells": len(counts),
            "tokens": len(self.ids),
            "truncated_cells": self.n_truncated,
            "genes_left_out_by_truncation": self.n_left_out,
            "empty_cells": int((np.diff(counts.offsets) == 0).sum()),
        }


@numba.njit(cache=True)
def _shuffle_front(order, n, front, key):
    """Fisher-Yates: a random choice of `front` of the first `n` entries, in random order, to the front."""
    for i in range(min(front, n - 1)):
        j = i + np.int64(uniform(key, i) * (n - i))
        order[i], order[j] = order[j], order[i]


@numba.njit(cache=True)
def _by_count(counts, order, n, scratch, bins):
    """The first `n` entries of `order` by count, descending; entries of equal count keep their order."""
    top, whole = 0.0, True
    for i in range(n):
        x = counts[order[i]]
        top = max(top, x)
        whole = whole and x == np.floor(x)
    if not whole or top >= len(bins):
        x = np.empty(n, np.float64)
        for i in range(n):
            x[i] = -counts[order[i]]
        place = np.argsort(x, kind="mergesort")
        for i in range(n):
            scratch[i] = order[place[i]]
    else:
        size = np.int64(top) + 1
        bins[:size] = 0
        for i in range(n):
            bins[np.int64(counts[order[i]])] += 1
        at = 0
        for c in range(size - 1, -1, -1):
            held = bins[c]
            bins[c] = at
            at += held
        for i in range(n):
            c = np.int64(counts[order[i]])
            scratch[bins[c]] = order[i]
            bins[c] += 1
    order[:n] = scratch[:n]


@numba.njit(cache=True)
def _tokens(
    ids, counts, offsets, keys, source, pools, pool_offsets, max_genes, order_kind, zero_kind, zero_share, dropout,
    value_kind, target_sum, n_bins, upper, depth_kind, min_total, rate, vocab_size, whole, out_ids, out_values, out_targets, out_offsets, totals,
):  # fmt: skip
    longest = 0
    for b in range(len(offsets) - 1):
        longest = max(longest, offsets[b + 1] - offsets[b])
    seen, values = np.empty(longest, np.float32), np.empty(longest, np.float32)
    order, scratch = np.empty(longest, np.int32), np.empty(longest, np.int32)
    sort_bins = np.empty(1024, np.int64)
    stamp = np.full(vocab_size, -1, np.int64)  # cell that last expressed a gene
    pool = pools.copy()
    swaps = np.empty(len(pool), np.int32)
    elsewhere = np.empty(0, np.int32)
    if zero_kind == 1:  # genes that any cell of the batch expresses
        there = np.zeros(vocab_size, np.bool_)
        there[ids] = True
        elsewhere = np.flatnonzero(there).astype(np.int32)
    n_truncated, n_left_out, at = 0, 0, 0
    for b in range(len(offsets) - 1):
        begin, key = offsets[b], keys[b]
        n = offsets[b + 1] - begin
        own, count, full = ids[begin : begin + n], counts[begin : begin + n], whole[begin : begin + n]
        thin(count, own, mix(key, 41), depth_kind, min_total, rate, seen[:n])
        total, total_seen = 0.0, 0.0
        for i in range(n):
            total += count[i]
            total_seen += seen[i]
        totals[b, 0], totals[b, 1] = total_seen, total
        transform(count, total, value_kind, target_sum, n_bins, upper, full)
        lowered = total_seen != total
        m = 0  # expressed genes that survive thinning and dropout
        for i in range(n):
            stamp[own[i]] = b
            if seen[i] > 0 and (dropout <= 0.0 or uniform(mix(key, 43), own[i]) >= dropout):
                order[m] = i
                m += 1
        if lowered:
            k = 0
            for i in range(n):
                if seen[i] > 0:
                    scratch[k] = i
                    k += 1
            part = np.empty(k, np.float32)
            of_part = np.empty(k, np.float32)
            for i in range(k):
                part[i] = seen[scratch[i]]
            transform(part, total_seen, value_kind, target_sum, n_bins, upper, of_part)
            values[:n] = 0.0
            for i in range(k):
                values[scratch[i]] = of_part[i]
        else:
            values[:n] = full
        lo, hi = pool_offsets[source[b]], pool_offsets[source[b] + 1]
        n_zero_there = max(0, hi - lo - n)
        n_zero, n_own = 0, min(m, max_genes)
        if zero_kind == 1:
            n_zero = min(max_genes - n_own, n_zero_there)
        elif zero_kind == 2:
            n_zero = min(n_zero_there, np.int64(np.ceil(zero_share * max_genes)))
            n_own = min(m, max_genes - n_zero)
            n_zero = min(n_zero, np.int64(np.ceil(n_own * zero_share / (1.0 - zero_share))))
        elif zero_kind == 3:
            # max_genes of all measured genes: how many of them are expressed is itself a draw
            if m + n_zero_there > max_genes and order_kind != 1:
                left, _want = m, max_genes
                for i in range(max_genes):
                    if uniform(mix(key, 47), i) * (m + n_zero_there - i) < left:
                        left -= 1
                n_own = m - left
                n_zero = max_genes - n_own
            else:
                n_zero = min(max_genes - n_own, n_zero_there)
        if order_kind == 0 or (zero_kind == 3 and order_kind == 2 and n_own < m):
            _shuffle_front(order, m, n_own, mix(key, 53))
        elif order_kind == 1:
            _shuffle_front(order, m, m, mix(key, 53))  # ties in random order
            _by_count(seen, order, m, scratch, sort_bins)
        if n_own < m:
            n_truncated += 1
            n_left_out += m - n_own
        first = at
        for i in range(n_own):
            out_ids[at], out_values[at], out_targets[at] = own[order[i]], values[order[i]], full[order[i]]
            at += 1
        if n_zero > 0:
            wanted = n_zero
            if zero_kind == 1:
                near = elsewhere.copy()
                for i in range(len(near)):
                    if wanted == 0:
                        break
                    j = i + np.int64(uniform(mix(key, 59), i) * (len(near) - i))
                    near[i], near[j] = near[j], near[i]
                    if stamp[near[i]] != b:
                        out_ids[at], out_values[at], out_targets[at] = near[i], 0.0, 0.0
                        stamp[near[i]] = b  # not drawn again below
                        at += 1
                        wanted -= 1
            i = lo
            while wanted > 0 and i < hi:
                j = i + np.int64(uniform(mix(key, 61), i - lo) * (hi - i))
                swaps[i] = j
                pool[i], pool[j] = pool[j], pool[i]
                if stamp[pool[i]] != b:
                    out_ids[at], out_values[at], out_targets[at] = pool[i], 0.0, 0.0
                    at += 1
                    wanted -= 1
                i += 1
            while i > lo:  # undo, so that the next cell's draw does not depend on this one's
                i -= 1
                j = swaps[i]
                pool[i], pool[j] = pool[j], pool[i]
            if order_kind != 1:
                for i in range(at - first - 1):
                    j = i + np.int64(uniform(mix(key, 67), i) * (at - first - i))
                    x, y = first + i, first + j
                    out_ids[x], out_ids[y] = out_ids[y], out_ids[x]
                    out_values[x], out_values[y] = out_values[y], out_values[x]
                    out_targets[x], out_targets[y] = out_targets[y], out_targets[x]
        out_offsets[b + 1] = at
    return n_truncated, n_left_out


@numba.njit(cache=True)
def _whole(counts, offsets, kind, target_sum, n_bins, upper, out):
    for b in range(len(offsets) - 1):
        part = counts[offsets[b] : offsets[b + 1]]
        total = 0.0
        for x in part:
            total += x
        transform(part, total, kind, target_sum, n_bins, upper, out[offsets[b] : offsets[b + 1]])


class CellTokenizer:
    """Turns cells into gene and value tokens.

    Parameters
    ----------
    genes
        A shipped vocabulary, a file with a gene a line, or ``from_data`` (the genes of the training files).
    order
        ``random``, ``descending`` expression (ties in random order), or ``as_given``; the first `max_tokens` are kept.
    zeros
        Genes that the file measures but the cell does not express: none (``expressed``); after the cell's own, those
        that other cells of the batch express and then any (``batch_wise``: the one setting by which a cell depends on
        its batch); so many that they make up `zero_share` of the input (``interleaved``); or as they come (``all``).
    sequence_dropout
        Probability that an expressed gene is not shown.
    values
        ``{kind, target_sum, n_bins, upper}``, see `cells.values.transform`; target_sum may be ``median``.
    depth
        ``{kind, min_total, rate, target}``: read-depth tokens [S], [T]. ``downsample`` and ``poisson`` thin the input,
        ``equal`` does not; ``align`` sets the target to the total `target`, ``auto`` to the largest total of the
        training cells (for prediction).
    n_cls
        [CLS] and then [CLS_0], [CLS_1], ...
    positions
        Whether the place in the input means something to the model.
    """

    FILES = ("cell_tokenizer.json", "genes.txt")

    def __init__(
        self,
        genes: str | Sequence[str] = "protein_coding",
        order: str = "random",
        zeros: str = "expressed",
        zero_share: float = 0.5,
        sequence_dropout: float = 0.0,
        values: dict | None = None,
        depth: dict | None = None,
        n_cls: int = 1,
        positions: bool = False,
    ):
        for what, given, known in (("order", order, ORDERS), ("zeros", zeros, ZEROS)):
            if given not in known:
                raise ValueError(f"tokenizer.{what}={given!r} is unknown; choose from {', '.join(known)}")
        self.values: dict[str, Any] = {"kind": "log_normalise", "target_sum": 1e4, "n_bins": 51, "upper": 10.0} | dict(values or {})
        self.depth: dict[str, Any] = {"kind": "none", "min_total": 1000, "rate": 0.6, "target": None} | dict(depth or {})
        if self.values["kind"] not in KINDS:
            raise ValueError(f"tokenizer.values.kind={self.values['kind']!r} is unknown; choose from {', '.join(KINDS)}")
        if self.depth["kind"] not in DEPTHS:
            raise ValueError(f"tokenizer.depth.kind={self.depth['kind']!r} is unknown; choose from {', '.join(DEPTHS)}")
        if self.depth["kind"] == "align" and not self.depth["target"]:
            raise ValueError("tokenizer.depth.kind=align needs tokenizer.depth.target, a total of counts")
        if not 0 <= sequence_dropout < 1 or not 0 <= zero_share < 1:
            raise ValueError(f"sequence_dropout={sequence_dropout} and zero_share={zero_share} must be at least 0 and below 1")
        self.order, self.zeros, self.zero_share, self.sequence_dropout = order, zeros, zero_share, sequence_dropout
        self.n_cls, self.positions = n_cls, positions
        self.vocabulary: GeneVocabulary | None = None
        if not isinstance(genes, str):
            self.use(GeneVocabulary.of_genes(genes))
        elif genes != "from_data":
            self.use(GeneVocabulary.load(genes))

    def use(self, vocabulary: GeneVocabulary) -> None:
        """Bind a vocabulary; the special tokens that the settings need must be in it."""
        needed = ["[CLS]", *EXTRA_CLS[: self.n_cls - 1]] + (["[S]", "[T]"] if self.has_depth else [])
        if absent := [t for t in needed if t not in vocabulary.ids]:
            raise ValueError(f"the gene vocabulary lacks {', '.join(absent)}, which tokenizer.n_cls={self.n_cls} and tokenizer.depth need")
        self.vocabulary = vocabulary
        self.prefix = np.array([vocabulary.ids[t] for t in needed], np.int64)

    @property
    def has_depth(self) -> bool:
        return self.depth["kind"] != "none"

    @property
    def names(self) -> list[str]:
        assert self.vocabulary is not None
        return self.vocabulary.names

    def __len__(self) -> int:
        return len(self.names)

    @property
    def plain_ids(self) -> tuple[int, int]:
        assert self.vocabulary is not None
        return self.vocabulary.plain_ids

    @property
    def n_special(self) -> int:
        return self.plain_ids[0]

    @property
    def n_bins(self) -> int | None:
        return int(self.values["n_bins"]) if self.values["kind"] in ("bins", "percentile_bins") else None

    @property
    def fields(self) -> dict[str, dict]:
        """What the model's field encoders must take."""
        values: dict = {"n_special": self.n_special} | ({"n_bins": self.n_bins} if self.n_bins else {})
        return {"input_ids": {"kind": "embedding", "size": len(self)}, "values": values}

    def check_cls(self, number: int, who: str) -> None:
        """Raise a ValueError if there is no such CLS token."""
        if not 0 <= number < self.n_cls:
            raise ValueError(f"objective {who} reads CLS token {number}, but tokenizer.n_cls={self.n_cls}")

    def settle(self, totals: np.ndarray) -> None:
        """Replace ``median`` and ``auto`` by figures of the training cells' totals."""
        totals = totals[totals > 0]
        if self.values["target_sum"] == "median":
            self.values["target_sum"] = float(np.median(totals))
        if self.depth["kind"] == "auto" and not self.depth["target"]:
            self.depth["target"] = float(totals.max())

    def _transform(self) -> tuple[int, float, int, float]:
        v = self.values
        if v["target_sum"] == "median":
            raise ValueError("tokenizer.values.target_sum=median is known once training cells were seen (`settle`)")
        return KINDS.index(v["kind"]), float(v["target_sum"]), int(v["n_bins"]), float(v["upper"])

    def __call__(self, counts: Counts, keys: np.ndarray, source: np.ndarray, measured: list[np.ndarray], max_tokens: int) -> CellTokens:
        """Tokens of cells.

        Parameters
        ----------
        keys
            One ``uint64`` each: the only source of randomness.
        source
            Number of each cell's source [B], and for each source the ids of the genes that it has, ``int32``.
        max_tokens
            Longest input, special tokens included.
        """
        max_genes = max_tokens - len(self.prefix) - 1
        if max_genes < 1:
            raise ValueError(f"max_tokens={max_tokens} leaves no room for genes beside {len(self.prefix) + 1} special tokens")
        n = len(counts)
        most = np.diff(counts.offsets) if self.zeros == "expressed" else np.full(n, max_genes)
        size = int(np.minimum(most, max_genes).sum())
        ids, values, targets = np.empty(size, np.int32), np.empty(size, np.float32), np.empty(size, np.float32)
        offsets, totals = np.zeros(n + 1, np.int64), np.empty((n, 2))
        how = {"downsample": DOWNSAMPLE, "poisson": POISSON}.get(self.depth["kind"], EQUAL)
        pools = measured if self.zeros != "expressed" else [np.empty(0, np.int32)] * len(measured)
        pool_offsets = np.cumsum([0, *map(len, pools)])
        whole = np.empty(len(counts.counts), np.float32)
        cut = _tokens(
            counts.ids, counts.counts, counts.offsets, keys, source, np.concatenate(pools), pool_offsets, max_genes, ORDERS.index(self.order),
            ZEROS.index(self.zeros), float(self.zero_share), float(self.sequence_dropout), *self._transform(), how,
            float(self.depth["min_total"]), float(self.depth["rate"]), len(self), whole, ids, values, targets, offsets, totals,
        )  # fmt: skip
        end = offsets[-1]
        depth = None
        if self.has_depth:
            if self.depth["target"] and self.depth["kind"] in ("align", "auto"):
                totals[:, 1] = self.depth["target"]
            depth = np.log1p(totals).astype(np.float32)
        return CellTokens(ids[:end], values[:end], targets[:end], offsets, whole, depth, *cut)

    def whole_cells(self, counts: Counts) -> np.ndarray:
        """Values of every expressed gene of the cells, ``float32`` [nnz]: what whole-cell decoding predicts."""
        out = np.empty(len(counts.counts), np.float32)
        _whole(counts.counts, counts.offsets, *self._transform(), out)
        return out

    def finish_values(self, batch: dict, lengths: np.ndarray, depth: np.ndarray | None) -> None:
        """Write the values of special tokens into collated cells of these lengths: -(id + 1), and log totals at [S], [T]."""
        values, first = batch["values"].reshape(-1), batch["first"]
        for i in range(self.n_cls):
            values[first + i] = -(self.prefix[i] + 1.0)
        if depth is not None:
            values[first + self.n_cls], values[first + self.n_cls + 1] = depth.T
        values[first + len(self.prefix) + lengths] = -(SEP + 1.0)

    def for_inference(self) -> "CellTokenizer":
        """The same without what is random in training: no dropout, no thinning, read depth aligned to the deepest cell."""
        settings = self.settings | {"sequence_dropout": 0.0}
        if self.depth["kind"] in ("downsample", "poisson"):
            settings["depth"] = self.depth | {"kind": "auto"}
        again = CellTokenizer("from_data", **settings)
        assert self.vocabulary is not None
        again.use(self.vocabulary)
        return again

    @property
    def settings(self) -> dict:
        names = ("order", "zeros", "zero_share", "sequence_dropout", "values", "depth", "n_cls", "positions")
        return {name: getattr(self, name) for name in names}

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``cell_tokenizer.json`` and ``genes.txt``."""
        assert self.vocabulary is not None
        (Path(folder) / self.FILES[0]).write_text(json.dumps(self.settings, indent=1))
        self.vocabulary.save(Path(folder) / self.FILES[1])

    @classmethod
    def from_pretrained(cls, folder: str | Path, **changes) -> "CellTokenizer":
        """Read a tokenizer from a folder that `save_pretrained` wrote; `changes` replace its settings."""
        settings, genes = (Path(folder) / name for name in cls.FILES)
        tokenizer = cls("from_data", **json.loads(settings.read_text()) | changes)
        tokenizer.use(GeneVocabulary(genes.read_text().split("\n")[:-1]))
        return tokenizer
