"""Shifts of many edits in many cells, in parts: some cells with all edits or, of decoders, some edits in all cells, whose mean profiles are then known."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from bmfm.inference.inputs import Inputs
from bmfm.inference.predictor import Predictor
from bmfm.inference.run_parts import Part
from bmfm.interpret.attributions import select_rows
from bmfm.interpret.edits import Edit, cells_at_a_time, edited_inputs, shown_genes
from bmfm.interpret.options import InSilicoOptions
from bmfm.interpret.shifts import OfEmbedding, Shifts, distances, embedding_of_others
from bmfm.tokenizers.base import Tokens

PAIRS = 1 << 14
"""Pairs of a cell and an edit whose shifts are computed at a time: what bounds the memory, whatever the numbers of cells and genes."""
EDITS = 256
"""Edits of a part, of decoders."""


@dataclass(frozen=True)
class EditRun:
    """S edits of n cells.

    Attributes
    ----------
    inputs
        The cells.
    genes
        [S, K] ids of the genes that are edited together, -1 for none.
    """

    predictor: Predictor
    inputs: Inputs
    genes: np.ndarray
    edit: Edit
    shifts: Shifts
    options: InSilicoOptions

    def parts(self) -> Iterator[Part]:
        """All parts. A result has ``edit`` [P], ``values`` [P, shifts] of every pair of an edit and a cell that it changes; of decoders ``moved`` and
        ``moved_by`` [m, n_downstream], numbers of the genes that move most by each of these and their mean changes, and, where asked for, these of
        all genes, ``profile`` [m, genes]."""
        n = len(self.genes)
        if self.shifts.has_profile:
            for number, first in enumerate(range(0, n, EDITS)):
                edits = np.arange(first, min(first + EDITS, n))
                yield Part(number, len(edits), partial(self.of_edits, edits))
            return
        for number, (_, tokens) in enumerate(self._cells(n)):
            yield Part(number, len(tokens), partial(self.shifts_of, tokens, np.arange(n), None))

    def of_edits(self, edits: np.ndarray) -> dict[str, np.ndarray]:
        """Some edits [m] of all cells, read off a decoder."""
        profile = np.zeros((len(edits), self.shifts.n_outputs), np.float32)
        pieces = [self.shifts_of(tokens, edits, profile) for _, tokens in self._cells(len(edits))]
        found = {name: np.concatenate([piece[name] for piece in pieces]) for name in ("edit", "values")}
        profile /= np.maximum(np.bincount(found["edit"] - edits[0], minlength=len(edits)), 1)[:, None]
        moved = np.argsort(-np.abs(profile), 1, kind="stable")[:, : self.options.n_downstream]
        found |= {"moved": moved.astype(np.int32), "moved_by": np.take_along_axis(profile, moved, 1)}
        return found | ({"profile": profile} if self.options.profiles else {})

    def _cells(self, n_edits: int) -> Iterator[tuple[int, Tokens]]:
        """So many cells at a time that their pairs with so many edits are bounded."""
        return cells_at_a_time(self.inputs, max(1, PAIRS // n_edits))

    def shifts_of(self, tokens: Tokens, edits: np.ndarray, profile: np.ndarray | None) -> dict[str, np.ndarray]:
        """Number of the edit [P] and shifts of all pairs of some edits [m] and cells; changes of decoded profiles are added to `profile` [m, genes]."""
        predictor, shifts, options = self.predictor, self.shifts, self.options
        cell, number = pairs(tokens, self.genes[edits], self.edit)
        genes, values = self.genes[edits[number]], np.empty((len(cell), len(shifts.names)))
        if len(cell):
            with torch.inference_mode():
                unedited, others = self._unedited(tokens, cell, genes)
                for rows, batch in predictor.batches(edited_inputs(tokens, cell, genes, self.edit), options.batch_size):
                    outputs = predictor.forward(batch, precision=options.precision)
                    before, after = unedited[torch.from_numpy(cell[rows]).to(unedited.device)], shifts.outputs(outputs)
                    found = shifts(before, after).double()
                    if others is not None:
                        of_others = embedding_of_others(predictor.model, outputs.states(), batch, genes[rows])
                        found = torch.cat([found, distances(others[torch.from_numpy(rows).to(others.device)], of_others)], 1)
                    values[rows] = found.cpu().numpy()
                    if profile is not None:
                        np.add.at(profile, number[rows], (after - before).float().cpu().numpy())
        return {"edit": edits[number].astype(np.int32), "values": values}

    def _unedited(self, tokens: Tokens, cell: np.ndarray, genes: np.ndarray) -> tuple[torch.Tensor, torch.Tensor | None]:
        """What shifts are measured of, for the cells themselves [n, ...]; and, where the embedding is one of tokens, the embeddings of the cells
        of all pairs without the places of the genes [P, K] that are edited [P, H]."""
        of_others = isinstance(self.shifts, OfEmbedding) and self.shifts.of_others
        whole, others, place = [], [], np.empty(len(tokens), np.int64)
        order, pair_order = [], []
        for rows, batch in self.predictor.batches(_as_inputs(tokens), self.options.batch_size):
            outputs = self.predictor.forward(batch, precision=self.options.precision)
            whole.append(self.shifts.outputs(outputs))
            order.append(rows)
            if of_others:
                place[rows] = np.arange(len(rows))
                of_rows = np.flatnonzero(np.isin(cell, rows))
                pair_order.append(of_rows)
                for first in range(0, len(of_rows), self.options.batch_size):
                    some = of_rows[first : first + self.options.batch_size]
                    which = torch.from_numpy(place[cell[some]]).to(outputs.states().device)
                    states, of = outputs.states()[which], select_rows(batch, which)
                    others.append(embedding_of_others(self.predictor.model, states, of, genes[some]))
        return _in_order(whole, order), _in_order(others, pair_order) if of_others else None


def _as_inputs(tokens: Tokens) -> Inputs:
    """The cells as they are."""
    return edited_inputs(tokens, np.arange(len(tokens)), np.full((len(tokens), 1), -1), Edit("delete"))


def _in_order(pieces: list[torch.Tensor], order: list[np.ndarray]) -> torch.Tensor:
    every = torch.cat(pieces)
    return every[torch.from_numpy(np.argsort(np.concatenate(order))).to(every.device)]


def pairs(tokens: Tokens, genes: np.ndarray, edit: Edit) -> tuple[np.ndarray, np.ndarray]:
    """Cell and number of the edit [P, K], of all that change anything: where values are set every cell that shows some gene, else those that show one of these."""
    row, gene, _ = shown_genes(tokens)
    if edit.kind == "set":
        cells = np.unique(row)
        return np.repeat(cells, len(genes)), np.tile(np.arange(len(genes)), len(cells))
    edit_of, of_gene = np.nonzero(genes >= 0)[0], genes[genes >= 0]
    order = np.argsort(of_gene, kind="stable")
    first, end = (np.searchsorted(of_gene[order], gene, side) for side in ("left", "right"))
    cell = np.repeat(row, end - first)
    place = np.arange(len(cell)) - np.repeat(np.cumsum(end - first) - (end - first), end - first) + np.repeat(first, end - first)
    found = np.unique(np.stack([cell, edit_of[order][place]], 1), axis=0)
    return found[:, 0], found[:, 1]
