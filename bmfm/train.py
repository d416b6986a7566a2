"""Train a model: ``python -m bmfm.train +recipe=dna_snp``. Any setting can be overridden: ``optimizer.lr=1e-3``."""

from pathlib import Path

from bmfm.cli import main


def train(config) -> dict[str, float]:
    """Run one composed recipe; returns the metrics of the best checkpoint on held-out data."""
    import logging
    import time
    import warnings

    import pytorch_lightning as pl
    import torch
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

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
    tokenizer = instantiate(config.tokenizer)
    vocab_size = len(tokenizer)
    objective = instantiate(config.objective, vocab_size=vocab_size)
    data = instantiate(config.data, _convert_="all")
    data.connect(tokenizer, objective)
    if main_process and data.variants is not None:
        report_variants(data.variants.report)
    model = instantiate(config.model, vocab_size=vocab_size, _convert_="all")
    counts = data.token_counts(vocab_size)
    share = torch.from_numpy((counts + 1) / (counts + 1).sum())
    schedule = instantiate(config.schedule, total_steps=config.trainer.max_steps)
    optimizer = instantiate(config.optimizer, _partial_=True)
    module = Training(model, objective, share.log().float(), optimizer, schedule, config.compile)
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
    if not trainer.is_global_zero:
        return metrics
    if best:
        saved = torch.load(best, map_location="cpu", weights_only=True)
        state = {k.removeprefix("model."): v for k, v in saved["state_dict"].items() if k.startswith("model.")}
        model.load_state_dict(state)
    curves = report.read_curve(run_dir / "csv")
    if best:
        step = saved["global_step"]
        metrics = {k: dict(v)[s] for k, v in curves.items() if k.startswith("val/") for s in (step - 1, step) if s in dict(v)} or metrics
    report.save_model(model, tokenizer, run_dir / "model", settings, metrics, data.facts())
    report.plot_loss(curves, run_dir / "loss.png", config.name)
    print_summary(config, data, module, metrics, seconds, run_dir, float(-(share * share.log()).sum()))
    return metrics


def report_variants(found) -> None:
    """Print what became of the records of a VCF."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"Variants of {Path(found.path).name}: {found.records:,} records", title_justify="left")
    for column in ("", "kind or reason", "alleles", "first"):
        table.add_column(column, justify="right" if column == "alleles" else "left")
    for verdict, reason, n, example in found.rows():
        table.add_row(verdict, reason, f"{n:,}", example)
    Console().print(table)


def print_summary(config, data, module, metrics, seconds, run_dir, unigram_entropy) -> None:
    """Print the table that ends a run."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{config.name}: {module.global_step:,} steps in {seconds / 60:.1f} min", title_justify="left", show_header=False)
    for name, value in data.facts().items():
        table.add_row(name, value)
    for name, value in module.counts.items():
        table.add_row(f"training {name.replace('_', ' ')}", f"{value:,}")
    table.add_section()
    table.add_row("unigram entropy of the training tokens", f"{unigram_entropy:.4f} nats")
    for part, label in (("", "all hidden tokens"), ("_reference", "without a variant"), ("_variant", "with a variant")):
        if f"val/loss{part}" in metrics:
            table.add_row(
                f"validation, {label}",
                f"loss {metrics[f'val/loss{part}']:.4f} (unigram {metrics[f'val/unigram_loss{part}']:.4f}), "
                f"accuracy {metrics[f'val/accuracy{part}']:.4f}, perplexity {metrics[f'val/perplexity{part}']:.1f}, "
                f"n = {metrics[f'val/tokens{part}']:,.0f}",
            )
    table.add_section()
    table.add_row("model (transformers folder)", str(run_dir / "model"))
    table.add_row("checkpoints", str(run_dir / "checkpoints"))
    table.add_row("loss curve", str(run_dir / "loss.png"))
    Console().print(table)


if __name__ == "__main__":
    main(train, "train")
