"""Which intervals of the genome are read, in which length and on which strand: a function of (seed, epoch, index)."""

from dataclasses import dataclass, field
from typing import NamedTuple

import numba
import numpy as np

from bmfm.hashing import example_keys, mix, uniform


@dataclass(frozen=True)
class Windows:
    """A batch of windows. Positions index `Reference.codes`.

    Attributes
    ----------
    start, end : int64 [B]
    reverse : bool [B]
        Read on the reverse strand.
    key : uint64 [B]
        All further randomness of the window (alleles, masks) comes from this key.
    """

    start: np.ndarray
    end: np.ndarray
    reverse: np.ndarray
    key: np.ndarray

    def __len__(self) -> int:
        return len(self.start)

    def layout(self, offsets: np.ndarray) -> "WindowLayout":
        """The same windows for a kernel that writes window b to ``offsets[b]`` and on."""
        return WindowLayout(self.start, self.end, self.reverse, self.key, offsets)


class WindowLayout(NamedTuple):
    """Windows as the kernels take them: the columns of `Windows`, and where in the output each of them is written.

    Attributes
    ----------
    start, end, reverse, key
        As in `Windows`.
    offsets : int64 [B + 1]
        Window b is written to ``out[offsets[b]:offsets[b + 1]]``.
    """

    start: np.ndarray
    end: np.ndarray
    reverse: np.ndarray
    key: np.ndarray
    offsets: np.ndarray


STRANDS = ("forward", "random", "both")


@dataclass(frozen=True)
class WindowSampler:
    """Windows of an interval set, in a fixed tiling or at random.

    Attributes
    ----------
    intervals
        Interval set [I, 2] that windows lie inside (see `regions`).
    min_length, max_length, multiple
        A window's bases: min_length plus a random multiple of `multiple`, up to max_length.
    stride
        Distance of window starts in a tiling (min_length must equal max_length); None draws starts at random.
    coverage
        Random windows an epoch, as multiples of the bases of the interval set.
    strand
        ``forward``; ``random``, each window on either strand; ``both``, every window once on each.
    seed
        Every draw depends on it.
    usable : int64 [U, 2]
        The intervals that hold a window of min_length.
    cumulative : int64 [U + 1]
        Places where a window may start, summed over the usable intervals.
    n_windows
        Windows an epoch.
    too_short
        Number and bases of the intervals that hold none.
    """

    intervals: np.ndarray
    min_length: int
    max_length: int
    multiple: int = 1
    stride: int | None = None
    coverage: float = 1.0
    strand: str = "random"
    seed: int = 0
    usable: np.ndarray = field(init=False)
    cumulative: np.ndarray = field(init=False)
    n_windows: int = field(init=False)
    too_short: tuple[int, int] = field(init=False)

    def __post_init__(self) -> None:
        if not 0 < self.min_length <= self.max_length or self.multiple < 1:
            raise ValueError(f"window lengths {self.min_length} to {self.max_length} by {self.multiple} are impossible")
        if self.strand not in STRANDS:
            raise ValueError(f"strand {self.strand!r} is unknown; choose from {', '.join(STRANDS)}")
        if self.stride is not None and (self.min_length != self.max_length or self.stride < 1):
            raise ValueError("windows with a stride need min_length equal to max_length, and a stride of 1 or more")
        sizes = self.intervals[:, 1] - self.intervals[:, 0]
        usable = self.intervals[sizes >= self.min_length]
        if not len(usable):
            raise ValueError(
                f"no interval holds a window of {self.min_length} bases (the longest has {sizes.max(initial=0)}); "
                "shorten the windows, or widen the blocks or regions"
            )
        object.__setattr__(self, "too_short", (int(len(sizes) - len(usable)), int(sizes.sum() - (usable[:, 1] - usable[:, 0]).sum())))
        room = usable[:, 1] - usable[:, 0] - self.min_length + 1
        per_interval = room if self.stride is None else (room - 1) // self.stride + 1
        object.__setattr__(self, "usable", usable)
        object.__setattr__(self, "cumulative", np.concatenate([[0], np.cumsum(per_interval)]))
        if self.stride is not None:
            n = int(self.cumulative[-1])
        else:
            mean = (self.min_length + self.max_length) / 2
            n = max(1, round(self.coverage * float((usable[:, 1] - usable[:, 0]).sum()) / mean))
        object.__setattr__(self, "n_windows", n * (2 if self.strand == "both" else 1))

    def __len__(self) -> int:
        return self.n_windows

    def draw(self, epoch: int | np.ndarray, indices: np.ndarray) -> Windows:
        """The windows of these indices [B] in this epoch, or in these epochs [B]."""
        indices = np.asarray(indices, np.int64)
        keys = example_keys(self.seed, epoch, indices)
        place = indices // 2 if self.strand == "both" else indices
        if self.stride is not None:
            holder = np.searchsorted(self.cumulative, place, "right") - 1
            start = self.usable[holder, 0] + (place - self.cumulative[holder]) * self.stride
            end = start + self.min_length
        else:
            place_keys = keys if self.strand != "both" else example_keys(self.seed, epoch, place)
            start, end = _draw(place_keys, self.usable, self.cumulative, self.min_length, self.max_length, self.multiple)
        reverse = {
            "forward": lambda: np.zeros(len(indices), bool),
            "random": lambda: (keys >> np.uint64(63)).astype(bool),
            "both": lambda: indices % 2 == 1,
        }[self.strand]()
        return Windows(start, end, reverse, keys)


@numba.njit(cache=True)
def _draw(keys, usable, cumulative, min_length, max_length, multiple):
    start = np.empty(len(keys), np.int64)
    end = np.empty(len(keys), np.int64)
    choices = (max_length - min_length) // multiple + 1
    for i in range(len(keys)):
        place = np.int64(uniform(mix(keys[i], 1), 0) * cumulative[-1])
        holder = np.searchsorted(cumulative, place, "right") - 1
        start[i] = usable[holder, 0] + place - cumulative[holder]
        extra = np.int64(uniform(mix(keys[i], 2), 0) * choices)
        room = (usable[holder, 1] - start[i] - min_length) // multiple  # a window at an interval's end is shorter
        end[i] = start[i] + min_length + min(extra, room) * multiple
    return start, end
