"""The benchmark runner: from a suite to records, without the network, on data that ship."""

import hashlib
import json
import os
import time
from dataclasses import replace
from types import SimpleNamespace

import anndata
import numpy as np
import pandas as pd
import pytest

from bmfm.cli import CONFIG_DIR, compose, config_folder
from bmfm.evaluation import runner
from bmfm.evaluation.baselines.cells import PcaEmbeddings
from bmfm.evaluation.baselines.linear import LinearBaseline
from bmfm.evaluation.benchmark import benchmark, methods_of
from bmfm.evaluation.examples.cells import CellExamples
from bmfm.evaluation.examples.sequences import SequenceExamples
from bmfm.evaluation.grid import Job, RunSettings, build_grid, schedule_shared_first, takes
from bmfm.evaluation.methods.base import LabelMethod
from bmfm.evaluation.methods.finetuned import FineTuned
from bmfm.evaluation.methods.precomputed import PrecomputedEmbeddings
from bmfm.evaluation.methods.probe import Probe
from bmfm.evaluation.protocols.base import protocol_of
from bmfm.evaluation.task_files import read_examples, read_task
from bmfm.files import ASSETS, cache_root
from bmfm.launch import LocalPool, Slurm

DNA = "+suite={name: demo_dna, title: t, tasks: [demo/core_promoter_tata]}"
QUICK = ["seeds=[0]", "n_bootstrap=20", "launcher.workers=1"]
SHORT_TRAINING = {"max_epochs": 1, "channels": 32, "layers": 1, "strands": "both"}
"""Settings of baselines that are trained, where they have them."""
SHORT = [
    f"+finetune.{s}"
    for s in (
        "trainer.max_steps=4",
        "trainer.val_check_interval=4",
        "data.batch_size=8",
        "trainer.accelerator=cpu",
        "trainer.limit_val_batches=2",
    )
]


def bare(kind, name, **attributes):
    """Examples of a task of which nothing is read."""
    examples = object.__new__(kind)
    vars(examples).update({"task": SimpleNamespace(name=name)} | attributes)
    return examples


def here(run, jobs, failed):
    """A launcher that runs everything in this process."""
    return map(run, jobs)


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setattr("bmfm.launch.LocalPool.__call__", lambda self, run, jobs, failed: here(run, jobs, failed))

    def _run(*overrides):
        return benchmark(compose("benchmark", [*QUICK, f"run_dir={tmp_path / 'run'}", *overrides]))

    return _run


@pytest.fixture(scope="module")
def promoters():
    return read_examples(read_task("demo/core_promoter_tata", ["checkpoint=none"]), "none")


@pytest.fixture(scope="module")
def cells():
    return read_examples(read_task("demo/pbmc3k", ["checkpoint=none"]), "none")


def test_a_checkpoint_in_every_mode_beside_baselines(run, tmp_path, dna_model):
    modes = "modes=[linear_probe,knn_probe,finetune,lora,from_scratch]"
    records = run(DNA, f"checkpoint={dna_model}", "name=tiny", modes, *SHORT, "baseline=[kmer_linear]")
    assert [(r["model"], r["mode"]) for r in records] == [
        ("tiny", m) for m in ("linear_probe", "knn_probe", "finetune", "lora", "from_scratch")
    ] + [("linear on k-mers", "baseline")]
    for r in records:
        assert r["status"] == "ok" and r["test_uses"] == 1 and (r["n_train"], r["n_validation"], r["n_test"]) == (4904, 613, 613)
        low, high = r["intervals"]["mcc"]
        assert low <= r["metrics"]["mcc"] <= high and {"accuracy", "macro_f1", "auroc", "auprc"} <= set(r["metrics"])
        assert r["peak_memory_bytes"] > 1e8 and r["versions"]["bmfm"] and len(r["data_hash"]) == len(r["model_hash"]) == 64
    assert records[-1]["metrics"]["mcc"] == pytest.approx(0.514, abs=0.01)  # of a plain logistic regression
    table = pd.read_parquet(tmp_path / "run" / "results.parquet")
    assert sorted(table["metric_mcc"]) == sorted(r["metrics"]["mcc"] for r in records)
    kept = np.load(tmp_path / "run" / "jobs" / records[0]["key"] / "predictions.npz")
    assert kept["label/truth"].shape == (613,) and kept["label/scores"].shape == (613, 2)
    # one embedding served both probes, and finished cells are not run again
    folders = [
        f
        for f in (cache_root() / "embeddings").glob("[!.]*")
        if json.loads((f / "key.json").read_text())["model"] == records[0]["model_hash"]
    ]
    assert len(folders) == 1
    again = run(DNA, f"checkpoint={dna_model}", "name=tiny", modes, *SHORT, "baseline=[kmer_linear]")
    assert [r["date"] for r in again] == [r["date"] for r in records]
    # a run of other methods into the same folder stands beside
    run(DNA, "baseline=[cnn]", "baselines.cnn.max_epochs=1")
    assert len(json.loads((tmp_path / "run" / "results.json").read_text())["records"]) == 7
    assert all(w in (tmp_path / "run" / "report.md").read_text() for w in ("tiny", "small CNN", "linear on k-mers"))
    # and its seeds make a submission that the leaderboard takes
    from bmfm.leaderboard import main

    submitted = tmp_path / "submission.json"
    command = ["submit", str(tmp_path / "run" / "results.json"), "--model", "tiny", "--mode", "linear_probe", "--output", str(submitted)]
    assert main(command) == 0 and main(["check", str(submitted)]) == 0


def test_a_failure_is_a_record_and_is_tried_again(run, tmp_path, monkeypatch):
    def fail(self, examples, seed, folder):
        raise RuntimeError("out of luck")

    with monkeypatch.context() as patch:
        patch.setattr(LinearBaseline, "predict", fail)
        (record,) = run(DNA, "baseline=[kmer_linear]")
    assert record["status"] == "failed" and record["error"] == "RuntimeError: out of luck" and record["test_uses"] == 0
    assert "out of luck" in (tmp_path / "run" / "jobs" / record["key"] / "error.txt").read_text()
    assert "out of luck" in (tmp_path / "run" / "report.html").read_text()
    (record,) = run(DNA, "baseline=[kmer_linear]")
    assert record["status"] == "ok"


def _job(job):
    if job["what"] == "die":
        os._exit(9)
    if job["what"] == "raise":
        raise ValueError("bad")
    time.sleep(0.05)
    return job | {"status": "ok"}


@pytest.mark.slow  # tests/test_ledger.py has a worker that dies
def test_a_dead_process_takes_its_own_job_alone():
    jobs = [{"key": i, "what": what} for i, what in enumerate(["work", "die", "work", "raise", "work"])]
    records = {r["key"]: r for r in LocalPool(2)(_job, jobs, lambda job, why: job | {"status": why})}
    assert [records[i]["status"][:4] for i in range(5)] == ["ok", "the ", "ok", "Valu", "ok"]


def test_jobs_by_submitit(tmp_path):
    pytest.importorskip("submitit")
    jobs = [{"key": i, "what": what} for i, what in enumerate(["work", "raise"])]
    launched = Slurm(str(tmp_path), cluster="local", timeout_min=2)
    records = {r["key"]: r for r in launched(_job, jobs, lambda job, why: job | {"status": why})}
    assert records[0]["status"] == "ok" and "bad" in records[1]["status"]


def test_slurm_configuration_is_instantiated():
    from hydra.utils import instantiate

    launcher = instantiate(compose("benchmark", [DNA, "launcher=slurm", "launcher.timeout_min=5"]).launcher)
    assert isinstance(launcher, Slurm) and launcher.settings["timeout_min"] == 5


def _alone() -> list[str]:
    """Baselines that stand beside no checkpoint; the others are tried in test_yardsticks, and those of variants and perturbations in tests of their own."""
    files = sorted((config_folder() / "baseline").glob("*.yaml"))
    return [file.stem for file in files if "${checkpoint}" not in file.read_text() and file.stem not in ("variants", "perturbations")]


@pytest.mark.parametrize("name", _alone())
def test_every_baseline_runs(name, promoters, cells, tmp_path):
    from hydra.utils import instantiate

    (config,) = compose("benchmark", [DNA, f"baseline=[{name}]"]).baselines.values()
    method = instantiate(config, _convert_="all", **{k: v for k, v in SHORT_TRAINING.items() if k in config})
    if name in ("scvi", "harmony"):
        pytest.importorskip({"scvi": "scvi", "harmony": "harmonypy"}[name])
        task = read_task("demo/pbmc3k_embedding", ["checkpoint=none"])
        assert takes(method, task, protocol_of(task)) == (name == "scvi")
        cells.task.__dict__["batch"] = "cell_type" if name == "harmony" else None
        assert len(method.embed(cells, 0)) == 2700
        return
    examples = promoters if method.takes(promoters.task) else cells
    if not isinstance(method, LabelMethod):
        assert np.isfinite(embedded := method.embed(examples, 0)).all() and len(embedded) == 2700
        return
    scores = method.predict(examples, 0, tmp_path)["label"]
    truth = examples.labels_of_all("label")[examples.parts["test"]]
    assert (scores.argmax(1) == truth).mean() > (0.6 if examples is promoters else 0.9)


def test_components_see_the_training_cells_alone(cells):
    from bmfm.evaluation.baselines.cells import log_values

    before = PcaEmbeddings("p").embed(cells)
    values = log_values(cells)
    changed = values.copy()
    test_rows = np.isin(np.repeat(np.arange(values.shape[0]), np.diff(values.indptr)), cells.parts["test"])
    changed.data[test_rows] *= 3
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bmfm.evaluation.baselines.cells.log_values", lambda examples: changed)
        after = PcaEmbeddings("p").embed(cells)
    train = cells.parts["train"]
    np.testing.assert_allclose(before[train], after[train], atol=1e-4)


def test_embeddings_made_elsewhere(cells, promoters, tmp_path):
    n, rng = 2700, np.random.default_rng(0)
    types = cells.labels_of_all("label")
    cells.adata.obsm["X_told"] = np.eye(9, dtype=np.float32)[np.where(types < 0, 8, types)]
    scores = Probe(PrecomputedEmbeddings("told", key="X_told")).predict(cells, 0, tmp_path)["label"]
    truth = cells.labels_of_all("label")[cells.parts["test"]]
    assert (scores.argmax(1) == truth)[truth >= 0].all()
    with pytest.raises(ValueError, match="no 'X_absent'; it has X_told"):
        PrecomputedEmbeddings("absent", key="X_absent").embed(cells)
    # a table matched by the cells' names, in another order
    order = rng.permutation(n)
    table = pd.DataFrame({"cell": cells.adata.obs_names[order], "e0": order.astype(float)})
    (tmp_path / "demo").mkdir()
    table.to_parquet(tmp_path / "demo" / "pbmc3k.parquet")
    assert (PrecomputedEmbeddings("t", path=str(tmp_path / "{task}.parquet")).embed(cells)[:, 0] == np.arange(n)).all()
    table.iloc[1:].to_parquet(tmp_path / "demo" / "pbmc3k.parquet")
    with pytest.raises(ValueError, match="no row for 1 of 2,700 examples"):
        PrecomputedEmbeddings("t", path=str(tmp_path / "{task}.parquet")).embed(cells)
    np.save(tmp_path / "short.npy", np.zeros((5, 2)))
    with pytest.raises(ValueError, match=r"5 rows, demo/core_promoter_tata has 6,130 examples"):
        PrecomputedEmbeddings("t", path=str(tmp_path / "short.npy"), ordered=True).embed(promoters)
    with pytest.raises(ValueError, match="either key"):
        PrecomputedEmbeddings("both", key="a", path="b")


def test_cells_whose_names_look_like_numbers_are_matched_to_the_letter(tmp_path):
    names = ["001", "1", "1e5", "100000", "NA"]
    cells = bare(CellExamples, "five", adata=SimpleNamespace(obs_names=pd.Index(names)), data=SimpleNamespace(cells=names))
    (tmp_path / "t.csv").write_text("cell,e0\nNA,4\n100000,3\n001,0\n1e5,2\n1,1\n")
    assert PrecomputedEmbeddings("t", path=str(tmp_path / "t.csv")).embed(cells)[:, 0].tolist() == [0, 1, 2, 3, 4]
    (tmp_path / "t.csv").write_text("e0,e1\n" + "0.5,1\n" * 5)
    assert PrecomputedEmbeddings("t", path=str(tmp_path / "t.csv"), ordered=True).embed(cells).tolist() == [[0.5, 1]] * 5


def test_embeddings_of_sequences_are_matched_or_refused(promoters, tmp_path):
    """Rows in another order find their sequence; what does not say which row is which is taken in no order but a stated one."""
    texts = promoters.inputs.tolist()
    n, rng = len(texts), np.random.default_rng(0)
    first = {t: i for i, t in reversed(list(enumerate(texts)))}
    value = np.array([first[t] for t in texts], float)  # the same of the same sequence
    order = rng.permutation(n)
    digests = [hashlib.sha256(t.encode()).hexdigest() for t in texts]
    for name, names in (("sequence", texts), ("anything", texts), ("sha256", digests)):
        table = pd.DataFrame({name: np.array(names)[order], "e0": value[order]})
        table.to_csv(tmp_path / "t.csv", index=False)
        precomputed = PrecomputedEmbeddings("t", path=str(tmp_path / "t.csv"))
        assert (precomputed.embed(promoters)[:, 0] == value).all()
    for broken, message in (
        (table.assign(sha256="x"), "has several rows named 'x', which differ"),
        (table.iloc[5:], r"no row for \d+ of 6,130 examples"),
        (table.assign(e1="x"), "column 'e1' is text"),
        (table.assign(e0=np.nan), "6,130 rows hold what is not finite"),
        (table[["e0"]], r"does not say which row is which example.*ordered: true"),
    ):
        broken.to_csv(tmp_path / "t.csv", index=False)
        with pytest.raises(ValueError, match=message):
            PrecomputedEmbeddings("t", path=str(tmp_path / "t.csv")).embed(promoters)
    np.save(tmp_path / "t.npy", value[:, None])
    with pytest.raises(ValueError, match="ordered: true"):
        PrecomputedEmbeddings("t", path=str(tmp_path / "t.npy")).embed(promoters)
    assert (PrecomputedEmbeddings("t", path=str(tmp_path / "t.npy"), ordered=True).embed(promoters)[:, 0] == value).all()


def test_embeddings_of_pairs_and_of_named_rows(tmp_path):
    """Of pairs the first two columns are the key; a column that the task's table has under the same name is one, too."""
    table = pd.DataFrame({"a": ["AC", "AC", "GT"], "b": ["G", "T", "G"], "probe": [7, 8, 9], "label": [0, 1, 0]})
    pairs = bare(SequenceExamples, "x/y", data=SimpleNamespace(table=table, sequence="a", second="b"))
    by_pair = pd.DataFrame({"a": ["GT", "AC", "AC"], "b": ["G", "T", "G"], "e0": [3.0, 2, 1]})
    by_name = pd.DataFrame({"probe": [9, 7, 8], "e0": [3.0, 1, 2]})
    for named in (by_pair, by_name, pd.concat([by_name, by_name])):
        named.to_csv(tmp_path / "t.csv", index=False)
        assert PrecomputedEmbeddings("t", path=str(tmp_path / "t.csv")).embed(pairs)[:, 0].tolist() == [1, 2, 3]
    by_name.assign(probe=[9, 7, 5]).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(ValueError, match=r"no row for 1 of 3 examples of x/y \(first: '8'\)"):
        PrecomputedEmbeddings("t", path=str(tmp_path / "t.csv")).embed(pairs)


def test_a_failed_job_shows_in_the_exit_status(run, tmp_path, monkeypatch, capsys):
    import bmfm.benchmark

    def fail(self, examples, seed, folder):
        raise RuntimeError("out of luck")

    config = compose("benchmark", [DNA, *QUICK, f"run_dir={tmp_path / 'run'}", "baseline=[kmer_linear]"])
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr("bmfm.evaluation.baselines.linear.LinearBaseline.predict", fail)
        bmfm.benchmark.run(config)
    assert ended.value.code == 1 and (tmp_path / "run" / "report.html").is_file()
    assert "1 of 1 jobs failed" in (stderr := capsys.readouterr().err)
    assert "demo/core_promoter_tata: linear on k-mers (baseline), seed 0: RuntimeError: out of luck" in stderr
    assert bmfm.benchmark.run(config) is None


def test_zero_shot_integration(run):
    pytest.importorskip("scib_metrics")
    suite = "+suite={name: demo_rna, title: t, tasks: [demo/pbmc3k_embedding]}"
    (record,) = run(suite, "baseline=[pca]")
    found = record["metrics"]
    assert found["avg_bio"] == pytest.approx(np.mean([found[k] for k in ("nmi", "ari", "asw_label")])) and found["nmi"] > 0.6
    assert "avg_batch" not in found and len(record["umap"]["x"]) == len(record["umap"]["label"]) > 2000


def test_scib_figures_of_perfect_and_hopeless_embeddings():
    pytest.importorskip("scib_metrics")
    from bmfm.evaluation.protocols.integration import scib

    rng = np.random.default_rng(0)
    labels, batches = rng.integers(0, 4, 400), rng.integers(0, 2, 400).astype(str)
    perfect = scib(np.eye(4)[labels] * 20 + rng.normal(size=(400, 4)), labels, batches)
    hopeless = scib(rng.normal(size=(400, 4)) + 20 * (batches == "1")[:, None], labels, batches)
    assert perfect["avg_bio"] > 0.9 > 0.5 > hopeless["avg_bio"] and perfect["avg_batch"] > hopeless["avg_batch"]


def test_what_is_not_there_is_listed_with_what_brings_it(run, tmp_path, capsys):
    suite = "+suite={name: two, title: t, tasks: [gue/tf_0, mpra/k562, demo/core_promoter_tata]}"
    with pytest.raises(ValueError) as raised:
        run(suite, f"data_root={tmp_path / 'nothing'}")
    message = str(raised.value)
    assert (
        "2 of 3 tasks have no data" in message
        and "tf/0/train.csv" in message
        and "download=true" in message
        and "skip_missing=true" in message
    )
    (record,) = run(suite, f"data_root={tmp_path / 'nothing'}", "skip_missing=true", "baseline=[kmer_linear]")
    assert record["task"] == "demo/core_promoter_tata"
    capsys.readouterr()
    by_hand = "+suite={name: two, title: t, tasks: [mpra/k562, demo/core_promoter_tata]}"
    run(by_hand, f"data_root={tmp_path / 'nothing'}", "skip_missing=true", "baseline=[kmer_linear]")
    assert "mpra/k562" in capsys.readouterr().err  # named though there is nothing to download


def test_settings_that_mean_nothing_are_refused(run):
    with pytest.raises(ValueError, match="not in the suite"):
        run(DNA, "tasks=[gue/tf_0]")
    with pytest.raises(ValueError, match=r"modes=.*unknown"):
        methods_of(compose("benchmark", [DNA, "modes=[few_shot]"]))


def test_a_mode_of_ones_own(tmp_path, monkeypatch):
    (tmp_path / "mode").mkdir()
    file = tmp_path / "mode" / "twice.yaml"
    file.write_text("of: embeddings\nmethod: {_target_: mine.Twice, seeds: '${seeds}'}\n")
    monkeypatch.setenv(CONFIG_DIR, str(tmp_path))
    config = compose("benchmark", [DNA, "checkpoint=runs/x/model", "modes=[twice,zero_shot]", "baseline=[]", "seeds=[4]"])
    twice, as_they_are = methods_of(config)
    assert twice == {"_target_": "mine.Twice", "seeds": [4], "source": as_they_are} and as_they_are["name"] == "x"
    file.write_text("of: cells\nmethod: null\n")
    with pytest.raises(ValueError, match=r"twice.yaml must have `of`"):
        methods_of(config)


def test_other_data_are_another_job(tmp_path):
    """Keys change with seed and settings, not with the order of methods; what changes on disk is refused by its checksum."""
    methods = methods_of(compose("benchmark", [DNA, "baseline=[kmer_linear,cnn]"]))
    task = read_task("demo/core_promoter_tata", ["checkpoint=none"])
    other = read_task("gue/prom_core_tata", ["checkpoint=none", f"data_root={tmp_path / 'root'}"])
    settings = RunSettings("s", [0, 1], "none", tmp_path, 10)
    jobs, turned = (build_grid([task], ordered, settings)[0] for ordered in (methods, methods[::-1]))
    assert {j.key for j in jobs} == {j.key for j in turned} and len(jobs) == 3  # the linear one has one seed
    more_draws = build_grid([task], methods, replace(settings, n_bootstrap=20))[0]
    assert not {j.key for j in jobs} & {j.key for j in more_draws}
    root = tmp_path / "root" / "gue" / "prom" / "prom_core_tata"
    root.mkdir(parents=True)
    for part in ("train", "dev", "test"):
        (root / f"{part}.csv").write_text("sequence,label\nACGT,1\n")
    with pytest.raises(ValueError, match="other data than the task's"):
        build_grid([other], methods, replace(settings, data_root=str(tmp_path / "root")))


def test_one_job_of_each_embedding_comes_first(tmp_path):
    jobs = [Job("s", "t", {}, i, str(i), "", str(tmp_path), 0, shared) for i, shared in enumerate([None, "a", "a", "b", None])]
    assert [j.key for j in schedule_shared_first(jobs)] == ["1", "3", "0", "2", "4"]


def test_what_several_want_is_built_once(tmp_path):
    """Threads that ask for one folder at the same time: one builds it, the others wait."""
    from concurrent.futures import ThreadPoolExecutor

    from bmfm.files import cached_folder

    built = []

    def build(folder):
        built.append(folder)
        time.sleep(0.2)
        (folder / "x").write_text("y")

    with ThreadPoolExecutor(4) as pool:
        found = set(pool.map(lambda _: cached_folder("k", {"a": 1}, build, tmp_path), range(4)))
    assert len(built) == len(found) == 1 and (found.pop() / "x").read_text() == "y"


@pytest.mark.slow
def test_fine_tuned_models_predict_the_test_part(run, cells_model):
    suite = "+suite={name: r, title: t, tasks: [demo/pbmc3k]}"
    records = run(suite, f"checkpoint={cells_model}", "modes=[finetune,linear_probe]", *SHORT, "baseline=[]")
    assert [r["status"] for r in records] == ["ok"] * 2 and all(r["test_uses"] == 1 and r["n_test"] > 200 for r in records)


def test_examples_of_cells_are_those_of_training(cells):
    assert set(cells.parts) == {"train", "validation", "test"} and sum(map(len, cells.parts.values())) == 2700
    part = cells.of("test")
    assert isinstance(part, anndata.AnnData) and part.n_obs == len(cells.parts["test"])
    assert cells.kinds["label"].simple_as == "classification" and "unlabelled" not in cells.kinds["label"].classes
    assert (ASSETS / "rna" / "pbmc3k.h5ad").exists() and cells.test_uses == 0
    cells.labels("test", "label")
    assert cells.test_uses == 1


def _stored(folder, model, seed, lr, date, task="a/b", model_hash="m", metric=0.5):
    key = f"{model}{seed}{lr}{date}{task[0]}{model_hash}"
    r = {"key": key, "task": task, "model": model, "mode": "finetune", "seed": seed, "status": "ok", "date": date, "model_hash": model_hash}
    r |= {"data_hash": "d", "settings": {"lr": lr}}
    (folder / "jobs" / key).mkdir(parents=True)
    (folder / "jobs" / key / "record.json").write_text(json.dumps(r))
    return r


def test_earlier_settings_of_a_method_are_not_mixed_in(tmp_path):
    for i, lr in enumerate((1, 2)):
        for seed in (0, 1):
            _stored(tmp_path, "x", seed, lr, f"2026-0{1 + i}-01")
    _stored(tmp_path, "x", 0, 1, "2026-09-09", task="c/d")
    _stored(tmp_path, "x", 0, 2, "2026-02-02")  # the same once more, as with another number of draws
    _stored(tmp_path, "x", 0, 1, "2026-03-03", model_hash="of another model with this name")
    now = [_stored(tmp_path, "y", 0, 2, "2026-05-05")]
    _stored(tmp_path, "y", 1, 1, "2026-05-06")
    _stored(tmp_path, "y", 2, 2, "2026-05-04")
    kept = runner.with_earlier(tmp_path, now, ["a/b"])
    assert {(r["model"], r["model_hash"][:2], r["seed"], r["settings"]["lr"]) for r in kept} == {
        ("x", "of", 0, 1), ("x", "m", 0, 2), ("x", "m", 1, 2), ("y", "m", 0, 2), ("y", "m", 2, 2),
    }  # fmt: skip


def test_settings_of_the_task_cannot_be_changed(run, dna_model):
    with pytest.raises(ValueError, match=r"finetune\.data\.split\.by cannot be changed"):
        run(DNA, f"checkpoint={dna_model}", "modes=[finetune]", "+finetune.data.split.by=random")
    with pytest.raises(Exception, match="optimzer"):  # told before any cell runs
        run(DNA, f"checkpoint={dna_model}", "modes=[finetune]", "+finetune.optimzer.lr=1")


def test_fine_tuning_never_sees_the_test_part_of_a_split_without_seed(tmp_path, dna_model):
    """The parts of a table that is split at random are those of the examples that are scored, whatever the run's seed."""
    seen = {}

    def train(config):
        seen["seed"], seen["split"] = config.seed, dict(config.data.split)
        raise KeyboardInterrupt

    examples = read_examples(read_task("demo/core_promoter_tata", ["checkpoint=none"]), "none")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("bmfm.training.run.train", train)
        FineTuned("x", str(dna_model)).predict(examples, 7, tmp_path / "a=b, (c)")
    assert seen["seed"] == 7 and seen["split"]["seed"] == 0


def test_errors_are_shown_as_they_are(run, monkeypatch):
    def fail(self, examples, seed, folder):
        raise ValueError("[/data/x.h5ad] is bad: add data.text=[variants]")

    monkeypatch.setattr(LinearBaseline, "predict", fail)
    (record,) = run(DNA, "baseline=[kmer_linear]")
    assert "[/data/x.h5ad]" in record["error"]


def test_tables_that_number_their_rows_are_refused(cells, tmp_path):
    frame = pd.DataFrame({"e0": np.zeros(2700)})
    frame.to_csv(tmp_path / "t.csv")
    with pytest.raises(ValueError, match="numbers rows"):
        PrecomputedEmbeddings("t", path=str(tmp_path / "t.csv")).embed(cells)
    order = np.random.default_rng(0).permutation(2700)
    pd.DataFrame({"e0": order}, index=cells.adata.obs_names[order]).to_parquet(tmp_path / "t.parquet")  # names in the index
    assert (PrecomputedEmbeddings("t", path=str(tmp_path / "t.parquet")).embed(cells)[:, 0] == np.arange(2700)).all()
    before = PrecomputedEmbeddings("t", path=str(tmp_path / "t.parquet")).identity(cells.task)
    pd.DataFrame({"e0": order + 1}, index=cells.adata.obs_names[order]).to_parquet(tmp_path / "t.parquet")
    assert PrecomputedEmbeddings("t", path=str(tmp_path / "t.parquet")).identity(cells.task) != before
