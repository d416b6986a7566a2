"""What the readers of both omics hand to the `Predictor`."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

CHUNK = 2048
"""Examples that are tokenized, sorted by length and cut into batches at a time."""


@dataclass
class Inputs:
    """Examples in chunks.

    Attributes
    ----------
    names
        Of the cells or sequences, in their order.
    n
        Examples that go through the model: cells, or windows of sequences.
    chunks
        (number of the first, examples); an example is a tuple: ids, of cells also values and read depth.
    owner, weight
        Of windows [n]: the number of their sequence, and how many tokens they have; None for cells.
    room
        Most tokens of a window of sequence.
    counts
        What was seen, truncated or unknown; complete once `chunks` is used up.
    match
        How the genes of an AnnData were found; of several files {file: how}.
    empty
        Of cells, which have no count in any gene of the vocabulary, ``bool`` [n]; complete once `chunks` is used up.
    """

    names: pd.Index
    n: int
    chunks: Iterator[tuple[int, list[tuple]]]
    owner: np.ndarray | None = None
    weight: np.ndarray | None = None
    windows: list[tuple[np.ndarray, int]] = field(default_factory=list)
    room: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    match: Any = None
    empty: np.ndarray | None = None
