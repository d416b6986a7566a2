"""Explanations of models of DNA by one call: what each base of sequences or regions contributes, by the method that is chosen.

============ =========================================================================================================================
mlm          Log-probabilities of the four bases where each is hidden, less their mean. Needs no label; masked models of single bases.
ism          In-silico mutagenesis: what a target gains or loses by every substitution. Any model with a label head; 3 passes a base.
ig           Integrated gradients of a target; fast, but a linear account of what is not linear. Any model with a label head.
grad_x_input The same with one gradient, at the sequence itself.
============ =========================================================================================================================

Dependency maps, which are of pairs of bases, are a call of their own, `dna_dependency.dependency_map`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bmfm.inference.outputs import Outputs
from bmfm.inference.predictor import Predictor
from bmfm.inference.run_parts import Part, check_finite, join, run_parts, work_on
from bmfm.interpret.dna_attributions import PathOptions, base_attributions, explained_columns
from bmfm.interpret.dna_likelihood import information, information_logo, probabilities
from bmfm.interpret.dna_sequences import read_sequences
from bmfm.interpret.targets import Target, read_target
from bmfm.variants.contributions import PICTURES, Contributions, draw_logos
from bmfm.variants.mutagenesis import Mutagenesis, score_substitutions
from bmfm.variants.sequence_sets import Sequences, SequenceSet

METHODS = ("mlm", "ism", "ig", "grad_x_input")
RUNNING = ("strands", "batch_size", "precision", "progress")
SEQUENCES = 8
"""Of a part, at least."""


@dataclass
class DnaExplanation:
    """Contributions of bases, and what belongs to the method.

    Attributes
    ----------
    contributions
        Those that are written as files.
    method
        See the module's text.
    values
        Of ``mlm`` and ``ism``, the score of every substitution, [n, 4, L], NaN where there is N; else None.
    arrays
        More for ``.npz``: of ``mlm`` ``probabilities`` [n, 4, L] and ``information`` in bits [n, L].
    logos
        Logos beside that of the contributions: words, and heights [n, 4, L].
    report
        One row a sequence: its name and, with a target, what was explained; of gradients, how well contributions add up.
    """

    contributions: Contributions
    method: str
    values: np.ndarray | None = None
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    logos: list[tuple[str, np.ndarray]] = field(default_factory=list)
    report: pd.DataFrame = field(default_factory=pd.DataFrame)

    def save(self, path: str | Path) -> None:
        """Write what the end of the name says, see `Contributions.save`; pictures show every logo and the scores of substitutions."""
        file, of = Path(path), self.contributions
        if file.suffix == ".npz":
            of.save(file, **self.arrays, **({} if self.values is None else {"substitutions": self.values}))
        elif file.suffix in PICTURES:
            logos = [(words, heights[0]) for words, heights in [*self.logos, (of.words, of.projected())]]
            draw_logos(file, of.sequences, logos, None if self.values is None else (of.score, self.values[0]))
        else:
            of.save(file)


def explain_sequences(
    predictor: Predictor,
    sequences: Sequences | None = None,
    *,
    method: str = "mlm",
    target: str | None = None,
    contrast: str = "mean",
    fasta: Any = None,
    regions: Sequence[str] | str | Path | None = None,
    length: int | None = None,
    context: int = 0,
    **options: Any,
) -> Any:
    """What each base contributes.

    Parameters
    ----------
    sequences, fasta, regions, length, context
        See `variants.sequence_sets.read_sequence_set`; longer ones than the model was trained on are warned of.
    method
        See the module's text.
    target, contrast
        See `targets.read_target`; ``mlm`` has none.
    options
        ``strands`` (see `sequence_sets.strands_to_read`), ``batch_size``, ``precision``, ``progress``; of gradients all of `dna_attributions.PathOptions`; and
        ``ledger``, which keeps finished parts for the next run with the same options and for others that share the work; a worker returns nothing.

    Returns
    -------
    DnaExplanation

    Raises
    ------
    ValueError
        If the method is unknown, needs a target or has none, or the model cannot be asked so.
    """
    if method not in METHODS:
        raise ValueError(f"method={method!r} is unknown; models of DNA are explained by {', '.join(METHODS)}, and dependency maps")
    if (method == "mlm") != (target is None):
        raise ValueError("method=mlm asks the language model, and takes no target" if target else f"method={method}: give target=head:NAME")
    names = RUNNING if method in ("mlm", "ism") else [f.name for f in fields(PathOptions) if f.name != "method"]
    if unknown := sorted(options.keys() - {*names, "ledger"}):
        raise ValueError(f"{', '.join(unknown)}: method={method} has no such option; there are {', '.join(names)}, ledger")
    of = read_sequences(predictor, sequences, fasta=fasta, regions=regions, length=length, context=context)
    explained = None if target is None else read_target(predictor, target, contrast)
    ledger, progress = options.pop("ledger", None), options.pop("progress", None)
    size = SEQUENCES if method in ("mlm", "ism") else max(SEQUENCES, options.get("batch_size", PathOptions.batch_size))

    def parts() -> Iterator[Part]:
        for number, first in enumerate(range(0, len(of), size)):
            some = of.take(np.arange(first, min(first + size, len(of))))
            yield Part(number, len(some), partial(_explain_some, predictor, some, method, explained, options))

    if ledger is not None and ledger.is_worker:
        return work_on(parts(), ledger)
    found = join(run_parts(parts(), ledger, len(of), "sequence", progress))
    return _assembled(of, method, explained, found)


def _explain_some(
    predictor: Predictor, of: SequenceSet, method: str, target: Target | None, options: dict[str, Any]
) -> dict[str, np.ndarray]:
    """What is found of some sequences [m]: ``hypothetical`` [m, 4, L], or ``values`` [m, 4, L], scores of their substitutions; and columns of the report."""
    options = options | {"progress": False}
    if target is None:
        return {"values": score_substitutions(predictor, of, None, **options)}
    if method == "ism":
        return _by_mutagenesis(predictor, of, target, options)
    found = base_attributions(predictor, of, target=target, method=method, **options)
    columns = {f"report_{name}": found.report[name].to_numpy() for name in found.report if name not in ("name", "target")}
    chosen = np.array([target.classes.index(name) for name in found.report["target"]])
    is_base = np.full(len(of), found.contributions.resolution == "base")
    return {"hypothetical": found.contributions.hypothetical, "column": chosen, "is_base": is_base} | columns


def _by_mutagenesis(predictor: Predictor, of: SequenceSet, target: Target, options: dict[str, Any]) -> dict[str, np.ndarray]:
    running = {name: options[name] for name in ("batch_size", "precision") if name in options}
    columns = explained_columns(predictor, target, of, options.get("strands", "auto"), **running)
    values = np.empty((len(of), 4, of.length), np.float32)
    for column in np.unique(columns):
        rows = np.flatnonzero(columns == column)

        def number(outputs: Outputs, column: int = int(column)) -> Any:
            return target.values(outputs)[:, column]

        values[rows] = score_substitutions(predictor, of.take(rows), number, **options)
    return {"values": values, "column": columns}


def _assembled(of: SequenceSet, method: str, target: Target | None, found: dict[str, np.ndarray]) -> DnaExplanation:
    numbers = found["hypothetical"] if "hypothetical" in found else np.where(of.bases[:, None] >= 0, found["values"], 0)
    check_finite(numbers, "contributions of sequences", of.names)
    report = pd.DataFrame({"name": of.names})
    if target is not None:
        report["target"] = [target.classes[c] for c in found["column"]]
    for name, values in found.items():
        if name.startswith("report_"):
            report[name.removeprefix("report_")] = values
    if "hypothetical" in found:
        assert target is not None
        resolution = "base" if found["is_base"].all() else "token"
        return DnaExplanation(Contributions(found["hypothetical"], of, target.name, resolution), method, report=report)
    values = found["values"]
    if target is not None:
        contributions = Mutagenesis(values, of, target.name).contributions("centered")
        return DnaExplanation(contributions, method, values, report=report)
    scores = Mutagenesis(values, of, "llr")
    probs = probabilities(scores)
    arrays = {"probabilities": probs.astype(np.float32), "information": information(probs).astype(np.float32)}
    contributions = replace(scores.contributions("centered"), score="log-probability")
    return DnaExplanation(contributions, method, values, arrays, [("information (bits)", information_logo(scores))], report)
