"""The masked-language loss against that of transformers' own model, on the same weights and the same batch."""

import numpy as np
import pytest
import torch

from bmfm.checkpoints.transformers_format import to_transformers
from bmfm.models.model import build
from bmfm.objectives.masking import Masking
from bmfm.objectives.mlm import MaskedLanguageModel
from bmfm.objectives.multitask import Objectives
from tests.conftest import MODERNBERT, SMALL
from tests.objectives.conftest import made_up_spec
from tests.objectives.test_mlm import rows


@pytest.mark.parametrize("tied", [True, False])
def test_loss_and_gradient_equal_those_of_transformers(tied):
    objectives = Objectives({"mlm": MaskedLanguageModel(Masking(mask_prob=0.3), tied=tied)})
    objectives.setup(made_up_spec())
    torch.manual_seed(0)
    ours = build({"input_ids": {"size": 100}}, objectives.heads, MODERNBERT, **SMALL).eval()
    batch = objectives.prepare(rows([40, 30, 7]), np.array([3, 1, 4], np.uint64))
    theirs = to_transformers(ours).eval()
    expected = theirs(input_ids=batch["input_ids"], attention_mask=(batch["sequence_ids"] > 0).long(), labels=batch["labels"]["mlm"]).loss
    total, n, _ = objectives.losses(ours, batch, ours.encode(batch))["mlm/cross_entropy"]
    assert float(total / n) == pytest.approx(float(expected), rel=1e-6)
    (total / n).backward()
    expected.backward()
    torch.testing.assert_close(
        ours.backbone.layers[0].attn.Wqkv.weight.grad, theirs.model.layers[0].attn.Wqkv.weight.grad, rtol=1e-4, atol=1e-7
    )
