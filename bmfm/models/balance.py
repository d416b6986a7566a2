"""Embeddings of cells that differ in more than the few directions that most of their spread lies along."""

import numpy as np

POWER = 0.1
"""Of the covariance: 0 leaves the states as they are, 0.5 makes every direction spread alike."""


def balancing_map(states: np.ndarray, power: float = POWER) -> np.ndarray:
    """The matrix C^-power of states with covariance C, as long as the identity, symmetric [H, H].

    Training stretches [CLS] along what tells its cells apart, which leaves little of the distance between two cells of another tissue to
    all the rest. Whitening (power 0.5) gives every direction the same spread, noise as well; a small power shrinks the longest alone.

    Parameters
    ----------
    states
        Of the cells that the model was trained on [n, H].

    Raises
    ------
    ValueError
        If there are fewer than two states, some are not finite, or all are alike.

    Notes
    -----
    Directions with less than a ten-thousandth of the largest variance count as if they had so much. Whitening of embeddings: Su et al.,
    arXiv 2103.15316, of sentences.
    """
    if len(states) < 2 or not np.isfinite(states).all():
        raise ValueError(f"the states of {len(states):,} cells are too few, or not finite: model.pooling=0 does without")
    variances, directions = np.linalg.eigh(np.cov(states.astype(np.float64), rowvar=False))
    if not variances[-1] > 0:
        raise ValueError(f"the states of {len(states):,} cells are all alike: there is nothing to balance, model.pooling=0 does without")
    found = (directions * variances.clip(variances[-1] * 1e-4) ** -power) @ directions.T
    return found * (len(found) ** 0.5 / np.linalg.norm(found))
