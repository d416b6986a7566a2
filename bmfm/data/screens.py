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
    unknown
        ``refuse`` conditions whose targets the tokenizer does not know, or ``leave_out``, counted.

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
    notes, left_out
        {what: figures} for a run's summary, and {what: how many} of what is left out.
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
    unknown: str = "refuse"

    def open(self, tokenizer: CellTokenizer) -> None:
        """Read the files in the genes of the tokenizer, and find conditions and controls."""
        self.tokenizer = tokenizer
        self.notes: dict[str, str] = {}
        self.left_out: dict[str, int] = {}
        files = find_sources(self.path)
        if not files:
            raise ValueError("there are no cells: give data.source.path=FILE.h5ad")
        self.files, self.name = files, AnnDataView(files[0]).name
        if tokenizer.depth_mode.is_split:  # nothing reconstructs what is hidden
            tokenizer.read_depth["mode"] = tokenizer.depth_mode.for_inference
        with _settings_of_the_source():
            tokenizer.expects = self.expects = tokenizer.resolve_expects(self.expects)
        if tokenizer.values["kind"] != ("log_normalise" if self.expects == "counts" else "as_is"):
            raise ValueError(
                f"tokenizer.values.kind={tokenizer.values['kind']}: changes of cells are those of log-normalised values; begin with a model of such "
                "values (tokenizer.values.kind=log_normalise)"
            )
        if self.orthologs is not None:
            tokenizer.orthologs = read_orthologs(self.orthologs)
        obs = [AnnDataView(f).obs for f in files]
        parsed = self._parse(obs, files)
        kinds = self._kinds(obs)
        with _settings_of_the_source():
            if tokenizer.vocabulary is None:
                tokenizer.bind_vocabulary(self._vocabulary(files, parsed, kinds))
            self.cells = Cells(self._open(files, tokenizer))
        if self.unknown not in ("refuse", "leave_out"):
            raise ValueError(f"data.source.unknown={self.unknown!r} is unknown; choose refuse or leave_out")
        if self.unknown == "leave_out":
            parsed = self._without_unknown(parsed, kinds)
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
                "them out (data.source.unknown=leave_out), or train a network of your own whose vocabulary has them (checkpoint=null tokenizer=cells "
                "tokenizer.genes=all_genes, or from_data; model=set values=gene_scaled)"
            ) from None

    def control_cells(self, context: int) -> np.ndarray:
        """Numbers of the control cells of a context."""
        return np.flatnonzero((self.group_of == CONTROL) & (self.context_of == context))

    def control_adata(self) -> Any:
        """Control cells of all contexts as an AnnData, with their context in the ``.obs`` column ``context``."""
        import anndata

        views = [AnnDataView(file).whole() for file in self.files]
        whole = views[0] if len(views) == 1 else anndata.concat(views, join="outer", merge="first", fill_value=0)
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
        self._leave_out("cells without what data.source.keep names", int((~kept).sum()))
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
        variables = [AnnDataView(file).var("X") for file in files]
        known = {str(name) for var in variables for name in var.get(self.gene_column, var.index)}
        return known | (set(self.tokenizer.names) if self.tokenizer.vocabulary is not None else set())

    def _kinds(self, obs: Sequence[pd.DataFrame]) -> np.ndarray:
        """The kind of each cell's perturbation: a word for all, or else a column."""
        if kind := _kind_or_none(self.kind):
            return np.full(sum(map(len, obs)), kind, object)
        if not all(self.kind in table for table in obs):
            raise ValueError(
                f"data.source.kind={self.kind!r} is no kind of perturbation, nor an .obs column of {self.name}; there are {', '.join(KINDS[1:])}"
            )
        text = pd.concat(obs)[self.kind].astype(str)
        return text.map({t: _kind_or_none(t) for t in text.unique()}).to_numpy(object)

    @property
    def _context_columns(self) -> list[str]:
        return [self.context] if isinstance(self.context, str) else list(self.context or [])

    def _vocabulary(self, files: Sequence[Any], parsed: Sequence[Condition | None], kinds: np.ndarray) -> GeneVocabulary:
        """The genes of all files, and after them those that were perturbed but not measured."""
        names = genes_of(files, self.counts, self.expects == "counts", self.gene_column, self.tokenizer.orthologs)
        targets = {t for c, kind in zip(parsed, kinds, strict=True) if c is not None and kind != "drug" for t in c.targets}
        return GeneVocabulary.of_genes([*names, *sorted(targets - set(names))])

    def _without_unknown(self, parsed: Sequence[Condition | None], kinds: np.ndarray) -> list[Condition | None]:
        """The conditions, None for those with a gene that the tokenizer does not know."""
        vocabulary = self.tokenizer.vocabulary
        assert vocabulary is not None
        unknown = {
            c
            for c, kind in set(zip(parsed, kinds, strict=True))
            if c and kind != "drug" and any(vocabulary.find(t)[0] < 0 for t in c.targets)
        }
        if unknown:
            named = ", ".join(sorted(map(str, unknown))[:8])
            self._leave_out("conditions with genes that the vocabulary lacks (data.source.unknown)", len(unknown), named)
        return [None if c in unknown else c for c in parsed]

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
        used = np.array([c is not None for c in parsed]) & ~empty
        columns = pd.DataFrame({c: self.cells.column(c) for c in self._context_columns}, index=self.cells.names)
        context = pd.Series(read_contexts(columns, used, self.name, "data.source.context"))
        self._leave_out("cells without any count", int((empty & np.array([c is not None for c in parsed])).sum()))
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
            self._leave_out(f"conditions of fewer than {self.min_cells} cells (data.source.min_cells)", len(few), named)
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
        if len(units := sorted({c.unit for c in self.conditions if any(c.doses)})) > 1:
            raise ValueError(
                f"{self.name}: doses in {' and in '.join(repr(u) for u in units)} cannot be compared (.obs[{self.dose or self.condition!r}]): bring them to "
                "one unit, or leave some out (data.source.keep)"
            )
        self._note_unmeasured()

    def _note_unmeasured(self) -> None:
        """Say which targets the files do not measure: genes of a small panel, or words that are no genes."""
        assert self.tokenizer.vocabulary is not None
        measured = set(np.concatenate(self.cells.gene_panels).tolist())
        genes = {t for c, kind in zip(self.conditions, self.groups["kind"], strict=True) if kind != "drug" for t in c.targets}
        ids = {gene: self.tokenizer.vocabulary.find(gene)[0] for gene in sorted(genes)}
        if unmeasured := [gene for gene, i in ids.items() if i not in measured]:
            shown = ", ".join(unmeasured[:8]) + (", ..." if len(unmeasured) > 8 else "")
            self.notes["targets that are not among the measured genes"] = f"{len(unmeasured):,} of {len(genes):,}: {shown}"

    def _leave_out(self, what: str, n: int, named: str = "") -> None:
        """Count and note what is left out."""
        if n:
            self.left_out[what] = n
            self.notes[f"left out: {what}"] = f"{n:,}" + (f" ({named})" if named else "")


def read_contexts(columns: pd.DataFrame, used: np.ndarray, where: str, setting: str) -> np.ndarray:
    """The context of every cell, text [n]: what its columns hold, with a bar between them; without a column ``all``.

    Parameters
    ----------
    columns
        Of ``.obs``, [n, columns]; the index names cells.
    used
        Which cells need a context, bool [n].
    where, setting
        The file, and the setting that names the columns, for errors.

    Raises
    ------
    ValueError
        Naming the column, where cells that are used have no context.
    """
    for column in columns:
        if (missing := np.flatnonzero(columns[column].isna().to_numpy() & used)).size:
            raise ValueError(
                f"{where}, .obs[{column!r}] ({setting}): {missing.size:,} cells have no context (first: {str(columns.index[missing[0]])!r}): name it, "
                "or leave them out"
            )
    texts = [columns[column].astype(str) for column in columns]
    if not texts:
        return np.full(len(columns), "all", object)
    return (texts[0].str.cat(texts[1:], sep=SEPARATOR) if texts[1:] else texts[0]).to_numpy(object)


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
