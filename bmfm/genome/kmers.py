"""k-mers as numbers: the codes of their bases (A, G, T, C are 0 to 3) as digits of base four, the first base first."""

import numba
import numpy as np

from bmfm.genome.alphabet import COMPLEMENT


@numba.njit(cache=True)
def kmer_counts(codes, k):
    """Counts of the k-mers of a sequence that hold nothing but the four bases, ``float64`` [4^k]."""
    out = np.zeros(4**k)
    word, known = 0, 0
    for i in range(len(codes)):
        code = codes[i] & 0x7F
        word = (word * 4 + min(code, 3)) % 4**k
        known = known + 1 if code < 4 else 0
        if known >= k:
            out[word] += 1
    return out


def reverse_complements(k: int) -> np.ndarray:
    """The number of the reverse complement of each k-mer, [4^k]."""
    digits = np.arange(4**k)[:, None] // 4 ** np.arange(k - 1, -1, -1) % 4
    return COMPLEMENT[digits[:, ::-1]] @ 4 ** np.arange(k - 1, -1, -1)
