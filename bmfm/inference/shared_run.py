"""How a command computes in parts that are kept beside its output, alone or with workers, and writes what they come to."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bmfm.inference.predictor import Predictor
from bmfm.inference.work_plan import work_plan
from bmfm.launch import share
from bmfm.ledger import Ledger


@dataclass(frozen=True)
class SharedRun:
    """A command that runs.

    Attributes
    ----------
    config
        Its composed configuration.
    run
        What workers call with that and a ledger.
    ledger
        Of a worker, which adds to it and writes nothing else; None otherwise.
    """

    config: Any
    predictor: Predictor
    run: Callable[[Any, Ledger], None]
    ledger: Ledger | None = None

    def __call__(
        self, output: Path, read_from: Sequence[str | Path], compute: Callable[[Ledger], Any], write: Callable[[Any], None]
    ) -> None:
        """Compute with a ledger that lies beside an output and depends on the files that are read, and write the result; a worker does its share."""
        if self.ledger is not None:
            compute(self.ledger)
            return
        ledger = Ledger.of_plan(output, work_plan(self.config, self.predictor, read_from))
        share(self.config, self.run, ledger)
        with ledger.finishing() as is_ours:
            if is_ours:
                write(compute(ledger))

    def check_alone(self) -> None:
        """End where workers are asked for, of what has no parts."""
        if self.config.launcher is not None:
            raise SystemExit(f"bmfm: launcher: method={self.config.method} is computed by one process; leave it out")
