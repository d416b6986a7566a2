"""Seqlets: short runs of bases that contribute much, in one direction.

The rule: a base is high if the size of its contribution is at least the `quantile` of those of all bases (N left out); a seqlet reaches from high base to
high base of the same sign as long as at most `max_gap` bases lie between two of them, and has at least `min_length` bases. Nothing says that a
seqlet is more than chance: compare with those of shuffled sequences.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from bmfm.variants.contributions import Contributions

COLUMNS = ("row", "name", "start", "end", "contribution", "n_high")


def find_seqlets(contributions: Contributions, quantile: float = 0.9, max_gap: int = 2, min_length: int = 4) -> pd.DataFrame:
    """Seqlets of all sequences, in their order.

    Returns
    -------
    pandas.DataFrame
        ``row`` (of the sequence), ``name``, ``start, end`` (0-based and half-open in the sequence), ``contribution`` (the sum over its bases), ``n_high`` (how many of its
        bases are high).

    Raises
    ------
    ValueError
        If `quantile` is not between 0 and 1.
    """
    if not 0 < quantile < 1:
        raise ValueError(f"quantile={quantile} must lie between 0 and 1")
    values, known = contributions.attribution(), contributions.sequences.bases >= 0
    threshold = float(np.quantile(np.abs(values[known]), quantile)) if known.any() else np.inf
    rows = []
    for number, of_sequence in enumerate(values):
        found = []
        for sign in (1, -1):
            high = np.flatnonzero((sign * of_sequence >= threshold) & (of_sequence != 0))
            for run in np.split(high, np.flatnonzero(np.diff(high) > max_gap + 1) + 1):
                if len(run) and run[-1] + 1 - run[0] >= min_length:
                    start, end = int(run[0]), int(run[-1]) + 1
                    name = contributions.sequences.names[number]
                    found.append((number, name, start, end, float(of_sequence[start:end].sum()), len(run)))
        rows += sorted(found, key=lambda row: row[2])
    return pd.DataFrame(rows, columns=list(COLUMNS))


def write_bed(seqlets: pd.DataFrame, contributions: Contributions, path: str | Path) -> None:
    """Seqlets as BED: six columns and the sum of the contributions.

    Column 5 is the size of that sum, 1000 being the largest. Of sequences that lie in no genome, the first column is their name.
    """
    of = contributions.sequences
    largest = float(seqlets["contribution"].abs().max()) if len(seqlets) else 1.0
    lines = []
    for seqlet in seqlets.itertuples(index=False):
        first = 0 if of.start is None else int(of.start[seqlet.row])
        chrom = seqlet.name if of.chrom is None else of.chrom[seqlet.row]
        name = "positive" if seqlet.contribution > 0 else "negative"
        score = round(1000 * abs(seqlet.contribution) / largest)
        lines.append(f"{chrom}\t{first + seqlet.start}\t{first + seqlet.end}\t{name}\t{score}\t.\t{seqlet.contribution:.6g}\n")
    Path(path).write_text("".join(lines))
