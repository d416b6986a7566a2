"""Comparing methods on a suite of tasks: from a configuration to records, results and report."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bmfm.cli import config_file, instantiate, literal, options, override
from bmfm.evaluation import runner
from bmfm.evaluation.fetch import fetch
from bmfm.evaluation.grid import RunSettings, build_grid
from bmfm.evaluation.overlap import sentences
from bmfm.evaluation.report.comparison import failure, which_run
from bmfm.evaluation.report.pages import write_report
from bmfm.evaluation.task_files import in_other_splits, read_task
from bmfm.evaluation.task_spec import TaskSpec

METHODS = "bmfm.evaluation.methods"


def run(config: Any) -> None:
    """The entry point: `benchmark`, with status 1 where a job failed; the report is written all the same."""
    records = benchmark(config)
    failed = [f"{r['task']}: {r['model']} ({r['mode']}), {which_run(r)}: {why}" for r in records if (why := failure(r))]
    if failed:
        print(f"bmfm: {len(failed)} of {len(records)} jobs failed:", *failed, sep="\n  ", file=sys.stderr)
        sys.exit(1)


def benchmark(config: Any) -> list[dict]:
    """Run what is not finished of a suite's grid, and write results and report; returns the records."""
    from omegaconf import OmegaConf

    suite: Any = OmegaConf.to_container(config.suite, resolve=True)
    if unknown := sorted(set(config.tasks or ()) - set(suite["tasks"])):
        raise ValueError(f"tasks={unknown} are not in the suite {suite['name']}, which has {', '.join(suite['tasks'])}")
    requested = [name for name in suite["tasks"] if name in (config.tasks or suite["tasks"])]
    root = ["checkpoint=none", override("data_root", config.data_root)]
    tasks = with_data([read_task(name, root) for name in requested], config)
    names, folder = [task.name for task in tasks], Path(config.run_dir)
    split_seeds = config.split_seeds if config.split_seeds is not None else suite.get("split_seeds") or []
    tasks = [drawn for task in tasks for drawn in in_other_splits(task, split_seeds, root)]
    settings = RunSettings(suite["name"], list(config.seeds), config.data_root, folder, config.n_bootstrap)
    jobs, left_out = build_grid(tasks, methods_of(config), settings)
    for message in left_out:
        print(f"bmfm: {message}", file=sys.stderr)
    progress = Progress(f"{suite['title']}: {len(names)} tasks", len(jobs), sum(job.finished_record() is not None for job in jobs))
    records = runner.run(jobs, instantiate(config.launcher, _convert_="all"), progress.report)
    for sentence in dict.fromkeys(s for r in records for s in sentences(r["task"], r.get("overlap") or {})):
        print(f"bmfm: {sentence}", file=sys.stderr)
    folder.mkdir(parents=True, exist_ok=True)
    results: dict = {"suite": suite | {"tasks": names}, "records": runner.with_earlier(folder, records, names)}
    written = [runner.write_results(folder, **results), *write_report(results, folder)]
    for file in written:
        print(f"written to {file}")
    return records


class Progress:
    """A line on the terminal for each job that is finished."""

    def __init__(self, title: str, n_jobs: int, n_finished: int):
        from rich.console import Console

        self.console, self.n_jobs, self.n_finished = Console(), n_jobs, n_finished
        self.console.print(f"{title}, {n_jobs} jobs, {n_finished} of them finished before", highlight=False)

    def report(self, record: dict) -> None:
        from rich.markup import escape

        self.n_finished += 1
        figure = record["metrics"].get(record["metric"])
        outcome = f"{record['metric']} {figure:.4f}" if figure is not None else f"[red]failed[/red]: {escape(str(record['error']))}"
        who = f"{record['model']} ({record['mode']}), {which_run(record)}"
        line = f"{self.n_finished}/{self.n_jobs} {record['task']}: {who}: {outcome}, {record['seconds'] or 0:.0f} s"
        self.console.print(line, highlight=False)


def with_data(tasks: Sequence[TaskSpec], config: Any) -> list[TaskSpec]:
    """The tasks whose data are there; downloads them where that is requested, and otherwise says how to get them.

    Raises
    ------
    ValueError
        Where data are missing, and ``skip_missing`` is not set or nothing would be left.
    """
    missing = [task for task in tasks if task.missing_files(config.data_root)]
    if config.download:
        for task in missing:
            if _has_download(task):
                fetch(task, config.data_root)
        missing = [task for task in tasks if task.missing_files(config.data_root)]
    if not missing:
        return list(tasks)
    lines = [f"{len(missing)} of {len(tasks)} tasks have no data below data_root={config.data_root}:"]
    for task in missing:
        remedy = "download=true brings it" if _has_download(task) else " ".join((task.how or "").split())
        lines.append(f"  {task.name}: {', '.join(str(p) for p in task.missing_files(config.data_root))}; {remedy}")
    if not config.skip_missing or len(missing) == len(tasks):
        if any(map(_has_download, missing)):
            lines.append(f"python -m bmfm.benchmark +suite={config.suite.name} download=true data_root={config.data_root}")
        raise ValueError("\n".join([*lines, "skip_missing=true runs the others"]))
    print("\n".join(lines), file=sys.stderr)
    return [task for task in tasks if task not in missing]


def _has_download(task: TaskSpec) -> bool:
    return all(f.url for f in task.files)


def methods_of(config: Any) -> list[dict]:
    """Configurations of all that takes part: the checkpoint in each mode, embeddings made elsewhere, baselines."""
    from omegaconf import OmegaConf

    settings: Any = OmegaConf.to_container(config, resolve=True)
    modes = [read_mode(name, settings) for name in settings["modes"]]
    methods: list[dict] = []
    if settings["checkpoint"]:
        name = settings["name"] or short_name(settings["checkpoint"])
        model = {"name": name, "checkpoint": settings["checkpoint"], "remote_code": settings["remote_code"]}
        embedder = {"_target_": f"{METHODS}.checkpoint.CheckpointEmbeddings", **model}
        methods += _of_embeddings(embedder | {k: settings[k] for k in ("pooling", "precision")}, modes)
        training = {"overrides": flat_overrides(settings["finetune"]), "keep": settings["keep_models"]}
        methods += [model | training | mode["method"] for mode in modes if mode["of"] == "checkpoint"]
        scorer = {"_target_": f"{METHODS}.variants.CheckpointVariants", **model, "options": settings["variants"]}
        methods += [mode["method"] | {"source": scorer} for mode in modes if mode["of"] == "variants"]
    for name, source in (settings["embeddings"] or {}).items():
        methods += _of_embeddings({"_target_": f"{METHODS}.precomputed.PrecomputedEmbeddings", "name": name, **source}, modes)
    methods += [_variant_scores(name, source) for name, source in (settings["variant_scores"] or {}).items()]
    for baseline in filter(None, (settings.get("baselines") or {}).values()):
        methods += _yardsticks(baseline, settings) if "source" in baseline and "modes" in baseline else [baseline]
    return methods


def _variant_scores(name: str, settings: dict) -> dict:
    """Scores of variants that were made elsewhere: one column of a table, or with ``probe: true`` a probe on its columns."""
    source = {"_target_": f"{METHODS}.variants.VariantFile", "name": name} | {k: v for k, v in settings.items() if k in ("path", "ordered")}
    more = {k: v for k, v in settings.items() if k not in ("path", "ordered", "probe")}
    if settings.get("probe"):
        return {"_target_": f"{METHODS}.variants.VariantProbe", "source": source} | more
    return {"_target_": f"{METHODS}.variants.ScoreColumn", "source": source} | more


def _yardsticks(baseline: dict, settings: dict) -> list[dict]:
    """What stands beside a checkpoint: embeddings of a ``source`` in modes of its own and in those of the benchmark; without a
    checkpoint nothing."""
    if not settings["checkpoint"]:
        return []
    modes = [read_mode(name, settings) for name in dict.fromkeys([*baseline["modes"], *settings["modes"]])]
    return _of_embeddings(baseline["source"], modes)


def read_mode(name: str, settings: dict) -> dict:
    """How a checkpoint, or embeddings, take part: ``conf/mode/NAME.yaml``, whose ``${...}`` refer to the settings of the benchmark.

    Returns
    -------
    dict
        ``of``: ``embeddings``, where `method` gets them as its ``source`` (without a `method` they are used as they are), or
        ``checkpoint``, where it gets ``name``, ``checkpoint``, ``remote_code``, ``overrides`` of training and ``keep``; or
        ``variants``, where it gets scores of variants as its ``source``. ``method``: its ``_target_`` and further arguments.

    Raises
    ------
    ValueError
        Where there is no such mode, or its file says something else.
    """
    from omegaconf import OmegaConf

    file = config_file("mode", name)
    if file is None:
        raise ValueError(f"modes={name!r} is unknown; choose from {', '.join(options('mode'))}")
    configuration: Any = OmegaConf.merge(literal(settings), {"mode": OmegaConf.load(file)})
    content: Any = OmegaConf.to_container(configuration.mode, resolve=True)
    if set(content) != {"of", "method"} or content["of"] not in ("embeddings", "checkpoint", "variants"):
        raise ValueError(f"{file} must have `of` (embeddings, checkpoint or variants) and `method` (a _target_ and its arguments)")
    return content


def _of_embeddings(source: dict, modes: Sequence[dict]) -> list[dict]:
    """Embeddings as they are, and what is made on them, in the order of the modes."""
    return [mode["method"] | {"source": source} if mode["method"] else source for mode in modes if mode["of"] == "embeddings"]


def flat_overrides(settings: dict, prefix: str = "") -> list[str]:
    """A nested mapping as overrides, ``a.b=value``."""
    flat: list[str] = []
    for key, value in settings.items():
        flat += flat_overrides(value, f"{prefix}{key}.") if isinstance(value, dict) else [override(f"{prefix}{key}", value)]
    return flat


def short_name(checkpoint: str) -> str:
    """A short name of a model folder or Hub id: ``runs/dna_snp/model`` is dna_snp."""
    path = Path(checkpoint)
    return path.parent.name if path.name == "model" and path.parent.name else path.name
