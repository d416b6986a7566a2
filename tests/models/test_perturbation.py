"""The encoder of perturbations, and models that begin to read them when they are fine-tuned."""

import numpy as np
import pytest
import torch

from bmfm.checkpoints.load import from_checkpoint, read_model, read_tokenizer, save_together
from bmfm.models.model import build
from bmfm.models.perturbation import PerturbationEncoder
from bmfm.tokenizers.rna import CellTokenizer

GENES = [f"G{i}" for i in range(12)]
NO_HEADS = {"perturbation": {"size": 50, "transform": True, "outputs": ["change"], "cls": 0, "begins_at_bias": True}}


def tokenizer(drugs=None) -> CellTokenizer:
    return CellTokenizer(GENES, order="as_given", trained_on=None if drugs is None else {"drugs": drugs})


def model_of(tokens, heads=None):
    torch.manual_seed(0)
    values = {"_target_": "bmfm.models.embeddings.MlpEncoder"}
    return build(tokens.fields, heads or {}, "bmfm.models.backbones.set.LatentSet", values=values, hidden_size=16, intermediate_size=16, num_latents=2, num_hidden_layers=1, num_attention_heads=2)  # fmt: skip


def told(*cells):
    """A batch of cells, each a list of (target, kind, log10 dose)."""
    n = max(map(len, cells))
    ids, doses = torch.full((len(cells), n, 2), -1), torch.zeros(len(cells), n)
    for row, targets in enumerate(cells):
        for place, (target, kind, dose) in enumerate(targets):
            ids[row, place], doses[row, place] = torch.tensor([target, kind]), dose
    return {"cls_index": torch.arange(len(cells)), "perturbation_ids": ids, "perturbation_doses": doses}


@pytest.fixture
def parts():
    torch.manual_seed(0)
    encoder, genes = PerturbationEncoder(8, size=20, n_drugs=2), torch.nn.Embedding(20, 8)
    encoder.initialize()
    return encoder, genes


def test_targets_add_up_in_any_order(parts):
    encoder, genes = parts
    first, second, both, turned = encoder(told([(3, 1, 0.0)], [(5, 1, 0.0)], [(3, 1, 0.0), (5, 1, 0.0)], [(5, 1, 0.0), (3, 1, 0.0)]), genes)
    torch.testing.assert_close(both, first + second)
    torch.testing.assert_close(both, turned)


def test_nothing_done_adds_nothing(parts):
    encoder, genes = parts
    none, some = encoder(told([], [(3, 1, 0.0)]), genes)
    assert not none.any() and some.any()
    assert not encoder({"cls_index": torch.arange(3)}, genes).any()


def test_drug_and_dose_matter_and_kinds_begin_alike(parts):
    encoder, genes = parts
    one, other, more, gene, switched = encoder(told([(20, 4, 0.0)], [(21, 4, 0.0)], [(20, 4, 1.0)], [(3, 1, 0.0)], [(3, 2, 0.0)]), genes)
    assert not torch.allclose(one, other) and not torch.allclose(one, more)
    torch.testing.assert_close(gene, switched)
    with torch.no_grad():
        encoder.shift.weight[2] += 1
    assert not torch.allclose(encoder(told([(3, 2, 0.0)]), genes)[0], gene)


def test_a_model_of_cells_begins_to_read_perturbations(tmp_path):
    plain = tokenizer()
    before = model_of(plain)
    save_together(before, plain, tmp_path)
    told_of = read_tokenizer(tmp_path)
    told_of.drugs = []
    after = from_checkpoint(told_of.fields, NO_HEADS, str(tmp_path))
    for name, weight in before.state_dict().items():
        torch.testing.assert_close(after.state_dict()[name], weight)
    assert after.config.fields["perturbation"]["_target_"].endswith("PerturbationEncoder")
    save_together(after, told_of, tmp_path / "after")
    again, its_tokens = read_model(tmp_path / "after"), read_tokenizer(tmp_path / "after")
    assert its_tokens.drugs == []
    for name, weight in after.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], weight)


def test_further_drugs_get_rows_behind_those_that_are_known(tmp_path):
    known = tokenizer(["A", "B"])
    before = model_of(known)
    save_together(before, known, tmp_path)
    more = tokenizer(["A", "B", "C"])
    after = from_checkpoint(more.fields, {}, str(tmp_path)).state_dict()
    rows = after["embeddings.perturbation.drugs.weight"]
    assert rows.shape[0] == 3
    torch.testing.assert_close(rows[:2], before.state_dict()["embeddings.perturbation.drugs.weight"])


def test_a_head_that_begins_at_its_bias_says_little_of_the_state():
    heads = {"near": {"size": 4, "begins_at_bias": True}, "usual": {"size": 4}}
    model = model_of(tokenizer(), heads)
    states = torch.randn(50, 16)
    near, usual = (model.head(name, states).std().item() for name in heads)
    assert 0 < near < usual / 50


def test_plain_cells_are_read_as_before(tmp_path):
    """A model that reads perturbations embeds cells to which nothing is done."""
    from bmfm.cells.counts import CellBatch, Counts
    from bmfm.tokenizers.collate import to_tensors

    told_of = tokenizer([])
    model = model_of(told_of).eval()
    first = told_of.plain_ids[0]
    cells = CellBatch(Counts(np.array([first, first + 1], np.int32), np.ones(2, np.float32), np.array([0, 2])), np.zeros(1, np.int64), [np.arange(first, first + 12, dtype=np.int32)])  # fmt: skip
    batch = to_tensors(told_of.collate(told_of.encode(cells, np.zeros(1, np.uint64), 16)))
    assert "perturbation_ids" not in batch and model.encode(batch).isfinite().all()
