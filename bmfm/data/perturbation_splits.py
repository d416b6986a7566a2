"""Which conditions are for training, validation and test: by what was perturbed and in which context, never by single cells.

``data.split.by`` chooses one of `SPLITS`. Every cell of a condition in a context goes to the same part.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
import pandas as pd

from bmfm.cells.conditions import AS_WRITTEN, Condition, targets_of
from bmfm.data.state_splits import split_by_toml
from bmfm.data.stream import PARTS
from bmfm.data.whole_groups import report_left_out, require_whole_groups

Column = Callable[[str], np.ndarray]
Parts = dict[str, str]
"""{condition, or group: its part}; what is in no part is left out."""


def split_conditions(split: Mapping, n: int, column: Column) -> dict[str, np.ndarray]:
    """Numbers of the perturbed cells of each part, sorted.

    Parameters
    ----------
    split
        ``by``, ``seed`` (0), and

        - ``gears_simulation``: genes are held out with all their conditions (GEARS, Roohani et al., Nature Biotechnology 2023), with
          ``train_gene_share`` and ``train_combo_share`` (.75 each; .9 and .9 of what is left for training make validation);
          ``simulation_single`` is the same of single perturbations.
        - ``combo_seen0``, ``combo_seen1``, ``combo_seen2``, ``unseen_single``: combinations of which so many targets were trained, or
          single targets, ``test`` and ``validation`` shares (.1 each). Combinations that fit neither side are left out.
        - ``legacy_rng: true`` repeats the lists of GEARS for all of these, from the file's own spelling of conditions.
        - ``perturbation``: ``test`` and ``validation`` shares of the conditions, drawn; with ``per_context: true`` in each context anew.
        - ``cell_type``: all conditions of the contexts in ``test`` (a name or a list; none is one, by the seed: 0 the first, 1 the
          second, ...), but for the share ``few_shot`` of them; ``validation`` is a share of the other groups, or a list of contexts.
        - ``toml``: ``path`` of a file that State reads, with ``[training]``, ``[zeroshot]`` and ``[fewshot]``; ``dataset`` is the
          column of the names in ``[datasets]``, needed where there are several.
    n
        Perturbed cells.
    column
        Values of a column of all of them [n]: ``condition`` and ``context``, and the file's own.

    Raises
    ------
    ValueError
        For settings that are unknown, names that do not occur, and a test part without any condition.
    """
    by = split["by"]
    if unknown := sorted(map(str, set(split) - KEYS)):
        raise ValueError(f"data.split.{unknown[0]} is unknown; splits by conditions take {', '.join(sorted(KEYS))}")
    conditions, contexts = (np.asarray(column(name), object) for name in ("condition", "context"))
    if by == "toml":
        return split_by_toml(split, conditions, contexts, column)
    if by in GEARS:
        names = _as_gears_writes(column(AS_WRITTEN), conditions) if split.get("legacy_rng") else conditions
        part_of = GEARS[by](split, list(dict.fromkeys(names)))
    else:
        names = conditions
        if by == "cell_type" or split.get("per_context"):
            names = np.array([f"{context}|{condition}" for context, condition in zip(contexts, conditions, strict=True)], object)
        part_of = _by_context(split, names, contexts) if by == "cell_type" else _at_random(split, list(dict.fromkeys(names)))
    parts = pd.Series(names, dtype=object).map(part_of)
    if not (parts == "test").any() and by != "perturbation":
        raise ValueError(
            f"data.split: by={by} leaves no condition for the test, of {len(set(names)):,}; there are too few for these shares"
        )
    report_left_out(parts.isna().to_numpy(), names)
    numbers = {part: np.flatnonzero(parts == part) for part in PARTS}
    require_whole_groups(numbers, np.array([f"{x}|{c}" for x, c in zip(contexts, conditions, strict=True)], object))
    return numbers


def strata_of(asked: Iterable[tuple[Condition, str]], trained: Iterable[tuple[Condition, str]]) -> list[str]:
    """What training has seen of each condition that is asked for.

    A target is seen if any condition of training has it, in whatever context and dose.

    Parameters
    ----------
    asked, trained
        Conditions and their contexts.

    Returns
    -------
    list
        ``seen`` (in this context), ``other_context``, ``other_dose``, ``unseen_single``, ``seen_in_combination`` (a single whose target
        was trained beside others alone), and ``combo_seen0``, ``combo_seen1``, ... by the number of targets that are seen.
    """
    pairs = set(trained)
    conditions = {condition for condition, _ in pairs}
    by_targets = {condition.targets for condition in conditions}
    targets = {target for condition in conditions for target in condition.targets}

    def stratum(condition: Condition, context: str) -> str:
        if (condition, context) in pairs:
            return "seen"
        if condition in conditions:
            return "other_context"
        if condition.targets in by_targets:
            return "other_dose"
        n_seen = sum(target in targets for target in condition.targets)
        if len(condition.targets) == 1:
            return "seen_in_combination" if n_seen else "unseen_single"
        return f"combo_seen{n_seen}"

    return [stratum(condition, context) for condition, context in asked]


# how names are drawn


class _ByName:
    """Draws by a hash of the seed and the name, so that a condition more in the data changes nothing for the others."""

    def __init__(self, seed: int):
        self.seed = seed

    def again(self) -> "_ByName":
        return self

    def choose(self, names: Sequence[str], n: int, purpose: str) -> list[str]:
        return sorted(names, key=lambda name: blake2b(f"{self.seed}|{purpose}|{name}".encode(), digest_size=8).digest())[:n]


class _AsGears:
    """Draws as GEARS does: NumPy's first generator, over sorted names or in the file's order; in its older lists with repetition."""

    def __init__(self, seed: int, replace: bool):
        self.seed, self.replace, self.generator = seed, replace, np.random.RandomState(seed)

    def again(self) -> "_AsGears":
        """The generator from its seed on."""
        return _AsGears(self.seed, self.replace)

    def choose(self, names: Sequence[str], n: int, purpose: str) -> list[str]:
        return [names[i] for i in self.generator.choice(len(names), n, replace=self.replace)] if n else []


def _drawing(split: Mapping, replace: bool = False) -> "_ByName | _AsGears":
    seed = int(split.get("seed") or 0)
    return _AsGears(seed, replace) if split.get("legacy_rng") else _ByName(seed)


# GEARS: data_utils.DataSplitter of snap-stanford/GEARS, read at 0.1.2


def _as_gears_writes(written: np.ndarray, conditions: np.ndarray) -> np.ndarray:
    """Conditions as the file spells them, if that is GEARS's way, ``A+B``, ``A+ctrl``."""
    spelled = pd.Series(written).astype(str).to_numpy(object)
    for text, condition in dict(zip(spelled, conditions, strict=True)).items():
        if tuple(sorted(_gears_targets(text))) != targets_of(condition):
            raise ValueError(
                f"data.split.legacy_rng: {text!r} is not spelled as GEARS does (A+B, A+ctrl), by which its lists are drawn; leave legacy_rng "
                "out for splits by conditions in any spelling"
            )
    return spelled


def _gears_targets(name: str) -> tuple[str, ...]:
    """Targets of a condition in GEARS's spelling or in ours."""
    return tuple(t for t in targets_of(name) if t != "ctrl")


def _share(split: Mapping, key: str, default: float) -> float:
    given = split.get(key)
    share = default if given is None else float(given)
    if not 0 <= share <= 1:
        raise ValueError(f"data.split.{key}={share:g} is no share; give one from 0 to 1")
    return share


def _simulation(split: Mapping, names: Sequence[str]) -> Parts:
    drawing = _drawing(split)
    shares = _share(split, "train_gene_share", 0.75), _share(split, "train_combo_share", 0.75)
    trained = _without_held_out_genes(names, *shares, drawing, "test")
    fitted = _without_held_out_genes(trained, 0.9, 0.9, drawing, "validation")
    return _three_parts(names, trained, fitted)


def _three_parts(names: Sequence[str], trained: Collection[str], fitted: Collection[str]) -> Parts:
    return {name: "train" if name in fitted else "validation" if name in trained else "test" for name in names}


def _without_held_out_genes(names: Iterable[str], gene_share: float, combo_share: float, drawing: Any, purpose: str) -> set[str]:
    """Conditions that stay in training: singles of the genes drawn, and some of the combinations of them."""
    targets = {name: set(_gears_targets(name)) for name in names}
    genes = sorted(set().union(*targets.values()))
    trained_genes = set(drawing.again().choose(genes, int(len(genes) * gene_share), f"genes of {purpose}"))
    of_trained = sorted(name for name, own in targets.items() if own <= trained_genes)
    combos = [name for name in of_trained if len(targets[name]) > 1]
    trained_combos = drawing.again().choose(combos, int(len(combos) * combo_share), f"combinations of {purpose}")
    return {name for name in of_trained if len(targets[name]) == 1} | set(trained_combos)


def _simulation_single(split: Mapping, names: Sequence[str]) -> Parts:
    if combos := [name for name in names if len(_gears_targets(name)) > 1]:
        raise ValueError(
            f"data.split.by=simulation_single: {len(combos):,} conditions have several targets (first: {combos[0]!r}); choose gears_simulation, "
            "or leave them out (data.source.keep)"
        )
    return _simulation(split, names)


def _holding_out(kind: str) -> Callable[[Mapping, Sequence[str]], Parts]:
    """The splits ``combo_seen0`` to ``combo_seen2`` and ``unseen_single``."""

    def split_names(split: Mapping, names: Sequence[str]) -> Parts:
        drawing = _drawing(split, replace=True)
        is_legacy = isinstance(drawing, _AsGears)
        part_of: Parts = {}
        rest = list(names)
        for part in ("test", "validation"):
            held_out, left_out = _held_out(kind, rest, _share(split, part, 0.1), drawing, part, is_legacy)
            part_of |= dict.fromkeys(held_out, part)
            rest = [name for name in rest if name not in held_out and name not in left_out]
        return part_of | dict.fromkeys(rest, "train")

    return split_names


def _held_out(kind: str, names: Sequence[str], share: float, drawing: Any, part: str, is_legacy: bool) -> tuple[set[str], set[str]]:
    """Conditions that are asked for, and those that would be neither trained nor asked for."""
    targets = {name: set(_gears_targets(name)) for name in names}
    singles = [name for name in names if len(targets[name]) == 1]
    combos = [name for name in names if len(targets[name]) > 1]
    genes = sorted(set().union(*targets.values()))
    drawn = set(drawing.choose(genes, int(len(singles) * share), f"genes of {part}"))
    if kind == "combo_seen2":
        trained = set().union(*(targets[name] for name in singles))
        candidates = combos if is_legacy else [name for name in combos if targets[name] <= trained]
        return set(drawing.choose(candidates, int(len(combos) * share), f"combinations of {part}")), set()
    of_drawn = {name for name in combos if targets[name] & drawn}
    all_drawn = {name for name in of_drawn if targets[name] <= drawn}
    asked = {"unseen_single": set(), "combo_seen0": all_drawn, "combo_seen1": of_drawn if is_legacy else of_drawn - all_drawn}[kind]
    return {name for name in singles if targets[name] <= drawn} | asked, of_drawn - asked


# by context, at random


def _number(share: float, n: int) -> int:
    """How many of n a share is: one at least, where it is above 0."""
    return max(round(share * n), int(share > 0))


def _at_random(split: Mapping, names: Sequence[str]) -> Parts:
    drawing = _ByName(int(split.get("seed") or 0))
    order = drawing.choose(names, len(names), "conditions")
    n_validation, n_test = (_number(_share(split, part, 0.0), len(names)) for part in ("validation", "test"))
    if n_validation + n_test >= len(names):
        raise ValueError(f"data.split: of {len(names):,} conditions these shares leave none for training")
    return dict(zip(order, ["test"] * n_test + ["validation"] * n_validation + ["train"] * len(names), strict=False))


def _by_context(split: Mapping, groups: np.ndarray, contexts: np.ndarray) -> Parts:
    drawing = _ByName(int(split.get("seed") or 0))
    present = sorted(set(contexts))
    if len(present) < 2:
        raise ValueError(f"data.split.by=cell_type needs two contexts, there is {present}; say what they are (data.source.context)")
    test = split.get("test")
    if isinstance(test, int | float) and not isinstance(test, bool) and not 0 < test < 1:
        raise ValueError(f"data.split.test={test}: of contexts give names, as ['{test}'], or null for the one that the seed says")
    fold = present[int(split.get("seed") or 0) % len(present)]
    held_out = {"test": [fold] if test is None or isinstance(test, int | float) else _names(test)}
    validation = split.get("validation")
    held_out["validation"] = [] if validation is None or isinstance(validation, int | float) else _names(validation)
    for part, wanted in held_out.items():
        if absent := sorted(set(wanted) - set(present)):
            raise ValueError(f"data.split.{part}: there is no context {absent[0]!r}; there are {', '.join(present[:20])}")
    if set(held_out["test"]) & set(held_out["validation"]) or len({*held_out["test"], *held_out["validation"]}) == len(present):
        raise ValueError(f"data.split: test and validation hold {held_out}; they must differ, and leave a context for training")
    context_of = dict(zip(groups, contexts, strict=True))
    part_of: Parts = dict.fromkeys(context_of, "train")
    for part, wanted in held_out.items():
        for context in wanted:
            of_context = [g for g, c in context_of.items() if c == context]
            shown = set(drawing.choose(of_context, round(_share(split, "few_shot", 0.0) * len(of_context)), "few-shot"))
            part_of |= {g: part for g in of_context if g not in shown}
    if isinstance(validation, int | float):
        rest = [g for g, part in part_of.items() if part == "train"]
        part_of |= dict.fromkeys(drawing.choose(rest, _number(_share(split, "validation", 0.0), len(rest)), "validation"), "validation")
    return part_of


def _names(given: Any) -> list[str]:
    return [given] if isinstance(given, str) else [str(name) for name in given]


GEARS: dict[str, Callable[[Mapping, Sequence[str]], Parts]] = {
    "gears_simulation": _simulation,
    "simulation_single": _simulation_single,
    **{kind: _holding_out(kind) for kind in ("combo_seen0", "combo_seen1", "combo_seen2", "unseen_single")},
}
SPLITS = (*GEARS, "perturbation", "cell_type", "toml")
"""Values of ``data.split.by`` that hold out conditions or contexts."""
KEYS = frozenset(
    {
        "by",
        "seed",
        "test",
        "validation",
        "column",
        "train_gene_share",
        "train_combo_share",
        "legacy_rng",
        "per_context",
        "few_shot",
        "path",
        "dataset",
    }
)
