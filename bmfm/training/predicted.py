"""Label tasks scored by what the `Predictor` predicts, so that a model has one accuracy: in training's test, in the benchmark, in use."""

import numpy as np
import torch

from bmfm.data.examples import ExampleDataset
from bmfm.inference import Predictor
from bmfm.inference.parts import read_part
from bmfm.objectives.labels import Label
from bmfm.objectives.multitask import Objectives, Sums, named_sums


def label_tasks(objectives: Objectives) -> dict[str, Label]:
    """The objectives whose logits the `Predictor` gives: one row an example."""
    return {name: task for name, task in objectives.tasks.items() if isinstance(task, Label) and task.is_of_examples}


def scores_of_predictions(
    predictor: Predictor, part: ExampleDataset, places: np.ndarray, objectives: Objectives, batch_size: int, precision: str | None
) -> Sums:
    """Sums and rows of the label tasks over some examples of a held-out part, see `Objectives.update_metrics`.

    Parameters
    ----------
    places
        [n] of the examples in the part: those of this device.
    batch_size, precision
        See `inference.runner.RunOptions`.
    """
    tasks = label_tasks(objectives)
    if not tasks or not len(places):
        return {}
    logits = predictor.logits(read_part(part, places), batch_size=batch_size, precision=precision, progress=False)
    numbers = part.sampler(np.zeros_like(places), places)
    sums = {}
    for name, task in tasks.items():
        of_head, labels = logits[name], task.labels[name]
        assert isinstance(of_head, np.ndarray) and isinstance(labels, np.ndarray)
        sums[name] = task.metrics_of(torch.from_numpy(of_head), torch.from_numpy(labels[numbers]))
    return named_sums(sums)
