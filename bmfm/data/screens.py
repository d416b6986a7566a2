"""A screen: cells of AnnData files in groups, each a condition in a context, beside their controls."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from bmfm.cells.conditions import Condition, parse_conditions
from bmfm.cells.formats import AnnDataView, find_sources
from bmfm.cells.genes import GeneVocabulary, read_orthologs
from bmfm.cells.perturbations import KINDS, Perturbations, encode_conditions, kind_id
from bmfm.cells.sources import Cells, CellSource, genes_of, open_source
from bmfm.tokenizers.rna import CellTokenizer

LEFT_OUT, CONTROL = -2, -1
"""Codes of cells that are neither control nor perturbed, and of controls."""
SEPARATOR = "|"
"""Between the values of several columns that make a context together, and between a context and a condition."""


@dataclass(eq=False)
class Screen:
    """Cells in groups, once `open` has read them.

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
    notes
        {what: figures}, what was left out and why.
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

    def open(self, tokenizer: CellTokenizer) -> None:
        """Read the files in the genes of the tokenizer, and find conditions and controls."""
        self.tokenizer = tokenizer
        self.notes: dict[str, str] = {}
        files = find_sources(self.path)
        if not files:
            raise ValueError("there are no cells: give data.source.path=FILE.h5ad")
        self.files, self.name = files, AnnDataView(files[0]).name
        if tokenizer.depth_mode.is_split:  # nothing reconstructs what is hidden
            tokenizer.read_depth["mode"] = tokenizer.depth_mode.for_inference
        with _settings_of_the_source():
            tokenizer.expects = self.expects = tokenizer.resolve_expects(self.expects)
        if self.orthologs is not None:
            tokenizer.orthologs = read_orthologs(self.orthologs)
        obs = [AnnDataView(f).obs for f in files]
        parsed = self._parse(obs, files)
        kinds = self._kinds(obs)
        with _settings_of_the_source():
            if tokenizer.vocabulary is None:
                tokenizer.bind_vocabulary(self._vocabulary(files, parsed, kinds))
            self.cells = Cells(self._open(files, tokenizer))
        self.obs_columns = [str(c) for c in obs[0].columns if all(c in o for o in obs)]
        self._group(parsed, kinds)
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
                f"{self.name}, .obs[{self.condition!r}]: {error}; if these are no genes, say what the perturbation is (data.source.kind=drug); else leave "
                "the cells out (data.source.keep), or train a network of your own whose vocabulary has them (checkpoint=null tokenizer=cells "
                "tokenizer.genes=all_genes, or from_data; model=set values=gene_scaled)"
            ) from None

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
        names = genes_of(files, self.counts, self.expects == "counts", self.gene_column, self.tokenizer.orthologs)
        targets = {t for c, kind in zip(parsed, kinds, strict=True) if c is not None and kind != "drug" for t in c.targets}
        return GeneVocabulary.of_genes([*names, *sorted(targets - set(names))])

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


@contextmanager
def _settings_of_the_source() -> Iterator[None]:
    """Errors of reading cells name settings of ``data``, which here are those of ``data.source``."""
    try:
        yield
    except (KeyError, ValueError) as error:
        raise type(error)(str(error.args[0]).replace("(data.", "(data.source.").replace(" data.", " data.source.")) from error


def _kind_or_none(text: str) -> str | None:
    try:
        return KINDS[kind_id(text)]
    except ValueError:
        return None
