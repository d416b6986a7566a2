"""Split counts: losses against the distributions of scipy, gene by gene."""

import numpy as np
import pytest
import torch
from scipy import stats

from bmfm.objectives.counts import SplitCounts
from bmfm.objectives.multitask import Objectives
from tests.objectives.conftest import made_up_spec
from tests.objectives.test_mlm import KEYS, bound, rows

FIRST, LAST = 90, 100
SEEN = [[90, 91, 92], [90, 94], []]
HIDDEN = {(0, 90): 3.0, (0, 92): 1.0, (0, 98): 40.0, (1, 90): 2.0, (1, 95): 7.0}
"""Of three cells; the second is of a source that lacks genes 98 and 99, and nothing is hidden of the third."""


def batch_of_cells():
    batch = rows([3, 2, 1])
    for b, genes in enumerate(SEEN):
        batch["input_ids"][b, 1 : 1 + len(genes)] = torch.tensor(genes, dtype=torch.long)
    measured = torch.zeros(2, LAST, dtype=torch.bool)
    measured[:, FIRST:98] = measured[0, 98:] = True
    entries = sorted({*HIDDEN, *((b, g) for b, genes in enumerate(SEEN) for g in genes), (2, 93)})
    profile = {"row": torch.tensor(entries)[:, 0], "gene": torch.tensor(entries)[:, 1], "value": torch.ones(len(entries))}
    profile["hidden_count"] = torch.tensor([HIDDEN.get(e, 0.0) for e in entries])
    return batch | {"full_profile": profile, "gene_panel_mask": measured, "source_ids": torch.tensor([0, 1, 0])}


def setup(likelihood, targets=("all", "input", "non_input")) -> Objectives:
    spec = made_up_spec()
    rng = np.random.default_rng(1)
    spec.statistics.update(
        {"gene_counts": rng.integers(0, 90, LAST), "gene_molecules": np.full(LAST, 4000.0), "gene_dispersion": rng.random(LAST)}
    )
    return bound(spec, counts=SplitCounts(targets, likelihood))


def reference(likelihood, z, log_k):
    """{target: (summed negative log-likelihood without terms of counts alone, molecules)}, a cell and a gene at a time."""
    expected = {"all": [0.0, 0.0], "input": [0.0, 0.0], "non_input": [0.0, 0.0]}
    for b in range(3):
        measured = range(FIRST, 98 if b == 1 else LAST)
        y = {g: HIDDEN.get((b, g), 0.0) for g in measured}
        total, p = sum(y.values()), dict(zip(measured, torch.tensor(z[b, measured]).softmax(0).tolist(), strict=True))
        for target, sums in expected.items():
            genes = [g for g in measured if target == "all" or (g in SEEN[b]) == (target == "input")]
            counts = np.array([y[g] for g in genes])
            sums[1] += counts.sum()
            if not total or not genes:
                continue
            if likelihood == "multinomial":
                chance = np.array([p[g] for g in genes])
                sums[0] -= stats.multinomial.logpmf(counts, counts.sum(), chance / chance.sum())
                sums[0] += stats.multinomial.logpmf(counts, counts.sum(), np.full(len(genes), 1 / len(genes))) + counts.sum() * np.log(
                    len(genes)
                )
            elif likelihood == "poisson":
                sums[0] -= stats.poisson.logpmf(counts, total * np.exp(z[b, genes])).sum()
                sums[0] += (counts * np.log(total) - [torch.lgamma(torch.tensor(c + 1)).item() for c in counts]).sum()
            else:
                mean, k = total * np.array([p[g] for g in genes]), np.exp(log_k[genes])
                sums[0] -= stats.nbinom.logpmf(counts, k, k / (k + mean)).sum()
                sums[0] += (counts * np.log(total) - [torch.lgamma(torch.tensor(c + 1)).item() for c in counts]).sum()
    return expected


@pytest.mark.parametrize("likelihood", ["multinomial", "poisson", "negative_binomial"])
def test_losses_are_those_of_scipy(small_model, likelihood):
    objectives = setup(likelihood)
    task = objectives.tasks["counts"]
    batch = objectives.prepare(batch_of_cells(), KEYS[:3])
    model = small_model(objectives.heads)
    with torch.no_grad():
        model.heads.decoder("counts").bias.normal_()
    objectives.init_output_biases(model) if likelihood == "negative_binomial" else None
    hidden = model.encode(batch)
    z = model.head("counts", hidden[:, 0]).double().detach().numpy()
    log_k = task.log_k.double().numpy() if likelihood == "negative_binomial" else None
    losses, counted = objectives.losses(model, batch, hidden), objectives.label_counts(batch)
    for target, (total, n) in reference(likelihood, z, log_k).items():
        loss = losses[f"counts/{target}_nll"]
        assert loss.total.item() == pytest.approx(total, rel=1e-4) and loss.n == counted[f"counts/{target}_nll"] == n
    sums = objectives.update_metrics(model, batch, hidden)
    metrics = objectives.compute_metrics(sums)
    baseline = reference(likelihood, np.tile(task.baseline.double().numpy(), (3, 1)), log_k)["all"]
    if likelihood != "poisson":  # whose baseline is normalised over the genes that each cell's source measures
        assert metrics["counts/all_nll_baseline"] == pytest.approx(baseline[0] / baseline[1], rel=1e-4)
    of_model = reference("multinomial", z, None)["all"][0]
    of_baseline = reference("multinomial", np.tile(task.baseline.double().numpy(), (3, 1)), None)["all"][0]
    own = -sum(c * np.log(c / sum(x for (d, _), x in HIDDEN.items() if d == b)) for (b, _), c in HIDDEN.items())
    explained = (of_baseline - of_model) / (of_baseline - own)
    assert metrics["counts/all_deviance_explained"] == pytest.approx(explained, rel=1e-4) and objectives.rows(metrics)


@pytest.mark.parametrize("likelihood", ["multinomial", "poisson", "negative_binomial"])
def test_gradients_are_numerical_and_those_of_unmeasured_genes_are_zero(likelihood):
    objectives = setup(likelihood)
    task, batch = objectives.tasks["counts"], batch_of_cells()
    batch["full_profile"]["hidden_count"] = batch["full_profile"]["hidden_count"].double()
    every, measured = task._hidden(batch), batch["gene_panel_mask"][batch["source_ids"]]
    torch.manual_seed(0)
    logits = torch.randn(3, LAST, dtype=torch.double, requires_grad=True)
    log_k = torch.randn(LAST, dtype=torch.double, requires_grad=True) if likelihood == "negative_binomial" else None
    for hidden in every.values():
        loss = lambda z: task._loss(z, hidden, measured, log_k)  # noqa: B023, E731
        assert torch.autograd.gradcheck(loss, (logits,), atol=1e-4)
        (gradient,) = torch.autograd.grad(loss(logits), logits)
        assert gradient.isfinite().all() and not gradient[2].any() and not gradient[:, :FIRST].any() and not gradient[1, 98:].any()


def test_the_best_logits_are_the_shares_and_the_baseline_is_of_training_counts():
    objectives = setup("multinomial", ["all"])
    task, batch = objectives.tasks["counts"], batch_of_cells()
    shares = torch.full((3, LAST), 1e-30)
    for (b, g), c in HIDDEN.items():
        shares[b, g] = c
    (hidden,) = task._hidden(batch).values()
    logits = shares.log().requires_grad_()
    task._loss(logits, hidden, batch["gene_panel_mask"][batch["source_ids"]], None).backward()
    assert logits.grad.abs().max() < 1e-5
    assert task.baseline.exp().sum().item() == pytest.approx(1, rel=1e-5)
    with pytest.raises(ValueError, match="choose from multinomial"):
        SplitCounts(likelihood="gaussian")
    with pytest.raises(ValueError, match="choose from input"):
        SplitCounts(["everything"])
