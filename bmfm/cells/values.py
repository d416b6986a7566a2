"""From counts to the values a model sees, and read depth: kernels over one cell."""

import math

import numba
import numpy as np

from bmfm.hashing import mix, uniform

KINDS = ("log_normalise", "normalise", "log1p", "as_is", "bins", "percentile_bins", "ranks")
LOG_NORMALISE, NORMALISE, LOG1P, AS_IS, BINS, PERCENTILE_BINS, RANKS = range(len(KINDS))
_MEMO = 64


@numba.njit(cache=True)
def transform(counts, total, kind, target_sum, n_bins, upper, out):
    """Values of a cell's counts [n], all above 0, into `out`.

    log_normalise: log(1 + x / total * target_sum); normalise: without the logarithm; log1p: log(1 + x); as_is: x;
    bins: log_normalise cut into equal widths up to `upper`, from 1 (0 is for counts of 0); percentile_bins: by rank
    within the cell, from 1; ranks: average rank within the cell over its number of genes, in (0, 1].
    """
    n = len(counts)
    if n == 0:
        return
    if kind >= PERCENTILE_BINS:
        order = np.argsort(counts)
        i = 0
        while i < n:
            j = i
            while j < n and counts[order[j]] == counts[order[i]]:
                j += 1
            rank = (i + j + 1) / 2 / n  # mean of the ranks i + 1 .. j
            for k in range(i, j):
                out[order[k]] = rank if kind == RANKS else 1 + min(n_bins - 2, np.int64((rank - 0.5 / n) * (n_bins - 1)))
            i = j
        return
    scale = target_sum / total if kind in (LOG_NORMALISE, NORMALISE, BINS) else 1.0
    memo = np.full(_MEMO, -1.0)  # most counts are small whole numbers: one logarithm each
    for i in range(n):
        x = counts[i]
        if kind in (NORMALISE, AS_IS):
            out[i] = x * scale
            continue
        c = np.int64(x)
        if x == c and c < _MEMO:
            if memo[c] < 0:
                memo[c] = math.log1p(x * scale)
            y = memo[c]
        else:
            y = math.log1p(x * scale)
        out[i] = y if kind != BINS else 1 + min(n_bins - 2, np.int64(y / upper * (n_bins - 1)))


@numba.njit(cache=True)
def _popcount(x):
    x = x - ((x >> np.uint64(1)) & np.uint64(0x5555555555555555))
    x = (x & np.uint64(0x3333333333333333)) + ((x >> np.uint64(2)) & np.uint64(0x3333333333333333))
    x = (x + (x >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((x * np.uint64(0x0101010101010101)) >> np.uint64(56))


@numba.njit(cache=True)
def binomial(n, p, key):
    """An exact draw from Binomial(n, p): 64 coins at a time, compared with p bit by bit from its highest bit down.

    A coin is heads if its random bits, read as a fraction, are below p; it is decided at the first bit that differs.
    """
    if p >= 1.0:
        return n
    threshold = np.uint64(p * 18446744073709551616.0)
    heads, place = 0, 0
    while n > 0:
        coins = min(n, 64)
        open_ = ~np.uint64(0) if coins == 64 else (np.uint64(1) << np.uint64(coins)) - np.uint64(1)
        below = np.uint64(0)
        bit = 63
        while open_ and bit >= 0:
            word = mix(key, place)
            place += 1
            if (threshold >> np.uint64(bit)) & np.uint64(1):
                below |= open_ & ~word
                open_ &= word
            else:
                open_ &= ~word
            bit -= 1
        heads += _popcount(below)
        n -= coins
    return heads


@numba.njit(cache=True)
def beta_2_2(key):
    """A draw from Beta(2, 2): the median of three uniform numbers."""
    a, b, c = uniform(key, 0), uniform(key, 1), uniform(key, 2)
    return max(min(a, b), min(max(a, b), c))


@numba.njit(cache=True)
def poisson(mean, key):
    """A draw from Poisson(mean): products of uniform numbers, a large mean in parts."""
    drawn, place = 0, 0
    while mean > 0.0:
        part = min(mean, 16.0)
        mean -= part
        limit, product = math.exp(-part), 1.0
        while True:
            product *= uniform(key, place)
            place += 1
            if product <= limit:
                break
            drawn += 1
    return drawn


EQUAL, DOWNSAMPLE, POISSON = 0, 1, 2


@numba.njit(cache=True)
def thin(counts, ids, key, how, min_total, rate, out):
    """Counts [n] of a cell as a shallower sequencing run would have found them, into `out`.

    DOWNSAMPLE (scFoundation): with probability 1/2, and only for cells of at least `min_total` counts, every molecule is
    kept with one probability b ~ Beta(2, 2). POISSON (scPRINT): Poisson(rate / 2 * x) molecules are lost, and each gene
    as a whole with probability rate / 2.
    """
    total = 0.0
    for i in range(len(counts)):
        total += counts[i]
    if how == DOWNSAMPLE and total >= min_total and uniform(key, 0) < 0.5:
        kept = beta_2_2(mix(key, 1))
        for i in range(len(counts)):
            gene = mix(mix(key, 2), ids[i])
            c = np.int64(counts[i])
            out[i] = np.float32(uniform(gene, 0) < kept) if c == 1 else np.float32(binomial(c, kept, gene))
    elif how == POISSON:
        for i in range(len(counts)):
            gene = mix(mix(key, 3), ids[i])
            lost = poisson(rate / 2 * counts[i], mix(gene, 1))
            out[i] = 0.0 if uniform(gene, 0) < rate / 2 else max(0.0, counts[i] - lost)
    else:
        out[:] = counts
