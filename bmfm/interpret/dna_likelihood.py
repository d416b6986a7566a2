"""Logos of what a masked model expects at each base: probabilities of A, C, G and T where the base is hidden, and their information content.

Positions that a model is sure of from their context alone are often constrained by selection, and their letters spell motifs, as those of
binding sites (Benegas et al., PNAS 2023, doi 10.1073/pnas.2311219120).
"""

import numpy as np
from scipy.special import log_softmax, xlogy

from bmfm.variants.mutagenesis import Mutagenesis


def probabilities(scores: Mutagenesis) -> np.ndarray:
    """Probabilities of A, C, G and T among the four, float64 [n, 4, L]; a quarter each where there is N.

    Parameters
    ----------
    scores
        Of ``score="llr"``: log-likelihood ratios by hidden bases. Of two strands, the probabilities are the normalised geometric mean.

    Raises
    ------
    ValueError
        If they are scores of a head.
    """
    if scores.score != "llr":
        raise ValueError(f"scores of {scores.score} are no log-likelihoods: call mutagenesis with score='llr'")
    return np.exp(log_softmax(np.nan_to_num(scores.values.astype(np.float64)), axis=1))


def information(probs: np.ndarray) -> np.ndarray:
    """Information content in bits [n, L] of probabilities [n, 4, L]: 2 less their entropy (Schneider and Stephens, 1990)."""
    return 2 + (xlogy(probs, probs) / np.log(2)).sum(1)


def information_logo(scores: Mutagenesis) -> np.ndarray:
    """Heights of letters in bits [n, 4, L]: each probability times the information content of its position."""
    probs = probabilities(scores)
    return probs * information(probs)[:, None]
