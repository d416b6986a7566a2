"""Examples of perturbation tasks, and what every model of perturbations must beat: exact answers on made data, known ones on Norman's cells."""

import warnings

import anndata
import numpy as np
import pandas as pd
import pytest
from omegaconf import OmegaConf
from scipy.sparse import csr_matrix
from sklearn.linear_model import Ridge

from bmfm.cells.conditions import Condition
from bmfm.evaluation.baselines import perturbations as baselines
from bmfm.evaluation.examples.perturbations import PerturbationExamples
from bmfm.evaluation.perturbation.measured import measured_contexts
from bmfm.evaluation.task_spec import TaskSpec
from bmfm.files import ASSETS

NORMAN = ASSETS / "perturbation" / "norman_mcfaline_subset.h5ad"


def examples_of(path, split, **source):
    settings = {
        "_target_": "bmfm.data.perturbations.PerturbationPairs",
        "path": path if isinstance(path, list) else str(path),
        "context": "cell_type",
        "expects": "normalised",
        **source,
    }
    data = {"_target_": "bmfm.data.module.ExampleDataModule", "source": settings, "split": split, "max_tokens": 64, "batch_size": 8}
    with warnings.catch_warnings(action="ignore"):
        return PerturbationExamples(
            TaskSpec("x/y", "t", "rna", "perturbation", "m", None, "s", "c", config=OmegaConf.create({"data": data})), "."
        )


GENES = ["A", "B", "C", "D", "E", "F", "G", "H"]
RNG = np.random.default_rng(0)
CONTROL = {"x": RNG.uniform(1, 2, 8), "y": RNG.uniform(1, 2, 8)}
EFFECT = dict(zip("ABCDEQ", RNG.uniform(-0.5, 0.5, (6, 8)), strict=True))


@pytest.fixture(scope="module")
def additive_file(tmp_path_factory):
    """Log-normalised cells whose conditions add up exactly; Q is not measured."""
    rows, obs = [], []
    for context, control in CONTROL.items():
        for condition in ("ctrl", "A", "B", "C", "D", "E", "Q", "A+B", "A+C", "B+Q", "D+E"):
            effect = sum((EFFECT[t] for t in condition.split("+") if condition != "ctrl"), np.zeros(8))
            for noise in (0.25, -0.25):  # cells differ, and their mean is exact
                rows.append(control + effect + noise * np.arange(8) / 8)
                obs.append((condition, context))
    file = tmp_path_factory.mktemp("additive") / "cells.h5ad"
    table = pd.DataFrame(obs, columns=["condition", "cell_type"], index=[f"c{i}" for i in range(len(obs))])
    anndata.AnnData(csr_matrix(np.float32(rows)), obs=table, var=pd.DataFrame(index=GENES)).write_h5ad(file)
    return file


def truth_of(examples):
    return np.stack([CONTROL[row.context] + sum(EFFECT[t] for t in row.condition.split("+")) for row in examples.asked.itertuples()])


def predicted(method, examples):
    response = method.respond(examples, 0, None)
    return response.means, response.notes


def split_of(*asked):
    return {"by": "column", "column": "condition", "test": list(asked)}


def test_examples_say_what_is_asked_and_what_was_trained(additive_file):
    examples = examples_of(additive_file, split_of("A+B", "D+E", "E", "Q", "B+Q"), keep={"cell_type": "x"})
    assert list(examples.genes) == GENES and examples.unit == "lognorm"
    assert dict(zip(examples.asked["condition"], examples.asked["stratum"], strict=True)) == {
        "A+B": "combo_seen2", "D+E": "combo_seen1", "E": "unseen_single", "Q": "unseen_single", "B+Q": "combo_seen1",
    }  # fmt: skip
    assert list(examples.trained["condition"]) == ["A", "A+C", "B", "C", "D"] and set(examples.trained["n_cells"]) == {2}
    np.testing.assert_allclose(examples.control_mean("x"), CONTROL["x"], rtol=1e-6)
    np.testing.assert_allclose(examples.centroids[1], CONTROL["x"] + EFFECT["A"] + EFFECT["C"], rtol=1e-6)
    assert examples.targets(Condition(("B", "Q"), (None, None))).tolist() == [1] and not len(
        examples.targets(Condition(("A",), (1.0,), "uM"))
    )
    assert examples.test_uses == 0  # nothing of the test part was read up to here
    groups = examples.asked.index
    measured = np.stack([examples.mean_of("test", group) for group in groups])
    np.testing.assert_allclose(measured, truth_of(examples), rtol=1e-6)
    assert examples.test_uses == 1
    examples.values(examples.cells_of(groups[0]))
    assert examples.test_uses == 2
    with pytest.raises(ValueError, match="holds log-normalised values, and counts cannot be had back"):
        examples.counts(np.arange(2))
    with pytest.raises(ValueError, match="conditions have cells in train and in test"):
        examples_of(additive_file, {"by": "random", "test": 0.5})


def test_counts_are_read_as_they_are(tmp_path):
    counts = np.array([[1, 0, 3], [0, 2, 2], [5, 5, 0], [4, 0, 0], [0, 1, 1], [2, 2, 2]], np.float32)
    obs = pd.DataFrame({"condition": ["ctrl", "A", "A", "ctrl", "B", "B"], "cell_type": "x"}, index=list("abcdef"))
    anndata.AnnData(csr_matrix(counts), obs=obs, var=pd.DataFrame(index=["A", "B", "C"])).write_h5ad(tmp_path / "f.h5ad")
    examples = examples_of(tmp_path / "f.h5ad", split_of("B"), expects="counts")
    assert examples.unit == "counts"
    np.testing.assert_array_equal(examples.counts(np.arange(6)).toarray(), counts)
    np.testing.assert_allclose(examples.values(np.arange(6)).toarray(), np.log1p(counts / counts.sum(1, keepdims=True) * 1e4), rtol=1e-5)


def test_additive_is_exact_where_effects_add_up_and_falls_back_in_the_open(additive_file):
    examples = examples_of(additive_file, split_of("A+B", "A+C"))
    means, notes = predicted(baselines.Additive("additive"), examples)
    np.testing.assert_allclose(means, truth_of(examples), rtol=1e-5)
    assert notes == {}
    examples = examples_of(additive_file, split_of("D+E", "E"), keep={"cell_type": "x"})
    means, notes = predicted(baselines.Additive("additive"), examples)
    train = np.mean([CONTROL["x"] + sum(EFFECT[t] for t in c.split("+")) for c in ("A", "A+B", "A+C", "B", "B+Q", "C", "D", "Q")], 0)
    np.testing.assert_allclose(means, [(CONTROL["x"] + EFFECT["D"] + train) / 2, train], rtol=1e-5)  # D+E, E
    assert notes == {baselines.BY_MATCHING_MEAN: 1, baselines.BY_TRAIN_MEAN: 1}
    np.testing.assert_allclose(predicted(baselines.MatchingMean("m"), examples)[0], means)
    np.testing.assert_allclose(predicted(baselines.TrainMean("t"), examples)[0], [train, train], rtol=1e-5)
    np.testing.assert_allclose(predicted(baselines.NoChange("n"), examples)[0], [CONTROL["x"]] * 2, rtol=1e-5)


def test_context_means_are_exact_where_effects_are_the_same_in_all_contexts(additive_file):
    examples = examples_of(additive_file, {"by": "cell_type", "test": "y"})
    for method in (baselines.ContextMean("c"), baselines.Additive("a")):
        means, notes = predicted(method, examples)
        np.testing.assert_allclose(means, truth_of(examples), rtol=1e-5)
    assert notes == {baselines.FROM_OTHER_CONTEXTS: 10}
    changes = np.mean([sum(EFFECT[t] for t in c.split("+")) for c in examples.trained["condition"]], 0)
    means, notes = predicted(baselines.TrainMeanDelta("d"), examples)
    np.testing.assert_allclose(means, np.tile(CONTROL["y"] + changes, (10, 1)), rtol=1e-5)
    assert notes == {} and predicted(baselines.TrainMean("t"), examples)[1] == {baselines.FROM_OTHER_CONTEXTS: 10}


def test_bilinear_ridge_solves_its_equations():
    rng = np.random.default_rng(1)
    Y, G, P = rng.normal(size=(30, 12)), rng.normal(size=(30, 4)), rng.normal(size=(12, 3))
    W, b = baselines.bilinear_ridge(Y, G, P, 0.1)
    np.testing.assert_allclose(b, Y.mean(1))
    # one side after the other by scikit-learn: Y - b = G L, and L' = P W'
    left = Ridge(0.1, fit_intercept=False).fit(G, Y - Y.mean(1, keepdims=True)).coef_.T
    np.testing.assert_allclose(W, Ridge(0.1, fit_intercept=False).fit(P, left.T).coef_, rtol=1e-8)
    exact = rng.normal(size=(4, 3))
    made = G @ exact @ (P - P.mean(0)).T  # rows of mean 0
    np.testing.assert_allclose(baselines.bilinear_ridge(made, G, P - P.mean(0), 1e-12)[0], exact, rtol=1e-6)


def test_principal_components_are_those_of_scikit_learn():
    from sklearn.decomposition import PCA

    profiles = np.random.default_rng(2).normal(size=(40, 6))
    ours, theirs = baselines.principal_components(profiles, 3), PCA(3).fit_transform(profiles)
    np.testing.assert_allclose(np.abs(ours), np.abs(theirs), rtol=1e-6)


def test_ridge_and_neighbours_read_vectors(additive_file, tmp_path):
    table = tmp_path / "vectors.csv"
    vectors = pd.DataFrame({"gene": list("ABCDQ"), "u": [1.0, 0.9, 0.0, 0.1, 1.0], "v": [0.0, 0.1, 1.0, 0.9, 0.1]})
    vectors.to_csv(table, index=False)
    examples = examples_of(additive_file, split_of("Q", "E", "B+Q"), keep={"cell_type": "x"})
    means, notes = predicted(baselines.KnnGene("k", str(table), k=2), examples)
    two = (EFFECT["A"] + EFFECT["B"]) / 2  # nearest to Q and to B
    assert list(examples.asked["condition"]) == ["B+Q", "E", "Q"]
    np.testing.assert_allclose(means[[0, 2]], [CONTROL["x"] + 2 * two, CONTROL["x"] + two], rtol=1e-5)
    np.testing.assert_allclose(means[1], examples.centroids.mean(0), rtol=1e-5)
    assert notes == {baselines.BY_TRAIN_MEAN: 1}  # E has no vector
    # the whole map, once more by hand: conditions A, A+B, A+C, B, C, D (D+E has no vector) and the control
    P = np.array([[1, 0], [1.9, 0.1], [1, 1], [0.9, 0.1], [0, 1], [0.1, 0.9], [0, 0]])
    Y = np.stack([sum((EFFECT[t] for t in c), np.zeros(8)) for c in ("A", "AB", "AC", "B", "C", "D", "")], 1)
    profiles = np.vstack([examples.centroids, CONTROL["x"]]).T
    left, values, _ = np.linalg.svd(profiles - profiles.mean(0), full_matrices=False)
    G = (left * values)[:, :3]
    W = np.linalg.inv(G.T @ G + 0.1 * np.eye(3)) @ G.T @ (Y - Y.mean(1, keepdims=True)) @ P @ np.linalg.inv(P.T @ P + 0.1 * np.eye(2))
    means, notes = predicted(baselines.RidgeGwp("r", str(table), n_components=3), examples)
    np.testing.assert_allclose(means[2], CONTROL["x"] + Y.mean(1) + G @ W @ [1.0, 0.1], rtol=1e-4)
    np.testing.assert_allclose(means[0], CONTROL["x"] + Y.mean(1) + G @ W @ [1.9, 0.2], rtol=1e-4)
    assert notes == {baselines.BY_TRAIN_MEAN: 1}
    drawn = baselines.RidgeGwp("d", "random")
    one, again, other = (drawn.respond(examples, seed, None).means for seed in (0, 0, 1))
    assert not drawn.deterministic and (one == again).all() and (one != other).any(1).all()
    pd.concat([vectors, vectors[:1]]).to_csv(table, index=False)
    with pytest.raises(ValueError, match="'A' stands in two rows"):
        predicted(baselines.KnnGene("k", str(table)), examples)


def test_known_answers_on_the_doubles_of_norman():
    """Pearson of the change and L2, of the sum and of the training mean, as measured from the file by other code."""
    known = {
        "KLF1+MAP2K6": (0.981, 0.371, 0.845, 1.421), "KLF1+TGFBR2": (0.987, 0.413, 0.849, 1.714), "MAP2K3+MAP2K6": (0.727, 0.480, 0.020, 0.892),
        "MAP2K3+SLC38A2": (0.708, 0.444, -0.381, 1.005), "MAPK1+TGFBR2": (0.946, 0.522, -0.479, 1.910),
    }  # fmt: skip
    split = {"by": "combo_seen2", "test": 0.34, "validation": 0.0}
    examples = examples_of(NORMAN, split, keep={"dataset": "norman19"}, kind="perturbation_type")
    assert set(examples.asked["condition"]) == set(known) and set(examples.asked["stratum"]) == {"combo_seen2"}
    control = examples.control_mean("k562")
    truth = np.stack([examples.mean_of("test", group) for group in examples.asked.index])
    figures = []
    for method in (baselines.Additive("additive"), baselines.TrainMean("train mean")):
        means = predicted(method, examples)[0]
        figures.append([np.corrcoef(m - control, t - control)[0, 1] for m, t in zip(means, truth, strict=True)])
        figures.append(np.linalg.norm(means - truth, axis=1))
    np.testing.assert_allclose(np.transpose(figures), [known[c] for c in examples.asked["condition"]], atol=6e-4)
    knn = baselines.KnnGene("nearest", "bmfm-rna-mini")
    assert predicted(knn, examples)[1] == {} and knn.identity()["embeddings_hash"]


def test_markers_that_the_file_states_are_taken(additive_file, tmp_path):
    """As GEARS writes them: by a name of condition and cell type, and by names of genes in the index of .var."""
    cells = anndata.read_h5ad(additive_file)
    cells.obs["condition_name"] = cells.obs["cell_type"].astype(str) + "_" + cells.obs["condition"].astype(str) + "_1+1"
    cells.uns["top_non_dropout_de_20"] = {"x_A+B_1+1": np.array(["C", "nowhere", "A", "H"]), "y_A+B_1+1": np.array(["B"])}
    cells.write_h5ad(tmp_path / "cells.h5ad")
    examples = examples_of(tmp_path / "cells.h5ad", split_of("A+B", "D+E"), keep={"cell_type": "x"})
    found = {row.condition: examples.markers(group) for group, row in zip(examples.asked.index, examples.asked.itertuples(), strict=True)}
    assert found["A+B"].tolist() == [2, 0, 7] and found["D+E"] is None
    (context,) = measured_contexts(examples, False)
    assert {name: genes.tolist() for name, genes in context.logs.de_genes.items()} == {"A+B": [2, 0, 7]}
    assert examples_of(additive_file, split_of("A+B")).markers(0) is None


def test_a_number_of_training_cells_is_refused_before_files_are_read(tmp_path):
    """Baselines learn from whole conditions, so that such a number would limit networks alone."""
    with pytest.raises(ValueError, match=r"x/y: data\.split\.n_train counts cells.*data\.split\.by=toml"):
        examples_of(tmp_path / "no_such.h5ad", {"by": "group", "column": "condition", "n_train": 100})
