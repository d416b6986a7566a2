"""Variants in, a table of scores out: one row an ALT, none dropped, in the order of the input."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from bmfm.files import cached_folder, fingerprint
from bmfm.genome.personal import PersonalGenome
from bmfm.genome.reference import Reference
from bmfm.inference.predictor import Predictor
from bmfm.inference.runner import progress_bar
from bmfm.inference.work_plan import digest
from bmfm.storage.folders import BACKGROUND, CALIBRATION
from bmfm.variants.alleles import KINDS, LEAST_SIDE, NOT_DEFINED, SNV, STATUSES, Alleles, prepare
from bmfm.variants.calibration import Calibration, allele_contexts, quantiles, random_variants
from bmfm.variants.divergence import RADIUS, TURNS, divergence
from bmfm.variants.options import STRANDS, ScoreOptions
from bmfm.variants.questions import Questions, ask, log_likelihoods
from bmfm.variants.reading import Records, read_variants, table_records
from bmfm.variants.rules import RULES, CutPairs, Vocabulary, cut_pairs, pll_questions, polymorphism
from bmfm.variants.states import changes
from bmfm.variants.windows import AlleleWindows, place_windows

LONGEST_WINDOW = 1001
UNIGRAM_WINDOWS, CALIBRATION_VARIANTS = 1000, 2000
"""From how many random windows the frequencies of tokens are counted, and to how many random variants `pll_cal` is fitted."""


class _Asked(NamedTuple):
    """Questions of one rule about some alleles on one strand."""

    strand: str
    rule: str
    rows: np.ndarray
    windows: AlleleWindows
    questions: Questions | None
    cut: CutPairs | None = None

    @property
    def n_rows(self) -> int:
        """Rows that go through the model."""
        return len(self.questions.tokens) if self.questions else 2 * len(self.rows)


class Scorer:
    """A model that scores alleles of one genome; what depends on neither shard nor allele is worked out once.

    Raises
    ------
    ValueError
        If the model is not one of DNA, or what is asked for is not defined for it.
    """

    def __init__(self, predictor: Predictor, reference: Reference, options: ScoreOptions):
        tokenizer: Any = predictor.tokenizer
        if tokenizer.omics != "dna":
            raise ValueError("variants are scored by models of DNA; this is one of cells")
        self.causal = predictor.model.backbone.capabilities.causal
        if options.allele_model == "uniform":
            options = replace(options, allele_model="likelihood" if self.causal else "pll_cal")
        self.predictor, self.reference, self.options = predictor, reference, options
        self.vocabulary = Vocabulary(tokenizer)
        room = min(n for n in (predictor.max_tokens, tokenizer.max_tokens) if n) - 2
        self.window = options.window or min(LONGEST_WINDOW, room, self._needed(options.max_indel))
        self.max_indel = min(options.max_indel, self.window // 2 - LEAST_SIDE)
        if self.max_indel < 1:
            raise ValueError(f"this model takes {room} bases at once, too few for variants: at least {2 * LEAST_SIDE + 2} are needed")
        if self.causal and options.allele_model not in ("auto", "likelihood"):
            raise ValueError(f"allele_model={options.allele_model} asks about hidden tokens; a causal model has the rule likelihood alone")
        if not self.causal and options.allele_model == "likelihood":
            raise ValueError("allele_model=likelihood is the rule of causal models; this model is masked: choose pll, or auto")
        if self.vocabulary.kind == "overlapping" and "llr" in options.scores:
            raise ValueError(
                "scores: llr hides tokens, and overlapping k-mers tell a hidden one by its neighbours: ask for scores=[embedding]"
            )
        if self.vocabulary.kind != "base" and options.allele_model == "base":
            raise ValueError(
                "allele_model=base is for vocabularies of single bases; for this one choose span, multi, base_forced or pll_cal"
            )

    def _needed(self, n_changed: int | np.ndarray) -> Any:
        """The longest window that changes anything, for so many changed bases: of a model whose states see no further, more bases change no score."""
        reach = self.predictor.model.backbone.capabilities.reach
        if reach is None or self.vocabulary.kind != "base" or "heads" in self.options.scores:
            return LONGEST_WINDOW
        around = max(self.options.radius * ("embedding" in self.options.scores), RADIUS * ("jsd" in self.options.scores))
        return 2 * (max(reach, LEAST_SIDE) + around + n_changed) + 1

    def place(self, alleles: Alleles) -> AlleleWindows:
        """Windows of alleles that are scored; those of alleles of equal length need no room for a difference."""
        width = np.full(len(alleles), self.window)
        if self.options.window is None:
            width = np.where(alleles.n_ref == alleles.n_alt, np.minimum(width, self._needed(alleles.n_ref)), width)
        return place_windows(self.reference, alleles, width)

    def prepare(self, records: Records) -> Alleles:
        """The alleles of some records."""
        return prepare(self.reference, records.contigs, records.positions, records.refs, records.alts, self.max_indel)

    def score(self, alleles: Alleles, done: Callable[[float], Any] | None = None) -> pd.DataFrame:
        """Columns of scores, one row an allele [A], NaN for what is not scored, with its ``status`` (a number of `alleles.STATUSES`).

        Parameters
        ----------
        done
            Called with the share of the work that was just done.
        """
        scored = np.flatnonzero(alleles.is_scored)
        windows = self.place(alleles.take(scored))
        copies = [windows]
        if self.options.sample is not None:
            copies = [windows.of_sample(self.personal, self.options.sample, copy) for copy in (0, 1)]
        method = np.full(len(scored), "", object)
        of_copies = [self._columns(of_copy, method, done and (lambda share: done(share / len(copies)))) for of_copy in copies]
        columns = {name: np.mean([of[name] for of in of_copies], 0) for name in of_copies[0]}
        if "llr" in self.options.scores and len(copies) > 1:
            columns |= {f"llr_copy{number}": of["llr"] for number, of in enumerate(of_copies, 1)}
        n = len(alleles)
        status = alleles.status.copy()
        if "llr" in self.options.scores:
            status[scored[np.isnan(columns["llr"])]] = NOT_DEFINED
        table = pd.DataFrame({"status": status, "method": _spread(method, scored, n)})
        for name, values in (columns | _places(windows)).items():
            table[name] = _spread(np.asarray(values, np.float64), scored, n)
        return table

    @cached_property
    def personal(self) -> PersonalGenome:
        """The sample's copies."""
        assert self.options.sample is not None and self.options.sample_vcf is not None
        return PersonalGenome.from_vcf(self.options.sample_vcf, self.reference, [self.options.sample])

    def _columns(self, windows: AlleleWindows, method: np.ndarray, done: Callable[[float], Any] | None) -> dict[str, np.ndarray]:
        """Scores of the alleles of some windows, {column: [A]}; their rules are written into `method`."""
        kinds, strands = self.options.scores, STRANDS[self.options.strands]
        asked = self._asked(windows) if "llr" in kinds else []
        pop = [self._polymorphism(windows.on(strand)) for strand in strands] if "pop" in kinds else []
        n_rows = sum(a.n_rows for a in asked) + sum(len(q.tokens) for q in pop)
        n_rows += len(strands) * len(windows) * (2 * (("embedding" in kinds) or ("heads" in kinds)) + 2 * TURNS * ("jsd" in kinds))

        def tick(rows: int) -> None:
            if done:
                done(rows / max(1, n_rows))

        columns: dict[str, np.ndarray] = {}
        if "llr" in kinds:
            columns |= self._llr(windows, asked, method, tick)
        if "embedding" in kinds or "heads" in kinds:
            columns |= self._states(windows, tick)
        if "jsd" in kinds:
            columns["jsd"] = np.mean([self._divergence(windows.on(strand), tick) for strand in strands], 0)
        if pop:
            columns["pop"] = np.mean([q.scores(self._ask(q, tick), len(windows)) for q in pop], 0)
        return columns

    def _ask(self, questions: Questions, tick: Callable[[int], Any]) -> np.ndarray:
        return ask(self.predictor, questions, self.options.batch_size, self.options.precision, tick)

    def _asked(self, windows: AlleleWindows) -> list[_Asked]:
        """Questions about all alleles, on each strand, by the rules that are chosen."""
        return [
            self._by_rule(strand, rule, rows, windows.on(strand).take(rows))
            for strand in STRANDS[self.options.strands]
            for rows, rule in self._rules(windows)
            if len(rows)
        ]

    def _rules(self, windows: AlleleWindows) -> list[tuple[np.ndarray, str]]:
        """Alleles, and the rule by which they are scored."""
        everything = np.arange(len(windows))
        if self.options.allele_model != "auto":
            return [(everything, self.options.allele_model)]
        if self.causal:
            return [(everything, "likelihood")]
        kind = self.vocabulary.kind
        first = windows.alleles.kind == SNV if kind == "kmer" else windows.alleles.n_ref == windows.alleles.n_alt
        return [(everything[first], "pll" if kind == "bpe" else kind), (everything[~first], "pll_cal")]

    def _by_rule(self, strand: str, rule: str, rows: np.ndarray, windows: AlleleWindows) -> _Asked:
        if rule == "likelihood":
            return _Asked(strand, rule, rows, windows, None)
        if rule in ("pll", "pll_cal"):
            cut = cut_pairs(windows, self.vocabulary)
            return _Asked(strand, rule, rows, windows, pll_questions(cut), cut)
        return _Asked(strand, rule, rows, windows, RULES[rule](windows, self.vocabulary))

    def _llr(self, windows: AlleleWindows, asked: list[_Asked], method: np.ndarray, tick: Callable[[int], Any]) -> dict[str, np.ndarray]:
        """Log-likelihood ratios of both strands and their mean, how many tokens differ, and quantiles."""
        short = {"forward": "llr_fwd", "reverse": "llr_rc"}
        of_strand = {strand: np.full(len(windows), np.nan) for strand in STRANDS[self.options.strands]}
        n_tokens = np.full((2, len(windows)), np.nan)
        for one in asked:
            values = self._answers(one, tick)
            answered = one.rows[~np.isnan(values)]
            of_strand[one.strand][answered] = values[~np.isnan(values)]
            method[answered] = one.rule
            if one.cut is not None and one.strand == STRANDS[self.options.strands][0]:
                n_tokens[:, one.rows] = one.cut.n_tokens
        llr = np.mean(list(of_strand.values()), 0)
        columns = {"llr": llr} | {short[s]: v for s, v in of_strand.items()}
        columns |= {"dtok": n_tokens[1] - n_tokens[0], "ntok_ref": n_tokens[0], "ntok_alt": n_tokens[1]}
        if self.background is not None:
            columns["quantile"] = quantiles(np.where(windows.alleles.kind == SNV, llr, np.nan), allele_contexts(windows), self.background)
        return columns

    def _answers(self, one: _Asked, tick: Callable[[int], Any]) -> np.ndarray:
        """Scores of the alleles of one rule on one strand; NaN where it says nothing."""
        if one.questions is None:
            encoded = [self.vocabulary.tokenizer.encode(symbols) for symbols in (one.windows.ref, one.windows.alt)]
            ref, alt = (log_likelihoods(self.predictor, tokens, self.options.batch_size, self.options.precision) for tokens in encoded)
            tick(one.n_rows)
            return alt - ref
        scores = one.questions.scores(self._ask(one.questions, tick), len(one.rows))
        if one.cut is None:
            return scores
        scores = np.where(np.isnan(scores), 0.0, scores)  # no token differs: nothing is asked, and the sums are 0
        return self.calibration(scores, self.terms(one.windows, one.cut)) if one.rule == "pll_cal" else scores

    def terms(self, windows: AlleleWindows, cut: CutPairs) -> np.ndarray:
        """`calibration.TERMS` of some alleles [A, 3]."""
        n_ref, n_alt = cut.n_tokens
        return np.stack([n_alt - n_ref, cut.summed(self.log_unigram), windows.alleles.n_alt - windows.alleles.n_ref], 1).astype(np.float64)

    @cached_property
    def log_unigram(self) -> np.ndarray:
        """Log-frequency of every token in random windows of the genome [V]."""
        table = random_variants(self.reference, UNIGRAM_WINDOWS, snvs_only=True)
        (records,) = table_records(table, "random variants", len(table))
        alleles = self.prepare(records)
        tokens = self.vocabulary.tokenizer.encode(place_windows(self.reference, alleles, self.window).ref)
        counts = np.bincount(tokens.ids, minlength=len(self.vocabulary.tokenizer)) + 1.0
        return np.log(counts / counts.sum())

    @cached_property
    def calibration(self) -> Calibration:
        """That of the model's folder, else one that is fitted now and kept in the cache."""
        folder = self.predictor.folder
        if folder and (folder / CALIBRATION).is_file():
            return Calibration.load(folder / CALIBRATION)
        return Calibration.load(
            self._cached("calibrations", {}, lambda partial: self.fit_calibration().save(partial / CALIBRATION)) / CALIBRATION
        )

    def fit_calibration(self, n: int = CALIBRATION_VARIANTS, seed: int = 0) -> Calibration:
        """Fitted to `pll` of random variants of the genome, on all strands that are scored."""
        (records,) = table_records(random_variants(self.reference, n, seed), "random variants", n)
        alleles = self.prepare(records)
        windows = self.place(alleles.take(np.flatnonzero(alleles.is_scored)))
        scores, terms = [], []
        for strand in STRANDS[self.options.strands]:
            one = self._by_rule(strand, "pll", np.arange(len(windows)), windows.on(strand))
            assert one.cut is not None
            scores.append(self._answers(one, lambda rows: None))
            terms.append(self.terms(one.windows, one.cut))
        return Calibration.fit(np.concatenate(scores), np.concatenate(terms))

    @cached_property
    def background(self) -> pd.DataFrame | None:
        """Scores of random SNVs by context, for quantiles; None where none are asked for."""
        chosen = self.options.background
        if chosen == "auto":
            o, file = self.options, self.predictor.folder and self.predictor.folder / BACKGROUND
            as_it_was_made = (o.allele_model, o.window, o.strands, o.sample) == ("auto", None, "both", None)
            return pd.read_parquet(file) if file and file.is_file() and as_it_was_made else None
        if chosen is None:
            return None
        if isinstance(chosen, int):
            folder = self._cached(
                "backgrounds", {"n": chosen}, lambda partial: self.make_background(chosen).to_parquet(partial / BACKGROUND)
            )
            return pd.read_parquet(folder / BACKGROUND)
        return self._scored_background(read_variants(chosen, 10_000))

    def make_background(self, n: int, seed: int = 0) -> pd.DataFrame:
        """``context`` and ``llr`` of random SNVs of the genome."""
        return self._scored_background(table_records(random_variants(self.reference, n, seed, snvs_only=True), "random variants", 10_000))

    def _scored_background(self, shards: Iterable[Records]) -> pd.DataFrame:
        plain = Scorer(self.predictor, self.reference, replace(self.options, scores=("llr",), background=None, sample=None))
        tables = []
        for records in shards:
            alleles = plain.prepare(records)
            chosen = np.flatnonzero(alleles.is_scored & (alleles.kind == SNV))
            scores = plain.score(alleles)["llr"].to_numpy()[chosen]
            tables.append(
                pd.DataFrame({"context": allele_contexts(place_windows(self.reference, alleles.take(chosen), 33)), "llr": scores})
            )
        table = pd.concat(tables, ignore_index=True).dropna()
        return table.astype({"llr": np.float32})

    def _cached(self, kind: str, key: dict, build: Callable[[Path], None]) -> Path:
        """A folder of the cache that depends on model, genome, window and rule."""
        if self.predictor.folder is None:
            raise ValueError("a model that lies in no folder cannot be calibrated once and for all: save it, and load that")
        weights = [digest(file) for file in sorted(self.predictor.folder.iterdir()) if file.suffix in (".safetensors", ".onnx", ".data")]
        options = {"window": self.window, "strands": self.options.strands, "rule": self.options.allele_model}
        return cached_folder(kind, {"format": 1, "model": weights, "fasta": fingerprint(self.reference.source)} | options | key, build)

    def _states(self, windows: AlleleWindows, tick: Callable[[int], Any]) -> dict[str, np.ndarray]:
        o = self.options
        what = ("embedding" in o.scores, "heads" in o.scores)
        found = [
            changes(self.predictor, windows.on(strand), what, o.radius, o.layer, o.batch_size, o.precision, tick)
            for strand in STRANDS[o.strands]
        ]
        return {name: np.mean([of[name] for of in found], 0) for name in found[0]}

    def _divergence(self, windows: AlleleWindows, tick: Callable[[int], Any]) -> np.ndarray:
        return divergence(
            self.predictor, windows, self.vocabulary, batch_size=self.options.batch_size, precision=self.options.precision, done=tick
        )

    def _polymorphism(self, windows: AlleleWindows) -> Questions:
        questions = polymorphism(windows, self.vocabulary)
        if questions is None:
            raise ValueError(
                "scores: pop needs a vocabulary with symbols of two alleles, as that of recipe dna_snp: leave it out of scores"
            )
        return questions


def _places(windows: AlleleWindows) -> dict[str, np.ndarray]:
    """Where the windows lie."""
    right = windows.width - windows.left - windows.alleles.n_ref
    return {
        "window_start": windows.start, "window_end": windows.start + windows.width, "left_context": windows.left, "right_context": right,
    }  # fmt: skip


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
    with progress_bar(100, progress) as bar:
        for records in read_variants(variants, shard_size):
            alleles = scorer.prepare(records)
            share = 100 * (records.end - records.begin)
            tables.append(frame(records, alleles, scorer.score(alleles, lambda done, s=share: bar.update(s * done))))  # type: ignore[misc]
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
            "status": np.array(STATUSES, object)[scores["status"].to_numpy()],
        }
        | {name: scores[name] for name in scores if name != "status"}
    )


def check_assembly(counts: Counter[str], reference: Reference, where: str, max_ref_mismatch: float) -> None:
    """Refuse variants of another genome, once twenty alleles were compared.

    Parameters
    ----------
    counts
        Alleles by their status.

    Raises
    ------
    ValueError
        If REF disagrees more often than `max_ref_mismatch`, or no contig is in the genome.
    """
    n, n_wrong = counts["alleles"], counts["REF_MISMATCH"]
    if n >= 20 and counts["NO_CONTIG"] == n:
        raise ValueError(f"{where}: none of its contigs is in {reference.source}, which has {', '.join(reference.names.names[:5])}")
    n_compared = n - sum(counts[s] for s in ("NO_CONTIG", "SYMBOLIC", "SPILL"))
    if n_compared >= 20 and n_wrong > max_ref_mismatch * n_compared:
        raise ValueError(
            f"{where}: REF disagrees with {reference.source} for {n_wrong:,} of {n_compared:,} alleles. This looks like the wrong assembly: use the "
            "FASTA that the variants were called against, or max_ref_mismatch=1 to score the others"
        )
