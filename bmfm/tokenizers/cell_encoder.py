"""Cells to tokens, step by step: read depth, values, candidates, how many of them and of zeros, order, and writing."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from bmfm.cells.counts import CellBatch, Counts
from bmfm.cells.gene_medians import relative_counts
from bmfm.cells.read_depth import DepthSettings, ReadDepth, counts_left, log_totals, sums, values_where_changed
from bmfm.cells.values import ValueSettings, ValueTransform
from bmfm.tokenizers.base import Profiles, Tokens
from bmfm.tokenizers.cell_candidates import Candidates, Plan, Written, candidate_values, find_candidates, write_genes
from bmfm.tokenizers.cell_order import GeneOrder
from bmfm.tokenizers.cell_zeros import ZeroGenes, write_zeros


class ShownCells(NamedTuple):
    """Cells as a model is shown them.

    Attributes
    ----------
    counts
        ``float32`` [nnz], maybe lowered; 0 where a gene is not found any more.
    values, full_values
        ``float32`` [nnz], of these counts and of those before they were lowered; the same array where they were not.
    log_totals
        ``float32`` [B, 2], log(1 + total) of the input and of the target.
    hidden_counts
        ``float32`` [nnz], what is not shown of counts that are split; else None.
    """

    counts: np.ndarray
    values: np.ndarray
    full_values: np.ndarray
    log_totals: np.ndarray
    hidden_counts: np.ndarray | None = None


@dataclass(frozen=True)
class CellEncoder:
    """The choices by which cells become tokens; see `rna.CellTokenizer`, whose settings they are."""

    order: GeneOrder
    zeros: ZeroGenes
    value_transform: ValueTransform
    depth_mode: ReadDepth
    value_settings: ValueSettings
    depth_settings: DepthSettings
    zero_share: float
    sequence_dropout: float
    vocab_size: int
    summary: bool = False
    gene_medians: np.ndarray | None = None

    def encode(self, raw: CellBatch, keys: np.ndarray, room: int) -> Tokens:
        """Tokens of cells, at most `room` each, drawn by their keys [B]."""
        counts = raw.counts
        shown = self.at_depth(counts, keys)
        sorted_by = self.measure(shown.counts, counts.ids, self.order.is_relative)
        candidates = Candidates(*find_candidates(counts.ids, sorted_by, counts.offsets, keys, self.sequence_dropout))
        shown_profile = Profiles(*candidate_values(candidates, shown.values)) if self.summary else None  # before any is put in order
        n_unexpressed = np.zeros(len(counts), np.int64)
        if self.zeros.shows_zeros:
            n_measured = np.array([len(panel) for panel in raw.gene_panels], np.int64)[raw.source_ids]
            n_unexpressed = np.maximum(0, n_measured - np.diff(counts.offsets))
        plan = self.zeros.plan(candidates, n_unexpressed, room, self.zero_share, self.order.ranks)
        self.order.arrange(candidates, plan)
        has_targets = self.depth_mode.is_lowered and not self.depth_mode.is_split
        written = _write(candidates, plan, shown, has_targets)
        if self.zeros.shows_zeros:
            write_zeros(self.zeros, candidates, plan, raw, written, self.vocab_size)
            self.order.finish(written)
        return Tokens(
            written.ids,
            written.offsets,
            {"values": written.values} | ({"targets": written.targets} if has_targets else {}),
            {"read_depth": shown.log_totals} if self.depth_mode.has_tokens else {},
            Profiles(counts.ids, shown.full_values, counts.offsets, shown.hidden_counts),
            shown_profile,
            {
                "cells": len(counts),
                "tokens": len(written.ids),
                "truncated_cells": int((plan.n_genes < candidates.n).sum()),
                "genes_left_out_by_truncation": int((candidates.n - plan.n_genes).sum()),
                "empty_cells": int((np.diff(counts.offsets) == 0).sum()),
            },
        )

    def at_depth(self, counts: Counts, keys: np.ndarray) -> ShownCells:
        """Cells as they are shown: at a lower read depth, where that is asked for, with their values and totals."""
        offsets, mode = counts.offsets, self.depth_mode
        totals = sums(counts.counts, offsets)
        full_values = self.transform(counts, totals)
        target_totals = np.full(len(totals), self.depth_settings.target) if mode.aligns else totals
        if not mode.is_lowered:
            return ShownCells(counts.counts, full_values, full_values, log_totals(totals, target_totals))
        left = mode.lower(counts, totals, keys, self.depth_settings)
        totals_left = sums(left, offsets)
        changed = totals_left != totals
        some_left, some_offsets = counts_left(self.measure(left, counts.ids, self.value_transform.is_relative), offsets, changed)
        values_left = self.value_transform(some_left, some_offsets, totals_left, self.value_settings)
        values = values_where_changed(values_left, left, offsets, changed, full_values)
        if not mode.is_split:
            return ShownCells(left, values, full_values, log_totals(totals_left, target_totals))
        return ShownCells(left, values, full_values, log_totals(totals_left, totals - totals_left), counts.counts - left)

    def transform(self, counts: Counts, totals: np.ndarray) -> np.ndarray:
        """Values of cells with these totals [B]; see `cells.values.ValueTransform`."""
        measured = self.measure(counts.counts, counts.ids, self.value_transform.is_relative)
        return self.value_transform(measured, counts.offsets, totals, self.value_settings)

    def measure(self, counts: np.ndarray, ids: np.ndarray, is_relative: bool) -> np.ndarray:
        """Counts [nnz] as they are, or over the medians of their genes."""
        return relative_counts(counts, ids, self.gene_medians) if is_relative else counts


def _write(candidates: Candidates, plan: Plan, shown: ShownCells, has_targets: bool) -> Written:
    """Expressed genes as tokens, with room behind each cell's for its zeros."""
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(plan.n_genes + plan.n_zeros)])
    ids, values = np.empty(offsets[-1], np.int32), np.empty(offsets[-1], np.float32)
    targets = np.empty(offsets[-1] if has_targets else 0, np.float32)
    write_genes(candidates, plan, shown.values, shown.full_values, offsets, ids, values, targets)
    return Written(ids, values, targets, offsets, plan.n_zeros, candidates.keys)
