"""What pretraining is worth where labels are few: `bmfm-dna-mini`, the same network from new weights, and logistic regression on k-mers.

python benchmarks/few_labels.py --data FOLDER --out FOLDER [--labels 100 300 1000] [--draws 0 1] [--tasks gue/mouse_0 ...] [--workers 2] [--set SETTING=VALUE ...]

Each is trained on so many examples of a task's training part (`data.split.n_train`), drawn anew for each draw, which is the seed, too. Both networks are
fine-tuned by recipes/dna_finetune.yaml for 400 steps and end with their last weights. Printed is the MCC of the validation part, on which nothing is chosen
but whether a task's labels depend on the strand and on places (the default, which both networks share): the mean over tasks, with its standard error over
draws, and what pretraining adds, with its standard error over tasks and draws. What is finished is kept in --out and not repeated. Test parts are not touched.
"""

import argparse
import json
from contextlib import redirect_stdout
from functools import partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from dna_learning_curve import with_error

from bmfm.cli import compose
from bmfm.training.run import train

TASKS = ("gue/mouse_0", "gue/mouse_3", "gue/prom_core_tata", "gue/tf_0")
FINETUNE = (
    "callbacks=last", "trainer.max_steps=400", "trainer.val_check_interval=400", "schedule.warmup_steps=40", "test=false", "overwrite=true",
    "trainer.enable_progress_bar=false", "callbacks.progress=null", "trainer.precision=auto",
)  # fmt: skip


def measured(job: tuple[str, int, int, bool], data: Path, out: Path, settings: list[str]) -> dict[str, float]:
    """MCC of one network, and of logistic regression on the same examples."""
    task, n, draw, is_new = job
    file = out / f"{task.replace('/', '_')}_{n}_{draw}_{'new' if is_new else 'pretrained'}.json"
    if not file.is_file():
        chosen = (
            "+recipe=dna_finetune", f"+task={task}", "checkpoint=bmfm-dna-mini", f"data_root={data}", f"run_dir={file.with_suffix('')}", f"seed={draw}",
            f"data.split.seed={draw}", f"data.split.n_train={n}", f"model.random_init={str(is_new).lower()}",
        )  # fmt: skip
        with file.with_suffix(".log").open("w") as log, redirect_stdout(log):
            metrics = train(compose("train", [*chosen, *FINETUNE, *settings]))
        file.write_text(json.dumps({"network": metrics["val/label/mcc"], "k-mers": metrics["val/label/logistic_regression_mcc"]}))
    found: dict[str, float] = json.loads(file.read_text())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--labels", nargs="+", type=int, default=[100, 300, 1000])
    parser.add_argument("--draws", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--tasks", nargs="+", default=list(TASKS))
    parser.add_argument("--set", nargs="+", default=[], help="more settings of bmfm train, for an --out of its own")
    parser.add_argument("--workers", type=int, default=1)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    print("| training examples | logistic regression on k-mers | new weights | `bmfm-dna-mini` | pretraining adds |\n|---|---|---|---|---|")
    with get_context("spawn").Pool(arguments.workers) as pool:
        for n in arguments.labels:
            jobs = list(product(arguments.tasks, [n], arguments.draws, [True, False]))
            found = pool.map(partial(measured, data=arguments.data, out=arguments.out, settings=arguments.set), jobs, chunksize=1)
            shape = (len(arguments.tasks), len(arguments.draws), 2)
            mcc = {name: np.array([f[name] for f in found]).reshape(shape) for name in ("network", "k-mers")}
            new, pretrained = np.moveaxis(mcc["network"], 2, 0)
            cells = [with_error(x.mean(0)) for x in (mcc["k-mers"][:, :, 0], new, pretrained)]
            print(f"| {n:,} | {' | '.join(cells)} | {with_error((pretrained - new).ravel())} |", flush=True)


if __name__ == "__main__":
    main()
