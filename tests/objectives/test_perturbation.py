"""The objective of perturbations: losses by hand, and an additive world that it learns to the end."""

import numpy as np
import pytest
import torch

from bmfm.objectives.perturbation import PerturbationResponse, respond

V, N = 6, 4


class Linear:
    """A model whose heads are a matrix each, with the vectors of targets as they are."""

    def __init__(self, seed: int = 0):
        generator = torch.Generator().manual_seed(seed)
        self.weights = {name: torch.randn(V * k, 3, generator=generator) for name, k in (("p", 2), ("p_targets", 1))}
        self.vectors = torch.randn(5, 3, generator=generator)

    def head(self, name, states):
        return states @ self.weights[name].T

    def perturbation_targets(self, batch):
        cell, place = (batch["perturbation_ids"][..., 0] >= 0).nonzero(as_tuple=True)
        return cell, self.vectors[batch["perturbation_ids"][cell, place, 0]]


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    truth = rng.gamma(1.0, 1.0, (N, V)) * (rng.random((N, V)) > 0.4)
    row, gene = truth.nonzero()
    profile = {"row": torch.from_numpy(row), "gene": torch.from_numpy(gene), "value": torch.from_numpy(truth[row, gene]).float()}
    panel = torch.ones(1, V, dtype=torch.bool)
    panel[0, 0] = False
    ids = torch.full((N, 2, 2), -1)
    ids[:, 0] = torch.tensor([[0, 1], [1, 1], [2, 1], [3, 1]])
    ids[1, 1] = torch.tensor([4, 1])
    return {
        "cls_index": torch.arange(N), "perturbation_ids": ids, "context_ids": torch.tensor([0, 1, 0, 1]),
        "control_profiles": torch.from_numpy(rng.gamma(1.0, 1.0, (2, V))).float(), "labels": {"p_group": torch.tensor([0, 1, 1, 0])},
        "parts": {"perturbed": {"cls_index": torch.arange(N), "full_profile": profile, "gene_panel_mask": panel, "source_ids": torch.zeros(N, dtype=torch.long)}},
        "truth": torch.from_numpy(truth).float(),
    }  # fmt: skip


def test_losses_by_hand(batch):
    objective = PerturbationResponse({"mse": 1.0, "wmse": 0.5, "is_zero": 0.25})
    objective.name, objective.n_genes = "p", V
    objective.gene_weights = torch.rand(2, V, generator=torch.Generator().manual_seed(1))
    model, states = Linear(), torch.randn(N, 1, 3, generator=torch.Generator().manual_seed(2))
    losses = objective.losses(model, batch, states)
    totals = dict.fromkeys(("mse", "wmse", "is_zero"), 0.0)
    for cell in range(N):
        for gene in range(1, V):  # gene 0 is not measured
            out = model.weights["p"][2 * gene : 2 * gene + 2] @ states[cell, 0]
            each = [i for i in batch["perturbation_ids"][cell, :, 0].tolist() if i >= 0]
            change = out[0] + sum(model.weights["p_targets"][gene] @ model.vectors[i] for i in each)
            truth = batch["truth"][cell, gene]
            squared = (batch["control_profiles"][batch["context_ids"][cell], gene] + change - truth) ** 2
            zero = torch.nn.functional.binary_cross_entropy_with_logits(out[1], (truth == 0).float())
            for name, value in (("mse", squared), ("wmse", squared * objective.gene_weights[batch["labels"]["p_group"][cell], gene]), ("is_zero", zero)):  # fmt: skip
                totals[name] += float(value)
    for name, loss in losses.items():
        assert float(loss.total) == pytest.approx(totals[name], rel=1e-5)
        assert int(loss.n) == N * (V - 1) == int(objective.label_counts(batch)[name])


def test_two_targets_are_the_sum_of_each_but_for_what_the_cell_adds(batch):
    model, states = Linear(), torch.zeros(N, 3)
    both = respond(model, "p", batch, states, ["change", "is_zero"])["change"][1]
    single = batch | {"perturbation_ids": batch["perturbation_ids"][:, :1].clone()}
    first = respond(model, "p", single, states, ["change", "is_zero"])["change"][1]
    single["perturbation_ids"][1, 0, 0] = 4
    second = respond(model, "p", single, states, ["change", "is_zero"])["change"][1]
    torch.testing.assert_close(both, first + second)


@pytest.mark.parametrize(("losses", "message"), [({"mae": 1.0}, "mae"), ({"is_zero": 1.0}, "need mse or wmse")])
def test_mistaken_losses(losses, message):
    with pytest.raises(ValueError, match=message):
        PerturbationResponse(losses)
