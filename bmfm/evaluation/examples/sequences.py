"""Examples that are DNA sequences, or pairs of them, in tables."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from bmfm.data.tables import find_tables
from bmfm.evaluation.examples.base import Examples

COMPLEMENT = str.maketrans("ACGTUacgtu", "TGCAAtgcaa")


class SequenceExamples(Examples):
    """Sequences (`inputs` is a Series), or pairs of them (a frame of two columns).

    Sequences are the same if they, or one and the reverse complement of the other, agree base by base; pairs, if both
    agree as they stand.
    """

    read_by = ("sequence", "second")

    def __len__(self) -> int:
        return len(self.data.table)

    def lossless_tokenizer(self) -> Any:
        """One token a base."""
        from bmfm.tokenizers import dna

        return dna.single_base()

    @staticmethod
    def draws_test_part(data: Mapping[str, Any]) -> bool:
        """Not where files have a test part of their own."""
        return Examples.draws_test_part(data) and set(find_tables(data["path"])) == {"all"}

    @property
    def inputs(self) -> Any:
        table, sequence, second = self.data.table, self.data.sequence, self.data.second
        return table[[sequence, second]].set_axis(["sequence", "second"], axis=1) if second else table[sequence]

    @property
    def are_pairs(self) -> bool:
        return self.data.second is not None

    @property
    def texts(self) -> list[str]:
        """The sequences; of pairs one after the other with an N between them."""
        inputs = self.inputs.agg("N".join, axis=1) if self.are_pairs else self.inputs
        return inputs.astype(str).tolist()

    def of(self, part: str) -> Any:
        return self.inputs.iloc[self.parts[part]]

    def input_hashes(self) -> list[bytes]:
        if self.are_pairs:
            return ["|".join(map(str, row)).upper().encode() for row in self.inputs.itertuples(index=False)]
        texts = (text.upper().replace("U", "T") for text in self.texts)
        return [min(text, text.translate(COMPLEMENT)[::-1]).encode() for text in texts]

    @property
    def names_in_words(self) -> str:
        return "the first sequences, and a second with the second ones" if self.are_pairs else "the sequences"

    def name_columns(self, table: pd.DataFrame) -> list:
        """The sequences (of pairs two columns), or a column that the task's own table has with another value for each example."""
        first = table.columns[0]
        if pd.api.types.is_numeric_dtype(table.dtypes.iloc[0]) and first not in self.data.table:
            return []
        return list(table.columns[: 2 if self.are_pairs and not self._is_unique(first) else 1])

    def _is_unique(self, column: Any) -> bool:
        return column in self.data.table and self.data.table[column].is_unique

    def names(self, columns: Sequence, table_names: Sequence[str]) -> list[str]:
        """The sequences themselves; their SHA-256 in hexadecimal, where the table has such; or the values of the column of that name."""
        if self._is_unique(columns[0]):
            return join_columns(self.data.table[[columns[0]]])
        names = join_columns(self.inputs if self.are_pairs else self.inputs.to_frame())
        if all(len(name) == 64 for name in table_names) and not set(names) & set(table_names):
            return [hashlib.sha256(name.encode()).hexdigest() for name in names]
        return names


def join_columns(frame: pd.DataFrame) -> list[str]:
    """The columns of each row as one text."""
    return ["\t".join(row) for row in zip(*(frame[c].astype(str) for c in frame), strict=True)]
