"""Methods that score variants: columns of a checkpoint's scores or of a table made elsewhere, as they are or under a probe."""

import hashlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bmfm import __version__
from bmfm.evaluation.checksums import content_hash
from bmfm.evaluation.examples.variants import VariantExamples
from bmfm.evaluation.methods.base import Method, OfSource
from bmfm.evaluation.methods.checkpoint import CheckpointFolder, OfCheckpoint
from bmfm.evaluation.task_spec import TaskSpec
from bmfm.evaluation.variant_tables import coordinate_columns, keys_of, positions, read_variants
from bmfm.files import cached_folder, require_file
from bmfm.storage.folders import CALIBRATION

SCALES = ("log_ratio", "magnitude")
"""What a score is: log p(ALT) - log p(REF), which the card turns, or a number of which more is more effect."""
NOT_SCORED = "NOT_IN_TABLE"


class VariantScores:
    """Scores of all variants of a task.

    Parameters
    ----------
    values
        ``float`` [n], NaN where there is none.
    scale
        One of `SCALES`.
    status
        Why a variant has none, [n]; ``OK`` where it has; None where there is nothing to say.
    """

    def __init__(self, values: np.ndarray, scale: str = "magnitude", status: np.ndarray | None = None):
        if scale not in SCALES:
            raise ValueError(f"scale={scale!r}; choose {' or '.join(SCALES)}")
        self.values, self.scale = np.asarray(values, float), scale
        self.status = status if status is not None else np.where(np.isfinite(self.values), "OK", "NOT_DEFINED")


class VariantMethod(Method, ABC):
    """A method that scores variants."""

    omics = ("dna",)

    @abstractmethod
    def score(self, examples: VariantExamples, seed: int = 0) -> VariantScores:
        """Scores of all variants, in their order; labels of variants are seen of other chromosomes alone."""


class VariantSource(Method, ABC):
    """What gives columns of numbers for variants."""

    omics = ("dna",)

    @abstractmethod
    def table(self, examples: VariantExamples, families: Sequence[str]) -> pd.DataFrame:
        """Numbers of all variants in their order, and ``status``; what is not scored is NaN.

        Parameters
        ----------
        families
            Groups of scores that are needed, of a checkpoint ``llr`` and ``embedding``; a source that has all may give all.
        """


class CheckpointVariants(OfCheckpoint, VariantSource):
    """Scores of a model folder or Hub id by `bmfm.variants.scoring.score_variants`, made once for a data set and kept in the cache.

    Parameters
    ----------
    options
        Of `score_variants`: ``allele_model``, ``window``, ``strands``, ``batch_size``.
    """

    def __init__(self, name: str, checkpoint: str, remote_code: bool = False, options: Mapping[str, Any] | None = None):
        super().__init__(name)
        self.checkpoint, self.options = CheckpointFolder(checkpoint, remote_code), dict(options or {})

    def identity(self, task: TaskSpec | None = None) -> dict[str, Any]:
        calibration = self.checkpoint.folder / CALIBRATION
        calibrated = {"calibration": content_hash([calibration])} if calibration.is_file() else {}
        return {"model": self.model_hash, "options": self.options} | calibrated

    def shared_work(self, data_hash: str) -> str | None:
        return f"{self.model_hash} {data_hash} variants {sorted(self.options.items())}"

    def table(self, examples: VariantExamples, families: Sequence[str]) -> pd.DataFrame:
        if examples.fasta is None:
            raise ValueError(f"{examples.task.name} names no FASTA (task.examples.fasta), which a model reads variants in")
        tables = [self._of_family(examples, family) for family in families]
        table = pd.concat(tables, axis=1)
        return table.loc[:, ~table.columns.duplicated()]

    def _of_family(self, examples: VariantExamples, family: str) -> pd.DataFrame:
        def build(folder: Path) -> None:
            from bmfm.inference import load

            predictor = load(self.checkpoint.name, remote_code=self.checkpoint.remote_code)
            scored = score_with(predictor, examples.variants, str(examples.fasta), scores=(family,), progress=False, **self.options)
            if len(scored) != len(examples):
                raise ValueError(f"{self.name}: {len(scored):,} rows of scores for {len(examples):,} variants")
            scored.reset_index(drop=True).to_parquet(folder / "scores.parquet")

        variants = hashlib.sha256(b"\n".join(examples.input_hashes())).hexdigest()
        key = {"data": examples.hash, "variants": variants, "bmfm": __version__, "family": family} | self.identity()
        return pd.read_parquet(cached_folder("variant_scores", key, build) / "scores.parquet")


def score_with(predictor: Any, variants: pd.DataFrame, fasta: str, **options: Any) -> pd.DataFrame:
    """Scores of variants (``chrom, pos, ref, alt``) by a model, a row each in their order."""
    from bmfm.variants.scoring import score_variants

    return score_variants(predictor, variants, fasta, **options)


class VariantFile(VariantSource):
    """Scores made elsewhere: a table with coordinates (GPN's, CADD's, ...), a VCF that `bmfm score` wrote, or features in order.

    Parameters
    ----------
    path
        .parquet, .csv, .tsv, .vcf.gz, .bcf; ``{task}`` stands for the task's name. Rows are matched by chromosome, position (1-based),
        REF and ALT, whatever the style of chromosome names; several rows of one variant must agree. Rows that are no variants of the
        task are counted, and variants without a row are not scored. A column that ends in ``status`` says why a row has no score.
    ordered
        The table has no coordinates, and a row for each row of the task's table in its order, those that are not scored included.
    """

    kind = "embedding"

    def __init__(self, name: str, path: str, ordered: bool = False):
        super().__init__(name)
        self.path, self.ordered = path, ordered

    def _file(self, task: TaskSpec) -> Path:
        return require_file(self.path.replace("{task}", task.name), f"scores {self.name}: table")

    def identity(self, task: TaskSpec | None = None) -> dict[str, Any]:
        content = content_hash([self._file(task)]) if task else None
        return {"path": self.path, "content": content, "ordered": self.ordered}

    def table(self, examples: VariantExamples, families: Sequence[str]) -> pd.DataFrame:
        file = self._file(examples.task)
        table = read_variants(file)
        return self._in_order(table, examples, file) if self.ordered else self._matched(table, examples, file)

    def _in_order(self, table: pd.DataFrame, examples: VariantExamples, file: Path) -> pd.DataFrame:
        n_rows = examples.n_rows + examples.left_out
        if len(table) != n_rows:
            raise ValueError(
                f"{file} holds {len(table):,} rows, the table of {examples.task.name} {n_rows:,}: with ordered: true they must agree"
            )
        return table.iloc[examples.table.index].reset_index(drop=True).assign(status="OK")

    def _matched(self, table: pd.DataFrame, examples: VariantExamples, file: Path) -> pd.DataFrame:
        columns = coordinate_columns(table, where=str(file))
        pos = positions(table[columns["pos"]], str(file))
        keys = keys_of(table[columns["chrom"]], pos, table[columns["ref"]], table[columns["alt"]])
        values = table.drop(columns=list(columns.values()))
        numbers = values.select_dtypes("number").to_numpy(float)
        row_of: dict[tuple, int] = {}
        for row, key in enumerate(keys):
            first = row_of.setdefault(key, row)
            if first != row and not np.array_equal(numbers[first], numbers[row], equal_nan=True):
                raise ValueError(f"{file} has several rows of {':'.join(map(str, key))}, which differ: leave one row a variant")
        rows = np.array([next((row_of[k] for k in names if k in row_of), -1) for names in examples.score_keys()])
        if not (rows >= 0).any():
            raise ValueError(
                f"{file} has none of the {len(examples):,} variants of {examples.task.name} (its first row is {':'.join(map(str, keys[0]))}, "
                f"the task's {':'.join(examples.table.iloc[0][['chrom', 'pos', 'ref', 'alt']].astype(str))}): compare assembly and positions"
            )
        self.counts = {"rows of the table that are no variants of the task": len(table) - len(set(rows[rows >= 0].tolist()))}
        matched = values.reset_index(drop=True).reindex(rows).reset_index(drop=True)  # there is no row -1
        stated = next((c for c in matched if str(c).lower().endswith("status")), None)
        status = matched[stated].fillna("OK").astype(str).to_numpy(object) if stated else np.full(len(rows), "OK", object)
        status[rows < 0] = NOT_SCORED
        return matched.assign(status=status)


class OfColumns(OfSource, VariantMethod):
    """What methods on the columns of a source share."""

    source: VariantSource

    def __init__(self, source: VariantSource, mode: str):
        super().__init__(source.name)
        self.source, self.kind, self.mode = source, source.kind, mode

    def _count(self, table: pd.DataFrame) -> None:
        """Which rules scored the variants, where the source says so."""
        self.counts = dict(self.source.counts)
        if "method" in table:
            rules = Counter(str(rule) for rule in table["method"].dropna() if str(rule))
            self.counts |= {f"variants by the rule {rule}": n for rule, n in sorted(rules.items())}


class ScoreColumn(OfColumns):
    """One column of a source as it is.

    Parameters
    ----------
    column
        ``llr``, ``emb_l2``, ``emb_cos``, ``head_<name>``, ... of a checkpoint, or one of a table; None is the only one of numbers.
    scale
        One of `SCALES`.
    family
        The group of scores that a checkpoint must compute for it.
    """

    def __init__(
        self, source: VariantSource, column: str | None = None, scale: str = "log_ratio", family: str = "llr", mode: str = "variant_table"
    ):
        super().__init__(source, mode)
        if scale not in SCALES:
            raise ValueError(f"scores {source.name}: scale={scale!r}; choose {' or '.join(SCALES)}")
        self.column, self.scale, self.family = column, scale, family

    def identity(self, task: TaskSpec | None = None) -> dict[str, Any]:
        return {"source": self.source.identity(task), "column": self.column, "scale": self.scale, "family": self.family}

    def score(self, examples: VariantExamples, seed: int = 0) -> VariantScores:
        table = self.source.table(examples, [self.family])
        self._count(table)
        numeric = [str(c) for c in table.select_dtypes("number")]
        column = self.column or (numeric[0] if len(numeric) == 1 else None)
        if column is None or column not in table:
            raise ValueError(
                f"scores {self.name}: column={self.column!r}; the table has {', '.join(numeric) or 'no numbers'}: name the one to score by"
            )
        values = pd.to_numeric(table[column], errors="coerce").to_numpy(float, na_value=np.nan)
        status = table["status"].astype(str).to_numpy(object)
        status[(status == "OK") & ~np.isfinite(values)] = "NOT_DEFINED"
        return VariantScores(values, self.scale, status)


class VariantProbe(OfColumns):
    """Logistic regression (ridge regression of measured effects) on standardised columns, one chromosome left out at a time.

    The penalty is chosen inside of the other chromosomes, by cross-validation with whole chromosomes. After TraitGym.

    Parameters
    ----------
    columns
        Features; ``|llr|`` is the absolute value of ``llr``. None is all columns of numbers.
    families
        Groups of scores that a checkpoint must compute for them.
    """

    def __init__(
        self,
        source: VariantSource,
        columns: Sequence[str] | None = None,
        families: Sequence[str] = ("llr", "embedding"),
        mode: str = "variant_probe",
    ):
        super().__init__(source, mode)
        self.columns, self.families = list(columns) if columns else None, list(families)

    def identity(self, task: TaskSpec | None = None) -> dict[str, Any]:
        return {
            "source": self.source.identity(task),
            "columns": self.columns,
            "families": self.families,
            "probe": "leave one chromosome out",
        }

    def score(self, examples: VariantExamples, seed: int = 0) -> VariantScores:
        from bmfm.evaluation.probes import leave_one_group_out

        table = self.source.table(examples, self.families)
        self._count(table)
        features = self._features(table)
        known = np.isfinite(features).all(1)
        target = examples.learned_target()
        is_class = examples.card.is_labelled
        values = np.full(len(examples), np.nan)
        learned = target["label" if is_class else "effect"].to_numpy(float)
        values[known] = leave_one_group_out(features[known], learned[known], examples.column("chrom")[known], is_class, seed)
        status = table["status"].astype(str).to_numpy(object)
        status[(status == "OK") & ~known] = "NOT_DEFINED"
        return VariantScores(values, "magnitude", status)

    def _features(self, table: pd.DataFrame) -> np.ndarray:
        """Features [n, F]."""
        columns = self.columns or [str(c) for c in table.select_dtypes("number")]
        plain = [c.strip("|") for c in columns]
        if absent := [c for c in plain if c not in table]:
            raise ValueError(
                f"scores {self.name}: there is no column {absent[0]!r} to learn from; there are {', '.join(map(str, table.columns))}"
            )
        values = table[plain].apply(pd.to_numeric, errors="coerce").to_numpy(float)
        return np.where([c.startswith("|") for c in columns], np.abs(values), values)
