"""Labels as they are written, what cannot be learned, and what training lacks; correlations in any unit."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import pearsonr
from sklearn.preprocessing import MultiLabelBinarizer

from bmfm import metrics
from bmfm.data.table import SequenceTable
from bmfm.metrics import score
from bmfm.objectives.labels import Classification, MultiLabel, Regression
from bmfm.objectives.statistics import moments, pearson, row_pearson
from bmfm.tokenizers.dna import single_base


def _bind(folder, objective, labels, held_out=()):
    """An objective on a table of labels, as they are written into the file; the last of them are held out."""
    for part, values in (("train", labels), ("test", held_out), ("dev", labels)):
        if values:
            (folder / f"{part}.csv").write_text("sequence,label\n" + "".join(f"ACGT,{v}\n" for v in values))
    data = SequenceTable(folder, {}, 16, 2)
    data.connect(single_base())
    objective.setup("label", data.spec())
    return objective.labels["label"], data


@pytest.mark.parametrize(
    ("written", "classes"),
    [
        (["01", "1", "2", "01"], ["01", "1", "2"]),
        (["1.10", "1.1", "1.10", "1.1"], ["1.1", "1.10"]),
        (["NA", "EU", "AS", "NA"], ["AS", "EU", "NA"]),
        (["0", "1", "", "1"], ["0", "1"]),
        (["true", "false", "true", "null"], ["false", "null", "true"]),
        (["1e3", "1000", "0x1", "1"], ["0x1", "1", "1000", "1e3"]),
    ],
)
def test_classes_are_called_what_the_file_calls_them(tmp_path, written, classes):
    objective = Classification()
    labels, _ = _bind(tmp_path, objective, written, written)
    assert objective.classes == classes
    said = [classes[n] if n >= 0 else "" for n in labels]
    assert said == written * 3


def test_several_classes_an_example_are_called_what_the_file_calls_them(tmp_path):
    objective = MultiLabel()
    _bind(tmp_path, objective, ["01", "1", "NA|1"])
    assert objective.classes == ["01", "1", "NA"]


def test_regression_reads_numbers(tmp_path):
    objective = Regression()
    _bind(tmp_path, objective, ["01", "3", "NA"])
    assert (objective.center, objective.scale) == (2.0, 1.0)


def test_a_typed_table_keeps_its_values(tmp_path):
    for part in ("train", "dev"):
        pd.DataFrame({"sequence": ["ACGT"] * 4, "label": [0, 1, 0, 1]}).to_parquet(tmp_path / f"{part}.parquet")
    data, objective = SequenceTable(tmp_path, {}, 16, 2), Classification()
    data.connect(single_base())
    objective.setup("label", data.spec())
    assert objective.classes == ["0", "1"]


@pytest.mark.parametrize("value", [0.1, 0.3, 1e-7, 1e9 + 0.1])
def test_equal_numbers_cannot_be_learned(tmp_path, value):
    """The deviation of 0.1 thrice is 1e-17 by rounding."""
    with pytest.raises(ValueError, match="all training examples have the number"):
        _bind(tmp_path, Regression(), [value] * 7)


def test_classes_that_training_lacks_are_counted_not_absent(tmp_path):
    """A held-out example of which training knows no class is not scored; the others are scored without the class, as scikit-learn does."""
    objective, held_out = MultiLabel(), ["a|z", "z", "b", "y|z"]
    with pytest.warns(UserWarning, match=r"3 held-out examples have classes .* \(first: 'a\|z', .*test\.csv, row 2\)"):
        labels, data = _bind(tmp_path, objective, ["a", "b", "a|b"], held_out)
    own = labels[data.numbers["test"]]
    with pytest.warns(UserWarning, match="unknown class"):
        expected = MultiLabelBinarizer(classes=["a", "b"]).fit([]).transform([h.split("|") for h in held_out])
    assert np.isnan(own[[1, 3]]).all() and (own[[0, 2]] == expected[[0, 2]]).all()
    assert "2 held-out examples have classes that training lacks" in objective.notes["labels label"]
    assert "1 held-out examples are scored without classes" in objective.notes["labels label"]


def test_a_part_of_unknown_classes_alone_is_not_scored(tmp_path):
    objective = MultiLabel()
    with pytest.warns(UserWarning, match="no test example has a label"):
        _bind(tmp_path, objective, ["a", "b", "a|b"], ["z", "y|z"])
    assert objective.unscored == {"test"}


@pytest.mark.parametrize("unit", [1e-200, 1e-30, 1e-7, 1.0, 1e7, 1e150])
def test_a_correlation_has_no_unit(unit):
    rng = np.random.default_rng(0)
    x = rng.normal(size=200)
    y = x + rng.normal(size=200)
    found, _ = score(metrics.regression, x * unit, y * 1e-7)
    assert found["pearson"] == pytest.approx(pearsonr(x, y).statistic, abs=1e-12)
    if 1e-100 < unit < 1e100:  # sums of squares are float64
        sums = moments(torch.from_numpy(x * unit), torch.from_numpy(y * 1e-7))
        assert float(pearson(sums)) == pytest.approx(pearsonr(x, y).statistic, abs=1e-9)
        rows = row_pearson(torch.from_numpy(x * unit)[None], torch.from_numpy(y)[None], torch.ones(1, 200))
        assert float(rows[0]) == pytest.approx(pearsonr(x, y).statistic, abs=1e-9)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e-9, 1e9 + 0.1])
def test_what_does_not_vary_correlates_with_nothing(value):
    x = np.random.default_rng(0).normal(size=100)
    assert score(metrics.regression, np.full(100, value), x)[0]["pearson"] == 0
    assert pearson(moments(torch.full((100,), value), torch.from_numpy(x))).isnan()
    assert pearson(moments(torch.from_numpy(x), torch.full((100,), value, dtype=torch.float64))).isnan()


@pytest.mark.parametrize(("kind", "shape"), [("classification", (0, 2)), ("multilabel", (0, 2)), ("regression", (0,))])
def test_nothing_cannot_be_scored(kind, shape):
    with pytest.raises(ValueError, match="no examples"):
        score(getattr(metrics, kind), np.empty(shape[:1] if kind == "classification" else shape, int), np.empty(shape))


@pytest.mark.parametrize("values", [np.round(np.random.default_rng(0).random(60), 6), [f"cell_{i}" for i in range(60)]])
def test_numbers_and_names_of_single_examples_are_no_classes(tmp_path, values):
    with pytest.raises(ValueError, match=r"60 training examples have 60 classes, .* looks like (numbers|ids).*objective=\[regression\]"):
        _bind(tmp_path, Classification(), list(values))
