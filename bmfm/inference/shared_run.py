"""How a command computes in parts that are kept beside its output, alone or with workers, and writes what they come to."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bmfm.inference.predictor import Predictor
from bmfm.inference.work_plan import work_plan
from bmfm.launch import share
from bmfm.ledger import Ledger
from bmfm.places import Place, staged


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
    asked
        The configuration as it was given, in which inputs may be URLs; None is that of `config`.
    """

    config: Any
    predictor: Predictor
    run: Callable[[Any, Ledger], None]
    ledger: Ledger | None = None
    asked: Any = None

    def __call__(
        self,
        outputs: Sequence[Place],
        read_from: Sequence[str | Path],
        compute: Callable[[Ledger], Any],
        write: Callable[[Any, list[Path]], None],
    ) -> None:
        """Compute with a ledger that lies beside the first output and depends on the files that are read, and write the result; a worker does
        its share.

        Parameters
        ----------
        outputs
            All of them.
        write
            Called with what was computed, and the files to write in place of the outputs: the same, but for those in a store.
        """
        if self.ledger is not None:
            compute(self.ledger)
            return
        asked = self.config if self.asked is None else self.asked
        plan = work_plan(self.config, self.predictor, read_from, asked)
        if len(outputs) > 1:  # or of two commands that have the first one in common, the second would not write its others
            plan["outputs"] = [str(output) for output in outputs]
        ledger = Ledger.of_plan(outputs[0], plan)
        share(asked, self.run, ledger)
        with ledger.finishing() as is_ours:
            if is_ours:
                with staged(outputs) as files:
                    write(compute(ledger), files)

    def check_alone(self) -> None:
        """End where workers are asked for, of what has no parts."""
        if self.config.launcher is not None:
            raise SystemExit(f"bmfm: launcher: method={self.config.method} is computed by one process; leave it out")
