import pytest
import torch

from bmfm.training.optim import SCHEDULES, adamw, schedule


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
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4))
    matrices, vectors = adamw(model, 1e-3, (0.9, 0.99), 1e-8, 0.1).param_groups
    assert [p.ndim for p in matrices["params"]] == [2] and [p.ndim for p in vectors["params"]] == [1, 1, 1]
    assert matrices["weight_decay"] == 0.1 and vectors["weight_decay"] == 0
