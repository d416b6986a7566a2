"""The held-out part of a data module, by a model in memory: what `predict` says of the same examples, however long they are."""

import anndata
import numpy as np
import pandas as pd
import pytest

import bmfm
from bmfm.data.rna import RnaDataModule
from bmfm.data.table import SequenceTable
from bmfm.files import ASSETS
from bmfm.inference import Predictor
from bmfm.inference.parts import read_part
from bmfm.models.model import build
from tests.conftest import MODERNBERT, SMALL

HEADS = {"y": {"size": 3, "pooling": "mean", "classes": ["a", "b", "c"]}}


@pytest.mark.filterwarnings("ignore:.*lose their end")
def test_long_sequences_are_windowed_as_in_predict(tmp_path, dna_model):
    rng = np.random.default_rng(0)
    texts = ["".join(rng.choice(list("ACGT"), n)) for n in (5, 400, 30, 250, 1, 90, 600, 12, 20, 33)]
    pd.DataFrame({"sequence": texts, "y": list("abcabcabca")}).to_csv(tmp_path / "t.csv", index=False)
    tokenizer = bmfm.load(dna_model).tokenizer
    data = SequenceTable(tmp_path / "t.csv", {"by": "random", "validation": 0.2, "test": 0.6}, max_tokens=20, batch_size=4)
    data.connect(tokenizer)
    model = build(tokenizer.fields, HEADS, MODERNBERT, max_position_embeddings=64, **SMALL)
    model.config.max_tokens = 20
    predictor = Predictor(model, tokenizer, "cpu")
    found = predictor.logits(read_part(data.parts["test"]), batch_size=3)["y"]
    numbers = data.numbers["test"]
    assert data.is_cut[numbers].any() and not data.is_cut[numbers].all() and found.shape == (len(numbers), 3)
    np.testing.assert_allclose(found, predictor.logits([texts[n] for n in numbers])["y"], atol=1e-5)
    chance = np.exp(found) / np.exp(found).sum(1, keepdims=True)
    predictions = predictor.predict([texts[n] for n in numbers])
    np.testing.assert_allclose(predictions[["y_p_a", "y_p_b", "y_p_c"]], chance, atol=1e-5)
    part = predictor.logits(read_part(data.parts["test"], np.array([3, 1])))["y"]
    np.testing.assert_allclose(part, found[[3, 1]], atol=1e-5)


def test_cells_of_a_part(cells_model):
    adata = anndata.read_h5ad(ASSETS / "rna" / "pbmc3k.h5ad")[:60].copy()
    predictor = bmfm.load(cells_model)
    data = RnaDataModule(adata, {"by": "random", "validation": 0.2, "test": 0.5}, max_tokens=64, batch_size=4)
    data.connect(predictor.tokenizer)
    found = predictor.logits(read_part(data.parts["test"]))
    expected = predictor.predict(adata[data.numbers["test"]], max_tokens=64)
    assert set(found) == {"type", "score", "tags"}
    np.testing.assert_allclose(found["score"][:, 0] * 2 + 5, expected["score"], atol=1e-4)
    np.testing.assert_allclose(1 / (1 + np.exp(-found["tags"])), expected[["tags_p_x", "tags_p_y"]], atol=1e-5)
