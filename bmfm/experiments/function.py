"""Function, which is asked for after everything else: do scores of variants follow effects that were measured?"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from bmfm.experiments.runs import Experiment, Job

COLUMNS = ("chrom", "pos", "ref", "alt", "effect")


def read_effects(path: str | Path) -> pd.DataFrame:
    """A table of variants with ``chrom``, ``pos`` (1-based), ``ref``, ``alt``, ``effect`` and maybe ``element``; else each contig is an element.

    Raises
    ------
    ValueError
        If a column is missing, or an effect is no number.
    """
    from bmfm.data.tables import read_table

    table = read_table(path, text=["chrom", "ref", "alt"])
    if absent := [name for name in COLUMNS if name not in table]:
        raise ValueError(
            f"{path}: there is no column {', '.join(absent)}; effects are a table with {', '.join(COLUMNS)}, and maybe element"
        )
    table["effect"] = pd.to_numeric(table["effect"], errors="coerce")
    if (bad := table["effect"].isna()).any():
        raise ValueError(f"{path}: row {int(bad.to_numpy().argmax()) + 1} has no number as its effect; leave such rows out")
    return table if "element" in table else table.assign(element=table["chrom"])


def correlations(predictor: Any, effects: pd.DataFrame, fasta: Any, absolute: bool = False, batch_size: int = 64) -> dict[str, float]:
    """Spearman correlation of log p(ALT) - log p(REF) with the effect, {element: correlation}; of elements with ten scored variants.

    Parameters
    ----------
    absolute
        Compare sizes without their signs: where a change in either direction is an effect.
    """
    from bmfm.variants.scoring import score_variants

    scores = score_variants(
        predictor, effects[list(COLUMNS[:4])], fasta, scores=["llr"], background=None, batch_size=batch_size, progress=False
    )
    of_element = pd.DataFrame({"llr": scores["llr"].to_numpy(), "effect": effects["effect"].to_numpy()})
    of_element = (of_element.abs() if absolute else of_element).assign(element=effects["element"].to_numpy()).dropna()
    return {
        str(name): float(rows["llr"].corr(rows["effect"], method="spearman"))
        for name, rows in of_element.groupby("element")
        if len(rows) >= 10
    }


def of_runs(experiment: Experiment, jobs: Mapping[Job, Any], ask: bool = True) -> dict[Job, dict[str, float]]:
    """`correlations` of the models of finished runs, each asked once and kept as ``function/RUN.json``; nothing where no effects are named.

    Parameters
    ----------
    ask
        Whether models that were not asked are asked now.

    Raises
    ------
    ValueError
        If models were not kept, or were asked about other effects.
    """
    from bmfm.genome.reference import Reference
    from bmfm.inference.loading import load

    settings = experiment.settings["function"]
    if settings["effects"] is None:
        return {}
    if settings["fasta"] is None:
        raise ValueError("function.fasta: name the sequences that the effects were measured on")
    identity = [[Path(settings[name]).name, Path(settings[name]).stat().st_size] for name in ("effects", "fasta")] + [settings["absolute"]]
    effects, reference = read_effects(settings["effects"]), Reference.from_fasta(settings["fasta"])
    answers = {}
    for job in jobs:
        file, model = experiment.folder / "function" / f"{job}.json", experiment.folder / "models" / str(job)
        if not file.is_file():
            if not ask:
                continue
            if not model.is_dir():
                raise ValueError(f"{model}: the model of this run was not kept (keep_models), so that it cannot be asked about function")
            record = {
                "identity": identity,
                "correlations": correlations(load(model), effects, reference, settings["absolute"], experiment.settings["batch_size"]),
            }
            file.parent.mkdir(parents=True, exist_ok=True)
            partial = file.with_suffix(".part")
            partial.write_text(json.dumps(record))
            partial.replace(file)
        record = json.loads(file.read_text())
        if record["identity"] != identity:
            raise ValueError(f"{file} is about other effects: remove it, or choose another folder by output=...")
        answers[job] = record["correlations"]
    return answers
