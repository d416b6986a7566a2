"""Every YAML composes, instantiates, and takes a training step, shrunk; recipes end at the losses that are stored."""

import gzip
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from bmfm.cli import compose, config_folder
from bmfm.files import ASSETS
from tests.cells.test_cells import OBO
from tests.conftest import SLICE_FASTA, SLICE_VCF

RECIPES = sorted(p.stem for p in (config_folder() / "recipe").glob("*.yaml"))
BENCHMARK = ("task", "suite", "baseline", "launcher", "protocol", "omics", "mode")  # tried in tests/evaluation
GROUPS = sorted(
    f"{p.parent.name}={p.stem}"
    for p in config_folder().glob("*/*.yaml")
    if p.parent.name not in ("recipe", "debug", "published", *BENCHMARK)
)
DEBUG = sorted(p.stem for p in (config_folder() / "debug").glob("*.yaml"))
SMALL_MODEL = ["model.hidden_size=16", "model.intermediate_size=16", "model.num_hidden_layers=2", "model.num_attention_heads=2"]
SMALL_CONV = ["model.hidden_size=16", "model.num_hidden_layers=2", "tokenizer=single_base"]
SHRUNK = [
    "data.batch_size=2",
    "data.num_workers=0", "trainer.max_steps=2", "trainer.val_check_interval=2", "trainer.enable_progress_bar=false", "callbacks.progress=null",
    "trainer.precision=32-true", "trainer.log_every_n_steps=1", "trainer.accelerator=cpu", "trainer.devices=1",
    "callbacks.last.every_n_train_steps=1", "overwrite=true", "trainer.limit_val_batches=4",
]  # fmt: skip
SHRUNK_DNA = [
    f"data.fasta={SLICE_FASTA}", "data.split.block_size=25000", "data.split.validation=0.1", "data.split.test=0.1",
    "data.windows.min_length=1000", "data.windows.max_length=2000", "data.held_out_windows.coverage=0.05",
]  # fmt: skip
SHRUNK_RNA = ["data.max_tokens=64", "data.statistics_cells=64"]
LLAMA = ["model.num_key_value_heads=2"]
PARAMETERS = {  # millions, with all heads, on the labels of `annotated`: what README documents
    "dna_ref_113m": 117.2, "dna_snp_113m": 117.2, "rna_bert_110m_mlm_rda": 100.6, "rna_bert_110m_mlm_multitask": 115.5,
    "rna_bert_110m_wced": 130.3, "rna_bert_110m_wced_multitask": 130.3, "rna_llama_32m_mlm_multitask": 28.9, "rna_llama_47m_wced_multitask": 43.7,
}  # fmt: skip


@pytest.fixture(scope="session")
def annotated(tmp_path_factory):
    """Some of the cells that ship, with the .obs columns of CELLxGENE, and an ontology with their terms."""
    import anndata

    folder = tmp_path_factory.mktemp("annotated")
    adata = anndata.read_h5ad(ASSETS / "rna" / "pbmc3k.h5ad")[:120].copy()
    rng = np.random.default_rng(0)
    adata.obs["cell_type"] = rng.choice(["T cell", "B cell", "unknown"], 120)
    for name, values in {
        "tissue": ["blood", "lung"],
        "tissue_general": ["blood", "lung"],
        "donor_id": [f"d{i}" for i in range(12)],
        "sex": ["female", "male"],
    }.items():
        adata.obs[name] = rng.choice(values, 120)
    adata.write_h5ad(folder / "cells.h5ad")
    with gzip.open(folder / "cl.obo.gz", "wt") as out:
        out.write(OBO)
    return folder


def _needs(recipe: str, folder, models: dict) -> list[str]:
    if recipe == "dna_finetune":
        return [f"checkpoint={models['dna']}", f"data.path={models['table']}"]
    if recipe == "rna_finetune":
        return [f"checkpoint={models['rna']}", f"data.path={folder / 'cells.h5ad'}", "objectives.label.column=tissue", *SHRUNK_RNA]
    if recipe == "rna_perturbation":
        return [f"checkpoint={models['rna']}", "data.statistics_examples=64", "data.source.min_matched=0"]
    if recipe == "rna_mini":
        return [*SMALL_MODEL, *SHRUNK_RNA, f"data.path={ASSETS / 'rna' / 'pbmc3k.h5ad'}", "data.permute_genes=1.0"]
    if recipe == "dna_mini":
        lengths = ["data.windows.min_length=100", "data.windows.max_length=100"]
        return [*SMALL_CONV, *SHRUNK_DNA, *lengths, f"data.variants={SLICE_VCF}", "data.regions=null"]
    if recipe.startswith("dna"):
        return (
            SMALL_MODEL
            + SHRUNK_DNA
            + ([f"data.variants={SLICE_VCF}", "data.variant_filter.info_flag=null"] if recipe.endswith("113m") else [])
        )
    more = LLAMA if "llama" in recipe else []
    if "10m" in recipe or "llama" in recipe:
        more = [*more, f"data.path={folder / 'cells.h5ad'}", "data.split.validation=0.2", "data.split.test=0.2"]
    if "llama" in recipe:
        more += [f"objectives.cell_type.ontology={folder / 'cl.obo.gz'}"]
    return SMALL_MODEL + SHRUNK_RNA + more


@pytest.fixture(scope="session")
def models(cells_model, dna_model, sequence_table):
    return {"rna": cells_model, "dna": dna_model, "table": sequence_table}


def _train(tmp_path, *overrides):
    from bmfm.train import train

    return train(compose("train", [*overrides, *SHRUNK, f"run_dir={tmp_path}"]))


@pytest.mark.parametrize("recipe", [r for r in RECIPES if not r.endswith("tokenizer")])
def test_recipe_takes_a_step(tmp_path, recipe, annotated, models):
    metrics = _train(tmp_path, f"+recipe={recipe}", *_needs(recipe, annotated, models))
    assert ("test/loss" in metrics) == recipe.endswith("finetune")
    assert (tmp_path / "model" / "model.safetensors").exists()
    _compare_with_stored(recipe, metrics)


STORED = Path(__file__).parent / "stored_losses.json"
"""Metrics that every recipe ends with. ``BMFM_STORE_LOSSES=1 pytest -n 0 tests/test_conf.py`` writes them anew: say in the commit why they moved."""


def _compare_with_stored(recipe: str, metrics: dict[str, float]) -> None:
    stored = json.loads(STORED.read_text()) if STORED.exists() else {}
    if os.environ.get("BMFM_STORE_LOSSES"):
        STORED.write_text(json.dumps(stored | {recipe: metrics}, indent=1, sort_keys=True) + "\n")
        return
    assert metrics.keys() == stored[recipe].keys()
    for name, value in stored[recipe].items():
        near = 1e-5 if "pearson" in name else 1e-6  # correlations near 0 move by this much from one kind of processor to another
        assert metrics[name] == pytest.approx(value, rel=2e-5, abs=near, nan_ok=True), name


CHOICES = {
    "tokenizer=folder": ["tokenizer.folder=snp2vec"],
    "logger=wandb": ["logger.wandb.offline=true"],
    "data=rna": ["data.path=${asset:rna/pbmc3k.h5ad}"],
    "data=source": ["data.source={_target_: tests.data.paired.PairedSequences}", "~representation", "tokenizer=dna_demo", *SMALL_MODEL],
    "data=census": ["data.census.obs_filter='is_primary_data == True'"],
    "model=llama": LLAMA,
    "model=llama_12x384": LLAMA,
    "values=token": ["objective=[values]", "+objectives.values.losses.bins=1.0", "~objectives.values.losses.mse"],
    "representation=soft_labels": ["tokenizer=single_base"],
    "objective=cls_labels": ["tokenizer.n_cls=5"],
    "objective=counts": ["tokenizer.read_depth.mode=split"],
}


LABELS_OF_TABLES = {"label": "label", "balanced_label": "label", "regression": "number", "multilabel": "tags", "token_label": "sequence"}
"""{objective: its column in the table of sequences}"""


def _census_of(adata):
    """What the census gives: genes named by ids in the index, symbols in a column."""
    adata.var = adata.var.assign(feature_name=adata.var_names).set_axis([f"ENSGx{i}" for i in range(adata.n_vars)])
    return adata


def _is_rna(choice: str) -> bool:
    group, name = choice.split("=")
    return (
        group == "values"
        or name in ("rna", "pbmc3k", "census", "bert", "bert_110m", "llama", "llama_12x384", "cells", "cells_folder")
        or (group == "objective" and name != "mlm")
    )


def _composed(choice: str, folder: Path, annotated: Path, models: dict) -> list[str]:
    """The overrides of a small run that has a choice of a group in it."""
    group, name = choice.split("=")
    more = CHOICES.get(choice, [])
    if "checkpoint" in choice or choice == "data=table" or (group == "objective" and name in LABELS_OF_TABLES):
        chosen = [f"objective=[{name}]", f"objectives.label.column={LABELS_OF_TABLES[name]}"] if group == "objective" else [choice]
        return ["+recipe=dna_finetune", *chosen, *_needs("dna_finetune", annotated, models), "logistic_regression=false"]
    if name.endswith("perturbation"):
        chosen = ["data=demo_perturbation" if group == "objective" else choice]
        path = [
            "data.source.path=${asset:perturbation/norman_mcfaline_subset.h5ad}",
            "data.source.expects=normalised",
            "data.source.context=cell_type",
        ]
        return ["+recipe=rna_perturbation", *chosen, *path, *_needs("rna_perturbation", annotated, models)]
    if choice == "data=source":
        return [choice, "model=modernbert", "objective=[mlm]", *more]
    if not _is_rna(choice):
        small = SMALL_CONV if choice == "model=conv" else SMALL_MODEL
        return ["+recipe=dna_snp", choice, *small, *SHRUNK_DNA, *more]
    if group == "objective":
        choice = f"objective=[{name}]"
        more = [f"data.path={annotated / 'cells.h5ad'}", *more]
        if name == "cell_ontology":
            more = [f"objectives.cell_type.ontology={annotated / 'cl.obo.gz'}", *more]
    if choice == "tokenizer=cells_folder":
        from bmfm.tokenizers.rna import CellTokenizer

        (folder / "tokenizer").mkdir()
        CellTokenizer("gene2vec").save_pretrained(folder / "tokenizer")
        more = [f"tokenizer.folder={folder / 'tokenizer'}"]
    base = ["~representation", "data=pbmc3k", "tokenizer=cells", "model=bert", "values=mlp_special", "objective=[wced]"]
    return [*{o.split("=")[0]: o for o in (*base, choice, *more)}.values(), *SMALL_MODEL, *SHRUNK_RNA]


CONFORMING = ("model", "objective", "tokenizer", "values")
"""Groups each of whose choices tests/conformance holds to more than a step."""


@pytest.mark.parametrize("choice", [pytest.param(c, marks=pytest.mark.slow) if c.split("=")[0] in CONFORMING else c for c in GROUPS])
def test_every_choice_of_every_group_takes_a_step(tmp_path, choice, annotated, models, monkeypatch):
    """Untrained heads say what their baselines say, and two small steps lead nowhere: the loss is near that of the baselines."""
    if choice == "data=census":  # the query itself needs the network
        import anndata

        from bmfm.cells.census import Census

        monkeypatch.setattr(Census, "fetch", lambda self: _census_of(anndata.read_h5ad(annotated / "cells.h5ad")))
    if choice == "logger=tensorboard":
        pytest.importorskip("tensorboard")
    metrics = _train(tmp_path / "run", *_composed(choice, tmp_path, annotated, models))
    near = 1.0 if choice == "objective=values" else 0.35  # its head begins at one mean, its baseline has each gene's
    assert metrics["val/loss"] == pytest.approx(metrics["val/baseline_loss"], rel=near)


def test_settings_of_an_objective_that_is_not_chosen_are_an_error(tmp_path):
    with pytest.raises(SystemExit, match=r"objectives.wced has settings.*objective=\[wced"):
        _train(tmp_path, "+recipe=rna_wced", "objective=[values]", *SMALL_MODEL, *SHRUNK_RNA)


@pytest.mark.parametrize("recipe", PARAMETERS)
def test_published_size(recipe, annotated, monkeypatch):
    from bmfm.objectives.multitask import Objectives
    from bmfm.training.run import assemble

    monkeypatch.setattr(Objectives, "init_output_biases", lambda self, model: None)  # there is nothing to set on the meta device
    files = {"rna": [f"data.path={annotated / 'cells.h5ad'}", "data.split.validation=0.2", "data.split.test=0.2"], "dna": ["data.variants=" + str(SLICE_VCF), *SHRUNK_DNA, "data.variant_filter.info_flag=null"]}  # fmt: skip
    more = [f"objectives.cell_type.ontology={annotated / 'cl.obo.gz'}"] if "llama" in recipe else []
    with torch.device("meta"):
        config = compose("train", [f"+recipe={recipe}", *files[recipe[:3]], *more])
        _, _, model = assemble(config)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(PARAMETERS[recipe], abs=0.06)


@pytest.mark.parametrize("name", DEBUG)
@pytest.mark.parametrize("recipe", ["dna_snp", "rna_mlm"])
def test_debug_configurations_compose(recipe, name):
    config = compose("train", [f"+recipe={recipe}", f"+debug={name}"])
    assert config.run_dir == f"runs/debug_{recipe}" and config.overwrite


def test_a_task_wins_over_its_recipe_wherever_it_stands():
    for order in (["+recipe=dna_finetune", "+task=gue/splice"], ["+task=gue/splice", "+recipe=dna_finetune"]):
        config = compose("train", [*order, "checkpoint=none", "data.batch_size=3"])
        assert (config.data.reverse_complement, config.model.strands, config.data.batch_size) == (0, "forward", 3)


def test_unused_key_is_an_error(tmp_path):
    with pytest.raises(Exception, match="not_a_setting"):
        _train(tmp_path, "+recipe=dna_ref", "+data.not_a_setting=1", *SMALL_MODEL, *SHRUNK_DNA)
