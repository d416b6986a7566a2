"""How a task is scored: one module a protocol, found by its name in a card.

A protocol has ``needs`` (``predict`` or ``embed``: what an entrant must have) and
``run(card, examples, entrant, seed, folder, n_bootstrap)`` -> `Outcome`.
"""

import importlib
import pkgutil
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Outcome:
    """Figures of one entrant on one task with one seed.

    Parameters
    ----------
    metrics, intervals
        {name: figure}, {name: (low, high)}.
    duration
        Seconds that the entrant itself took: training, forward passes, fits.
    counts
        What was left out of the figures, in words.
    arrays
        What the figures were computed from, {name: array}, kept beside the record.
    umap
        ``{x, y, label, batch}`` for a picture, or None.
    """

    metrics: dict[str, float]
    duration: float
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    arrays: dict[str, Any] = field(default_factory=dict)
    umap: dict | None = None


def protocol_names() -> list[str]:
    """All protocols there are."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__))


def protocol(name: str) -> Any:
    """The module of a protocol."""
    return importlib.import_module(f"{__name__}.{name}")
