"""What is compared: models as they are, under a probe or fine-tuned, and embeddings made elsewhere.

An entrant has

- ``name`` (shown in tables), ``kind`` (checkpoint, embedding, baseline), ``mode``;
- ``omics`` and ``protocols`` that it takes part in;
- ``deterministic``: whether one seed says all;
- ``identity(card)``: what its figures depend on, for the hash under which finished work is found again;
- ``predict(examples, seed, folder)`` -> {objective: scores of the test part}, and / or
  ``embed(examples, seed)`` -> embeddings [n, H] of all examples: what its protocols ask for;
- ``shared(examples' hash)``: a key of work that several cells of the grid share, or None.
"""

import contextlib
import json
import shutil
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bmfm import __version__
from bmfm.cli import override
from bmfm.evaluation.examples import Examples
from bmfm.evaluation.tasks import TaskSpec, content_hash, read_task
from bmfm.files import cached_folder, require_file
from bmfm.special import IGNORE

READING = ("counts", "gene_column", "orthologs", "expects", "min_matched")
"""Settings of a card's data by which its cells are read."""


class Method:
    """Defaults of what the module's text lists."""

    kind = "baseline"
    mode = "baseline"
    omics: tuple[str, ...] = ("dna", "rna")
    protocols: tuple[str, ...] = ("labels",)
    deterministic = True
    parameters: int | None = None

    def __init__(self, name: str):
        self.name = name

    def identity(self, card: TaskSpec | None = None) -> dict:
        return {"class": type(self).__name__, "name": self.name}

    @property
    def model_hash(self) -> str:
        """SHA-256 of the model, or of a baseline's settings."""
        import hashlib

        return hashlib.sha256(json.dumps(self.identity(), sort_keys=True, default=str).encode()).hexdigest()

    def shared(self, data_hash: str) -> str | None:
        return None


class CheckpointEmbeddings(Method):
    """Embeddings of a model folder or Hub id, made once for a data set and kept in the cache.

    Parameters
    ----------
    pooling
        See `Predictor.embed`; ``auto`` is the model's own.
    precision
        ``bf16``, ``fp16`` or None.
    """

    kind = "checkpoint"
    mode = "zero_shot"
    protocols = ("integration",)

    def __init__(self, name: str, checkpoint: str, pooling: str | int = "auto", remote_code: bool = False, precision: str | None = None):
        super().__init__(name)
        self.checkpoint, self.asked, self.remote_code, self.precision = checkpoint, pooling, remote_code, precision

    @property
    def pooling(self) -> str | int:
        from bmfm.storage.folders import default_pooling

        return self.asked if self.asked != "auto" else default_pooling(self.folder)

    @cached_property
    def folder(self) -> Path:
        from bmfm.storage.folders import find_folder

        return find_folder(self.checkpoint)

    @cached_property
    def model_hash(self) -> str:  # type: ignore[override]
        return content_hash(sorted(p for p in self.folder.iterdir() if p.suffix in (".safetensors", ".bin", ".json", ".txt", ".gz", ".py")))

    @property
    def omics(self) -> tuple[str, ...]:  # type: ignore[override]
        from bmfm.tokenizers.rna import CellTokenizer

        return ("rna",) if (self.folder / CellTokenizer.FILES[0]).is_file() else ("dna",)

    @cached_property
    def parameters(self) -> int | None:  # type: ignore[override]
        from safetensors import safe_open

        n = 0
        for file in self.folder.glob("*.safetensors"):
            with safe_open(file, "np") as tensors:
                n += sum(int(np.prod(tensors.get_slice(k).get_shape())) for k in tensors.keys())  # noqa: SIM118
        return n or None

    def identity(self, card: TaskSpec | None = None) -> dict:
        return {"model": self.model_hash, "pooling": self.pooling, "precision": self.precision}

    def shared(self, data_hash: str) -> str | None:
        return f"{self.model_hash} {data_hash} {self.pooling} {self.precision}"

    def embed(self, examples: Examples, seed: int = 0) -> np.ndarray:
        """Embeddings [n, H] of all examples, from the cache if the same model has seen the same data."""
        config = examples.card.config.data
        options: dict[str, Any] = {"pooling": self.pooling, "precision": self.precision, "max_tokens": int(config.max_tokens)}
        if examples.card.omics == "rna":
            options |= {k: config[k] for k in READING}
        columns = {k: config.get(k) for k in ("sequence", "second")}

        def build(folder: Path) -> None:
            from bmfm.inference import load

            model = load(self.checkpoint, remote_code=self.remote_code)
            np.save(folder / "embedding.npy", model.embed(examples.inputs, **options))
            (folder / "counts.json").write_text(json.dumps(dict(model.counts)))

        key = {"model": self.model_hash, "data": examples.hash, "bmfm": __version__} | options | columns
        folder = cached_folder("embeddings", key, build)
        self.counts = json.loads((folder / "counts.json").read_text())
        return np.load(folder / "embedding.npy")


class PrecomputedEmbeddings(Method):
    """Embeddings made elsewhere: a key of ``.obsm``, or a table with a row for each example.

    Parameters
    ----------
    key
        Of ``.obsm`` in the card's file.
    path
        .parquet, .csv, .tsv or .npy; ``{task}`` stands for the card's name. Rows are matched to the examples by the table's
        first column (of pairs its first two): the names of cells as in ``.obs_names``; the sequence itself, or its SHA-256
        in hexadecimal; or a column that the card's own table has under the same name, with a value for each example alone.
        Rows of the same sequence must agree; rows that are no examples are counted.
    ordered
        Rows are those of the examples in their order (of the files train, dev, test, or of the one file), as whoever made
        the table knows: what an .npy, or a table of numbers alone, needs. A wrong order cannot be seen from such a table.
    """

    kind = "embedding"
    mode = "zero_shot"
    protocols = ("integration",)

    def __init__(self, name: str, key: str | None = None, path: str | None = None, ordered: bool = False):
        super().__init__(name)
        if (key is None) == (path is None):
            raise ValueError(f"embedding {name}: give either key (of .obsm) or path (of a table)")
        self.key, self.path, self.ordered = key, path, ordered
        self.counts: dict[str, int] = {}
        self.omics = ("rna",) if key else ("dna", "rna")

    def identity(self, card: TaskSpec | None = None) -> dict:
        held = content_hash([self._file(card)]) if self.path and card else None
        return {"key": self.key, "path": self.path, "content": held} | ({"ordered": True} if self.ordered else {})

    def _file(self, card: TaskSpec) -> Path:
        return require_file(str(self.path).replace("{task}", card.name), f"embedding {self.name}: table")

    def embed(self, examples: Examples, seed: int = 0) -> np.ndarray:
        if self.key:
            if self.key not in examples.adata.obsm:
                raise ValueError(f"{examples.card.name}: .obsm has no {self.key!r}; it has {', '.join(examples.adata.obsm) or 'nothing'}")
            return np.asarray(examples.adata.obsm[self.key], np.float32)
        file, n = self._file(examples.card), len(examples.inputs)
        table = pd.DataFrame(np.load(file)) if file.suffix == ".npy" else _read_named(file, examples)
        keys = _key_columns(table, examples)
        figures = table.drop(columns=keys)
        if text := [str(c) for c, t in figures.dtypes.items() if not pd.api.types.is_numeric_dtype(t)]:
            raise ValueError(f"{file}: column {text[0]!r} is text; an embedding is a column of numbers for each dimension")
        found = figures.to_numpy(np.float32, na_value=np.nan)
        if (bad := np.flatnonzero(~np.isfinite(found).all(1))).size:
            raise ValueError(f"{file}: {len(bad):,} rows hold what is not finite (first: row {int(bad[0]) + 1} of the table)")
        if keys:
            rows = _match(table[keys], found, examples, file)
            self.counts = {"rows of the table that are no examples": len(table) - len(set(rows))}
            return found[rows]
        if not self.ordered:
            raise ValueError(
                f"{file} does not say which row is which example: give it a first column with {_names_wanted(examples)}; "
                f"or, where its rows are in the order of the {n:,} examples, say so: embeddings={{{self.name}: {{path: ..., ordered: true}}}}"
            )
        if len(found) != n:
            raise ValueError(f"{file} holds {len(found):,} rows, {examples.card.name} has {n:,} examples: one row each is needed")
        return found


def _read_named(file: Path, examples: Examples) -> pd.DataFrame:
    """A table, names of its rows (of an index) as its first column; names of cells to the letter, as 001 and 1e5."""
    from bmfm.data.tables import read_table

    if examples.card.omics == "dna":
        table = read_table(file)
        return table if isinstance(table.index, pd.RangeIndex) else table.reset_index()
    table = read_table(file, ids=[0])
    table = table if isinstance(table.index, pd.RangeIndex) else table.reset_index()
    first = table.columns[0]
    if not set(examples.adata.obs_names.astype(str)) <= set(table[first]):
        with contextlib.suppress(ValueError, TypeError):  # other names, which are refused by what they lack
            table[first] = pd.to_numeric(table[first])
    return table


def _key_columns(table: pd.DataFrame, examples: Examples) -> list:
    """The leading columns that say which example a row is: text, or named like a column of the card's table."""
    first = table.columns[0]
    numbers = pd.api.types.is_numeric_dtype(table.dtypes.iloc[0])
    if numbers and not (examples.card.omics == "dna" and first in examples.data.table):
        if str(first).startswith("Unnamed") or first in ("index", "id"):
            raise ValueError(
                f"the first column {first!r} of the embeddings numbers rows: leave it out (to_csv(index=False)), or name examples in it"
            )
        return []
    pairs = examples.card.omics == "dna" and examples.inputs.ndim == 2 and first not in _unique_columns(examples)
    return list(table.columns[: 2 if pairs else 1])


def _unique_columns(examples: Examples) -> list:
    """Columns of the card's own table that name each example."""
    return [c for c in examples.data.table if examples.data.table[c].is_unique] if examples.card.omics == "dna" else []


def _names_wanted(examples: Examples) -> str:
    if examples.card.omics == "rna":
        return "the names of cells as in .obs_names"
    return "the sequences" if examples.inputs.ndim == 1 else "the first sequences, and a second with the second ones"


def _match(named: pd.DataFrame, figures: np.ndarray, examples: Examples, file: Path) -> list[int]:
    """The row of each example, of a table's names and figures [rows, H]."""
    import hashlib

    def joined(frame: pd.DataFrame) -> list[str]:
        return ["\t".join(row) for row in zip(*(frame[c].astype(str) for c in frame), strict=True)]

    given, first = joined(named), named.columns[0]
    if examples.card.omics == "rna":
        names = examples.adata.obs_names.astype(str).tolist()
        if len(set(names)) < len(names):
            if given == names:
                return list(range(len(names)))
            raise ValueError(
                f"{examples.card.name}: several cells have one name, so that rows must have the cells' names in their order; {file} has others"
            )
    elif first in _unique_columns(examples):
        names = joined(examples.data.table[[first]])
    else:
        names = joined(examples.inputs if examples.inputs.ndim == 2 else examples.inputs.to_frame())
        if all(len(g) == 64 for g in given) and not set(names) & set(given):
            names = [hashlib.sha256(name.encode()).hexdigest() for name in names]
    place: dict[str, int] = {}
    for row, name in enumerate(given):
        if name in place and not np.array_equal(figures[place[name]], figures[row]):
            raise ValueError(f"{file} has several rows named {name[:40]!r}, which differ")
        place.setdefault(name, row)
    if absent := [name for name in names if name not in place]:
        raise ValueError(
            f"{file} has no row for {len(absent):,} of {len(names):,} examples of {examples.card.name} (first: {absent[0][:40]!r}); "
            f"its column {first!r} must hold {_names_wanted(examples)}"
        )
    return [place[name] for name in names]


class Probe(Method):
    """A simple estimator on an entrant's embeddings (see `probes.estimator`); without embeddings, on simple features.

    Parameters
    ----------
    source
        What embeds.
    method
        ``linear`` or ``knn``.
    """

    def __init__(self, source: Any, method: str = "linear"):
        super().__init__(source.name)
        self.source, self.method = source, method
        self.kind, self.omics, self.parameters = source.kind, source.omics, source.parameters
        self.mode = f"{method}_probe" if source.kind != "baseline" else "baseline"
        self.deterministic = source.deterministic

    def identity(self, card: TaskSpec | None = None) -> dict:
        return {"source": self.source.identity(card), "method": self.method}

    @property
    def model_hash(self) -> str:
        return self.source.model_hash

    def shared(self, data_hash: str) -> str | None:
        return self.source.shared(data_hash)

    @property
    def counts(self) -> dict:
        return getattr(self.source, "counts", {})

    def predict(self, examples: Examples, seed: int, folder: Path) -> dict[str, np.ndarray]:
        from bmfm.evaluation.probes import estimator

        embedded = finite(self.source.embed(examples, seed), examples)
        rows = {part: embedded[numbers] for part, numbers in examples.parts.items()}
        return {
            name: fit_and_predict(estimator(kind, self.method, seed), kind, len(classes), rows, examples, name)
            for name, (kind, classes) in examples.kinds.items()
        }


def finite(embedded: np.ndarray, examples: Examples) -> np.ndarray:
    """Embeddings [n, H] as they are; ValueError, naming the first example, where any is NaN or infinite."""
    if (bad := np.flatnonzero(~np.isfinite(embedded).all(1))).size:
        raise ValueError(
            f"{examples.card.name}: {len(bad):,} of {len(embedded):,} embeddings are not finite (first: {examples.data.where(int(bad[0]))}); "
            "they cannot be scored: embed without half precision, or mend the model's weights"
        )
    return embedded


def fit_and_predict(estimator, kind: str, n_classes: int, rows: dict[str, Any], examples: Examples, name: str) -> np.ndarray:
    """Scores of the test part [n, C], or numbers [n], by an estimator that sees the training part alone."""
    labels = examples.labels("train", name)
    if kind == "classification":
        given = labels != IGNORE
        estimator.fit(rows["train"][given], labels[given])
        return estimator.predict_proba(rows["test"])
    if kind == "multilabel":
        given = ~np.isnan(labels).any(1)
        estimator.fit(rows["train"][given], labels[given].astype(int))
        said = estimator.predict_proba(rows["test"])
        return said if not isinstance(said, list) else np.stack([p[:, -1] if p.shape[1] > 1 else np.zeros(len(p)) for p in said], 1)
    if kind == "regression":
        given = ~np.isnan(labels)
        return estimator.fit(rows["train"][given], labels[given]).predict(rows["test"])
    raise ValueError(f"{examples.card.name}: labels of {kind} are not for simple estimators")


class FineTuned(Method):
    """A checkpoint trained further on the task, all of it or by adapters; the best on validation predicts the test part.

    Parameters
    ----------
    overrides
        Of the training configuration, as on the command line.
    lora
        Settings of adapters, see `checkpoints.load.from_checkpoint`; None trains all weights.
    scratch
        The same network from new weights: what pretraining is worth.
    keep
        Leave the trained model in the cell's folder.
    """

    kind = "checkpoint"
    deterministic = False

    def __init__(self, name: str, checkpoint: str, overrides: list[str] | None = None, lora: dict | None = None,
                 scratch: bool = False, remote_code: bool = False, keep: bool = False):  # fmt: skip
        super().__init__(name)
        self.checkpoint, self.overrides, self.lora = checkpoint, list(overrides or []), lora
        self.scratch, self.remote_code, self.keep = scratch, remote_code, keep
        self.source = CheckpointEmbeddings(name, checkpoint, remote_code=remote_code)
        self.mode = "from_scratch" if scratch else "lora" if lora else "finetune"

    @property
    def omics(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.source.omics

    @property
    def parameters(self) -> int | None:  # type: ignore[override]
        return self.source.parameters

    @property
    def model_hash(self) -> str:
        return self.source.model_hash

    def identity(self, card: TaskSpec | None = None) -> dict:
        return {"model": self.model_hash, "overrides": self.overrides, "lora": self.lora, "scratch": self.scratch}

    def predict(self, examples: Examples, seed: int, folder: Path) -> dict[str, np.ndarray]:
        from bmfm.inference import load
        from bmfm.training.run import train

        run = folder / "run"
        settings = [
            override("checkpoint", self.checkpoint), override("run_dir", run), override("data_root", examples.card.config.data_root),
            f"seed={seed}", "overwrite=true", "test=false", "logistic_regression=false", "trainer.enable_progress_bar=false",
            "callbacks.progress=null", override("remote_code", self.remote_code), override("model.random_init", self.scratch),
            override("++data.split.seed", examples.card.config.data.split.get("seed", 0)),  # the parts stay whatever the seed
        ]  # fmt: skip
        if self.lora:
            settings.append(override("model.lora", self.lora))
        card = read_task(examples.card.name, [*settings, *self.overrides])
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "log.txt").open("w") as log, contextlib.redirect_stdout(log):
            train(card.config)
            model = load(run / "model", remote_code=self.remote_code)
            said = model.predict(examples.of("test"), **self._reading(card))
            self.counts = dict(model.counts)
        if not self.keep:
            shutil.rmtree(run / "model")
        shutil.rmtree(run / "checkpoints", ignore_errors=True)
        between = {name: head.get("separator", "") for name, head in model.labels.items()}
        return {name: _scores(said, name, kind, classes, between[name]) for name, (kind, classes) in examples.kinds.items()}

    @staticmethod
    def _reading(card) -> dict:
        data = card.config.data
        options = {"max_tokens": int(data.max_tokens)}
        return options | ({k: data[k] for k in READING} if card.omics == "rna" else {})


def _scores(said: pd.DataFrame, name: str, kind: str, classes: list[str], separator: str) -> np.ndarray:
    if kind == "bases":
        return np.array([*(t.split(separator) if separator else list(t) for t in said[name]), None], object)[:-1]
    if kind == "regression":
        return said[name].to_numpy()
    return said[[f"{name}_p_{c}" for c in classes]].to_numpy(float)
