"""What an objective may know of the data: enough to learn its classes and baselines, and nothing of files or loaders."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np


class Statistics(Mapping[str, np.ndarray]):
    """Figures of the training part by name, computed when the first of them is asked for."""

    def __init__(self, compute: Callable[[], dict[str, np.ndarray]]):
        self._compute = compute

    @cached_property
    def _computed(self) -> dict[str, np.ndarray]:
        return self._compute()

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._computed:
            raise KeyError(
                f"an objective needs the figure {name!r} of the training examples, which these data lack; they have "
                f"{', '.join(self._computed)}: choose another objective, or give the source a method `statistics` that returns it "
                "(bmfm.data.sources.Source)"
            )
        return self._computed[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._computed)

    def __len__(self) -> int:
        return len(self._computed)


@dataclass(frozen=True)
class DataSpec:
    """The vocabulary, the parts, columns and statistics of the training data.

    Attributes
    ----------
    vocabulary
        [V], every token in the order of its id.
    plain_ids
        Ids of ordinary tokens, half-open: what a hidden token may be replaced by.
    n_cls, n_bins
        CLS tokens before an example; bins of values, or None where values are no bins.
    check_cls
        Raises a ValueError if there is no such CLS token: ``check_cls(number, objective)``.
    parts
        {train, validation, test: numbers of the examples}; empty where examples have no numbers, as windows of a genome.
    statistics
        Figures of the training part that baselines are made of, {name: [V] or [n_bins]}, computed when first asked for; see the
        source's own documentation for names.
    column
        Values of a column of all examples, object [n]; with ``as_text=True`` as they are written, so that ``01`` is not 1. It
        raises a KeyError, which names the source, where there is no such column.
    column_names
        Of all columns; empty where examples have no labels, or where they are found by name only.
    where
        An example as messages name it: its file and row, or cell.
    token_spans
        Bases that each token of each example stands for, n arrays [L, 2]; None where sources have no labels of bases. It raises a
        ValueError for pairs of sequences.
    is_cut
        [n] bool: examples that lost their end; None where that has no meaning.
    """

    vocabulary: Sequence[str]
    plain_ids: tuple[int, int] = (0, 0)
    n_cls: int = 1
    n_bins: int | None = None
    check_cls: Callable[[int, str], None] = lambda number, who: None
    parts: Mapping[str, np.ndarray] = field(default_factory=dict)
    statistics: Mapping[str, np.ndarray] = field(default_factory=dict)
    column: Callable[..., np.ndarray] | None = None
    column_names: Sequence[str] = ()
    where: Callable[[int], str] = lambda number: f"example {number + 1}"
    token_spans: Callable[[], list[np.ndarray]] | None = None
    is_cut: np.ndarray | None = None

    @property
    def training_examples(self) -> np.ndarray:
        return self.parts["train"]
