"""Tasks, suites, metrics, methods and protocols of a user's own folder: the page that explains them is run as it stands."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bmfm.cli import CONFIG_DIR, compose, main, options, use_config_folder
from bmfm.evaluation import task_metrics
from bmfm.evaluation.baselines.linear import LinearBaseline
from bmfm.evaluation.grid import source_hash
from bmfm.evaluation.leaderboard import board as boards
from bmfm.evaluation.protocols.base import protocol_of
from bmfm.evaluation.report.comparison import described_metrics
from bmfm.evaluation.task_files import read_suite, read_task, task_names
from bmfm.metrics import Metric, classification, score

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "own_task.md"


def write_files(folder):
    """The files of the page, each from the blocks of code that bear its name."""
    blocks = re.findall(r'^```\w+ title="([^"]+)"\n(.*?)^```$', PAGE.read_text(), re.MULTILINE | re.DOTALL)
    for name in dict.fromkeys(name for name, _ in blocks):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("\n\n".join(content for other, content in blocks if other == name))
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
    use_config_folder(place / "mine")
    yield place
    boards.read_board.cache_clear()


def test_the_page_runs(place):
    results = json.loads((place / "runs" / "benchmark" / "mine" / "results.json").read_text())
    assert all(r["status"] == "ok" for r in results["records"])
    by = {(r["task"], r["model"]): r for r in results["records"]}
    assert set(by) == {("mine/purine", "count of purines"), ("mine/purine", "linear on k-mers"), ("mine/neighbours", "shares of bases")}
    # by hand: of the test part, the sequences whose share of A and G is far from one half
    rows = [line.split(",") for line in (place / "data/mine/purine.csv").read_text().split()[1:] if line.endswith(",test")]
    share = np.array([sum(base in "AG" for base in s) / len(s) for s, _, _ in rows])
    label = np.array([name == "purine" for _, name, _ in rows])
    is_confident = np.maximum(share, 1 - share) >= 0.6
    expected = ((share > 0.5) == label)[is_confident].mean()
    record = by["mine/purine", "count of purines"]
    assert record["metrics"]["confident_accuracy"] == pytest.approx(expected) and record["metrics"]["accuracy"] == 1.0
    linear = by["mine/purine", "linear on k-mers"]
    low, high = linear["intervals"]["confident_accuracy"]
    assert low <= linear["metrics"]["confident_accuracy"] <= high
    # and of each test sequence the one whose counts of bases are nearest
    counts = np.array([[s.count(base) for base in "ACGT"] for s, _, _ in rows]) / 41
    nearest = [min((j for j in range(len(rows)) if j != i), key=lambda j: ((counts[i] - counts[j]) ** 2).sum()) for i in range(len(rows))]
    agreement = by["mine/neighbours", "shares of bases"]["metrics"]["neighbour_agreement"]
    assert agreement == pytest.approx((label == label[nearest]).mean(), abs=0.1)  # of neighbours at the same distance either is one
    page = (place / "runs" / "benchmark" / "mine" / "report.html").read_text()
    assert all(w in page for w in ("accuracy of confident predictions", "count of purines", "nearest neighbours of the same label"))


def test_what_is_in_the_folder_is_chosen_by_name(own):
    assert "mine/purine" in task_names() and "gue/splice" in task_names() and read_suite("mine").tasks == ("mine/purine", "mine/neighbours")
    assert "mine" in options("suite") and "purine_count" in options("baseline")
    task = read_task("mine/purine", ["checkpoint=none", "data_root=data"])
    assert task.metric == "confident_accuracy" and task.recipe == "dna_finetune"
    assert protocol_of(task).metrics(task)["confident_accuracy"].words == "accuracy of confident predictions"
    assert compose("benchmark", ["+suite=mine", "baseline=[purine_count]"]).baselines.purine_count.name == "count of purines"
    board = boards.read_board("mine")
    assert board.metrics == {"mine/purine": "confident_accuracy", "mine/neighbours": "neighbour_agreement"}
    assert board.in_words("neighbour_agreement") == "nearest neighbours of the same label" and list(board.modes) == ["mine/purine"]
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
    measure = task_metrics.extend(classification, {"mine": _accuracy}, {"mine": Metric("a")})
    for g in (None, groups):
        metrics, intervals = score(measure, truth, scores, 200, groups=g)
        assert metrics["mine"] == pytest.approx(metrics["accuracy"]) and intervals["mine"] == pytest.approx(intervals["accuracy"])
    assert score(measure, truth, scores, 0)[0].keys() == {"accuracy", "macro_f1", "mcc", "auroc", "auprc", "mine"}


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
        task_metrics.describe(settings)


def test_figures_outside_of_their_range_are_refused():
    for wrong, message in ((lambda t, s: 1.5, "gave 1.5, outside of 0.0 to 1.0"), (lambda t, s: "much", "must give one number")):
        measure = task_metrics.extend(classification, {"share": wrong}, {"share": Metric("a")})
        with pytest.raises(ValueError, match=message):
            score(measure, np.zeros(4, int), np.eye(2)[[0, 0, 1, 1]])


def test_descriptions_come_back_from_records():
    described = {"a": Metric("a", 0.0, np.inf, False), "b": Metric("b", -1.0)}
    records = [{"metric_descriptions": json.loads(json.dumps(task_metrics.to_record(described), allow_nan=False))}]
    assert {k: v for k, v in described_metrics(records).items() if k in described} == described
    other = {"metric_descriptions": task_metrics.to_record({"a": Metric("another")})}
    with pytest.raises(ValueError, match="'a' is described in two ways"):
        described_metrics([*records, other])


def test_another_version_of_ones_code_is_another_job(own, monkeypatch):
    function = task_metrics.import_functions(read_task("mine/purine", ["checkpoint=none", "data_root=data"]).metrics)["confident_accuracy"]
    before = source_hash(function)
    assert before and source_hash(LinearBaseline("l", ["dna"])) is None
    monkeypatch.setattr("inspect.getsource", lambda code: "other")
    assert source_hash(function) != before
