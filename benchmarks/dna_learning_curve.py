"""Where pretraining begins to pay: the same convolutional networks fine-tuned from new weights and after more and more masked bases.

python benchmarks/dna_learning_curve.py --data FOLDER --out FOLDER [--sizes small mini] [--mbp 0 4 16 49] [--tasks gue/mouse_0 ...] [--seeds 0 1]

Every network is pretrained by recipes/dna_mini.yaml, cut at so many million bases (0: new weights), then fine-tuned by
recipes/dna_finetune.yaml. Printed are MCC on the VALIDATION part of each task, at the step where it is best, and the mean over tasks with its
standard error over seeds: test parts are not touched. What is finished is kept in --out and not repeated.
"""

import argparse
import csv
import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np

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
    "data.reverse_complement=0.5", "model.strands=average", "objectives.label.pooling=max_mean", "objectives.label.dropout=0.3",
    "data.batch_size=64", "optimizer.lr=2e-3", "schedule=cosine", "schedule.warmup_steps=100", "trainer.max_steps=1200",
    "trainer.val_check_interval=150", "callbacks.early_stopping=null", "test=false", "logistic_regression=false",
)  # fmt: skip
QUIET = ("overwrite=true", "trainer.enable_progress_bar=false", "callbacks.progress=null", "trainer.precision=bf16-mixed")


def train(log: Path, *settings: str) -> None:
    """One run of bmfm train; its output goes to a file."""
    with log.open("w") as out:
        subprocess.run([sys.executable, "-m", "bmfm.train", *settings, *QUIET], stdout=out, stderr=subprocess.STDOUT, check=True)


def pretrained(size: str, mbp: int, data: Path, out: Path) -> Path:
    """The model folder of a network that has seen so many bases; of 0, one that was trained for a single step, for its shape."""
    folder = out / f"{size}_{mbp}"
    if not (folder / "model" / "model.safetensors").is_file():
        hidden, layers, kernel = SIZES[size]
        steps = max(1, mbp * 1_000_000 // BASES_A_STEP)
        train(
            out / f"{size}_{mbp}.log", "+recipe=dna_mini", f"data_root={data}", f"run_dir={folder}", f"model.hidden_size={hidden}",
            f"model.num_hidden_layers={layers}", f"model.kernel_size={kernel}", f"trainer.max_steps={steps}",
            f"trainer.val_check_interval={min(500, steps)}", f"schedule.warmup_steps={min(100, steps // 10)}",
        )  # fmt: skip
    return folder / "model"


def finetuned(model: Path, task: str, seed: int, new_weights: bool, data: Path, out: Path) -> float:
    """The best validation MCC of one fine-tuning."""
    name = f"{model.parent.name}_{task.replace('/', '_')}_{seed}"
    file = out / f"{name}.json"
    if not file.is_file():
        train(
            out / f"{name}.log", "+recipe=dna_finetune", f"+task={task}", f"checkpoint={model}", f"data_root={data}", f"run_dir={out / name}",
            f"seed={seed}", f"model.random_init={str(new_weights).lower()}", *FINETUNE,
        )  # fmt: skip
        (metrics,) = (out / name).glob("csv/*/metrics.csv")
        with metrics.open() as rows:
            file.write_text(json.dumps({"mcc": max(float(r["val/label/mcc"]) for r in csv.DictReader(rows) if r["val/label/mcc"])}))
    return float(json.loads(file.read_text())["mcc"])


def line(label: str, scores: Iterable[Iterable[float]]) -> str:
    """Means over seeds of each task, and the mean over tasks; scores [tasks][seeds]."""
    values = np.array([list(s) for s in scores])
    means = values.mean(0)
    error = f" ±{means.std(ddof=1) / len(means) ** 0.5:.3f}" if len(means) > 1 else ""
    return f"| {label} | " + " | ".join(f"{v:.3f}" for v in values.mean(1)) + f" | {means.mean():.3f}{error} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sizes", nargs="+", default=["tiny", "mini"], choices=SIZES)
    parser.add_argument("--mbp", nargs="+", type=int, default=[0, 4, 16, 49])
    parser.add_argument("--tasks", nargs="+", default=list(TASKS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    print(f"| network, Mbp | {' | '.join(arguments.tasks)} | mean |\n|{'---|' * (len(arguments.tasks) + 2)}")
    for size in arguments.sizes:
        for mbp in arguments.mbp:
            model = pretrained(size, mbp, arguments.data, arguments.out)
            scores = [
                [finetuned(model, task, seed, not mbp, arguments.data, arguments.out) for seed in arguments.seeds]
                for task in arguments.tasks
            ]
            print(line(f"{size}, {mbp}", scores), flush=True)


if __name__ == "__main__":
    main()
