"""Every objective that ``conf/objective`` lists, and the extension's, keeps the contract of `objectives.objective`."""

from copy import deepcopy
from io import BytesIO

import numpy as np
import pytest
import torch

from bmfm.objectives.multitask import add_up, weighted_mean
from tests.conformance.runs import OBJECTIVES

every_objective = pytest.mark.parametrize("name", OBJECTIVES)


def examples(data, part: str, numbers: range):
    """A prepared batch of some examples of a part."""
    return data.prepare_batch(data.parts[part].__getitems__([(0, i) for i in numbers]), part == "train")


def losses_of(objectives, model, batch):
    return objectives.losses(model, batch, model.encode(batch))


@every_objective
def test_labels_are_counted_without_a_model(assembled, name):
    data, objectives, model = assembled(*OBJECTIVES[name])
    for part in ("train", "validation"):
        batch = examples(data, part, range(8))
        counted = objectives.label_counts(batch)
        assert counted == pytest.approx({loss: float(value.n) for loss, value in losses_of(objectives, model, batch).items()})
        assert any(counted.values())


@every_objective
def test_labels_are_a_function_of_the_example(assembled, name):
    """What is hidden of an example, and its labels, depend on its key alone; the tokens of cells, too."""
    data, *_ = assembled(*OBJECTIVES[name])
    for part in ("train", "validation"):
        whole, half = examples(data, part, range(8)), examples(data, part, range(4, 8))
        for field in ("input_ids", "original_ids", "values", *whole["labels"]):
            a, b = (batch["labels"].get(field, batch.get(field)) for batch in (whole, half))
            if a is None:
                continue
            for i in range(4):
                mine = [v[n == batch["example_ids"]] if v.shape == batch["input_ids"].shape else v[n] for v, n, batch in ((a, i + 4, whole), (b, i, half))]  # fmt: skip
                assert torch.equal(mine[0].nan_to_num(-7), mine[1].nan_to_num(-7)), field


@every_objective
def test_small_batches_add_up_to_a_large_one(assembled, name):
    """Losses divided by the labels of all batches: the gradients of two halves are that of the whole."""
    data, objectives, model = assembled(*OBJECTIVES[name])
    model = deepcopy(model).eval()
    whole, halves = examples(data, "train", range(8)), [examples(data, "train", half) for half in (range(3), range(3, 8))]
    counts = [objectives.label_counts(batch) for batch in halves]
    total = {loss: sum(c[loss] for c in counts) for loss in counts[0]}
    assert total == pytest.approx(objectives.label_counts(whole))
    gradients = []
    for batches in ([whole], halves):
        model.zero_grad()
        for batch in batches:
            losses = losses_of(objectives, model, batch).items()
            weighted_mean({loss: (value.total, torch.tensor(total[loss]), value.weight) for loss, value in losses}).backward()
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() and len(gradients[0]) > 5
    for parameter, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][parameter], gradient, atol=1e-6, rtol=1e-4)


@every_objective
def test_gradients_reach_head_and_encoder(assembled, name):
    data, objectives, model = assembled(*OBJECTIVES[name])
    model = deepcopy(model)
    losses = losses_of(objectives, model, examples(data, "train", range(8)))
    weighted_mean({loss: (value.total, value.n, value.weight) for loss, value in losses.items()}).backward()
    for head in objectives.heads:
        decoder = model.heads.decoder(head)
        assert any(p.grad is not None and p.grad.any() for p in decoder.parameters()) or model.config.heads[head].get("tied"), head
    encoder = {n: p.grad for n, p in model.named_parameters() if n.startswith(("embeddings", "backbone")) and p.requires_grad}
    assert all(g is not None for g in encoder.values()) and all(g.isfinite().all() for g in encoder.values())
    assert any(g.any() for n, g in encoder.items() if n.startswith("embeddings"))


@torch.no_grad()
@every_objective
def test_metrics_are_sums_over_examples(assembled, name):
    """However the examples are cut into batches."""
    data, objectives, model = assembled(*OBJECTIVES[name])
    model.eval()
    n = len(data.parts["validation"])
    metrics = []
    for size in (n, 4):
        batches = [examples(data, "validation", range(i, min(i + size, n))) for i in range(0, n, size)]
        metrics.append(objectives.compute_metrics(add_up(objectives.update_metrics(model, b, model.encode(b)) for b in batches)))
    assert metrics[0] == pytest.approx(metrics[1], rel=1e-4, abs=1e-5, nan_ok=True)  # abs for correlations near 0
    assert np.isfinite(metrics[0]["loss"]) and len(metrics[0]) > 3
    # and the loss is the one that training minimises
    batch = examples(data, "validation", range(n))
    losses = {loss: (v.total, v.n, v.weight) for loss, v in losses_of(objectives, model, batch).items()}
    if all(o.monitored for o in objectives.tasks.values()):
        assert metrics[0]["loss"] == pytest.approx(float(weighted_mean(losses)), rel=1e-4)


@torch.no_grad()
@every_objective
def test_what_was_learned_goes_on_from_a_checkpoint(assembled, name):
    """What `adapt` learns changes training batches at most, and comes back with the state."""
    data, objectives, model = assembled(*OBJECTIVES[name])

    def prepared(part: str) -> list[torch.Tensor]:
        batch = examples(data, part, range(8))
        return [batch["input_ids"], *(labels.nan_to_num(-7) for labels in batch["labels"].values())]

    def state() -> BytesIO:
        file = BytesIO()
        torch.save(objectives.state_dict(), file)
        file.seek(0)
        return file

    new, training, held_out = state(), prepared("train"), prepared("validation")
    batch, trained = examples(data, "validation", range(len(data.parts["validation"]))), deepcopy(model)
    torch.manual_seed(0)
    for parameter in trained.parameters():  # so that genes are predicted well and badly
        parameter.add_(torch.randn_like(parameter))
    objectives.adapt(objectives.update_metrics(trained, batch, trained.encode(batch)))
    adapted = prepared("train")
    assert all(map(torch.equal, prepared("validation"), held_out))
    assert any(not torch.equal(a, b) for a, b in zip(adapted, training, strict=True)) is (name in ("genes", "values"))
    learned = state()
    for expected, saved in ((training, new), (adapted, learned), (training, new)):
        saved.seek(0)
        objectives.load_state_dict(torch.load(saved, weights_only=True))
        assert all(map(torch.equal, prepared("train"), expected))
