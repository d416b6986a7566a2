"""One training run: a composed recipe in, a model folder and its figures out."""

import logging
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bmfm.cli import instantiate

if TYPE_CHECKING:  # Lightning and torch are imported once a run begins
    import pytorch_lightning as pl
    from omegaconf import DictConfig

    from bmfm.data.module import BatchModule
    from bmfm.models.model import BmfmModel
    from bmfm.objectives.multitask import Objectives
    from bmfm.training.module import LitModel

QUIET = (
    ".*does not have many workers.*",
    ".*srun.*",
    ".*tensorboardX.*",
    ".*isinstance.treespec.*",
    ".*Checkpoint directory.*",
    ".*sync_dist=True.*",
)
"""Warnings of Lightning that mean nothing here: figures of validation, for one, are those of all devices already."""


def assemble(config: "DictConfig") -> "tuple[BatchModule, Objectives, BmfmModel]":
    """The data module, objectives and model of a composed recipe, which know what they need of one another."""
    from bmfm.objectives.multitask import Objectives
    from bmfm.storage.folders import find_folder, trained_max_tokens
    from bmfm.training.optim import freeze_unread

    for name, chosen in config.objectives.items():
        if chosen and "_target_" not in chosen:
            raise SystemExit(
                f"bmfm: objectives.{name} has settings, but no such objective is chosen: write objective=[{name}, ...], or '~objectives.{name}'"
            )
    if config.data.get("max_tokens", 0) is None and config.checkpoint:
        config.data.max_tokens = trained_max_tokens(find_folder(config.checkpoint, config.model.get("revision")))
    data: BatchModule = instantiate(config.data, _convert_="all")
    config.data.max_tokens = data.max_tokens
    data.connect(instantiate(config.tokenizer, _convert_="all"))
    objectives = Objectives({name: instantiate(o, _convert_="all") for name, o in config.objectives.items() if o})
    objectives.connect(data)
    objectives.check_monitored()
    _settle_strands(config, data, objectives)
    _settle_places(config, data, objectives)
    genes = {name: i for i, name in enumerate(data.tokenizer.names)}
    model: BmfmModel = instantiate(config.model, fields=data.tokenizer.fields, heads=objectives.heads, genes=genes, _convert_="all")
    objectives.init_output_biases(model)
    freeze_unread(model)
    return data, objectives, model


def _settle_strands(config: "DictConfig", data: "BatchModule", objectives: "Objectives") -> None:
    """Write into the configuration which strands are read, in training and by the model, where that is ``auto``."""
    from bmfm.data.table import SequenceTable
    from bmfm.objectives.labels.label import Label

    of_data, of_model = config.data.get("reverse_complement"), config.model.get("strands")
    if "auto" not in (of_data, of_model):
        return
    if of_data == "auto" and of_model == "average":
        probability = 0.5  # what predicts from both strands is trained on both
    else:
        probability = data.other_strand({name: task.label_kind for name, task in objectives.tasks.items() if isinstance(task, Label)})
    if of_data == "auto":
        assert isinstance(data, SequenceTable)
        data.read_other_strand(probability)
        config.data.reverse_complement = probability
    if of_model == "auto":
        config.model.strands = "average" if probability else "forward"


def _settle_places(config: "DictConfig", data: "BatchModule", objectives: "Objectives") -> None:
    """Let heads read places where their labels depend on them, and write into the configuration which do.

    Raises
    ------
    ValueError
        Where that is asked of a label, and there is nothing to read.
    """
    from bmfm.objectives.labels.label import Label

    for name, task in objectives.tasks.items():
        if not isinstance(task, Label):
            continue
        can = task.is_of_examples and not task.gradient_reversal and (task.places is True or config.model.get("strands") != "average")
        length = data.places_of(name, task.label_kind, task.places) if can else 0
        if length:
            task.read_places(length)
        elif task.places is True:
            raise ValueError(
                f"objectives.{name}.places=true: only labels of DNA sequences, which are not reversed, have places; leave it out"
            )
        if "places" in config.objectives[name]:
            config.objectives[name].places = bool(length)


@dataclass
class Run:
    """What one run is made of; its parts are assembled and trained by `train`.

    Attributes
    ----------
    resume_from
        The checkpoint that it goes on from, or None.
    """

    config: "DictConfig"
    data: "BatchModule"
    objectives: "Objectives"
    model: "BmfmModel"
    module: "LitModel"
    trainer: "pl.Trainer"
    resume_from: Path | None

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The configuration, resolved, as plain data."""
        return _plain(self.config)

    @property
    def folder(self) -> Path:
        return Path(self.config.run_dir)

    @classmethod
    def of(cls, config: "DictConfig") -> "Run":
        """Everything that a composed recipe describes, checked before training begins."""
        import pytorch_lightning as pl
        from pytorch_lightning.utilities.rank_zero import rank_zero_only

        from bmfm.training.callbacks import LastCheckpoint
        from bmfm.training.devices import choose_precision
        from bmfm.training.nonfinite import NonFinite
        from bmfm.training.resume import WholeCheckpoints, begin_or_resume, check_checkpoint

        is_main_process = rank_zero_only.rank == 0  # type: ignore[attr-defined]  # an attribute that Lightning sets on a function
        resume_from = begin_or_resume(Path(config.run_dir), config.resume, config.overwrite, is_main_process)
        config.trainer.precision = choose_precision(config.trainer.precision, config.trainer.accelerator)
        pl.seed_everything(config.seed, verbose=False)
        data, objectives, model = assemble(config)
        if is_main_process:
            data.report()
        schedule = instantiate(config.schedule, total_steps=config.trainer.max_steps)
        no_fp32 = _plain(config)["model"].get("attention") == "flash_attention_2"
        precision = ("fp16" if str(config.trainer.precision).startswith("16") else "bf16") if no_fp32 else None
        optimizer = instantiate(config.optimizer, _partial_=True)
        nonfinite = NonFinite(config.nonfinite, Path(config.run_dir))
        callbacks = sorted((instantiate(c) for c in config.callbacks.values() if c), key=lambda c: isinstance(c, LastCheckpoint))
        _check_lazy_rows(config, callbacks)
        loggers = [instantiate(c) for c in config.logger.values() if c]
        plugins = [WholeCheckpoints(), *(instantiate(c) for c in config.trainer.get("plugins") or ())]
        trainer = instantiate(config.trainer, callbacks=callbacks, logger=loggers, plugins=plugins, _convert_="all")
        module = _module_for(trainer)(
            model,
            objectives,
            optimizer,
            schedule,
            compile=config.compile,
            tokenizer=data.tokenizer,
            test_precision=precision,
            nonfinite=nonfinite,
        )
        if resume_from:
            data.first_batch = check_checkpoint(resume_from, module)
        return cls(config, data, objectives, model, module, trainer, resume_from)

    def fit(self) -> float:
        """Train; returns how many seconds it took."""
        start_time = time.perf_counter()
        from bmfm.training.memory import freed_memory_kept

        on_cpu = self.trainer.strategy.root_device.type == "cpu"
        with _dead_workers_named(self.data.num_workers), freed_memory_kept() if on_cpu else nullcontext():
            self.trainer.fit(self.module, self.data, ckpt_path=self.resume_from, weights_only=True if self.resume_from else None)
        self.module.finish(self.model)
        return time.perf_counter() - start_time

    def balance(self) -> None:
        """Fit the map of a model that pools by ``balanced`` to the cells that it was trained on, or 4,096 of them.

        One that began from a checkpoint keeps its map: labelled cells are few, and adapters have none.
        """
        import numpy as np
        import torch

        from bmfm.inference import Predictor
        from bmfm.inference.parts import read_part
        from bmfm.models.balance import balancing_map

        if self.model.config.pooling != "balanced" or self.config.checkpoint:
            return
        part = self.data.parts["train"].as_held_out()
        predictor = Predictor(self.model, self.data.tokenizer, self.trainer.strategy.root_device)
        cells = read_part(part, np.arange(min(4096, len(part))))
        states = predictor.embed(cells, pooling=0, batch_size=self.data.batch_size, precision=self.module.test_precision, progress=False)
        self.model.balance.copy_(torch.from_numpy(balancing_map(states)))

    def save(self, metrics: dict[str, float]) -> None:
        """Write the model, before anything else that can fail; adapters are merged into it on every device."""
        from bmfm.checkpoints.adapters import save_adapter
        from bmfm.models.lora import has_lora, merge_lora
        from bmfm.training import report

        tokenizer, settings = self.data.tokenizer, self.settings
        if has_lora(self.model):
            if self.trainer.is_global_zero:
                lora, max_tokens = settings["model"]["lora"], settings["data"]["max_tokens"]
                save_adapter(self.model, self.folder / "adapter", settings["checkpoint"], lora, tokenizer, max_tokens)
            merge_lora(self.model)
        if self.trainer.is_global_zero:
            report.save_model(self.model, tokenizer, self.folder / "model", settings, metrics, self.data.facts(), self.data.card)

    def test(self) -> dict[str, float]:
        """Metrics of the test part, of the model as it is."""
        from bmfm.training.predicted import label_tasks

        if not self.config.test or "test" not in self.data.parts:
            return {}
        if label_tasks(self.objectives).keys() == self.objectives.tasks.keys():
            self.trainer.limit_test_batches = 1  # Lightning must have one; the Predictor reads all examples by itself
        return {k: float(v) for k, v in self.trainer.test(self.module, self.data, verbose=False)[0].items()}

    def logistic_regression(self) -> dict[str, float]:
        """Figures of a logistic regression on the labels of the held-out parts."""
        from bmfm.training.logistic import label_baselines

        stages = {"val": "validation", "test": "test"} if self.config.test else {"val": "validation"}
        scored = {stage: part for stage, part in stages.items() if part in self.data.parts}
        return {f"{s}/{k}": v for s, part in scored.items() for k, v in label_baselines(self.data, self.objectives, part).items()}


def train(config: "DictConfig") -> dict[str, float]:
    """Run one composed recipe; returns the metrics of the best checkpoint on held-out data."""
    from bmfm.training import report
    from bmfm.training.resume import load_best

    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    for message in QUIET:
        warnings.filterwarnings("ignore", message)
    run = Run.of(config)
    seconds = run.fit()
    is_main_process, folder = run.trainer.is_global_zero, run.folder

    metrics = {k: float(v) for k, v in run.trainer.callback_metrics.items() if k.startswith("val/")}
    tables, counts = run.objectives.tables(run.module.sums), run.module.all_counts()
    best_step = load_best(run.trainer, run.model)
    curves = report.read_curve(folder / "csv") if is_main_process else {}
    if best_step is not None:
        metrics = report.metrics_at(curves, best_step) or metrics
    with _spare_the_run("the map of balanced embeddings"):
        run.balance()
    run.save(metrics)
    metrics |= run.test()
    if not is_main_process:
        return metrics
    report.write_metrics(metrics, folder)
    if config.logistic_regression:
        with _spare_the_run("the logistic regression beside the model"):
            metrics |= run.logistic_regression()
            report.write_metrics(metrics, folder)
    facts = run.data.facts()
    with _spare_the_run("the model card"):
        report.write_card(run.model, folder / "model", run.settings, metrics, facts, run.data.card, seconds)
    with _spare_the_run("the loss curve"):
        report.plot_loss(curves, folder / "loss.png", config.name)
    with _spare_the_run("the summary"):
        files = report.write_tables(tables, folder)
        title = f"{config.name}: {run.module.global_step:,} steps in {seconds / 60:.1f} min"
        report.print_summary(title, facts, counts, run.objectives, metrics, folder, files)
    return metrics


def _plain(config: "DictConfig") -> dict[str, Any]:
    from omegaconf import OmegaConf

    settings = OmegaConf.to_container(config, resolve=True)
    assert isinstance(settings, dict)
    return {str(name): value for name, value in settings.items()}


def _module_for(trainer: "pl.Trainer") -> "type[LitModel]":
    """The class of module that a strategy trains; ValueError for strategies that cut parameters in a way that weight decay, clipping and
    checkpoints here do not know."""
    from pytorch_lightning.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy

    from bmfm.training.module import LitModel

    if not isinstance(trainer.strategy, (FSDPStrategy, ModelParallelStrategy, DeepSpeedStrategy)):
        return LitModel
    from bmfm.training import sharding

    if not isinstance(trainer.strategy, sharding.ShardedStrategy):
        name = type(trainer.strategy).__name__
        raise ValueError(
            f"trainer.strategy: {name} is not supported; choose trainer=ddp, or trainer=fsdp2, which cuts parameters over devices"
        )
    sharding.check(trainer)
    return sharding.ShardedLitModel


@contextmanager
def _dead_workers_named(n: int) -> Iterator[None]:
    """Say what becomes of a run one of whose processes that read data has died, which PyTorch notices wherever training is."""
    try:
        yield
    except (RuntimeError, OSError) as error:
        cause: BaseException | None = error
        while cause is not None and not str(cause).startswith("DataLoader worker"):
            cause = cause.__cause__ or cause.__context__
        if cause is None:
            raise
        raise ChildProcessError(
            f"a process that reads data died, and training with it ({str(cause).splitlines()[0].strip()}). Killed most often means that memory ran out (dmesg says so): "
            f"choose data.num_workers below {n}, or 0, which shows errors of the data in full; then go on from the last checkpoint by resume=true"
        ) from error


def _check_lazy_rows(config: "DictConfig", callbacks: list) -> None:
    """Raise a ValueError for what reads or changes the table, or its gradient, past the optimiser."""
    from pytorch_lightning.callbacks import WeightAveraging

    if not config.optimizer.get("lazy_rows"):
        return
    if any(isinstance(c, WeightAveraging) for c in callbacks):
        raise ValueError("optimizer.lazy_rows=true: callbacks=ema reads the whole table after every step; choose optimizer.lazy_rows=false")
    if config.trainer.get("gradient_clip_algorithm") == "value":
        raise ValueError("optimizer.lazy_rows=true: gradients are clipped by their norm; leave out trainer.gradient_clip_algorithm")


@contextmanager
def _spare_the_run(what: str) -> Iterator[None]:
    """Warn, rather than fail, where something beside the model cannot be made: training and its figures are done."""
    try:
        yield
    except Exception as error:
        warnings.warn(f"{what} could not be made ({type(error).__name__}: {error}); the model and its metrics are saved", stacklevel=2)
