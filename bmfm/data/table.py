"""Labelled DNA sequences in tables, as a Lightning data module: CSV, TSV or Parquet in, batches out."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch.utils.data import Dataset

from bmfm.data.module import BatchModule
from bmfm.data.spec import DataSpec
from bmfm.data.splits import InOrder, Order, part_seeds, split_examples
from bmfm.data.stream import PARTS
from bmfm.expressions import evaluate
from bmfm.files import open_whole, require_file
from bmfm.hashing import example_keys
from bmfm.special import CLS, IGNORE, SEP
from bmfm.tokenizers.collate import collate, to_tensors
from bmfm.tokenizers.dna import DnaTokenizer, refuse_unknown
from bmfm.tokenizers.texts import check_texts

FILE_NAMES = {"train": ("train",), "validation": ("dev", "validation", "valid", "val"), "test": ("test",)}
SUFFIXES = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".txt", ".parquet")
COMPRESSED = (".gz", ".bgz", ".bz2", ".xz", ".zip", ".zst")


def is_table(path: str | Path) -> bool:
    """Whether a file is a table of a kind that a sequence file is not (CSV, TSV, Parquet), by its suffix in either case."""
    return _suffix(path) in (".csv", ".tsv", ".parquet")


def _suffix(path: str | Path) -> str:
    """The last suffix in lower case, before that of a compression."""
    suffixes = [s.lower() for s in Path(path).suffixes]
    return next((s for s in reversed(suffixes) if s not in COMPRESSED), "")


def read_table(
    path: str | Path, text: Sequence[str] = (), sequences: Sequence[str | int] = (), ids: Sequence[str | int] = ()
) -> pd.DataFrame:
    """A CSV, TSV (by their suffix, compressed or not) or Parquet file.

    Lines of text may end in one more separator than the header has (as some programs write them): nothing stands behind it.
    Where something does, the file is refused, since either the header lacks a name, or (``write.table`` of R) the first
    column is one of row names, and no one can tell which. Blank lines at the end are no rows.

    Parameters
    ----------
    text
        Columns that are not read as numbers; what stands for "no value" (empty, ``NA``) is missing.
    sequences
        Columns, by name or place, that hold sequences: read to the letter but for white space, which is left out, and
        refused where one is missing or no text (see `tokenizers.texts.check_texts`).
    ids
        Columns, by name or place, that are read to the letter: ``001``, ``1e5`` and ``NA`` stay what they are.

    Raises
    ------
    KeyError
        If there is no such column of sequences or ids.
    ValueError
        Naming the file and, where it is known, the row.
    """
    file = require_file(path, "table (CSV, TSV or Parquet)")
    is_parquet = _suffix(file) == ".parquet"
    try:
        table = pd.read_parquet(file) if is_parquet else _read_lines(file, text, sequences, ids)
    except (ValueError, OSError) as error:  # of pandas and pyarrow, which name no file
        if str(error).startswith(str(file)):
            raise
        raise ValueError(f"{file}: cannot be read as a table of the kind that its name says: {error}") from error
    _names(file, table, ids, "data.id")
    for name in _names(file, table, sequences, "data.sequence"):
        table[name] = check_texts(table[name], partial(_cell, file, name, 1 if is_parquet else 2))
    return table


def _names(file: Path, table: pd.DataFrame, columns: Sequence[str | int], option: str) -> list[str]:
    """Names of columns that are given by name or place."""
    names = [table.columns[c] if isinstance(c, int) else c for c in columns]
    if absent := [n for n in names if n not in table]:
        raise KeyError(f"{file} has no column {absent[0]!r}; it has {', '.join(map(str, table.columns))}. Name it by {option}")
    return names


def _cell(file: Path, column: str, first: int, number: int) -> str:
    return f"{file}: row {number + first}, column {column}"


def _read_lines(file: Path, text: Sequence[str], sequences: Sequence[str | int], ids: Sequence[str | int]) -> pd.DataFrame:
    data = _read_bytes(file).rstrip(b"\r\n ")  # blank lines at the end; an empty cell has quotes or a separator
    options: dict[str, Any] = {
        "sep": "\t" if _suffix(file) in (".tsv", ".txt", ".tab") else ",",
        "encoding": "utf-8-sig",
        "skip_blank_lines": not sequences,  # in a table of one column, an empty line is a missing sequence
    }
    head = pd.read_csv(BytesIO(data), nrows=1, **options)
    letters = [*_names(file, head, sequences, "data.sequence"), *_names(file, head, ids, "data.id")]
    options |= {"dtype": {c: str for c in text if c not in letters}, "converters": dict.fromkeys(letters, str)}
    if isinstance(head.index, pd.RangeIndex):
        return pd.read_csv(BytesIO(data), **options)
    # pandas takes the first columns for an index where the first line has more cells than the header
    more = [f"cell {len(head.columns) + i + 1}" for i in range(head.index.nlevels)]
    options["converters"] |= dict.fromkeys(more, str.strip)
    table = pd.read_csv(BytesIO(data), header=0, names=[*head.columns, *more], index_col=False, **options)
    held = np.flatnonzero(table[more].fillna("").ne("").any(axis=1))
    if len(held):
        remedy = "Give every column a name"
        if len(more) == 1:
            remedy += "; names of rows, as R writes them, too: write.csv, or write.table(..., col.names=NA)"
        raise ValueError(
            f"{file}: row {int(held[0]) + 2} has more cells than the header has names ({', '.join(map(str, head.columns))}), so that "
            f"which is which is not known. {remedy}"
        )
    return table[list(head.columns)]


def _read_bytes(file: Path) -> bytes:
    if file.suffix.lower() in (".bz2", ".xz", ".zip", ".zst"):
        from pandas.io.common import get_handle

        with get_handle(file, "rb", compression="infer", is_text=False) as opened:
            return opened.handle.read()  # type: ignore[return-value]
    with open_whole(file) as stream:
        return stream.read()


def find_tables(path: Any) -> dict[str, Path]:
    """Files of the parts: of a folder with train, dev (or validation), test; of a mapping; or one file (``all``)."""
    if isinstance(path, Mapping):
        return {part: require_file(file, f"data.path.{part}: table") for part, file in path.items() if file}
    given = Path(path).expanduser()
    if not given.is_dir():
        return {"all": require_file(given, "data.path: table (CSV, TSV or Parquet) or folder")}
    found = {}
    for part, names in FILE_NAMES.items():
        files = [given / f"{name}{suffix}" for name in names for suffix in SUFFIXES if (given / f"{name}{suffix}").is_file()]
        if files:
            found[part] = files[0]
    if "train" not in found:
        raise FileNotFoundError(f"data.path={str(path)!r} is a folder without train.csv (or .tsv, .parquet)")
    return found


class SequenceExamples(Dataset):
    """Batches of tokenized sequences; asked for a list of (epoch, index) pairs at a time.

    Attributes
    ----------
    labels, token_labels
        Of all examples, {name: [n, ...]}, and of all their tokens, {name: n arrays like the ids}.
    """

    def __init__(self, ids: list[np.ndarray], cut: np.ndarray, order, seed: int, packing: int | None):
        self.ids, self.cut, self.order, self.seed, self.packing = ids, cut, order, seed, packing
        self.labels: dict[str, np.ndarray] = {}
        self.token_labels: dict[str, list[np.ndarray]] = {}

    def __len__(self) -> int:
        return len(self.order)

    def __getitems__(self, pairs: Sequence[tuple[int, int]]) -> dict:
        epochs, places = np.array(pairs, np.int64).T
        numbers = self.order(epochs, places)
        held = [self.ids[n] for n in numbers]
        offsets = np.concatenate([[0], np.cumsum([len(i) for i in held])]).astype(np.int64)
        flat = {name: (np.concatenate([labels[n] for n in numbers]), IGNORE) for name, labels in self.token_labels.items()}
        batch = collate(np.concatenate(held), offsets, np.array([CLS]), flat, self.packing)
        batch["special_tokens_mask"] |= batch["input_ids"] < 5
        batch |= {
            "example_keys": example_keys(self.seed, epochs, places).view(np.int64),
            "labels": {name: values[numbers] for name, values in self.labels.items()} | {name: batch.pop(name) for name in flat},
            "counts": {"sequences": len(held), "tokens": int(offsets[-1]), "truncated_sequences": int(self.cut[numbers].sum())},
        }
        return to_tensors(batch)


class SequenceTable(BatchModule):
    """Training, validation and test sequences with their columns of labels.

    Parameters
    ----------
    path
        A folder with ``train``, ``dev`` and ``test`` tables, {part: file}, or one table that `split` cuts.
    sequence, second
        Columns of the sequence (None: the first) and, for pairs, of the second one: ``[CLS] A [SEP] B [SEP]``.
    derived
        More columns, {name: expression over columns}, as ``{mean: "(a + 2 * b) / (a + b)"}``: arithmetic, comparisons and the
        functions of `bmfm.expressions`, and nothing else, since a task card may come from anyone.
    text
        Columns of a CSV that are text though they look like numbers, as labels of bases do. The column of `split` by group or
        by column is text anyway.
    split
        Of one table, or of the training table where there is no validation: see `data.splits.split_examples`.
    max_tokens
        Longest input; longer ones are cut at their end, counted, and warned of if more than 1% are.
    alphabet
        How sequences are read: ``plain``, ``snp`` or, each for itself, ``auto``; see `genome.alphabet.read_text`.
    """

    def __init__(
        self,
        path: Any,
        split: Mapping,
        max_tokens: int,
        batch_size: int,
        sequence: str | None = "sequence",
        second: str | None = None,
        derived: Mapping[str, str] | None = None,
        text: Sequence[str] = (),
        packing: bool = False,
        num_workers: int = 0,
        seed: int = 0,
        alphabet: str = "auto",
    ):
        super().__init__()
        self.alphabet = alphabet
        self.path, self.split, self.max_tokens, self.batch_size = path, dict(split), max_tokens, batch_size
        self.sequence, self.second = (None if name is None else str(name) for name in (sequence, second))
        self.derived = dict(derived or {})
        self.text, self.packing, self.num_workers, self.seed = text, packing, num_workers, seed

    def _read(self) -> pd.DataFrame:
        tables = []
        for part, file in find_tables(self.path).items():
            sequences = [0 if self.sequence is None else self.sequence, *([self.second] if self.second else [])]
            table = read_table(file, [*self.text, *self._groups()], sequences)
            self.sequence = self.sequence or str(table.columns[0])
            for name, expression in self.derived.items():
                table[name] = self._derive(table, name, str(expression), file)
            tables.append(table.assign(**{"bmfm part": part}))
        return pd.concat(tables, ignore_index=True)

    def _groups(self) -> list[str]:
        """The column whose values say which part an example is in, unless arithmetic needs it: donors 001 and 1 are two."""
        column = self.split.get("column") if self.split.get("by") in ("group", "column") else None
        return [str(column)] if column is not None and not any(str(column) in str(e) for e in self.derived.values()) else []

    def _derive(self, table: pd.DataFrame, name: str, expression: str, file: Path) -> np.ndarray:
        """A derived column; rows of which it has no finite value (a missing number, log of 0) are counted and warned of."""
        try:
            values = evaluate(expression, table)
        except ValueError as error:
            raise ValueError(f"{file}: data.derived.{name}={expression!r} cannot be computed: {error}") from None
        lost = np.flatnonzero(~np.isfinite(values))
        if len(lost):
            import warnings

            said = f"{len(lost):,} of {len(values):,} rows of {file.name} have no finite value (first: row {int(lost[0]) + 2})"
            self.note(f"derived column {name}, {file.name}", said)
            warnings.warn(f"data.derived.{name}={expression!r}: {said}", stacklevel=2)
        return values

    def connect(self, tokenizer) -> None:
        """Bind the tokenizer, read and tokenize the tables, split them."""
        self.tokenizer = tokenizer if hasattr(tokenizer, "of_texts") else DnaTokenizer(tokenizer)
        self.table = self._read()
        if (limit := getattr(self.tokenizer, "max_tokens", None)) and limit < self.max_tokens:
            self.note("longest input", f"{limit} tokens, as the model has no more positions ({self.max_tokens} were asked for)")
            self.max_tokens = limit
        ids, n_replaced = self._tokens(self.sequence)
        if self.second:
            others, n = self._tokens(self.second)
            n_replaced += n
            ids = [np.concatenate([a, [SEP], b]).astype(np.int32) for a, b in zip(ids, others, strict=True)]
        cut = np.array([len(i) > self.max_tokens - 2 for i in ids])
        if cut.any():
            longest = max(map(len, ids)) + 2
            said = f"{int(cut.sum()):,} of {len(cut):,} sequences are longer than {self.max_tokens} tokens; data.max_tokens={longest} keeps all"
            self.note("truncated", said)
            if cut.mean() > 0.01:
                import warnings

                warnings.warn(f"{cut.mean():.1%} of inputs lose their end: {said}", stacklevel=2)
        self.ids, self.cut = [i[: self.max_tokens - 2] for i in ids], cut
        if n_replaced:
            self.note("characters read as N", f"{n_replaced:,}")
        part = self.table["bmfm part"].to_numpy()
        self.numbers = {p: np.flatnonzero(part == p) for p in PARTS}
        whole = np.flatnonzero(part == "all") if "all" in set(part) else np.empty(0, np.int64)
        if len(whole):
            self.numbers = split_examples(self.split, len(whole), lambda c: self.table[c].to_numpy(object))
        elif not len(self.numbers["validation"]):
            train = self.numbers["train"]
            inner = split_examples(self.split | {"test": 0.0}, len(train), lambda c: self.table[c].to_numpy(object)[train])
            self.numbers |= {p: train[inner[p]] for p in ("train", "validation")}
        row_length = self.max_tokens if self.packing else None
        orders = {p: InOrder(n) for p, n in self.numbers.items()}
        orders["train"] = Order(self.numbers["train"], self.seed)  # type: ignore[assignment]
        seeds = part_seeds(self.seed, self.split)
        self.parts = {p: SequenceExamples(self.ids, cut, orders[p], seeds[p], row_length) for p in PARTS if len(self.numbers[p])}

    def _tokens(self, column: str | None) -> tuple[list[np.ndarray], int]:
        texts = self.table[column].tolist()
        if any("U" in text or "u" in text for text in texts):
            self.note(f"column {column}", "RNA: U is read as T")
        ids, n_replaced = self.tokenizer.of_texts(texts, alphabet=self.alphabet, where=lambda n: f"column {column}, row {n + 1} of all")
        refuse_unknown(ids, f"column {column}")
        return ids, n_replaced

    def spec(self) -> DataSpec:
        return replace(super().spec(), token_spans=self.token_spans, is_cut=self.cut)

    def token_spans(self) -> list[np.ndarray]:
        """The bases that each token of each sequence stands for, n arrays [L, 2], half-open."""
        if self.second:
            raise ValueError("labels of bases need one sequence an example: leave data.second out")
        n_bases = self.table[self.sequence].astype(str).str.len().to_numpy()
        spans = []
        for ids, n, cut in zip(self.ids, n_bases, self.cut, strict=True):
            ends = np.cumsum(self.tokenizer.lengths(ids, int(n) if not cut else None))
            spans.append(np.stack([np.concatenate([[0], ends[:-1]]), ends], 1).astype(np.int64))
        return spans

    # until objectives are set up from a `DataSpec`
    @property
    def token_lengths(self) -> list[np.ndarray]:
        return [spans[:, 1] - spans[:, 0] for spans in self.token_spans()]

    def add_token_labels(self, name: str, labels: list[np.ndarray]) -> None:
        self.add_labels(name, labels)

    def columns(self, pattern: str) -> list[str]:
        return [c for c in self.column_names if re.fullmatch(pattern, c)]

    def numbers_of(self, names: list[str]) -> np.ndarray:
        return self.table[names].to_numpy(np.float32, na_value=np.nan)

    def compute_statistics(self) -> dict[str, np.ndarray]:
        """``token_counts`` [V] of the training sequences."""
        train = np.concatenate([self.ids[n] for n in self.numbers["train"]])
        return {"token_counts": np.bincount(train, minlength=len(self.tokenizer))}

    def where(self, number: int) -> str:
        """File and row of an example, rows counted as in a file with a header in row 1."""
        part = self.table["bmfm part"].to_numpy()
        return f"{find_tables(self.path)[part[number]]}, row {int((part[:number] == part[number]).sum()) + 2}"

    @property
    def column_names(self) -> list[str]:
        return [str(c) for c in self.table.columns if c != "bmfm part"]

    def column(self, name: str, as_text: bool = False) -> np.ndarray:
        """A column of all examples; as text ``01`` and ``NA`` stay what they are, but of Parquet and of derived columns, which have types."""
        if name not in self.table:
            raise KeyError(f"the table has no column {name!r} for labels; it has {', '.join(map(str, self.table.columns[:-1]))}")
        values = self.table[name].to_numpy(object)
        if not as_text or name in self.derived or all(isinstance(v, str) for v in values):
            return values
        read, part = [], self.table["bmfm part"].to_numpy()
        sequences = [str(self.sequence), *([self.second] if self.second else [])]
        for which, file in find_tables(self.path).items():
            typed = _suffix(file) == ".parquet"
            read.append(values[part == which] if typed else _read_lines(file, (), sequences, [name])[name].to_numpy(object))
        return np.concatenate(read)

    @cached_property
    def _kmers(self):
        """A row for each sequence [n, k-mers]: sublinear counts of 1- to 6-mers times their inverse frequency in training."""
        from scipy.sparse import hstack
        from sklearn.feature_extraction.text import TfidfVectorizer

        made = []
        for column in filter(None, (self.sequence, self.second)):
            vectors = TfidfVectorizer(analyzer="char", ngram_range=(1, 6), lowercase=False, min_df=2, sublinear_tf=True)
            texts = self.table[column].astype(str).str.upper()
            vectors.fit(texts.iloc[self.numbers["train"]])
            made.append(vectors.transform(texts))
        return made[0] if len(made) == 1 else hstack(made, "csr")

    def features(self, part: str, label: str):
        """Rows of k-mer features of a part's sequences, and their labels [n]: what simple methods work on."""
        numbers = self.numbers[part]
        return self._kmers[numbers], self.parts[part].labels[label][numbers]  # type: ignore[attr-defined]

    @property
    def card(self) -> dict[str, str]:
        """What a model card says of the sources."""
        return {"sequences": ", ".join(p.name for p in find_tables(self.path).values())}

    def facts(self) -> dict[str, str]:
        """What a run's summary says of its data."""
        return {f"{p} sequences": f"{len(n):,}" for p, n in self.numbers.items()} | self.notes
