"""A kind of label that is not of the package: ordered classes, learned by cumulative link; trained, saved, loaded, predicted and scored."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from torch.nn import functional

import bmfm
from bmfm import metrics
from bmfm.label_kinds import LabelKind
from bmfm.metrics import Metric
from bmfm.objectives.labels import Label
from bmfm.special import IGNORE
from tests.training.test_finetune import finetune


class OrdinalKind(LabelKind):
    """Logits [n, C - 1] of "above class c"; the score is how many classes the example is expected to be above."""

    described = {"rank_error": Metric("mean error of the class number", 0.0, np.inf, False)}  # noqa: RUF012

    def scores(self, logits):
        return (1 / (1 + np.exp(-logits))).sum(1)

    def columns(self, scores):
        return {"": np.array(self.classes, object)[np.rint(scores).astype(int)], "_expected": scores}

    def from_columns(self, columns):
        return columns("_expected")

    def scored_rows(self, truth, scores):
        return truth, scores, None

    def metrics(self, truth, scores):
        of = metrics.regression(truth.astype(float), scores)
        return lambda weight: {"rank_error": of(weight)["mae"], "spearman": of(weight)["spearman"]}


class Ordinal(Label):
    """Classes in the order in which they are given."""

    kind = OrdinalKind
    loss_name = "cumulative_link"

    def __init__(self, order, **shared):
        super().__init__(**shared)
        self.classes, self.size = [str(c) for c in order], len(order) - 1

    def encode(self, values, train):
        labels = np.array([IGNORE if v is None else self.classes.index(v) for v in values], np.int64)
        above = (labels[train][:, None] > np.arange(self.size)).mean(0).clip(0.01, 0.99)
        self.baseline = torch.from_numpy(np.log(above / (1 - above))).float()
        return labels

    def loss_per_example(self, logits, labels):
        above = (labels[:, None] > torch.arange(self.size, device=labels.device)).float()
        return functional.binary_cross_entropy_with_logits(logits, above, reduction="none").mean(1)

    def label_weights(self, labels):
        return (labels != IGNORE).float()


def test_ordered_classes(tmp_path, dna_model):
    rng = np.random.default_rng(0)
    share = rng.random(160)
    sequences = ["".join(rng.choice(list("GCAT"), 40, p=[s / 2, s / 2, (1 - s) / 2, (1 - s) / 2])) for s in share]
    levels = np.array(["low", "mid", "high"])[np.digitize(share, [0.33, 0.67])].astype(object)
    levels[::10] = None
    table = pd.DataFrame({"sequence": sequences, "level": levels, "part": ["train"] * 100 + ["validation"] * 20 + ["test"] * 40})
    table.to_csv(tmp_path / "t.csv", index=False)
    objective = "{_target_: tests.training.test_outside_kind.Ordinal, order: [low, mid, high], column: level, pooling: mean}"
    split = ["data.split.by=column", "+data.split.column=part", "logistic_regression=false", "~objectives.label"]
    returned = finetune(
        tmp_path / "run", f"checkpoint={dna_model}", f"data.path={tmp_path / 't.csv'}", *split, f"+objectives.level={objective}"
    )
    model = bmfm.load(tmp_path / "run" / "model")
    test = table[table.part == "test"].reset_index(drop=True)
    predictions = model.predict(test.sequence)
    assert list(predictions) == ["level", "level_expected"] and set(predictions.level) <= {"low", "mid", "high"}
    known = test.level.notna().to_numpy()
    number = test.level[known].map({"low": 0, "mid": 1, "high": 2}).to_numpy(float)
    expected = predictions.level_expected.to_numpy()[known]
    figures = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert figures == returned and figures["test/level/cumulative_link_n"] == known.sum()
    assert figures["test/level/spearman"] == pytest.approx(stats.spearmanr(number, expected).statistic, abs=1e-4)
    assert figures["test/level/rank_error"] == pytest.approx(np.abs(number - expected).mean(), abs=1e-5)
    assert figures["test/level/spearman"] > 0.8
    head = json.loads((tmp_path / "run" / "model" / "config.json").read_text())["heads"]["level"]
    assert head["kind"] == "tests.training.test_outside_kind.OrdinalKind" and head["size"] == 2
