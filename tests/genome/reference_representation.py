"""The representations once more in plain Python: whole copies of a contig, written from its first base, and cut into windows.

The kernels, which never see more than a window and what overlaps it, must agree with this to the letter.
"""

import numpy as np

from bmfm.genome.alphabet import COMPLEMENT, DEL, INSERTED, PAIR
from bmfm.hashing import mix

U32 = np.uint64(0xFFFFFFFF)


def carries(variants, e, key, copy, sample):
    if sample is not None:
        return variants.genotypes[variants.record[e], sample, copy] == variants.allele[e]
    draw = np.uint64(mix(np.uint64(mix(key, 11)), variants.record[e]))
    half = np.uint32((draw >> np.uint64(32)) if copy else (draw & U32))
    point = np.float32(half >> np.uint32(8)) * np.float32(1 / 16777216)
    return variants.low[e] <= point < variants.high[e]


def applied(variants, contig, key, copy, sample):
    """Edits (start, end, alt) on one chromosome copy of the contig [first, last), overlaps resolved from its first base."""
    reached, last_insertion, chosen = -1, -1, []
    carried = [e for e in range(len(variants)) if carries(variants, e, key, copy, sample)]
    for e in carried:
        s, t = int(variants.start[e]), int(variants.end[e])
        if not contig[0] <= s <= contig[1] or s < reached or (s == t and s == last_insertion):
            continue
        if t < s + 2 or not any(variants.start[o] == s + 1 and variants.record[o] < variants.record[e] for o in carried):
            reached = t
            last_insertion = s if s == t else last_insertion
            chosen.append((s, t, [int(a) for a in variants.alt[variants.alt_start[e] : variants.alt_start[e + 1]]]))
    return chosen


def contig_of(reference, start):
    c = int(np.searchsorted(reference.starts, start, "right")) - 1
    return int(reference.starts[c]), int(reference.ends[c])


def biallele(reference, variants, start, end, reverse, key, sample=None):
    first, last = contig_of(reference, start)
    states = np.array([reference.codes[first:last] & 0x7F] * 2)
    touched = set()
    for copy, bases in enumerate(states):
        edits = applied(variants, (first, last), key, copy, sample)
        for s, t, alt in edits:
            for p in range(s, t):
                bases[p - first] = alt[p - s] if p - s < len(alt) else DEL
                touched.add(p)
        for _, t, _ in (edit for edit in edits if len(edit[2]) > edit[1] - edit[0]):
            p = t if reverse else t - 1
            while first <= p < last and bases[p - first] == DEL:
                p += 1 if reverse else -1
            if first <= p < last:
                touched.add(p)
                bases[p - first] += INSERTED if bases[p - first] < DEL else 0
    symbols = [int(PAIR[a, b]) for a, b in zip(*states[:, start - first : end - first], strict=True)]
    symbols = [(int(COMPLEMENT[c]) if reverse else c) | (0x80 if start + i in touched else 0) for i, c in enumerate(symbols)]
    return symbols[::-1] if reverse else symbols


def whole_copy(reference, variants, contig, key, copy=0, sample=None):
    """(symbol, position, locus whose window shows it) of everything on a copy of the contig [first, last)."""
    first, last = contig
    rows, at, beside_deletion = [], first, False
    for s, t, alt in [*applied(variants, contig, key, copy, sample), (last, last, [])]:
        for p in range(at, s):
            rows.append(((int(reference.codes[p]) & 0x7F) | (0x80 if beside_deletion else 0), p, p))
            beside_deletion = False
        for k, base in enumerate(alt):
            position, locus = (max(s - 1, first), min(s, last - 1)) if s == t else (min(s + k, t - 1),) * 2
            rows.append((base | 0x80, position, locus))
            beside_deletion = False
        beside_deletion |= t - s > len(alt)
        at = t
    return rows


def haplotype(reference, variants, start, end, reverse, key, copy=0, sample=None):
    rows = [r for r in whole_copy(reference, variants, contig_of(reference, start), key, copy, sample) if start <= r[2] < end]
    rows = [(int(COMPLEMENT[s & 0x7F]) | (s & 0x80), p, locus) for s, p, locus in rows[::-1]] if reverse else rows
    return [s for s, _, _ in rows], [p for _, p, _ in rows]
