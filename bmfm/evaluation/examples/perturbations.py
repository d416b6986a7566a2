"""Examples that are cells after perturbations: the groups that are asked for, those that were trained on, and the controls of both."""

from collections import Counter
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix, vstack

from bmfm.cells.conditions import Condition
from bmfm.cells.counts import Counts
from bmfm.cells.formats import AnnDataView
from bmfm.cli import instantiate
from bmfm.data.perturbation_splits import SPLITS, strata_of
from bmfm.data.perturbations import PerturbationPairs
from bmfm.evaluation.checksums import content_hash
from bmfm.evaluation.examples.base import Examples
from bmfm.evaluation.examples.cells import cell_hashes
from bmfm.evaluation.task_spec import TaskSpec

BLOCK = 4096
"""Cells that are read at a time."""


class PerturbationExamples(Examples):
    """Perturbed cells in groups, each a condition in a context; `inputs` is an AnnData of all of them, as the file has them.

    Example i is the i-th perturbed cell of the source; numbers of cells are those of the source's `cells`, in which controls stand as well.

    Attributes
    ----------
    source
        The pairs, connected to a tokenizer that keeps all genes.
    genes
        Names of the genes that every file measures, [G].
    unit
        ``counts`` or ``lognorm``: what the files hold.
    asked, trained
        The groups of the test part and of the training part; the index is the number of the group in the source, and columns are ``context``,
        ``condition``, ``kind``, ``n_cells`` and, of `asked`, ``stratum`` (what training has seen of it, see `perturbation_splits.strata_of`).
    test_uses
        How often cells of a test group were read, of the group that was read most often.
    """

    read_by: ClassVar[tuple[str, ...]] = ("source",)

    def __init__(self, task: TaskSpec, root: str | Path):
        self.task, self.test_uses = task, 0
        self._reads: Counter[tuple[str, int]] = Counter()
        if task.config.data.split.get("n_train") is not None:
            raise ValueError(
                f"{task.name}: data.split.n_train counts cells, and baselines learn from whole conditions: name those by data.split.by=toml"
            )
        self.hash = content_hash(task.data_paths(root))
        self.data = instantiate(task.config.data, num_workers=0, packing=False, _convert_="all")
        self.data.connect(self.lossless_tokenizer())
        source = self.data.source
        if not isinstance(source, PerturbationPairs):
            raise ValueError(
                f"{task.name}: data.source is a {type(source).__name__}, and perturbations are read by bmfm.data.perturbations.PerturbationPairs"
            )
        self.source: PerturbationPairs = source
        self.parts: dict[str, np.ndarray] = {part: numbers for part, numbers in self.data.numbers.items() if len(numbers)}
        if "test" not in self.parts:
            raise ValueError(f"{task.name}: data.split leaves no test part: {dict(task.config.data.split)}")
        self.kinds, self._labels = {}, {}
        self.unit = "lognorm" if source.expects == "normalised" else "counts"
        self._columns = self._measured()
        self.genes = np.array(self.data.tokenizer.names, object)[self._columns]
        self._column_of = {int(gene): column for column, gene in enumerate(self._columns)}
        self.trained, self.asked = self._groups("train"), self._groups("test")
        self.trained_conditions, self.asked_conditions = (self._conditions(g) for g in (self.trained, self.asked))
        trained = zip(self.trained_conditions, self.trained["context"], strict=True)
        self.asked["stratum"] = strata_of(zip(self.asked_conditions, self.asked["context"], strict=True), trained)
        self._is_asked = np.zeros(len(source.groups), bool)
        self._is_asked[self.asked.index] = True

    def _measured(self) -> np.ndarray:
        """Ids of the genes that all files have."""
        first, end = self.data.tokenizer.plain_ids
        masks = np.stack([s.gene_panel_mask[first:end] for s in self.source.cells.sources])
        return first + np.flatnonzero(masks.min(0))

    def _groups(self, part: str) -> pd.DataFrame:
        numbers = np.unique(self.source.group_of[self.source.perturbed[self.parts[part]]])
        return self.source.groups.loc[numbers, ["context", "condition", "kind", "n_cells"]].copy()

    def _conditions(self, groups: pd.DataFrame) -> list[Condition]:
        return [self.source.conditions[number] for number in groups.index]

    def __len__(self) -> int:
        return len(self.source)

    def lossless_tokenizer(self) -> Any:
        """All genes of the files, and those that were perturbed."""
        from bmfm.tokenizers.rna import CellTokenizer

        is_normalised = self.task.config.data.source.expects == "normalised"
        return CellTokenizer("from_data", values={"kind": "as_is" if is_normalised else "log_normalise"})

    # cells

    def values(self, cells: np.ndarray) -> csr_matrix:
        """Log-normalised values of cells by their numbers [n], CSR [n, G]: as the file has them, or log(1 + x / total * 10,000) of counts."""
        self._count_test_cells(cells, "values")
        return self._blocks(cells, self.data.tokenizer.full_profile)

    def counts(self, cells: np.ndarray) -> csr_matrix:
        """Raw counts of cells by their numbers [n], CSR [n, G].

        Raises
        ------
        ValueError
            Where the file holds normalised values, from which counts cannot be had back.
        """
        if self.unit != "counts":
            raise ValueError(
                f"{self.task.name}: {self.source.name} holds log-normalised values, and counts cannot be had back from them: choose profiles of "
                "metrics that take such values (task.protocol.profiles: gears, calibrated), or a file with raw counts (data.source.counts)"
            )
        self._count_test_cells(cells, "counts")
        return self._blocks(cells, lambda counts: counts.counts)

    def _blocks(self, cells: np.ndarray, read: Any) -> csr_matrix:
        cells, n = np.asarray(cells, np.int64), len(self.data.tokenizer)
        blocks = []
        for start in range(0, max(1, len(cells)), BLOCK):
            counts: Counts = self.source.cells.take(cells[start : start + BLOCK])
            blocks.append(csr_matrix((read(counts).astype(np.float32), counts.ids, counts.offsets), (len(counts), n))[:, self._columns])
        return vstack(blocks, "csr")

    def _count_test_cells(self, cells: np.ndarray, what: str) -> None:
        groups = np.unique(self.source.group_of[cells])
        asked = groups[(groups >= 0) & self._is_asked[groups.clip(min=0)]]
        if not self.test_uses:
            self._reads.clear()
        self._reads.update((what, int(group)) for group in asked)
        self.test_uses = max(self._reads.values(), default=0)

    def cells_of(self, group: int) -> np.ndarray:
        """Numbers of the cells of a group."""
        return np.flatnonzero(self.source.group_of == group)

    def control_cells(self, context: str) -> np.ndarray:
        """Numbers of the control cells of a context."""
        return self.source.control_cells(self.source.contexts.index(context))

    # means

    @cached_property
    def _control_means(self) -> dict[str, np.ndarray]:
        return {context: self._mean(self.control_cells(context)) for context in self.source.contexts if len(self.control_cells(context))}

    def _mean(self, cells: np.ndarray) -> np.ndarray:
        return np.asarray(self.values(cells).mean(0, dtype=np.float64)).ravel()

    def control_mean(self, context: str) -> np.ndarray:
        """Mean log-normalised profile of the control cells of a context, [G] float64."""
        return self._control_means[context]

    def mean_of(self, part: str, group: int) -> np.ndarray:
        """Mean log-normalised profile of a group of a part, [G] float64; those of the test part are counted as read.

        Raises
        ------
        ValueError
            Where the group is of another part.
        """
        if part == "train":
            return self.centroids[self.trained.index.get_loc(group)]
        of_part = np.unique(self.source.group_of[self.source.perturbed[self.parts[part]]])
        if group not in of_part:
            raise ValueError(f"{self.task.name}: group {group} is not in the part {part}")
        return self._mean(self.cells_of(group))

    @cached_property
    def centroids(self) -> np.ndarray:
        """Mean log-normalised profile of each training group, [len(trained), G] float64."""
        return np.stack([self._mean(self.cells_of(group)) for group in self.trained.index])

    def targets(self, condition: Condition) -> np.ndarray:
        """Columns of a condition's own target genes, as far as they are measured, int64; drugs with a dose have none."""
        find = self.data.tokenizer.vocabulary.find
        doses = condition.doses or (None,) * len(condition.targets)
        ids = [find(target)[0] for target, dose in zip(condition.targets, doses, strict=True) if dose is None]
        return np.array(sorted({self._column_of[i] for i in ids if i in self._column_of}), np.int64)

    @cached_property
    def _stated_markers(self) -> dict[str, np.ndarray]:
        """{name of a condition in a context, as GEARS has it: columns of its markers}, where the file states them."""
        if len(self.source.files) > 1 or "condition_name" not in self.source.obs_columns:
            return {}
        source, view = self.source.cells.sources[0], AnnDataView(self.source.files[0])
        ids = dict(zip(view.var(source.key).index.astype(str), source.match.ids.tolist(), strict=True))
        stated = view.uns("top_non_dropout_de_20") or {}
        columns = {name: [self._column_of.get(ids.get(str(gene), -1), -1) for gene in genes] for name, genes in stated.items()}
        return {str(name): np.array([c for c in found if c >= 0], np.int64) for name, found in columns.items()}

    def markers(self, group: int) -> np.ndarray | None:
        """Columns of the marker genes of a group, best first, as the file states them in ``.uns["top_non_dropout_de_20"]`` by its column
        ``condition_name``; None where it does not."""
        if not self._stated_markers:
            return None
        names = self._condition_names[self.cells_of(group)]
        return self._stated_markers.get(str(names[0]))

    @cached_property
    def _condition_names(self) -> np.ndarray:
        return self.source.cells.column("condition_name")

    # as any examples

    @cached_property
    def adata(self) -> Any:
        """All cells of the files, controls among them, in the order of their numbers."""
        import anndata

        from bmfm.cells.formats import find_sources

        read = [AnnDataView(file).whole() for file in find_sources(self.source.path)]
        return read[0] if len(read) == 1 else anndata.concat(read, join="outer", fill_value=0)

    @property
    def inputs(self) -> Any:
        return self.adata[self.source.perturbed]

    def of(self, part: str) -> Any:
        return self.adata[self.source.perturbed[self.parts[part]]].copy()

    def input_hashes(self) -> list[bytes]:
        """A hash of each perturbed cell's genes and values."""
        perturbed = self.source.perturbed
        blocks = (self.source.cells.take(perturbed[start : start + BLOCK]) for start in range(0, len(perturbed), BLOCK))
        return [cell_hash for block in blocks for cell_hash in cell_hashes(block)]

    @staticmethod
    def draws_test_part(data: Mapping[str, Any]) -> bool:
        """Whether ``data.split.seed`` draws the groups that are asked for."""
        split = data.get("split") or {}
        by = split.get("by")
        if by == "cell_type":
            return split.get("test") is None or isinstance(split["test"], int | float)
        return (by in SPLITS and by != "toml") or Examples.draws_test_part(data)
