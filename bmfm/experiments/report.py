"""The report of the experiment: figures as JSON, tables in Markdown, a picture, and what is shown and what is not in words."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bmfm.evaluation.report.tables import Rows, markdown_table
from bmfm.experiments.endpoints import FUNCTION, LARGEST_HARM, WORDS, Results
from bmfm.experiments.runs import REFERENCE, Experiment


def summarise(experiment: Experiment, results: Results, n_missing: int) -> dict[str, Any]:
    """Everything that can be said of the finished runs."""
    arms = results.arms()
    pairs = [(arm, REFERENCE) for arm in arms if arm != REFERENCE]
    pairs += [
        (arm, control) for arm, controls in experiment.settings["controls"].items() for control in controls if {arm, control} <= {*arms}
    ]
    contrasts = [results.contrast(arm, other) for arm, other in pairs if results.shared(arm, other)]
    summary = {
        "endpoints": {name: WORDS[name] for name in results.endpoints},
        "finished": {arm: len(results.shared(arm)) for arm in arms},
        "missing": n_missing,
        "power": results.power(experiment.n_test_blocks),
        "titles": {arm: experiment.arms[arm].title for arm in arms},
        "levels": {arm: {name: results.level(arm, name) for name in results.endpoints} for arm in arms},
        "baseline": results.baseline(),
        "contrasts": contrasts,
    }
    return summary | {"conclusion": conclusion(summary)}


def conclusion(summary: Mapping[str, Any]) -> str:
    """What is shown and what is not, by the rule that was set before: E1 of an arm above that of the reference and above that of each of its
    controls, with both intervals, that over blocks and that over runs, above 0."""
    contrasts = {(c["arm"], c["other"]): c for c in summary["contrasts"]}
    sentences = []
    for arm, title in summary["titles"].items():
        if (arm, REFERENCE) not in contrasts or arm not in {a for a, other in contrasts if other != REFERENCE}:
            continue
        against = [contrasts[arm, REFERENCE], *(c for (a, other), c in contrasts.items() if a == arm and other != REFERENCE)]
        figures = "; ".join(
            f"over {c['other']} {_signed(c['E1'])} nats ({c['E1'].get('blocks', 0)} blocks, {_seeds(c['E1 by seed'])})" for c in against
        )
        if all(c["E1"]["low"] > 0 and c["E1 over runs"]["low"] > 0 for c in against):
            verdict = (
                "shown on these blocks: alleles of variants that it has not seen are likelier to it, by more than its controls explain"
            )
        elif all(c["E1"]["high"] < 0 and c["E1 over runs"]["high"] < 0 for c in against):
            verdict = "not shown, and the opposite is: alleles of variants that it has not seen are less likely to it"
        else:
            smallest = max(c["E1"].get("detectable", math.nan) for c in against)
            verdict = f"not shown; a difference of {smallest:.4f} nats would have been seen in four of five such experiments"
        sentences.append(f"{arm} ({title}): {figures}. That it learns variation is {verdict}.")
    if not sentences:
        sentences.append("No arm has been compared with both the reference and a control, so that nothing is shown.")
    if summary["missing"]:
        sentences.append(f"{summary['missing']} runs are not finished, so that all this is preliminary.")
    if FUNCTION in summary["endpoints"]:
        figures = "; ".join(f"{c['arm']} - {c['other']} {_signed(c[FUNCTION])}" for c in summary["contrasts"] if c["other"] == REFERENCE)
        sentences.append(f"Function, the correlation with measured effects: {figures}.")
    else:
        sentences.append("Function was not measured: nothing here is evidence that a model says more of what variants do.")
    sentences.append("None of it is evidence for other loci, larger models or more data than these.")
    return " ".join(sentences)


def _seeds(by_seed: Mapping[Any, float]) -> str:
    above = sum(value > 0 for value in by_seed.values())
    return "one seed" if len(by_seed) == 1 else f"{above} of {len(by_seed)} seeds above 0"


def _signed(figure: Mapping[str, float], digits: int = 4) -> str:
    mean, low, high = (f"{figure[name]:+.{digits}f}" for name in ("mean", "low", "high"))
    return mean if math.isnan(figure["low"]) else f"{mean} [{low}, {high}]"


def _plain(figure: Mapping[str, float]) -> str:
    return f"{figure['mean']:.4f} [{figure['low']:.4f}, {figure['high']:.4f}]"


def tables(summary: Mapping[str, Any]) -> str:
    """The report in Markdown."""
    lines = ["# The experiment on SNP-aware training", "", summary["conclusion"], ""]
    power = summary["power"]
    if power["detectable"]:
        lines += [
            f"By {power['seeds']} seeds of {REFERENCE} on {power['blocks']} blocks alone: these differ so much by chance (standard deviation "
            f"{power['sd']:.4f}, {power['seeds']} seeds averaged) that on {power['planned_blocks']} blocks a difference of {power['detectable']:.4f} "
            "nats of E1 is seen in four of five experiments.",
            "",
        ]
    lines += [f"- {name}: {words}" for name, words in summary["endpoints"].items()]
    lines += ["", "Differences between arms (relative for E5), with 95% intervals of the paired block bootstrap; over runs, Student's:", ""]
    lines.append(_contrast_table(summary))
    lines += [
        "p-values of E1 (by sign flips over blocks), and of E2 to E5 after Holm; E5 does no harm where its interval is within 0.5%:",
        "",
    ]
    lines.append(_p_table(summary))
    lines += [
        "Levels of each arm; a table of mutation rates of pentanucleotides has the E2 in the last row, and chance has an E3 of 0.5:",
        "",
    ]
    rows = [
        [arm, str(summary["finished"][arm]), *(_plain(levels[e]) for e in summary["endpoints"])]
        for arm, levels in summary["levels"].items()
    ]
    rows.append(["mutation rates", "", "", _plain(summary["baseline"]), *[""] * (len(summary["endpoints"]) - 2)])
    lines.append(_markdown(["arm", "runs", *summary["endpoints"]], rows))
    lines += ["Differences of E1 by kind of variant:", ""]
    strata = list(summary["contrasts"][0]["strata of E1"]) if summary["contrasts"] else []
    rows = [[f"{c['arm']} - {c['other']}", *(_signed(c["strata of E1"][s]) for s in strata)] for c in summary["contrasts"]]
    lines.append(_markdown(["arms", *strata], rows))
    return "\n".join(lines)


def _contrast_table(summary: Mapping[str, Any]) -> str:
    endpoints = list(summary["endpoints"])
    rows = [
        [
            f"{c['arm']} - {c['other']}",
            f"{len(c['seeds'])} x {len(c['folds'])}",
            str(c["E1"]["blocks"]),
            _signed(c["E1 over runs"]),
            *(_signed(c[e]) for e in endpoints),
        ]
        for c in summary["contrasts"]
    ]
    return _markdown(["arms", "seeds x folds", "blocks", "E1 over runs", *endpoints], rows)


def _p_table(summary: Mapping[str, Any]) -> str:
    endpoints = list(summary["endpoints"])
    rows = []
    for c in summary["contrasts"]:
        harmless = "yes" if abs(c["E5"]["low"]) < LARGEST_HARM and abs(c["E5"]["high"]) < LARGEST_HARM else "no"
        p_values = [f"{c['E1']['p']:.4f}", *(f"{c[e]['p_holm']:.4f}" for e in endpoints if e != "E1")]
        rows.append([f"{c['arm']} - {c['other']}", *p_values, f"{c['E1'].get('detectable', math.nan):.4f}", harmless])
    return _markdown(["arms", *endpoints, "detectable E1", "no harm"], rows)


def _markdown(head: list[str], body: list[list[str]]) -> str:
    return markdown_table(Rows(head, body))


def plot(summary: Mapping[str, Any], target: Path) -> None:
    """Draw every difference with its interval, a panel an endpoint."""
    from matplotlib.figure import Figure

    contrasts, endpoints = summary["contrasts"][::-1], list(summary["endpoints"])
    figure = Figure(figsize=(14, 1.2 + 0.4 * len(contrasts)), layout="constrained")
    for axes, endpoint in zip(figure.subplots(1, len(endpoints), sharey=True), endpoints, strict=True):
        for y, contrast in enumerate(contrasts):
            f = contrast[endpoint]
            axes.plot([f["low"], f["high"]], [y, y], color="0.4")
            axes.plot(f["mean"], y, "o", color="C0" if contrast["other"] == REFERENCE else "C1")
        axes.axvline(0, color="0.7", lw=0.8)
        axes.set(title=endpoint, yticks=range(len(contrasts)), yticklabels=[f"{c['arm']} - {c['other']}" for c in contrasts])
        axes.tick_params(axis="x", labelrotation=45)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(target, dpi=120)


def write_report(experiment: Experiment, results: Results, n_missing: int) -> str:
    """Write ``report.json``, ``report.md`` and ``report.png``; returns the text."""
    summary, folder = summarise(experiment, results, n_missing), experiment.folder
    (folder / "report.json").write_text(json.dumps(summary, indent=1))
    text = tables(summary)
    (folder / "report.md").write_text(text)
    if summary["contrasts"]:
        plot(summary, folder / "report.png")
    return text
