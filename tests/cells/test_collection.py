"""Collections: the cells of many files, once each, shuffled, whoever dies when."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from omegaconf import OmegaConf
from scipy.stats import chisquare

from bmfm.cells import collection as module
from bmfm.cells import sources as sources_module
from bmfm.cells.formats import AnnDataView, find_sources
from bmfm.cells.genes import GeneVocabulary
from bmfm.cells.sharding import run
from bmfm.cells.sources import Cells, open_source
from bmfm.cli import compose
from bmfm.data.rna import RnaDataModule
from bmfm.data.samplers import BlockSampler
from bmfm.data.stream import BatchStream
from bmfm.files import ASSETS
from bmfm.tokenizers.rna import CellTokenizer

N = 150
GENES = anndata.read_h5ad(ASSETS / "rna" / "pbmc3k.h5ad", backed="r").var_names[:1500].tolist()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Four files of other cells: one lacks genes, one a column; in one counts are a layer, one is zarr and stored by column."""
    folder = tmp_path_factory.mktemp("cells")
    whole = anndata.read_h5ad(ASSETS / "rna" / "pbmc3k.h5ad")
    out = []
    for k in range(4):
        part = whole[k * N : (k + 1) * N, :2000].copy()
        part.X = sp.csr_matrix(part.X.astype(np.float32))
        part.obs_names = [f"{name}-{k}" for name in part.obs_names]
        part.obs["donor"], part.obs["depth"], part.obs["age"] = f"d{k}", np.asarray(part.X.sum(1)).ravel(), k + 20
        if k == 1:
            part = part[:, 300:].copy()
            del part.obs["age"]
        if k == 2:
            part.layers["counts"], part.X = part.X, sp.csr_matrix(part.X.multiply(0.5))
        if k == 3:
            part.X = part.X.tocsc()
            part.write_zarr(folder / "c3.zarr")
        else:
            part.write_h5ad(folder / f"c{k}.h5ad")
        out.append(part)
    return folder, out


def shard(folder: Path, output: Path, **settings) -> Path:
    run(OmegaConf.merge(compose("shard_cells", [f"path={folder}", f"output={output}", "progress=false", "cells=128", "chunk=8192", "shard=65536"]), settings))  # fmt: skip
    return output


@pytest.fixture(scope="module")
def collection(files, tmp_path_factory):
    return shard(files[0], tmp_path_factory.mktemp("out") / "all")


def groups_of(collection: Path):
    return [anndata.read_zarr(path) for path in sorted(collection.glob("dataset_*"), key=lambda p: int(p.name.split("_")[1]))]


def test_every_cell_is_there_once_as_it_was(files, collection):
    """Beside anndata's own union of the files."""
    parts = [p.copy() for p in files[1]]
    parts[2].X = parts[2].layers.pop("counts")
    expected = anndata.concat(parts, join="outer", fill_value=0)
    groups = groups_of(collection)
    assert len(groups) == 4 * N // 128 and [p.n_obs for p in groups] == json.loads((collection / "collection.json").read_text())["groups"]
    got = anndata.concat(groups)
    assert got.n_obs == 4 * N and set(got.obs_names) == set(expected.obs_names)
    got = got[expected.obs_names, expected.var_names]
    assert got.X.dtype == np.uint16 or got.X.dtype == np.uint8
    assert (sp.csr_matrix(expected.X) != got.X).nnz == 0
    for column in ("cell_type", "donor"):
        assert got.obs[column].astype(str).tolist() == expected.obs[column].astype(str).tolist()
    np.testing.assert_array_equal(got.obs["depth"].to_numpy(), expected.obs["depth"].to_numpy())
    np.testing.assert_array_equal(got.obs["age"].to_numpy(), expected.obs["age"].to_numpy(np.float64))
    assert got.obs["source_file"].tolist() == [f"c{k}.{'zarr' if k == 3 else 'h5ad'}" for k in range(4) for _ in range(N)]
    is_without = got.obs["source_file"] == "c1.h5ad"
    measured = groups[0].varm["gene_panel"][:, got.obs["gene_panel"]]
    names = groups[0].var_names
    assert measured[names.isin(parts[0].var_names[:300])][:, is_without].sum() == 0 and measured[:, ~is_without].all()
    assert pd.api.types.is_float_dtype(got.obs["age"]) and got.obs["age"].isna().sum() == N


def test_the_order_is_a_function_of_the_seed(files, collection, tmp_path):
    """Whatever the groups; and another for another seed."""
    names = [name for group in groups_of(collection) for name in group.obs_names]
    one = groups_of(shard(files[0], tmp_path / "one", cells=1000))
    assert len(one) == 1 and one[0].obs_names.tolist() == names
    other = [name for group in groups_of(shard(files[0], tmp_path / "other", seed=1)) for name in group.obs_names]
    assert other != names and sorted(other) == sorted(names)


def module_of(collection: Path, **options) -> RnaDataModule:
    split = {"by": "random", "validation": 0.1, "test": 0.0}
    data = RnaDataModule(collection, split, 64, 16, storage="disk", block=32, buffer_blocks=3, statistics_cells=16, **options)
    data.connect(CellTokenizer(GENES))
    return data


@pytest.mark.parametrize(("world", "workers"), [(1, 0), (2, 2), (4, 1)])
def test_batches_do_not_depend_on_ranks_workers_or_restarts(collection, world, workers):
    """Batch n of all ranks together, from its beginning and from step 7 on, as loaders give it."""
    whole, n_steps = module_of(collection), 12
    expected = [batch for _, batch in zip(range(n_steps), whole.training_batches(), strict=False)]
    whole.num_workers = workers
    for first in (0, 7):
        of_ranks = []
        for rank in range(world):
            loader = whole._loader("train", BatchStream(len(whole.parts["train"]), 16, rank, world, first))
            of_ranks.append([batch for _, batch in zip(range(n_steps - first), loader, strict=False)])
        for step, batches in enumerate(zip(*of_ranks, strict=True), first):
            keys = np.stack([batch["example_keys"].numpy() for batch in batches], 1).ravel()
            np.testing.assert_array_equal(keys, expected[step]["example_keys"].numpy())
            for rank, batch in enumerate(batches):
                width = min(batch["input_ids"].shape[1], expected[step]["input_ids"].shape[1])
                mine = expected[step]["input_ids"][rank::world, :width]
                np.testing.assert_array_equal(batch["input_ids"][:, :width].numpy(), mine.numpy())


def test_an_epoch_has_every_training_cell_once_and_no_file_clusters_in_it(collection):
    data = module_of(collection)
    sampler, n = data.parts["train"].sampler, len(data.parts["train"])
    file = data.cells.column("source_file")
    for epoch in (0, 3):
        order = sampler(np.full(n, epoch), np.arange(n))
        assert sorted(order) == data.numbers["train"].tolist()
        codes = pd.factorize(file[order])[0]
        table = np.stack([np.bincount(codes[i : i + 45], minlength=4) for i in range(0, n, 45)])
        expected = table.sum(0) / n * table.sum(1, keepdims=True)
        assert chisquare(table.ravel(), expected.ravel(), ddof=len(table) + 3 - 1).pvalue > 0.001
    assert (sampler(np.full(n, 0), np.arange(n)) != sampler(np.full(n, 1), np.arange(n))).any()


@pytest.mark.parametrize(("batch_blocks", "batch"), [(4, 32), (None, 32), (4, 30), (16, 48)])
def test_lanes_have_every_example_once(batch_blocks, batch):
    """Of uneven blocks, some of them empty; an example is found without those before it."""
    rng = np.random.default_rng(0)
    for n_blocks in (100, 17, 3):
        sizes = rng.integers(0, 40, n_blocks)
        n = int(sizes.sum())
        numbers = np.sort(rng.permutation(3 * n)[:n])
        sampler = BlockSampler(numbers, sizes, 3, 16, batch_blocks, batch)
        for epoch in (0, 1):
            order = sampler(np.full(n, epoch), np.arange(n))
            assert sorted(order) == numbers.tolist() and order.tolist() != numbers.tolist()
            places = rng.permutation(n)[:50]
            anew = BlockSampler(numbers, sizes, 3, 16, batch_blocks, batch)
            np.testing.assert_array_equal(anew(np.full(len(places), epoch), places), order[places])


def test_devices_and_workers_read_their_own_blocks():
    """Four devices with four workers each read every block once between them, but for the end of the epoch."""
    sizes = np.random.default_rng(0).integers(500, 1000, 200)
    n = int(sizes.sum())
    block = np.repeat(np.arange(200), sizes)
    sampler = BlockSampler(np.arange(n), sizes, 0, 16, 4, 64)
    readers = {}
    for batch in range((n - 16 * 2000) // 64):
        numbers = sampler(np.zeros(64, int), np.arange(64 * batch, 64 * batch + 64))
        for rank in range(4):
            readers.setdefault((rank, batch % 4), set()).update(block[numbers[rank::4]].tolist())
    assert len(readers) == 16 and sum(map(len, readers.values())) == len(set().union(*readers.values())) > 150


def test_cells_keep_the_genes_that_their_file_measures(files, collection):
    """Where a file lacks a gene, its cells have no zero there."""
    data = module_of(collection)
    names = np.array(data.tokenizer.vocabulary.names)
    cells = data.cells.batch(np.arange(4 * N))
    raw = {name: (k, row) for k, part in enumerate(files[1]) for row, name in enumerate(part.obs_names)}
    matrices = [(p.layers.get("counts", p.X)).tocsr()[:, p.var_names.isin(GENES)] for p in files[1]]
    assert len(cells.gene_panels) == 2
    for number, cell in enumerate(data.cells.names):
        k, row = raw[cell]
        assert set(names[cells.gene_panels[cells.source_ids[number]]]) == set(GENES) & set(files[1][k].var_names)
        assert cells.counts.totals[number] == matrices[k][row].sum()


def test_damage_is_told(collection, tmp_path):
    """A group that is absent, one of another collection, and one that lost a file of its counts."""
    damaged = tmp_path / "damaged"
    shutil.copytree(collection, damaged)
    (damaged / "dataset_2").rename(tmp_path / "aside")
    with pytest.raises(ValueError, match=r"holds 3 groups, and collection\.json names 4"):
        AnnDataView(damaged)
    shutil.copytree(damaged / "dataset_1", damaged / "dataset_2")
    view = AnnDataView(damaged)
    with pytest.raises(ValueError, match=r"dataset_2 is damaged: it holds \d+ cells, and collection\.json says"):
        view.matrix("X")[300:310]
    shutil.rmtree(damaged / "dataset_2")
    shutil.copytree(tmp_path / "aside", damaged / "dataset_2")
    sorted((damaged / "dataset_2" / "X" / "indices" / "c").iterdir())[0].unlink()
    with pytest.raises(ValueError, match=r"dataset_2: its indices lack 1 of \d files"):
        AnnDataView(damaged).matrix("X")[300:310]


def test_what_a_pass_found_is_kept(collection, monkeypatch, cache):
    """Totals of cells, beside anndata; the second time nothing is read. Where all genes are known, no pass is needed."""
    monkeypatch.setattr(sources_module, "CACHED_FROM", 1)
    whole = anndata.concat(groups_of(collection))
    expected = np.asarray(whole.X[:, whole.var_names.isin(GENES)].sum(1)).ravel()
    np.testing.assert_array_equal(module_of(collection).cells.totals, expected)
    monkeypatch.setattr(sources_module.CellSource, "_totals", lambda *_: pytest.fail("cells were read"))
    again = module_of(collection)
    np.testing.assert_array_equal(again.cells.totals, expected)
    monkeypatch.setattr(sources_module.CellSource, "totals", lambda *_: pytest.fail("cells were read"))
    (source,) = find_sources(collection)
    known = Cells([open_source(source, GeneVocabulary.of_genes(whole.var_names.tolist()))])
    np.testing.assert_array_equal(known.empty(), np.asarray(whole.X.sum(1)).ravel() == 0)


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def started(files: Path, output: Path) -> subprocess.Popen:
    arguments = [f"path={files}", f"output={output}", "progress=false", "cells=128", "chunk=8192", "shard=65536"]
    return subprocess.Popen([sys.executable, "-m", "bmfm.shard_cells", *arguments], stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_killed_and_started_again_gives_the_same_bytes(files, collection, tmp_path):
    output = tmp_path / "all"
    process = started(files[0], output)
    deadline = time.time() + 60
    while not list(tmp_path.glob(".all.*/collection/dataset_0")) and time.time() < deadline and process.poll() is None:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not output.exists() and list(tmp_path.glob(".all.*/runs/run_0"))
    both = [started(files[0], output) for _ in range(2)]
    said = [p.communicate(timeout=60)[0] for p in both]
    assert sorted(p.returncode for p in both)[0] == 0 and any("written" in s for s in said)
    assert content(output) == content(collection) and [p.name for p in tmp_path.iterdir()] == ["all"]


def test_a_full_disk_tells_and_what_is_finished_stays(files, collection, tmp_path, monkeypatch):
    whole, n = module.np.save, 0

    def save(*arguments, **options):
        nonlocal n
        n += 1
        if n > 20:
            raise OSError(errno.ENOSPC, "No space left on device")
        whole(*arguments, **options)

    monkeypatch.setattr(module.np, "save", save)
    with pytest.raises(OSError, match="make room and start again"):
        shard(files[0], tmp_path / "all")
    assert not (tmp_path / "all").exists() and list(tmp_path.glob(".all.*/runs/run_0"))
    monkeypatch.undo()
    assert content(shard(files[0], tmp_path / "all")) == content(collection)


def test_an_input_that_changed_is_refused(files, tmp_path, monkeypatch):
    folder = tmp_path / "cells"
    folder.mkdir()
    for k in (0, 1):
        (folder / f"c{k}.h5ad").write_bytes((files[0] / f"c{k}.h5ad").read_bytes())

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "write_group", stop)
    with pytest.raises(KeyboardInterrupt):
        shard(folder, tmp_path / "all")
    monkeypatch.undo()
    os.utime(folder / "c1.h5ad", (1, 1))
    with pytest.raises(ValueError, match=r"c1\.h5ad changed since: remove that folder"):
        shard(folder, tmp_path / "all")
    write = module.write_group

    def change(*arguments):
        os.utime(folder / "c1.h5ad", (2, 2))
        write(*arguments)

    (left,) = tmp_path.glob(".all.*")
    left.rename(tmp_path / "aside")
    monkeypatch.setattr(module, "write_group", change)
    with pytest.raises(ValueError, match=r"c1\.h5ad was changed while it was read"):
        shard(folder, tmp_path / "all")
    assert not (tmp_path / "all").exists()
