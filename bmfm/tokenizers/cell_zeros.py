"""Genes that a cell does not express, as tokens: how many, and which are drawn first.

To add a scheme, write a subclass of `ZeroGenes` in any module, and name it by its path:
``tokenizer.zeros=my_package.my_module.MyZeros``; the short names below are those of this module.
"""

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import numba
import numpy as np

from bmfm.cells.counts import CellBatch
from bmfm.hashing import mix, uniform
from bmfm.tokenizers.cell_candidates import Candidates, Plan, Written


class ZeroGenes(ABC):
    """A scheme of zeros.

    Attributes
    ----------
    shows_zeros
        Whether there are any.
    for_inference
        Short name or path of the scheme that stands in where tokens must be a function of the cell alone; None where they are.
    """

    shows_zeros = True
    for_inference: str | None = None

    @abstractmethod
    def plan(self, candidates: Candidates, n_unexpressed: np.ndarray, room: int, share: float, ranks: bool) -> Plan:
        """How many tokens each cell gets, at most `room` in all.

        Parameters
        ----------
        n_unexpressed
            Genes that each cell's source measures and the cell does not express [B].
        share
            ``zero_share`` of the tokenizer.
        ranks
            See `cell_order.GeneOrder`.
        """

    def room_for(self, n_genes: int, n_measured: int, share: float) -> int:
        """Tokens in which all of a cell's `n_genes` expressed genes are shown, if its source measures `n_measured`."""
        return n_genes

    def preferred(self, candidates: Candidates, vocab_size: int) -> np.ndarray:
        """Ids of genes that are drawn before all others, ``int32``."""
        return np.empty(0, np.int32)


class NoZeros(ZeroGenes):
    """Expressed genes alone."""

    shows_zeros = False

    def plan(self, candidates, n_unexpressed, room, share, ranks):
        return Plan(np.minimum(candidates.n, room), np.zeros(len(candidates.n), np.int64))


class MeasuredZeros(ZeroGenes):
    """After a cell's own genes any that its source measures, until the input is full."""

    def plan(self, candidates, n_unexpressed, room, share, ranks):
        n_genes = np.minimum(candidates.n, room)
        return Plan(n_genes, np.minimum(room - n_genes, n_unexpressed))


class BatchZeros(MeasuredZeros):
    """As `MeasuredZeros`, but genes that other cells of the batch express come first."""

    for_inference = "measured"

    def preferred(self, candidates, vocab_size):
        is_expressed = np.zeros(vocab_size, bool)
        is_expressed[candidates.ids] = True
        return np.flatnonzero(is_expressed).astype(np.int32)


class InterleavedZeros(ZeroGenes):
    """So many that they make up `share` of the input."""

    def plan(self, candidates, n_unexpressed, room, share, ranks):
        most = np.minimum(n_unexpressed, int(np.ceil(share * room)))
        n_genes = np.minimum(candidates.n, room - most)
        return Plan(n_genes, np.minimum(most, np.ceil(n_genes * share / (1.0 - share)).astype(np.int64)))

    def room_for(self, n_genes, n_measured, share):
        return math.ceil(n_genes / (1 - share)) + 1


class AllGenes(ZeroGenes):
    """Genes as they come: a random choice of all that the source measures, where not all fit."""

    def plan(self, candidates, n_unexpressed, room, share, ranks):
        n_genes = np.minimum(candidates.n, room)
        if not ranks:
            n_genes = _expressed_of_choice(candidates.n, n_unexpressed, room, candidates.keys)
        return Plan(n_genes, np.minimum(room - n_genes, n_unexpressed), not ranks)

    def room_for(self, n_genes, n_measured, share):
        return n_measured


ZEROS: dict[str, type[ZeroGenes]] = {
    "expressed": NoZeros,
    "batch_wise": BatchZeros,
    "interleaved": InterleavedZeros,
    "all": AllGenes,
    "measured": MeasuredZeros,
}


@numba.njit(cache=True)
def _expressed_of_choice(n_expressed, n_unexpressed, room, keys):
    """How many of a random choice of `room` of each cell's genes are expressed [B]: itself a draw."""
    out = np.empty(len(keys), np.int64)
    for b in range(len(keys)):
        n, left = n_expressed[b] + n_unexpressed[b], n_expressed[b]
        if n <= room:
            out[b] = n_expressed[b]
            continue
        key = mix(keys[b], 47)
        for i in range(room):
            if uniform(key, i) * (n - i) < left:
                left -= 1
        out[b] = n_expressed[b] - left
    return out


class Places(NamedTuple):
    """Where zeros are written and drawn from, for each cell [B]: the first place in the flat tokens, how many, and which part of
    all sources' genes is that of the cell's source."""

    first: np.ndarray
    n: np.ndarray
    panel_begin: np.ndarray
    panel_end: np.ndarray


def write_zeros(zeros: ZeroGenes, candidates: Candidates, plan: Plan, raw: CellBatch, tokens: Written, vocab_size: int) -> None:
    """Draw each cell's zeros, from the genes that are preferred and then from those of its source; their ids come into
    ``tokens.ids``, behind its own."""
    panel_offsets = np.cumsum([0, *map(len, raw.gene_panels)])
    panels = np.concatenate(raw.gene_panels)
    places = Places(tokens.offsets[:-1] + plan.n_genes, plan.n_zeros, panel_offsets[raw.source_ids], panel_offsets[raw.source_ids + 1])
    _draw_zeros(candidates, places, panels, zeros.preferred(candidates, vocab_size), vocab_size, tokens.ids)


@numba.njit(cache=True)
def _draw_zeros(candidates, places, pool, preferred, vocab_size, out_ids):
    is_taken = np.full(vocab_size, -1, np.int32)  # the last cell that expresses a gene, or shows it
    swaps = np.empty(len(pool), np.int32)
    for b in range(len(places.n)):
        if places.n[b] == 0:
            continue
        for i in range(candidates.offsets[b], candidates.offsets[b + 1]):
            is_taken[candidates.ids[i]] = b
        out = out_ids[places.first[b] : places.first[b] + places.n[b]]
        n = _draw_preferred(preferred, mix(candidates.keys[b], 59), is_taken, b, out)
        begin, end = places.panel_begin[b], places.panel_end[b]
        _draw_of_panel(pool[begin:end], swaps, mix(candidates.keys[b], 61), is_taken, b, out[n:])


@numba.njit(cache=True)
def _draw_preferred(genes, key, is_taken, b, out):
    """A random choice of genes that cell b neither expresses nor shows, into `out`; returns how many there were."""
    order, n = genes.copy(), 0
    for i in range(len(order)):
        if n == len(out):
            break
        j = i + np.int64(uniform(key, i) * (len(order) - i))
        order[i], order[j] = order[j], order[i]
        if is_taken[order[i]] != b:
            out[n] = order[i]
            is_taken[order[i]] = b
            n += 1
    return n


@numba.njit(cache=True)
def _draw_of_panel(pool, swaps, key, is_taken, b, out):
    """A random choice of a source's genes that cell b neither expresses nor shows fills `out`; the pool is left as it was."""
    i = n = 0
    while n < len(out) and i < len(pool):
        j = i + np.int64(uniform(key, i) * (len(pool) - i))
        swaps[i] = j
        pool[i], pool[j] = pool[j], pool[i]
        if is_taken[pool[i]] != b:
            out[n] = pool[i]
            n += 1
        i += 1
    while i > 0:  # undo, so that the next cell's draw does not depend on this one's
        i -= 1
        j = swaps[i]
        pool[i], pool[j] = pool[j], pool[i]
