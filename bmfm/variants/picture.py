"""Scores by allele frequency: a table on the screen and a picture, for files whose INFO states frequencies."""

from pathlib import Path

import numpy as np
import pandas as pd

from bmfm.genome.frequency import stated
from bmfm.variants.outputs import Output
from bmfm.variants.reading import Records

EDGES = (0.0, 1e-3, 1e-2, 5e-2, 0.2, 0.5, 1.0)
"""Of the bins of allele frequency; a bin holds its upper edge."""


def frequencies(records: Records) -> list[float]:
    """Of every ALT its frequency as INFO states it (AF, AC and AN, FREQ or CAF), NaN where it does not or cannot be read."""
    values: list[float] = []
    for number, alts in enumerate(records.alts):
        n = 0 if alts in (b".", b"") else alts.count(b",") + 1
        found = None
        if records.lines and n:
            fields = records.lines[number].split(b"\t", 8)[7].decode(errors="replace").split(";")
            try:
                found, _ = stated(dict(f.partition("=")[::2] for f in fields), n, "auto")
            except ValueError:
                found = None
        values += found or [np.nan] * n
    return values


def by_frequency(frequency: np.ndarray, llr: np.ndarray, kind: np.ndarray) -> pd.DataFrame:
    """Quartiles of the scores of SNVs in bins of frequency: ``frequency`` (as text), ``n``, ``lower``, ``median``, ``upper``."""
    known = ~np.isnan(frequency) & ~np.isnan(llr) & (kind == "SNV")
    bins = np.searchsorted(EDGES, frequency[known], "left")
    rows = []
    for number in range(1, len(EDGES)):
        of_bin = llr[known][bins == number]
        if len(of_bin):
            quartiles = np.quantile(of_bin, [0.25, 0.5, 0.75])
            rows.append((f"{EDGES[number - 1]:g} to {EDGES[number]:g}", len(of_bin), *quartiles))
    return pd.DataFrame(rows, columns=["frequency", "n", "lower", "median", "upper"])


class PictureOutput(Output):
    """A picture of the log-likelihood ratios of SNVs by the frequency of ALT."""

    endings = (".png", ".svg", ".pdf")

    def __init__(self, path: Path, model: str):
        super().__init__(path)
        self.model = model
        self.frequency: list[float] = []
        self.kept: list[pd.DataFrame] = []

    def write(self, records: Records, first: np.ndarray, table: pd.DataFrame) -> None:
        self.frequency += frequencies(records)
        self.kept.append(table[["llr", "kind"]])

    def close(self) -> None:
        table = pd.concat(self.kept, ignore_index=True)
        bins = by_frequency(np.array(self.frequency), table["llr"].to_numpy(), table["kind"].to_numpy())
        if not len(bins):
            print(f"no picture is written to {self.path}: no SNV that is scored has a frequency in INFO (AF, AC and AN, FREQ or CAF)")
            return
        print("log-likelihood ratio of SNVs by the frequency of ALT")
        print(bins.to_string(index=False, float_format=lambda v: f"{v:.2f}"))
        draw(bins, self.model, self.path)


def draw(bins: pd.DataFrame, model: str, path: Path) -> None:
    """Medians and quartiles by bin, with the numbers of alleles."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    at = np.arange(len(bins))
    spread = np.stack([bins["median"] - bins["lower"], bins["upper"] - bins["median"]])
    axes.errorbar(at, bins["median"], yerr=spread, fmt="o", color="#1f5a96", ecolor="#8fb3d9", elinewidth=3, capsize=0)
    axes.axhline(0, color="gray", linewidth=0.7)
    axes.set_xticks(at, [f"{f}\nn={n:,}" for f, n in zip(bins["frequency"], bins["n"], strict=True)], fontsize=8)
    axes.set_xlabel("frequency of ALT")
    axes.set_ylabel("log p(ALT) - log p(REF)")
    axes.set_title(f"SNVs scored by {model}: medians and quartiles", fontsize=10)
    figure.savefig(path, dpi=150)
    plt.close(figure)
