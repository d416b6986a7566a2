"""What is fitted to a checkpoint's pretraining data, against scanpy, scikit-learn and plain counts; models that ship, and their making."""

import json
import shutil
from collections import Counter

import anndata
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file

import bmfm
from bmfm import release
from bmfm.checkpoints.load import read_model, save_together, tokenizer_of
from bmfm.cli import compose
from bmfm.data.rna import RnaDataModule
from bmfm.data.splits import split_examples
from bmfm.evaluation.baselines.kmers import PretrainedKmers, kmer_frequencies
from bmfm.evaluation.baselines.pretrained import ProjectedPca
from bmfm.evaluation.benchmark import benchmark, methods_of
from bmfm.evaluation.grid import RunSettings, build_grid
from bmfm.evaluation.methods.checkpoint import CheckpointEmbeddings
from bmfm.evaluation.task_files import in_other_splits, read_examples, read_task
from bmfm.files import ASSETS
from bmfm.genome.reference import Reference
from bmfm.models.model import build
from bmfm.storage.folders import PROJECTION, find_folder
from bmfm.tokenizers.rna import CellTokenizer
from tests.conftest import BERT, SLICE_FASTA, SMALL, VALUES

N_COMPONENTS = 5


@pytest.fixture(scope="module")
def adata():
    whole = anndata.read_h5ad(ASSETS / "rna" / "pbmc3k.h5ad")[:200]
    return whole[:, np.argsort(-np.asarray(whole.X.sum(0)).ravel())[:120]].copy()


@pytest.fixture(scope="module")
def pretrained(adata, tmp_path_factory):
    """The folder of an untrained model of 100 genes, whose recipe says that it was trained on 150 cells."""
    folder = tmp_path_factory.mktemp("pretrained")
    adata[:150, :100].copy().write_h5ad(folder / "cells.h5ad")
    settings = {
        "path": str(folder / "cells.h5ad"),
        "split": {"by": "random", "validation": 0.2, "test": 0.0},
        "max_tokens": 64,
        "batch_size": 8,
    }
    data = RnaDataModule(**settings, expects="counts")
    data.connect(CellTokenizer("from_data"))
    torch.manual_seed(7)
    model = build(data.tokenizer.fields, {}, BERT, values=VALUES["mlp_special"], **SMALL)
    model.config.max_tokens = 64
    save_together(model, data.tokenizer, folder / "model")
    recipe = {"name": "tiny", "data": {"_target_": "bmfm.data.rna.RnaDataModule", "expects": "counts"} | settings, "run_dir": str(folder)}
    (folder / "model" / "recipe.json").write_text(json.dumps(recipe))
    (folder / "model" / "README.md").write_text('# tiny\n\nmodel = bmfm.load(".")\n')
    return folder / "model"


@pytest.fixture(scope="module")
def cells(adata, tmp_path_factory):
    """A task of the other cells, with other genes, in another order."""
    file = tmp_path_factory.mktemp("task") / "t.h5ad"
    task_cells = adata[150:, np.random.default_rng(0).permutation(np.arange(20, 120))].copy()
    task_cells.obs["cell_type"] = ["a", "b"] * 25
    task_cells.write_h5ad(file)
    task = read_task("demo/pbmc3k", ["checkpoint=none", f"data.path={file}"])
    return read_examples(task, file.parent)


def test_projected_components_are_those_of_scanpy_and_scikit_learn(adata, pretrained, cells, monkeypatch):
    """Genes are found by their names in a file that has them in another order; those that it lacks are 0; the split's rest is not seen."""
    import scanpy as sc
    from sklearn.decomposition import PCA

    method = ProjectedPca("p", str(pretrained), n_genes=40, n_components=N_COMPONENTS)
    found = method.embed(cells)
    train = split_examples({"by": "random", "validation": 0.2, "test": 0.0}, 150, lambda name: None)["train"]
    before, after = adata[:150, :100][train].copy(), adata[150:, :100].copy()
    after.X = np.asarray(after.X) * (np.arange(100) >= 20)  # the first 20 genes are not in the task's file
    for part in (before, after):
        sc.pp.normalize_total(part, target_sum=1e4)
        sc.pp.log1p(part)
    sc.pp.highly_variable_genes(before, n_top_genes=40)
    genes = before.var["highly_variable"].to_numpy()
    x, y = np.asarray(before.X)[:, genes], np.asarray(after.X)[:, genes]
    scaled = [np.clip((part - x.mean(0)) / x.std(0), -10, 10) for part in (x, y)]
    expected = PCA(N_COMPONENTS, random_state=0).fit(scaled[0]).transform(scaled[1])
    np.testing.assert_allclose(found, expected, atol=0.02)  # components are kept in float16
    assert len(train) == 120 and found.std(0).min() > 0.1


def test_data_that_are_not_here_leave_a_yardstick_out(pretrained, tmp_path, cells):
    """It says which file, and what to do; named files are taken in their place; what ships has its own components."""
    elsewhere = tmp_path / "m"
    release.release(pretrained, elsewhere, "Cells of a test.", components=True)
    (elsewhere / PROJECTION).rename(tmp_path / PROJECTION)
    method = ProjectedPca("p", str(elsewhere))
    assert "cells.h5ad" in str(method.unavailable()) and "pretraining=PATH" in str(method.unavailable())
    source = {"_target_": "bmfm.evaluation.baselines.pretrained.ProjectedPca", "name": "p", "checkpoint": str(elsewhere)}
    probes = [{"_target_": "bmfm.evaluation.methods.probe.Probe", "method": m, "source": source} for m in ("linear", "knn")]
    genes = {"_target_": "bmfm.evaluation.baselines.linear.LinearBaseline", "name": "genes", "omics": ["rna"]}
    jobs, left_out = build_grid([cells.task], [*probes, genes], RunSettings("s", [0], "none", tmp_path, 0))
    assert [job.method["name"] for job in jobs] == ["genes"] and left_out == [f"p is left out: {method.unavailable()}"]
    named = ProjectedPca("p", str(elsewhere), str(pretrained.parent / "cells.h5ad"))
    assert named.unavailable() is None
    expected = named.embed(cells)
    (tmp_path / PROJECTION).rename(elsewhere / PROJECTION)
    assert ProjectedPca("p", str(elsewhere)).unavailable() is None
    np.testing.assert_allclose(ProjectedPca("p", str(elsewhere)).embed(cells), expected, atol=1e-4)


def test_a_released_model_is_called_by_its_name(pretrained, tmp_path, monkeypatch):
    """Half the size, nothing of this machine in it, read as float32; a folder of the user of that name comes first."""
    monkeypatch.setattr("bmfm.storage.folders.SHIPPED", tmp_path / "models")
    data = release.release(pretrained, tmp_path / "models" / "bmfm-tiny", "Licence: none.")
    folder = tmp_path / "models" / "bmfm-tiny"
    weights, halved = load_file(pretrained / "model.safetensors"), load_file(folder / "model.safetensors")
    assert all(torch.equal(halved[name], weight.half()) for name, weight in weights.items()) and len(weights) == len(halved)
    written = (folder / "recipe.json").read_text() + (folder / "README.md").read_text() + (folder / "training_data.json").read_text()
    assert str(pretrained.parent) not in written and data[0]["file"] == "cells.h5ad" and data[0]["sha256"] in written
    assert 'bmfm.load("bmfm-tiny")' in written and "Licence: none." in written
    monkeypatch.chdir(tmp_path)
    model = bmfm.load("bmfm-tiny")
    assert {p.dtype for p in model.model.parameters()} == {torch.float32}
    assert tokenizer_of("bmfm-tiny").names == model.tokenizer.names and find_folder("bmfm-tiny") == folder
    with pytest.raises(
        FileNotFoundError, match=r"no model folder 'bmfm-tyni' in .*the package, which has bmfm-tiny; a Hub id is OWNER/NAME"
    ):
        bmfm.load("bmfm-tyni")
    (tmp_path / "bmfm-tiny").mkdir()
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        bmfm.load("bmfm-tiny")


def test_weights_too_large_for_float16_are_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"fits": torch.ones(2), "large": torch.tensor([1e6])}, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match="large holds a number beyond"):
        release.halve(tmp_path / "w.safetensors", tmp_path / "h.safetensors")


def test_kmers_in_components_of_the_genome(dna_model, sequence_table, tmp_path):
    """Frequencies are Python's own counts; windows are those of the training part, on both strands."""
    text, k = "ACGTACNGTTA", 3
    codes = np.array([["AGTCN".index(c) for c in text]], np.uint8)
    counts = Counter(text[i : i + k] for i in range(len(text) - k + 1) if "N" not in text[i : i + k])
    expected = np.zeros(4**k)
    for word, n in counts.items():
        expected[sum("AGTC".index(c) * 4 ** (k - 1 - i) for i, c in enumerate(word))] = n / sum(counts.values())
    np.testing.assert_allclose(kmer_frequencies(codes, k)[0], expected, rtol=1e-6)

    folder = shutil.copytree(dna_model, tmp_path / "m")
    data = compose("train", ["+recipe=dna_snp", f"data.fasta={SLICE_FASTA}"]).data
    (folder / "recipe.json").write_text(
        json.dumps({"data": OmegaConf.to_container(data, resolve=False) | {"seed": 0, "representation": None}})
    )
    method = PretrainedKmers("k", str(folder), k=3, n_windows=300, n_components=8)
    missing = PretrainedKmers("k", str(folder), {"regions": "nowhere.bed"})
    assert "'nowhere.bed' does not exist" in str(missing.unavailable()) and method.unavailable() is None
    windows = method.pretraining.windows(50, 40)
    genome = "".join(Reference.from_fasta(SLICE_FASTA).codes[:-1].astype(int).__and__(0x7F).astype(str))
    texts = ["".join(map(str, row)) for row in windows]
    turned = ["".join(str(c ^ 2 if c < 4 else c) for c in row[::-1]) for row in windows]
    forward, backward = np.array([t in genome for t in texts]), np.array([t in genome for t in turned])
    assert (forward | backward).all() and 5 < forward.sum() < 35
    examples = read_examples(read_task("demo/core_promoter_tata", ["checkpoint=none", f"data.path={sequence_table}"]), "none")
    embedded = method.embed(examples)
    assert embedded.shape == (len(examples), 8) and np.isfinite(embedded).all() and embedded.std(0).min() > 0


def test_an_untrained_network_has_new_weights_and_the_same_tokenizer(pretrained, cells):
    trained, first, second = (
        CheckpointEmbeddings("c", str(pretrained), random_init=random_init).embed(cells, seed)
        for random_init, seed in ((False, 0), (True, 0), (True, 1))
    )
    again = CheckpointEmbeddings("c", str(pretrained), random_init=True)
    assert np.array_equal(first, again.embed(cells, 0)) and not again.deterministic and again.kind == "baseline"
    assert first.shape == trained.shape and not np.allclose(first, trained, atol=1e-3) and not np.allclose(first, second, atol=1e-3)
    assert read_model(pretrained).config.backbone["hidden_size"] == first.shape[1]


def test_yardsticks_stand_beside_a_checkpoint_in_its_modes():
    def used(*overrides):
        methods = methods_of(compose("benchmark", ["+suite=small_rna", "baseline=[pca_pretrained,untrained]", *overrides]))
        return [(m.get("method"), m.get("source", m)["name"]) for m in methods]

    assert used() == []
    yardsticks = used("checkpoint=x", "modes=[finetune,knn_probe]")[2:]
    modes = [None, "linear", "knn"]
    assert yardsticks == [(m, name) for name in ("PCA of the pretraining cells", "the untrained network") for m in modes]


def test_parts_that_are_drawn_are_drawn_again(cells, tmp_path, monkeypatch):
    """Each seed has other test examples; the card's own is what it was; official parts stay as they are; runs are told apart."""
    root = ["checkpoint=none", f"data_root={tmp_path}"]
    pbmc = read_task("demo/pbmc3k", root)
    drawn = in_other_splits(pbmc, [0, 1, 2, 1], root)
    assert [t.split_seed for t in drawn] == [None, 1, 2] and drawn[0] is pbmc and drawn[2].config.data.split.seed == 2
    for fixed in ("demo/core_promoter_tata", "demo/pbmc3k_embedding", "rna_celltype/sc_mixology"):
        task = read_task(fixed, root)
        assert in_other_splits(task, [0, 1], root) == [task]
    assert in_other_splits(pbmc, [], root) == [pbmc]

    monkeypatch.setattr("bmfm.launch.LocalPool.__call__", lambda self, run, jobs, failed: map(run, jobs))
    (tmp_path / "mine" / "task" / "mine").mkdir(parents=True)
    (tmp_path / "mine" / "task" / "mine" / "few.yaml").write_text(
        "# @package _global_\ndefaults: [/task/demo/pbmc3k]\ntask: {name: mine/few, title: Few, files: [], how: none}\n"
        f"data: {{path: {cells.data.path}, split: {{validation: 0.2, test: 0.4}}}}\n"
    )
    monkeypatch.setenv("BMFM_CONFIG_DIR", str(tmp_path / "mine"))
    suite = "+suite={name: s, title: t, tasks: [mine/few], split_seeds: [0, 1]}"
    options = [suite, "baseline=[gene_linear]", "seeds=[0]", "n_bootstrap=0", f"run_dir={tmp_path / 'run'}"]
    records = benchmark(compose("benchmark", options))
    assert [(r["split_seed"], r["status"]) for r in records] == [(None, "ok"), (1, "ok")] and records[0]["key"] != records[1]["key"]
    scores = [np.load(tmp_path / "run" / "jobs" / r["key"] / "predictions.npz")["label/scores"] for r in records]
    assert scores[0].shape == scores[1].shape == (20, 2) and not np.array_equal(*scores)
    stored = json.loads((tmp_path / "run" / "results.json").read_text())["records"]
    assert [r["split_seed"] for r in stored] == [None, 1]
    assert [r["split_seed"] for r in benchmark(compose("benchmark", [*options, "split_seeds=[0]"]))] == [None]
