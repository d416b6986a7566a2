"""Conditions in the spellings of GEARS, scPerturb, the Virtual Cell Challenge, State and Tahoe."""

import numpy as np
import pytest

from bmfm.cells.conditions import Condition, parse_conditions

GENES = {"KLF1", "MAP2K6", "HLA-A", "TSNAX", "DISC1", "A_B", "A", "B", "NT5E"}


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("MAP2K6+KLF1", "KLF1+MAP2K6"),
        ("KLF1+ctrl", "KLF1"),
        ("ctrl+KLF1", "KLF1"),
        ("ctrl", "control"),
        ("ctrl+ctrl", "control"),
        ("non-targeting", "control"),
        ("NT", "control"),
        ("NT5E", "NT5E"),
        ("KLF1_MAP2K6", "KLF1+MAP2K6"),
        ("KLF1_NT", "KLF1"),
        ("KLF1|MAP2K6", "KLF1+MAP2K6"),
        ("MAP2K6;KLF1", "KLF1+MAP2K6"),
        ("HLA-A", "HLA-A"),
        ("HLA-A_KLF1", "HLA-A+KLF1"),
        ("MT-ND1", "MT-ND1"),  # not known, but no part of it is either
        ("A_B+KLF1", "A_B+KLF1"),  # a known name is not taken apart
        ("Dasatinib_10uM", "Dasatinib@10uM"),
        ("Dasatinib@100nM", "Dasatinib@0.1uM"),
        ("Dasatinib 10 µM", "Dasatinib@10uM"),
        ("(+)-JQ1@1uM", "(+)-JQ1@1uM"),
        ("X@1uM+Y@5uM", "X@1uM+Y@5uM"),
        ("[('Dasatinib', 0.05, 'uM')]", "Dasatinib@0.05uM"),
        ("[('Y', 1.0, 'uM'), ('X', 5.0, 'uM')]", "X@5uM+Y@1uM"),
        ("[('DMSO_TF', 0.0, 'uM')]", "control"),
        ("X@1e-3mM", "X@1uM"),
    ],
)
def test_spellings(text, canonical):
    condition = parse_conditions([text], known_targets=GENES)[0]
    assert str(condition) == canonical
    assert parse_conditions([canonical], known_targets=GENES) == [condition]


def test_doses_of_a_column():
    texts, doses = ["control", "X", "X", "X+Y", "X"], [np.nan, 10.0, 1000.0, "100+1000", "10"]
    found = parse_conditions(texts, ["control"], doses=doses, unit="nM")
    assert list(map(str, found)) == ["control", "X@0.01uM", "X@1uM", "X@0.1uM+Y@1uM", "X@0.01uM"]
    assert found[1] == Condition(("X",), (0.01,), "uM")
    assert found[1] == found[4]


def test_genes_and_drugs_stand_beside_each_other():
    assert str(parse_conditions(["KLF1+X@1uM", "KLF1"], known_targets=GENES)[0]) == "KLF1+X@1uM"


def test_controls_are_those_that_are_named():
    assert [c.is_control for c in parse_conditions(["luc", "KLF1+ctrl", "KLF1+luc"], ["luc"])] == [True, False, False]
    with pytest.raises(ValueError, match=r"'ctrl' \(cell 2 of those read\) is a word for controls, which are 'luc' here; add it"):
        parse_conditions(["luc", "ctrl"], ["luc"])


def test_separators_and_guides_that_are_stated():
    assert str(parse_conditions(["C3orf72_FOXL2"], separator="_")[0]) == "C3orf72+FOXL2"
    assert str(parse_conditions(["A_B"], separator="+")[0]) == "A_B"
    assert str(parse_conditions(["TSNAX-DISC1"], known_targets=GENES, separator="+")[0]) == "TSNAX-DISC1"
    assert str(parse_conditions(["KLF1_g1+MAP2K6_g12"], guide_suffix="_g[0-9]+")[0]) == "KLF1+MAP2K6"


@pytest.mark.parametrize(
    ("texts", "known", "message"),
    [
        (["KLF1", "KLF1+KLF1"], None, r"^gene: 'KLF1\+KLF1' \(cell 2 of those read\) names 'KLF1' twice"),
        (["KLF1", ""], None, r"'' \(cell 2 of those read\) is empty"),
        (["KLF1", None], None, r"\(cell 2 of those read\) is empty"),
        (["KLF1+"], None, "empty target"),
        (["KLF1_MAP2K6"], None, "not all of these names are known; say which by separator='_'"),
        (["KLF1_2"], GENES, "guide_suffix"),
        (["TSNAX-DISC1"], GENES, r"one target or TSNAX\+DISC1: say which by separator='\+'"),
        (["A_B_KLF1"], GENES, r"A\+B\+KLF1 or A_B\+KLF1"),
        (["X@1uM", "Y"], GENES, "'Y' .1 in all. have no dose, while other cells have one"),
        (["X@0uM"], None, "doses are above 0"),
        (["X@-1uM"], None, "no dose that can be read in 'X@-1uM'"),
        (["X@1uM+Y@1ug/ml"], None, "cannot be compared"),
        (["[('X', 1.0)]"], None, "is no list of"),
    ],
)
def test_what_cannot_be_read_names_column_text_and_cell(texts, known, message):
    with pytest.raises(ValueError, match=message):
        parse_conditions(texts, known_targets=known, column="gene")


def test_one_dose_of_two_targets_is_refused():
    with pytest.raises(ValueError, match=r"^conditions: .* has 2 targets and the dose '10\.0'"):
        parse_conditions(["X+Y"], doses=[10.0])
