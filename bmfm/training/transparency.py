"""What a model card has to say so that others can judge a model: a table of items, some of which only a person knows."""

import os
import platform
import re
from collections.abc import Mapping
from typing import Any

ITEMS = ("data", "splits", "licence", "hardware", "hours", "energy", "evaluation", "limits", "out of scope")
"""Rows of the table, in this order."""
UNSTATED = "not stated"
"""What stands where nobody has said anything yet."""

ABOUT = {
    "rna": (
        "Cells of other species, tissues and assays than those under Data were not seen.",
        "Diagnosis, treatment, and any other decision about a person.",
    ),
    "dna": (
        "Genomes, regions and lengths other than those under Data were not seen.",
        "Diagnosis, interpretation of a patient's variants, and any other decision about a person.",
    ),
}
"""{omics: (limits, out-of-scope use)} of every model, to which a card adds its own."""


def table(omics: str, settings: Mapping[str, Any], seconds: float | None) -> str:
    """The section of a model card, with what a run knows of itself.

    Parameters
    ----------
    omics
        ``dna`` or ``rna``.
    settings
        The composed recipe.
    seconds
        That training took on this machine; None where it is unknown.
    """
    limits, out_of_scope = ABOUT[omics]
    split = (settings.get("data") or {}).get("split") or {}
    values = {
        "data": "see Data",
        "splits": ", ".join(f"{name} {value}" for name, value in split.items() if value is not None and not name.startswith("_"))
        or UNSTATED,
        "licence": f"{UNSTATED}; weights follow the terms of the data",
        "hardware": f"{os.cpu_count()} cores, {platform.machine()}{_gpus()}",
        "hours": UNSTATED if seconds is None else f"{seconds / 3600:.2f}",
        "energy": f"{UNSTATED}; hours x the power of the machine",
        "evaluation": "see Held-out metrics; baselines stand beside",
        "limits": limits,
        "out of scope": out_of_scope,
    }
    rows = "".join(f"| {item} | {values[item]} |\n" for item in ITEMS)
    return f"## Transparency\n\n| item | |\n|---|---|\n{rows}"


def unstated(card: str) -> list[str]:
    """Items that a model card lacks, or of which it says that nobody has stated them."""
    rows = dict(re.findall(r"^\| ([\w ]+) \| (.*) \|$", card.partition("## Transparency")[2], re.M))
    return [item for item in ITEMS if not rows.get(item, "").strip() or rows[item].startswith(UNSTATED)]


def _gpus() -> str:
    import torch

    return f", {torch.cuda.device_count()} x {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
