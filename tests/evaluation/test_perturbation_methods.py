"""Models in perturbation tasks: their predictions are of the genes, and in the unit, of the examples, whatever the model's own are."""

import anndata
import numpy as np
import pandas as pd
import pytest
import torch

from bmfm.evaluation.examples.perturbations import PerturbationExamples
from bmfm.evaluation.methods.finetuned import FineTuned
from bmfm.evaluation.methods.perturbation import respond_by
from bmfm.evaluation.task_files import read_task
from bmfm.inference.predictor import Predictor
from bmfm.models.model import build
from bmfm.objectives.perturbation import of_targets
from bmfm.tokenizers.rna import CellTokenizer
from tests.evaluation.test_perturbation_baselines import examples_of

GENES = ["KLF1", "GATA1", "TP53", "MYC", "CD4", "CD8A"]
KNOWN = GENES[:4]
"""What the model knows of them."""


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    """A model that says that KLF1 falls by 0.5, whatever is done."""
    tokenizer = CellTokenizer(KNOWN, order="as_given", trained_on={"drugs": [], "expects": "counts"})
    size = len(tokenizer)
    heads = {"p": {"size": size, "outputs": ["change"], "cls": 0}, of_targets("p"): {"size": size, "of": "targets"}}
    values = {"_target_": "bmfm.models.embeddings.MlpEncoder"}
    torch.manual_seed(0)
    model = build(tokenizer.fields, heads, "bmfm.models.backbones.set.LatentSet", values=values, hidden_size=16, intermediate_size=16, num_latents=2, num_hidden_layers=1, num_attention_heads=2)  # fmt: skip
    model.config.max_tokens = 16
    with torch.no_grad():
        for name in heads:
            model.heads.decoder(name).weight.zero_()
        model.heads.decoder(of_targets("p")).bias[tokenizer.vocabulary.ids["KLF1"]] = -0.5
    return Predictor(model.eval(), tokenizer)


def counts_of(seed: int, names: list[str], symbols: list[str] | None = None) -> anndata.AnnData:
    rng = np.random.default_rng(seed)
    obs = pd.DataFrame(
        {"condition": ["ctrl"] * 6 + ["MYC"] * 3 + ["TP53"] * 3, "cell_type": "x"}, index=[f"c{seed}_{i}" for i in range(12)]
    )
    var = pd.DataFrame({"symbol": symbols or names}, index=names)
    return anndata.AnnData(rng.poisson(8.0, (12, len(names))).astype(np.float32), obs, var)


def of_files(tmp_path, *cells: anndata.AnnData, **source) -> PerturbationExamples:
    paths = []
    for number, adata in enumerate(cells):
        paths.append(str(tmp_path / f"cells{number}.h5ad"))
        adata.write_h5ad(paths[-1])
    split = {"by": "column", "column": "condition", "test": ["MYC"]}
    return examples_of(paths, split, expects="counts", **source)


@pytest.mark.parametrize("case", ["symbols", "ids", "twice", "files"])
def test_changes_are_added_to_the_mean_controls_of_the_examples(tmp_path, predictor, case):
    if case == "symbols":
        examples = of_files(tmp_path, counts_of(0, GENES))
    elif case == "ids":  # names of genes are in a column
        examples = of_files(tmp_path, counts_of(0, [f"id{i}" for i in range(6)], GENES), gene_column="symbol")
    elif case == "twice":  # a gene has two columns, whose counts are added
        examples = of_files(tmp_path, counts_of(0, [f"id{i}" for i in range(7)], [*GENES, "KLF1"]), gene_column="symbol")
    else:
        examples = of_files(tmp_path, counts_of(0, GENES), counts_of(1, GENES[::-1]))
    means = respond_by(predictor, examples).means
    change = means[0] - examples.control_mean("x")
    expected = np.where(np.array(examples.genes) == "KLF1", -0.5, 0.0)
    np.testing.assert_allclose(change, expected, atol=1e-5)  # although the model knows four of six genes


def test_no_setting_changes_what_is_asked():
    task = read_task("demo/perturbation", ["checkpoint=none"])
    for changed in ("data.source.min_cells=10", "+data.source.keep={a: b}", "++data.split.test=0.1"):
        with pytest.raises(ValueError, match="cannot be changed"):
            FineTuned("m", "bmfm-rna-mini", [changed]).check(task)
    FineTuned("m", "bmfm-rna-mini", ["data.source.gene_weights=true", "objectives.perturbation.losses.wmse=1"]).check(task)
