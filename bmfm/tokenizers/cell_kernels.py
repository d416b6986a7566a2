"""The kernels of the cell tokenizer: which genes of a cell become tokens, in which order, with which values."""

import numba
import numpy as np

from bmfm.cells.values import thin, transform
from bmfm.hashing import mix, uniform


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
def choose_tokens(
    ids, counts, offsets, keys, source, pools, pool_offsets, max_genes, order_kind, zero_kind, zero_share, dropout,
    value_kind, target_sum, n_bins, upper, depth_kind, min_total, rate, vocab_size, whole, out_ids, out_values, out_targets, out_offsets, totals,
):  # fmt: skip
    """Tokens of cells into `out_*`; see `CellTokenizer`. Kinds are places in its ORDERS and ZEROS."""
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
        if zero_kind == 1 or zero_kind == 4:
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
            if order_kind == 0:
                for i in range(at - first - 1):
                    j = i + np.int64(uniform(mix(key, 67), i) * (at - first - i))
                    x, y = first + i, first + j
                    out_ids[x], out_ids[y] = out_ids[y], out_ids[x]
                    out_values[x], out_values[y] = out_values[y], out_values[x]
                    out_targets[x], out_targets[y] = out_targets[y], out_targets[x]
        if order_kind == 2 and (n_zero > 0 or n_own < m):
            by_id = np.argsort(out_ids[first:at])
            out_ids[first:at] = out_ids[first:at][by_id]
            out_values[first:at] = out_values[first:at][by_id]
            out_targets[first:at] = out_targets[first:at][by_id]
        out_offsets[b + 1] = at
    return n_truncated, n_left_out


@numba.njit(cache=True)
def whole_values(counts, offsets, kind, target_sum, n_bins, upper, out):
    """Values of every expressed gene of the cells, into `out`."""
    for b in range(len(offsets) - 1):
        part = counts[offsets[b] : offsets[b + 1]]
        total = 0.0
        for x in part:
            total += x
        transform(part, total, kind, target_sum, n_bins, upper, out[offsets[b] : offsets[b + 1]])
