"""A checkpoint fine-tuned on a labelled table beside the same network from new weights and a logistic regression.

Run: ``python benchmarks/finetuning.py CHECKPOINT FOLDER [FOLDER ...]``, folders with train, dev and test tables. Three seeds,
the test part scored once a run; figures are means with 95% intervals. The regression is the same in every run of a folder.
"""

import sys
import tempfile
from pathlib import Path

from bmfm.cli import compose
from bmfm.train import train
from bmfm.training.seeds import interval

checkpoint, *folders = sys.argv[1:]
for folder in folders:
    scores: dict[str, list[float]] = {"pretrained": [], "new weights": []}
    with tempfile.TemporaryDirectory() as scratch:
        for name, found in scores.items():
            for seed in range(3):
                settings = [
                    f"checkpoint={checkpoint}",
                    f"data.path={folder}",
                    f"seed={seed}",
                    f"run_dir={Path(scratch) / name.split()[0] / str(seed)}",
                ]
                limits = ["trainer.max_steps=600", "optimizer.lr=1e-3", "data.max_tokens=128", "objectives.label.pooling=mean"]
                quiet = [
                    "trainer.enable_progress_bar=false",
                    "callbacks.progress=null",
                    f"model.scratch={str(name != 'pretrained').lower()}",
                ]
                metrics = train(compose("train", ["+recipe=dna_finetune", *settings, *limits, *quiet]))
                found.append(metrics["test/label/mcc"])
    said = "; ".join("{} {:.3f} ± {:.3f}".format(name, *interval(found)) for name, found in scores.items())
    print(f"RESULT {folder}: test MCC, {said}; logistic regression on k-mers {metrics['test/label/logistic_regression_mcc']:.3f}")
