"""Kinds of labels: what is predicted from logits, which rows are scored, and how a kind is found by its name."""

import sys

import numpy as np
import pytest
from scipy.special import expit, softmax

from bmfm.label_kinds import Bases, Classification, LabelKind, MultiLabel, Regression, kind_of
from bmfm.metrics import regression, score
from bmfm.special import IGNORE
from bmfm.targets import class_path, find_class


class Ordinal(LabelKind):
    """Ordered classes, whose score is the expected class number; a kind that is not of the package."""

    def scores(self, logits):
        return softmax(logits, 1) @ np.arange(len(self.classes))

    def columns(self, scores):
        return {"": np.array(self.classes, object)[np.rint(scores).astype(int)], "_expected": scores}

    def from_columns(self, columns):
        return columns("_expected")

    def metrics(self, truth, scores):
        return regression(truth.astype(float), scores)

    def scored_rows(self, truth, scores):
        return truth, scores, None


def test_classes_of_logits():
    kind = kind_of({"size": 3, "classes": ["a", "b", "c"]})
    assert type(kind) is Classification
    logits = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    columns = kind.columns(kind.scores(logits))
    assert columns[""].tolist() == ["abc"[i] for i in logits.argmax(1)] and list(columns) == ["", "_p_a", "_p_b", "_p_c"]
    np.testing.assert_allclose(kind.from_columns(columns.__getitem__), softmax(logits, 1), rtol=1e-6)


def test_several_labels_of_logits():
    kind = kind_of({"size": 2, "classes": ["x", "y"], "kind": class_path(MultiLabel)})
    logits = np.array([[1.0, -2.0], [3.0, 0.5], [-1.0, -1.0]])
    columns = kind.columns(kind.scores(logits))
    assert columns[""].tolist() == ["x", "x|y", ""]
    np.testing.assert_allclose(columns["_p_y"], expit(logits[:, 1]))
    assert kind.has_label(np.array([[1, np.nan], [np.nan, np.nan]])).tolist() == [True, False]


def test_numbers_are_in_the_unit_of_the_column():
    kind = kind_of({"size": 1, "kind": class_path(Regression), "center": 5.0, "scale": 2.0})
    assert kind.columns(kind.scores(np.array([[0.0], [1.5]])))[""].tolist() == [5.0, 8.0]
    assert kind.has_label(np.array([1.0, np.nan])).tolist() == [True, False]
    with pytest.raises(ValueError, match=r"scores have the shape \(2, 3\), the labels need \(2,\)"):
        kind.scored_rows(np.zeros(2), np.zeros((2, 3)))


def test_bases_are_scored_one_by_one_and_drawn_by_sequence():
    kind = kind_of({"size": 2, "classes": ["0", "1"], "kind": class_path(Bases), "pooling": "token", "separator": ""})
    truth, said = (np.array([*rows, None], object)[:-1] for rows in ([list("01"), None, list("1?0")], [list("11"), list("0"), list("100")]))
    assert kind.has_label(truth).tolist() == [True, False, True]
    true, scores, group = kind.scored_rows(truth, said)
    assert true.tolist() == [0, 1, 1, IGNORE, 0] and scores.argmax(1).tolist() == [1, 1, 1, 0, 0] and group.tolist() == [0, 0, 2, 2, 2]
    assert (
        kind.columns(said)[""].tolist() == ["11", "0", "100"]
        and kind.from_columns(kind.columns(said).__getitem__).tolist() == said.tolist()
    )
    again, kept, _ = kind.scored_rows(truth, scores)  # as they are kept in a file
    assert again.tolist() == true.tolist() and kept is scores
    with pytest.raises(ValueError, match="test example 2 has labels for 3 bases, 2 were predicted"):
        kind.scored_rows(truth, np.array([list("11"), None, list("10"), None], object)[:-1])


def test_a_kind_from_outside_is_found_by_its_name():
    kind = kind_of({"size": 3, "classes": ["low", "mid", "high"], "kind": class_path(Ordinal)})
    scores = kind.scores(np.array([[9.0, 0, 0], [0, 0, 9.0], [0, 9.0, 0]]))
    assert kind.columns(scores)[""].tolist() == ["low", "high", "mid"]
    assert score(kind.metrics, np.array([0, 2, 1]), scores)[0]["spearman"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("os.system", "which is no LabelKind"),
        ("bmfm.label_kinds.Metric", "which is no LabelKind"),
        ("no_such_package.Kind", "no_such_package cannot be imported"),
        ("cross_entropy", "the path of a LabelKind is expected"),
        (["bmfm.label_kinds.Regression"], "the path of a LabelKind is expected"),
        ("bmfm.label_kinds.", "the path of a LabelKind is expected"),
    ],
)
def test_what_is_no_kind_is_refused(path, said):
    with pytest.raises(ValueError, match=f"heads.y.kind is .*{said}"):
        kind_of({"size": 1, "kind": path}, "heads.y")


def test_code_of_a_model_folder_is_not_run(tmp_path, monkeypatch):
    """A folder brings a module, and stands first where Python looks for modules, as the folder that a program was started in does."""
    folder = tmp_path / "model"
    (folder / "inner").mkdir(parents=True)
    code = "from pathlib import Path\nPath(__file__).with_name('ran').touch()\nfrom bmfm.label_kinds import Classification as Kind\n"
    for name in ("brought_along.py", "inner/__init__.py"):
        (folder / name).write_text(code)
    monkeypatch.syspath_prepend(folder)
    for target in ("brought_along.Kind", "inner.Kind", "inner.deeper.Kind"):
        with pytest.raises(ValueError, match="code of a model folder is not run"):
            find_class(target, LabelKind, "kind", outside=folder)
    assert not list(folder.rglob("ran")) and "brought_along" not in sys.modules
    assert find_class("brought_along.Kind", LabelKind, "kind") is Classification  # where whoever runs it put it there


@pytest.mark.parametrize(
    ("head", "said"),
    [
        ({"size": 2, "kind": class_path(Regression)}, "y is a regression, one number"),
        ({"size": 2, "classes": ["a"]}, "y has 1 classes, and its size is 2"),
        ({"size": 2, "classes": ["1", 1]}, "y.classes names a class twice"),
        ({"size": 2, "classes": ["a", "b"], "kind": class_path(Bases), "pooling": 0}, "its pooling must be token"),
    ],
)
def test_descriptions_that_predict_nonsense(head, said):
    with pytest.raises(ValueError, match=said):
        kind_of(head).check("y")
