"""In-silico mutagenesis: what every substitution of a sequence would score."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from bmfm.genome.alphabet import N
from bmfm.genome.representation import Encoded
from bmfm.inference.outputs import Outputs
from bmfm.inference.predictor import Predictor
from bmfm.inference.runner import progress_bar
from bmfm.special import MASK
from bmfm.tokenizers.base import Tokens
from bmfm.variants.contributions import Contributions, draw_logos, write_table
from bmfm.variants.questions import Questions, ask, batches_of
from bmfm.variants.rules import Vocabulary
from bmfm.variants.sequence_sets import CODES, LETTERS, Sequences, SequenceSet, read_sequence_set, strands_to_read

PROJECTIONS = ("mean", "centered")
Number = Callable[[Outputs], torch.Tensor]
"""One number for each sequence of a batch, [N]."""


@dataclass
class Mutagenesis:
    """Scores of all substitutions of n sequences of L bases; channels are A, C, G, T.

    Attributes
    ----------
    values : float32 [n, 4, L]
        Score of the mutant less that of the sequence; 0 for the base that is there, NaN where that is N.
    sequences
        What was mutated.
    score
        What was scored: ``llr``, or a head.
    """

    values: np.ndarray
    sequences: SequenceSet
    score: str

    def contributions(self, projection: str = "mean") -> Contributions:
        """Hypothetical contributions of all bases, whose sum at each position is 0.

        Parameters
        ----------
        projection
            ``centered``: the score of each base less the mean over all four. ``mean``: four thirds of it, so that a base that is there contributes
            its score less the mean over the three alternatives.
        """
        if projection not in PROJECTIONS:
            raise ValueError(f"projection={projection!r} is unknown; choose from {', '.join(PROJECTIONS)}")
        centred = np.nan_to_num(self.values - self.values.mean(1, keepdims=True))
        return Contributions((centred * 4 / 3 if projection == "mean" else centred).astype(np.float32), self.sequences, self.score)

    def attribution(self, projection: str = "mean") -> np.ndarray:
        """How much each base that is there matters [n, L], 0 for N; see `contributions`."""
        return self.contributions(projection).attribution()

    def frame(self) -> pd.DataFrame:
        """One row a substitution: ``name, position`` (0-based in the sequence; of regions ``chrom, pos``, 1-based), ``ref, alt, score``."""
        bases, names = self.sequences.bases, np.array(self.sequences.names, object)
        n, channel, at = np.nonzero((np.arange(4)[None, :, None] != bases[:, None]) & (bases[:, None] >= 0))
        order = np.lexsort((channel, at, n))
        n, channel, at = n[order], channel[order], at[order]
        table = pd.DataFrame({"name": names[n], "position": at})
        if self.sequences.chrom is not None and self.sequences.start is not None:
            table["chrom"], table["pos"] = np.array(self.sequences.chrom, object)[n], self.sequences.start[n] + at + 1
        letters = np.array(list(LETTERS), object)
        table["ref"], table["alt"], table["score"] = letters[bases[n, at]], letters[channel], self.values[n, channel, at]
        return table

    def save(self, path: str | Path, projection: str = "mean") -> None:
        """Write what the end of the name says.

        ``.npz``: ``one_hot``, ``attributions`` and ``values``, [n, 4, L] each (for TF-MoDISco see `save_modisco`); ``.parquet``, ``.csv``, ``.tsv``: `frame`; ``.bw``:
        attributions of regions as bigWig (needs pyBigWig).
        """
        file, contributions = Path(path), self.contributions(projection)
        if file.suffix == ".npz":
            np.savez_compressed(
                file,
                one_hot=self.sequences.one_hot(),
                attributions=contributions.projected(),
                values=self.values,
                names=self.sequences.names,
            )
        elif file.suffix in (".bw", ".bigwig"):
            contributions.save(file)
        else:
            write_table(self.frame(), file)

    def save_modisco(self, prefix: str | Path, projection: str = "mean") -> list[Path]:
        """Write the files that TF-MoDISco takes; see `Contributions.save_modisco`."""
        return self.contributions(projection).save_modisco(prefix)

    def plot(self, path: str | Path, number: int = 0, projection: str = "mean") -> None:
        """Draw one sequence: a logo of its attributions (by logomaker) above a heat map of all substitutions."""
        logo = ("attribution", self.contributions(projection).projected()[number])
        draw_logos(path, self.sequences, [logo], (self.score, self.values[number]), number)


def mutagenesis(
    predictor: Predictor,
    sequences: Sequences | None = None,
    *,
    fasta: Any = None,
    regions: Sequence[str] | str | Path | None = None,
    length: int | None = None,
    score: str = "llr",
    strands: str = "auto",
    batch_size: int = 32,
    precision: str | None = None,
    progress: bool | None = None,
) -> Mutagenesis:
    """Scores of every substitution.

    Parameters
    ----------
    sequences, fasta, regions, length
        See `sequence_sets.read_sequence_set`.
    score
        ``llr``: log-likelihood ratio by masked bases, which takes one pass a base and no mutants (models of single bases); or the name of a label head
        (``HEAD``, of several classes ``HEAD=CLASS``), whose logit or number with each mutant is compared with that of the sequence.
    strands
        ``both`` is the mean; ``forward``; ``given``, of regions the strand that their BED file names; ``auto``, see `sequence_sets.strands_to_read`.

    Raises
    ------
    ValueError
        If lengths differ, or the model cannot say.
    """
    number = None if score == "llr" else _number_of_head(predictor, score)
    of = read_sequence_set(sequences, fasta, regions, length)
    return Mutagenesis(score_substitutions(predictor, of, number, strands, batch_size, precision, progress), of, score)


def score_substitutions(
    predictor: Predictor,
    of: SequenceSet,
    number: Number | None,
    strands: str = "auto",
    batch_size: int = 32,
    precision: str | None = None,
    progress: bool | None = None,
) -> np.ndarray:
    """Score of each substitution less that of the sequence, float32 [n, 4, L]: 0 for the base that is there, NaN where that is N.

    Parameters
    ----------
    of
        Its bases of context are read, and not mutated.
    number
        What is read off the outputs, one number a sequence; None takes log-probabilities of hidden bases.
    """
    readings = of.readings(strands_to_read(strands, None if number is None else predictor.model.config.strands))

    def compute(codes: np.ndarray) -> np.ndarray:
        if number is None:
            return _by_masking(predictor, codes, of.places_in_codes, batch_size, precision)
        return _by_mutants(predictor, codes, of.places_in_codes, number, batch_size, precision)

    scores = np.zeros((len(of), 4, of.length))
    with progress_bar(sum(len(rows) for _, rows, _ in readings), progress) as bar:
        for reverse, rows, share in readings:
            for i in rows:  # one at a time: L * L tokens
                found = compute(of.as_read([i], reverse))[0]
                scores[i] += share * (found[::-1, ::-1] if reverse else found)  # the other strand's channels and places are turned back
                bar.update(1)
    own = np.take_along_axis(scores, np.maximum(of.bases, 0)[:, None].astype(np.int64), 1)
    return np.where(of.bases[:, None] >= 0, scores - own, np.nan).astype(np.float32)


def _number_of_head(predictor: Predictor, score: str) -> Number:
    """What ``HEAD`` or ``HEAD=CLASS`` means: a logit, or the number of a regression as the head gives it."""
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
    return lambda outputs: outputs.logits(head)[:, column]


def ids_of_bases(predictor: Predictor, what: str) -> np.ndarray:
    """Ids of the tokens A, C, G and T, int64 [4]; a ValueError where the model is no masked one of single bases, which `what` needs."""
    vocabulary = Vocabulary(predictor.tokenizer)  # type: ignore[arg-type]
    if vocabulary.kind != "base" or predictor.model.backbone.capabilities.causal:
        raise ValueError(f"{what} needs a masked model of single bases; of this model score a label head, or regions by score_variants")
    return vocabulary.of_base[CODES].astype(np.int64)


def _by_masking(predictor: Predictor, codes: np.ndarray, places: np.ndarray, batch_size: int, precision: str | None) -> np.ndarray:
    """Log-probabilities of A, C, G, T at some places [L] of sequences when each is hidden, float64 [n, 4, L]."""
    columns = ids_of_bases(predictor, "mutagenesis by masks")
    n, length = len(codes), len(places)
    tokens = tokens_of(predictor, np.repeat(codes, length, 0))
    at = np.tile(places, n)
    tokens.ids[tokens.offsets[:-1] + at] = MASK
    candidates = np.broadcast_to(columns, (n * length, 4))
    nothing = np.empty(0, np.int64)
    questions = Questions(tokens, np.arange(n * length), at, candidates, nothing, nothing, nothing, np.empty(0))
    answers = ask(predictor, questions, batch_size, precision)
    return answers.reshape(n, length, 4).transpose(0, 2, 1)


def _by_mutants(
    predictor: Predictor, codes: np.ndarray, places: np.ndarray, number: Number, batch_size: int, precision: str | None
) -> np.ndarray:
    """A number with every base at some places [L] of sequences, float64 [n, 4, L]; that of the sequence where the base is there, or N."""
    own = codes[:, places]
    row, channel, at = np.nonzero((own[:, None] != CODES[:, None]) & (own[:, None] != N))
    mutants = codes[np.append(row, np.arange(len(codes)))]
    mutants[np.arange(len(row)), places[at]] = CODES[channel]
    out = np.empty(len(mutants))
    for rows, batch in batches_of(predictor, tokens_of(predictor, mutants), batch_size):
        out[rows] = number(predictor.forward(batch, precision=precision)).detach().double().cpu().numpy()
    values = np.broadcast_to(out[len(row) :, None, None], (len(codes), 4, len(places))).copy()
    values[row, channel, at] = out[: len(row)]
    return values


def tokens_of(predictor: Predictor, codes: np.ndarray) -> Tokens:
    """Rows of symbols [n, L] as tokens."""
    n, length = codes.shape
    return predictor.tokenizer.encode(
        Encoded(np.ascontiguousarray(codes).reshape(-1), np.arange(n + 1) * length), np.zeros(n, np.uint64), 1 << 40
    )
