"""The order of a cell's tokens, and which of its genes are shown where not all fit.

To add one, write a subclass of `GeneOrder` in any module, and name it by its path:
``tokenizer.order=my_package.my_module.MyOrder``; the short names below are those of this module. An order takes a whole batch of
cells, and draws whatever is random by the cells' keys (`bmfm.hashing`), so that a cell's tokens do not depend on its batch.
"""

from abc import ABC, abstractmethod

import numba
import numpy as np

from bmfm.cells.read_depth import popcount
from bmfm.hashing import mix, uniform
from bmfm.tokenizers.cell_candidates import Candidates, Plan, Written


class GeneOrder(ABC):
    """An order of tokens.

    Attributes
    ----------
    ranks
        Whether expressed genes come before all others: they are never given up for one that is not expressed.
    by_gene
        Whether cells must come with their genes by ascending id, whatever the order of a file's columns.
    is_relative
        Whether the candidates' counts are to be counts over the medians of their genes, see `cells.gene_medians`.
    """

    ranks = False
    by_gene = False
    is_relative = False

    @abstractmethod
    def arrange(self, candidates: Candidates, plan: Plan) -> None:
        """Put the candidates that are shown to the front of ``candidates.entries`` [nnz], in their order."""

    def finish(self, tokens: Written) -> None:  # noqa: B027
        """Arrange expressed genes and zeros of each cell together; here zeros stay behind."""


class RandomOrder(GeneOrder):
    """A random choice in random order, zeros among the rest."""

    def arrange(self, candidates, plan):
        shuffle_front(candidates, plan.n_genes)

    def finish(self, tokens):
        _mix_zeros(tokens)


class DescendingOrder(GeneOrder):
    """The most expressed genes, those of equal counts in random order, zeros behind."""

    ranks = True

    def arrange(self, candidates, plan):
        shuffle_front(candidates, candidates.n)
        _sort_by_count(candidates)


class DistinctiveOrder(GeneOrder):
    """The genes that are furthest above their median in cells that express them, those of equal ratio as they stand in the cell; zeros behind."""

    ranks = True
    is_relative = True

    def arrange(self, candidates, plan):
        _sort_by_ratio(candidates, candidates.counts.view(np.uint32), plan.n_genes)


class VocabularyOrder(GeneOrder):
    """The first genes by vocabulary id, zeros among the rest."""

    by_gene = True

    def arrange(self, candidates, plan):
        if plan.is_sample:
            shuffle_front(candidates, np.where(plan.n_genes < candidates.n, plan.n_genes, 0))

    def finish(self, tokens):
        _sort_by_id(tokens)


ORDERS: dict[str, type[GeneOrder]] = {
    "random": RandomOrder,
    "descending": DescendingOrder,
    "distinctive": DistinctiveOrder,
    "as_given": VocabularyOrder,
}


@numba.njit(cache=True)
def shuffle_front(candidates, front):
    """Fisher-Yates: a random choice of `front` [B] of each cell's candidates, in random order, to the front."""
    for b in range(len(front)):
        begin, n, key = candidates.offsets[b], candidates.n[b], mix(candidates.keys[b], 53)
        order = candidates.entries[begin : begin + n]
        for i in range(min(front[b], n - 1)):
            j = i + np.int64(uniform(key, i) * (n - i))
            order[i], order[j] = order[j], order[i]


@numba.njit(cache=True)
def _sort_by_count(candidates):
    """Candidates by count, descending; those of equal count keep their order."""
    bins = np.empty(1024, np.int64)
    scratch = np.empty(len(candidates.ids), np.int32)
    for b in range(len(candidates.n)):
        begin, n = candidates.offsets[b], candidates.n[b]
        order, counts = candidates.entries[begin : begin + n], candidates.counts[begin : candidates.offsets[b + 1]]
        largest, is_whole = 0.0, True
        for i in range(n):
            x = counts[order[i]]
            largest = max(largest, x)
            is_whole = is_whole and x == np.floor(x)
        if is_whole and largest < len(bins):
            _counting_sort(order, counts, np.int64(largest), bins, scratch)
        else:
            scratch[:n] = order[np.argsort(-counts[order].astype(np.float64), kind="mergesort")]
        order[:] = scratch[:n]


@numba.njit(cache=True)
def _counting_sort(order, counts, largest, bins, out):
    """Places by descending count into `out`, for whole counts up to `largest`."""
    bins[: largest + 1] = 0
    for place in order:
        bins[np.int64(counts[place])] += 1
    at = 0
    for c in range(largest, -1, -1):
        size = bins[c]
        bins[c] = at
        at += size
    for place in order:
        c = np.int64(counts[place])
        out[bins[c]] = place
        bins[c] += 1


@numba.njit(cache=True)
def _sort_by_ratio(candidates, bits, front):
    """The first `front` [B] candidates by descending ratio, those of equal ratio as they stand.

    The `bits` [nnz] of positive floats order as the numbers do. Eleven of them tell which candidates may be among the first; these alone
    are sorted, as numbers of 64 bits that end in their place.
    """
    bins, packed = np.empty(2048, np.int32), np.empty(len(bits), np.uint64)
    for b in range(len(front)):
        begin, n = candidates.offsets[b], candidates.n[b]
        order, least = candidates.entries[begin : begin + n], 0
        if front[b] < n:
            bins[:] = 0
            for i in range(n):
                bins[bits[begin + order[i]] >> 20] += 1
            least, enough = len(bins), 0
            while enough < front[b]:
                least -= 1
                enough += bins[least]
        m = 0
        for i in range(n):
            packed[m] = np.uint64(~bits[begin + order[i]]) << np.uint64(32) | np.uint64(order[i])
            m += bits[begin + order[i]] >> 20 >= least
        packed[:m].sort()
        for i in range(front[b]):
            order[i] = np.int32(packed[i] & np.uint64(0xFFFFFFFF))


@numba.njit(cache=True)
def _mix_zeros(tokens):
    """Tokens of each cell that has zeros in random order."""
    ids, values, targets = tokens.ids, tokens.values, tokens.targets
    for b in range(len(tokens.n_zeros)):
        if not tokens.n_zeros[b]:
            continue
        first, key = tokens.offsets[b], mix(tokens.keys[b], 67)
        n = tokens.offsets[b + 1] - first
        for i in range(n - 1):
            j = i + np.int64(uniform(key, i) * (n - i))
            x, y = first + i, first + j
            ids[x], ids[y] = ids[y], ids[x]
            values[x], values[y] = values[y], values[x]
            if len(targets):
                targets[x], targets[y] = targets[y], targets[x]


@numba.njit(cache=True)
def _sort_by_id(tokens):
    """Tokens of each cell by ascending id: a bit for each id that is there, read word by word, which is faster than sorting."""
    vocab_size = 1 + np.max(tokens.ids) if len(tokens.ids) else 1
    words, place = np.zeros(vocab_size // 64 + 1, np.uint64), np.empty(vocab_size, np.int64)
    for b in range(len(tokens.n_zeros)):
        part = slice(tokens.offsets[b], tokens.offsets[b + 1])
        ids = tokens.ids[part]
        for i in range(len(ids)):
            words[ids[i] >> 6] |= np.uint64(1) << np.uint64(ids[i] & 63)
            place[ids[i]] = i
        order, n = np.empty(len(ids), np.int64), 0
        for w in range(len(words)):
            left = words[w]
            words[w] = 0
            while left:
                lowest = left & (~left + np.uint64(1))
                order[n] = place[64 * w + popcount(lowest - np.uint64(1))]
                n += 1
                left ^= lowest
        tokens.ids[part] = ids[order]
        tokens.values[part] = tokens.values[part][order]
        if len(tokens.targets):
            tokens.targets[part] = tokens.targets[part][order]
