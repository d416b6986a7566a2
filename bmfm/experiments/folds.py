"""Blocks of a genome in folds: which are trained on, and which are looked at."""

from dataclasses import dataclass

import numpy as np

from bmfm.genome.reference import Reference
from bmfm.genome.regions import intersect, merge
from bmfm.hashing import example_keys


@dataclass(frozen=True)
class Folds:
    """Blocks of a genome, each in one fold.

    Attributes
    ----------
    blocks : int64 [B, 2]
        Interval set, in the order of the genome.
    fold : int64 [B]
        Of each block.
    n_folds
        How many there are.
    """

    blocks: np.ndarray
    fold: np.ndarray
    n_folds: int

    @classmethod
    def draw(cls, reference: Reference, block_size: int, n_folds: int, seed: int = 0) -> "Folds":
        """Blocks of `block_size` bases, dealt to the folds at random; what is left at the end of a contig belongs to its last block."""
        blocks = []
        for start, end in zip(reference.starts, reference.ends, strict=True):
            edges = np.append(np.arange(start, max(start + 1, end - block_size + 1), block_size), end)
            blocks.append(np.stack([edges[:-1], edges[1:]], axis=1))
        every = np.concatenate(blocks)
        if len(every) < n_folds:
            raise ValueError(
                f"{reference.source}: {len(every)} blocks of {block_size:,} bases are fewer than {n_folds} folds; make them smaller"
            )
        order = np.argsort(example_keys(seed, 0, np.arange(len(every))), kind="stable")
        fold = np.empty(len(every), np.int64)
        fold[order] = np.arange(len(every)) % n_folds
        return cls(every, fold, n_folds)

    def test_blocks(self, fold: int) -> np.ndarray:
        """Numbers of the blocks that a fold looks at."""
        return np.flatnonzero(self.fold == fold)

    def validation_blocks(self, fold: int) -> np.ndarray:
        """Numbers of the blocks by which settings may be chosen: those of the next fold."""
        return np.flatnonzero(self.fold == (fold + 1) % self.n_folds)

    def training_intervals(self, fold: int, gap: int) -> np.ndarray:
        """Interval set of all other blocks, without what lies less than `gap` bases from those that are held out."""
        held_out = np.concatenate([self.test_blocks(fold), self.validation_blocks(fold)])
        trained = merge(np.delete(self.blocks, held_out, axis=0))
        near = merge(self.blocks[held_out] + np.array([-gap, gap]))
        edges = np.concatenate([[0], near.ravel(), [max(int(self.blocks[-1, 1]), int(near[-1, 1]))]]).reshape(-1, 2)
        allowed = intersect(trained, edges)
        return allowed[allowed[:, 1] > allowed[:, 0]]

    def block_of(self, position: np.ndarray) -> np.ndarray:
        """Number of the block that each place [E] of the genome lies in."""
        return np.searchsorted(self.blocks[:, 0], position, "right") - 1
