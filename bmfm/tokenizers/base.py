"""The contract of tokenizers: raw biology to ids and back, with one signature for both omics."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np

from bmfm.tokenizers.batch import Batch


@dataclass
class Tokens:
    """Tokens of ``n`` examples, without special tokens: example b is ``ids[offsets[b]:offsets[b + 1]]``.

    Attributes
    ----------
    ids
        [T] int32.
    offsets
        [n + 1] int64.
    fields
        More of each token, {batch key: [T]}: ``values`` and ``targets`` of cells, ``has_variant`` of DNA.
    example_fields
        More of each example, {name: [n, ...]}: ``depth`` [n, 2] of read-depth aware cells.
    full_profile
        Of cells, values of every expressed gene [nnz], in the order of the cells' counts; None of DNA.
    counts
        {what: number} of examples, tokens, and what was truncated, unknown or written otherwise.
    """

    ids: np.ndarray
    offsets: np.ndarray
    fields: dict[str, np.ndarray] = field(default_factory=dict)
    example_fields: dict[str, np.ndarray] = field(default_factory=dict)
    full_profile: np.ndarray | None = None
    counts: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.offsets) - 1


@runtime_checkable
class Tokenizer(Protocol):
    """Everything that is needed to turn raw examples into ids and back; saved beside the model.

    The raw form is that of the omics: `genome.representation.Encoded` (symbols of DNA), `cells.counts.CellBatch` (counts by gene).

    Attributes
    ----------
    omics
        ``dna`` or ``rna``.
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
        """What each of an example's tokens [L] stands for, [L, 2] half-open: bases of its sequence (0-based), or ids of genes."""
        ...

    def check_cls(self, number: int, who: str) -> None:
        """Raise a ValueError if there is no such CLS token."""
        ...

    def description(self) -> dict[str, Any]:
        """What a model depends on of its tokenizer, as ``config.json`` keeps it."""
        ...

    def save_pretrained(self, folder: str | Path) -> None: ...

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Self: ...


__all__ = ["Batch", "Tokenizer", "Tokens"]
