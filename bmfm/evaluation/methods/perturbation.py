"""The contract of methods that say what a perturbation does to cells."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from bmfm.evaluation.examples.perturbations import PerturbationExamples
from bmfm.evaluation.methods.base import Method
from bmfm.evaluation.methods.checkpoint import CheckpointFolder, OfCheckpoint
from bmfm.evaluation.task_spec import TaskSpec


@dataclass(frozen=True)
class Responses:
    """What a method predicts of Q groups of cells, each a condition in a context, in the order in which it was asked.

    Attributes
    ----------
    means
        [Q, G] float32, mean log-normalised profile of each group.
    cells
        Gives the cells of a group, log-normalised, CSR [n, G]: of methods that predict single cells. None: metrics of single cells take
        control cells of the context, changed so that their mean is the predicted one (`perturbation.measured.draw_cells`).
    notes
        {what: how many}, as groups for which a method fell back to another.
    """

    means: np.ndarray
    cells: Callable[[int], csr_matrix] | None = None
    notes: dict[str, int] = field(default_factory=dict)


class PerturbationMethod(Method, ABC):
    """A method that predicts cells after perturbations that it has not seen in their context."""

    omics = ("rna",)

    @abstractmethod
    def respond(self, examples: PerturbationExamples, seed: int, folder: Path) -> Responses:
        """Responses of the groups of the test part, `examples.asked`, having seen perturbed cells of the other parts alone.

        Parameters
        ----------
        seed
            Of every choice that chance makes.
        folder
            For whatever it leaves; may not be there yet.
        """


class TrainedResponse(OfCheckpoint, PerturbationMethod):
    """A checkpoint that was trained for perturbations (recipe ``rna_perturbation``), as it is.

    Whether it has seen perturbed cells of the test part is for its makers to say: nothing of the task's training part is read.
    """

    mode = "response"

    def __init__(self, name: str, checkpoint: str, overrides: list[str] | None = None, remote_code: bool = False, keep: bool = False):
        super().__init__(name)
        self.checkpoint = CheckpointFolder(checkpoint, remote_code)

    def identity(self, task: TaskSpec | None = None) -> dict[str, Any]:
        return {"model": self.model_hash}

    def respond(self, examples: PerturbationExamples, seed: int, folder: Path) -> Responses:
        from bmfm.inference import load

        return respond_by(load(self.checkpoint.name, remote_code=self.checkpoint.remote_code), examples)


N_CONTROLS = 256
"""Control cells of each context that a model predicts the mean change from; the mean that it is added to is that of all."""


def respond_by(predictor: Any, examples: PerturbationExamples) -> Responses:
    """Responses of a model that was trained for perturbations: the mean control cell of the examples, and the mean change that it predicts."""
    from bmfm.perturbation.asked import Asked
    from bmfm.perturbation.controls import read_controls
    from bmfm.perturbation.options import ResponseOptions
    from bmfm.perturbation.responses import mean_changes

    source = examples.data.source
    options = ResponseOptions(
        context="context",
        n_cells=N_CONTROLS,
        counts=source.counts,
        expects=source.expects,
        gene_column=source.gene_column,
        orthologs=source.orthologs,
        min_matched=source.min_matched,
        progress=False,
    )
    controls = read_controls(predictor, source.control_adata(), options)
    contexts = pd.Index(controls.contexts).get_indexer(examples.asked["context"])
    asked = Asked(list(examples.asked_conditions), list(examples.asked["kind"]), contexts)
    find = predictor.tokenizer.vocabulary.find
    ids = np.array([find(str(gene))[0] for gene in examples.genes])
    change = np.where(ids >= 0, mean_changes(predictor, controls, asked, options)[:, ids.clip(min=0)], 0.0)
    means = np.stack([examples.control_mean(context) for context in examples.asked["context"]]) + change
    return Responses(
        means.clip(min=0).astype(np.float32),
        notes={"groups with genes that the model does not know, which stay as in the controls": len(asked) * bool((ids < 0).any())},
    )
