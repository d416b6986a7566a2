"""Which bases a locus has, and how often each: what `representation.SoftLabels` gives as labels."""

import numba
import numpy as np

from bmfm.genome.alphabet import INSERTED, VARIANT_BIT
from bmfm.genome.sites import Sites

N_BASES = 4  # A, G, T, C: the first states of the alphabet


def base_distributions(sites: Sites) -> tuple[np.ndarray, np.ndarray]:
    """Loci with more than one base, and the distribution over their bases.

    A base with an insertion after it counts as that base. What is deleted, or N, is left out, and the rest adds up to 1.

    Parameters
    ----------
    sites
        Of the forward strand.

    Returns
    -------
    position
        int64 [S], places in `Reference.codes`, ascending.
    probs
        float32 [S, 4], of A, G, T and C.
    """
    site = np.repeat(np.arange(len(sites.position)), np.diff(sites.first_state))
    base = np.where(sites.state >= INSERTED, sites.state - INSERTED, sites.state)
    is_base = base < N_BASES
    frequency = np.zeros((len(sites.position), N_BASES))
    np.add.at(frequency, (site[is_base], base[is_base]), sites.frequency[is_base])
    several = (frequency > 0).sum(1) > 1
    return sites.position[several], (frequency[several] / frequency[several].sum(1, keepdims=True)).astype(np.float32)


@numba.njit(cache=True)
def write_distributions(windows, position, probs, out, label_probs):
    """Write the distributions of the loci of each window into `label_probs`, on the window's strand, and mark their symbols in `out`.

    Parameters
    ----------
    windows
        A `windows.WindowLayout`.
    position, probs
        As `base_distributions` gives them.
    """
    start, end, reverse, offsets = windows.start, windows.end, windows.reverse, windows.offsets
    for b in range(len(start)):
        s = np.searchsorted(position, start[b])
        while s < len(position) and position[s] < end[b]:
            locus = position[s] - start[b]
            place = offsets[b + 1] - 1 - locus if reverse[b] else offsets[b] + locus
            out[place] |= VARIANT_BIT
            for base in range(4):
                label_probs[place, base ^ 2 if reverse[b] else base] = probs[s, base]  # A 0 <-> T 2, G 1 <-> C 3
            s += 1
