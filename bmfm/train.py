"""Train a model: ``python -m bmfm.train +recipe=dna_snp``. Any setting can be overridden: ``optimizer.lr=1e-3``."""

from pathlib import Path

from bmfm.cli import instantiate, main


def assemble(config):
    """The data module, objectives and model of a composed recipe, bound to one another."""

    from bmfm.objectives.together import Objectives

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
    data.objectives = objectives
    genes = {name: i for i, name in enumerate(data.tokenizer.names)}
    model = instantiate(config.model, fields=data.tokenizer.fields, heads=objectives.heads, genes=genes, _convert_="all")
    objectives.begin_at_baselines(model)
    return data, objectives, model


def train(config) -> dict[str, float]:
    """Run one composed recipe; returns the metrics of the best checkpoint on held-out data."""
    import json
    import logging
    import time
    import warnings

    import pytorch_lightning as pl
    import torch
    from omegaconf import OmegaConf

    from bmfm.models.load import has_lora, merge_lora, save_adapter
    from bmfm.training import report
    from bmfm.training.module import Training

    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    for said in (".*does not have many workers.*", ".*srun.*", ".*tensorboardX.*", ".*isinstance.treespec.*", ".*Checkpoint directory.*"):
        warnings.filterwarnings("ignore", said)
    settings: dict = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    run_dir = Path(config.run_dir)
    last = run_dir / "checkpoints" / "last.ckpt"
    main_process = pl.utilities.rank_zero.rank_zero_only.rank == 0
    if last.exists() and not (config.resume or config.overwrite) and main_process:
        raise SystemExit(
            f"bmfm: {run_dir} already holds a run. Go on with it by resume=true, replace it by overwrite=true, "
            "or choose another folder by run_dir=..."
        )
    if config.overwrite and not config.resume and main_process:
        import shutil

        for stale in ("checkpoints", "model", "csv"):
            shutil.rmtree(run_dir / stale, ignore_errors=True)
    resume_from = last if config.resume and last.exists() else None

    pl.seed_everything(config.seed, verbose=False)
    data, objectives, model = assemble(config)
    if main_process:
        data.report()
    schedule = instantiate(config.schedule, total_steps=config.trainer.max_steps)
    module = Training(model, objectives, instantiate(config.optimizer, _partial_=True), schedule, config.compile)
    if resume_from:
        data.first_batch = torch.load(resume_from, map_location="cpu", weights_only=True)["bmfm"]["batches_seen"]

    callbacks = [instantiate(c) for c in config.callbacks.values() if c]
    loggers = [instantiate(c) for c in config.logger.values() if c]
    trainer = instantiate(config.trainer, callbacks=callbacks, logger=loggers, _convert_="all")
    began = time.perf_counter()
    trainer.fit(module, data, ckpt_path=resume_from, weights_only=True if resume_from else None)
    seconds = time.perf_counter() - began

    best = next((c.best_model_path for c in trainer.checkpoint_callbacks if getattr(c, "monitor", None) and c.best_model_path), None)
    metrics = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val/")}
    tables = objectives.tables(module.sums)
    if best:
        saved = torch.load(best, map_location="cpu", weights_only=True)
        state = {k.removeprefix("model."): v for k, v in saved["state_dict"].items() if k.startswith("model.")}
        model.load_state_dict(state)
    scored = {"val": "validation", "test": "test"} if config.test and "test" in data.parts else {"val": "validation"}
    tested = trainer.test(module, data, verbose=False)[0] if "test" in scored else {}
    if not trainer.is_global_zero:
        return metrics
    curves = report.read_curve(run_dir / "csv")
    if best:
        step = saved["global_step"]
        metrics = {k: dict(v)[s] for k, v in curves.items() if k.startswith("val/") for s in (step - 1, step) if s in dict(v)} or metrics
    metrics |= {k: float(v) for k, v in tested.items()}
    if config.logistic_regression:
        from bmfm.evaluation.baselines import label_baselines

        for stage, part in scored.items():
            if part in data.parts:
                metrics |= {f"{stage}/{k}": v for k, v in label_baselines(data, objectives, part).items()}
    (run_dir / "metrics.json").write_text(json.dumps(metrics, indent=1))
    facts = data.facts()
    if has_lora(model):
        save_adapter(
            model, run_dir / "adapter", config.checkpoint, settings["model"]["lora"], data.tokenizer, settings["data"]["max_tokens"]
        )
        merge_lora(model)
    report.save_model(model, data.tokenizer, run_dir / "model", settings, metrics, facts, data.card)
    report.plot_loss(curves, run_dir / "loss.png", config.name)
    print_summary(config.name, facts, module, metrics, seconds, run_dir, report.write_tables(tables, run_dir))
    return metrics


def print_summary(name, facts, module, metrics, seconds, run_dir, tables) -> None:
    """Print the table that ends a run."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{name}: {module.global_step:,} steps in {seconds / 60:.1f} min", title_justify="left", show_header=False)
    for what, value in facts.items():
        table.add_row(what, value)
    for what, value in module.counts.items():
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


if __name__ == "__main__":
    main(train, "train")
