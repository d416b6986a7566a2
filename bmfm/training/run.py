"""One training run: a composed recipe in, a model folder and its figures out."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bmfm.cli import instantiate


def assemble(config):
    """The data module, objectives and model of a composed recipe, bound to one another."""

    from bmfm.objectives.multitask import Objectives
    from bmfm.training.optim import freeze_unread

    for name, chosen in config.objectives.items():
        if chosen and "_target_" not in chosen:
            raise SystemExit(
                f"bmfm: objectives.{name} has settings, but no such objective is chosen: write objective=[{name}, ...], or '~objectives.{name}'"
            )
    data = instantiate(config.data, _convert_="all")
    data.connect(instantiate(config.tokenizer, _convert_="all"))
    objectives = Objectives({name: instantiate(o, _convert_="all") for name, o in config.objectives.items() if o})
    data.need(objectives.needs)
    objectives.bind(data)
    objectives.check_monitored()
    data.objectives = objectives
    genes = {name: i for i, name in enumerate(data.tokenizer.names)}
    model = instantiate(config.model, fields=data.tokenizer.fields, heads=objectives.heads, genes=genes, _convert_="all")
    objectives.begin_at_baselines(model)
    freeze_unread(model)
    return data, objectives, model


def train(config) -> dict[str, float]:
    """Run one composed recipe; returns the metrics of the best checkpoint on held-out data."""
    import logging
    import time
    import warnings

    import pytorch_lightning as pl
    from omegaconf import OmegaConf

    from bmfm.training import report
    from bmfm.training.callbacks import LastCheckpoint
    from bmfm.training.module import Training

    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    for said in (".*does not have many workers.*", ".*srun.*", ".*tensorboardX.*", ".*isinstance.treespec.*", ".*Checkpoint directory.*"):
        warnings.filterwarnings("ignore", said)
    settings: dict = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    run_dir = Path(config.run_dir)
    main_process = pl.utilities.rank_zero.rank_zero_only.rank == 0
    resume_from = _begin_or_resume(config, run_dir, main_process)

    pl.seed_everything(config.seed, verbose=False)
    data, objectives, model = assemble(config)
    if main_process:
        data.report()
    schedule = instantiate(config.schedule, total_steps=config.trainer.max_steps)
    module = Training(model, objectives, instantiate(config.optimizer, _partial_=True), schedule, config.compile)
    module.test_in_fp32 = settings["model"].get("attention") != "flash_attention_2"  # which has no fp32
    if resume_from:
        data.first_batch = _check_checkpoint(resume_from, module)

    callbacks = sorted((instantiate(c) for c in config.callbacks.values() if c), key=lambda c: isinstance(c, LastCheckpoint))
    loggers = [instantiate(c) for c in config.logger.values() if c]
    trainer = instantiate(config.trainer, callbacks=callbacks, logger=loggers, _convert_="all")
    _check_strategy(trainer)
    began = time.perf_counter()
    trainer.fit(module, data, ckpt_path=resume_from, weights_only=True if resume_from else None)
    seconds = time.perf_counter() - began

    metrics = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val/")}
    tables = objectives.tables(module.sums)
    counts = module.all_counts()
    best_step = _load_best(trainer, model)
    curves = report.read_curve(run_dir / "csv") if trainer.is_global_zero else {}
    if best_step is not None:
        metrics = {
            k: dict(v)[s] for k, v in curves.items() if k.startswith("val/") for s in (best_step - 1, best_step) if s in dict(v)
        } or metrics
    facts = data.facts()
    _save(model, data, run_dir, settings, metrics, facts, trainer.is_global_zero)
    if config.test and "test" in data.parts:
        metrics |= {k: float(v) for k, v in trainer.test(module, data, verbose=False)[0].items()}
    if not trainer.is_global_zero:
        return metrics
    _write_metrics(metrics, run_dir)
    if config.logistic_regression:
        with _spare_the_run("the logistic regression beside the model"):
            metrics |= _logistic_regression(data, objectives, config.test)
            _write_metrics(metrics, run_dir)
    with _spare_the_run("the model card"):
        report.write_card(model, run_dir / "model", settings, metrics, facts, data.card)
    with _spare_the_run("the loss curve"):
        report.plot_loss(curves, run_dir / "loss.png", config.name)
    with _spare_the_run("the summary"):
        written = report.write_tables(tables, run_dir)
        print_summary(config.name, facts, module, counts, metrics, seconds, run_dir, written)
    return metrics


def _begin_or_resume(config, run_dir: Path, main_process: bool) -> Path | None:
    """The checkpoint to go on from, or None; a run that is there already is replaced only if that is asked for."""
    import shutil

    last = run_dir / "checkpoints" / "last.ckpt"
    if last.exists() and not (config.resume or config.overwrite) and main_process:
        raise SystemExit(
            f"bmfm: {run_dir} already holds a run. Go on with it by resume=true, replace it by overwrite=true, "
            "or choose another folder by run_dir=..."
        )
    if config.overwrite and not config.resume and main_process:
        for stale in ("checkpoints", "model", "csv"):
            shutil.rmtree(run_dir / stale, ignore_errors=True)
    return last if config.resume and last.exists() else None


def _check_checkpoint(file: Path, module) -> int:
    """How many training batches a checkpoint has seen; ValueError where it is damaged, or of another model or other objectives."""
    import pickle
    import zipfile

    import torch

    remedy = "start anew by overwrite=true without resume=true, or choose another folder by run_dir=..."
    try:
        saved = torch.load(file, map_location="cpu", weights_only=True)
        seen, held = int(saved["bmfm"]["batches_seen"]), {k: tuple(v.shape) for k, v in saved["state_dict"].items()}
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, pickle.UnpicklingError, zipfile.BadZipFile):
        raise ValueError(f"{file} is damaged, or no checkpoint of this package, and cannot be resumed from: {remedy}") from None
    wanted = {k: tuple(v.shape) for k, v in module.state_dict().items()}
    if other := sorted(k for k in wanted.keys() | held.keys() if wanted.get(k) != held.get(k)):
        first = (
            f"{len(other)} weights differ, first {other[0]}: {held.get(other[0], 'none')} there, {wanted.get(other[0], 'none')} asked for"
        )
        raise ValueError(f"{file} is of another model or other objectives ({first}): resume with the settings it began with; or {remedy}")
    return seen


def _check_strategy(trainer) -> None:
    """Raise a ValueError for strategies that cut parameters into shards, where weight decay and clipping would be wrong."""
    from pytorch_lightning.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy

    if isinstance(trainer.strategy, (FSDPStrategy, ModelParallelStrategy, DeepSpeedStrategy)):
        raise ValueError(
            f"trainer.strategy: {type(trainer.strategy).__name__} is not supported, every device holds the whole model: choose trainer=ddp"
        )


def _load_best(trainer, model) -> int | None:
    """Give the model the weights of the best checkpoint and return its step; None where nothing was monitored."""
    import torch
    from pytorch_lightning.callbacks import ModelCheckpoint

    best = next((c.best_model_path for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint) and c.best_model_path), None)
    if not best:
        return None
    saved = torch.load(best, map_location="cpu", weights_only=True)
    model.load_state_dict({k.removeprefix("model."): v for k, v in saved["state_dict"].items() if k.startswith("model.")})
    return saved["global_step"]


def _save(model, data, run_dir: Path, settings: dict, metrics: dict, facts: dict, main_process: bool) -> None:
    """Write the model, before anything else that can fail; adapters are merged into it on every device."""
    from bmfm.checkpoints.adapters import save_adapter
    from bmfm.models.lora import has_lora, merge_lora
    from bmfm.training import report

    if has_lora(model):
        if main_process:
            data_settings, lora = settings["data"], settings["model"]["lora"]
            save_adapter(model, run_dir / "adapter", settings["checkpoint"], lora, data.tokenizer, data_settings["max_tokens"])
        merge_lora(model)
    if main_process:
        report.save_model(model, data.tokenizer, run_dir / "model", settings, metrics, facts, data.card)


def _write_metrics(metrics: dict[str, float], run_dir: Path) -> None:
    import json

    (run_dir / "metrics.json").write_text(json.dumps(metrics, indent=1))


def _logistic_regression(data, objectives, with_test: bool) -> dict[str, float]:
    """Figures of a logistic regression on the labels of the held-out parts."""
    from bmfm.training.logistic import label_baselines

    stages = {"val": "validation", "test": "test"} if with_test else {"val": "validation"}
    return {f"{s}/{k}": v for s, part in stages.items() if part in data.parts for k, v in label_baselines(data, objectives, part).items()}


@contextmanager
def _spare_the_run(what: str) -> Iterator[None]:
    """Warn, rather than fail, where something beside the model cannot be made: training and its figures are done."""
    import warnings

    try:
        yield
    except Exception as error:
        warnings.warn(f"{what} could not be made ({type(error).__name__}: {error}); the model and its metrics are saved", stacklevel=2)


def print_summary(name, facts, module, counts, metrics, seconds, run_dir, tables) -> None:
    """Print the table that ends a run."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{name}: {module.global_step:,} steps in {seconds / 60:.1f} min", title_justify="left", show_header=False)
    for what, value in facts.items():
        table.add_row(what, value)
    for what, value in counts.items():
        table.add_row(f"training {what.replace('_', ' ')}", f"{value:,}")
    table.add_section()
    for stage, called in (("val", "validation"), ("test", "test")):
        own = {k.removeprefix(f"{stage}/"): v for k, v in metrics.items() if k.startswith(f"{stage}/")}
        if not own:
            continue
        if "loss" in own:
            table.add_row(f"{called} loss (baseline)", f"{own['loss']:.4f} ({own['baseline_loss']:.4f})")
        for what, said in module.objectives.rows(own):
            table.add_row(f"{called}, {what}", said)
    table.add_section()
    table.add_row("model", str(run_dir / "model"))
    table.add_row("checkpoints", str(run_dir / "checkpoints"))
    table.add_row("loss curve", str(run_dir / "loss.png"))
    for file in tables:
        table.add_row("genes, best predicted first", str(file))
    Console().print(table)
