"""The contract of tokenizers: raw biology to ids and back, with one signature for both omics.

``tokenizer.collate(tokenizer.encode(raw, keys, max_tokens))`` are the rows of a batch, as NumPy arrays; `collate.to_tensors`
makes tensors of them.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np

from bmfm.tokenizers.batch import Batch


@dataclass
class Profiles:
    """Values of genes of cells: cell b has ``values[offsets[b]:offsets[b + 1]]``, whatever of it is shown as tokens.

    Attributes
    ----------
    gene_ids
        [nnz] int32.
    values
        [nnz] float32, as the tokenizer transforms counts.
    offsets
        [n + 1] int64.
    hidden_counts
        [nnz] float32, how many of each gene's molecules are not shown, where counts are split; else None.
    """

    gene_ids: np.ndarray
    values: np.ndarray
    offsets: np.ndarray
    hidden_counts: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Genes of each cell [n]."""
        return np.diff(self.offsets)

    def as_batch(self) -> dict[str, np.ndarray]:
        """As `batch.FullProfile` keeps them, in NumPy arrays: ``row``, ``gene``, ``value`` and maybe ``hidden_count``, [nnz] each."""
        rows = np.repeat(np.arange(len(self)), self.lengths)
        profile = {"row": rows, "gene": self.gene_ids.astype(np.int64), "value": self.values}
        return profile if self.hidden_counts is None else profile | {"hidden_count": self.hidden_counts}

    def take(self, rows: np.ndarray) -> "Profiles":
        """Some cells, in the order of `rows` [m]."""
        entries, offsets = _entries(self.offsets, rows)
        hidden_counts = None if self.hidden_counts is None else self.hidden_counts[entries]
        return Profiles(self.gene_ids[entries], self.values[entries], offsets, hidden_counts)


@dataclass
class Tokens:
    """Tokens of ``n`` examples, without special tokens around them: example b is ``ids[offsets[b]:offsets[b + 1]]``.

    Attributes
    ----------
    ids
        [T] int32.
    offsets
        [n + 1] int64.
    fields
        More of each token, {batch key: [T, ...]}: ``values`` of cells and, where read depth was lowered but not split, ``targets``; ``has_variant`` of
        DNA, and ``label_probs`` [T, 4]; labels of tokens. `Tokenizer.collate` lays them into rows; where there is no content stands False, -100 or NaN, by
        their type (of ``values`` of cells: -(id + 1) of the special token).
    example_fields
        More of each example, {name: [n, ...]}: ``read_depth`` [n, 2] of read-depth aware cells, log(1 + total) of input and target.
    full_profile
        Of cells, the values of every expressed gene before read depth is lowered; None of DNA. `Tokenizer.collate` leaves them out:
        whoever needs them adds ``full_profile.as_batch()``.
    shown_profile
        Of cells whose tokenizer gives a summary, the values of every gene that may be shown: what is left after read depth was lowered
        and genes were dropped, before the longest input cuts some off. `Tokenizer.collate` puts it into the batch.
    counts
        {what: number} of examples, tokens, and what was truncated, unknown or written otherwise.
    """

    ids: np.ndarray
    offsets: np.ndarray
    fields: dict[str, np.ndarray] = field(default_factory=dict)
    example_fields: dict[str, np.ndarray] = field(default_factory=dict)
    full_profile: Profiles | None = None
    shown_profile: Profiles | None = None
    counts: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, number: int) -> np.ndarray:
        """Ids of one example."""
        return self.ids[self.offsets[number] : self.offsets[number + 1]]

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each example [n]."""
        return np.diff(self.offsets)

    def take(self, rows: np.ndarray) -> "Tokens":
        """Some examples, in the order of `rows` [m]; `counts`, which are sums, are left out."""
        entries, offsets = _entries(self.offsets, rows)
        return Tokens(
            self.ids[entries],
            offsets,
            {name: values[entries] for name, values in self.fields.items()},
            {name: values[rows] for name, values in self.example_fields.items()},
            None if self.full_profile is None else self.full_profile.take(rows),
            None if self.shown_profile is None else self.shown_profile.take(rows),
        )


def _entries(offsets: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places of the entries of some rows in a flat array, and the offsets of these rows."""
    lengths = np.diff(offsets)[rows]
    ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])
    return np.arange(ends[-1]) + np.repeat(offsets[:-1][rows] - ends[:-1], lengths), ends


def hash_of_names(names: Sequence[str]) -> str:
    """SHA-256 of a vocabulary: its tokens in the order of their ids."""
    return hashlib.sha256(json.dumps(list(names)).encode()).hexdigest()


@runtime_checkable
class Tokenizer(Protocol):
    """Everything that is needed to turn raw examples into ids and back; saved beside the model.

    The raw form is that of the omics: `genome.representation.Encoded` (symbols of DNA), `cells.counts.CellBatch` (counts by gene).

    Attributes
    ----------
    omics
        ``dna`` or ``rna``.
    positions
        Whether the place of a token in the input means something to the model.
    names
        [V], every token in the order of its id.
    plain_ids
        Ids of ordinary tokens, half-open.
    n_cls
        How many CLS tokens stand before an example.
    n_bins
        Bins of values, where values are bins; else None.
    max_tokens
        Longest input that the vocabulary's makers allow, in tokens; None where there is no limit.
    fields
        What the model's field encoders must take, {batch key: settings}.
    """

    omics: str

    @property
    def positions(self) -> bool: ...

    @property
    def names(self) -> list[str]: ...

    @property
    def plain_ids(self) -> tuple[int, int]: ...

    @property
    def n_cls(self) -> int: ...

    @property
    def n_bins(self) -> int | None: ...

    @property
    def max_tokens(self) -> int | None: ...

    @property
    def fields(self) -> dict[str, dict]: ...

    def __len__(self) -> int: ...

    def encode(self, raw: Any, keys: np.ndarray, max_tokens: int) -> Tokens:
        """Tokens of raw examples; `keys` [n] ``uint64`` are the only source of randomness, `max_tokens` counts special tokens."""
        ...

    def collate(self, tokens: Tokens, row_length: int | None = None) -> dict[str, Any]:
        """Rows of a batch (`batch.Batch`, as NumPy arrays), special tokens and their values written; packed where a row length is given."""
        ...

    def spans(self, ids: np.ndarray, n_bases: int | None = None) -> np.ndarray:
        """What each of an example's tokens [L] stands for, [L, 2] half-open: bases of its sequence (0-based), or ids of genes.

        Spans of DNA follow one another without gap or overlap; special tokens stand for nothing. `n_bases` is the length of the
        whole sequence, where nothing of it was cut off: it tells how many bases unknown tokens stand for.
        """
        ...

    def check_cls(self, number: int, who: str) -> None:
        """Raise a ValueError if there is no such CLS token."""
        ...

    def for_inference(self, *, shown_in_part: bool = False) -> Self:
        """The same, with tokens that are a function of the example alone, whatever the key: itself, where nothing is drawn.

        With `shown_in_part` what training leaves out of an example is left out still, as objectives that reconstruct it need.
        """
        ...

    def description(self) -> dict[str, Any]:
        """What a model depends on of its tokenizer, as ``config.json`` keeps it."""
        ...

    def save_pretrained(self, folder: str | Path) -> None: ...

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Self: ...


__all__ = ["Batch", "Profiles", "Tokenizer", "Tokens", "hash_of_names"]
