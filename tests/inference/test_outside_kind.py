"""A kind of label that the package does not know, found by its path in the description of a saved head."""

import numpy as np
import pytest

import bmfm
from bmfm.label_kinds import LabelKind
from bmfm.models.model import build
from tests.conftest import MODERNBERT, SMALL

TEXTS = ["ACGTTGCAACGATT", "GATTACA", "ACGT" * 60]


class Interval(LabelKind):
    """Two numbers an example, of which the larger is the end."""

    def scores(self, logits):
        return np.sort(logits, 1) * self.head["unit"]

    def columns(self, scores):
        return {"_start": scores[:, 0], "_end": scores[:, 1]}

    def from_columns(self, columns):
        return np.stack([columns("_start"), columns("_end")], 1)

    def metrics(self, truth, scores):
        return lambda weight: {"overlap": 1.0}


@pytest.fixture
def folder(tmp_path, dna_model):
    tokenizer = bmfm.load(dna_model).tokenizer
    head = {"size": 2, "kind": f"{__name__}.Interval", "pooling": "mean", "unit": 10.0}
    model = build(tokenizer.fields, {"gene": head}, MODERNBERT, max_position_embeddings=64, **SMALL)
    model.config.max_tokens = 20
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return tmp_path


def test_its_columns_are_predicted(folder):
    model = bmfm.load(folder)
    found = model.predict(TEXTS)
    logits = model.logits(TEXTS)["gene"]
    assert list(found) == ["gene_start", "gene_end"] and logits.shape == (3, 2)
    np.testing.assert_allclose(found.to_numpy(), np.sort(logits, 1) * 10, rtol=1e-6)
    assert (found.dtypes == np.float32).all()


def test_its_heads_are_described(folder):
    assert "gene: 2 outputs, pooling mean" in repr(bmfm.load(folder))
