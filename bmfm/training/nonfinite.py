"""Steps whose gradient is not finite: one of them would make every weight NaN, and the run worthless from there on."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from bmfm.data.module import BatchModule

CHOICES = ("stop", "skip")
MOST_IN_A_ROW = 10
"""Steps that are skipped one after the other before the run ends all the same."""


@dataclass
class NonFinite:
    """What becomes of such a step.

    Parameters
    ----------
    choice
        ``stop`` or ``skip``.
    run_dir
        Examples of such steps are listed in its folder ``nonfinite``, one file a step and device.

    Attributes
    ----------
    n_in_a_row
        Steps before this one, without a finite one between.

    Raises
    ------
    ValueError
        If the choice is unknown.
    """

    choice: str = "stop"
    run_dir: Path = Path()
    n_in_a_row: int = 0

    def __post_init__(self) -> None:
        if self.choice not in CHOICES:
            raise ValueError(f"nonfinite={self.choice} is unknown; choose from {', '.join(CHOICES)}")

    def met(self, step: int, losses: Mapping[str, torch.Tensor], batches: range, data: BatchModule, rank: int) -> None:
        """List the examples of a step, and end the run where it is to end.

        Parameters
        ----------
        losses
            {name: sum of the step's losses on this device}.
        batches
            Numbers of the batches of the step.

        Raises
        ------
        ValueError
            Naming the step and the file, if the run is to end.
        """
        self.n_in_a_row += 1
        values = {name: float(value) for name, value in losses.items()}
        examples = [{"batch": n, **example} for n in batches for example in data.examples_of_batch(n)]
        file = self.run_dir / "nonfinite" / f"step_{step}_device_{rank}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"step": step, "losses": {k: str(v) for k, v in values.items()}, "examples": examples}, indent=1) + "\n")
        shown = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        if self.choice == "stop":
            raise ValueError(
                f"step {step}: the gradient is not finite (sums of losses: {shown}); its examples are listed in {file}. Weights are as they were before it. Look at "
                "the examples, lower optimizer.lr, or go on past it with resume=true nonfinite=skip"
            )
        if self.n_in_a_row >= MOST_IN_A_ROW:
            raise ValueError(
                f"step {step}: the gradients of {MOST_IN_A_ROW} steps in a row are not finite ({shown}); their examples are listed in {file.parent}. Lower "
                "optimizer.lr, or begin anew"
            )
