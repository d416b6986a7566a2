"""What random variants of the same genome score: the yardstick of `pll_cal`, of quantiles and of context-calibrated scores."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from bmfm.genome.alphabet import decode
from bmfm.genome.reference import Reference
from bmfm.variants.alleles import LEAST_SIDE, SNV
from bmfm.variants.windows import AlleleWindows

TERMS = ("dtok", "dlogunigram", "dlen")
"""What a pseudo-log-likelihood ratio depends on whatever the variant means: the difference in tokens, in the log-frequency of the tokens,
in length."""


@dataclass(frozen=True)
class Calibration:
    """Coefficients of `TERMS`, fitted to random variants without an intercept."""

    coefficients: tuple[float, float, float]

    @classmethod
    def fit(cls, pll: np.ndarray, terms: np.ndarray) -> "Calibration":
        """From scores [n] and terms [n, 3], by least squares; what does not vary has the coefficient 0."""
        known = np.isfinite(pll)
        solution, *_ = np.linalg.lstsq(terms[known], pll[known], rcond=None)
        return cls(tuple(float(c) for c in solution))  # type: ignore[arg-type]

    def __call__(self, pll: np.ndarray, terms: np.ndarray) -> np.ndarray:
        """Scores less what the terms say."""
        return pll - terms @ np.array(self.coefficients)

    def save(self, file: Path) -> None:
        file.write_text(json.dumps(dict(zip(TERMS, self.coefficients, strict=True)), indent=1) + "\n")

    @classmethod
    def load(cls, file: Path) -> "Calibration":
        values = json.loads(file.read_text())
        return cls(tuple(float(values[name]) for name in TERMS))  # type: ignore[arg-type]


def random_variants(reference: Reference, n: int, seed: int = 0, snvs_only: bool = False) -> pd.DataFrame:
    """Variants at random places of a genome: SNVs, or half SNVs, and insertions and deletions of 1 to about 10 bases, a quarter each.

    Returns
    -------
    DataFrame
        ``chrom``, ``pos`` (1-based), ``ref``, ``alt``, as a VCF would have them.
    """
    rng = np.random.default_rng(seed)
    intervals = reference.known_intervals()
    intervals = intervals[np.diff(intervals, axis=1)[:, 0] > 2 * LEAST_SIDE + 64]
    if not len(intervals):
        raise ValueError(f"{reference.source}: no stretch of known bases is long enough for random variants")
    room = np.diff(intervals, axis=1)[:, 0] - 2 * LEAST_SIDE - 64
    ends = np.cumsum(room)
    rows: list[tuple[str, int, str, str]] = []
    while len(rows) < n:
        draw = int(rng.integers(ends[-1]))
        i = int(np.searchsorted(ends, draw, "right"))
        place = int(intervals[i, 0] + LEAST_SIDE + draw - (ends[i] - room[i]))
        contig, position = reference.locate(place)
        kind = "SNV" if snvs_only else rng.choice(["SNV", "INS", "DEL"], p=[0.5, 0.25, 0.25])
        length = 1 if kind == "SNV" else min(int(rng.geometric(0.4)), 30)
        ref = decode(reference.fetch(contig, position, position + 1 + (length if kind == "DEL" else 0)))
        if "N" in ref:
            continue
        bases = "".join(rng.choice(list("ACGT"), length))
        alt = rng.choice([b for b in "ACGT" if b != ref]) if kind == "SNV" else ref[0] + (bases if kind == "INS" else "")
        rows.append((contig, position + 1, ref, alt))
    return pd.DataFrame(rows, columns=["chrom", "pos", "ref", "alt"])


def allele_contexts(windows: AlleleWindows) -> pd.Series:
    """Of SNVs the base before, REF and the base after, and what it becomes, as ``ACG>T``; of other alleles nothing."""
    forward = windows.on("forward")
    texts = [
        f"{decode(forward.ref[a][at - 1 : at + 2])}>{decode(forward.alt_bases_of(a))}" if kind == SNV else ""
        for a, (at, kind) in enumerate(zip(forward.at_ref.tolist(), forward.alleles.kind.tolist(), strict=True))
    ]
    return pd.Series(texts, dtype=object)


def quantiles(scores: np.ndarray, context: pd.Series, background: pd.DataFrame) -> np.ndarray:
    """Share of the background's variants of the same context whose score is nearer to 0, [n]; NaN without a score or such variants.

    Parameters
    ----------
    background
        ``context`` and ``llr`` of random SNVs.
    """
    of_context = {name: np.sort(np.abs(values)) for name, values in background.groupby("context")["llr"]}
    out = np.full(len(scores), np.nan)
    for name, rows in pd.Series(np.arange(len(scores))).groupby(context.to_numpy()):
        known = of_context.get(name)
        if known is not None and len(known):
            out[rows] = np.searchsorted(known, np.abs(scores[rows]), "left") / len(known)
    return np.where(np.isnan(scores), np.nan, out)
