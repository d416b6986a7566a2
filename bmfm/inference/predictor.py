"""The one path from data to embeddings and predictions of a trained model."""

import inspect
import warnings
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import pandas as pd
import torch

from bmfm.checkpoints.load import ADAPTER, adapter_base, allow_remote_code, check_vocabulary, read_adapter, read_model, read_tokenizer
from bmfm.inference.annotate import annotate, check_annotated, free_name
from bmfm.inference.cells import read_cells, without_empty
from bmfm.inference.inputs import Inputs
from bmfm.inference.sequences import tokenize_sequences
from bmfm.label_kinds import Classification, MultiLabel, kind_of
from bmfm.models.model import BmfmModel
from bmfm.special import CLS, PAD
from bmfm.storage.folders import find_folder, written_files
from bmfm.tokenizers.collate import collate, to_tensors
from bmfm.tokenizers.rna import CellTokenizer

PRECISIONS = {None: None, "fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def load(
    name: str | Path,
    attention: str = "auto",
    device: str | None = None,
    revision: str | None = None,
    remote_code: bool = False,
    adapter: str | Path | None = None,
) -> "Predictor":
    """A model with its tokenizer.

    Parameters
    ----------
    name
        Model folder, or Hub id; or the ``adapter`` folder of a run, which names its model.
    device
        ``cpu``, ``cuda``, ...; None takes a GPU if there is one.
    remote_code
        Run Python code that comes with a model of others; without it such a model is refused.
    adapter
        The ``adapter`` folder of a run that trained this model by LoRA; it is merged into the model.

    Raises
    ------
    FileNotFoundError, ValueError
        Naming the file and the key that is absent, damaged or does not fit.
    """
    if adapter is None and (Path(name).expanduser() / ADAPTER[0]).is_file():
        name, adapter = adapter_base(Path(name).expanduser()), name
    folder = find_folder(name, revision)
    with allow_remote_code(remote_code):
        if adapter is None:
            model, tokenizer = read_model(folder), read_tokenizer(folder)
        else:
            model, tokenizer = read_adapter(Path(adapter).expanduser(), folder)
    check_vocabulary(model, tokenizer, folder)
    model.use_attention(attention)
    return Predictor(model, tokenizer, device, folder if adapter is None else None)


class Predictor:
    """A model and its tokenizer; printing it says what it is.

    Attributes
    ----------
    counts
        What the last call saw: examples, tokens, and what was truncated or unknown.
    match
        How the genes of the last AnnData were found.
    inputs
        What the last call ran on.
    """

    def __init__(self, model: BmfmModel, tokenizer: Any, device: str | None = None, folder: Path | None = None):
        self.folder = folder
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.model, self.tokenizer = model.to(self.device).eval(), tokenizer
        self.counts: Counter[str] = Counter()
        self.match: Any = None
        self.inputs: Inputs

    def __repr__(self) -> str:
        config, n = self.model.config, sum(p.numel() for p in self.model.parameters())
        what = "single-cell RNA" if self.is_rna else "DNA"
        a, b = self.tokenizer.plain_ids
        words = f"{b - a:,} {'genes' if self.is_rna else 'tokens'}, [CLS] x {self._n_cls}"
        lines = [
            f"Predictor of {what}: {config.backbone['kind']}, {n / 1e6:,.1f} M parameters",
            f"  context     {self.max_tokens:,} tokens",
            f"  vocabulary  {words}",
            f"  pooling     {config.pooling}",
            *(f"  head        {_head_line(name, head)}" for name, head in config.heads.items()),
            f"  device      {self.device}",
            f"  folder      {self.folder or '(none)'}",
        ]
        return "\n".join(lines)

    @property
    def _n_cls(self) -> int:
        return self.tokenizer.n_cls if self.is_rna else 1

    @property
    def is_rna(self) -> bool:
        return isinstance(self.tokenizer, CellTokenizer)

    @property
    def labels(self) -> dict[str, dict]:
        """The label heads, {name: description}."""
        return {n: h for n, h in self.model.config.heads.items() if "pooling" in h}

    def check_pooling(self, pooling: str | int | None) -> str | int:
        """As `BmfmModel.check_pooling`, and the number of a CLS token must be one that the tokenizer writes."""
        pooling = self.model.check_pooling(pooling)
        if isinstance(pooling, int):
            if pooling >= self._n_cls:
                there = "one CLS token, number 0" if self._n_cls == 1 else f"{self._n_cls} CLS tokens, numbers 0 to {self._n_cls - 1}"
                raise ValueError(f"pooling={pooling}: this model has {there}; or choose mean")
            if not self.is_rna:
                self.tokenizer.check_cls(pooling, f"pooling={pooling}")
        return pooling

    def embed(self, data: Any, pooling: str | int | None = None, layer: int | None = None, **options) -> np.ndarray:
        """Embeddings [n, H], float32.

        Parameters
        ----------
        data
            Cells: an AnnData, a DataFrame of cells x genes, or a path, pattern or folder of files, or a list of these
            (`inference.cells.read_cells`). DNA: sequences, pairs of them, or path of a FASTA.
        pooling
            Number of a CLS token, ``mean``, ``mean_all`` or ``pooler``, see `BmfmModel.pool`; None is the model's own.
        layer
            Take the states after this layer (0 is the first) rather than the last.
        options
            ``batch_size``, ``max_tokens``, ``precision`` (``fp32``, ``bf16``, ``fp16``), ``progress`` (None shows a bar
            on stderr if there is work for more than three seconds); of cells ``counts``, ``gene_column``, ``orthologs``,
            ``expects``, ``min_matched``, ``depth_target``, ``order``, see `inference.cells.read_cells`.
        """
        embedded, _ = self.embed_and_predict(data, True, False, pooling, layer, **options)
        assert embedded is not None
        return embedded

    def predict(self, data: Any, **options) -> pd.DataFrame:
        """Classes with their probabilities, or numbers, for every label head; rows as in the data.

        Nothing is predicted for a cell without any gene of the vocabulary: its row is missing (None, NaN).
        """
        _, said = self.embed_and_predict(data, False, True, **options)
        assert said is not None
        return said

    def embed_and_predict(
        self, data: Any, embeddings: bool, predictions: bool, pooling: str | int | None = None, layer: int | None = None, **options
    ) -> tuple[np.ndarray | None, pd.DataFrame | None]:
        """Both from one pass; None for what is not asked for. See `embed` and `predict`."""
        if layer is not None and predictions:
            raise ValueError("layer chooses the states of embeddings: ask for predictions=false with it")
        if predictions and not self.labels:
            raise ValueError(f"this model has no label heads, only {', '.join(self.model.config.heads) or 'none'}: fine-tune it first")
        wanted: dict[str, Callable] = {}
        if embeddings:
            wanted["embedding"] = partial(self._pool, self.check_pooling(pooling))
        if predictions:
            for name, head in self.labels.items():
                wanted[f"label {name}"] = partial(self._token_classes if head["pooling"] == "token" else self._logits, name)
        if not wanted:
            raise ValueError("nothing is asked for: embeddings=true or, with label heads, predictions=true")
        out = self._run(data, wanted, layer, **options)
        said = self._frame({n: out[f"label {n}"] for n in self.labels}, self.inputs.names) if predictions else None
        if said is not None and self.inputs.empty is not None:
            said = without_empty(said, self.inputs.empty)
        return out.get("embedding"), said

    def annotate(self, adata: Any, pooling: str | int | None = None, overwrite: bool = False, **options) -> dict[str, str]:
        """Write embeddings and, of a model with label heads, predictions into an AnnData; see `inference.annotate.annotate`.

        Results go to rows by their place, so that cells' names may repeat, and beside what is there: ``.obsm["X_bmfm"]``,
        and ``.obs["cell_type_predicted"]`` where there is a ``cell_type``. Returns {result: where it was written}.
        """
        check_annotated(adata)
        embedded, said = self.embed_and_predict(adata, True, bool(self.labels), pooling, **options)
        return annotate(adata, embedded, said, overwrite)

    def push_to_hub(self, repo_id: str, private: bool = True, token: str | None = None, message: str = "Upload model") -> str:
        """Upload what the package wrote into the model's folder (weights, tokenizer, card, recipe; of models of others their
        code) to the Hub, and nothing else that lies there; returns the address of the commit."""
        from huggingface_hub import HfApi

        if self.folder is None:
            raise ValueError("this model was not loaded from a folder: save it first, and load that")
        files = written_files(self.folder)
        api = HfApi(token=token)
        api.create_repo(repo_id, private=private, exist_ok=True)
        return str(api.upload_folder(repo_id=repo_id, folder_path=str(self.folder), allow_patterns=files, commit_message=message))

    def _pool(self, pooling: str | int, hidden_BLH: torch.Tensor, batch: dict) -> torch.Tensor:
        return self.model.pool(hidden_BLH, batch, pooling)

    def _logits(self, name: str, hidden_BLH: torch.Tensor, batch: dict) -> torch.Tensor:
        return self.model.head(name, self.model.pool(hidden_BLH, batch, self.labels[name]["pooling"]))

    def _token_classes(self, name: str, hidden_BLH: torch.Tensor, batch: dict) -> torch.Tensor:
        """Number of the likeliest class at each token [B, room for tokens], -1 where logits are no numbers; those beyond an
        example's end mean nothing."""
        logits = self.model.head(name, hidden_BLH[:, 1:].flatten(0, 1))
        first = torch.where(logits.isfinite().all(1), logits.argmax(1), -1).view(len(hidden_BLH), -1)
        return torch.nn.functional.pad(first, (0, max(0, self.inputs.room - first.shape[1])))[:, : self.inputs.room]

    def _frame(self, logits: dict[str, np.ndarray], index) -> pd.DataFrame:
        """Predictions from the logits of every label head; none (None, NaN) from logits that are NaN or infinite, with a warning."""
        columns: dict[str, Any] = {}
        bad = np.zeros(len(index), bool)
        for name, values in logits.items():
            head, kind = self.labels[name], kind_of(self.labels[name], f"heads.{name}")
            if isinstance(kind, Classification | MultiLabel) and not kind.classes:
                raise ValueError(f"the head {name!r} has no names of classes in config.json, heads.{name}.classes: write them there")
            if head["pooling"] == "token":
                columns[name] = self._of_bases(head, values.astype(np.int64))
                bad |= np.array([said is None for said in columns[name]], bool)
                continue
            odd = ~np.isfinite(values).all(1)
            bad |= odd
            for ending, column in kind.columns(kind.scores(np.where(odd[:, None], 0, values))).items():
                # a head may be called as another's probability is
                key = free_name(name + ending, {*columns, *logits}) if ending else name
                columns[key] = np.where(odd, None, column) if column.dtype == object else np.where(odd, np.nan, column).astype(values.dtype)
        if bad.any():
            warnings.warn(
                f"the model gives NaN or infinite numbers for {bad.sum():,} of {len(bad):,} examples (first: {index[int(bad.argmax())]}): "
                "nothing is predicted for them; precision=fp32 is the widest range of numbers",
                stacklevel=3,
            )
        return pd.DataFrame(columns, index=index)

    def _of_bases(self, head: dict, numbers: np.ndarray) -> list[str | None]:
        """The class of every base of every sequence, from those of the tokens of windows [n, room]; None where one has none."""
        classes, out = np.array(head["classes"], object), [[] for _ in range(len(self.inputs.names))]  # type: ignore[var-annotated]
        without: set[int] = set()
        for (ids, owner), row in zip(self.inputs.windows, numbers, strict=True):
            without |= {owner} if (row[: len(ids)] < 0).any() else set()
            out[owner] += np.repeat(classes[row[: len(ids)]], self.tokenizer.lengths(ids)).tolist()
        return [None if i in without else head["separator"].join(bases) for i, bases in enumerate(out)]

    def _run(self, data: Any, wanted: dict[str, Callable], layer: int | None, batch_size: int = 32, max_tokens: int | None = None,
             precision: str | None = None, progress: bool | None = None, parts: Path | None = None, **options) -> dict[str, np.ndarray]:  # fmt: skip
        """Every wanted function of (hidden states, batch) for all examples, {name: [n, ...]}."""
        reader: Callable = read_cells if self.is_rna else tokenize_sequences
        takes = set(inspect.signature(reader).parameters) - {"tokenizer", "data", "max_tokens"}
        if unknown := sorted(options.keys() - takes):
            known = ", ".join(["batch_size", "max_tokens", "precision", "progress", *sorted(takes)])
            raise ValueError(f"{', '.join(unknown)}: no such option for a model of {'cells' if self.is_rna else 'DNA'}; there are {known}")
        for what, number in (("batch_size", batch_size), ("max_tokens", max_tokens)):
            if number is not None and (isinstance(number, bool) or not isinstance(number, int | np.integer) or number < 1):
                raise ValueError(f"{what}={number!r} must be a whole number of at least 1")
        if precision not in PRECISIONS:
            raise ValueError(f"precision={precision!r} is unknown; choose fp32 (or none), bf16 or fp16")
        if layer is not None and not -len(self.model.backbone.layers) <= layer < len(self.model.backbone.layers):
            raise ValueError(f"layer {layer} does not exist: the model has {len(self.model.backbone.layers)}")
        limit = min(max_tokens or self.max_tokens, getattr(self.tokenizer, "max_tokens", None) or 1 << 40)
        self.inputs = reader(self.tokenizer, data, limit, **options)
        n, self.counts, self.match = self.inputs.n, self.inputs.counts, self.inputs.match
        out: dict[str, np.ndarray] = {}
        bar = _progress(n, progress)
        if parts is not None:
            parts.mkdir(parents=True, exist_ok=True)
        for start, examples in self.inputs.chunks:
            done = parts / f"{start}.npz" if parts is not None else None
            found = _finished(done)
            if found:
                bar.update(len(examples))
            else:
                found = self._chunk(examples, wanted, layer, batch_size, precision, bar)
                if done is not None:
                    partial = done.with_suffix(".partial.npz")
                    np.savez(partial, **found)  # type: ignore[arg-type]
                    partial.rename(done)
            for name, values in found.items():
                out.setdefault(name, np.empty((n, *values.shape[1:]), np.float32))[start : start + len(values)] = values
        bar.close()
        per_token = {f"label {n}" for n, head in self.labels.items() if head["pooling"] == "token"}
        if self.inputs.owner is None or self.inputs.weight is None:
            return out
        return {n: v if n in per_token else _means(v, self.inputs.owner, self.inputs.weight) for n, v in out.items()}

    def _chunk(
        self, examples: list, wanted: dict, layer: int | None, batch_size: int, precision: str | None, bar: Any
    ) -> dict[str, np.ndarray]:
        """As `_run`, for some examples: those of like length together, so that there is little padding."""
        order = np.argsort([-len(e[0]) for e in examples], kind="stable")
        batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
        found = []
        for batch in batches:
            found.append(self._forward([examples[i] for i in batch], wanted, layer, precision))
            bar.update(len(batch))
        back = np.argsort(order)
        return {name: np.concatenate([f[name] for f in found])[back] for name in wanted}

    @property
    def max_tokens(self) -> int:
        """Longest input where nothing else is said: what the model was trained with, or its positions."""
        trained = getattr(self.model.config, "max_tokens", None) or getattr(self.model.backbone.config, "max_position_embeddings", None)
        return int(trained or 2048)

    @torch.inference_mode()
    def _forward(self, examples: list, wanted: dict, layer: int | None, precision: str | None) -> dict[str, np.ndarray]:
        ids = [e[0] for e in examples]
        offsets = np.concatenate([[0], np.cumsum([len(i) for i in ids])]).astype(np.int64)
        prefix = self.tokenizer.prefix if self.is_rna else np.array([CLS])
        flat = {"values": (np.concatenate([e[1] for e in examples]), -(PAD + 1.0))} if self.is_rna else {}
        positions = self.tokenizer.positions if self.is_rna else True
        laid = collate(np.concatenate(ids), offsets, prefix, flat, None, positions)
        if self.is_rna:
            self.tokenizer.finish_values(laid, np.diff(offsets), np.stack([e[2] for e in examples]) if self.tokenizer.has_depth else None)
        batch = to_tensors(laid)
        batch = {k: v.to(self.device) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
        kind = PRECISIONS[precision]
        with torch.autocast(self.device.type, kind, enabled=kind is not None):
            hidden = self.model.encode(batch) if layer is None else self._layer(batch, layer)
            return {name: function(hidden, batch).float().cpu().numpy() for name, function in wanted.items()}

    def _layer(self, batch: dict, number: int) -> torch.Tensor:
        caught: list = []
        hook = self.model.backbone.layers[number].register_forward_hook(lambda module, args, output: caught.append(output))
        try:
            self.model.encode(batch)
        finally:
            hook.remove()
        hidden = caught[0][0] if isinstance(caught[0], tuple) else caught[0]
        absent = batch["input_ids"].shape[1] - hidden.shape[1]  # where a model of others has no [CLS]
        return torch.nn.functional.pad(hidden, (0, 0, absent, 0))


def _finished(part: Path | None) -> dict[str, np.ndarray]:
    """Results of a finished part; none where there is no such file, or it is damaged."""
    if part is None or not part.exists():
        return {}
    try:
        return dict(np.load(part, allow_pickle=False))
    except (OSError, ValueError, EOFError, BadZipFile):
        return {}


def _means(values: np.ndarray, owner: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Weighted mean of the rows of each owner, in the order of owners."""
    sums = np.zeros((owner[-1] + 1, *values.shape[1:]))
    np.add.at(sums, owner, values * weight[:, None])
    return (sums / np.bincount(owner, weights=weight)[:, None]).astype(np.float32)


def _head_line(name: str, head: dict) -> str:
    classes = head.get("classes") or []
    said = (
        f"{len(classes)} classes ({', '.join(map(str, classes[:4]))}{', ...' if len(classes) > 4 else ''})"
        if classes
        else f"{head['size']:,} outputs"
    )
    return f"{name}: {said}" + (f", pooling {head['pooling']}" if "pooling" in head else "")


def _progress(n: int, shown: bool | None):
    """A bar on stderr: shown, not shown, or (None) only once three seconds have passed."""
    from tqdm.auto import tqdm

    return tqdm(total=n, unit="example", disable=shown is False, delay=0 if shown else 3)
