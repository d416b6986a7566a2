"""What was done to a cell: target genes or drugs with their doses, in the many ways in which data sets spell it."""

import ast
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import pandas as pd

CONTROL_WORDS = frozenset(
    {"control", "ctrl", "non-targeting", "non_targeting", "nontargeting", "nt", "ntc", "unperturbed", "dmso", "dmso_tf", "vehicle"}
)
"""What control cells are called where the data do not say otherwise, in small letters."""
MICROMOLAR = {"pM": 1e6, "nM": 1e3, "uM": 1.0, "mM": 1e-3, "M": 1e-6}
"""How many of a unit make one micromolar."""
AS_WRITTEN = "condition_as_written"
"""Name of the column of conditions as a file spells them, beside ``condition``, which has them in one spelling."""
SEPARATORS = "+|;"
"""Between several targets; ``_`` and ``-`` also occur in names, and separate where the names that are known leave no other reading."""
DOSE = re.compile(
    r"^(?P<name>.+?)(?:\s*@\s*(?P<at>[\d.]+(?:[eE][+-]?\d+)?)\s*(?P<unit>[^\s\d@][^\s@]*)?"
    r"|[_ ](?P<after>[\d.]+(?:[eE][+-]?\d+)?)\s*(?P<molar>[pnuµμm]M|[pnuµμm]g/m[lL]|M))$"
)
"""``Drug@10uM``, ``Drug@10``, ``Drug_10uM``, ``Drug 10 uM``."""


@dataclass(frozen=True, order=True)
class Condition:
    """A perturbation, or none.

    Attributes
    ----------
    targets
        Genes or drugs, sorted; empty for a control.
    doses
        As long as `targets`, in `unit`; None where there is none.
    unit
        Of the doses, as ``uM``; empty without.
    """

    targets: tuple[str, ...] = ()
    doses: tuple[float | None, ...] = ()
    unit: str = ""

    @property
    def is_control(self) -> bool:
        return not self.targets

    def __str__(self) -> str:
        """The one spelling of a condition: ``control``, ``A+B``, ``Drug@10uM``; `parse_conditions` reads it again."""
        if self.is_control:
            return "control"
        doses = self.doses or (None,) * len(self.targets)
        return "+".join(t if d is None else f"{t}@{d:.12g}{self.unit}" for t, d in zip(self.targets, doses, strict=True))


def parse_conditions(
    texts: Iterable[Any],
    controls: Collection[str] | None = None,
    known_targets: Collection[str] | None = None,
    doses: Iterable[Any] | None = None,
    unit: str = "",
    column: str = "conditions",
    *,
    separator: str | None = None,
    guide_suffix: str | None = None,
) -> list[Condition]:
    """Conditions as data sets spell them, each distinct text read once.

    Read are ``A+B``, ``A+ctrl``, ``ctrl`` (GEARS); ``A_B``, ``control`` and drugs with a column of doses (scPerturb); ``A``,
    ``non-targeting`` (Virtual Cell Challenge); ``[('Drug', 0.05, 'uM')]`` (State, Tahoe); ``A|B``, ``A;B``, ``Drug_10uM`` and
    ``Drug@10uM``. What stands in brackets is not taken apart, so that ``(+)-JQ1`` is one drug.

    Parameters
    ----------
    texts
        [n], one a cell.
    controls
        What control cells are called; None is `CONTROL_WORDS`, in small or capital letters. Beside a target, as in ``A+ctrl``, these
        words mean nothing in any case.
    known_targets
        Names of genes or drugs, by which names with ``_`` or ``-`` are told from several targets. Names that stand alone in `texts` are
        not among them.
    doses
        [n], a number of each cell, or as many with ``+`` between them as the cell has targets; missing values are no dose.
    unit
        Of `doses`, and of doses in `texts` that have none.
    column
        The file and column that the texts are from, for messages.
    separator
        What stands between targets; None is any of `SEPARATORS`, and ``_`` between names that are all known.
    guide_suffix
        A regular expression of what follows the target in names of guides, as ``_g[0-9]+``; it is removed at the end of each target.

    Returns
    -------
    list
        [n]. Molar doses are given in uM, so that 100 nM and 0.1 uM are one condition.

    Raises
    ------
    ValueError
        Of an empty text, a target named twice, a text that can be read in two ways, a mistaken dose, and drugs without dose where other
        cells have doses; names `column`, the text and its first cell.
    """
    text_codes, distinct_texts = pd.factorize(np.asarray(list(texts), object), use_na_sentinel=False)
    given = [None] * len(text_codes) if doses is None else list(doses)
    if len(given) != len(text_codes):
        raise ValueError(f"{column}: there are {len(text_codes):,} cells, and there are {len(given):,} doses")
    dose_codes, distinct_doses = pd.factorize(np.asarray(given, object), use_na_sentinel=False)
    pairs, first, codes = np.unique(text_codes * len(distinct_doses) + dose_codes, return_index=True, return_inverse=True)
    reader = _Reader(controls, known_targets, unit, separator, guide_suffix, column)
    parsed: list[Condition] = [Condition()] * len(pairs)
    for pair in np.argsort(first):
        text, dose = (
            _as_text(v[i]) for v, i in zip((distinct_texts, distinct_doses), divmod(pairs[pair], len(distinct_doses)), strict=True)
        )
        parsed[pair] = reader.read(text, dose, int(first[pair]))
    _require_doses(parsed, frozenset(known_targets or ()), column)
    return [parsed[code] for code in codes.tolist()]


def targets_of(condition: str) -> tuple[str, ...]:
    """Targets of a condition in the spelling of ``str(Condition)``, without doses."""
    pieces = _split_outside_brackets(condition, "+")
    return () if condition == "control" else tuple(p.rpartition("@")[0] or p for p in pieces)


def _as_text(value: Any) -> str:
    return "" if value is None or value is pd.NA or value != value else str(value).strip()


def _require_doses(conditions: Sequence[Condition], known: frozenset[str], column: str) -> None:
    """Refuse drugs without dose beside others with one; targets that are known are genes, which have none."""
    if not any(d is not None for c in conditions for d in c.doses):
        return
    without = sorted({t for c in conditions for t, d in zip(c.targets, c.doses, strict=True) if d is None and t not in known})
    if without:
        raise ValueError(
            f"{column}: {', '.join(map(repr, without[:5]))}{' and others' if len(without) > 5 else ''} ({len(without)} in all) have no "
            "dose, while other cells have one: complete the column of doses, or write the dose behind the name, as Drug@10uM"
        )


class _Reader:
    """How one data set spells conditions."""

    def __init__(
        self,
        controls: Collection[str] | None,
        known_targets: Collection[str] | None,
        unit: str,
        separator: str | None,
        guide_suffix: str | None,
        column: str,
    ):
        self.controls = frozenset(map(str, [controls] if isinstance(controls, str) else controls or ()))
        self.known, self.unit, self.separator, self.column = frozenset(known_targets or ()), unit, separator, column
        self.suffix = re.compile(f"(?:{guide_suffix})$") if guide_suffix else None
        self.text, self.cell = "", 0

    def read(self, text: str, dose: str, cell: int) -> Condition:
        self.text, self.cell = text, cell
        if text.lower() in ("", "nan", "none", "<na>"):
            self._fail("is empty; name controls, as 'control', or leave such cells out")
        if self._is_control(text):
            if self.controls and text not in self.controls:
                self._fail(
                    f"is a word for controls, which are {', '.join(sorted(map(repr, self.controls)))} here; add it to them, or leave these cells out"
                )
            return Condition()
        entries = self._listed() if text.startswith("[(") else [self._with_dose(p) for p in self._pieces(text, bool(dose))]
        entries = [e for e in entries if not self._is_control(e[0])]
        if not entries:
            return Condition()
        if dose:
            entries = self._add_doses(entries, dose)
        if repeated := [t for t, n in Counter(e[0] for e in entries).items() if n > 1]:
            self._fail(f"names {repeated[0]!r} twice; write it once")
        if len(units := {u for _, d, u in entries if d is not None}) > 1:
            self._fail(f"has doses in {' and '.join(sorted(map(repr, units)))}, which cannot be compared; convert one")
        entries.sort()
        return Condition(tuple(e[0] for e in entries), tuple(e[1] for e in entries), next(iter(units), ""))

    def _fail(self, fault: str) -> NoReturn:
        raise ValueError(f"{self.column}: {self.text!r} (cell {self.cell + 1} of those read) {fault}")

    def _is_control(self, name: str) -> bool:
        return name in self.controls or (name.lower() in CONTROL_WORDS and name not in self.known)

    def _listed(self) -> list[tuple[str, float | None, str]]:
        """``[('Drug', 0.05, 'uM'), ...]``."""
        try:
            listed = [(str(name).strip(), dose, unit) for name, dose, unit in ast.literal_eval(self.text)]
        except (ValueError, SyntaxError, TypeError):
            self._fail("is no list of (drug, dose, unit), as [('Drug', 0.05, 'uM')]")
        return [(name, None, "") if self._is_control(name) else (name, *self._dose(dose, str(unit))) for name, dose, unit in listed]

    def _add_doses(self, entries: list[tuple[str, float | None, str]], dose: str) -> list[tuple[str, float | None, str]]:
        values = re.split(r"\s*[+;|]\s*", dose)
        if len(values) != len(entries):
            self._fail(f"has {len(entries)} targets and the dose {dose!r}; write as many, as 1+10")
        if any(e[1] is not None for e in entries):
            self._fail(f"names a dose, and the column of doses another ({dose!r}); leave one out")
        return [(name, *self._dose(value, self.unit)) for (name, _, _), value in zip(entries, values, strict=True)]

    def _dose(self, value: Any, unit: str) -> tuple[float, str]:
        """A dose, in uM if it is molar."""
        try:
            number = float(value)
        except (TypeError, ValueError):
            self._fail(f"has the dose {value!r}, which is no number")
        if not np.isfinite(number) or number <= 0:
            self._fail(f"has the dose {number:g}; doses are above 0: call cells that got nothing 'control'")
        unit = unit.strip().replace("µ", "u").replace("μ", "u")
        return (float(f"{number / MICROMOLAR[unit]:.12g}"), "uM") if unit in MICROMOLAR else (number, unit)

    def _with_dose(self, piece: str) -> tuple[str, float | None, str]:
        if piece not in self.known and (match := DOSE.match(piece)):
            value, unit = (match["at"], match["unit"] or self.unit) if match["at"] else (match["after"], match["molar"])
            return (match["name"].strip(), *self._dose(value, unit))
        if "@" in piece.rstrip("@") and piece not in self.known:
            self._fail(f"has no dose that can be read in {piece!r}; write it as Drug@10uM")
        return piece, None, ""

    def _is_known(self, name: str) -> bool:
        return name in self.known or self._is_control(name)

    def _pieces(self, text: str, is_drug: bool) -> Iterator[str]:
        """Each target with its dose, where the text has one."""
        if self._is_known(text):
            yield text
            return
        for piece in _split_outside_brackets(text, self.separator or SEPARATORS):
            name = self.suffix.sub("", piece.strip()) if self.suffix else piece.strip()
            if not name:
                self._fail("has an empty target; remove the separator")
            if self.separator is None and not self._is_known(name) and not is_drug and not DOSE.match(name):
                yield from self._in_known_names(name)
            else:
                yield name

    def _in_known_names(self, name: str) -> list[str]:
        """A name with ``_`` or ``-`` as one target, or as several."""
        for mark in "_-":
            readings = _partitions(name.split(mark), mark, self._is_known) if mark in name else []
            if len(readings) == 1 and mark == "_":
                return readings[0]
            if readings or (mark == "_" and mark in name):
                several = " or ".join("+".join(r) for r in readings) or f"several with {mark!r} between them"
                self._fail(
                    f"can be one target or {several}: {'not all of these names are known; ' if not readings else ''}say which by "
                    f"separator={'+' if readings else mark!r}, write '+' between targets, or name the suffix of guides (guide_suffix)"
                )
        return [name]


def _split_outside_brackets(text: str, separators: str) -> list[str]:
    pieces, depth = [""], 0
    for i, letter in enumerate(text):
        depth = max(0, depth + (letter in "([{") - (letter in ")]}"))
        is_exponent = letter == "+" and re.search(r"\d[eE]$", text[:i]) and text[i + 1 : i + 2].isdigit()
        if letter in separators and not depth and not is_exponent:
            pieces.append("")
        else:
            pieces[-1] += letter
    return pieces


def _partitions(parts: list[str], mark: str, is_known: Any) -> list[list[str]]:
    """All ways to join neighbours so that every name is known."""
    if not parts:
        return [[]]
    heads = ((mark.join(parts[:i]), parts[i:]) for i in range(1, len(parts) + 1))
    return [[head, *rest] for head, tail in heads if is_known(head) for rest in _partitions(tail, mark, is_known)]
