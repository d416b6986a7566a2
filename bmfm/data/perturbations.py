"""Pairs of cells: a control, and a cell of the same context after a perturbation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from bmfm.cells.conditions import AS_WRITTEN, Condition, parse_conditions
from bmfm.cells.counts import Counts
from bmfm.cells.formats import AnnDataView, find_sources
from bmfm.cells.genes import GeneVocabulary, human_names, other_features, read_orthologs
from bmfm.cells.perturbations import KINDS, Perturbations, encode_conditions, kind_id
from bmfm.cells.sources import Cells, CellSource, find_counts, open_source
from bmfm.data.sources import INPUT, Examples, Source
from bmfm.data.whole_groups import require_whole_groups
from bmfm.tokenizers.base import Tokenizer
from bmfm.tokenizers.rna import CellTokenizer

PERTURBED = "perturbed"
LEFT_OUT, CONTROL = -2, -1
"""Codes of cells that are neither control nor perturbed, and of controls."""
SEPARATOR = "|"
"""Between the values of several columns that make a context together, and between a context and a condition."""


@dataclass(eq=False)
class PerturbationPairs(Source):
    """Pairs of a control cell and a perturbed cell; example i is the i-th perturbed cell.

    The part ``input`` is a control cell of the same context, and of the same batch where that has controls, drawn by the example's key, so
    that each epoch pairs anew; what is done to it stands beside it (`cells.perturbations`). The part ``perturbed`` is the cell that was measured.
    The batch also has the mean control cell of each context.

    Parameters
    ----------
    path
        .h5ad files or zarr folders: one, a list, a pattern, a folder; or `anndata.AnnData` objects.
    condition
        ``.obs`` column of what was done to a cell, in any of the spellings of `cells.conditions.parse_conditions`.
    control
        What that column holds for control cells; empty takes the usual words (`cells.conditions.CONTROL_WORDS`).
    context
        ``.obs`` column, or columns, of the cell line or type: responses are learned and measured within a context. None is one context.
    batch
        ``.obs`` column of batches, from which pairs are drawn where they can be.
    kind
        What was done to genes: ``crispri``, ``crispra``, ``knockout`` or ``drug``, or the ``.obs`` column that says so.
    dose, unit
        ``.obs`` column of doses, and their unit, where the condition does not state them.
    separator, guide_suffix
        What stands between several targets, and a pattern of what follows a target, see `cells.conditions.parse_conditions`.
    keep
        {``.obs`` column: value or values}: cells with others are left out.
    min_cells
        Conditions of fewer cells in a context are left out, and counted.
    counts, expects, gene_column, orthologs, min_matched
        How cells are read, see `data.rna.RnaDataModule`.
    gene_weights
        Compute for each condition how much each gene tells it from all others, for the loss ``wmse`` of `objectives.perturbation`.

    Attributes
    ----------
    cells
        All cells of the files, in memory.
    groups
        A row for each condition in each context: ``context``, ``condition``, ``kind`` and ``n_cells``.
    conditions
        Of each group.
    contexts
        Names.
    group_of, context_of
        [n cells] int64, number of each cell's group (`CONTROL`, `LEFT_OUT`), and of its context.
    perturbed
        Numbers of the perturbed cells, in the order of the examples.
    """

    path: Any
    condition: str = "condition"
    control: Sequence[str] = ()
    context: str | Sequence[str] | None = None
    batch: str | None = None
    kind: str = "crispri"
    dose: str | None = None
    unit: str = ""
    separator: str | None = None
    guide_suffix: str | None = None
    keep: Mapping[str, Any] | None = None
    min_cells: int = 2
    counts: str = "auto"
    expects: str | None = None
    gene_column: str | None = None
    orthologs: Any = None
    min_matched: float = 0.3
    gene_weights: bool = False
    predicted_parts = frozenset({PERTURBED})

    def connect(self, tokenizers: Mapping[str, Tokenizer]) -> None:
        """Open the files in the genes of the tokenizer, find conditions and controls, and say what there is to be read of perturbations."""
        tokenizer = tokenizers[INPUT]
        if not isinstance(tokenizer, CellTokenizer):
            raise ValueError("pairs of cells are read with a tokenizer of cells: choose tokenizer=cells")
        self.tokenizer = tokenizer
        self.notes: dict[str, str] = {}
        files = find_sources(self.path)
        if not files:
            raise ValueError("there are no cells: give data.source.path=FILE.h5ad")
        self.files, self.name = files, AnnDataView(files[0]).name
        if tokenizer.depth_mode.is_split:  # nothing reconstructs what is hidden
            tokenizer.read_depth["mode"] = tokenizer.depth_mode.for_inference
        tokenizer.expects = self.expects = tokenizer.resolve_expects(self.expects)
        if self.orthologs is not None:
            tokenizer.orthologs = read_orthologs(self.orthologs)
        obs = [AnnDataView(f).obs for f in files]
        parsed = self._parse(obs, files)
        kinds = self._kinds(obs)
        if tokenizer.vocabulary is None:
            tokenizer.bind_vocabulary(self._vocabulary(files, parsed, kinds))
        self.cells = Cells(self._open(files, tokenizer))
        self.column_names = [str(c) for c in obs[0].columns if all(c in o for o in obs)]
        self._group(parsed, kinds)
        drugs = [t for c, kind in zip(self.conditions, self.groups["kind"], strict=True) if kind == "drug" for t in c.targets]
        tokenizer.drugs = list(dict.fromkeys([*(tokenizer.drugs or ()), *sorted(drugs)]))
        self.perturbations = self.encode(self.conditions, self.groups["kind"])
        if not tokenizer.is_fitted:
            tokenizer.fit_normalization(self.cells.totals)
            if tokenizer.reads_gene_medians and tokenizer.gene_medians is None:
                tokenizer.fit_gene_medians(self.cells.take(np.flatnonzero(self.group_of == CONTROL)))

    def encode(self, conditions: Sequence[Condition], kinds: Sequence[str]) -> Perturbations:
        """Conditions in the ids of the tokenizer; ValueError, naming the file, where it does not know a target."""
        tokenizer = self.tokenizer
        assert tokenizer.vocabulary is not None
        find = tokenizer.vocabulary.find
        try:
            return encode_conditions(conditions, list(kinds), lambda name: find(name)[0], len(tokenizer), tokenizer.drugs or ())
        except ValueError as error:
            raise ValueError(
                f"{self.name}, .obs[{self.condition!r}]: {error}; choose a vocabulary that has them (tokenizer.genes=all_genes, from_data), leave the cells "
                "out (data.source.keep), or say what the perturbation is (data.source.kind)"
            ) from None

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
        """``condition``, ``context`` and ``group`` (both, with a bar between them) in canonical words, ``targets`` as a tuple of names, `AS_WRITTEN`,
        or an ``.obs`` column."""
        groups = self.group_of[self.perturbed]
        if name in ("condition", "context"):
            return self.groups[name].to_numpy(object)[groups]
        if name == "group":
            return (self.groups["context"] + SEPARATOR + self.groups["condition"]).to_numpy(object)[groups]
        if name == AS_WRITTEN:
            return self.cells.column(self.condition)[self.perturbed]
        if name == "group_number":
            return groups.astype(object)
        if name == "targets":
            return np.fromiter((self.conditions[g].targets for g in groups), object, len(groups))
        return self.cells.column(name)[self.perturbed]

    def check_parts(self, parts: Mapping[str, np.ndarray]) -> None:
        """Refuse parts that share cells of one condition in one context."""
        require_whole_groups(parts, self.column("group"))

    def where(self, number: int) -> str:
        return self.cells.name_of(int(self.perturbed[number]))

    def control_cells(self, context: int) -> np.ndarray:
        """Numbers of the control cells of a context."""
        return np.flatnonzero((self.group_of == CONTROL) & (self.context_of == context))

    def control_adata(self) -> Any:
        """Control cells of all contexts as an AnnData, with their context in the ``.obs`` column ``context``."""
        import anndata

        views = [AnnDataView(file).whole() for file in self.files]
        whole = views[0] if len(views) == 1 else anndata.concat(views, join="outer", fill_value=0)
        numbers = np.flatnonzero(self.group_of == CONTROL)
        controls = whole[numbers].copy()
        controls.obs["context"] = np.array(self.contexts, object)[self.context_of[numbers]]
        return controls

    @cached_property
    def control_profiles(self) -> np.ndarray:
        """Mean values of the control cells of each context, float32 [C, V]."""
        sums, sizes, _, _ = self._moments(np.where(self.group_of == CONTROL, self.context_of, -1), len(self.contexts))
        return (sums / sizes.clip(min=1)[:, None]).astype(np.float32)

    def statistics(self, numbers: np.ndarray) -> dict[str, np.ndarray]:
        """``response_mean`` [V], the mean over training conditions of the difference from the control, each with the same weight;
        ``perturbed_zero_rate`` [V]; and, with `gene_weights`, ``response_weights`` [groups, V]."""
        cells = self.perturbed[numbers]
        codes = np.full(len(self.cells), -1)
        codes[cells] = self.group_of[cells]
        sums, sizes, squares, n_expressed = self._moments(codes, len(self.groups))
        trained = np.flatnonzero(sizes)
        means = sums[trained] / sizes[trained, None]
        context_of_group = pd.Index(self.contexts).get_indexer(self.groups["context"])
        found = {
            "response_mean": (means - self.control_profiles[context_of_group[trained]]).mean(0),
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
            "conditions": f"{self.groups['condition'].nunique():,} in {len(self.contexts):,} contexts, of {sizes.min():,} to {sizes.max():,} cells",
        } | self.notes

    # reading

    def _parse(self, obs: Sequence[pd.DataFrame], files: Sequence[Any]) -> list[Condition | None]:
        """The condition of every cell; None for those that `keep` leaves out."""
        for table, file in zip(obs, files, strict=True):
            needed = [self.condition, *(c for c in (self.batch, self.dose) if c), *self._context_columns, *(self.keep or {})]
            for column in needed:
                if column not in table:
                    raise KeyError(
                        f"{AnnDataView(file).name} has no .obs column {column!r} (data.source); it has {', '.join(map(str, table.columns))}"
                    )
        table = pd.concat(obs)
        kept = np.ones(len(table), bool)
        for column, values in (self.keep or {}).items():
            wanted = {str(v) for v in (values if isinstance(values, list | tuple | set) else [values])}
            text = table[column].astype(str)
            if absent := sorted(wanted - set(text)):
                raise ValueError(
                    f"{self.name}: no cell has {absent[0]!r} in .obs[{column!r}] (data.source.keep); it holds {sorted(set(text))[:20]}"
                )
            kept &= text.isin(wanted).to_numpy()
        if n_left := int((~kept).sum()):
            self.notes["cells left out by data.source.keep"] = f"{n_left:,}"
        known = self._known_names(files)
        doses = table[self.dose].to_numpy()[kept] if self.dose else None
        where = f"{self.name}, .obs[{self.condition!r}]"
        texts, spelling = table[self.condition].to_numpy(object)[kept], {"separator": self.separator, "guide_suffix": self.guide_suffix}
        parsed = parse_conditions(texts, self.control, known, doses, self.unit, column=where, **spelling)
        conditions: list[Condition | None] = [None] * len(table)
        for place, condition in zip(np.flatnonzero(kept), parsed, strict=True):
            conditions[place] = condition
        return conditions

    def _known_names(self, files: Sequence[Any]) -> set[str]:
        """Names of genes, by which a spelling with an ambiguous separator is told apart."""
        known = {str(name) for file in files for name in AnnDataView(file).var("X").index}
        return known | (set(self.tokenizer.names) if self.tokenizer.vocabulary is not None else set())

    def _kinds(self, obs: Sequence[pd.DataFrame]) -> np.ndarray:
        """The kind of each cell's perturbation."""
        if all(self.kind in table for table in obs):
            text = pd.concat(obs)[self.kind].astype(str)
            names = {t: _kind_or_none(t) for t in text.unique()}
            return text.map(names).to_numpy(object)
        try:
            kind = KINDS[kind_id(self.kind)]
        except ValueError as error:
            raise ValueError(f"data.source.kind: {error}, nor is it an .obs column of {self.name}") from None
        return np.full(sum(map(len, obs)), kind, object)

    @property
    def _context_columns(self) -> list[str]:
        return [self.context] if isinstance(self.context, str) else list(self.context or [])

    def _vocabulary(self, files: Sequence[Any], parsed: Sequence[Condition | None], kinds: np.ndarray) -> GeneVocabulary:
        """The genes of all files, and after them those that were perturbed but not measured."""
        names: dict[str, None] = {}
        for file in files:
            view = AnnDataView(file)
            key = find_counts(view, self.counts, self.expects == "counts")
            var = view.var(key)
            human = human_names((var[self.gene_column] if self.gene_column else var.index).astype(str), self.tokenizer.orthologs)
            other = other_features(var, view.var("X") if key == "raw" else None)
            names |= dict.fromkeys(name for name, what in zip(human, other, strict=True) if what is None)
        targets = {t for c, kind in zip(parsed, kinds, strict=True) if c is not None and kind != "drug" for t in c.targets}
        return GeneVocabulary.of_genes([*names, *sorted(targets - names.keys())])

    def _open(self, files: Sequence[Any], tokenizer: CellTokenizer) -> list[CellSource]:
        assert tokenizer.vocabulary is not None and self.expects is not None
        reading = (self.counts, self.gene_column, tokenizer.orthologs, self.expects, self.min_matched)
        sources = [open_source(file, tokenizer.vocabulary, *reading) for file in files]
        for source in sources:
            source.load()
        return sources

    def _group(self, parsed: Sequence[Condition | None], kinds: np.ndarray) -> None:
        """Number contexts, groups and controls, and pool the controls that pairs are drawn from."""
        n, empty = len(self.cells), self.cells.empty()
        columns = [pd.Series(self.cells.column(c)).astype(str) for c in self._context_columns]
        context = pd.Series(["all"] * n) if not columns else columns[0].str.cat(columns[1:], sep=SEPARATOR) if columns[1:] else columns[0]
        used = np.array([c is not None for c in parsed]) & ~empty
        if n_empty := int((empty & np.array([c is not None for c in parsed])).sum()):
            self.notes["cells without any count, left out"] = f"{n_empty:,}"
        is_control = np.array([c is not None and c.is_control for c in parsed]) & used
        self.contexts = sorted(context[used].unique())
        self.context_of = pd.Index(self.contexts).get_indexer(context)
        is_perturbed = used & ~is_control
        if not is_perturbed.any():
            raise ValueError(
                f"{self.name}: every cell is a control by .obs[{self.condition!r}] (data.source.condition, data.source.control)"
            )
        text = {c: str(c) for c in set(parsed) if c is not None}
        table = pd.DataFrame({"context": context, "condition": [text[c] if c is not None else "" for c in parsed], "kind": kinds})[
            is_perturbed
        ]
        if (unnamed := table["kind"].isna()).any():
            raise ValueError(f"{self.name}: .obs[{self.kind!r}] (data.source.kind) holds no kind of perturbation for {self.cells.name_of(int(table.index[unnamed][0]))}; there are {', '.join(KINDS[1:])}")  # fmt: skip
        groups = table.groupby(["context", "condition", "kind"], sort=True).size().rename("n_cells").reset_index()
        if len(few := groups[groups["n_cells"] < self.min_cells]):
            named = ", ".join(f"{r.condition} in {r.context}" for r in few.head(5).itertuples())
            self.notes["conditions with too few cells, left out"] = (
                f"{len(few):,} of fewer than {self.min_cells} cells (data.source.min_cells): {named}"
            )
        self.groups = groups[groups["n_cells"] >= self.min_cells].reset_index(drop=True)
        if not len(self.groups):
            raise ValueError(f"{self.name}: no condition has {self.min_cells} cells in a context (data.source.min_cells)")
        numbers = pd.MultiIndex.from_frame(self.groups[["context", "condition", "kind"]])
        self.group_of = np.full(n, LEFT_OUT)
        self.group_of[is_perturbed] = numbers.get_indexer(pd.MultiIndex.from_frame(table))
        self.group_of[self.group_of == -1] = LEFT_OUT
        self.group_of[is_control] = CONTROL
        by_text = {name: c for c, name in text.items()}
        self.conditions = [by_text[name] for name in self.groups["condition"]]
        self.perturbed = np.flatnonzero(self.group_of >= 0)
        self._pool_controls()

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
            batches, _ = pd.factorize(pd.Series(self.cells.column(self.batch)).astype(str))
            of_batch = len(self.contexts) + keys * (batches.max() + 1) + batches
            has = np.isin(of_batch, of_batch[controls])
            pool = np.where(has, of_batch, keys)
            if n_without := int((~has[self.perturbed]).sum()):
                self.notes["perturbed cells whose batch has no control"] = f"{n_without:,}, paired with controls of the context"
            every = np.concatenate([keys[controls], of_batch[controls]])
            pooled = np.concatenate([controls, controls])
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


def _kind_or_none(text: str) -> str | None:
    try:
        return KINDS[kind_id(text)]
    except ValueError:
        return None


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
