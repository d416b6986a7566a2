"""Embeddings whose spread over training cells is balanced: the map, and models that are trained with it."""

import anndata
import numpy as np
import pytest
import torch
from scipy.linalg import fractional_matrix_power

import bmfm
from bmfm.checkpoints.load import from_checkpoint
from bmfm.cli import compose
from bmfm.files import ASSETS
from bmfm.models.balance import balancing_map
from bmfm.models.config import BmfmConfig


@pytest.fixture(scope="module")
def states():
    rng = np.random.default_rng(0)
    return rng.normal(size=(500, 6)) @ (np.eye(6) * [1, 2, 3, 1, 1, 5] + rng.normal(size=(6, 6)) / 9) + 7


@pytest.mark.parametrize("power", [0, 0.1, 0.5])
def test_the_map_is_a_power_of_the_covariance(states, power):
    expected = fractional_matrix_power(np.cov(states.T), -power)
    found = balancing_map(states, power)
    np.testing.assert_allclose(found / found[0, 0], expected / expected[0, 0], rtol=1e-6, atol=1e-8)
    assert (found**2).sum() == pytest.approx(6)  # as that of the identity


def test_half_a_power_makes_all_directions_spread_alike(states):
    spread = np.cov((states @ balancing_map(states, 0.5)).T)
    np.testing.assert_allclose(spread, np.eye(6) * spread[0, 0], atol=1e-6 * spread[0, 0])


def test_directions_without_spread_stay_finite(states):
    states = states @ np.diag([1, 1, 1, 1, 1, 0])
    assert np.isfinite(balancing_map(states, 0.5)).all()
    with pytest.raises(ValueError, match="500 cells are all alike"):
        balancing_map(states * 0)


SHORT = ("trainer.max_steps=3", "trainer.val_check_interval=3", "schedule.warmup_steps=1", "trainer.enable_progress_bar=false",
         "callbacks.progress=null", "trainer.accelerator=cpu", "trainer.devices=1")  # fmt: skip
TINY = ("model.hidden_size=16", "model.num_hidden_layers=0", "data.split.validation=0.25")


def _train(*settings):
    from bmfm.training.run import train

    train(compose("train", [*settings, *SHORT]))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a short run, the cells of its training part, and those of its validation part."""
    from bmfm.training.run import assemble

    folder = tmp_path_factory.mktemp("balanced")
    adata = anndata.read_h5ad(ASSETS / "rna" / "pbmc3k.h5ad")[:80].copy()
    adata.write_h5ad(folder / "cells.h5ad")
    settings = ("+recipe=rna_counts", f"data.path={folder / 'cells.h5ad'}", f"run_dir={folder / 'run'}", *TINY)
    numbers = assemble(compose("train", [*settings, *SHORT]))[0].numbers
    _train(*settings)
    return folder / "run" / "model", adata[np.sort(numbers["train"])].copy(), adata[numbers["validation"]].copy()


def test_training_fits_the_map_to_the_whole_cells_of_its_training_part(trained):
    """By singular values of these cells, with the least spread that counts, then LayerNorm, of cells that are not among them."""
    folder, seen, others = trained
    model = bmfm.load(folder)
    assert model.model.config.pooling == "balanced" and len(seen) + len(others) <= 80
    cls = model.embed(seen, pooling=0, progress=False).astype(np.float64)
    _, spread, directions = np.linalg.svd(cls - cls.mean(0))
    mapped = model.embed(others, pooling=0, progress=False) @ directions.T @ np.diag(spread.clip(spread[0] / 100) ** -0.2) @ directions
    expected = (mapped - mapped.mean(1, keepdims=True)) / mapped.std(1, keepdims=True)
    np.testing.assert_allclose(model.embed(others, progress=False), expected, atol=1e-3)
    np.testing.assert_array_equal(model.embed(others, progress=False), model.embed(others, pooling="balanced", progress=False))


def test_label_heads_read_cls_itself(trained):
    heads = {"y": {"size": 2, "pooling": "auto", "classes": ["a", "b"]}}
    model = from_checkpoint({}, heads, str(trained[0]))
    assert model.config.heads["y"]["pooling"] == 0 and model.config.pooling == "balanced"
    torch.testing.assert_close(model.balance, bmfm.load(trained[0]).model.balance)
    assert not torch.equal(model.balance, torch.eye(16))
    assert torch.equal(from_checkpoint({}, heads, str(trained[0]), random_init=True).balance, torch.eye(16))


def test_a_fine_tuned_model_keeps_its_map(trained, tmp_path):
    """Few labelled cells do not say how cells differ, and the adapter of a model has no map."""
    seen = trained[1].copy()
    seen.write_h5ad(tmp_path / "cells.h5ad")
    _train(
        "+recipe=rna_finetune", f"checkpoint={trained[0]}", f"data.path={tmp_path / 'cells.h5ad'}", f"run_dir={tmp_path / 'run'}",
        "objectives.label.column=cell_type", "test=false", "logistic_regression=false",
    )  # fmt: skip
    tuned = bmfm.load(tmp_path / "run" / "model")
    torch.testing.assert_close(tuned.model.balance, bmfm.load(trained[0]).model.balance)
    assert tuned.model.config.pooling == "balanced" and len(tuned.predict(seen, progress=False)) == len(seen)


def test_permuted_genes_are_not_what_the_map_is_fitted_to(trained, tmp_path):
    """A run that does not learn has the map of its cells as they are, whatever share of them is permuted in training."""
    trained[1].write_h5ad(tmp_path / "cells.h5ad")
    maps = []
    for share in (0, 1):
        run_dir = tmp_path / f"run{share}"
        _train("+recipe=rna_counts", f"data.path={tmp_path / 'cells.h5ad'}", f"run_dir={run_dir}", *TINY, "optimizer.lr=0",
               f"data.permute_genes={share}")  # fmt: skip
        maps.append(bmfm.load(run_dir / "model").model.balance)
    torch.testing.assert_close(*maps)
    assert not torch.equal(maps[0], torch.eye(16))


def test_a_model_without_a_map_is_saved_all_the_same(trained, tmp_path):
    cells = trained[1][[0] * 30].copy()
    cells.obs_names_make_unique()
    cells.write_h5ad(tmp_path / "cells.h5ad")
    with pytest.warns(UserWarning, match=r"the map of balanced embeddings could not be made .* are all alike"):
        _train("+recipe=rna_counts", f"data.path={tmp_path / 'cells.h5ad'}", f"run_dir={tmp_path / 'run'}", *TINY)
    assert torch.equal(bmfm.load(tmp_path / "run" / "model").model.balance, torch.eye(16))


def test_of_other_layers_cls_is_taken_as_it_is(trained, tmp_path):
    folder, cells, _ = trained
    _train(
        "+recipe=rna_counts",
        f"data.path={folder.parents[1] / 'cells.h5ad'}",
        f"run_dir={tmp_path / 'run'}",
        *TINY,
        "model.num_hidden_layers=1",
    )
    model = bmfm.load(tmp_path / "run" / "model")
    np.testing.assert_array_equal(model.embed(cells, layer=0, progress=False), model.embed(cells, pooling=0, layer=0, progress=False))


def test_where_there_is_none(cells_model):
    with pytest.raises(ValueError, match="pooling=balanced: this model has not been trained with it; choose the number of a CLS token"):
        bmfm.load(cells_model).embed(anndata.read_h5ad(ASSETS / "rna" / "pbmc3k.h5ad")[:3], pooling="balanced")
    with pytest.raises(ValueError, match=r"model\.pooling=balanced: it is of \[CLS\] of cells"):
        BmfmConfig(fields={"input_ids": {}}, pooling="balanced")
