"""The section of perturbation tasks in a report, from made-up records."""

import numpy as np
import pytest

from bmfm.evaluation.report.pages import write_report
from bmfm.evaluation.report.perturbation import paired_difference
from bmfm.evaluation.task_metrics import to_record
from bmfm.metrics import Metric

METRICS = {"r2w_delta": Metric("weighted R²", -np.inf), "wmse": Metric("weighted error", 0.0, np.inf, False)}


def condition(context, name, value, **more):
    return {
        "kind": "condition",
        "name": f"{context}|{name}",
        "n": 9,
        "condition": name,
        "split": "unseen_single",
        "r2w_delta": value,
    } | more


def record(model, kind, values, seed=0):
    names = [("a", "G1"), ("a", "G2"), ("a", "G3"), ("b", "G1")]
    strata = [condition(*who, v) for who, v in zip(names, values, strict=True)]
    strata[0]["points"] = {"measured": [1.0, -0.5], "predicted": [0.5, 0.25]}
    figure = (np.mean(values[:3]) + values[3]) / 2
    strata += [{"kind": "split", "name": "unseen_single", "n": 4, "n_cells": 9, "r2w_delta": [figure, figure - 1, figure + 1]}]
    bound = {"kind": "bound", "name": "r2w_delta", "n": 0, "split_half_ceiling": 0.8, "dynamic_range_fraction": 0.9}
    strata.append(bound | {"share_of_ceiling": figure / 0.8})
    return {
        "task": "demo/screen", "title": "A screen", "metric": "r2w_delta", "model": model, "model_kind": kind, "model_hash": model * 8, "status": "ok",
        "mode": "baseline" if kind == "baseline" else "response", "metrics": {"r2w_delta": float(figure)}, "intervals": {}, "seed": seed, "strata": strata,
        "metric_descriptions": to_record(METRICS), "counts": {}, "test_uses": 1, "seconds": 1.0, "split_seed": None,
    }  # fmt: skip


def pages(tmp_path, *records):
    suite = {"name": "s", "title": "S", "tasks": ["demo/screen"]}
    return [f.read_text() for f in write_report({"suite": suite, "records": list(records)}, tmp_path)]


def test_differences_are_paired_and_contexts_count_alike():
    a, b = (record("m", "checkpoint", v)["strata"] for v in ([0.5, 0.6, 0.7, 0.1], [0.4, 0.4, 0.4, 0.2]))
    a, b = a[:4], b[:4]
    found = paired_difference(a, b, "r2w_delta", 500)
    assert found.mean == pytest.approx((np.mean([0.1, 0.2, 0.3]) - 0.1) / 2)
    assert found.low < found.mean < found.high
    same = paired_difference(a, a, "r2w_delta", 50)
    assert same.low == same.high == 0
    del a[3]["r2w_delta"]
    assert paired_difference(a, b, "r2w_delta").mean == pytest.approx(0.2)
    assert paired_difference(a, b, "wmse") is None


@pytest.mark.parametrize(
    ("values", "verdict"), [([0.9] * 4, "beats"), ([0.1] * 4, "does worse than"), ([0.9, 0.1, 0.5, 0.42], "does not beat")]
)
def test_the_page_says_which_baseline_was_not_beaten(tmp_path, values, verdict):
    html, text = pages(
        tmp_path,
        record("weak", "baseline", [0.0] * 4),
        record("strong", "baseline", [0.4] * 4),
        record("ours", "checkpoint", values),
        record("ours", "checkpoint", values, seed=1),
    )
    assert "The best baseline by weighted R² is strong, at 0.400" in text and "The best baseline by weighted R² is strong" in html
    assert f"{verdict} strong: the paired difference is" in text and f"{verdict} strong" in html
    assert "| weighted R² | 0.800 | 0.900 |" in text and "unseen single (4)" in text
    assert html.count('aria-label="a, G1') == 2  # of our model and of the best baseline
    assert "weighted R², by what was trained" in html and "weighted R², with its ceiling" in html


def test_pages_of_other_tasks_have_no_such_section(tmp_path):
    other = record("ours", "checkpoint", [0.0] * 4) | {"strata": []}
    html, text = pages(tmp_path, other)
    assert "measured changes" not in html + text
