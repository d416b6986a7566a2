import hashlib
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from bmfm.evaluation.report.comparison import ComparedMethod, Comparison, score_over_seeds
from bmfm.evaluation.report.drawings import _level_groups, rank_test
from bmfm.evaluation.report.pages import write_report

HOSTILE = '<script>alert("x")</script>|`*'
SHA = hashlib.sha256(b"bmfm").hexdigest()
TASKS = {
    "gue/tf_0": ("mcc", "Transcription factor 0"),
    "gue/tf_1": ("mcc", "Transcription factor 1"),
    "gue/mouse_0": ("mcc", "Mouse transcription factor 0"),
    "gue/prom_core_tata": ("mcc", "Core promoter with TATA box"),
    "gue/prom_300_tata": ("mcc", "Promoter with TATA box"),
    "mpra/lac": ("mse", "Activity of the lac promoter"),
}
METHODS = {("dna_snp", "finetune"): 0.72, ("dna_ref", "finetune"): 0.7, ("dna_snp", "linear_probe"): 0.6, ("6-mers", "baseline"): 0.55}


def record(task, model, mode, seed, value, **more):
    """A record as the runner leaves it."""
    metric, title = TASKS.get(task, ("mcc", task))
    kind = "baseline" if mode == "baseline" else "checkpoint"
    lower = value - 0.04, value + 0.04
    extra = {"accuracy": 0.8, "macro_f1": 0.79} if metric == "mcc" else {"pearson": 0.5}
    return {
        "suite": "demo", "task": task, "title": title, "omics": "dna", "protocol": "labels", "metric": metric,
        "model": model, "model_kind": kind, "model_hash": SHA, "parameters": None if kind == "baseline" else 117_000_000,
        "mode": mode, "seed": seed, "status": "ok", "error": None,
        "metrics": {metric: value, **extra}, "intervals": {metric: list(lower)},
        "n_train": 8000, "n_validation": 1000, "n_test": 1000, "data_hash": SHA[::-1], "test_uses": 1,
        "seconds": 90.0 if mode == "finetune" else 3.5, "train_seconds": 70.0, "peak_memory_bytes": 2**31,
        "device": "cpu", "cores": 2, "versions": {"bmfm": "0.1.0", "python": "3.11", "torch": "2.9"},
        "commit": "abc1234", "date": f"2026-01-0{seed + 1}T10:00:00+00:00", "settings": {}, "umap": None,
        "published": [{"model": "DNABERT-2", "metric": metric, "score": 0.72, "citation": "Zhou et al. 2024"}] if metric == "mcc" else [],
    } | more  # fmt: skip


def sample(tasks=tuple(TASKS), methods=METHODS, seeds=(0, 1, 2), noise=0.01):
    """A whole run without failures; of the lac promoter, where less is better, good models have a small error."""
    random, records = np.random.default_rng(0), []
    for t, task in enumerate(tasks):
        for (model, mode), level in methods.items():
            for seed in seeds if mode == "finetune" else seeds[:1]:
                value = level + 0.02 * t + noise * random.standard_normal()
                records.append(record(task, model, mode, seed, round(float(1 - value if TASKS[task][0] == "mse" else value), 6)))
    return {"suite": {"name": "demo", "title": "A demonstration", "tasks": list(tasks)}, "records": records}


def failed(results, task, model, mode, error="out of memory", seeds=(0, 1, 2)):
    for r in results["records"]:
        if (r["task"], r["model"], r["mode"]) == (task, model, mode) and r["seed"] in seeds:
            r |= {"status": "failed", "error": error, "metrics": {}, "intervals": {}}
    return results


class Page(HTMLParser):
    """Tags seen, text of table cells by the heading before them, whatever could load or run something."""

    VOID = frozenset({"meta", "link", "br", "input"})

    def __init__(self, html):
        super().__init__()
        self.open, self.cells, self.outside, self.scripts, self.ids = [], [], [], 0, []
        self.feed(html)
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.scripts += tag == "script"
        self.ids += [given["id"]] if "id" in given else []
        self.outside += [v for k, v in attrs if k in ("src", "href", "action") and v and not v.startswith(("#", "data:"))]
        assert not any(k.startswith("on") for k in given), f"{tag} runs something"
        if tag in ("td", "th"):
            self.cells.append("")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if any(tag in ("td", "th") for tag in self.open):
            self.cells[-1] += data


def written(results, folder):
    html, text = write_report(results, folder)
    return html.read_text(), text.read_text()


def rows_of(markdown, heading):
    """Cells of the first table below a heading."""
    part = markdown.split(f"## {heading}")[1].split("\n## ")[0]
    return [[c.strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]] for line in part.splitlines() if line.startswith("|")]


def test_the_best_is_bold_also_where_less_is_better(tmp_path):
    _, text = written(sample(), tmp_path)
    head, _, *rows = rows_of(text, "Results")
    by = {row[0]: dict(zip(head, row, strict=True)) for row in rows}
    assert by["gue/tf_0"]["dna_snp, fine-tuned"].startswith("**0.7")
    error = {e: float(re.search(r"\d\.\d{3}", by["mpra/lac"][e])[0]) for e in head[2:]}
    assert "**" in by["mpra/lac"][min(error, key=error.get)]
    assert sum("**" in cell for cell in by["mpra/lac"].values()) == 1


def test_intervals_are_of_seeds_or_of_examples_and_say_which():
    c = Comparison(sample())
    over_seeds = c.tasks[0].scores[ComparedMethod("dna_snp", "finetune")]
    assert over_seeds.over_seeds and "±" in str(over_seeds)
    alone = c.tasks[0].scores[ComparedMethod("6-mers", "baseline")]
    assert not alone.over_seeds and re.fullmatch(r"0\.\d{3} \[0\.\d{3}, 0\.\d{3}\]", str(alone))
    agreeing = [record("gue/tf_0", "m", "linear_probe", s, 0.6) for s in range(3)]
    assert str(score_over_seeds(agreeing, "mcc")) == "0.600 [0.560, 0.640]"
    assert str(score_over_seeds([record("gue/tf_0", "m", "linear_probe", 0, 0.6, intervals={})], "mcc")) == "0.600"


def test_half_width_is_students():
    cell = score_over_seeds([record("gue/tf_0", "m", "finetune", s, v) for s, v in enumerate((0.70, 0.72, 0.74))], "mcc")
    assert cell.mean == pytest.approx(0.72) and cell.high - cell.mean == pytest.approx(4.3027 * 0.02 / math.sqrt(3), rel=1e-4)


def test_those_whose_interval_overlaps_the_best_are_marked(tmp_path):
    results = sample(tasks=["gue/tf_0"], methods={("a", "baseline"): 0.7, ("b", "baseline"): 0.65, ("c", "baseline"): 0.5}, noise=0)
    _, text = written(results, tmp_path)
    assert rows_of(text, "Results")[2][2:] == ["**0.700 [0.660, 0.740]**", "≈ 0.650 [0.610, 0.690]", "0.500 [0.460, 0.540]"]


def test_means_and_ranks_are_of_methods_with_every_task(tmp_path):
    results = failed(sample(), "gue/tf_1", "dna_snp", "finetune", seeds=(1,))
    results["records"] = [r for r in results["records"] if not (r["task"] == "mpra/lac" and r["mode"] == "linear_probe")]
    c = Comparison(results)
    assert set(c.ranks) == {ComparedMethod("dna_ref", "finetune"), ComparedMethod("6-mers", "baseline")}
    _, text = written(results, tmp_path)
    head, _, *rows = rows_of(text, "Results")
    by = {row[0]: dict(zip(head, row, strict=True)) for row in rows}
    mean = [c.tasks[i].scores[ComparedMethod("dna_ref", "finetune")].mean for i in range(5)]
    assert by["mean of 5 tasks"]["dna_ref, fine-tuned"].startswith(f"{sum(mean) / 5:.3f} ± ")
    for row in ("mean of 5 tasks", "less that of 6-mers", "mean rank"):
        assert by[row]["dna_snp, fine-tuned"] == by[row]["dna_snp, linear probe"] == "-"
    assert by["mpra/lac"]["dna_snp, linear probe"] == "-"
    shown = by["gue/tf_1"]["dna_snp, fine-tuned"]
    assert shown.endswith("†") and "**" not in shown and "≈" not in shown


def test_means_stand_beside_that_of_the_best_baseline_run_by_run(tmp_path):
    values = {
        ("a", "finetune"): [(0.7, 0.8), (0.6, 0.9), (0.5, 0.7)],
        ("b", "baseline"): [(0.6, 0.7), (0.6, 0.6), (0.5, 0.6)],
        ("c", "baseline"): [(0.2, 0.9)],
        ("a", "from_scratch"): [(0.7, 0.6), (0.5, 0.8), (0.4, 0.6)],
    }
    tasks = ["gue/tf_0", "gue/tf_1"]
    records = [
        record(task, model, mode, seed, value)
        for (model, mode), of_seeds in values.items()
        for seed, of_tasks in enumerate(of_seeds)
        for task, value in zip(tasks, of_tasks, strict=True)
    ]
    results = {"suite": {"name": "demo", "title": "A demonstration", "tasks": tasks}, "records": records}
    a, b, c, new = (ComparedMethod(*name) for name in values)
    found = Comparison(results)
    differences = [0.1, 0.15, 0.05]  # of the means of the two tasks, seed by seed
    half = 4.3027 * np.std(differences, ddof=1) / math.sqrt(3)
    best, leads = found.leads["mcc"]
    assert best == b and leads.keys() == {a, c, new}
    assert (leads[a].mean, leads[a].high - leads[a].mean) == pytest.approx((0.1, half), rel=1e-4)
    of_c = 4.3027 * np.std([0.1, 0.05, 0.0], ddof=1) / math.sqrt(3)  # one run beside three
    assert (leads[c].mean, leads[c].high) == pytest.approx((-0.05, -0.05 + of_c), rel=1e-4)
    assert found.means["mcc"][a].high == pytest.approx(0.7 + 4.3027 * np.std([0.75, 0.75, 0.6], ddof=1) / math.sqrt(3), rel=1e-4)
    head, _, *rows = rows_of(written(results, tmp_path)[1], "Results")
    row = dict(zip(head, next(r for r in rows if r[0] == "less that of b"), strict=True))
    assert row["a, fine-tuned"] == f"+0.100 ± {half:.3f}" and row["b, baseline"] == "-" and row["c, baseline"] == f"-0.050 ± {of_c:.3f}"
    by_new_weights = [0.1, 0.1, 0.1]  # of the means of the two tasks, seed by seed
    assert found.added["mcc"].keys() == {a} and found.added["mcc"][a].mean == pytest.approx(np.mean(by_new_weights))
    row = dict(zip(head, next(r for r in rows if r[0] == "less that of new weights"), strict=True))
    assert row["a, fine-tuned"] == "+0.100 ± 0.000" and row["a, trained from new weights"] == row["b, baseline"] == "-"
    for r in records:
        r["seed"] += 10 * (r["model"] == "b")
    best, leads = Comparison(results).leads["mcc"]
    assert math.isnan(leads[a].low) and leads[a].mean == pytest.approx(0.1)  # seeds that differ cannot be paired


def test_a_method_without_seeds_is_compared_split_by_split():
    """What has one run for each drawing of the parts stands beside all seeds of that drawing, and of no other; three drawings are counted, not six runs."""
    of_network = {0: [0.8, 0.9], 1: [0.5, 0.7], 2: [0.6, 0.6]}  # by split: two seeds
    of_baseline = {0: 0.7, 1: 0.5, 2: 0.6}
    records = [
        record("gue/tf_0", "a", "finetune", seed, v) | {"split_seed": split}
        for split, of in of_network.items()
        for seed, v in enumerate(of)
    ]
    records += [record("gue/tf_0", "b", "baseline", 0, v) | {"split_seed": split} for split, v in of_baseline.items()]
    results = {"suite": {"name": "demo", "title": "A demonstration", "tasks": ["gue/tf_0"]}, "records": records}
    _, leads = Comparison(results).leads["mcc"]
    differences = [0.15, 0.1, 0.0]
    (lead,) = leads.values()
    assert lead.mean == pytest.approx(np.mean(differences))
    assert lead.high - lead.mean == pytest.approx(4.3027 * np.std(differences, ddof=1) / math.sqrt(3), rel=1e-4)


def test_failures_are_shown_with_their_error(tmp_path):
    results = failed(sample(), "gue/tf_0", "dna_ref", "finetune", error="CUDA out of memory\nat layer 3")
    results["records"][0]["metrics"]["mcc"] = math.nan
    html, text = written(results, tmp_path)
    assert "3 finished" not in html and "4 failed" in html
    assert [row[2:] for row in rows_of(text, "Failures")[2:]] == [
        ["0", "mcc is nan"], *([str(s), "CUDA out of memory at layer 3"] for s in range(3))
    ]  # fmt: skip
    assert "CUDA out of memory" in html and 'href="#failures"' in html and "failures" in Page(html).ids


def test_nothing_is_let_through_unescaped(tmp_path):
    results = sample(methods={(HOSTILE, "finetune"): 0.7, ("b", HOSTILE): 0.6})
    results["suite"]["title"] = HOSTILE
    umap = {"x": [0.1, 1.2], "y": [1.0, 1.0], "label": [HOSTILE, "b"], "batch": [HOSTILE, "c"]}
    for r in results["records"]:
        published = [{"model": HOSTILE, "metric": "mcc", "score": 0.5, "citation": HOSTILE}]
        r |= {"title": HOSTILE, "device": HOSTILE, "commit": HOSTILE, "versions": {HOSTILE: HOSTILE}, "umap": umap, "published": published}
        r["metrics"][HOSTILE] = 0.5
    failed(results, "gue/tf_0", "b", HOSTILE, error=HOSTILE)
    html, text = written(results, tmp_path)
    page = Page(html)
    assert page.scripts == 0 and not page.outside
    assert f"{HOSTILE}, fine-tuned" in page.cells
    assert "<script" not in text and text.count("&lt;script&gt;") > 10
    widths = {len(row) for row in rows_of(text, "Results")}
    assert len(widths) == 1, "a name broke the table"


def test_page_is_whole_and_alone(tmp_path):
    html, _ = written(sample(), tmp_path)
    page = Page(html)
    assert not page.outside and "url(" not in html and "@import" not in html
    assert "default-src 'none'" in html and 'name="viewport"' in html and "prefers-color-scheme:dark" in html


def test_markdown_has_the_figures_of_the_page(tmp_path):
    html, text = written(failed(sample(), "gue/tf_1", "dna_ref", "finetune", seeds=(2,)), tmp_path)
    cells = {" ".join(c.split()) for c in Page(html).cells}
    for heading in ("Results", "Published figures", "Cost beside quality", "Failures", "Data of the tasks"):
        for row in rows_of(text, heading)[2:]:
            for cell in row:
                assert cell.replace("**", "") in cells, f"{heading}: {cell}"


def test_published_figures_stand_apart(tmp_path):
    html, text = written(sample(), tmp_path)
    assert "reported, not run here" in html and "reported, not run here" in text
    assert not any("DNABERT-2" in h for h in rows_of(text, "Results")[0])
    assert rows_of(text, "Published figures")[2] == ["gue/tf_0", "Matthews correlation", "0.720 (1)"]
    assert "1. Zhou et al. 2024" in text


@pytest.mark.parametrize("tasks, methods, tested", [(6, 4, True), (4, 4, False), (6, 2, False)])
def test_ranks_are_tested_where_there_is_enough(tasks, methods, tested, tmp_path):
    html, text = written(sample(tuple(TASKS)[:tasks], dict(list(METHODS.items())[:methods])), tmp_path)
    assert ("critical-difference diagram" in html) is tested
    assert ("Nemenyi, 5%" in text) is tested and ("without a test" in text) is not tested


def test_critical_difference_is_that_of_the_tables():
    """Demšar 2006, table 5: q = 2.569 for four classifiers at 5%."""
    test = rank_test(Comparison(sample()))
    assert test.critical_difference == pytest.approx(2.569 * math.sqrt(4 * 5 / (6 * 6)), rel=1e-3)
    assert test.p < 0.05


def test_groups_that_are_not_told_apart():
    assert _level_groups([1, 1.5, 2.4, 4], 1.0) == [(1, 1.5), (1.5, 2.4)]
    assert _level_groups([1, 3, 5], 1.0) == []


def test_checkpoints_of_one_name_are_told_apart():
    results = sample(tasks=["gue/tf_0"])
    for r in results["records"]:
        if r["model"] == "dna_snp" and r["mode"] == "finetune":
            r["model_hash"] = f"{r['seed']}" * 64
    names = {m.model for m in Comparison(results).methods}
    assert {"dna_snp (00000000)", "dna_snp (11111111)", f"dna_snp ({SHA[:8]})", "dna_ref", "6-mers"} <= names


def test_a_test_part_used_twice_is_said(tmp_path):
    results = sample()
    results["records"][0]["test_uses"] = 2
    assert "used more than once by gue/tf_0 (dna_snp, seed 0)" in written(results, tmp_path)[1]


def test_tasks_that_nobody_ran_and_runs_where_all_failed(tmp_path):
    results = sample(tasks=["gue/tf_0"])
    results["suite"]["tasks"].append("gue/never")
    assert rows_of(written(results, tmp_path)[1], "Results")[3] == ["gue/never", "not run", "-", "-", "-", "-"]
    for model, mode in METHODS:
        failed(results, "gue/tf_0", model, mode)
    html, text = written(results, tmp_path)
    assert Page(html) and "0 finished" in text
    with pytest.raises(ValueError, match="suite demo hold no record"):
        write_report(results | {"records": []}, tmp_path)


def test_umap_panels_by_label_and_batch(tmp_path):
    results = sample(tasks=["gue/tf_0"])
    labels = [f"type {i % 15}" for i in range(300)]
    results["records"][0]["umap"] = {"x": list(range(300)), "y": [0.5] * 300, "label": labels, "batch": None}
    html, _ = written(results, tmp_path)
    assert "by label" in html and "by batch" not in html and "3 others" in html


def test_what_was_lost_is_told(tmp_path):
    results = sample()
    results["records"][0]["counts"] = {"unknown_tokens": 1234, "sequences": 99, "truncated_cells": 0}
    _, markdown = write_report(results, tmp_path)
    said = markdown.read_text().split("## What was cut")[1].split("##")[0]
    assert "unknown tokens" in said and "1,234" in said and "99" not in said and "truncated" not in said
    _, markdown = write_report(sample(), tmp_path)
    assert "## What was cut" not in markdown.read_text()
