import numpy as np
import pytest
import torch

from bmfm.objectives.masking import Masking
from bmfm.objectives.mlm import MaskedLanguageModel
from bmfm.objectives.multitask import Objectives
from bmfm.objectives.values import MaskedValues
from bmfm.special import CLS, IGNORE, MASK, SEP
from bmfm.tokenizers.base import Tokens
from bmfm.tokenizers.collate import collate, to_tensors
from tests.conftest import flat_tokens
from tests.objectives.conftest import made_up_spec

LENGTHS = [300, 200, 250, 90]
KEYS = np.array([3, 1, 4, 15], np.uint64)


def rows(lengths=LENGTHS, row_length=None, values=False):
    ids, flags, offsets = flat_tokens(lengths)
    fields = {"has_variant": flags}
    if values:
        fields["values"] = np.random.default_rng(1).integers(0, 4, len(ids)).astype(np.float32)
    batch = collate(Tokens(ids, offsets, fields), np.array([CLS]), 5, row_length, fills={"values": -3.0})
    return to_tensors(batch)


def bound(spec=None, **tasks):
    """Objectives that are set up."""
    objectives = Objectives(tasks)
    objectives.setup(spec or made_up_spec())
    return objectives


def test_masks_depend_on_the_example_alone():
    objectives = bound(mlm=MaskedLanguageModel(Masking(mask_prob=0.3, mask_token_prob=0.8, random_token_prob=0.1)))
    padded, packed = (objectives.prepare(rows(row_length=n), KEYS) for n in (None, 512))
    for b in range(4):
        one, other = padded["example_ids"] == b, packed["example_ids"] == b
        assert (padded["labels"]["mlm"][one] == packed["labels"]["mlm"][other]).all()
        hidden = padded["input_ids"][one] == MASK
        assert (hidden == (packed["input_ids"][other] == MASK)).all()
    labels, inputs = padded["labels"]["mlm"], padded["input_ids"]
    chosen = labels != IGNORE
    assert chosen.sum() / sum(LENGTHS) == pytest.approx(0.3, abs=0.05)
    assert (inputs[chosen] == MASK).float().mean() == pytest.approx(0.8, abs=0.08)
    assert (inputs[chosen] == labels[chosen]).float().mean() == pytest.approx(0.1, abs=0.06)
    assert not chosen[(inputs == CLS) | (inputs == SEP)].any()
    with pytest.raises(ValueError, match="masking rates"):
        Masking(mask_token_prob=0.9, random_token_prob=0.2)


def test_masked_only_logits_give_the_loss_and_scores_of_all_logits(small_model):
    objectives = bound(mlm=MaskedLanguageModel(Masking(mask_prob=0.3)))
    objective = objectives.tasks["mlm"]
    batch = objectives.prepare(rows([40, 30]), KEYS[:2])
    model = small_model(objectives.heads)
    hidden = model.encode(batch)
    total, n, weight = objectives.losses(model, batch, hidden)["mlm/cross_entropy"]
    labels = batch["labels"]["mlm"]
    everywhere = model.head("mlm", hidden)
    expected = torch.nn.functional.cross_entropy(everywhere.flatten(0, 1), labels.flatten(), ignore_index=IGNORE, reduction="sum")
    torch.testing.assert_close(total, expected)
    assert n == (labels != IGNORE).sum() and weight == 1
    sums = objectives.update_metrics(model, batch, hidden)
    parts = sums["mlm/parts"]
    with_variant = batch["has_variant"] & (labels != IGNORE)
    assert parts[1, 0] == with_variant.sum() and parts[:, 0].sum() == n
    assert parts[:, 1].sum().item() == pytest.approx(expected.item(), rel=1e-5)
    assert parts[:, 2].sum() == ((everywhere.argmax(-1) == labels) & (labels != IGNORE)).sum()
    assert parts[:, 3].sum().item() == pytest.approx(-objective.unigram[labels[labels != IGNORE]].sum().item(), rel=1e-5)
    metrics = objectives.compute_metrics(sums)
    assert metrics["loss"] == pytest.approx(metrics["mlm/loss"]) and metrics["baseline_loss"] == pytest.approx(metrics["mlm/unigram_loss"])


@pytest.mark.parametrize("shared", [True, False])
def test_fields_hidden_sharedor_apart(shared):
    masking = {"mask_prob": 0.3, "mask_token_prob": 1.0, "shared_mask": shared}
    objectives = bound(values=MaskedValues(Masking(**masking), {"mse": 1.0}), genes=MaskedLanguageModel(Masking(**masking)))
    batch = objectives.prepare(rows(values=True), KEYS)
    no_gene, no_value = batch["input_ids"] == MASK, batch["values"] == -(MASK + 1)
    assert (no_gene == (batch["labels"]["genes"] != IGNORE)).all() and (no_value == ~batch["labels"]["values"].isnan()).all()
    both = (no_gene & no_value).sum() / no_gene.sum()
    assert both == 1 if shared else 0.2 < both < 0.4


def test_switched_values_come_from_the_same_cell():
    objectives = bound(values=MaskedValues(Masking(mask_prob=0.5, mask_token_prob=0.0, random_token_prob=1.0), {"mse": 1.0}))
    before = rows(values=True)
    batch = objectives.prepare({k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in before.items()}, KEYS)
    changed = batch["values"] != before["values"]
    assert 0.3 < changed.sum() / sum(LENGTHS) < 0.5 and (batch["values"][~before["special_tokens_mask"]] >= 0).all()


def test_hidden_places_can_be_unseen():
    batch = bound(mlm=MaskedLanguageModel(Masking(hide_masked_positions=True))).prepare(rows(), KEYS)
    assert (batch["isolated_mask"] == (batch["input_ids"] == MASK)).all() and batch["isolated_mask"].any()


def test_gene_weights_and_adaptive_masking():
    objectives = bound(mlm=MaskedLanguageModel(Masking(mask_prob=0.4, gene_weights={"^t1": 0.0}, adaptive=True)))
    objective = objectives.tasks["mlm"]

    def masked_share(batch):
        ids, hidden = batch["original_ids"], batch["labels"]["mlm"] != IGNORE
        one, two = ((ids >= lo) & (ids < hi) & ~batch["special_tokens_mask"] for lo, hi in ((10, 20), (50, 60)))
        return (hidden & one).sum() / one.sum(), (hidden & two).sum() / two.sum()

    assert masked_share(objectives.prepare(rows(), KEYS))[0] == 0
    errors = torch.ones(100, 2, dtype=torch.float64)
    errors[50:60, 0] = 100.0
    objectives.adapt({"mlm/errors": errors})
    assert masked_share(objectives.prepare(rows(), KEYS))[1] > 0.9
    state = objectives.state_dict()
    again = bound(mlm=MaskedLanguageModel(Masking(mask_prob=0.4, gene_weights={"^t1": 0.0}, adaptive=True)))
    again.load_state_dict(state)
    assert (again.tasks["mlm"].masking.weights == objective.masking.weights).all()
    with pytest.raises(ValueError, match=r"no gene .* matches 'zz'"):
        bound(mlm=MaskedLanguageModel(Masking(gene_weights={"zz": 2.0})))


def test_held_out_masks_never_adapt():
    objectives = bound(mlm=MaskedLanguageModel(Masking(mask_prob=0.3, gene_weights={"^t1": 0.5}, adaptive=True)))
    before, trained = (objectives.prepare(rows(), KEYS, training)["labels"]["mlm"] for training in (False, True))
    assert (before == trained).all()
    errors = torch.rand(100, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 0.1
    objectives.adapt({"mlm/errors": errors})
    assert (objectives.prepare(rows(), KEYS, training=False)["labels"]["mlm"] == before).all()
    assert (objectives.prepare(rows(), KEYS)["labels"]["mlm"] != before).any()


def test_random_replacements_are_the_examples_own():
    """Packed with others, alone or in another row, an example gets the same tokens and values in place of its own."""
    masking = {"mask_prob": 0.5, "mask_token_prob": 0.2, "random_token_prob": 0.7}
    objectives = bound(mlm=MaskedLanguageModel(Masking(**masking)), values=MaskedValues(Masking(**masking), {"mse": 1.0}))
    padded, packed = (objectives.prepare(rows(row_length=n, values=True), KEYS) for n in (None, 600))
    backwards = {k: v.flip(0) if isinstance(v, torch.Tensor) and v.ndim == 2 else v for k, v in rows(values=True).items()}
    backwards = objectives.prepare(backwards, KEYS)
    for b in range(4):
        for name in ("input_ids", "values"):
            mine = padded[name][padded["example_ids"] == b]
            assert (mine == packed[name][packed["example_ids"] == b]).all() and (
                mine == backwards[name][backwards["example_ids"] == b]
            ).all(), name


def test_random_values_are_drawn_from_all_of_the_example():
    """Of 300 tokens with values 0 to 299, those that were replaced have values of any place, not of the one before."""
    objectives = bound(values=MaskedValues(Masking(mask_prob=0.9, mask_token_prob=0.0, random_token_prob=1.0), {"mse": 1.0}))
    batch = rows([300], values=True)
    content = ~batch["special_tokens_mask"]
    batch["values"][content] = torch.arange(300.0)
    batch = objectives.prepare(batch, KEYS[:1])
    distance = (batch["values"][content] - torch.arange(300.0)).abs()
    assert 60 < distance.mean() < 120 and batch["values"][content].max() < 300  # of two uniform draws: 100
