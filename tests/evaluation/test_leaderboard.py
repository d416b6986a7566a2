import copy
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest

from bmfm import leaderboard
from bmfm.evaluation.checksums import content_hash
from bmfm.evaluation.leaderboard import board as boards
from bmfm.evaluation.leaderboard import check as checks
from bmfm.evaluation.leaderboard import entries as board_entries
from bmfm.evaluation.leaderboard import site
from bmfm.evaluation.leaderboard import submission as sub
from bmfm.evaluation.leaderboard.check import check
from bmfm.evaluation.leaderboard.submission import digest, make_submission
from bmfm.evaluation.report.comparison import MODES
from tests.evaluation.test_report import HOSTILE, SHA, TASKS, Page, failed, sample

SUITE = {task: metric for task, (metric, _) in TASKS.items()}
OMICS = {task: "rna" if task == "mpra/lac" else "dna" for task in SUITE}
BOARD = boards.Board("demo", "A <b>demonstration</b>", SUITE, OMICS)
DATA = SHA[::-1]
REPORTED = Path(__file__).parents[2] / "leaderboard" / "reported"


@pytest.fixture(autouse=True)
def board(monkeypatch):
    """A suite `demo` of the tasks of `sample`; other names are unknown."""
    real = boards.read_board

    def read_board(suite):
        return BOARD if suite == "demo" else real(suite)

    for module in (board_entries, site, leaderboard):
        monkeypatch.setattr(module, "read_board", read_board)


@pytest.fixture
def measured():
    return make_submission(sample(), "dna_snp", "finetune", url="https://example.org/dna_snp", contact="someone")


def reported(**more):
    made = make_submission(sample(), "dna_ref", "finetune", citation="Somebody et al. 2025")
    for task in made["tasks"]:
        task |= {"low": None, "high": None, "seeds": [], "n_test": None, "data_hash": None, "test_uses": None}
    made["model"]["hash"] = None
    return signed(made | {"status": "reported", "tasks": made["tasks"][:3]} | more)


def signed(content):
    return content | {"digest": digest(content)}


def changed(content, change, again=True):
    """A deep copy after a change, with its digest made anew."""
    content = copy.deepcopy(content)
    change(content)
    return signed(content) if again else content


def saved(folder, **submissions):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in submissions.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def test_round_trip(measured, tmp_path):
    file = saved(tmp_path, one=measured) / "one.json"
    assert sub.read(file) == measured
    assert check(sub.read(file), replace(BOARD, hashes=dict.fromkeys(SUITE, DATA))) == []
    assert [t["task"] for t in measured["tasks"]] == list(SUITE)
    first = measured["tasks"][0]
    assert first["mean"] == pytest.approx(sum(s["value"] for s in first["seeds"]) / 3)
    assert first["high"] - first["mean"] == pytest.approx(first["mean"] - first["low"])
    assert measured["hardware"] == {"device": "cpu", "cores": "2"} and measured["date"].startswith("2026-01-03")


def test_what_is_not_whole_is_not_submitted():
    with pytest.raises(ValueError, match=r"hold no gpt \(finetune\); they hold 6-mers \(baseline\), dna_ref \(finetune\)"):
        make_submission(sample(), "gpt", "finetune")
    results = failed(sample(), "gue/tf_1", "dna_snp", "finetune", seeds=(2,))
    results["records"] = [r for r in results["records"] if r["task"] != "mpra/lac"]
    with pytest.raises(ValueError, match=r"run these again.*mpra/lac: not run; gue/tf_1, seed 2: out of memory"):
        make_submission(results, "dna_snp", "finetune")


@pytest.mark.parametrize("key, said", [("model_hash", "2 different checkpoints"), ("data_hash", "gue/tf_0: data_hash differs")])
def test_runs_of_different_things_are_not_submitted(key, said):
    results = sample()
    results["records"][0][key] = "f" * 64
    with pytest.raises(ValueError, match=said):
        make_submission(results, "dna_snp", "finetune")


def test_a_baseline_may_have_settings_by_task():
    results = sample(methods={("6-mers", "baseline"): 0.6})
    spread = [(i, r, s, next(iter(r["metrics"].values()))) for i, r in enumerate(results["records"]) for s in range(3)]
    results["records"] = [
        r | {"seed": s, "model_hash": f"{i % 10}" * 64, "metrics": {r["metric"]: value + 0.01 * s}} for i, r, s, value in spread
    ]
    assert check(make_submission(results, "6-mers", "baseline"), BOARD) == []


def first(**values):
    return lambda s: s["tasks"][0].update(values)


INVALID = [
    (lambda s: s.update(format="bmfm-submission/1"), "format is 'bmfm-submission/1'; choose bmfm-submission/2"),
    (lambda s: s.update(rank=1), "rank is no field of the format"),
    (lambda s: s["model"].update(rank=1), "model.rank is no field of the format"),
    (lambda s: s.pop("versions"), "versions is missing"),
    (lambda s: s.update(mode="guess"), "mode is 'guess'"),
    (lambda s: s["tasks"].pop(), "mpra/lac is missing; a submission has every task"),
    (lambda s: s["tasks"].append(s["tasks"][0] | {"task": "gue/tf_9"}), "gue/tf_9 is not of suite demo"),
    (lambda s: s["tasks"].append(s["tasks"][0]), "gue/tf_0 stands 2 times"),
    (lambda s: s["tasks"][0]["seeds"].pop(), "gue/tf_0: 2 seeds; a submission has 3 or more"),
    (lambda s: s["tasks"][0]["seeds"].append(s["tasks"][0]["seeds"][0]), "a seed stands twice"),
    (first(test_uses=2), "test_uses is 2"),
    (first(test_uses=None), "test_uses is None"),
    (first(mean=0.9), "gue/tf_0: mean is 0.9, of its seeds it is 0.7"),
    (first(low=0.7199), "gue/tf_0: low is 0.7199, of its seeds"),
    (first(low=None, high=None), "gue/tf_0: low is None, of its seeds"),
    (lambda s: s["tasks"][0]["seeds"][0].update(value=71.9), "value of seed 0 is 71.9, outside the range of mcc"),
    (first(mean=-1.5), "mean is -1.5, outside the range of mcc"),
    (first(mean=10**400), "it must be finite"),
    (first(metric="accuracy"), "metric is accuracy, the suite's is mcc"),
    (first(metric="f1"), "gue/tf_0: metric 'f1' is unknown; choose accuracy"),
    (first(data_hash="0" * 64), "data_hash is 000000000000..., the task's data are"),
    (first(data_hash=None), "gue/tf_0: data_hash is missing"),
    (first(n_test=None), "gue/tf_0: n_test is missing"),
    (lambda s: s["model"].update(hash=None), "model.hash is missing"),
    (lambda s: s["model"].update(hash="abc"), "model.hash is 'abc'; it must match"),
    (lambda s: s["model"].update(url="javascript:alert(1)"), "model.url is 'javascript:alert(1)'; it must match"),
    (lambda s: s["model"].update(name="a\nb"), "model.name holds characters that are not printable"),
    (lambda s: s["model"].update(name="\u202egpj"), "model.name holds characters that are not printable"),
    (lambda s: s["model"].update(name="x" * 1000), "model.name has 1000 characters; 1 to 120"),
    (lambda s: s["model"].update(parameters=-1), "model.parameters is -1; it must be 0 or more"),
    (lambda s: s["model"].update(parameters=True), "model.parameters is True; it must be a whole number or null"),
    (lambda s: s.update(tasks={}), "tasks is {}; it must be a list"),
    (lambda s: s.update(groups=[{"group": "g", "metric": "F1", "value": 0.5}]), "groups are for reported submissions"),
]  # fmt: skip


@pytest.mark.parametrize("change, said", INVALID, ids=[said[:40] for _, said in INVALID])
def test_each_fault_is_named(measured, change, said):
    reasons = check(changed(measured, change), replace(BOARD, hashes={"gue/tf_0": DATA}))
    assert any(said in why for why in reasons), reasons
    assert not any(why.startswith("digest is") for why in reasons)


def test_what_was_changed_afterwards_is_found(measured):
    change = lambda s: s["model"].update(name="another")  # noqa: E731
    assert check(changed(measured, change, again=False), BOARD) == [
        "digest is not that of the content, which was changed after it was made; make the submission anew from its results"
    ]


@pytest.mark.parametrize("content", [None, [], 3, "text", {}, {"suite": []}])
def test_what_is_no_submission_is_refused(content, tmp_path):
    saved(tmp_path, x=content)
    assert board_entries.inspect(tmp_path / "x.json")[1]


@pytest.mark.parametrize("text", ["{", '{"a": NaN}', '{"a": 1, "a": 2}', "[" * 100_000, "\xff", "9" * 5000, " " * 3_000_000])
def test_files_that_cannot_be_read_are_refused(text, tmp_path):
    (tmp_path / "x.json").write_bytes(text.encode("latin-1"))
    assert "x.json: " in board_entries.inspect(tmp_path / "x.json")[1][0]


def test_reported_ones_may_lack_all_but_their_source():
    assert check(reported(), BOARD) == []
    assert check(reported(tasks=[], groups=[{"group": "promoter", "metric": "F1", "value": 0.92}]), BOARD) == []
    assert any("at least one figure" in why for why in check(reported(tasks=[]), BOARD))
    uncited = changed(reported(), lambda s: s["model"].update(citation=None))
    assert any("model.citation is missing" in why for why in check(uncited, BOARD))
    assert any("mean is 72.0" in why for why in check(changed(reported(), first(mean=72.0)), BOARD))


def test_schema_and_code_agree(measured):
    """Whatever jsonschema refuses the check refuses, and what passes its shape passes jsonschema."""
    rules = checks.schema()
    assert rules["properties"]["mode"]["enum"] == list(MODES) and rules["properties"]["format"]["enum"] == [sub.FORMAT]
    assert set(measured) == set(rules["required"]) == set(rules["properties"])
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft202012Validator(rules)
    validator.check_schema(rules)
    for content in (measured, reported()):
        assert validator.is_valid(content) and not check(content, BOARD)
    for change, said in INVALID:
        content = changed(measured, change)
        if not any(x in said for x in ("printable", "finite")):
            assert validator.is_valid(content) is not bool(checks._shape(content, rules, "")), said


def test_site_keeps_the_valid_and_names_the_others(measured, tmp_path):
    worse = changed(make_submission(sample(), "dna_ref", "finetune"), lambda s: None)
    folder = saved(tmp_path / "in" / "deep", good=measured, worse=worse, again=measured, cheat=changed(measured, first(mean=0.99)))
    (folder / "broken.json").write_text("{")
    index, refused = site.build(tmp_path / "in", tmp_path / "site")
    assert {f.name for f in refused} == {"broken.json", "cheat.json", "good.json"}
    assert "the same submission as" in refused[folder / "good.json"][0]
    page = index.read_text()
    assert page.index("dna_snp") < page.index("dna_ref"), "the better mean comes first"
    assert "0.990" not in page and page.count("<tr class=") == 2


def test_site_is_alone_and_lets_nothing_through(measured, tmp_path):
    other = make_submission(sample(), "dna_ref", "finetune", url="https://example.org/dna_snp", contact="someone")
    evil = changed(other, lambda s: (s["model"].update(name=HOSTILE, citation=HOSTILE), s["hardware"].update(device=HOSTILE)))
    groups = [{"group": HOSTILE, "metric": HOSTILE, "value": 0.5}]
    folder = saved(tmp_path, a=measured, evil=evil, told=reported(groups=groups))
    index, refused = site.build(folder, tmp_path / "site")
    page = Page(index.read_text())
    assert not refused and page.scripts == 1
    assert page.outside == ["https://example.org/dna_snp"] * 2
    assert "A &lt;b&gt;demonstration" in index.read_text() and any(HOSTILE in cell for cell in page.cells)


def test_what_is_known_of_each_is_told_apart(measured, tmp_path, monkeypatch):
    """In bold stands what follows from its predictions or was repeated: not what was only said, however good."""
    told, said = reported(), make_submission(sample(methods={("gpt", "finetune"): 0.9}), "gpt", "finetune")
    told["tasks"][0]["mean"] = 0.95
    monkeypatch.setattr(
        board_entries, "compare", lambda s, *_: ([], "recomputed" if s["model"]["name"] == "dna_snp" else "predictions not kept")
    )
    index, refused = site.build(saved(tmp_path, a=measured, said=said, told=signed(told)), tmp_path / "site")
    own, unproved, taken = re.findall(r'<tr class="(?:own|taken)">.*', index.read_text())
    assert not refused and "Somebody et al. 2025" in taken and "measured" not in index.read_text()
    assert '<span class="badge note">submitted, not repeated</span>' in own and "badge good" in own
    assert "predictions not kept" in unproved and "badge good" not in unproved and "badge good" not in taken
    assert "<strong>0.7" in own and "<strong>" not in unproved + taken
    assert " ± " in own and " ± " not in taken
    assert "6 of 6" in own and "3 of 6" in taken


def test_columns_can_be_sorted_by_whoever_reads(measured, tmp_path):
    index, _ = site.build(saved(tmp_path, a=measured), tmp_path / "site")
    heads = re.findall(r'<th scope="col" data-first="(\w+)" data-kind="(\w+)"[^>]*><button type="button">([^<]*)', index.read_text())
    by = {name.strip(): (order, kind) for order, kind, name in heads}
    assert by["gue/tf_0 Matthews correlation"] == ("descending", "number")
    assert by["mpra/lac mean squared error"] == ("ascending", "number")
    assert by["model"] == ("ascending", "text")
    assert "aria-sort" in site.SCRIPT


def test_commands(tmp_path, capsys):
    results, out = tmp_path / "results.json", tmp_path / "in" / "one.json"
    out.parent.mkdir()
    results.write_text(json.dumps(sample()))
    assert leaderboard.main(["submit", str(results), "--model", "dna_snp", "--mode", "finetune", "--output", str(out)]) == 0
    assert leaderboard.main(["check", str(out)]) == 0
    assert leaderboard.main(["build", str(out.parent), "--output", str(tmp_path / "site")]) == 0
    assert leaderboard.main(["submit", str(results), "--model", "6-mers", "--mode", "baseline", "--output", str(tmp_path / "no")]) == 1
    assert not (tmp_path / "no").exists()
    assert leaderboard.main(["submit", str(results), "--model", "gpt", "--mode", "lora"]) == 2
    assert "bmfm: results of demo hold no gpt (lora)" in capsys.readouterr().err
    out.write_text(out.read_text().replace('"dna_snp"', '"dna_pns"'))
    assert leaderboard.main(["check", str(out)]) == 1
    assert leaderboard.main(["build", str(out.parent), "--output", str(tmp_path / "site")]) == 1
    assert f"{out}: digest is not that of the content" in capsys.readouterr().out
    assert leaderboard.main(["sign", str(out)]) == 2, "measured figures are not signed by hand"
    out.write_text(json.dumps(reported() | {"digest": "0" * 64}))
    assert leaderboard.main(["sign", str(out)]) == 0 and sub.read(out) == reported()
    assert leaderboard.main(["build", str(tmp_path / "nowhere")]) == 2


def test_an_unknown_suite_is_named(measured, tmp_path):
    folder = saved(tmp_path, x=changed(measured, lambda s: s.update(suite="gues")))
    assert "no suite is named 'gues'; did you mean gue" in board_entries.inspect(folder / "x.json")[1][0]


def test_reported_figures_that_ship_are_valid():
    files = sorted(REPORTED.glob("*.json"))
    assert files
    for file in files:
        content, reasons, _ = board_entries.inspect(file)
        assert not reasons, reasons
        assert content["status"] == "reported"


def test_figures_of_dnabert2_have_the_published_mean():
    """Zhou et al. 2024 give 66.80 over the 28 sets of GUE: a slip in copying would show."""
    scores = [t["mean"] for t in json.loads((REPORTED / "dnabert2.json").read_text())["tasks"]]
    assert len(scores) == 28 and math.isclose(sum(scores) / 28, 0.668, abs_tol=1e-4)


def test_one_seed_is_enough_where_it_says_all():
    results = sample()
    kept = [r | {"deterministic": True, "mode": "linear_probe"} for r in results["records"] if r["mode"] == "finetune" and r["seed"] == 0]
    for record in kept:
        value = record["metrics"][record["metric"]]
        record["intervals"] = {record["metric"]: [value - 0.1, value + 0.1]}
    made = make_submission(results | {"records": kept}, "dna_snp", "linear_probe")
    assert check(made, BOARD) == []
    for change, reason in (
        (lambda s: s["tasks"][0].update(deterministic=False), "1 seeds; a submission has 3 or more"),
        (lambda s: s["tasks"][0].update(low=None), "low is missing; a bootstrap"),
        (lambda s: s["tasks"][0].update(mean=s["tasks"][0]["low"]), "of its seeds it is"),
        (lambda s: s.update(mode="finetune"), "depends on its seed"),
    ):
        assert any(reason in why for why in check(changed(made, change), BOARD)), reason


def test_data_of_a_task_are_compared(tmp_path, monkeypatch):
    """The suite `demo_dna` knows the hash of what ships; a submission of other data is refused."""
    from bmfm.files import ASSETS

    monkeypatch.undo()
    record = sample()["records"][0] | {
        "task": "demo/core_promoter_tata",
        "metric": "mcc",
        "metrics": {"mcc": 0.5},
        "intervals": {"mcc": [0.4, 0.6]},
    }
    record |= {
        "deterministic": True,
        "mode": "baseline",
        "status": "ok",
        "test_uses": 1,
        "model_kind": "baseline",
        "n_test": 613,
        "parameters": None,
    }
    for data_hash, valid in ((content_hash([ASSETS / "dna" / "prom_core_tata"]), True), ("0" * 64, False)):
        results = {
            "suite": {"name": "demo_dna", "title": "", "tasks": ["demo/core_promoter_tata"]},
            "records": [record | {"data_hash": data_hash}],
        }
        saved(tmp_path, one=make_submission(results, record["model"], "baseline"))
        reasons = board_entries.inspect(tmp_path / "one.json")[1]
        assert (not reasons) == valid and (valid or "run on the task's data" in reasons[0])
