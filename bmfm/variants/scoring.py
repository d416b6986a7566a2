"""Variants in, a table of scores out: one row an ALT, none dropped, in the order of the input."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from bmfm.genome.reference import Reference
from bmfm.inference.predictor import Predictor
from bmfm.inference.runner import progress_bar
from bmfm.variants.alleles import KINDS, NOT_DEFINED, SNV, STATUSES, Alleles, prepare
from bmfm.variants.questions import ask
from bmfm.variants.reading import Records, read_variants
from bmfm.variants.rules import RULES, Vocabulary
from bmfm.variants.windows import AlleleWindows, place_windows

SCORES = ("llr", "embedding", "heads", "jsd", "pop")
RULE_NAMES = ("auto", *RULES, "pll_cal", "likelihood")
STRANDS = {"both": ("forward", "reverse"), "forward": ("forward",), "reverse": ("reverse",)}


@dataclass(frozen=True)
class ScoreOptions:
    """How variants are scored.

    Attributes
    ----------
    scores
        Of ``llr`` (log-likelihood ratio), ``embedding`` (distances between states), ``heads`` (changes of what fine-tuned heads predict), ``jsd`` (divergence
        of predictions around, single bases only), ``pop`` (polymorphism, models of pair symbols).
    allele_model
        One rule for all alleles, see `rules`; ``auto`` chooses one for each.
    window
        Bases; None is what surely fits in the model's input, at most 1,001.
    strands
        ``both``, of which each is kept beside the mean; ``forward`` or ``reverse``.
    radius
        Bases on each side of the change whose states are compared.
    layer
        Of the states that are compared, 0 the first; None is the last with its norm.
    max_indel
        Longest REF or ALT that is scored.
    batch_size, precision
        See `inference.runner.RunOptions`.
    """

    scores: Sequence[str] = ("llr",)
    allele_model: str = "auto"
    window: int | None = None
    strands: str = "both"
    radius: int = 128
    layer: int | None = None
    max_indel: int = 50
    batch_size: int = 32
    precision: str | None = None

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.scores) - set(SCORES)):
            raise ValueError(f"scores: {', '.join(unknown)} is unknown; choose from {', '.join(SCORES)}")
        for name, value, choices in (("allele_model", self.allele_model, RULE_NAMES), ("strands", self.strands, tuple(STRANDS))):
            if value not in choices:
                raise ValueError(f"{name}={value!r} is unknown; choose from {', '.join(choices)}")
        least = 2 * (self.max_indel + 16)
        if self.window is not None and self.window < least:
            raise ValueError(
                f"window={self.window}: at least {least} bases are needed for alleles of up to {self.max_indel} bases (max_indel)"
            )


LONGEST_WINDOW = 1001


class Scorer:
    """A model that scores alleles of one genome; what depends on neither shard nor allele is worked out once.

    Raises
    ------
    ValueError
        If the model is not one of DNA, or what is asked for is not defined for it.
    """

    def __init__(self, predictor: Predictor, reference: Reference, options: ScoreOptions):
        tokenizer = predictor.tokenizer
        if tokenizer.omics != "dna":
            raise ValueError("variants are scored by models of DNA; this is one of cells")
        self.predictor, self.reference, self.options = predictor, reference, options
        self.vocabulary = Vocabulary(tokenizer)  # type: ignore[arg-type]
        room = min(n for n in (predictor.max_tokens, tokenizer.max_tokens) if n) - 2
        self.window = options.window or min(LONGEST_WINDOW, room)
        self.causal = predictor.model.backbone.capabilities.causal

    def prepare(self, records: Records) -> Alleles:
        """The alleles of some records."""
        return prepare(self.reference, records.contigs, records.positions, records.refs, records.alts, self.options.max_indel)

    def score(self, alleles: Alleles, done: Callable[[int], Any] | None = None) -> pd.DataFrame:
        """Columns of scores, one row an allele [A]; NaN for what is not scored. The status of alleles that the rule says nothing of is set."""
        scored = np.flatnonzero(alleles.is_scored)
        windows = place_windows(self.reference, alleles.take(scored), self.window)
        columns: dict[str, np.ndarray] = {}
        method = np.full(len(scored), "", object)
        if "llr" in self.options.scores:
            columns |= self._llr(windows, method, done)
        table = pd.DataFrame({name: _spread(values, scored, len(alleles)) for name, values in columns.items()})
        if "llr" in self.options.scores:
            undefined = scored[np.isnan(columns["llr"])]
            alleles.status[undefined] = NOT_DEFINED
        table.insert(0, "method", _spread(method, scored, len(alleles)))
        for name, values in (("window_start", windows.start), ("window_end", windows.start + windows.width)):
            table[name] = _spread(values.astype(float), scored, len(alleles))
        table["left_context"] = _spread(windows.left.astype(float), scored, len(alleles))
        table["right_context"] = _spread((windows.width - windows.left - windows.alleles.n_ref).astype(float), scored, len(alleles))
        return table

    def _llr(self, windows: AlleleWindows, method: np.ndarray, done: Callable[[int], Any] | None) -> dict[str, np.ndarray]:
        of_strand = {}
        for strand in STRANDS[self.options.strands]:
            values = np.full(len(windows), np.nan)
            for rule, rows in self._rules(windows):
                of_rule = self._by_rule(rule, windows.take(rows).on(strand), done)
                answered = ~np.isnan(of_rule)
                values[rows[answered]], method[rows[answered]] = of_rule[answered], rule
            of_strand[strand] = values
        short = {"forward": "llr_fwd", "reverse": "llr_rc"}
        return {"llr": np.mean(list(of_strand.values()), 0)} | {short[s]: v for s, v in of_strand.items()}

    def _rules(self, windows: AlleleWindows) -> list[tuple[str, np.ndarray]]:
        """Rules, and the alleles that each shall score."""
        everything = np.arange(len(windows))
        if self.options.allele_model != "auto":
            return [(self.options.allele_model, everything)]
        is_snv = windows.alleles.kind == SNV
        rule = self.vocabulary.kind if self.vocabulary.kind != "bpe" else "span"
        same = windows.alleles.n_ref == windows.alleles.n_alt if rule == "base" else is_snv
        return [(rule, everything[same]), ("pll", everything[~same])]

    def _by_rule(self, rule: str, windows: AlleleWindows, done: Callable[[int], Any] | None) -> np.ndarray:
        if not len(windows):
            return np.empty(0)
        questions = RULES[rule](windows, self.vocabulary)
        answers = ask(self.predictor, questions, self.options.batch_size, self.options.precision, done)
        return questions.scores(answers, len(windows))


def _spread(values: np.ndarray, rows: np.ndarray, n: int) -> np.ndarray:
    """Values at some of n rows; nothing (NaN, or an empty text) at others."""
    out = np.full(n, "" if values.dtype == object else np.nan, values.dtype)
    out[rows] = values
    return out


def score_variants(
    predictor: Predictor, variants: Any, fasta: Any, progress: bool | None = None, shard_size: int = 10_000, **options: Any
) -> pd.DataFrame:
    """Scores of variants, one row an ALT, in the order of the input; nothing is dropped.

    Parameters
    ----------
    variants
        Path of a VCF or BCF, or of a table; a DataFrame with ``chrom``, ``pos`` (1-based), ``ref``, ``alt``; or texts ``chr:pos:ref:alt``.
    fasta
        Path of the genome that the variants were called against, or an open `Reference`.
    options
        See `ScoreOptions`.

    Returns
    -------
    DataFrame
        ``chrom, pos, id, ref, alt`` as they stand in the input; ``kind``, ``status`` (see `alleles.STATUSES`), ``method`` (the rule);
        the scores; and the window, 0-based and half-open.
    """
    reference = fasta if isinstance(fasta, Reference) else Reference.from_fasta(fasta)
    scorer = Scorer(predictor, reference, ScoreOptions(**options))
    tables = []
    with progress_bar(0, progress) as bar:
        for records in read_variants(variants, shard_size):
            alleles = scorer.prepare(records)
            tables.append(frame(records, alleles, scorer.score(alleles, bar.update)))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def frame(records: Records, alleles: Alleles, scores: pd.DataFrame) -> pd.DataFrame:
    """The table of one shard."""
    of = alleles.record
    return pd.DataFrame(
        {
            "chrom": np.array(records.contigs, object)[of],
            "pos": records.positions[of],
            "id": np.array(records.ids, object)[of],
            "ref": np.array([r.decode() for r in records.refs], object)[of],
            "alt": [alt.decode() for alts in records.alts if alts not in (b".", b"") for alt in alts.split(b",")],
            "kind": np.array(KINDS, object)[alleles.kind],
            "status": np.array(STATUSES, object)[alleles.status],
        }
        | {name: scores[name] for name in scores}
    )
