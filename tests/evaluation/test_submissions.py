"""What a submission says is not believed: scores are computed again, and what no run can have left is refused."""

import copy
import io
import json
import zipfile
from datetime import UTC, datetime

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import matthews_corrcoef

from bmfm import leaderboard
from bmfm.evaluation.checksums import content_hash
from bmfm.evaluation.leaderboard import entries as board_entries
from bmfm.evaluation.leaderboard import predictions, recompute, standing
from bmfm.evaluation.leaderboard.board import Board
from bmfm.evaluation.leaderboard.submission import digest, make_submission, summary
from bmfm.evaluation.methods.base import check_finite
from bmfm.evaluation.task_files import read_examples, read_task
from bmfm.files import ASSETS
from tests.evaluation.test_report import SHA, record, sample

TASK = "demo/core_promoter_tata"
SUITE = {"name": "demo_dna", "title": "t", "tasks": [TASK]}
DATA = content_hash([ASSETS / "dna" / "prom_core_tata"])


@pytest.fixture(scope="module")
def examples():
    return read_examples(read_task(TASK, ["checkpoint=none"]), "none")


@pytest.fixture(scope="module")
def runs(examples):
    """Probabilities and Matthews correlation of three seeds, by scikit-learn."""
    texts, made = examples.inputs, {}
    counted = CountVectorizer(analyzer="char", ngram_range=(3, 3)).fit_transform(texts)
    train, test = examples.parts["train"], examples.parts["test"]
    for seed in range(3):
        drawn = np.random.default_rng(seed).choice(train, 1500)
        model = LogisticRegression(max_iter=200).fit(counted[drawn], examples.labels_of_all("label")[drawn])
        scores = model.predict_proba(counted[test])
        made[seed] = scores, float(matthews_corrcoef(examples.labels_of_all("label")[test], scores.argmax(1)))
    return made


@pytest.fixture
def folder(runs, tmp_path):
    """A run as the benchmark leaves it: results, and predictions by job."""
    records = []
    for seed, (scores, value) in runs.items():
        one = record(
            TASK, "three", "finetune", seed, value, key=f"k{seed}", data_hash=DATA, n_test=613, metric="mcc", metrics={"mcc": value}
        )
        (tmp_path / "jobs" / f"k{seed}").mkdir(parents=True)
        np.savez_compressed(tmp_path / "jobs" / f"k{seed}" / "predictions.npz", **{"label/truth": scores.argmax(1), "label/scores": scores})
        records.append(one)
    (tmp_path / "results.json").write_text(json.dumps({"suite": SUITE, "records": records}))
    return tmp_path


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_embeddings_that_are_no_numbers_are_named(examples, bad):
    embedded = np.zeros((len(examples.inputs), 2))
    assert check_finite(embedded, examples) is embedded
    embedded[[0, 3], 1] = bad
    with pytest.raises(ValueError, match=rf"2 of {len(embedded):,} embeddings are not finite \(first: .*train\.csv.*, row 2\)"):
        check_finite(embedded, examples)


def submit(folder, name="one", *more):
    out = folder / "in" / f"{name}.json"
    out.parent.mkdir(exist_ok=True)
    status = leaderboard.main(
        ["submit", str(folder / "results.json"), "--model", "three", "--mode", "finetune", "--output", str(out), *more]
    )
    return out, status


def rewrite(file, change, target=None):
    content = json.loads(file.read_text())
    change(content)
    (target or file).write_text(json.dumps(content | {"digest": digest(content)}))
    return target or file


def test_scores_follow_from_predictions(folder, capsys):
    file, status = submit(folder)
    assert status == 0 and file.with_suffix(".npz").is_file()
    assert board_entries.inspect(file)[1:] == ([], "recomputed")
    assert leaderboard.main(["check", str(file)]) == 0
    assert "valid; submitted, not repeated; scores recomputed from its predictions" in capsys.readouterr().out
    assert leaderboard.main(["build", str(file.parent), "--output", str(folder / "site")]) == 0
    assert "<strong>" in (folder / "site" / "index.html").read_text()


def _invent(s, by=0.05):
    """Other figures, consistent with one another."""
    for t in s["tasks"]:
        for x in t["seeds"]:
            x["value"] += by
        t["mean"], t["low"], t["high"] = summary([x["value"] for x in t["seeds"]])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_invent, "value is .*, of its predictions it is"),
        (lambda s: _invent(s, 1e-4), "value is .*, of its predictions it is"),
        (lambda s: s["tasks"][0].update(n_test=614), "n_test is 614, the task's test part has 613 examples"),
        (lambda s: s["tasks"][0]["seeds"][0].update(predictions=SHA), "are not those that the submission was made with"),
        (lambda s: [x.update(predictions=s["tasks"][0]["seeds"][0]["predictions"]) for x in s["tasks"][0]["seeds"]], "two seeds have the same predictions"),
        (lambda s: s["tasks"][0].update(data_hash=SHA), "run on the task's data"),
    ],
)  # fmt: skip
def test_altered_figures_are_found(folder, change, said):
    file, _ = submit(folder)
    reasons = board_entries.inspect(rewrite(file, change)).reasons
    assert len(reasons) >= 1
    import re

    assert re.search(said, " ".join(reasons))


def test_predictions_that_do_not_come_along_are_told(folder):
    file, _ = submit(folder)
    file.with_suffix(".npz").unlink()
    assert board_entries.inspect(file)[1:] == ([], "predictions named by their hash, not at hand")
    rewrite(file, lambda s: [x.update(predictions=None) for x in s["tasks"][0]["seeds"]])
    assert board_entries.inspect(file)[1:] == ([], "predictions not kept")
    rewrite(file, lambda s: s["tasks"][0].update(n_test=600))  # the task says so all the same
    assert "613 examples" in board_entries.inspect(file).reasons[0]


def test_without_the_data_nothing_is_said_to_be_recomputed(folder, monkeypatch):
    file, _ = submit(folder)
    monkeypatch.setattr(recompute, "examples_at_hand", lambda task, root: None)
    assert board_entries.inspect(file)[1:] == ([], "scores not recomputed here: data not at hand of 1 of 1 tasks")


def test_who_repeats_is_named_and_who_copies_is_refused(folder, runs, examples, capsys):
    file, _ = submit(folder, "one", "--contact", "Ann <ann@example.org>")
    # the same weights run again elsewhere: other seeds' noise, means within one another's intervals
    results = json.loads((folder / "results.json").read_text())
    truth = examples.labels_of_all("label")[examples.parts["test"]]
    for r in results["records"]:
        scores = np.clip(runs[r["seed"]][0] + np.random.default_rng(r["seed"]).normal(0, 0.01, (613, 2)), 0, 1)
        r["metrics"]["mcc"] = float(matthews_corrcoef(truth, scores.argmax(1)))
        np.savez_compressed(folder / "jobs" / r["key"] / "predictions.npz", **{"label/scores": scores})
    (folder / "results.json").write_text(json.dumps(results))
    submit(folder, "two", "--contact", "Ben")
    later = "2026-03-01T00:00:00+00:00"
    for name, change in (
        ("three", lambda s: (s["model"].update(name="mine", hash=SHA[::-1]), s.update(contact="Eve", mode="lora", date=later))),
        ("four", lambda s: s.update(contact="ann-annexample.org", date=later)),
    ):
        copied = rewrite(file, change, file.with_name(f"{name}.json"))
        copied.with_suffix(".npz").write_bytes(file.with_suffix(".npz").read_bytes())
    entries, refused = board_entries.gather(list(file.parent.glob("*.json")), "data")
    words = {f.stem: e.words for f, e in entries.items()}
    assert words["one"] == [("repeated by Ben", True), ("scores recomputed from its predictions", True)]
    assert words["two"][0] == ("repeated by Ann <ann@example.org>", True)
    assert {f.stem for f in refused} == {"three", "four"} and all("by the same predictions" in why for (why,) in refused.values())
    # nor are other digits of the same predictions a repetition, whose seeds bear other numbers
    kept = predictions.read(file.with_suffix(".npz"))
    moved = {(task, seed + 5): {k: np.float64(v) + 1e-9 for k, v in arrays.items()} for (task, seed), arrays in kept.items()}

    def move(s):
        for x in s["tasks"][0]["seeds"]:
            x["seed"] += 5
            x["predictions"] = predictions.content_hash(moved[TASK, x["seed"]])
        s.update(contact="friend", date=later)

    predictions.write(rewrite(file, move, file.with_name("five.json")).with_suffix(".npz"), moved)
    entries, refused = board_entries.gather(list(file.parent.glob("*.json")), "data")
    assert refused.keys() == {file.with_name(f"{n}.json") for n in ("three", "four", "five")}
    assert "to the last digit" in refused[file.with_name("five.json")][0]
    one, two, five = ((json.loads((f := file.with_name(f"{n}.json")).read_text()), f.with_suffix(".npz")) for n in ("one", "two", "five"))
    assert predictions.alike(*one, *five) and not predictions.alike(*one, *two)
    # what is being submitted comes last, whatever date it bears
    rewrite(copied, lambda s: s.update(date="2026-01-01T00:00:00+00:00"))
    capsys.readouterr()
    assert leaderboard.main(["check", str(copied)]) == 1 and "four.json: its figures are those of three" in capsys.readouterr().out


def made(**more):
    """A submission to a suite of six tasks whose predictions were not kept."""
    return signed(make_submission(sample(), "dna_snp", "finetune", contact="someone") | more)


def signed(content):
    return content | {"digest": digest(content)}


def altered(change):
    content = copy.deepcopy(made())
    change(content)
    return content


def _perfect(s):
    for t in s["tasks"]:
        for x in t["seeds"]:
            x["value"] = 1.0 if t["metric"] == "mcc" else 0.0


def _values(s, of):
    for t in s["tasks"]:
        for i, x in enumerate(t["seeds"]):
            x["value"] = of(1.0 if t["metric"] == "mcc" else 0.0, i)


def _equal(s):
    for t in s["tasks"]:
        for x in t["seeds"]:
            x["value"] = t["seeds"][0]["value"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_perfect, "every score of every task is perfect"),
        (_equal, "the same score to the last digit"),
        (lambda s: s["model"].update(hash="0" * 64), "model.hash is 000000000000..., which is the SHA-256 of no file"),
        (lambda s: s["model"].update(hash="01" * 32), "SHA-256 of no file"),
        (lambda s: s["model"].update(hash=standing.EMPTY), "SHA-256 of no file"),
        (lambda s: s.update(date="9999-12-31"), "yet to come"),
        (lambda s: s.update(date="2026-02-31"), "no day of the calendar"),
        (lambda s: s.update(date="2026-13"), "no day of the calendar"),
        (lambda s: s.update(date="2019-05-01"), "before there was anything to run"),
        (lambda s: s["tasks"][0].update(n_test=999), "n_test is 999, the task's test part has 1000 examples"),
        (lambda s: s["model"].update(name=" dna_snp"), "single spaces"),
        (lambda s: s["model"].update(name="\u3164"), "of ASCII"),
        (lambda s: s["model"].update(name="\u2800\u2800"), "of ASCII"),
        (lambda s: s["model"].update(name="dna\u200bsnp"), "of ASCII"),
        (lambda s: s["model"].update(name="dnа_snp"), "of ASCII"),
        (lambda s: s["model"].update(name="..."), "of ASCII"),
        (lambda s: s.update(contact="Аnn"), "contact is"),
        (lambda s: s["model"].update(citation="\u3164"), "names no work"),
        (lambda s: s.update(versions={}), "versions.bmfm is missing"),
        (lambda s: s.update(versions={"bmfm": "99.0.0"}), "no version up to the present"),
        (lambda s: s.update(versions={"bmfm": ""}), "no version up to the present"),
        (lambda s: s.update(commit="zzz"), "none of git's"),
        (lambda s: s.update(mode="zero_shot"), "gue/tf_0: zero_shot cannot have scored it; its protocol is for linear_probe"),
        (lambda s: s.update(mode="baseline"), "a baseline has none"),
        (lambda s: s["model"].update(parameters=0), "which no model has"),
        (lambda s: s["model"].update(parameters=10**90), "which no model has"),
        (lambda s: s["model"].update(hash="0123456789abcdef" * 4), "SHA-256 of no file"),
        (lambda s: s["model"].update(hash="0123456789abcdef89abcdef01234567" * 2), "SHA-256 of no file"),
        (lambda s: s["model"].update(name="three (repeated by Ann)"), "model.name says 'repeated'"),
        (lambda s: s["model"].update(name="Verified"), "model.name says 'Verified'"),
        (lambda s: _values(s, lambda best, i: best and best - 1e-9 * i), "every score of every task is perfect"),
        (lambda s: _values(s, lambda best, i: 0.5 + 1e-9 * i), "the same score to the last digit"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(change, said):
    board = Board("demo", "t", {}, {}, n_test={"gue/tf_0": 1000}, modes={"gue/tf_0": ("linear_probe", "finetune", "lora", "baseline")})
    reasons = standing.impossible(altered(change), board, datetime(2026, 6, 1, tzinfo=UTC))
    assert len(reasons) == 1 and said in reasons[0]
    assert standing.impossible(made(), board, datetime(2026, 6, 1, tzinfo=UTC)) == []


def test_the_same_again_is_refused_under_any_name():
    first, later = made(), "2026-01-05T10:00:00+00:00"

    def again(change):
        other = altered(change) | {"date": later}
        return standing.among([signed(other), first])

    def nudge(s):
        for i, t in enumerate(s["tasks"]):
            for x in t["seeds"]:
                x["value"] += 5e-4 * (-1) ** i

    def renumber(s):
        for t in s["tasks"]:
            for x in t["seeds"]:
                x["seed"] += 10

    def permute(s):
        for t in s["tasks"]:
            values = [x["value"] for x in t["seeds"]]
            for x, value in zip(t["seeds"], values[1:] + values[:1], strict=True):
                x["value"] = value

    def extend(s):
        for t in s["tasks"]:
            t["seeds"].append({"seed": 7, "value": t["seeds"][0]["value"] + 0.01, "predictions": None})

    for change, said in (
        (renumber, "to the last digit"),
        (permute, "to the last digit"),
        (extend, "to the last digit"),
        (lambda s: (permute(s), s.update(contact="friend")), "to the last digit"),
        (lambda s: s.update(commit="other"), "to the last digit"),
        (lambda s: s["model"].update(name="another", hash=SHA[::-1]), "to the last digit"),
        (lambda s: s.update(mode="lora"), "to the last digit"),
        (nudge, "within 0.0005 in all 18 runs"),
    ):
        refused, repeated = again(change)
        assert next(iter(refused.values())).count(said) == 1 and first["digest"] not in refused and not repeated
    honest = make_submission(sample(noise=0.02), "dna_snp", "finetune", contact="another")
    assert standing.among([first, signed(honest | {"date": later})])[0] == {}


@pytest.mark.parametrize("name", ["dna-snp", "DNA SNP", "dnasnp", "dna__snp"])
def test_names_that_look_alike_are_of_one_model(name):
    first = made()
    other = make_submission(sample(noise=0.03), "dna_snp", "finetune", contact="x") | {"date": "2026-01-05T10:00:00+00:00"}
    other["model"] |= {"name": name, "hash": SHA[::-1]}
    refused, _ = standing.among([first, signed(other)])
    assert "looks like 'dna_snp'" in next(iter(refused.values()))
    assert standing.skeleton("Il1O0") == standing.skeleton("lIl0o") and standing.skeleton("rn") == standing.skeleton("m")


def _zip(tmp_path, name, content, **how):
    with zipfile.ZipFile(tmp_path / "p.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content, **how)
    return tmp_path / "p.npz"


def _npy(array, **more):
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, **more)
    return stream.getvalue()


class Evil:
    def __reduce__(self):
        import os

        return os.mkdir, ("evil",)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.npy", _npy(np.array([Evil()], object), allow_pickle=True)),
        ("a.npy", _npy(np.array(["text"]))),
        ("a.npy", _npy(np.zeros(4)).replace(b"(4,)", b"(9,)")),
        ("a.npy", _npy(np.zeros(4)).replace(b"(4,), }" + b" " * 12, b"(99999999999999,), }")),
        ("a.npy", b"\x93NUMPY\x03\x00" + b"\0" * 20),
        ("a.npy", b""),
        ("a.txt", b"text"),
    ],
)
def test_files_that_are_no_predictions_are_refused(tmp_path, monkeypatch, name, content):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="not a file of predictions"):
        predictions.read(_zip(tmp_path, name, content))
    assert not (tmp_path / "evil").exists()


def test_bombs_and_stray_names_are_refused(tmp_path, monkeypatch):
    for broken in (b"", b"PK", b"\x93NUMPY"):
        (tmp_path / "p.npz").write_bytes(broken)
        with pytest.raises(ValueError, match="not a file of predictions"):
            predictions.read(tmp_path / "p.npz")
    with pytest.raises(ValueError, match="is not named TASK@SEED/OBJECTIVE"):
        predictions.read(_zip(tmp_path, "label.npy", _npy(np.zeros(2))))
    monkeypatch.setattr(predictions, "MAX_UNPACKED", 1000)
    with pytest.raises(ValueError, match="unpacks to more than 1,000 bytes"):
        predictions.read(_zip(tmp_path, "t@0/label.npy", _npy(np.zeros(10_000))))


def test_predictions_come_back_as_they_were(tmp_path):
    rng = np.random.default_rng(0)
    kept = {("gue/tf_0", 0): {"label": rng.random((5, 2))}, ("a@b/c", 12): {"dev": rng.random(4).astype(np.float32), "hk": np.arange(3)}}
    predictions.write(tmp_path / "p.npz", kept)
    again = predictions.read(tmp_path / "p.npz")
    assert set(again) == set(kept)
    for where, arrays in kept.items():
        assert predictions.content_hash(again[where]) == predictions.content_hash(arrays)
        assert all(np.array_equal(arrays[k], again[where][k]) and arrays[k].dtype == again[where][k].dtype for k in arrays)


def _header(text):
    text = text.encode("latin-1").ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f8', 'fortran_order': False, 'shape': (-1, -0), }",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (10**30, 2), }",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000000000000, 0), }",
        "{'descr': __import__('os'), 'fortran_order': False, 'shape': (1,), }",
        "(" * 60,
        "{'descr': [('a','<f8')], 'fortran_order': False, 'shape': (0,), }",
        "{'descr': ('<f8',(10,)), 'fortran_order': False, 'shape': (0,), }",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (0, 99999999999), }",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (True, False), }",
        "{'descr': '<f8', 'fortran_order': False, 'shape': None, }",
        "{'descr': '<M8', 'fortran_order': False, 'shape': (0,), }",
        "{1: 2}",
        "[1, 2]",
        "'",
        "\0",
    ],
)
def test_headers_are_read_to_the_letter(tmp_path, header):
    with pytest.raises(ValueError, match=r"p\.npz: not a file of predictions"):
        predictions.read(_zip(tmp_path, "t@0/label.npy", _header(header)))


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("kind", ["<f4", ">f8", "<i8", "|u1", "<f2"])
def test_arrays_are_those_that_numpy_wrote(tmp_path, kind, order):
    array = np.asarray(np.arange(12).reshape(3, 4), np.dtype(kind), order=order)
    np.savez_compressed(tmp_path / "p.npz", **{"t@0/label": array, "t@0/one": array[0, 0]})
    found = predictions.read(tmp_path / "p.npz")["t", 0]
    assert np.array_equal(found["label"], array) and found["label"].dtype == array.dtype and found["one"].shape == ()


def test_a_damaged_file_is_refused_and_the_site_is_built(folder, capsys):
    """Every byte of an archive may be wrong; what stands beside it is shown all the same."""
    file, _ = submit(folder, "one")
    good, npz = file.with_suffix(".npz").read_bytes(), file.with_suffix(".npz")
    for place in range(0, len(good), max(1, len(good) // 60)):
        npz.write_bytes(good[:place] + bytes([good[place] ^ 0x55]) + good[place + 1 :])
        try:
            predictions.read(npz)
        except ValueError as error:
            assert str(error).startswith(str(npz))
    npz.write_bytes(good[: len(good) // 2])
    other, _ = submit(folder, "two")
    rewrite(other, lambda s: s.update(date="2026-02-01"))
    capsys.readouterr()
    assert leaderboard.main(["build", str(file.parent), "--output", str(folder / "site")]) == 1
    assert "one.npz: not a file of predictions" in capsys.readouterr().out
    assert ">three<" in (folder / "site" / "index.html").read_text().replace(" ", "").replace("\n", "")


def test_a_folder_or_a_link_in_place_of_a_file_is_refused(folder):
    file, _ = submit(folder, "one")
    npz = file.with_suffix(".npz")
    npz.unlink()
    for make in (npz.mkdir, lambda: npz.symlink_to("/dev/zero"), lambda: npz.symlink_to(folder / "absent")):
        make()
        assert "a folder, a link or a device" in board_entries.inspect(file).reasons[0]
        npz.rmdir() if npz.is_dir() else npz.unlink()
    (file.parent / "folder.json").mkdir()
    (file.parent / "link.json").symlink_to("/dev/zero")
    (file.parent / "good.json").symlink_to(file)
    _, refused = board_entries.gather(list(file.parent.glob("*.json")), "data")
    assert {f.stem for f in refused} == {"folder", "link", "good"}
