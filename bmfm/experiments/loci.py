"""Loci of the blocks that a fold looks at, each with what it is asked for, and the rule that a mutation-rate table makes of the rest."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from bmfm.experiments.folds import Folds
from bmfm.genome.alphabet import N
from bmfm.genome.control_variants import Snvs, classes_of, contexts
from bmfm.genome.reference import SOFT_MASK_BIT, Reference
from bmfm.hashing import example_keys

NO_ALT = -1


@dataclass(frozen=True)
class LocusSettings:
    """What counts as common, frequent and rare, and how loci without a variant are matched.

    Attributes
    ----------
    common, frequent
        Least allele frequencies.
    rare
        Largest allele frequency of what frequent variants are compared with: that of a singleton.
    n_negatives
        Loci without a variant for each that has a common one.
    gc_radius
        Bases on either side in which G and C are counted.
    """

    common: float = 0.01
    frequent: float = 0.05
    rare: float = 0.0003
    n_negatives: int = 9
    gc_radius: int = 50


def select_loci(reference: Reference, snvs: Snvs, touched: np.ndarray, folds: Folds, fold: int, settings: LocusSettings) -> pd.DataFrame:
    """The loci of a fold's test blocks, sorted by position and alternative base.

    Parameters
    ----------
    snvs
        All of the genome, with their true frequencies.
    touched
        Places that any known variant touches.

    Returns
    -------
    DataFrame
        ``position``, ``ref`` and ``alt`` (state codes; -1 where there is no variant), ``frequency``, ``block``, ``cpg_transition``; ``site``,
        1 for common variants and 0 for the loci without one that are matched to them, -1 for others; ``pair``, 1 for frequent variants and 0
        for the rare ones that are matched to them; and ``site_block``, ``pair_block``, the block of what it is matched to.
    """
    blocks = folds.test_blocks(fold)
    of_fold = snvs.inside(folds.blocks[blocks])
    rng = np.random.default_rng(int(example_keys(0, fold, np.zeros(1))[0]))
    frame = pd.DataFrame({"position": of_fold.position, "alt": of_fold.alt.astype(int), "frequency": of_fold.frequency})
    frame["block"] = folds.block_of(of_fold.position)
    for name in ("site", "pair", "site_block", "pair_block"):
        frame[name] = -1
    frame.loc[frame["frequency"] >= settings.common, "site"] = 1
    frame.loc[frame["frequency"] >= settings.common, "site_block"] = frame["block"]
    _match_rare(frame, classes_of(reference, of_fold), settings, rng)
    frame = frame[(frame["site"] == 1) | (frame["pair"] >= 0)]
    common = frame[frame["site"] == 1].drop_duplicates("position")
    negatives = _without_variant(reference, common, touched, folds.blocks[blocks], settings, rng)
    negatives["block"] = folds.block_of(negatives["position"].to_numpy())
    frame = pd.concat([frame, negatives], ignore_index=True).sort_values(["position", "alt"], ignore_index=True)
    frame["ref"] = (reference.codes[frame["position"]] & 0x7F).astype(int)
    frame["cpg_transition"] = is_cpg(reference, frame["position"].to_numpy()) & (frame["alt"] == frame["ref"].map({0: 1, 1: 0, 2: 3, 3: 2}))
    return frame[frame["ref"] < N].reset_index(drop=True)


def is_cpg(reference: Reference, position: np.ndarray) -> np.ndarray:
    """Whether a base is the C or the G of CG."""
    word = contexts(reference, position)
    before, base, after = word // 25, word // 5 % 5, word % 5
    return ((base == 3) & (after == 1)) | ((base == 1) & (before == 3))


def _match_rare(frame: pd.DataFrame, group: np.ndarray, settings: LocusSettings, rng: np.random.Generator) -> None:
    """Give each frequent variant a rare one with the same trinucleotide and alternative base; where these run out, both are left out."""
    frequency = frame["frequency"].to_numpy()
    pair, pair_block = frame["pair"].to_numpy().copy(), frame["pair_block"].to_numpy().copy()
    for number in np.unique(group[frequency >= settings.frequent]):
        frequent = rng.permutation(np.flatnonzero((group == number) & (frequency >= settings.frequent)))
        rare = rng.permutation(np.flatnonzero((group == number) & (frequency <= settings.rare)))
        n = min(len(frequent), len(rare))
        pair[frequent[:n]], pair[rare[:n]] = 1, 0
        pair_block[frequent[:n]] = pair_block[rare[:n]] = frame["block"].to_numpy()[frequent[:n]]
    frame["pair"], frame["pair_block"] = pair, pair_block


def _without_variant(
    reference: Reference,
    common: pd.DataFrame,
    touched: np.ndarray,
    intervals: np.ndarray,
    settings: LocusSettings,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """For each common variant the loci without one that are nearest in G + C, of the same trinucleotide and soft mask; each locus once."""
    free = np.concatenate([np.arange(start, end) for start, end in intervals])
    free = rng.permutation(free[~np.isin(free, touched)])
    gc = _gc(reference, settings.gc_radius)
    masked = reference.codes >= SOFT_MASK_BIT
    of_free = contexts(reference, free) * 2 + masked[free]
    position = common["position"].to_numpy()
    of_common = contexts(reference, position) * 2 + masked[position]
    chosen: list[np.ndarray] = []
    owner: list[np.ndarray] = []
    for number in np.unique(of_common):
        members = rng.permutation(np.flatnonzero(of_common == number))
        places = free[of_free == number]
        is_left = np.ones(len(places), bool)
        for member in members:
            left = np.flatnonzero(is_left)
            distance = np.abs(gc[places[left]] - gc[position[member]])
            nearest = left[np.argsort(distance, kind="stable")[: settings.n_negatives]]
            is_left[nearest] = False
            chosen.append(places[nearest])
            owner.append(np.full(len(nearest), member))
    owners = np.concatenate(owner) if owner else np.empty(0, np.int64)
    frame = pd.DataFrame({"position": np.concatenate(chosen) if chosen else np.empty(0, np.int64)})
    frame["alt"], frame["frequency"], frame["site"], frame["pair"], frame["pair_block"] = NO_ALT, 0.0, 0, -1, -1
    frame["site_block"] = common["block"].to_numpy()[owners]
    return frame


def _gc(reference: Reference, radius: int) -> np.ndarray:
    """How many of the bases at and around each place of `Reference.codes` are G or C."""
    code = reference.codes & 0x7F
    total = np.concatenate([np.zeros(radius + 1, np.int64), np.cumsum((code == 1) | (code == 3))])
    total = np.concatenate([total, np.full(radius, total[-1])])
    return total[2 * radius + 1 :] - total[: -2 * radius - 1]


def mutation_table(reference: Reference, snvs: Snvs, intervals: np.ndarray, common: float, prior: float = 50.0) -> np.ndarray:
    """Share of the loci of each pentanucleotide that have a common variant, [5^5], in an interval set, both strands together.

    Parameters
    ----------
    prior
        Loci with the rate of the whole set that are added to each pentanucleotide.
    """
    places = np.concatenate([np.arange(start, end) for start, end in intervals])
    is_common = np.isin(places, snvs.position[snvs.frequency >= common])
    word = contexts(reference, places, 5)
    n, k = np.bincount(word, minlength=5**5), np.bincount(word, is_common, minlength=5**5)
    digits = np.stack([np.arange(5**5) // 5**i % 5 for i in range(5)])  # the last base first
    mirror = (np.array([2, 3, 0, 1, 4])[digits] * 5 ** np.arange(5)[::-1, None]).sum(0)
    n, k = n + n[mirror], k + k[mirror]
    return (k + prior * is_common.mean()) / (n + prior)
