"""Labelled DNA sequences in tables, as a Lightning data module: CSV, TSV or Parquet in, batches out."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from bmfm.data.dependence import Gain, Known, place_gain, strand_gain
from bmfm.data.module import BatchModule, as_tokenizer
from bmfm.data.sources import EitherStrand, TokenizedSequences
from bmfm.data.spec import DataSpec
from bmfm.data.splits import split_examples
from bmfm.data.stream import PARTS
from bmfm.data.tables import BLOCK, find_tables, on_disk, read_as_written, read_sequence_table, suffix_of
from bmfm.expressions import evaluate
from bmfm.genome.representation import Encoded
from bmfm.label_kinds import LabelKind
from bmfm.special import UNK
from bmfm.tokenizers.base import Tokens
from bmfm.tokenizers.dna import refuse_unknown
from bmfm.tokenizers.texts import join_pairs, other_strands

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

PART = "bmfm part"
"""The column that says which file a row is of."""
AUTO = "auto"
MOST_PLACES = 1024
"""Of longer sequences nothing is asked of single places."""


@dataclass(eq=False, repr=False)
class SequenceTable(BatchModule):
    """Training, validation and test sequences with their columns of labels.

    Parameters
    ----------
    path
        A folder with ``train``, ``dev`` and ``test`` tables, {part: file}, or one table that `split` cuts.
    split
        Of one table, or of the training table where there is no validation: see `data.splits.split_examples`.
    max_tokens
        Longest input; longer ones are cut at their end, counted, and warned of if more than 1% are.
    batch_size
        Sequences of one batch over all devices.
    sequence, second
        Columns of the sequence (None: the first) and, for pairs, of the second one: ``[CLS] A [SEP] B [SEP]``.
    derived
        More columns, {name: expression over columns}, as ``{mean: "(a + 2 * b) / (a + b)"}``: arithmetic, comparisons and the
        functions of `bmfm.expressions`, and nothing else, since a task may come from anyone.
    text
        Columns of a CSV that are text though they look like numbers, as labels of bases do. The column of `split` by group or
        by column is text anyway.
    packing
        Several sequences a row of `max_tokens`, kept apart by the attention.
    num_workers
        Processes that make batches; these are the same with any number.
    seed
        Of the order and the keys of training examples.
    alphabet
        How sequences are read: ``plain``, ``snp`` or, each for itself, ``auto``; see `genome.alphabet.read_text`.
    reverse_complement
        Probability that a training example is read from the other strand, drawn by the example's key in each epoch; of pairs both
        sequences are, and stay in their order. For labels that do not depend on the strand; ``auto`` is 0.5 for such, and 0 for others, as
        `data.dependence.strand_gain` finds once labels are known.

    Attributes
    ----------
    table
        The rows of all files.
    tokens, is_cut
        Their tokens, and which rows lost their end.
    """

    path: Any
    split: Mapping[str, Any]
    max_tokens: int
    batch_size: int
    sequence: str | None = "sequence"
    second: str | None = None
    derived: Mapping[str, str] | None = None
    text: Sequence[str] = ()
    packing: bool = False
    num_workers: int = 0
    seed: int = 0
    alphabet: str = "auto"
    reverse_complement: float | str = 0.0

    def __post_init__(self) -> None:
        super().__init__()
        self.sequence, self.second = (None if name is None else str(name) for name in (self.sequence, self.second))
        self.derived = dict(self.derived or {})
        if self.reverse_complement != AUTO and (isinstance(self.reverse_complement, str) or not 0 <= self.reverse_complement <= 1):
            raise ValueError(f"data.reverse_complement={self.reverse_complement}: a probability from 0 to 1, or {AUTO}, is expected")

    def connect(self, tokenizer: Any) -> None:
        """Bind the tokenizer, read and tokenize the tables, split them."""
        self.tokenizer = as_tokenizer(tokenizer)
        self.table = self._read()
        self.limit_max_tokens()
        symbols = self._symbols()
        self.tokens, self.is_cut = self._tokenize(_blocks(symbols))
        self.numbers = self.limit_training(self._split())
        self.parts = self.make_parts(TokenizedSequences(self.tokens, self.is_cut, symbols))
        if self.reverse_complement != AUTO:
            self.read_other_strand(float(self.reverse_complement))

    def read_other_strand(self, probability: float) -> None:
        """Read training examples from the other strand with a probability, from now on."""
        self.reverse_complement, source = probability, self._source
        if probability:
            tokens, is_cut = self._tokenize(chain(_blocks(source.symbols), map(other_strands, _blocks(source.symbols))))
            self.parts["train"].source = EitherStrand(tokens, is_cut, source.symbols, probability)

    def other_strand(self, kinds: Mapping[str, LabelKind]) -> float:
        if self.reverse_complement != AUTO:
            return float(self.reverse_complement)
        found = {name: self._gain(name, kind, strand_gain) for name, kind in kinds.items() if not kind.head.get("gradient_reversal")}
        as_given = any(gain is None or gain.is_found for gain in found.values())
        of_labels = [f"{name}: {'a label for each base' if gain is None else gain}" for name, gain in found.items()]
        self.note("strands", f"{'as given' if as_given else 'both'} (given strand for both, {'; '.join(of_labels) or 'no labels'})")
        return 0.0 if as_given else 0.5

    def places_of(self, name: str, kind: LabelKind, places: bool | str) -> int:
        lengths = np.diff(self.tokens.offsets)[self.numbers["train"]]
        length = int(lengths.max())
        if places != AUTO:
            return length if places else 0
        n_bases = np.diff(self._source.symbols.offsets)[self.numbers["train"]]
        if self.reverse_complement or length > MOST_PLACES or not np.array_equal(lengths, n_bases):  # tokens of several bases, or cut
            return 0
        gain = self._gain(name, kind, partial(place_gain, length=length))
        if gain is not None:
            self.note(f"places, {name}", f"{'read' if gain.is_found else 'not read'} (bases at places beside k-mers: {gain})")
        return length if gain is not None and gain.is_found else 0

    @property
    def _source(self) -> TokenizedSequences:
        source = self.parts["train"].source
        assert isinstance(source, TokenizedSequences)
        return source

    def _gain(self, name: str, kind: LabelKind, test: Callable[[Known], Gain]) -> Gain | None:
        """What a test of `data.dependence` says of a label; None of labels of bases, which belong to the strand and the place that are given."""
        if name in self.parts["train"].token_labels:
            return None
        labels = self.parts["train"].labels[name]
        if not kind.simple_as or "validation" not in self.parts:
            return Gain()
        has_label = kind.has_label(labels) if labels.ndim == 1 else ~np.isnan(labels).any(1)
        rows = [self.numbers[part][has_label[self.numbers[part]]] for part in ("train", "validation")]
        return test(Known(self._source.symbols, labels, kind.simple_as, *rows))

    def _read(self) -> pd.DataFrame:
        tables = []
        for part, file in find_tables(self.path).items():
            table = read_sequence_table(file, [*self.text, *self._groups()], self._sequences)
            self.sequence = self.sequence or str(table.columns[0])
            for name, expression in (self.derived or {}).items():
                table[name] = self._derive(table, name, str(expression), file)
            tables.append(table.assign(**{PART: part}))
        return pd.concat(tables, ignore_index=True)

    @property
    def _sequences(self) -> list[str | int]:
        """Columns of sequences, by name or place."""
        return [0 if self.sequence is None else self.sequence, *([self.second] if self.second else [])]

    def _groups(self) -> list[str]:
        """The column whose values say which part an example is in, unless arithmetic needs it: donors 001 and 1 are two."""
        column = self.split.get("column") if self.split.get("by") in ("group", "column") else None
        return [str(column)] if column is not None and not any(str(column) in str(e) for e in (self.derived or {}).values()) else []

    def _derive(self, table: pd.DataFrame, name: str, expression: str, file: Path) -> np.ndarray:
        """A derived column; rows of which it has no finite value (a missing number, log of 0) are counted and warned of."""
        try:
            values = evaluate(expression, table)
        except ValueError as error:
            raise ValueError(f"{file}: data.derived.{name}={expression!r} cannot be computed: {error}") from None
        lost = np.flatnonzero(~np.isfinite(values))
        if len(lost):
            message = f"{len(lost):,} of {len(values):,} rows of {file.name} have no finite value (first: row {int(lost[0]) + 2})"
            self.note(f"derived column {name}, {file.name}", message)
            warnings.warn(f"data.derived.{name}={expression!r}: {message}", stacklevel=2)
        return values

    def _symbols(self) -> Encoded:
        """Symbols of all rows."""
        columns = [str(self.sequence), *([self.second] if self.second else [])]
        lengths: list[np.ndarray] = []
        n_replaced = 0

        def blocks() -> Iterator[np.ndarray]:
            nonlocal n_replaced
            for first in range(0, len(self.table), BLOCK):
                read = [self._read_texts(column, first) for column in columns]
                block = read[0][0] if len(read) == 1 else join_pairs(read[0][0], read[1][0])
                n_replaced += sum(n for _, n in read)
                lengths.append(np.diff(block.offsets))
                yield block.symbols

        symbols = on_disk(blocks(), np.uint8)
        if n_replaced:
            self.note("characters read as N", f"{n_replaced:,}")
        return Encoded(symbols, _offsets(lengths))

    def _tokenize(self, blocks: Iterable[Encoded]) -> tuple[Tokens, np.ndarray]:
        """Tokens of sequences, cut to `max_tokens`, and which were cut [n] bool."""
        room = self.max_tokens - self.tokenizer.n_cls - 1
        lengths: list[np.ndarray] = []
        n_unknown = 0

        def cut() -> Iterator[np.ndarray]:
            nonlocal n_unknown
            for block in blocks:
                whole = self.tokenizer.encode(block, np.zeros(len(block), np.uint64), 1 << 40)
                lengths.append(whole.lengths)
                n_unknown += int((whole.ids == UNK).sum())
                yield whole.ids[np.arange(len(whole.ids)) - np.repeat(whole.offsets[:-1], whole.lengths) < room]

        ids = on_disk(cut(), np.int32)
        every = np.concatenate([np.empty(0, np.int64), *lengths])
        refuse_unknown(n_unknown, int(every.sum()), f"column {self.sequence}" + (f" and {self.second}" if self.second else ""))
        is_cut = every > room
        if is_cut.any():
            longest = int(every.max()) + self.tokenizer.n_cls + 1
            message = f"{int(is_cut.sum()):,} of {len(is_cut):,} sequences are longer than {self.max_tokens} tokens; data.max_tokens={longest} keeps all"
            self.note("truncated", message)
            if is_cut.mean() > 0.01:
                warnings.warn(f"{is_cut.mean():.1%} of inputs lose their end: {message}", stacklevel=3)
        return Tokens(ids, _offsets([np.minimum(every, room)])), is_cut

    def _read_texts(self, column: str, first: int) -> tuple[Any, int]:
        """Some sequences of a column as symbols, and how many characters were read as N."""
        texts = self.table[column].iloc[first : first + BLOCK].tolist()
        if any("U" in text or "u" in text for text in texts):
            self.note(f"column {column}", "RNA: U is read as T")
        return self.tokenizer.read_texts(texts, self.alphabet, lambda n: f"column {column}, row {first + n + 1} of all")

    def _split(self) -> dict[str, np.ndarray]:
        """Numbers of the rows of each part: by their files, or by `split` where these leave it open."""
        file_part = self.table[PART].to_numpy()
        numbers = {part: np.flatnonzero(file_part == part) for part in PARTS}
        column = lambda name: self.table[name].to_numpy(object)  # noqa: E731
        if (file_part == "all").any():
            return split_examples(self.split, len(self.table), column)
        if not len(numbers["validation"]):
            train = numbers["train"]
            inner = split_examples({**self.split, "test": 0.0}, len(train), lambda name: column(name)[train])
            numbers |= {part: train[inner[part]] for part in ("train", "validation")}
        return numbers

    def spec(self) -> DataSpec:
        return replace(super().spec(), token_spans=self.token_spans, is_cut=self.is_cut)

    def add_labels(self, name: str, labels: np.ndarray | list[np.ndarray]) -> None:
        if isinstance(labels, list) and self.reverse_complement not in (0, AUTO):
            raise ValueError(
                f"objective {name} labels the tokens of the strand that is given, which the other strand does not have: choose "
                "data.reverse_complement=0"
            )
        super().add_labels(name, labels)

    def token_spans(self) -> list[np.ndarray]:
        """The bases that each token of each sequence stands for, n arrays [L, 2], half-open."""
        if self.second:
            raise ValueError("labels of bases need one sequence an example: leave data.second out")
        n_bases = self.table[self.sequence].str.len().to_numpy()
        return [self.tokenizer.spans(self.tokens[row], None if self.is_cut[row] else int(n)) for row, n in enumerate(n_bases)]

    @property
    def column_names(self) -> list[str]:
        return [str(c) for c in self.table.columns if c != PART]

    def column(self, name: str, as_text: bool = False) -> np.ndarray:
        """A column of all examples; as text ``01`` and ``NA`` stay what they are, but of Parquet and of derived columns, which have types."""
        if name not in self.table or name == PART:
            raise KeyError(f"the table has no column {name!r} for labels; it has {', '.join(self.column_names)}")
        values = self.table[name].to_numpy(object)
        if not as_text or name in (self.derived or {}) or all(isinstance(v, str) for v in values):
            return values
        of_files, part = [], self.table[PART].to_numpy()
        for which, file in find_tables(self.path).items():
            typed = suffix_of(file) == ".parquet"
            of_files.append(values[part == which] if typed else read_as_written(file, name, self._sequences))
        return np.concatenate(of_files)

    def where(self, number: int) -> str:
        """File and row of an example, rows counted as in a file with a header in row 1."""
        part = self.table[PART].to_numpy()
        return f"{find_tables(self.path)[part[number]]}, row {int((part[:number] == part[number]).sum()) + 2}"

    def statistics_sample(self, n: int = 4096) -> tuple[np.ndarray, np.ndarray]:
        """All training sequences: they are tokenized already."""
        return self.numbers["train"], np.zeros(len(self.numbers["train"]), np.uint64)

    @cached_property
    def _kmers(self) -> "csr_matrix":
        """A row for each sequence [n, k-mers]: sublinear counts of 1- to 6-mers times their inverse frequency in training."""
        from scipy.sparse import hstack
        from sklearn.feature_extraction.text import TfidfVectorizer

        of_columns = []
        for column in filter(None, (self.sequence, self.second)):
            vectors = TfidfVectorizer(analyzer="char", ngram_range=(1, 6), lowercase=False, min_df=2, sublinear_tf=True)
            texts = self.table[column].astype(str).str.upper()
            vectors.fit(texts.iloc[self.numbers["train"]])
            of_columns.append(vectors.transform(texts))
        return of_columns[0] if len(of_columns) == 1 else hstack(of_columns, "csr")

    def features(self, part: str, label: str) -> "tuple[csr_matrix, np.ndarray]":
        """Rows of k-mer features of a part's sequences, and their labels [n]: what simple methods work on."""
        numbers = self.numbers[part]
        return self._kmers[numbers], self.parts[part].labels[label][numbers]

    @property
    def card(self) -> dict[str, str]:
        """What a model card says of the sources."""
        return {"sequences": ", ".join(p.name for p in find_tables(self.path).values())}

    def facts(self) -> dict[str, str]:
        """What a run's summary says of its data."""
        return {f"{p} sequences": f"{len(n):,}" for p, n in self.numbers.items()} | self.notes


def _offsets(lengths: Sequence[np.ndarray]) -> np.ndarray:
    return np.append(0, np.cumsum(np.concatenate([np.empty(0, np.int64), *lengths])))


def _blocks(symbols: Encoded) -> Iterator[Encoded]:
    """The sequences, `BLOCK` at a time."""
    for first in range(0, len(symbols), BLOCK):
        offsets = symbols.offsets[first : first + BLOCK + 1]
        yield Encoded(symbols.symbols[offsets[0] : offsets[-1]], offsets - offsets[0])
