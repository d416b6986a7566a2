"""Nucleotide dependency maps: how much what a model expects at one base changes when another is mutated.

``D[i, j]`` is the largest change, over the three alternatives at i and the four bases at j, of the log2 odds of the base at j (Tomaz da Silva et al.,
Nature Genetics 2025, doi 10.1038/s41588-025-02347-3). Blocks of the map are motifs, antidiagonals are stems of RNA. The map of a model is not of
itself one of the genome: what a model has not learned is not there, and near repeats share dependencies without any function.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from bmfm.genome.alphabet import N
from bmfm.inference.predictor import Predictor
from bmfm.inference.runner import progress_bar
from bmfm.interpret.dna_sequences import read_sequences
from bmfm.special import MASK
from bmfm.tokenizers.base import Tokens
from bmfm.variants.contributions import PICTURES, write_table
from bmfm.variants.mutagenesis import ids_of_bases, tokens_of
from bmfm.variants.questions import batches_of
from bmfm.variants.sequence_sets import CODES, LETTERS, Sequences, SequenceSet, strands_to_read

AT_ONCE = 1 << 22
"""Tokens of mutants that are made at a time."""


@dataclass
class DependencyMaps:
    """Maps of n sequences of L bases.

    Attributes
    ----------
    values : float32 [n, L, L]
        Row: the base that is mutated; column: the base that is looked at; in bits. The diagonal is 0; rows and columns of N are NaN.
    sequences
        Whose they are.
    """

    values: np.ndarray
    sequences: SequenceSet

    def influence(self) -> np.ndarray:
        """Mean effect of mutating each base on all others [n, L], which tells harmful variants; NaN for N."""
        known = np.isfinite(self.values)
        return np.where(known.any(2), np.nan_to_num(self.values).sum(2) / np.maximum(known.sum(2) - 1, 1), np.nan)

    def frame(self, min_distance: int = 1) -> pd.DataFrame:
        """Pairs of bases at least so many apart, the largest first: ``name, i, j`` (0-based in the sequence; of regions ``chrom, pos_i, pos_j`` too,
        1-based), ``base_i, base_j, dependency``."""
        length = self.sequences.length
        far = np.abs(np.subtract.outer(np.arange(length), np.arange(length))) >= max(1, min_distance)
        row, i, j = np.nonzero(far & np.isfinite(self.values))
        letters = np.array(list(LETTERS), object)
        table = pd.DataFrame({"name": np.array(self.sequences.names, object)[row], "i": i, "j": j})
        if self.sequences.chrom is not None and self.sequences.start is not None:
            table["chrom"] = np.array(self.sequences.chrom, object)[row]
            table["pos_i"], table["pos_j"] = (self.sequences.start[row] + at + 1 for at in (i, j))
        for name, at in (("base_i", i), ("base_j", j)):
            table[name] = letters[self.sequences.bases[row, at]]
        table["dependency"] = self.values[row, i, j]
        return table.sort_values("dependency", ascending=False, kind="stable", ignore_index=True)

    def save(self, path: str | Path) -> None:
        """Write what the end of the name says: ``.npz`` (``dependency`` [n, L, L], ``one_hot`` [n, 4, L], ``names``), ``.parquet``, ``.csv`` or ``.tsv``
        (`frame`), ``.png``, ``.svg`` or ``.pdf`` (a heat map of the first sequence)."""
        file = Path(path)
        if file.suffix == ".npz":
            np.savez_compressed(file, dependency=self.values, one_hot=self.sequences.one_hot(), names=self.sequences.names)
        elif file.suffix in PICTURES:
            self.plot(file)
        else:
            write_table(self.frame(), file)

    def plot(self, path: str | Path, number: int = 0) -> None:
        """Draw the map of one sequence; colours end at its 99.5th percentile."""
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt

        values, length = self.values[number], self.sequences.length
        size = min(20.0, max(5.0, length / 12))
        figure, axis = plt.subplots(figsize=(size * 1.1, size), layout="constrained")
        top = float(np.nanquantile(values, 0.995)) if np.isfinite(values).any() else 1.0
        image = axis.imshow(values, cmap="magma_r", vmin=0, vmax=top or 1.0, interpolation="nearest")
        if length <= 150:
            texts = [(LETTERS + "N")[channel] for channel in self.sequences.bases[number]]
            axis.set_xticks(range(length), texts, fontsize=6)
            axis.set_yticks(range(length), texts, fontsize=6)
        axis.set_xlabel(f"base of {self.sequences.names[number]} that is looked at")
        axis.set_ylabel("base that is mutated")
        figure.colorbar(image, ax=axis, label="largest change of log2 odds", shrink=0.8)
        figure.savefig(path, dpi=150)
        plt.close(figure)


def dependency_map(
    predictor: Predictor,
    sequences: Sequences | None = None,
    *,
    hide_target: bool = False,
    strands: str = "forward",
    batch_size: int = 32,
    precision: str | None = None,
    progress: bool | None = None,
    **places: Any,
) -> DependencyMaps:
    """Dependency maps of sequences or regions, by masked models of single bases.

    Parameters
    ----------
    sequences, places
        ``fasta``, ``regions``, ``length``, ``context``: see `sequence_sets.read_sequence_set`. Bases of the context are neither mutated nor looked at.
    hide_target
        False shows the base that is looked at, as published, which takes 3 L + 1 passes; models that never see random bases in training
        mostly repeat it. True hides it, which takes L times as many.
    strands
        ``forward``, ``both`` (the mean of the two strands' maps; ``auto`` is the same), or ``given``, of regions the strand that their BED file names.

    Raises
    ------
    ValueError
        If lengths differ, or the model is no masked one of single bases.
    """
    columns = ids_of_bases(predictor, "a dependency map")
    of = read_sequences(predictor, sequences, **places)
    values = np.zeros((len(of), of.length, of.length), np.float32)
    readings = of.readings(strands_to_read(strands, None))
    n_maps = sum(len(rows) for _, rows, _ in readings)
    with progress_bar(n_maps * of.length * (of.length if hide_target else 1), progress) as bar:
        for reverse, rows, share in readings:
            for i in rows:
                run = _Mutants(predictor, of.as_read([i], reverse)[0], of.places_in_codes, columns, batch_size, precision)
                found = run.hidden(bar) if hide_target else run.shown(bar)
                values[i] += share * (found[::-1, ::-1] if reverse else found)
    return DependencyMaps(values, of)


@dataclass
class _Mutants:
    """The mutants of one sequence at places [L] of its codes, and what a model makes of them there."""

    predictor: Predictor
    codes: np.ndarray
    places: np.ndarray
    columns: np.ndarray
    batch_size: int
    precision: str | None

    def shown(self, bar: Any) -> np.ndarray:
        """The map [L, L] where the bases that are looked at are shown."""
        own = self._log_odds(tokens_of(self.predictor, self.codes[None]), self.places)
        return self._changes(lambda tokens: tokens, own, self.places, bar)

    def hidden(self, bar: Any) -> np.ndarray:
        """The map [L, L] where each base that is looked at is hidden: a column at a time."""

        def hide(tokens: Tokens) -> Tokens:
            tokens.ids[tokens.offsets[:-1] + target] = MASK
            return tokens

        columns = []
        for target in self.places:
            place = np.array([target])
            own = self._log_odds(hide(tokens_of(self.predictor, self.codes[None])), place)
            columns.append(self._changes(hide, own, place, bar)[:, 0])
        return np.stack(columns, 1)

    def _changes(self, prepare: Any, own: torch.Tensor, places: np.ndarray, bar: Any) -> np.ndarray:
        """Largest changes [L, places] of log odds [1, places, 4]; NaN where N is mutated or looked at, 0 at the mutated base."""
        found = np.full((len(self.places), len(places)), np.nan, np.float32)
        for mutated in self._some_positions():
            mutants = np.repeat(self.codes[None], 3 * len(mutated), 0)
            for k, at in enumerate(self.places[mutated]):
                mutants[3 * k : 3 * k + 3, at] = CODES[self.codes[at] != CODES]
            change = (self._log_odds(prepare(tokens_of(self.predictor, mutants)), places) - own).abs().amax(2)
            found[mutated] = change.view(len(mutated), 3, len(places)).amax(1).cpu().numpy()
            bar.update(len(mutated))
        found[places[None] == self.places[:, None]] = 0
        found[self.codes[self.places] == N] = np.nan
        found[:, self.codes[places] == N] = np.nan
        return found

    def _some_positions(self) -> Iterator[np.ndarray]:
        """Numbers of the places that hold a base, some at a time."""
        known = np.flatnonzero(self.codes[self.places] != N)
        step = max(1, AT_ONCE // (3 * len(self.codes)))
        for start in range(0, len(known), step):
            yield known[start : start + step]

    def _log_odds(self, tokens: Tokens, places: np.ndarray) -> torch.Tensor:
        """Log2 odds of the four bases among themselves [rows, places, 4]."""
        length = len(self.codes)
        at = torch.from_numpy(places).to(self.predictor.device)
        out = torch.empty((len(tokens), len(at), 4))
        for rows, batch in batches_of(self.predictor, tokens, self.batch_size):
            content = batch["content_index"].view(len(rows), length)[:, at].flatten()
            with torch.inference_mode():
                outputs = self.predictor.forward(batch, precision=self.precision)
                log_probs = outputs.log_probs(content)[:, torch.from_numpy(self.columns).to(self.predictor.device)]
                others = torch.stack([log_probs[:, [c for c in range(4) if c != b]].logsumexp(1) for b in range(4)], 1)
                out[rows] = ((log_probs - others) / np.log(2)).view(len(rows), -1, 4).float().cpu()
        return out
