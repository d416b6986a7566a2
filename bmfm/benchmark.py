"""Compare models on a suite of tasks: ``python -m bmfm.benchmark +suite=gue checkpoint=runs/dna_snp/model data_root=FOLDER``."""

import sys
from pathlib import Path

from bmfm.cli import instantiate, main, override


def run(config) -> None:
    """The entry point: `benchmark`, with status 1 where a cell of the grid failed; the report is written all the same."""
    from bmfm.evaluation.report.comparison import failure

    records = benchmark(config)
    failed = [f"{r['task']}: {r['model']} ({r['mode']}), seed {r['seed']}: {why}" for r in records if (why := failure(r))]
    if failed:
        print(f"bmfm: {len(failed)} of {len(records)} cells failed:", *failed, sep="\n  ", file=sys.stderr)
        sys.exit(1)


def benchmark(config) -> list[dict]:
    """Run what is not finished of a suite's grid, and write results and report; returns the records."""
    from omegaconf import OmegaConf
    from rich.console import Console
    from rich.markup import escape

    from bmfm.evaluation import runner
    from bmfm.evaluation.overlap import sentences
    from bmfm.evaluation.report.pages import write_report
    from bmfm.evaluation.tasks import read_task

    suite: dict = OmegaConf.to_container(config.suite, resolve=True)  # type: ignore[assignment]
    if unknown := sorted(set(config.tasks or ()) - set(suite["tasks"])):
        raise ValueError(f"tasks={unknown} are not in the suite {suite['name']}, which has {', '.join(suite['tasks'])}")
    asked = [
        read_task(t, ["checkpoint=none", override("data_root", config.data_root)])
        for t in suite["tasks"]
        if t in (config.tasks or suite["tasks"])
    ]
    cards = present(asked, config, suite["name"])
    tasks = [card.name for card in cards]
    folder = Path(config.run_dir)
    entrants = entrants_of(config)
    cells, unused = runner.grid(suite["name"], cards, entrants, list(config.seeds), config.data_root, folder, config.n_bootstrap)
    for name in unused:
        print(f"bmfm: {name} has no task in this suite", file=sys.stderr)
    n_before = sum(runner.finished(cell) is not None for cell in cells)
    console = Console()
    console.print(f"{suite['title']}: {len(tasks)} tasks, {len(cells)} cells, {n_before} of them finished before", highlight=False)
    done = iter(range(n_before + 1, len(cells) + 1))

    def told(record: dict) -> None:
        figure = record["metrics"].get(record["metric"])
        said = f"{record['metric']} {figure:.4f}" if figure is not None else f"[red]failed[/red]: {escape(str(record['error']))}"
        who = f"{record['model']} ({record['mode']}), seed {record['seed']}"
        console.print(f"{next(done)}/{len(cells)} {record['task']}: {who}: {said}, {record['seconds'] or 0:.0f} s", highlight=False)

    records = runner.run(cells, instantiate(config.launcher, _convert_="all"), told)
    for said in dict.fromkeys(said for r in records for said in sentences(r["task"], r.get("overlap") or {})):
        print(f"bmfm: {said}", file=sys.stderr)
    folder.mkdir(parents=True, exist_ok=True)
    results: dict = {"suite": suite | {"tasks": tasks}, "records": runner.with_earlier(folder, records, tasks)}
    written = runner.write_results(folder, **results)
    html, markdown = write_report(results, folder)
    for what in (written, html, markdown):
        print(f"written to {what}")
    return records


def present(cards: list, config, suite: str) -> list:
    """The cards whose data are there; downloads them if that is asked for, and otherwise says how to get them."""
    from bmfm.evaluation.tasks import missing_files

    lacking = [card for card in cards if missing_files(card, config.data_root)]
    if config.download:
        from bmfm.evaluation.fetch import fetch

        for card in lacking:
            if all(f.url for f in card.files):
                fetch(card, config.data_root)
        lacking = [card for card in cards if missing_files(card, config.data_root)]
    if not lacking:
        return cards
    said = [f"{len(lacking)} of {len(cards)} tasks have no data below data_root={config.data_root}:"]
    for card in lacking:
        how = "download=true brings it" if all(f.url for f in card.files) else " ".join((card.how or "").split())
        said.append(f"  {card.name}: {', '.join(str(p) for p in missing_files(card, config.data_root))}; {how}")
    if not config.skip_missing or len(lacking) == len(cards):
        if any(all(f.url for f in card.files) for card in lacking):
            said.append(f"python -m bmfm.benchmark +suite={suite} download=true data_root={config.data_root}")
        raise ValueError("\n".join([*said, "skip_missing=true runs the others"]))
    print("\n".join(said), file=sys.stderr)
    return [card for card in cards if card not in lacking]


def entrants_of(config) -> list[dict]:
    """Configurations of all that takes part: the checkpoint in each mode, embeddings made elsewhere, baselines."""
    from omegaconf import OmegaConf

    from bmfm.evaluation.report.comparison import MODES

    plain: dict = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    entrants: list[dict] = []
    modes = list(plain["modes"])
    known = [mode for mode in MODES if mode != "baseline"]
    if unknown := sorted(set(modes) - set(known)):
        raise ValueError(f"modes={unknown} are unknown; choose from {', '.join(known)}")

    def probes(source: dict) -> None:
        for mode in modes:
            if mode == "zero_shot":
                entrants.append(source)
            elif mode.endswith("_probe"):
                entrants.append({"_target_": "bmfm.evaluation.methods.Probe", "source": source, "method": mode.removesuffix("_probe")})

    if plain["checkpoint"]:
        name = plain["name"] or _name(plain["checkpoint"])
        shared = {"name": name, "checkpoint": plain["checkpoint"], "remote_code": plain["remote_code"]}
        probes(
            {
                "_target_": "bmfm.evaluation.methods.CheckpointEmbeddings",
                "pooling": plain["pooling"],
                "precision": plain["precision"],
                **shared,
            }
        )
        trained = {"finetune": {}, "lora": {"lora": plain["lora"]}, "from_scratch": {"scratch": True}}
        for mode, own in trained.items():
            if mode in modes:
                changed = _overrides(plain["finetune"])
                if fixed := [o.split("=")[0] for o in changed if o.startswith(FIXED)]:
                    raise ValueError(
                        f"finetune.{fixed[0]} cannot be changed: the card sets it, so that every model is scored on the same examples"
                    )
                made = {"_target_": "bmfm.evaluation.methods.FineTuned", "overrides": changed, "keep": plain["keep_models"]}
                entrants.append(made | shared | own)
    for name, own in (plain["embeddings"] or {}).items():
        probes({"_target_": "bmfm.evaluation.methods.PrecomputedEmbeddings", "name": name, **own})
    return entrants + [b for b in (plain.get("baselines") or {}).values() if b]


FIXED = ("data.path", "data.split", "data.sequence", "data.second", "data.derived", "data.counts", "seed", "run_dir", "test", "task")


def _overrides(settings: dict, prefix: str = "") -> list[str]:
    """A nested mapping as overrides, ``a.b=value``."""
    flat: list[str] = []
    for key, value in settings.items():
        flat += _overrides(value, f"{prefix}{key}.") if isinstance(value, dict) else [override(f"{prefix}{key}", value)]
    return flat


def _name(checkpoint: str) -> str:
    """A short name of a model folder or Hub id: ``runs/dna_snp/model`` is dna_snp."""
    path = Path(checkpoint)
    return path.parent.name if path.name == "model" and path.parent.name else path.name


if __name__ == "__main__":
    main(run, "benchmark")
