"""Splits of perturbed cells: GEARS's own lists, State's files, and what no split may do."""

import warnings

import numpy as np
import pytest

from bmfm.cells.conditions import Condition
from bmfm.data.perturbation_splits import strata_of
from bmfm.data.splits import split_examples
from bmfm.data.whole_groups import require_whole_groups

TWELVE = ["KLF1+ctrl", "ctrl+SET", "MAPK1+ctrl", "TGFBR2+ctrl", "SGK1+ctrl", "ctrl+TBX3", "SET+KLF1", "MAPK1+TGFBR2", "SGK1+TBX3", "KLF1+TGFBR2",
          "KLF1+MAPK1", "SET+SGK1"]  # fmt: skip
GENES = [f"G{i:02d}" for i in range(24)]
SINGLES = [f"{g}+ctrl" if i % 3 else f"ctrl+{g}" for i, g in enumerate(GENES)]
COMBOS = [f"{GENES[(7 * i + 3) % 24]}+{GENES[(5 * i + 4 + i // 24) % 24]}" for i in range(22)]
MANY = list(dict.fromkeys(c for pair in zip(SINGLES, COMBOS + SINGLES, strict=False) for c in pair))
# What `gears.data_utils.DataSplitter` of cell-gears 0.1.2 (PyPI) gives of these lists: (test, validation).
OF_GEARS = {
    ("gears_simulation", 1): ("G05+G02 G05+ctrl G06+G13 G08+G11 G08+ctrl G09+G22 G10+G09 G11+G20 G11+ctrl G12+G07 G14+G05 G16+G03 G17+G14 "
                              "G19+G12 G22+G21 G22+ctrl G23+G08 ctrl+G09 ctrl+G12", "G01+G06 G15+G16 G16+ctrl G18+G01 ctrl+G06"),
    ("gears_simulation", 7): ("G00+G19 G03+G04 G04+G15 G04+ctrl G07+G00 G07+ctrl G08+G11 G10+G09 G12+G07 G14+G05 G14+ctrl G15+G16 G16+G03 "
                              "G17+G14 G19+G12 G19+ctrl G21+G10 ctrl+G03 ctrl+G15", "G01+G06 G06+G13 G18+G01 G22+G21 ctrl+G06 ctrl+G21"),
    ("combo_seen0", 1): ("G05+ctrl G11+ctrl", "G14+ctrl ctrl+G09"),
    ("combo_seen0", 7): ("G04+G15 G04+ctrl ctrl+G15", "ctrl+G03 ctrl+G21"),
    ("combo_seen1", 1): ("G05+G02 G05+ctrl G08+G11 G11+G20 G11+ctrl G14+G05", "G09+G22 G10+G09 G14+ctrl G17+G14 ctrl+G09"),
    ("combo_seen1", 7): ("G03+G04 G04+G15 G04+ctrl G15+G16 ctrl+G15", "G16+G03 G21+G10 G22+G21 ctrl+G03 ctrl+G21"),
    ("combo_seen2", 1): ("G11+G20 G15+G16", "G02+G17 G14+G05"),
    ("combo_seen2", 7): ("G00+G19 G16+G03", "G12+G07 G18+G01"),
    ("unseen_single", 1): ("G05+ctrl G11+ctrl", "G14+ctrl ctrl+G09"),
    ("unseen_single", 7): ("G04+ctrl ctrl+G15", "ctrl+G03 ctrl+G21"),
}  # fmt: skip


def canonical(name):
    return "+".join(sorted(t for t in name.split("+") if t != "ctrl"))


def split(settings, written, contexts=None):
    """{part: names as written} of one cell a name, and three more of each further on."""
    names = np.array([*written, *np.repeat(written, 3)], object)
    places = np.array([*(contexts or ["k562"] * len(written)), *np.repeat(contexts or ["k562"] * len(written), 3)], object)
    columns = {"condition_as_written": names, "condition": np.array([canonical(n) for n in names], object), "context": places}
    columns["group"] = np.array([f"{x}|{c}" for x, c in zip(places, columns["condition"], strict=True)], object)
    with warnings.catch_warnings(action="ignore"):
        parts = split_examples(settings, len(names), columns.__getitem__)
    require_whole_groups(parts, columns["group"])
    assert sum(map(len, parts.values())) == len(np.unique(np.concatenate(list(parts.values()))))
    return {part: {(n, x) if contexts else n for n, x in zip(names[i], places[i], strict=True)} for part, i in parts.items()}


@pytest.mark.parametrize(("by", "seed"), OF_GEARS)
def test_the_lists_of_gears(by, seed):
    parts = split({"by": by, "seed": seed, "legacy_rng": True}, MANY)
    assert (" ".join(sorted(parts["test"])), " ".join(sorted(parts["validation"]))) == OF_GEARS[by, seed]


def test_simulation_of_twelve_conditions_as_gears_has_it():
    parts = split({"by": "gears_simulation", "seed": 1, "legacy_rng": True}, TWELVE)
    assert parts["train"] == {"KLF1+ctrl", "ctrl+SET", "ctrl+TBX3"}
    assert parts["validation"] == {"MAPK1+ctrl", "KLF1+MAPK1"}
    asked = [(Condition(tuple(sorted(n.replace("ctrl", "").strip("+").split("+")))), "x") for n in sorted(parts["test"])]
    trained = [(Condition((t,)), "x") for t in ("KLF1", "SET", "TBX3", "MAPK1")]
    strata = dict(zip(sorted(parts["test"]), strata_of(asked, trained), strict=True))
    assert strata == {
        "MAPK1+TGFBR2": "combo_seen1", "SGK1+TBX3": "combo_seen1", "KLF1+TGFBR2": "combo_seen1", "SET+SGK1": "combo_seen1",
        "SET+KLF1": "combo_seen2", "TGFBR2+ctrl": "unseen_single", "SGK1+ctrl": "unseen_single",
    }  # fmt: skip
    single = split({"by": "simulation_single", "seed": 1, "legacy_rng": True}, TWELVE[:6])
    assert (single["test"], single["validation"]) == ({"TGFBR2+ctrl", "SGK1+ctrl"}, {"MAPK1+ctrl"})


@pytest.mark.parametrize("seed", range(5))
def test_simulation_holds_out_genes_with_all_their_conditions(seed):
    parts = split({"by": "gears_simulation", "seed": seed}, MANY)
    targets = {part: {t for n in names for t in canonical(n).split("+")} for part, names in parts.items()}
    singles = {part: {canonical(n) for n in names if "ctrl" in n} for part, names in parts.items()}
    assert sum(map(len, parts.values())) == len(MANY) and len(singles["test"]) == 24 - 18
    assert not targets["train"] & (singles["test"] | singles["validation"]) and not targets["validation"] & singles["test"]
    assert split({"by": "gears_simulation", "seed": seed}, MANY[::-1]) == parts  # the order of the file changes nothing
    assert split({"by": "gears_simulation", "seed": seed + 1}, MANY) != parts


@pytest.mark.parametrize(("by", "n_seen"), [("combo_seen0", 0), ("combo_seen1", 1), ("combo_seen2", 2)])
def test_combinations_have_so_many_targets_that_training_has_seen(by, n_seen):
    n_asked = 0
    for seed in range(8):
        parts = split({"by": by, "seed": seed, "test": 0.3}, MANY)
        trained = {t for n in parts["train"] for t in canonical(n).split("+")}
        held_out = [n for n in parts["test"] if "ctrl" not in n]
        n_asked += len(held_out)
        assert all(len(set(n.split("+")) & trained) <= n_seen for n in held_out)
        if by == "combo_seen2":
            assert all(set(n.split("+")) <= trained for n in held_out)
    assert n_asked


def test_contexts_and_conditions():
    names, places = ["A", "B", "C", "A", "B", "C", "A"], ["x", "x", "x", "y", "y", "y", "z"]
    parts = split({"by": "cell_type", "test": "y"}, names, places)
    assert parts["test"] == {("A", "y"), ("B", "y"), ("C", "y")} and len(parts["train"]) == 4
    parts = split({"by": "cell_type", "test": "y", "few_shot": 0.34, "validation": ["z"]}, names, places)
    assert len(parts["test"]) == 2 and parts["validation"] == {("A", "z")} and len(parts["train"]) == 4
    assert [next(iter(split({"by": "cell_type", "seed": s}, names, places)["test"]))[1] for s in range(4)] == ["x", "y", "z", "x"]
    parts = split({"by": "perturbation", "test": 0.33}, names, places)
    assert len({n for n, _ in parts["test"]}) == 1 and not {n for n, _ in parts["test"]} & {n for n, _ in parts["train"]}
    parts = split({"by": "perturbation", "test": 3 / 7, "per_context": True, "seed": 1}, names, places)
    assert len(parts["test"]) == 3


TOML = """
[datasets]
d = "/data/d"
[training]
d = "train"
[zeroshot]
"d.z" = "val"
[fewshot."d.y"]
val = ["B"]
test = ["B", "C+A"]
"""


def test_files_of_state(tmp_path):
    file = tmp_path / "split.toml"
    names, places = ["A", "B", "A+C", "A", "B", "A+C", "A"], ["x", "x", "x", "y", "y", "y", "z"]
    columns = {"condition": np.array(names, object), "context": np.array(places, object)}

    def parts(text):
        file.write_text(text)
        return split_examples({"by": "toml", "path": str(file)}, 7, columns.__getitem__)

    with pytest.warns(UserWarning, match=r"1 conditions are for validation and test \(B\)"):
        found = parts(TOML)
    assert {part: numbers.tolist() for part, numbers in found.items()} == {"train": [0, 1, 2, 3], "validation": [4, 6], "test": [4, 5]}
    for old, new, message in [
        ('"d.z"', '"d.w"', "'d.w' names a context without perturbed cells; d has x, y, z"),
        ('"C+A"', '"Q"', r"\[fewshot\] d.y: 1 conditions have no cell in this context: Q"),
        ('"val"', '"valid"', "'valid' is no part; choose train, val, test"),
        ('"d.z"', '"e.z"', "begins with no data set of the file"),
        ('d = "/data/d"', 'd = "/data/d"\ne = "/data/e"', r"names d, e: say which column holds these names"),
    ]:
        with pytest.raises(ValueError, match=message):
            parts(TOML.replace(old, new))


def test_what_no_split_may_do():
    groups = np.array(["x|A", "x|A", "x|B"], object)
    with pytest.raises(ValueError, match=r"1 conditions have cells in train and in test \(first: 'x\|A'\)"):
        require_whole_groups({"train": np.array([0, 2]), "test": np.array([1])}, groups)
    require_whole_groups({"train": np.array([2]), "validation": np.array([0, 1]), "test": np.array([0, 1])}, groups)
    with pytest.raises(ValueError, match="validation and in test"):
        require_whole_groups({"train": np.array([2]), "validation": np.array([0]), "test": np.array([0, 1])}, groups)
    with pytest.raises(ValueError, match="leaves no condition for the test, of 2"):
        split({"by": "unseen_single"}, ["A", "B"])
    with pytest.raises(ValueError, match="'A_B' is not spelled as GEARS does"):
        columns = {
            "condition": np.array(["A+B"], object),
            "context": np.array(["x"], object),
            "condition_as_written": np.array(["A_B"], object),
        }
        split_examples({"by": "gears_simulation", "legacy_rng": True}, 1, columns.__getitem__)
    with pytest.raises(ValueError, match=r"data.split.gene_share is unknown"):
        split({"by": "gears_simulation", "gene_share": 0.5}, MANY)
    with pytest.raises(ValueError, match="there is no context 'w'"):
        split({"by": "cell_type", "test": "w"}, ["A", "A"], ["x", "y"])


def test_strata():
    trained = [(Condition(("A",)), "x"), (Condition(("B", "C")), "x"), (Condition(("D",), (1.0,), "uM"), "x")]
    asked = [(Condition(("A",)), "x"), (Condition(("A",)), "y"), (Condition(("B",)), "x"), (Condition(("Q",)), "x"), (Condition(("A", "B")), "x"),
             (Condition(("A", "Q")), "x"), (Condition(("P", "Q")), "x"), (Condition(("D",), (2.0,), "uM"), "x")]  # fmt: skip
    assert strata_of(asked, trained) == [
        "seen", "other_context", "seen_in_combination", "unseen_single", "combo_seen2", "combo_seen1", "combo_seen0", "other_dose",
    ]  # fmt: skip
