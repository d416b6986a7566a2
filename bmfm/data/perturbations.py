"""Pairs of cells: a control, and a cell of the same context after a perturbation."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from bmfm.cells.conditions import AS_WRITTEN
from bmfm.cells.counts import Counts
from bmfm.data.screens import CONTROL, SEPARATOR, Screen
from bmfm.data.sources import INPUT, Examples, Source
from bmfm.data.whole_groups import require_whole_groups
from bmfm.tokenizers.base import Tokenizer
from bmfm.tokenizers.rna import CellTokenizer

PERTURBED = "perturbed"


@dataclass(eq=False)
class PerturbationPairs(Screen, Source):
    """Pairs of a control cell and a perturbed cell; example i is the i-th perturbed cell.

    The part ``input`` is a control cell of the same context, and of the same batch where that has controls, drawn by the example's key, so
    that each epoch pairs anew; what is done to it stands beside it (`cells.perturbations`). The part ``perturbed`` is the cell that was measured.
    The batch also has the mean control cell of each context.

    Parameters
    ----------
    gene_weights
        Compute for each condition how much each gene tells it from all others, for the loss ``wmse`` of `objectives.perturbation`.

    Others are those of `screens.Screen`.

    Attributes
    ----------
    perturbed
        Numbers of the perturbed cells, in the order of the examples.
    """

    gene_weights: bool = False
    predicted_parts = frozenset({PERTURBED})

    def connect(self, tokenizers: Mapping[str, Tokenizer]) -> None:
        """Open the files in the genes of the tokenizer, and tell it of the drugs that cells were treated with."""
        tokenizer = tokenizers[INPUT]
        if not isinstance(tokenizer, CellTokenizer):
            raise ValueError("pairs of cells are read with a tokenizer of cells: choose tokenizer=cells")
        self.open(tokenizer)
        self.column_names = self.obs_columns
        drugs = {t for c, kind in zip(self.conditions, self.groups["kind"], strict=True) if kind == "drug" for t in c.targets}
        tokenizer.drugs = list(dict.fromkeys([*(tokenizer.drugs or ()), *sorted(drugs)]))
        self.perturbations = self.encode(self.conditions, list(self.groups["kind"]))
        self.perturbed = np.flatnonzero(self.group_of >= 0)
        self._pool_controls()

    def __len__(self) -> int:
        return len(self.perturbed)

    def take(self, indices: np.ndarray, keys: np.ndarray) -> Examples:
        cells = self.perturbed[indices]
        groups = self.group_of[cells]
        pool = self._pool_of[cells]
        first, n = self._pool_offsets[pool], self._pool_offsets[pool + 1] - self._pool_offsets[pool]
        controls = self._pooled[first + (keys % n.astype(np.uint64)).astype(np.int64)]
        batch = self.cells.batch(controls)
        batch.perturbations = self.perturbations.take(groups)
        fields = {"context_ids": self.context_of[cells], "control_profiles": self.control_profiles}
        return Examples({INPUT: batch, PERTURBED: self.cells.batch(cells)}, fields)

    def column(self, name: str, as_text: bool = False) -> np.ndarray:
        """``condition``, ``context`` and ``group`` (both, with a bar between them) in canonical words, ``kind``, ``targets`` as a tuple of names,
        ``dose_unit`` (None without a dose), `AS_WRITTEN`, or an ``.obs`` column."""
        groups = self.group_of[self.perturbed]
        if name in ("condition", "context"):
            return self.groups[name].to_numpy(object)[groups]
        if name == "group":
            return (self.groups["context"] + SEPARATOR + self.groups["condition"]).to_numpy(object)[groups]
        if name == AS_WRITTEN:
            return self.cells.column(self.condition)[self.perturbed]
        if name == "group_number":
            return groups.astype(object)
        if name == "kind":
            return self.groups["kind"].to_numpy(object)[groups]
        if name == "dose_unit":
            units = [c.unit if any(d is not None for d in c.doses) else None for c in self.conditions]
            return np.array(units, object)[groups]
        if name == "targets":
            return np.fromiter((self.conditions[g].targets for g in groups), object, len(groups))
        return self.cells.column(name)[self.perturbed]

    def check_parts(self, parts: Mapping[str, np.ndarray]) -> None:
        """Refuse parts that share cells of one condition in one context."""
        require_whole_groups(parts, self.column("group"))

    def where(self, number: int) -> str:
        return self.cells.name_of(int(self.perturbed[number]))

    @cached_property
    def control_profiles(self) -> np.ndarray:
        """Mean values of the control cells of each context, float32 [C, V]."""
        sums, sizes, _, _ = self._moments(np.where(self.group_of == CONTROL, self.context_of, -1), len(self.contexts))
        return (sums / sizes.clip(min=1)[:, None]).astype(np.float32)

    def statistics(self, numbers: np.ndarray) -> dict[str, np.ndarray]:
        """``response_mean`` [V], the mean over training conditions of the difference from the control for each of their targets, each condition with
        the same weight;
        ``perturbed_zero_rate`` [V]; and, with `gene_weights`, ``response_weights`` [groups, V]."""
        cells = self.perturbed[numbers]
        codes = np.full(len(self.cells), -1)
        codes[cells] = self.group_of[cells]
        sums, sizes, squares, n_expressed = self._moments(codes, len(self.groups))
        trained = np.flatnonzero(sizes)
        means = sums[trained] / sizes[trained, None]
        n_targets = np.array([len(condition.targets) for condition in self.conditions])
        context_of_group = pd.Index(self.contexts).get_indexer(self.groups["context"])
        found = {
            "response_mean": ((means - self.control_profiles[context_of_group[trained]]) / n_targets[trained, None]).mean(0),
            "perturbed_zero_rate": 1 - n_expressed[trained].sum(0) / sizes[trained].sum(),
        }
        if self.gene_weights:
            weights = np.ones((len(self.groups), sums.shape[1]), np.float32)
            for context in np.unique(context_of_group[trained]):
                of_context = trained[context_of_group[trained] == context]
                weights[of_context] = gene_weights(sums[of_context], squares[of_context], sizes[of_context])
            found["response_weights"] = weights
        return found

    def facts(self) -> dict[str, str]:
        controls = int((self.group_of == CONTROL).sum())
        sizes = self.groups["n_cells"]
        return {
            "pairs": f"{len(self):,} perturbed cells, {controls:,} controls",
            "genes matched": "; ".join(f"{s.name}: {s.match}" for s in self.cells.sources),
            "conditions": f"{self.groups['condition'].nunique():,} in {len(self.contexts):,} contexts, of {sizes.min():,} to {sizes.max():,} cells",
        } | self.notes

    def _pool_controls(self) -> None:
        """Controls by context and, where there are batches, by context and batch; which pool each cell draws from.

        Raises
        ------
        ValueError
            Naming a context without controls.
        """
        controls = np.flatnonzero(self.group_of == CONTROL)
        has_controls = np.isin(np.arange(len(self.contexts)), self.context_of[controls])
        without = [self.contexts[i] for i in np.unique(self.context_of[self.perturbed]) if not has_controls[i]]
        if without:
            raise ValueError(
                f"{self.name}: no control cell in context {without[0]!r}{f' and {len(without) - 1} more' if len(without) > 1 else ''}: "
                f"there is no cell to pair those of its conditions with; say what .obs[{self.condition!r}] holds for controls "
                "(data.source.control=[...]), leave the context out (data.source.keep), or choose another data.source.context"
            )
        n, keys = len(self.cells), self.context_of.astype(np.int64)
        pool = keys.copy()
        if self.batch:
            batches, _ = pd.factorize(pd.Series(self.cells.column(self.batch)))  # -1 of cells without a batch
            of_batch = np.where(batches < 0, keys, len(self.contexts) + keys * (batches.max() + 1) + batches)
            has = np.isin(of_batch, of_batch[controls]) & (batches >= 0)
            pool = np.where(has, of_batch, keys)
            if n_without := int((~has[self.perturbed]).sum()):
                self.notes["perturbed cells whose batch has no control"] = f"{n_without:,}, paired with controls of the context"
            in_batch = controls[batches[controls] >= 0]
            every = np.concatenate([keys[controls], of_batch[in_batch]])
            pooled = np.concatenate([controls, in_batch])
        else:
            every, pooled = keys[controls], controls
        order = np.argsort(every, kind="stable")
        names, sizes = np.unique(every, return_counts=True)
        self._pooled, self._pool_offsets = pooled[order], np.concatenate([[0], np.cumsum(sizes)])
        self._pool_of = np.searchsorted(names, pool).clip(max=len(names) - 1) if n else pool

    def _moments(self, codes: np.ndarray, n_codes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Of the values of groups of cells: sums [g, V], sizes [g], sums of squares [g, V], cells that express a gene [g, V]."""
        shape = (n_codes, len(self.tokenizer))
        sums, squares, expressed = np.zeros(shape), np.zeros(shape), np.zeros(shape)
        chosen = np.flatnonzero(codes >= 0)
        for start in range(0, len(chosen), 8192):
            numbers = chosen[start : start + 8192]
            counts = self.cells.take(numbers)
            values = self._values(counts, shape[1])
            indicator = csr_matrix((np.ones(len(numbers)), (codes[numbers], np.arange(len(numbers)))), (n_codes, len(numbers)))
            sums += (indicator @ values).toarray()
            squares += (indicator @ values.multiply(values)).toarray()
            expressed += (indicator @ (values > 0)).toarray()
        return sums, np.bincount(codes[chosen], minlength=n_codes), squares, expressed

    def _values(self, counts: Counts, n_genes: int) -> csr_matrix:
        """Values of cells as the tokenizer makes them, CSR [n, V]."""
        return csr_matrix((self.tokenizer.full_profile(counts), counts.ids, counts.offsets), (len(counts), n_genes))


def gene_weights(sums: np.ndarray, squares: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """How much each gene tells a condition from all others, float32 [P, V]: squares of the absolute t-scores, scaled to run from 0 to 1 over the
    genes, over their mean.

    The t-score is Welch's with the variance of the condition counted for both sides (``t-test_overestim_var`` of scanpy), as the weighted
    errors of perturbation prediction have it.

    Parameters
    ----------
    sums, squares
        [P, V] sums of the values of each condition's cells, and of their squares.
    sizes
        [P] cells.
    """
    total, total_squares, n = sums.sum(0), squares.sum(0), sizes.sum()
    rest = (n - sizes)[:, None].clip(min=1)
    size = sizes[:, None].clip(min=1)
    mean, rest_mean = sums / size, (total - sums) / rest
    variance = (squares / size - mean**2) * size / (size - 1).clip(min=1)
    rest_variance = ((total_squares - squares) / rest - rest_mean**2) * rest / (rest - 1).clip(min=1)
    error = np.sqrt((variance.clip(min=0) + rest_variance.clip(min=0)) / size)
    score = np.abs(np.divide(mean - rest_mean, error, out=np.zeros_like(mean), where=error > 0))
    low, high = score.min(1, keepdims=True), score.max(1, keepdims=True)
    weights = np.divide(score - low, high - low, out=np.ones_like(score), where=high > low) ** 2
    return (weights / weights.mean(1, keepdims=True).clip(min=1e-12)).astype(np.float32)
