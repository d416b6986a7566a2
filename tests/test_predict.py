"""``python -m bmfm.predict`` on cells: what is written, where, and from which parts; anndata reads it back."""

import shutil

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import bmfm
from bmfm.cli import compose
from bmfm.files import ASSETS
from bmfm.inference import runner
from bmfm.predict import predict


@pytest.fixture(scope="module")
def adata():
    adata = ad.read_h5ad(ASSETS / "rna" / "pbmc3k.h5ad")[:40].copy()
    adata.X = sp.csr_matrix(adata.X).astype(np.float32)
    adata.obs["type"] = pd.Categorical(np.where(np.arange(40) % 2, "true a", "true b"))
    adata.obsm["X_pca"] = np.arange(80.0).reshape(40, 2)
    return adata


@pytest.fixture(scope="module")
def expected(cells_model, adata):
    model = bmfm.load(cells_model)
    return model.embed(adata), model.predict(adata)


def run(checkpoint, path, output, *more):
    predict(compose("predict", [f"checkpoint={checkpoint}", f"data.path={path}", f"output='{output}'", "progress=false", *more]))
    return ad.read_zarr(output) if str(output).endswith(".zarr") else ad.read_h5ad(output)


def equal(found, expected, type_column="type_predicted", key="X_bmfm"):
    embedded, said = expected
    np.testing.assert_allclose(found.obsm[key], embedded, atol=1e-5)
    assert found.obs[type_column].astype(str).tolist() == said["type"].tolist()
    np.testing.assert_allclose(found.obs["type_p_a"], said["type_p_a"], atol=1e-5)
    np.testing.assert_allclose(found.obs["score"], said["score"], atol=1e-4)


@pytest.mark.parametrize("source", ["h5ad", "zarr"])
@pytest.mark.parametrize("target", ["h5ad", "zarr"])
def test_the_suffix_decides_and_input_is_kept(cells_model, adata, expected, tmp_path, source, target, capsys):
    path = tmp_path / f"in.{source}"
    adata.write_zarr(path) if source == "zarr" else adata.write_h5ad(path)
    found = run(cells_model, path, tmp_path / f"out.{target}")
    assert (tmp_path / f"out.{target}").is_dir() == (target == "zarr")
    equal(found, expected)
    assert "type is written to obs/type_predicted: obs/type was there already" in capsys.readouterr().out
    assert found.obs["type"].tolist() == adata.obs["type"].tolist() and np.array_equal(found.obsm["X_pca"], adata.obsm["X_pca"])
    assert (found.X != adata.X).nnz == 0 and found.var_names.tolist() == adata.var_names.tolist()
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([path.name, f"out.{target}"])


def test_a_second_prediction_stands_beside_the_first(cells_model, adata, expected, tmp_path):
    adata.write_h5ad(tmp_path / "in.h5ad")
    run(cells_model, tmp_path / "in.h5ad", tmp_path / "one.h5ad")
    found = run(cells_model, tmp_path / "one.h5ad", tmp_path / "two.h5ad")
    equal(found, expected, "type_predicted_2", "X_bmfm_2")
    equal(found, expected)


def test_names_that_repeat(cells_model, adata, expected, tmp_path):
    twice = ad.concat([adata, adata])
    assert not twice.obs_names.is_unique
    twice.write_h5ad(tmp_path / "in.h5ad")
    found = run(cells_model, tmp_path / "in.h5ad", tmp_path / "out.h5ad")
    assert found.n_obs == 80 and found.obs_names.tolist() == twice.obs_names.tolist()
    equal(found[:40], expected), equal(found[40:], expected)
    model = bmfm.load(cells_model)
    written = model.annotate(twice)
    assert written["type"] == "obs/type_predicted" and written["embedding"] == "obsm/X_bmfm" and written["score"] == "obs/score"
    equal(twice[40:], expected)
    assert twice.obs["type"].tolist() == adata.obs["type"].tolist() * 2
    assert model.annotate(twice)["embedding"] == "obsm/X_bmfm_2"
    assert model.annotate(twice, overwrite=True)["type"] == "obs/type"


def test_several_files(cells_model, adata, expected, tmp_path):
    adata[:15].write_h5ad(tmp_path / "a.h5ad")
    adata[15:, 200:].write_zarr(tmp_path / "b.zarr")
    found = run(cells_model, f"['{tmp_path}/a.h5ad','{tmp_path}/b.zarr']", tmp_path / "out.h5ad")
    np.testing.assert_allclose(found.obsm["X_bmfm"][:15], expected[0][:15], atol=1e-5)
    assert found.obs["file"].tolist() == ["a.h5ad"] * 15 + ["b.zarr"] * 25 and found.shape == adata.shape
    matched = found[:, adata.var_names].X
    assert (matched[:15] != adata.X[:15]).nnz == 0 and (matched[15:, 200:] != adata.X[15:, 200:]).nnz == 0


@pytest.mark.filterwarnings("default:.*no count in any")
def test_cells_without_counts_get_no_class(cells_model, adata, tmp_path, capsys):
    some = adata.copy()
    some.X = sp.csr_matrix(some.X.multiply((np.arange(40) != 7)[:, None]))
    some.write_h5ad(tmp_path / "in.h5ad")
    found = run(cells_model, tmp_path / "in.h5ad", tmp_path / "out.h5ad")
    assert "1 of 40 cells have no count in any gene of the vocabulary" in (told := capsys.readouterr()).err and "empty cells 1" in told.out
    missing = found.obs[["type_predicted", "type_p_a", "score", "tags", "tags_p_x"]].isna()
    assert missing.to_numpy()[7].all() and missing.to_numpy().sum() == 5 and np.isfinite(found.obsm["X_bmfm"]).all()
    with pytest.warns(UserWarning, match=f"first: '{adata.obs_names[7]}'"):
        said = bmfm.load(cells_model).predict(some)
    assert said["type"].iloc[7] is None and np.isnan(said["score"].iloc[7])


class Interrupted(Exception):
    pass


class TestInterrupted:
    """Finished parts are used again by the same model on the same data with the same options, and by nothing else."""

    @pytest.fixture
    def small_chunks(self, monkeypatch):
        monkeypatch.setattr("bmfm.inference.cells.CHUNK", 16)

    def begin(self, monkeypatch, checkpoint, path, output, after=1):
        run_chunk, calls = runner.run_chunk, []

        def stop(*args):
            if len(calls) == after:
                raise Interrupted
            calls.append(1)
            return run_chunk(*args)

        with monkeypatch.context() as patch:
            patch.setattr(runner, "run_chunk", stop)
            with pytest.raises(Interrupted):
                run(checkpoint, path, output)

    def count(self, monkeypatch):
        run_chunk, calls = runner.run_chunk, []
        monkeypatch.setattr(runner, "run_chunk", lambda *args: calls.append(1) or run_chunk(*args))
        return calls

    def test_goes_on(self, monkeypatch, small_chunks, cells_model, adata, expected, tmp_path):
        adata.write_h5ad(tmp_path / "in.h5ad")
        self.begin(monkeypatch, cells_model, tmp_path / "in.h5ad", tmp_path / "out.h5ad")
        calls = self.count(monkeypatch)
        equal(run(cells_model, tmp_path / "in.h5ad", tmp_path / "out.h5ad"), expected)
        assert len(calls) == 2

    @pytest.mark.parametrize("n_done", [3, 1, 0])
    def test_workers_share_it(self, monkeypatch, small_chunks, cells_model, adata, expected, tmp_path, n_done, capsys):
        """Whether they did all, died after some, or did nothing: the file is that of one process."""
        adata.write_h5ad(tmp_path / "in.h5ad")
        run_chunk, calls = runner.run_chunk, []

        def dies_early(*args):
            if len(calls) == n_done:
                raise Interrupted("no memory")
            calls.append(1)
            return run_chunk(*args)

        def launch(launcher, work, numbers, failed):
            with monkeypatch.context() as patch:
                patch.setattr(runner, "run_chunk", dies_early)
                for number in numbers:
                    try:
                        yield work(number)
                    except Interrupted as error:
                        yield failed(number, str(error))

        monkeypatch.setattr("bmfm.launch.LocalPool.__call__", launch)
        of_parent = []
        monkeypatch.setattr(runner, "run_chunk", lambda *args: of_parent.append(1) or run_chunk(*args))
        found = run(cells_model, tmp_path / "in.h5ad", tmp_path / "out.h5ad", "launcher=local", "launcher.workers=2")
        equal(found, expected)
        assert (len(calls), len(of_parent)) == (n_done, 3 - n_done)
        told = capsys.readouterr()
        assert ("worker 1 ended early: no memory" in told.err) == (n_done < 3) and f"{n_done} more shards are finished" in told.out
        run(cells_model, tmp_path / "in.h5ad", tmp_path / "alone.h5ad")
        assert (tmp_path / "alone.h5ad").read_bytes() == (tmp_path / "out.h5ad").read_bytes()
        assert sorted(p.name for p in tmp_path.iterdir()) == ["alone.h5ad", "in.h5ad", "out.h5ad"]

    @pytest.mark.parametrize("changed", ["model", "options", "data", "zarr"])
    def test_parts_of_something_else_are_left(self, monkeypatch, small_chunks, cells_model, adata, expected, tmp_path, changed):
        from safetensors.numpy import load_file, save_file

        folder, path, output = tmp_path / "model", tmp_path / ("in.zarr" if changed == "zarr" else "in.h5ad"), tmp_path / "out.h5ad"
        shutil.copytree(cells_model, folder)
        write = ad.AnnData.write_zarr if changed == "zarr" else ad.AnnData.write_h5ad
        write(adata, path)
        self.begin(monkeypatch, folder, path, output)
        more = []
        if changed == "model":  # another at the same path, of the same size
            file = folder / "model.safetensors"
            weights = {k: v + 0.01 for k, v in load_file(file).items()}
            save_file(weights, file, {"format": "pt"})
        elif changed == "options":
            more = ["max_tokens=64"]
        else:
            other = adata[::-1].copy()
            write(other, path)
        calls = self.count(monkeypatch)
        found = run(folder, path, output, *more)
        assert len(calls) == 3
        fresh = bmfm.load(folder).embed(adata[::-1] if changed in ("data", "zarr") else adata, max_tokens=64 if more else None)
        np.testing.assert_allclose(found.obsm["X_bmfm"], fresh, atol=1e-5)


def test_options_reach_the_reader(cells_model, adata, tmp_path):
    other = adata.copy()
    other.var_names = [f"m{n}" for n in adata.var_names]
    other.write_h5ad(tmp_path / "in.h5ad")
    table = tmp_path / "orthologs.csv"
    table.write_text("mouse,human\n" + "".join(f"m{n},{n}\n" for n in adata.var_names if "," not in n))
    with pytest.raises(ValueError, match=r"data\.orthologs"):
        run(cells_model, tmp_path / "in.h5ad", tmp_path / "out.h5ad")
    found = run(
        cells_model,
        tmp_path / "in.h5ad",
        tmp_path / "out.h5ad",
        f"data.orthologs={table}",
        "data.depth_target=4000",
        "data.order=descending",
    )
    fresh = bmfm.load(cells_model).embed(adata, depth_target=4000)
    np.testing.assert_allclose(found.obsm["X_bmfm"], fresh, atol=1e-5)


@pytest.mark.parametrize("layout", ["anndata 0.6", "h5mu", "mtx"])
@pytest.mark.parametrize("target", ["h5ad", "zarr"])
def test_other_layouts_become_what_the_suffix_says(cells_model, tmp_path, layout, target):
    import h5py
    import scipy.io
    from anndata.io import write_elem

    from tests.cells.test_inputs import GENES, TestLayouts, adata_of

    matrix = np.random.default_rng(0).poisson(1.0, (30, 6)).astype(np.float32)
    if layout == "anndata 0.6":
        TestLayouts().old(path := tmp_path / "old.h5ad", matrix)
    elif layout == "h5mu":
        with h5py.File(path := tmp_path / "a.h5mu", "w") as file:
            write_elem(file, "mod/rna", adata_of(matrix))
    else:
        (path := tmp_path / "mtx").mkdir()
        scipy.io.mmwrite(path / "matrix.mtx", sp.csc_matrix(matrix.T.astype(int)))
        (path / "barcodes.tsv").write_text("".join(f"cell{i}\n" for i in range(30)))
        (path / "genes.tsv").write_text("".join(f"id{i}\t{g}\n" for i, g in enumerate(GENES)))
    found = run(cells_model, path, tmp_path / f"out.{target}")
    assert np.array_equal(found.X.toarray() if sp.issparse(found.X) else found.X, matrix)
    np.testing.assert_allclose(found.obsm["X_bmfm"], bmfm.load(cells_model).embed(adata_of(matrix)), atol=1e-5)
    assert found.obs_names.tolist() == [f"cell{i}" for i in range(30)] and found.var_names.tolist() == GENES


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_a_table_that_cannot_be_written_whole_leaves_the_one_before(tmp_path, ending):
    from bmfm.inference.tables import write_rows

    class Refusing:
        def __str__(self):
            raise RuntimeError("no text")

    file = tmp_path / f"t{ending}"
    write_rows(pd.DataFrame({"a": [1]}), file)
    before = file.read_bytes()
    with pytest.raises(Exception, match=r"no text|Could not convert"):
        write_rows(pd.DataFrame({"a": [*range(200_000), Refusing()]}), file)
    assert file.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == [file.name]
