"""Test examples that training has seen: counted by pandas, by sets of k-mers and by hand."""

import json

import anndata
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bmfm.cli import compose
from bmfm.evaluation.benchmark import benchmark
from bmfm.evaluation.overlap import count_overlap, overlap, sentences
from bmfm.evaluation.sketch import EMPTY, jaccard_of, near, sketches
from bmfm.evaluation.task_files import read_examples, read_task
from bmfm.files import ASSETS
from bmfm.hashing import mix

OPPOSITE = dict(zip("ACGT", "TGCA", strict=True))


def complement(text):
    return "".join(OPPOSITE[c] for c in reversed(text))


def kmers(text, k):
    """Of both strands the lesser, as a set."""
    windows = (text[i : i + k] for i in range(len(text) - k + 1))
    return {min(w, complement(w)) for w in windows if set(w) <= set("ACGT")}


def changed(text, n, rng):
    places = rng.choice(len(text), n, replace=False)
    return "".join(rng.choice([b for b in "ACGT" if b != c]) if i in places else c for i, c in enumerate(text))


def plain_sketch(text, k, buckets):
    out = [int(EMPTY)] * buckets
    if len(text) >= 3 * k:
        for kmer in kmers(text, k):
            value = int(mix(0, sum("ACGT".index(c) * 4 ** (k - 1 - i) for i, c in enumerate(kmer))))
            bucket = (value >> 32) % buckets
            out[bucket] = min(out[bucket], value & 0xFFFFFFFE)
    return out


@given(st.lists(st.text("ACGTN", max_size=40), max_size=4), st.sampled_from([3, 5, 8]))
@settings(max_examples=60, deadline=None)
def test_sketches_are_those_of_sets(texts, k):
    assert sketches(texts, k, 16).tolist() == [plain_sketch(t, k, 16) for t in texts]


@pytest.mark.parametrize("length", [80, 600])
def test_what_is_near_is_found_and_nothing_else(length):
    """2% changed is near, on either strand; 15% changed, or another sequence, is not. The share of k-mers, by sets, agrees."""
    rng = np.random.default_rng(0)
    texts = ["".join(rng.choice(list("ACGT"), length)) for _ in range(300)]
    slightly = [changed(t, max(1, length // 50), rng) for t in texts[:60]]
    turned = [complement(t) for t in slightly[:30]]
    much = [changed(t, round(0.15 * length), rng) for t in texts[:60]]
    other = ["".join(rng.choice(list("ACGT"), length)) for _ in range(60)]
    assert near(slightly, texts, 0.95).mean() > 0.95 and near(turned, texts, 0.95).mean() > 0.9
    assert near(much, texts, 0.95).mean() < 0.05 and not near(other, texts, 0.95).any()
    k = 8 if length < 129 else 12
    shares = [len(kmers(a, k) & kmers(b, k)) / len(kmers(a, k) | kmers(b, k)) for a, b in zip(slightly, texts, strict=False)]
    assert np.mean(np.array(shares) >= jaccard_of(0.95, k)) > 0.95
    a, b = sketches(slightly, k, 128), sketches(texts[:60], k, 128)
    estimated = ((a == b) & (a != EMPTY)).sum(1) / ((a != EMPTY) | (b != EMPTY)).sum(1)
    assert np.abs(estimated - shares).mean() < 0.06


def test_counts_of_what_ships_are_those_of_pandas():
    tables = {p: pd.read_csv(next((ASSETS / "dna" / "prom_core_tata").glob(f"{p}.csv*"))) for p in ("train", "dev", "test")}
    whole = pd.concat(tables, names=["part"]).reset_index("part")
    whole["lesser"] = [min(s, complement(s)) for s in whole.sequence]
    train, test = whole[whole.part == "train"], whole[whole.part == "test"]
    labels = whole.groupby("lesser").label.transform("nunique")
    found = overlap(read_examples(read_task("demo/core_promoter_tata", ["checkpoint=none"]), "none"))
    assert found["exact"] == test.lesser.isin(train.lesser).sum() > 0
    assert found["contradicting"] == (labels > 1).sum() and found["test"] == len(test)


@pytest.fixture
def seen_table(tmp_path):
    """A task's data in which everything was done wrong: one test sequence of each kind."""
    rng = np.random.default_rng(1)
    train = ["".join(rng.choice(list("ACGT"), 70)) for _ in range(40)]
    test = [
        train[0],
        complement(train[1]),
        train[2].lower(),
        changed(train[3], 1, rng),
        *("".join(rng.choice(list("ACGT"), 70)) for _ in range(16)),
    ]
    folder = tmp_path / "gue" / "prom" / "prom_core_tata"
    folder.mkdir(parents=True)
    labels = {"train": [i % 2 for i in range(40)], "dev": [0, 1] * 5, "test": [1, 1, 0, 1, *([0, 1] * 8)]}
    dev = ["".join(rng.choice(list("ACGT"), 70)) for _ in range(10)]
    for part, texts in (("train", train), ("dev", dev), ("test", test)):
        pd.DataFrame({"sequence": texts, "label": labels[part]}).to_csv(folder / f"{part}.csv", index=False)
    return folder


def test_the_report_and_the_command_line_tell(seen_table, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("bmfm.launch.LocalPool.__call__", lambda self, run, jobs, failed: map(run, jobs))
    (tmp_path / "mine" / "task" / "mine").mkdir(parents=True)
    (tmp_path / "mine" / "task" / "mine" / "seen.yaml").write_text(
        "# @package _global_\ndefaults: [/task/gue/prom_core_tata]\ntask: {name: mine/seen, title: Seen, files: [], how: none}\n"
        f"data: {{path: {seen_table}}}\n"
    )
    monkeypatch.setenv("BMFM_CONFIG_DIR", str(tmp_path / "mine"))
    suite = "+suite={name: s, title: t, tasks: [mine/seen]}"
    options = ["seeds=[0]", "n_bootstrap=0", "baseline=[kmer_linear]", f"run_dir={tmp_path / 'run'}"]
    (record,) = benchmark(compose("benchmark", [suite, *options]))
    # the first has another label than in training, and so it and its double contradict; the third is the second's like in small letters
    assert record["status"] == "ok" and record["overlap"] == {"test": 20, "exact": 3, "near": 1, "contradicting": 2}
    told = capsys.readouterr().err
    assert "bmfm: 3 of 20 test examples of mine/seen are in its training part, too" in told and told.count("mine/seen") == 3
    page = (tmp_path / "run" / "report.html").read_text()
    assert "3 of 20 test examples of mine/seen are in its training part, too" in page and "nearly (95% identity)" in page
    assert sentences("t", {"test": 3, "exact": 0, "near": 0, "contradicting": 0}) == sentences("t", {}) == []


def test_cells_that_were_seen_are_counted(tmp_path):
    """Rows repeated by hand, one with another type; genes in another order do not hide them."""
    adata = anndata.read_h5ad(ASSETS / "rna" / "pbmc3k.h5ad")[:60].copy()
    adata.obs["cell_type"] = ["a", "b"] * 30
    twice = anndata.concat([adata, adata[:5]], index_unique="-")
    twice.obs["part"] = ["train"] * 50 + ["validation"] * 10 + ["test"] * 5
    twice.obs["cell_type"] = [*adata.obs["cell_type"], "b", "b", "a", "b", "a"]  # the first has another type than before
    twice.write_h5ad(tmp_path / "t.h5ad")
    task = read_task("demo/pbmc3k", ["checkpoint=none", f"data.path={tmp_path / 't.h5ad'}", "objectives.label.column=cell_type",
                                     "data.split={by: column, column: part}"])  # fmt: skip
    task.__dict__["files"] = ()
    counts = count_overlap(read_examples(task, tmp_path))
    assert counts == {"test": 5, "exact": 5, "near": 0, "contradicting": 2}
    assert json.loads(json.dumps(counts)) == counts
