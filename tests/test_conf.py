"""Every YAML composes, instantiates, and takes a training step, shrunk."""

import pytest

from bmfm.cli import compose, config_folder
from tests.conftest import SLICE_FASTA, SLICE_VCF

RECIPES = sorted(p.stem for p in (config_folder() / "recipe").glob("*.yaml"))
GROUPS = sorted(f"{p.parent.name}={p.stem}" for p in config_folder().glob("*/*.yaml") if p.parent.name not in ("recipe", "debug"))
DEBUG = sorted(p.stem for p in (config_folder() / "debug").glob("*.yaml"))
SHRUNK = [
    "model.hidden_size=16", "model.intermediate_size=16", "model.num_hidden_layers=2", "model.num_attention_heads=2",
    f"data.fasta={SLICE_FASTA}", "data.split.block_size=25000", "data.split.validation=0.1", "data.split.test=0.1",
    "data.windows.min_length=1000", "data.windows.max_length=2000", "data.batch_size=2", "data.held_out_windows.coverage=0.05", "data.num_workers=0",
    "trainer.max_steps=2", "trainer.val_check_interval=2", "trainer.enable_progress_bar=false", "callbacks.progress=null", "trainer.precision=32-true",
    "trainer.log_every_n_steps=1", "trainer.accelerator=cpu", "trainer.devices=1", "callbacks.last.every_n_train_steps=1", "overwrite=true",
]  # fmt: skip


def _train(tmp_path, *overrides):
    from bmfm.train import train

    return train(compose("train", [*overrides, *SHRUNK, f"run_dir={tmp_path}"]))


@pytest.mark.parametrize("recipe", [r for r in RECIPES if not r.endswith("tokenizer")])
def test_recipe_takes_a_step(tmp_path, recipe):
    more = [f"data.variants={SLICE_VCF}", "data.variant_filter.info_flag=null"] if recipe.endswith("113m") else []
    metrics = _train(tmp_path, f"+recipe={recipe}", *more)
    assert 0 < metrics["val/loss"] < 12 and (tmp_path / "model" / "model.safetensors").exists()


@pytest.mark.parametrize("choice", GROUPS)
def test_every_choice_of_every_group_takes_a_step(tmp_path, choice):
    more = {"tokenizer=folder": ["tokenizer.path=snp2vec"], "logger=wandb": ["logger.wandb.offline=true"]}.get(choice, [])
    if choice == "logger=tensorboard":
        pytest.importorskip("tensorboard")
    if choice == "trainer=fsdp":  # needs a GPU: only the strategy is built here
        from hydra.utils import instantiate

        assert instantiate(compose("train", [choice]).trainer.strategy) is not None
        return
    metrics = _train(tmp_path, "+recipe=dna_snp", choice, *more)
    assert metrics["val/loss"] > 0


@pytest.mark.parametrize("name", DEBUG)
def test_debug_configurations_compose(name):
    config = compose("train", ["+recipe=dna_snp", f"+debug={name}"])
    assert config.run_dir == "runs/debug_dna_snp" and config.overwrite


def test_unused_key_is_an_error(tmp_path):
    with pytest.raises(Exception, match="not_a_setting"):
        _train(tmp_path, "+recipe=dna_ref", "+data.not_a_setting=1")
