"""Ask whether SNP-aware training teaches variation: ``python -m bmfm.experiments.snp_aware output=FOLDER``.

Arms that differ in nothing but the letters of known variants are trained on blocks of a genome and compared on other blocks. A run that is
finished is not repeated, so that the command goes on where it was stopped; ``report_only=true`` prints what is there.
"""

import sys
import time
from typing import Any

from bmfm.cli import main


def run(config: Any) -> None:
    """Carry out what is not finished, and write the report; see `docs/snp_aware.md`."""
    from bmfm.experiments.function import of_runs
    from bmfm.experiments.report import write_report
    from bmfm.experiments.runs import Experiment

    experiment = Experiment.of(config)
    experiment.folder.mkdir(parents=True, exist_ok=True)
    jobs = list(experiment.jobs())
    finished = {job: record for job in jobs if (record := experiment.finished(job))}
    if not experiment.settings["report_only"]:
        _carry_out(experiment, jobs, finished)
    function = of_runs(experiment, finished, ask=not experiment.settings["report_only"])
    results = results_of(experiment, finished, function)
    print(write_report(experiment, results, len(jobs) - len(finished)))
    print(f"written to {experiment.folder / 'report.md'}, report.json and report.png")


def _carry_out(experiment: Any, jobs: list[Any], finished: dict[Any, Any]) -> None:
    """Every job that is not finished; before the first that is not of the reference, what its runs can detect."""
    import json

    from bmfm.experiments.runs import REFERENCE

    start_time, todo, told = time.time(), [job for job in jobs if job not in finished], False
    for number, job in enumerate(todo):
        if job.arm != REFERENCE and not told:
            told, power = (
                True,
                results_of(experiment, {j: r for j, r in finished.items() if j.arm == REFERENCE}).power(experiment.n_test_blocks),
            )
            (experiment.folder / "power.json").write_text(json.dumps(power, indent=1))
            print(f"before other arms are run, by the runs of {REFERENCE}: {power}", file=sys.stderr, flush=True)
        finished[job] = experiment.carry_out(job)
        left = (time.time() - start_time) / (number + 1) * (len(todo) - number - 1)
        print(f"{number + 1} of {len(todo)}: {job}; about {left / 60:.0f} minutes left", file=sys.stderr, flush=True)


def results_of(experiment: Any, records: dict[Any, Any], function: Any = None) -> Any:
    """Records, and what `function.of_runs` says of their models, as `endpoints.Results`.

    Raises
    ------
    ValueError
        If there are none of the reference.
    """
    from bmfm.experiments.endpoints import Answers, Results
    from bmfm.experiments.runs import REFERENCE

    if not any(job.arm == REFERENCE for job in records):
        raise ValueError(f"{experiment.folder}: no run of {REFERENCE} is finished, so that there is nothing to compare")
    loci = {fold: experiment.loci(fold) for fold in sorted({job.fold for job in records})}
    runs = {job: Answers.of(loci[job.fold], record) for job, record in records.items()}
    return Results(runs, experiment.folds.fold, experiment.settings["n_draws"], function or {})


if __name__ == "__main__":
    main(run, "snp_aware")
