import anndata
import numpy as np
import pandas as pd
import pytest
import torch

import bmfm
from bmfm.files import ASSETS
from bmfm.ledger import Ledger
from tests.conftest import SLICE_FASTA


@pytest.fixture(scope="module")
def adata():
    return anndata.read_h5ad(ASSETS / "rna" / "pbmc3k.h5ad")[:70].copy()


def test_cells(cells_model, adata, tmp_path):
    model = bmfm.load(cells_model)
    embedded = model.embed(adata, batch_size=16)
    assert embedded.shape == (70, 16) and embedded.dtype == np.float32 and np.isfinite(embedded).all()
    assert model.match.share > 0.5 and model.counts["cells"] == 70 and model.counts["truncated_cells"] > 0
    np.testing.assert_allclose(model.embed(adata, batch_size=7), embedded, atol=1e-5)
    adata.write_h5ad(tmp_path / "a.h5ad")
    np.testing.assert_allclose(model.embed(tmp_path / "a.h5ad"), embedded, atol=1e-5)
    shuffled = adata[:, ::-1].copy()
    np.testing.assert_allclose(model.embed(shuffled, max_tokens=4096), model.embed(adata, max_tokens=4096), atol=1e-5)
    for pooling, layer in (("mean", None), (0, 0), (0, -1)):
        other = model.embed(adata, pooling=pooling, layer=layer)
        assert other.shape == (70, 16) and (np.allclose(other, embedded, atol=1e-5) == (layer == -1))
    with pytest.raises(ValueError, match="no pooler"):
        model.embed(adata, pooling="pooler")
    with pytest.raises(ValueError, match="layer 5"):
        model.embed(adata, layer=5)


def test_cells_predictions_and_scanpy(cells_model, adata):
    import scanpy

    model = bmfm.load(cells_model)
    said = model.predict(adata)
    assert (said.index == adata.obs_names).all() and set(said["type"]) <= {"a", "b", "c"}
    np.testing.assert_allclose(said[["type_p_a", "type_p_b", "type_p_c"]].sum(axis=1), 1, rtol=1e-5)
    assert (said["tags"].str.contains("x") == (said["tags_p_x"] > 0.5)).all() and said["score"].between(-10, 20).all()
    adata.obsm["X_bmfm"] = model.embed(adata)
    scanpy.pp.neighbors(adata, use_rep="X_bmfm", n_neighbors=5)
    assert adata.obsp["connectivities"].shape == (70, 70)


def test_sequences(dna_model):
    model = bmfm.load(dna_model)
    texts = ["ACGTTGCA" * 10, "acgtn", "GATTACA" * 200, "ACGT高"]
    embedded = model.embed(texts, pooling="mean", batch_size=2)
    assert embedded.shape == (4, 16) and model.counts["windows"] > 4 and model.counts["unknown_tokens"] == 0
    for i, text in enumerate(texts):
        np.testing.assert_allclose(model.embed([text], pooling="mean")[0], embedded[i], atol=1e-5)
    np.testing.assert_allclose(model.embed([texts[1].upper()], pooling="mean")[0], embedded[1], atol=1e-6)
    with pytest.raises(ValueError, match="no label heads"):
        model.predict(texts)
    model.embed(["ACGRYX"])
    assert model.counts["characters_read_as_N"] == 3


def test_long_sequences_are_means_of_their_windows(dna_model):
    from bmfm.inference.sequences import read_sequences

    model = bmfm.load(dna_model)
    names, texts, _ = read_sequences(SLICE_FASTA)
    assert len(names) == 1 and len(texts[0]) == 1_000_000
    text = texts[0][:3000]
    whole = model.embed([text], pooling="mean", max_tokens=34)
    n = model.counts["windows"]
    parts = np.empty((n, 16), np.float32)
    weights = np.empty(n)
    ids = {}
    for rows, batch in model.batches([text], max_tokens=34, batch_size=5):
        parts[rows] = model.forward(batch).pool("mean")
        weights[rows] = (batch["input_ids"] > 4).sum(1)
        ids |= dict(zip(rows.tolist(), batch["input_ids"], strict=True))
    ((_, one),) = model.batches([text], max_tokens=10_000)
    windows = [window[window > 4] for _, window in sorted(ids.items())]
    assert torch.equal(torch.cat(windows), one["input_ids"][one["input_ids"] > 4]) and {len(w) for w in windows[:-1]} == {32}
    np.testing.assert_allclose(whole, np.average(parts, axis=0, weights=weights)[None], atol=1e-5)


def test_what_cannot_be_loaded(tmp_path):
    with pytest.raises(FileNotFoundError, match="model folder"):
        bmfm.load(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(FileNotFoundError, match=r"no weights.*made readable by bmfm\.convert"):
        bmfm.load(tmp_path)


def test_frame_of_other_cells_is_refused(cells_model):
    other = anndata.AnnData(np.ones((3, 4), np.float32), var=pd.DataFrame(index=list("abcd")))
    with pytest.raises(ValueError, match="only 0 of 4 genes"):
        bmfm.load(cells_model).embed(other)


def test_options_that_do_not_exist(cells_model, adata):
    with pytest.raises(ValueError, match=r"nonsense: no such option for a model of cells; there are batch_size, .*depth_target.* order"):
        bmfm.load(cells_model).embed(adata, nonsense=1)


def test_a_damaged_part_is_made_again(cells_model, adata, tmp_path):
    model = bmfm.load(cells_model)
    expected = model.embed(adata, ledger=Ledger(tmp_path))
    part = next(tmp_path.glob("*.npz"))
    part.write_bytes(part.read_bytes()[:100])
    np.testing.assert_array_equal(model.embed(adata, ledger=Ledger(tmp_path)), expected)
