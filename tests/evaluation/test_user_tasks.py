"""Cards, suites, metrics and baselines of a user's own folder: the page that explains them is run as it stands."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bmfm.cli import CONFIG_DIR, compose, main, options, use_config_folder
from bmfm.evaluation import board as boards
from bmfm.evaluation import own_metrics
from bmfm.evaluation.tasks import read_suite, read_task, task_names
from bmfm.metrics import METRICS, Metric, classification
from bmfm.metrics import score as shipped_score

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "own_task.md"


def write_files(folder):
    """The files of the page, each from the block of code that bears its name."""
    blocks = re.findall(r'^```\w+ title="([^"]+)"\n(.*?)^```$', PAGE.read_text(), re.MULTILINE | re.DOTALL)
    for name, content in blocks:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return [name for name, _ in blocks]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder in which the page was followed to its end."""
    folder = tmp_path_factory.mktemp("own é")
    assert write_files(folder)[-1] == "run.sh"
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "PYTHONWARNINGS": "ignore",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    done = subprocess.run(["bash", "-e", "run.sh"], cwd=folder, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture
def own(place, monkeypatch):
    """That folder as this process's own, forgotten afterwards."""
    monkeypatch.setenv(CONFIG_DIR, "")
    monkeypatch.setattr(sys, "path", list(sys.path))
    known = dict(METRICS)
    use_config_folder(place / "mine")
    yield place
    METRICS.clear()
    METRICS.update(known)
    boards.read_board.cache_clear()


def test_the_page_runs(place):
    results = json.loads((place / "runs" / "benchmark" / "mine" / "results.json").read_text())
    by = {r["model"]: r for r in results["records"]}
    assert set(by) == {"count of purines", "linear on k-mers"} and all(r["status"] == "ok" for r in by.values())
    # by hand: of the test part, the sequences whose share of A and G is far from one half
    rows = [line.split(",") for line in (place / "data/mine/purine.csv").read_text().split()[1:] if line.endswith(",test")]
    share = np.array([sum(base in "AG" for base in s) / len(s) for s, _, _ in rows])
    label = np.array([name == "purine" for _, name, _ in rows])
    sure = np.maximum(share, 1 - share) >= 0.6
    expected = ((share > 0.5) == label)[sure].mean()
    record = by["count of purines"]
    assert record["metrics"]["confident_accuracy"] == pytest.approx(expected) and record["metrics"]["accuracy"] == 1.0
    low, high = by["linear on k-mers"]["intervals"]["confident_accuracy"]
    assert low <= by["linear on k-mers"]["metrics"]["confident_accuracy"] <= high
    page = (place / "runs" / "benchmark" / "mine" / "report.html").read_text()
    assert "accuracy of confident predictions" in page and "count of purines" in page


def test_what_is_in_the_folder_is_chosen_by_name(own):
    assert "mine/purine" in task_names() and "gue/splice" in task_names() and read_suite("mine").tasks == ("mine/purine",)
    assert "mine" in options("suite") and "purine_count" in options("baseline")
    card = read_task("mine/purine", ["checkpoint=none", "data_root=data"])
    assert card.metric == "confident_accuracy" and METRICS["confident_accuracy"].words == "accuracy of confident predictions"
    assert compose("benchmark", ["+suite=mine", "baseline=[purine_count]"]).baselines.purine_count.name == "count of purines"
    board = boards.read_board("mine")
    assert board.metrics == {"mine/purine": "confident_accuracy"}
    with pytest.raises(ValueError, match="no task is named 'mine/purin'; did you mean mine/purine"):
        read_task("mine/purin")


def test_unknown_names_are_looked_for_there_too(own, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmark", "+suite=minne", "--config-dir", str(own / "mine")])
    with pytest.raises(SystemExit) as ended:
        main(lambda config: None, "benchmark")
    assert ended.value.code == 2 and "no suite is named 'minne'; did you mean mine" in capsys.readouterr().err


def test_names_that_ship_are_not_taken(tmp_path, monkeypatch):
    monkeypatch.setenv(CONFIG_DIR, "")
    (tmp_path / "task" / "gue").mkdir(parents=True)
    (tmp_path / "task" / "gue" / "splice.yaml").write_text("")
    with pytest.raises(ValueError, match=r"task/gue/splice.yaml has the name of a file that ships"):
        use_config_folder(tmp_path)


def test_a_recipe_of_ones_own_trains(own, monkeypatch, tmp_path):
    """Every entry point takes the folder; Hydra itself composes."""
    (own / "mine" / "recipe").mkdir(exist_ok=True)
    (own / "mine" / "recipe" / "shorter.yaml").write_text("# @package _global_\ndefaults: [dna_snp]\ntrainer:\n  max_steps: 7\n")
    seen = []
    monkeypatch.setattr(sys, "argv", ["train", "+recipe=shorter", "--config-dir", str(own / "mine"), f"run_dir={tmp_path}"])
    main(lambda config: seen.append((config.trainer.max_steps, config.name)), "train")
    assert seen == [(7, "dna_snp")]


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("task/mine/purine.yaml", "mine_methods.conf", "mine_metods.conf", "task.metrics.confident_accuracy: mine_metods.confident_accuracy cannot"),
        ("baseline/purine_count.yaml", "PurineCount", "PurineKount", "mine_methods.PurineKount cannot be imported"),
        ("task/mine/purine.yaml", "column: label", "column: [label", "is no YAML"),
        ("suite/mine.yaml", "mine/purine", "mine/purines", "no task is named 'mine/purines'; did you mean mine/purine"),
    ],
)  # fmt: skip
def test_mistakes_in_ones_own_files_end_with_one_line(own, tmp_path, monkeypatch, capsys, file, old, new, said):
    import shutil

    import bmfm.benchmark

    folder = shutil.copytree(own / "mine", tmp_path / "mine")
    content = (folder / file).read_text()
    assert old in content
    (folder / file).write_text(content.replace(old, new))
    options = ["+suite=mine", "baseline=[purine_count]", f"data_root={own / 'data'}", f"run_dir={tmp_path / 'run'}"]
    monkeypatch.setattr(sys, "argv", ["benchmark", *options, "--config-dir", str(folder)])
    with pytest.raises(SystemExit) as ended:
        main(bmfm.benchmark.run, "benchmark")
    stderr = capsys.readouterr().err
    assert ended.value.code == 2 and said in stderr and stderr.count("\n") == 1, stderr


def _accuracy(truth, scores):
    return (scores.argmax(1) == truth).mean()


def test_intervals_are_those_of_the_metrics_that_ship():
    """The same draws of test examples, once as weights and once as rows, also of groups."""
    rng = np.random.default_rng(3)
    truth, scores, groups = rng.integers(0, 2, 90), rng.random((90, 2)), rng.integers(0, 12, 90)
    own_metrics.register({"mine_accuracy": Metric("a")})
    for g in (None, groups):
        metrics, intervals = own_metrics.score({"mine_accuracy": _accuracy}, truth, scores, 200, g)
        expected = shipped_score(classification, truth, scores, 200, groups=g)
        assert metrics["mine_accuracy"] == pytest.approx(expected[0]["accuracy"])
        assert intervals["mine_accuracy"] == pytest.approx(expected[1]["accuracy"])
    METRICS.pop("mine_accuracy")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"mcc": {"_target_": "x.f", "more_is_better": True}}, "mcc has the name of a metric that ships"),
        ({"m": {"_target_": "x.f"}}, "m needs _target_ .* and more_is_better"),
        ({"m": {"more_is_better": True}}, "m needs _target_"),
    ],
)
def test_metrics_that_say_too_little_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        own_metrics.describe(settings, "task.metrics")


def test_figures_outside_of_their_range_are_refused():
    own_metrics.register({"mine_share": Metric("a")})
    for wrong, said in ((lambda t, s: 1.5, "gave 1.5, outside of 0.0 to 1.0"), (lambda t, s: "much", "must give one number")):
        with pytest.raises(ValueError, match=said):
            own_metrics.score({"mine_share": wrong}, np.zeros(4, int), np.zeros((4, 2)))
    with pytest.raises(ValueError, match="described in two ways"):
        own_metrics.register({"mine_share": Metric("b")})
    METRICS.pop("mine_share")


def test_another_version_of_ones_code_is_another_cell(own, monkeypatch):
    from bmfm.evaluation.baselines import LinearBaseline

    function = own_metrics.functions(read_task("mine/purine", ["checkpoint=none", "data_root=data"]).metrics)["confident_accuracy"]
    before = own_metrics.source_hash(function)
    assert before and own_metrics.source_hash(LinearBaseline("l", ["dna"])) is None
    monkeypatch.setattr("inspect.getsource", lambda code: "other")
    assert own_metrics.source_hash(function) != before
