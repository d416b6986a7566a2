"""Plain versions of the cells floor's kernels, a number at a time."""

import math

import numpy as np

from bmfm.hashing import mix


def transform(counts, total, kind, target_sum=1e4, n_bins=51, upper=10.0):
    n = len(counts)
    ranks = [sum(d < c for d in counts) + (sum(d == c for d in counts) + 1) / 2 for c in counts]
    return np.array(
        [
            {
                "log_normalise": lambda c, r: math.log1p(c / total * target_sum),
                "normalise": lambda c, r: c / total * target_sum,
                "log1p": lambda c, r: math.log1p(c),
                "as_is": lambda c, r: c,
                "bins": lambda c, r: 1 + min(n_bins - 2, int(math.log1p(c * (target_sum / total)) / upper * (n_bins - 1))),
                "percentile_bins": lambda c, r: 1 + min(n_bins - 2, int((r / n - 0.5 / n) * (n_bins - 1))),
                "ranks": lambda c, r: r / n,
            }[kind](float(c), r)
            for c, r in zip(counts, ranks, strict=True)
        ],
        np.float32,
    )


def align(matrix, gene_ids, vocab_size):
    """Dense rows [B, G] of a file to {id: count} of each cell."""
    cells = []
    for row in matrix:
        cell: dict[int, float] = {}
        for g, count in enumerate(row):
            if gene_ids[g] >= 0 and count:
                cell[int(gene_ids[g])] = cell.get(int(gene_ids[g]), 0) + count
        cells.append(cell)
    return cells


def binomial(n, p, key):
    """Coins one by one: coin i of a group of 64 reads bit i of words that come highest bit first."""
    if p >= 1:
        return n
    threshold, heads, place = int(p * 2**64), 0, 0
    while n > 0:
        words, coins = [], min(n, 64)
        undecided = set(range(coins))
        for bit in range(63, -1, -1):
            if not undecided:
                break
            words.append(int(mix(key, place)))
            place += 1
            for coin in list(undecided):
                mine, theirs = (words[-1] >> coin) & 1, (threshold >> bit) & 1
                if mine != theirs:
                    undecided.discard(coin)
                    heads += mine < theirs
        n -= coins
    return heads
