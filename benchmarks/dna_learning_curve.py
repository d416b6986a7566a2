"""Where pretraining begins to pay: the same convolutional networks fine-tuned from new weights and after more and more masked bases.

python benchmarks/dna_learning_curve.py --data FOLDER --out FOLDER [--sizes small mini] [--mbp 0 4 16 49] [--tasks gue/mouse_0 ...] [--seeds 0 1]
    [--set data.reverse_complement=0.5 ...] [--workers 16] [--table]

Every network is pretrained by recipes/dna_mini.yaml, cut at so many million bases (0: new weights), then fine-tuned by
recipes/dna_finetune.yaml. Printed are MCC on the VALIDATION part of each task, at the step where it is best, the mean over tasks with its
standard error over seeds, and what pretraining adds, with its standard error over tasks and seeds: test parts are not touched. What is finished is kept in --out and not repeated; --table prints that and trains nothing.
Processors with many cores, and graphics cards, take many of these small networks at once: --workers says how many.
"""

import argparse
import csv
import json
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import redirect_stdout
from itertools import product
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from bmfm.cli import compose
from bmfm.training.run import train

SIZES = {
    "tiny": (64, 3, 7),  # 0.1 M parameters, the shape of the baseline conv_rc
    "small": (96, 4, 7),  # 0.3 M
    "mini": (128, 5, 9),  # 0.8 M, that of bmfm-dna-mini
    "large": (256, 6, 9),  # 4 M
}
"""Hidden size, layers and kernel of the networks."""

TASKS = ("gue/mouse_0", "gue/mouse_3", "gue/prom_core_tata")
BASES_A_STEP = 32 * 510
FINETUNE = (
    "objectives.label.pooling=max_mean", "objectives.label.dropout=0.3", "data.batch_size=64",
    "optimizer.lr=2e-3", "schedule=cosine", "schedule.warmup_steps=100", "trainer.max_steps=1200",
    "trainer.val_check_interval=150", "callbacks.early_stopping=null", "test=false", "logistic_regression=false",
)  # fmt: skip
QUIET = ("overwrite=true", "trainer.enable_progress_bar=false", "callbacks.progress=null", "trainer.precision=bf16-mixed")


def run_of(log: Path, *settings: str) -> None:
    """One run of bmfm train; its output goes to a file."""
    with log.open("w") as out, redirect_stdout(out):
        train(compose("train", [*settings, *QUIET]))


def pretrained(size: str, mbp: int, data: Path, out: Path) -> Path:
    """The model folder of a network that has seen so many bases; of 0, one that was trained for a single step, for its shape."""
    folder = out / f"{size}_{mbp}"
    if not (folder / "model" / "model.safetensors").is_file():
        hidden, layers, kernel = SIZES[size]
        steps = max(1, mbp * 1_000_000 // BASES_A_STEP)
        run_of(
            out / f"{size}_{mbp}.log", "+recipe=dna_mini", f"data_root={data}", f"run_dir={folder}", f"model.hidden_size={hidden}",
            f"model.num_hidden_layers={layers}", f"model.kernel_size={kernel}", f"trainer.max_steps={steps}",
            f"trainer.val_check_interval={min(500, steps)}", f"schedule.warmup_steps={min(100, steps // 10)}",
        )  # fmt: skip
    return folder / "model"


def result(model: str, task: str, seed: int, out: Path) -> Path:
    """The file with the score of one fine-tuning; ``model`` is size and millions of bases."""
    return out / f"{model}_{task.replace('/', '_')}_{seed}.json"


def finetune(model: Path, task: str, seed: int, new_weights: bool, more: list[str], data: Path, out: Path) -> None:
    """Writes the best validation MCC of one fine-tuning, with more settings."""
    file = result(model.parent.name, task, seed, out)
    if file.is_file():
        return
    run_dir = file.with_suffix("")
    run_of(
        file.with_suffix(".log"), "+recipe=dna_finetune", f"+task={task}", f"checkpoint={model}", f"data_root={data}", f"run_dir={run_dir}",
        f"seed={seed}", f"model.random_init={str(new_weights).lower()}", *FINETUNE, *more,
    )  # fmt: skip
    (metrics,) = run_dir.glob("csv/*/metrics.csv")
    with metrics.open() as rows:
        file.write_text(json.dumps({"mcc": max(float(r["val/label/mcc"]) for r in csv.DictReader(rows) if r["val/label/mcc"])}))


def run_all(
    models: list[tuple[str, int]], tasks: list[str], seeds: list[int], more: list[str], workers: int, data: Path, out: Path
) -> None:
    """Pretrains every network, the longest first, and fine-tunes each as soon as it is there."""
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        waiting: dict[Future, bool] = {
            pool.submit(pretrained, size, mbp, data, out): not mbp for size, mbp in sorted(models, key=lambda m: -m[1])
        }
        finetunings = [
            pool.submit(finetune, future.result(), task, seed, waiting[future], more, data, out)
            for future in as_completed(waiting)
            for seed, task in product(seeds, tasks)
        ]
        for done in as_completed(finetunings):
            done.result()


def scores(model: str, tasks: list[str], seeds: list[int], out: Path) -> np.ndarray:
    """MCC [tasks, seeds] of what is finished, NaN of the rest; ``model`` is size and millions of bases."""
    files = [[result(model, task, seed, out) for seed in seeds] for task in tasks]
    return np.array([[json.loads(f.read_text())["mcc"] if f.is_file() else np.nan for f in row] for row in files])


def with_error(values: np.ndarray) -> str:
    """The mean and its standard error."""
    return f"{values.mean():.3f}" + (f" ± {values.std(ddof=1) / len(values) ** 0.5:.3f}" if len(values) > 1 else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sizes", nargs="+", default=["tiny", "mini"], choices=SIZES)
    parser.add_argument("--mbp", nargs="+", type=int, default=[0, 4, 16, 49])
    parser.add_argument("--tasks", nargs="+", default=list(TASKS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--set", nargs="+", default=[], dest="more", help="settings of the fine-tunings, for an --out of its own")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    models = list(product(arguments.sizes, arguments.mbp))
    if not arguments.table:
        run_all(models, arguments.tasks, arguments.seeds, arguments.more, arguments.workers, arguments.data, arguments.out)
    print(f"| network, Mbp | {' | '.join(arguments.tasks)} | mean | added |\n|{'---|' * (len(arguments.tasks) + 3)}")
    for size, mbp in models:
        of, new = (scores(f"{size}_{n}", arguments.tasks, arguments.seeds, arguments.out) for n in (mbp, 0))
        added = with_error((of - new).ravel()) if mbp else ""
        print(f"| {size}, {mbp} | " + " | ".join(f"{v:.3f}" for v in of.mean(1)) + f" | {with_error(of.mean(0))} | {added} |", flush=True)


if __name__ == "__main__":
    main()
