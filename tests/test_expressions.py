"""Expressions over columns: the values of pandas' own evaluation, and nothing but arithmetic."""

import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from bmfm.cli import config_folder
from bmfm.expressions import evaluate

RNG = np.random.default_rng(0)
TABLE = pd.DataFrame(
    {
        "a": [3, 1, 4, 1], "b": [2, 7, 1, 8], "x": [0.5, -1.5, np.nan, 2.0], "yes": [True, False, True, True],
        "fold change": [1.0, 2.0, 4.0, 8.0], 'it"s': [1, 2, 3, 4], "µ": [1, 2, 3, 4], "class": [5, 6, 7, 8], "text": ["1", "2", "c", "4"],
        "maybe": pd.array([1, None, 3, 4], "Int64"),
    }
)  # fmt: skip


def leaves():
    numbers = st.one_of(st.integers(0, 9).map(str), st.floats(0.1, 9).map(lambda v: f"{v:.2f}"))
    return st.one_of(st.sampled_from(["a", "b", "x"]), numbers)


def grown(inner):
    sums = st.tuples(inner, st.sampled_from(["+", "-", "*", "/"]), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})")
    squares = inner.map(lambda v: f"({v}) ** 2")
    calls = st.tuples(st.sampled_from(["log1p", "exp", "sqrt", "abs", "log10"]), inner).map(lambda t: f"{t[0]}({t[1]})")
    return st.one_of(sums, squares, calls, inner.map(lambda v: f"(-{v})"))


@given(st.recursive(leaves(), grown, max_leaves=6).filter(lambda e: any(c in e for c in "abx")))
@settings(max_examples=150, deadline=None)
def test_arithmetic_is_that_of_pandas(expression):
    try:
        with np.errstate(all="ignore"):
            theirs = TABLE[["a", "b", "x"]].astype(float).eval(expression, engine="python")
    except (TypeError, ValueError, AttributeError, ZeroDivisionError, OverflowError):
        return  # of constants alone pandas raises
    ours = evaluate(expression, TABLE)
    np.testing.assert_allclose(ours.astype(float), np.broadcast_to(np.asarray(theirs, float), 4), rtol=1e-12)


@pytest.mark.parametrize(
    "expression",
    ["a > b", "(a > 1) & (b < 8)", "(a > 1) | ~(b < 8)", "1 < a < 4", "a == 1", "a != 1", "a <= b", "not a > 2", "a > 1 and b < 3"],
)
def test_comparisons_are_those_of_pandas(expression):
    ours = evaluate(expression, TABLE)
    assert ours.dtype == bool and ours.tolist() == TABLE.eval(expression, engine="python").tolist()


def test_derived_columns_of_the_cards_that_ship_keep_their_values():
    found = 0
    for file in sorted((config_folder() / "task").glob("*/*.yaml")):
        for name, expression in ((OmegaConf.load(file).get("data") or {}).get("derived") or {}).items():
            columns = [f"ct_{i}" for i in range(10)]
            table = pd.DataFrame(RNG.integers(0, 9, (500, 10)), columns=columns)
            with np.errstate(all="ignore"):
                np.testing.assert_allclose(evaluate(expression, table), table.eval(expression, engine="python"), rtol=1e-14, err_msg=name)
            found += 1
    assert found


@pytest.mark.parametrize(
    ("expression", "values"),
    [
        ("where((a > 2) & yes, 1, 0)", [1, 0, 1, 0]),
        ("min(a, b, 2)", [2, 1, 1, 1]),
        ("max(a, 2) + yes", [4, 2, 5, 3]),
        ("clip(x, 0, 1)", [0.5, 0, np.nan, 1]),
        ("log2(`fold change`)", [0, 1, 2, 3]),
        ("col('fold change') / 2", [0.5, 1, 2, 4]),
        ("col('it\"s') * 2 + µ", [3, 6, 9, 12]),
        ('col("class") - 5', [0, 1, 2, 3]),
        ("maybe + 1", [2, np.nan, 4, 5]),
        ("a\n + b", [5, 8, 5, 9]),
        ("2", [2, 2, 2, 2]),
    ],
)
def test_values_by_hand(expression, values):
    np.testing.assert_allclose(evaluate(expression, TABLE).astype(float), values)


def test_whole_numbers_stay_whole():
    """A class made by a choice is named 1, not 1.0."""
    assert evaluate("where(a > 2, 1, 0)", TABLE).dtype == evaluate("a + 2 * b", TABLE).dtype == np.int64
    assert evaluate("a / 1", TABLE).dtype == evaluate("x", TABLE).dtype == evaluate("maybe", TABLE).dtype == np.float64


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("@pd.io.common.os.getpid()", "cannot be read"),
        ("a.to_csv('written.csv')", "is not allowed"),
        ("__import__('os').system('touch written.csv')", "is not allowed"),
        ("().__class__.__bases__", "is not allowed"),
        ("a[0]", "is not allowed"),
        ("[x for x in (1, 2)]", "is not allowed"),
        ("(lambda: 1)()", "is not allowed"),
        ("(y := 3)", "is not allowed"),
        ("f'{a}'", "is not allowed"),
        ("'a' * 1000000000", "is not allowed"),
        ("a if b else x", "is not allowed"),
        ("a // 2", "is not allowed"),
        ("1j * a", "is not allowed"),
        ("open('written.csv', 'w')", "open is no function; allowed are numbers"),
        ("log(a, out=b)", "is not allowed"),
        ("max(a)", "max takes 2 to 20 arguments, 1 are given"),
        ("max(*a)", "max takes 2 to 20 arguments"),
        ("a; b", "cannot be read"),
        ("", "cannot be read"),
        ("absent + 1", "there is no column 'absent'; there are a, b"),
        ("text * 2", "column 'text' holds 'c' in row 4, which is no number"),
        ("a > 1 & b < 8", "number where a comparison is needed"),
        ("9" * 400, "too large a number"),
        ("-" * 1500 + "a", "are nested"),
        ("(" * 900 + "a" + ")" * 900, "cannot be read|nested"),
        ("a" + ".b" * 900, "attribute is not allowed"),
        ("a" + "[0]" * 600, "is not allowed"),
        ("a" + "()" * 900, "is not allowed|cannot be read"),
        ("1if a else " * 150 + "1", "is not allowed|cannot be read"),
        ("a" + "**a" * 600, "are nested|cannot be read"),
        ("a" + "+a" * 900 + "> 1 & b", "number where a comparison is needed"),
        ("a + " * 1000 + "a", "4,001 characters; 2,000 are allowed"),
    ],
)
def test_what_is_no_arithmetic_is_refused(expression, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=said):
        evaluate(expression, TABLE)
    assert not list(tmp_path.iterdir())


def test_powers_of_constants_end():
    began = time.perf_counter()
    assert np.isposinf(evaluate("9 ** 9 ** 9 ** 9", TABLE)).all()
    assert time.perf_counter() - began < 1


def test_rows_that_a_derived_column_cannot_have_are_counted(tmp_path):
    from bmfm.data.table import SequenceTable
    from bmfm.tokenizers import dna

    pd.DataFrame({"sequence": ["ACGT"] * 10, "n": [0, *range(1, 10)]}).to_csv(tmp_path / "t.csv", index=False)
    data = SequenceTable(tmp_path / "t.csv", {"by": "random", "validation": 0.2, "test": 0.2}, 16, 4, derived={"y": "log(n)"})
    with pytest.warns(UserWarning, match=r"1 of 10 rows of t.csv have no finite value \(first: row 2\)"):
        data.connect(dna.single_base())
    np.testing.assert_allclose(data.table["y"].to_numpy()[1:], np.log(np.arange(1, 10)))


@pytest.mark.filterwarnings("error")
def test_long_sums_are_flat():
    """Sixty terms are not sixty operations in one another; the sum is that of pandas."""
    expected = TABLE["a"] * 60 - TABLE["b"] * 59
    assert np.array_equal(evaluate(" + ".join(["a"] * 60) + " - b" * 59, TABLE), expected)
    assert evaluate("a" + "+a" * 900, TABLE).dtype == TABLE["a"].dtype
    assert np.array_equal(evaluate("a - (b - a) - b * 2 / 4 * 2", TABLE), TABLE.a - (TABLE.b - TABLE.a) - TABLE.b * 2 / 4 * 2)
    with pytest.raises(ValueError):
        evaluate("1if a else 2", TABLE)
