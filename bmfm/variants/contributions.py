"""Contributions of bases to a score, and the files that others read: TF-MoDISco, genome browsers, logos."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bmfm.variants.sequence_sets import LETTERS, SequenceSet

PICTURES = (".png", ".svg", ".pdf")


@dataclass
class Contributions:
    """What each base contributes to a score, and what each other base in its place would.

    Attributes
    ----------
    hypothetical : float32 [n, 4, L]
        Channels are A, C, G, T; 0 where there is N. The contribution of a base is the entry of its own channel.
    sequences
        Whose they are.
    score
        What they are contributions to, and its unit.
    resolution
        ``base``; ``token`` where the bases of a token share what it contributes equally, and only their own channel is known.
    """

    hypothetical: np.ndarray
    sequences: SequenceSet
    score: str
    resolution: str = "base"

    def attribution(self) -> np.ndarray:
        """How much each base that is there contributes [n, L], 0 for N."""
        return (self.hypothetical * self.sequences.one_hot()).sum(1)

    def projected(self) -> np.ndarray:
        """The same in the channel of the base [n, 4, L]: heights of a logo."""
        return self.hypothetical * self.sequences.one_hot()

    @property
    def words(self) -> str:
        """What a drawing calls them."""
        return f"contribution\n({self.score})"

    def frame(self) -> pd.DataFrame:
        """One row a base: ``name, position`` (0-based in the sequence; of regions ``chrom, pos``, 1-based), ``base, contribution`` and, in the
        columns ``A, C, G, T``, hypothetical contributions."""
        n, length = self.hypothetical.shape[0], self.sequences.length
        row, at = np.repeat(np.arange(n), length), np.tile(np.arange(length), n)
        table = pd.DataFrame({"name": np.array(self.sequences.names, object)[row], "position": at})
        if self.sequences.chrom is not None and self.sequences.start is not None:
            table["chrom"], table["pos"] = np.array(self.sequences.chrom, object)[row], self.sequences.start[row] + at + 1
        table["base"] = np.array(list(LETTERS + "N"), object)[self.sequences.bases.reshape(-1)]
        table["contribution"] = self.attribution().reshape(-1)
        return table.join(pd.DataFrame(self.hypothetical.transpose(0, 2, 1).reshape(-1, 4), columns=list(LETTERS)))

    def save(self, path: str | Path, **arrays: np.ndarray) -> None:
        """Write what the end of the name says.

        ``.npz``: ``one_hot``, ``hypothetical`` and ``attributions``, [n, 4, L] each, ``names``, and `arrays`; ``.parquet``, ``.csv``, ``.tsv``: `frame`; ``.bw``: contributions of regions
        as bigWig (needs pyBigWig); ``.png``, ``.svg``, ``.pdf``: a logo of the first sequence (needs logomaker).
        """
        file = Path(path)
        if file.suffix == ".npz":
            own: dict[str, Any] = {"one_hot": self.sequences.one_hot(), "hypothetical": self.hypothetical, "attributions": self.projected()}
            np.savez_compressed(file, **own | arrays, names=np.array(self.sequences.names))
        elif file.suffix in (".bw", ".bigwig"):
            write_bigwig(file, self.sequences, self.attribution())
        elif file.suffix in PICTURES:
            draw_logos(file, self.sequences, [(self.words, self.projected()[0])])
        else:
            write_table(self.frame(), file)

    def save_modisco(self, prefix: str | Path) -> list[Path]:
        """Write ``PREFIX.ohe.npz`` and ``PREFIX.hyp.npz``, [n, 4, L], as ``modisco motifs -s PREFIX.ohe.npz -a PREFIX.hyp.npz -w L`` takes them.

        Without ``-w``, modisco looks at the middle 400 bases alone. Of regions, ``PREFIX.regions.bed`` says where the rows lie, in the same order.
        """
        if self.resolution == "token":
            raise ValueError(
                f"{prefix}: TF-MoDISco needs what other bases would contribute, and tokens of this model are longer than a base: use method=ism"
            )
        Path(prefix).parent.mkdir(parents=True, exist_ok=True)
        files = [Path(f"{prefix}.{end}") for end in ("ohe.npz", "hyp.npz", "regions.bed")]
        np.savez_compressed(files[0], self.sequences.one_hot())
        np.savez_compressed(files[1], self.hypothetical.astype(np.float32))
        if self.sequences.chrom is None or self.sequences.start is None:
            return files[:2]
        rows = zip(self.sequences.chrom, self.sequences.start, self.sequences.names, strict=True)
        files[2].write_text("".join(f"{chrom}\t{start}\t{start + self.sequences.length}\t{name}\n" for chrom, start, name in rows))
        return files


def write_table(table: pd.DataFrame, file: Path) -> None:
    """A table as ``.parquet``, ``.csv`` or ``.tsv``, by the end of its name."""
    if file.suffix == ".parquet":
        table.to_parquet(file, index=False)
    elif file.suffix in (".csv", ".tsv"):
        table.to_csv(file, index=False, sep="," if file.suffix == ".csv" else "\t")
    else:
        raise ValueError(f"{file}: it must end in .npz, .parquet, .csv, .tsv, .bw, {', '.join(PICTURES)}")


def write_bigwig(file: Path, sequences: SequenceSet, values: np.ndarray) -> None:
    """Numbers of bases [n, L] as bigWig; where regions overlap, their mean."""
    chrom, start = sequences.places(file)
    try:
        import pyBigWig
    except ImportError:
        raise ImportError(f"{file}: bigWig is written by pyBigWig: pip install pyBigWig; or save .parquet") from None
    of_contig = {name: [i for i, c in enumerate(chrom) if c == name] for name in sequences.contigs if name in set(chrom)}
    with pyBigWig.open(str(file), "w") as out:
        out.addHeader([(name, sequences.contigs[name]) for name in of_contig])
        for name, rows in of_contig.items():
            at = (start[rows][:, None] + np.arange(sequences.length)).reshape(-1)
            places, number = np.unique(at, return_inverse=True)
            means = np.bincount(number, values[rows].reshape(-1).astype(float)) / np.bincount(number)
            cuts = np.flatnonzero(np.diff(places) > 1) + 1
            for run, of_run in zip(np.split(places, cuts), np.split(means, cuts), strict=True):
                out.addEntries(name, int(run[0]), values=of_run.tolist(), span=1, step=1)


def draw_logos(
    path: str | Path,
    sequences: SequenceSet,
    logos: Sequence[tuple[str, np.ndarray]],
    heat_map: tuple[str, np.ndarray] | None = None,
    number: int = 0,
) -> None:
    """Draw logos (by logomaker) of one sequence one above the other and, below them, a heat map of four channels.

    Parameters
    ----------
    logos
        Words and heights of letters [4, L].
    heat_map
        Words and values [4, L]; dots mark the bases that are there.
    number
        Of the sequence.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    try:
        import logomaker
    except ImportError:
        raise ImportError(f"{path}: logos are drawn by logomaker: pip install 'bmfm[interpret]'") from None
    n_panels = len(logos) + (heat_map is not None)
    figure, axes = plt.subplots(
        n_panels, 1, figsize=(max(6, sequences.length / 8), 1 + 1.5 * n_panels), sharex=True, squeeze=False, layout="constrained"
    )
    for axis, (words, heights) in zip(axes[:, 0], logos, strict=False):
        logomaker.Logo(pd.DataFrame(heights.T, columns=list(LETTERS)), ax=axis, flip_below=True)
        axis.axhline(0, color="black", linewidth=0.5)
        axis.set_ylabel(words)
    below, label = axes[-1, 0], f"base of {sequences.names[number]}, from 0"
    if heat_map is not None:
        words, values = heat_map
        limit = float(np.nanmax(np.abs(values))) or 1.0
        image = below.imshow(values, aspect="auto", cmap="RdBu", vmin=-limit, vmax=limit, interpolation="nearest")
        known = np.flatnonzero(sequences.bases[number] >= 0)
        below.scatter(known, sequences.bases[number][known], s=4, color="black", linewidths=0)
        below.set_yticks(range(4), list(LETTERS))
        label += "; dots: the base that is there"
        figure.colorbar(image, ax=below, label=words, aspect=8)
    below.set_xlabel(label)
    figure.savefig(path, dpi=150)
    plt.close(figure)
