import numpy as np
import pytest
import torch

from bmfm.data.collate import collate
from bmfm.models.modernbert import build, encode
from bmfm.objectives.mlm import IGNORE, MaskedLanguageModel
from bmfm.tokenizers.dna import CLS, MASK, SEP
from tests.conftest import flat_tokens


def test_masks_depend_on_the_example_alone():
    objective = MaskedLanguageModel(100, share=0.3, masked=0.8, random=0.1)
    lengths = [300, 200, 250, 90]
    ids, flags, offsets = flat_tokens(lengths)
    keys = np.array([3, 1, 4, 15], np.uint64)
    padded = objective.prepare(collate(ids, flags, offsets), keys)
    packed = objective.prepare(collate(ids, flags, offsets, 512), keys)
    for b in range(4):
        one, other = padded["sequence_of_token"] == b, packed["sequence_of_token"] == b
        assert (padded["input_ids"][one] == packed["input_ids"][other]).all()
        assert (padded["labels"]["mlm"][one] == packed["labels"]["mlm"][other]).all()
    labels, inputs = padded["labels"]["mlm"], padded["input_ids"]
    chosen = labels != IGNORE
    assert chosen.sum() / sum(lengths) == pytest.approx(0.3, abs=0.05)
    assert (inputs[chosen] == MASK).mean() == pytest.approx(0.8, abs=0.08)
    assert (inputs[chosen] == labels[chosen]).mean() == pytest.approx(0.1, abs=0.06)
    assert not chosen[np.isin(inputs, [CLS, SEP])].any()
    with pytest.raises(ValueError, match="masking rates"):
        MaskedLanguageModel(100, masked=0.9, random=0.2)


def test_masked_only_logits_give_the_loss_and_scores_of_all_logits():
    objective = MaskedLanguageModel(100, share=0.3)
    prepared = objective.prepare(collate(*flat_tokens([40, 30])), np.array([1, 2], np.uint64))
    batch = {k: torch.from_numpy(v) for k, v in prepared.items() if k != "labels"}
    batch["labels"] = {"mlm": torch.from_numpy(prepared["labels"]["mlm"])}
    model = build(100, attention="sdpa", hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2).eval()
    hidden = encode(model, batch)
    total, n = objective.losses(model, batch, hidden)["mlm"]
    labels = batch["labels"]["mlm"]
    everywhere = model.decoder(model.head(hidden))
    expected = torch.nn.functional.cross_entropy(everywhere.flatten(0, 1), labels.flatten(), ignore_index=IGNORE, reduction="sum")
    torch.testing.assert_close(total, expected)
    assert n == (labels != IGNORE).sum()
    unigram = torch.full((100,), 0.01).log()
    sums = objective.score(model, batch, hidden, unigram)
    with_variant = batch["has_variant"] & (labels != IGNORE)
    assert sums[1, 0] == with_variant.sum() and sums[:, 0].sum() == n
    assert sums[:, 1].sum().item() == pytest.approx(expected.item(), rel=1e-5)
    assert sums[:, 2].sum() == ((everywhere.argmax(-1) == labels) & (labels != IGNORE)).sum()
    assert sums[:, 3].sum().item() == pytest.approx(int(n) * np.log(100), rel=1e-5)
