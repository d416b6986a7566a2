"""The representations once more, one window at a time in plain Python; the kernels must agree with this to the letter."""

import numpy as np

from bmfm.genome.alphabet import COMPLEMENT, DEL, INSERTED, PAIR
from bmfm.hashing import mix

U32 = np.uint64(0xFFFFFFFF)


def carried_edits(variants, start, end, key, copy, sample=None, inclusive=False):
    """Edits on one chromosome copy that touch [start, end), overlaps resolved from the left."""
    reached, last_insertion, chosen = -1, -1, []
    for e in range(len(variants)):
        s, t = int(variants.start[e]), int(variants.end[e])
        if s < start - variants.longest or s > end or (s == end and not inclusive):
            continue
        if sample is not None:
            carries = variants.genotypes[variants.record[e], sample, copy] == variants.allele[e]
        else:
            draw = np.uint64(mix(np.uint64(mix(key, 11)), variants.record[e]))
            half = np.uint32((draw >> np.uint64(32)) if copy else (draw & U32))
            point = np.float32(half >> np.uint32(8)) * np.float32(1 / 16777216)
            carries = variants.low[e] <= point < variants.high[e]
        if not carries or s < reached or (s == t and s == last_insertion):
            continue
        reached = t
        alt = [int(a) for a in variants.alt[variants.alt_start[e] : variants.alt_start[e + 1]]]
        if s == t:
            last_insertion = s
        chosen.append((s, t, alt))
    return chosen


def biallele(reference, variants, start, end, reverse, key, sample=None):
    codes = [int(c) & 0x7F for c in reference.codes[start:end]]
    flip = (lambda i: len(codes) - 1 - i) if reverse else (lambda i: i)
    comp = (lambda c: int(COMPLEMENT[c])) if reverse else (lambda c: c)
    base = [comp(c) for c in codes][:: -1 if reverse else 1]
    copies, touched = [list(base), list(base)], set()
    for copy in range(2):
        for s, t, alt in carried_edits(variants, start, end, key, copy, sample, inclusive=True):
            for j in range(t - s):
                place = s + j - start
                if 0 <= place < len(codes):
                    copies[copy][flip(place)] = comp(alt[j]) if j < len(alt) else DEL
                    touched.add(flip(place))
            if len(alt) > t - s:
                boundary = t - start
                place = len(codes) - boundary - 1 if reverse else boundary - 1
                while 0 <= place < len(codes) and copies[copy][place] == DEL:
                    place -= 1
                if 0 <= place < len(codes) and copies[copy][place] < DEL:
                    copies[copy][place] += INSERTED
                    touched.add(place)
    return [int(PAIR[a, b]) | (0x80 if i in touched else 0) for i, (a, b) in enumerate(zip(*copies, strict=True))]


def haplotype(reference, variants, start, end, reverse, key, copy=0, sample=None):
    out, positions, at, mark = [], [], start, False
    edits = carried_edits(variants, start, end, key, copy, sample)
    for s, t, alt in [*edits, (end, end, None)]:
        for p in range(at, max(at, s)):
            out.append((int(reference.codes[p]) & 0x7F) | (0x80 if mark else 0))
            positions.append(p)
            mark = False
        at = max(at, s)
        if alt is None:
            break
        if s >= start:
            for j, a in enumerate(alt):
                out.append(a | 0x80)
                positions.append(max(min(s + j, t - 1), s - 1))
        mark = mark or t - s > len(alt)
        at = max(at, min(t, end))
    if reverse:
        out = [int(COMPLEMENT[o & 0x7F]) | (o & 0x80) for o in out[::-1]]
        positions = positions[::-1]
    return out, positions
