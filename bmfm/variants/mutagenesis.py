"""In-silico mutagenesis: what every substitution of a sequence would score."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bmfm.genome.alphabet import COMPLEMENT, encode
from bmfm.genome.reference import Reference
from bmfm.genome.representation import Encoded
from bmfm.inference.predictor import Predictor
from bmfm.special import MASK
from bmfm.tokenizers.base import Tokens
from bmfm.variants.questions import Questions, ask, batches_of
from bmfm.variants.rules import Vocabulary

LETTERS = "ACGT"
_COLUMN = np.array([0, 2, 3, 1, -1])  # of the codes A, G, T, C, N
PROJECTIONS = ("mean", "centered")


@dataclass
class Mutagenesis:
    """Scores of all substitutions of n sequences of L bases; channels are A, C, G, T.

    Attributes
    ----------
    values : float32 [n, 4, L]
        Score of the mutant less that of the sequence; 0 for the base that is there, NaN where that is N.
    bases : int8 [n, L]
        Channel of the base that is there; -1 for N.
    names
        Of the sequences.
    chrom, start
        Where each begins (0-based), of regions of a genome; else None.
    contigs
        {name: length} of that genome.
    score
        What was scored: ``llr``, or a head.
    """

    values: np.ndarray
    bases: np.ndarray
    names: list[str]
    score: str
    chrom: list[str] | None = None
    start: np.ndarray | None = None
    contigs: dict[str, int] = field(default_factory=dict)

    def attribution(self, projection: str = "mean") -> np.ndarray:
        """How much each base that is there matters [n, L], 0 for N.

        Parameters
        ----------
        projection
            ``mean``: minus the mean over the three alternatives. ``centered``: the base's own score less the mean over all four, which is three
            quarters of it.
        """
        if projection not in PROJECTIONS:
            raise ValueError(f"projection={projection!r} is unknown; choose from {', '.join(PROJECTIONS)}")
        sums = np.nan_to_num(self.values).sum(1)
        return -sums / (3 if projection == "mean" else 4)

    def one_hot(self) -> np.ndarray:
        """The sequences [n, 4, L], float32."""
        return (self.bases[:, None] == np.arange(4)[None, :, None]).astype(np.float32)

    def frame(self) -> pd.DataFrame:
        """One row a substitution: ``name, position`` (0-based in the sequence; of regions ``chrom, pos``, 1-based), ``ref, alt, score``."""
        n, channel, at = np.nonzero((np.arange(4)[None, :, None] != self.bases[:, None]) & (self.bases[:, None] >= 0))
        order = np.lexsort((channel, at, n))
        n, channel, at = n[order], channel[order], at[order]
        table = pd.DataFrame({"name": np.array(self.names, object)[n], "position": at})
        if self.chrom is not None and self.start is not None:
            table["chrom"], table["pos"] = np.array(self.chrom, object)[n], self.start[n] + at + 1
        letters = np.array(list(LETTERS), object)
        table["ref"], table["alt"], table["score"] = letters[self.bases[n, at]], letters[channel], self.values[n, channel, at]
        return table

    def logo_frame(self, number: int = 0, projection: str = "mean") -> pd.DataFrame:
        """Letter heights of one sequence, as logomaker takes them: rows are positions, columns A, C, G, T."""
        return pd.DataFrame((self.one_hot() * self.attribution(projection)[:, None])[number].T, columns=list(LETTERS))

    def save(self, path: str | Path, projection: str = "mean") -> None:
        """Write what the end of the name says.

        ``.npz``: ``one_hot``, ``attributions`` and ``values``, [n, 4, L] each (for TF-MoDISco see `save_modisco`); ``.parquet``, ``.csv``, ``.tsv``: `frame`; ``.bw``: attributions of regions as bigWig (needs pyBigWig).
        """
        file = Path(path)
        if file.suffix == ".npz":
            np.savez_compressed(
                file, one_hot=self.one_hot(), attributions=self.one_hot() * self.attribution(projection)[:, None], values=self.values
            )
        elif file.suffix == ".parquet":
            self.frame().to_parquet(file)
        elif file.suffix in (".csv", ".tsv"):
            self.frame().to_csv(file, index=False, sep="," if file.suffix == ".csv" else "\t")
        elif file.suffix in (".bw", ".bigwig"):
            self._save_bigwig(file, projection)
        else:
            raise ValueError(f"{file}: it must end in .npz, .parquet, .csv, .tsv or .bw")

    def save_modisco(self, folder: str | Path, projection: str = "mean") -> None:
        """Write ``sequences.npz`` and ``attributions.npz``, as ``modisco motifs -s sequences.npz -a attributions.npz`` takes them."""
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        np.savez(target / "sequences.npz", self.one_hot())
        np.savez(target / "attributions.npz", self.one_hot() * self.attribution(projection)[:, None])

    def plot(self, path: str | Path, number: int = 0, projection: str = "mean") -> None:
        """Draw one sequence: a logo of its attributions (by logomaker) above a heat map of all substitutions."""
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt

        try:
            import logomaker
        except ImportError:
            raise ImportError(f"{path}: logos are drawn by logomaker: pip install 'bmfm[interpret]'") from None
        n = self.values.shape[2]
        figure, (above, below) = plt.subplots(2, 1, figsize=(max(6, n / 8), 4), sharex=True, height_ratios=[2, 1.2], layout="constrained")
        logomaker.Logo(self.logo_frame(number, projection), ax=above, flip_below=True)
        above.axhline(0, color="black", linewidth=0.5)
        above.set_ylabel("attribution")
        limit = float(np.nanmax(np.abs(self.values[number]))) or 1.0
        image = below.imshow(self.values[number], aspect="auto", cmap="RdBu", vmin=-limit, vmax=limit, interpolation="nearest")
        known = np.flatnonzero(self.bases[number] >= 0)
        below.scatter(known, self.bases[number][known], s=4, color="black", linewidths=0)
        below.set_yticks(range(4), list(LETTERS))
        below.set_xlabel(f"base of {self.names[number]}, from 0; dots: the base that is there")
        figure.colorbar(image, ax=below, label=self.score, aspect=8)
        figure.savefig(path, dpi=150)
        plt.close(figure)

    def _save_bigwig(self, file: Path, projection: str) -> None:
        if self.chrom is None or self.start is None:
            raise ValueError(f"{file}: bigWig needs places in a genome: call mutagenesis with fasta and regions")
        try:
            import pyBigWig
        except ImportError:
            raise ImportError(f"{file}: bigWig is written by pyBigWig: pip install pyBigWig; or save .parquet") from None
        order = list(self.contigs)
        places = sorted(range(len(self.names)), key=lambda i: (order.index(self.chrom[i]), int(self.start[i])))  # type: ignore[index]
        ends: dict[str, int] = {}
        for i in places:
            if int(self.start[i]) < ends.get(self.chrom[i], 0):
                raise ValueError(
                    f"{file}: regions overlap at {self.chrom[i]}:{int(self.start[i]) + 1}, and bigWig holds one value a base: merge them"
                )
            ends[self.chrom[i]] = int(self.start[i]) + self.values.shape[2]
        with pyBigWig.open(str(file), "w") as out:
            out.addHeader([(name, length) for name, length in self.contigs.items() if name in ends])
            attribution = self.attribution(projection)
            for i in places:
                out.addEntries(self.chrom[i], int(self.start[i]), values=attribution[i].tolist(), span=1, step=1)


def mutagenesis(
    predictor: Predictor,
    sequences: Sequence[str] | None = None,
    *,
    fasta: Any = None,
    regions: Sequence[str] | str | None = None,
    score: str = "llr",
    strands: str = "both",
    batch_size: int = 32,
    precision: str | None = None,
) -> Mutagenesis:
    """Scores of every substitution.

    Parameters
    ----------
    sequences
        Of one length, of A, C, G, T and N.
    fasta, regions
        Or a genome and places in it, as ``chr20:1,000-1,200`` (counted from 1, ends included), of one length.
    score
        ``llr``: log-likelihood ratio by masked bases, which takes one pass a base and no mutants (models of single bases); or the name of a label head
        (``HEAD``, of several classes ``HEAD=CLASS``), whose logit or number with each mutant is compared with that of the sequence.
    strands
        ``both`` is the mean; ``forward``.

    Raises
    ------
    ValueError
        If lengths differ, or the model cannot say.
    """
    if (sequences is None) == (regions is None) or (regions is not None and fasta is None):
        raise ValueError("give sequences, or fasta and regions")
    if strands not in ("both", "forward"):
        raise ValueError(f"strands={strands!r} is unknown; choose both or forward")
    chrom, start, contigs = None, None, {}
    if regions is not None:
        names = [regions] if isinstance(regions, str) else list(regions)
        reference = fasta if isinstance(fasta, Reference) else Reference.from_fasta(fasta)
        contigs = {c["name"]: c["length"] for c in reference.contigs}
        chrom, starts, symbols = _of_regions(reference, names)
        start = np.array(starts)
    else:
        texts = [sequences] if isinstance(sequences, str) else list(sequences or [])
        names, symbols = [str(i) for i in range(len(texts))], [encode(text.upper()) for text in texts]
    if len({len(s) for s in symbols}) != 1:
        raise ValueError(
            f"sequences of {', '.join(sorted({str(len(s)) for s in symbols}))} bases: a matrix needs one length; call it for each"
        )
    codes = np.stack(symbols)
    bases = _COLUMN[codes].astype(np.int8)
    compute = _by_masking if score == "llr" else _by_mutants
    forward = compute(predictor, codes, score, batch_size, precision)
    if strands == "both":  # the other strand's channels and places are turned back
        forward = (forward + compute(predictor, COMPLEMENT[codes][:, ::-1], score, batch_size, precision)[:, ::-1, ::-1]) / 2
    own = np.take_along_axis(forward, np.maximum(bases, 0)[:, None].astype(np.int64), 1)
    values = np.where(bases[:, None] >= 0, forward - own, np.nan).astype(np.float32)
    return Mutagenesis(values, bases, names, score, chrom, start, contigs)


def _of_regions(reference: Reference, regions: Sequence[str]) -> tuple[list[str], list[int], list[np.ndarray]]:
    """Contig, first base (0-based) and symbols of regions that are written as samtools does."""
    chrom, starts, symbols = [], [], []
    for region in regions:
        name, _, interval = str(region).rpartition(":")
        first, _, last = interval.replace(",", "").partition("-")
        if not name or not first.isdigit() or not last.isdigit() or int(first) < 1 or int(last) < int(first):
            raise ValueError(f"region {region!r}: write contig:first-last, as chr20:1,000-1,200, counted from 1, ends included")
        number = reference.names.require(name, str(reference.source))
        chrom.append(reference.contigs[number]["name"])
        starts.append(int(first) - 1)
        symbols.append(reference.fetch(chrom[-1], int(first) - 1, int(last)))
    return chrom, starts, symbols


def _by_masking(predictor: Predictor, codes: np.ndarray, score: str, batch_size: int, precision: str | None) -> np.ndarray:
    """Log-probabilities of A, C, G, T at every base when it is hidden, float64 [n, 4, L]."""
    vocabulary = Vocabulary(predictor.tokenizer)  # type: ignore[arg-type]
    if vocabulary.kind != "base" or predictor.model.backbone.capabilities.causal:
        raise ValueError(
            "mutagenesis by masks needs a masked model of single bases; of this model score a label head, or regions by score_variants"
        )
    n, length = codes.shape
    tokens = _tokens(predictor, np.repeat(codes, length, 0))
    at = np.tile(np.arange(length), n)
    tokens.ids[tokens.offsets[:-1] + at] = MASK
    candidates = np.broadcast_to(vocabulary.of_base[[0, 3, 1, 2]], (n * length, 4)).astype(np.int64)
    nothing = np.empty(0, np.int64)
    questions = Questions(tokens, np.arange(n * length), at, candidates, nothing, nothing, nothing, np.empty(0))
    answers = ask(predictor, questions, batch_size, precision)
    return answers.reshape(n, length, 4).transpose(0, 2, 1)


def _by_mutants(predictor: Predictor, codes: np.ndarray, score: str, batch_size: int, precision: str | None) -> np.ndarray:
    """A head's output with every base in place of every other, float64 [n, 4, L]."""
    head, _, chosen = score.partition("=")
    if head not in predictor.labels or predictor.labels[head]["pooling"] == "token":
        there = ", ".join(n for n, h in predictor.labels.items() if h["pooling"] != "token") or "none"
        raise ValueError(f"score={score}: this model has no head {head!r} that labels sequences; it has {there}; or choose llr")
    classes = [str(c) for c in predictor.labels[head].get("classes") or []]
    if classes and not chosen and len(classes) > 2:
        raise ValueError(f"score={score}: say which class: score={head}={classes[0]}, ...")
    if chosen and chosen not in classes:
        raise ValueError(f"score={score}: the head has no class {chosen!r}; it has {', '.join(classes)}")
    column = classes.index(chosen) if chosen else len(classes) - 1 if classes else 0
    n, length = codes.shape
    mutants = np.repeat(codes, 4 * length, 0).reshape(n, 4, length, length)
    for channel, code in enumerate((0, 3, 1, 2)):
        mutants[:, channel, np.arange(length), np.arange(length)] = code
    tokens = _tokens(predictor, mutants.reshape(-1, length))
    out = np.empty(n * 4 * length)
    for rows, batch in batches_of(predictor, tokens, batch_size):
        out[rows] = predictor.forward(batch, precision=precision).logits(head)[:, column].detach().double().cpu().numpy()
    return out.reshape(n, 4, length)


def _tokens(predictor: Predictor, codes: np.ndarray) -> Tokens:
    """Rows of symbols as tokens."""
    n, length = codes.shape
    return predictor.tokenizer.encode(
        Encoded(np.ascontiguousarray(codes).reshape(-1), np.arange(n + 1) * length), np.zeros(n, np.uint64), 1 << 40
    )
