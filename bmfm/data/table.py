"""Labelled DNA sequences in tables, as a Lightning data module: CSV, TSV or Parquet in, batches out."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch.utils.data import Dataset

from bmfm.data.collate import collate, to_tensors
from bmfm.data.module import BatchModule
from bmfm.data.splits import InOrder, Order, split_examples
from bmfm.data.stream import PARTS
from bmfm.files import require_file
from bmfm.hashing import example_keys
from bmfm.special import CLS, SEP
from bmfm.tokenizers.dna import DnaTokenizer

FILE_NAMES = {"train": ("train",), "validation": ("dev", "validation", "valid", "val"), "test": ("test",)}
SUFFIXES = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".txt", ".parquet")


def read_table(path: str | Path) -> pd.DataFrame:
    """A CSV, TSV (by their suffix, gzip or not) or Parquet file."""
    file = require_file(path, "table (CSV, TSV or Parquet)")
    if file.suffix == ".parquet":
        return pd.read_parquet(file)
    return pd.read_csv(file, sep="\t" if ".tsv" in file.name or ".txt" in file.name else ",")


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
    """Batches of tokenized sequences; asked for a list of (epoch, index) pairs at a time."""

    def __init__(self, ids: list[np.ndarray], cut: np.ndarray, order, seed: int, packing: int | None):
        self.ids, self.cut, self.order, self.seed, self.packing = ids, cut, order, seed, packing
        self.labels: dict[str, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.order)

    def __getitems__(self, pairs: Sequence[tuple[int, int]]) -> dict:
        epochs, places = np.array(pairs, np.int64).T
        numbers = self.order(epochs, places)
        held = [self.ids[n] for n in numbers]
        offsets = np.concatenate([[0], np.cumsum([len(i) for i in held])]).astype(np.int64)
        batch = collate(np.concatenate(held), offsets, np.array([CLS]), {}, self.packing)
        batch["special"] |= batch["input_ids"] < 5
        batch |= {
            "keys": example_keys(self.seed, epochs, places).view(np.int64),
            "labels": {name: values[numbers] for name, values in self.labels.items()},
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
        Columns of the sequence and, for pairs, of the second one: ``[CLS] A [SEP] B [SEP]``.
    split
        Of one table, or of the training table where there is no validation: see `data.splits.split_examples`.
    max_tokens
        Longest input; longer ones are cut at their end, counted, and warned of if more than 1% are.
    """

    def __init__(
        self,
        path: Any,
        split: Mapping,
        max_tokens: int,
        batch_size: int,
        sequence: str = "sequence",
        second: str | None = None,
        packing: bool = False,
        num_workers: int = 0,
        seed: int = 0,
    ):
        super().__init__()
        self.path, self.split, self.max_tokens, self.batch_size = path, dict(split), max_tokens, batch_size
        self.sequence, self.second, self.packing, self.num_workers, self.seed = sequence, second, packing, num_workers, seed

    def _read(self) -> pd.DataFrame:
        tables = []
        for part, file in find_tables(self.path).items():
            table = read_table(file)
            for column in filter(None, (self.sequence, self.second)):
                if column not in table:
                    raise KeyError(
                        f"{file} has no column {column!r}; it has {', '.join(map(str, table.columns))}. Name it by data.sequence"
                    )
                empty = table[column].isna() | (table[column].astype(str).str.len() == 0)
                if empty.any():
                    raise ValueError(
                        f"{file}: {int(empty.sum())} rows have no {column} (first: row {int(np.flatnonzero(empty)[0]) + 2}); remove them"
                    )
            tables.append(table.assign(**{"bmfm part": part}))
        return pd.concat(tables, ignore_index=True)

    def connect(self, tokenizer) -> None:
        """Bind the tokenizer, read and tokenize the tables, split them."""
        self.tokenizer = tokenizer if isinstance(tokenizer, DnaTokenizer) else DnaTokenizer(tokenizer)
        self.table = self._read()
        ids, n_replaced = self.tokenizer.of_texts(self.table[self.sequence].astype(str).tolist())
        if self.second:
            others, n = self.tokenizer.of_texts(self.table[self.second].astype(str).tolist())
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
        self.ids = [i[: self.max_tokens - 2] for i in ids]
        if n_replaced:
            self.note("characters read as N", f"{n_replaced:,}")
        part = self.table["bmfm part"].to_numpy()
        self.numbers = {p: np.flatnonzero(part == p) for p in PARTS}
        whole = np.flatnonzero(part == "all") if "all" in set(part) else np.empty(0, np.int64)
        if len(whole):
            self.numbers = split_examples(self.split, len(whole), lambda c: self.table[c].to_numpy(object), self.seed)
        elif not len(self.numbers["validation"]):
            train = self.numbers["train"]
            inner = split_examples(self.split | {"test": 0.0}, len(train), lambda c: self.table[c].to_numpy(object)[train], self.seed)
            self.numbers |= {p: train[inner[p]] for p in ("train", "validation")}
        row_length = self.max_tokens if self.packing else None
        orders = {p: InOrder(n) for p, n in self.numbers.items()}
        orders["train"] = Order(self.numbers["train"], self.seed)  # type: ignore[assignment]
        self.parts = {
            p: SequenceExamples(self.ids, cut, orders[p], 3 * self.seed + i, row_length)
            for i, p in enumerate(PARTS)
            if len(self.numbers[p])
        }

    @cached_property
    def statistics(self) -> dict[str, np.ndarray]:  # type: ignore[override]
        """``token_counts`` [V] of the training sequences."""
        train = np.concatenate([self.ids[n] for n in self.numbers["train"]])
        return {"token_counts": np.bincount(train, minlength=len(self.tokenizer))}

    @property
    def training_examples(self) -> np.ndarray:
        return self.numbers["train"]

    def column(self, name: str) -> np.ndarray:
        if name not in self.table:
            raise KeyError(f"the table has no column {name!r} for labels; it has {', '.join(map(str, self.table.columns[:-1]))}")
        return self.table[name].to_numpy(object)

    @cached_property
    def _kmers(self):
        """A row for each sequence [n, k-mers]: sublinear counts of 1- to 6-mers times their inverse frequency in training."""
        from sklearn.feature_extraction.text import TfidfVectorizer

        vectors = TfidfVectorizer(analyzer="char", ngram_range=(1, 6), lowercase=False, min_df=2, sublinear_tf=True)
        texts = self.table[self.sequence].astype(str).str.upper()
        vectors.fit(texts.iloc[self.numbers["train"]])
        return vectors.transform(texts)

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
