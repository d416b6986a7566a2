"""The contract of methods that say what a perturbation does to cells."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

from bmfm.evaluation.methods.base import Method


@dataclass(frozen=True)
class Responses:
    """What a method predicts of Q groups of cells, each a condition in a context, in the order in which it was asked.

    Attributes
    ----------
    means
        [Q, G] float32, mean log-normalised profile of each group.
    cells
        Gives the cells of a group, log-normalised, CSR [n, G]: of methods that predict single cells. None: metrics of single cells take
        control cells of the context, shifted by the difference of the predicted mean from the controls' mean, cut at 0 and scaled to the
        predicted mean (`perturbation.measured.shifted_cells`).
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
    def respond(self, examples: Any, seed: int, folder: Path) -> Responses:
        """Responses of the groups of the test part, `examples.asked`, having seen perturbed cells of the other parts alone.

        Parameters
        ----------
        examples
            `examples.perturbations.PerturbationExamples`.
        seed
            Of every choice that chance makes.
        folder
            For whatever it leaves; may not be there yet.
        """
