"""Known answers on real cells: five pairs of activated genes (Norman et al., Science 2019) whose single activations are trained on.

Expected figures were computed from group means in numpy, without this package.
"""

import warnings

import numpy as np
import pytest
from omegaconf import OmegaConf

from bmfm.evaluation.baselines.perturbations import Additive, NoChange, TrainMean
from bmfm.evaluation.examples.perturbations import PerturbationExamples
from bmfm.evaluation.protocols.perturbation import PerturbationPrediction
from bmfm.evaluation.task_spec import TaskSpec
from bmfm.files import ASSETS

DOUBLES = {
    # Pearson of changes and Euclidean distance: of the sum of single changes, of the training mean; ceiling of the first (other halves)
    "KLF1+MAP2K6": (0.981, 0.371, 0.845, 1.421, 0.970),
    "KLF1+TGFBR2": (0.987, 0.413, 0.849, 1.714, 0.978),
    "MAP2K3+MAP2K6": (0.727, 0.480, 0.020, 0.892, 0.670),
    "MAP2K3+SLC38A2": (0.708, 0.444, -0.381, 1.005, 0.696),
    "MAPK1+TGFBR2": (0.946, 0.522, -0.479, 1.910, 0.948),
}


@pytest.fixture(scope="module")
def examples():
    source = {
        "_target_": "bmfm.data.perturbations.PerturbationPairs",
        "path": str(ASSETS / "perturbation" / "norman_mcfaline_subset.h5ad"),
        "context": "cell_type",
        "kind": "perturbation_type",
        "expects": "normalised",
        "keep": {"dataset": "norman19"},
    }
    split = {"by": "column", "column": "condition", "test": list(DOUBLES)}
    data = {"_target_": "bmfm.data.module.ExampleDataModule", "source": source, "split": split, "max_tokens": 64, "batch_size": 8}
    config = OmegaConf.create({"data": data})
    with warnings.catch_warnings(action="ignore"):
        return PerturbationExamples(TaskSpec("x/y", "t", "rna", "perturbation", "mse", None, "s", "c", config=config), ".")


def of_conditions(outcome, *names):
    records = {s["condition"]: s for s in outcome.strata if s["kind"] == "condition"}
    return [[records[double][name] for name in names] for double in DOUBLES]


def test_sums_of_single_changes_and_training_means(examples, tmp_path):
    expected = np.array(list(DOUBLES.values()))
    protocol = PerturbationPrediction(profiles=["gears", "calibrated"])
    additive, mean, none = (protocol.run(examples, m("x"), 0, tmp_path, 20) for m in (Additive, TrainMean, NoChange))
    assert np.array(of_conditions(additive, "pearson_delta", "l2_top1000")) == pytest.approx(expected[:, :2], abs=6e-4)
    assert np.array(of_conditions(mean, "pearson_delta", "l2_top1000")) == pytest.approx(expected[:, 2:4], abs=6e-4)
    assert mean.metrics["pearson_delta_ref"] == 0 and "pearson_delta" not in none.metrics
    bounds = {s["name"]: s for s in additive.strata if s["kind"] == "bound"}
    assert bounds["pearson_delta"]["split_half_ceiling"] == pytest.approx(expected[:, 4].mean(), abs=0.05)
    assert bounds["r2w_delta"]["dynamic_range_fraction"] > bounds["l2_top1000"]["dynamic_range_fraction"]
    assert additive.metrics["wmse"] < 0.1 * min(mean.metrics["wmse"], none.metrics["wmse"])
    assert additive.test_uses == mean.test_uses == 1 and [s["n"] for s in additive.strata if s["kind"] == "split"] == [5]
