import pytest
import torch

from bmfm.checkpoints.load import read_model
from bmfm.models.model import build
from bmfm.training.optim import SCHEDULES, adamw, learning_rates, schedule
from tests.conftest import BERT, SMALL


@pytest.mark.parametrize("kind", SCHEDULES)
def test_schedules(kind):
    rate = schedule(kind, total_steps=100, warmup_steps=10, final=0.1)
    rates = [rate(s) for s in range(101)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == 1.0 and rates == [*rates[:10], *sorted(rates[10:], reverse=True)]
    assert rates[100] == pytest.approx(1.0 if kind == "constant" else 0.1)
    assert (rates[70] == 1.0) == (kind in ("constant", "warmup_stable_decay"))
    with pytest.raises(ValueError, match="unknown"):
        schedule("cosin", 10, 1)


def test_decay_on_matrices_only():
    model = build({"input_ids": {"size": 9}}, {}, BERT, **SMALL)
    matrices, vectors = adamw(model, 1e-3, (0.9, 0.99), 1e-8, 0.1).param_groups
    assert {p.ndim for p in matrices["params"]} == {2} and {p.ndim for p in vectors["params"]} == {1}
    assert len(matrices["params"]) + len(vectors["params"]) == len(list(model.parameters()))
    assert matrices["weight_decay"] == 0.1 and vectors["weight_decay"] == 0


def test_learning_rates_are_logged_by_group(dna_model):
    """Two layers: heads at 3, last layer 0.5, first 0.25, embeddings 0.125, all at half their peak; the first group is not the largest."""
    model = read_model(dna_model)
    optimizer = adamw(model, 1.0, (0.9, 0.99), 1e-8, 0.1, layer_decay=0.5, head_lr=3.0)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5)
    rates = learning_rates(optimizer.param_groups)
    assert rates["lr"] == 1.5 and rates["lr_heads_matrices"] == 1.5
    assert (rates["lr_depth_1_matrices"], rates["lr_depth_2_matrices"], rates["lr_depth_3_matrices"]) == (0.25, 0.125, 0.0625)
    assert learning_rates(adamw(model, 2.0, (0.9, 0.99), 1e-8, 0.1).param_groups) == {"lr": 2.0}
