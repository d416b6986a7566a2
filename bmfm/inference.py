"""Embeddings and predictions of a trained model: three lines of Python, or ``python -m bmfm.predict``.

>>> model = bmfm.load("runs/rna_multitask/model")
>>> adata.obsm["X_bmfm"] = model.embed(adata)
>>> adata.obs = adata.obs.join(model.predict(adata))
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from bmfm.data.collate import collate, to_tensors
from bmfm.models.folders import FILES, find_folder
from bmfm.models.load import allow_remote_code, read_model, read_tokenizer
from bmfm.models.model import BmfmModel
from bmfm.special import CLS, PAD, SEP, UNK
from bmfm.tokenizers.dna import refuse_unknown, rna_as_dna
from bmfm.tokenizers.rna import CellTokenizer

CHUNK = 2048  # examples that are tokenized, sorted by length and cut into batches at a time


def load(
    name: str | Path, attention: str = "auto", device: str | None = None, revision: str | None = None, remote_code: bool = False
) -> "Predictor":
    """A model with its tokenizer.

    Parameters
    ----------
    name
        Model folder, or Hub id.
    device
        ``cpu``, ``cuda``, ...; None takes a GPU if there is one.
    remote_code
        Run Python code that comes with a model of others; without it such a model is refused.
    """
    folder = find_folder(name, revision)
    with allow_remote_code(remote_code):
        model, tokenizer = read_model(folder), read_tokenizer(folder)
    model.use_attention(attention)
    return Predictor(model, tokenizer, device, folder)


class Predictor:
    """A model and its tokenizer.

    Attributes
    ----------
    counts
        What the last call saw: examples, tokens, and what was truncated or unknown.
    match
        How the genes of the last AnnData were found.
    """

    def __init__(self, model: BmfmModel, tokenizer: Any, device: str | None = None, folder: Path | None = None):
        self.folder = folder
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.model, self.tokenizer = model.to(self.device).eval(), tokenizer
        self.counts: Counter[str] = Counter()
        self.match: Any = None

    @property
    def is_rna(self) -> bool:
        return isinstance(self.tokenizer, CellTokenizer)

    @property
    def labels(self) -> dict[str, dict]:
        """The label heads, {name: description}."""
        return {n: h for n, h in self.model.config.heads.items() if "pooling" in h}

    def embed(self, data: Any, pooling: str | int = 0, layer: int | None = None, **options) -> np.ndarray:
        """Embeddings [n, H], float32.

        Parameters
        ----------
        data
            AnnData, or path of .h5ad/zarr (cells); sequences, pairs of them, or path of a FASTA (DNA).
        pooling
            Number of a CLS token, ``mean`` over tokens, or ``pooler``.
        layer
            Take the states after this layer (0 is the first) rather than the last.
        options
            ``batch_size``, ``max_tokens``, ``precision`` (``bf16``, ``fp16``), ``progress``; of cells ``counts``,
            ``gene_column``, ``expects``.
        """
        embedded, _ = self.embed_and_predict(data, True, False, pooling, layer, **options)
        assert embedded is not None
        return embedded

    def predict(self, data: Any, **options) -> pd.DataFrame:
        """Classes with their probabilities, or numbers, for every label head; rows as in the data."""
        _, said = self.embed_and_predict(data, False, True, **options)
        assert said is not None
        return said

    def embed_and_predict(
        self, data: Any, embeddings: bool, predictions: bool, pooling: str | int = 0, layer: int | None = None, **options
    ) -> tuple[np.ndarray | None, pd.DataFrame | None]:
        """Both from one pass; None for what is not asked for. See `embed` and `predict`."""
        if layer is not None and predictions:
            raise ValueError("layer chooses the states of embeddings: ask for predictions=false with it")
        if predictions and not self.labels:
            raise ValueError(f"this model has no label heads, only {', '.join(self.model.config.heads) or 'none'}: fine-tune it first")
        wanted: dict[str, Callable] = {"embedding": lambda h, b: self.model.pool(h, b, pooling)} if embeddings else {}
        if predictions:
            for name, head in self.labels.items():
                wanted[f"label {name}"] = partial(self._token_classes if head["pooling"] == "token" else self._logits, name)
        if not wanted:
            raise ValueError("nothing is asked for: embeddings=true or, with label heads, predictions=true")
        out = self._run(data, wanted, layer, **options)
        said = self._frame({n: out[f"label {n}"] for n in self.labels}, self.names) if predictions else None
        return out.get("embedding"), said

    def push_to_hub(self, repo_id: str, private: bool = True, token: str | None = None, message: str = "Upload model") -> str:
        """Upload the folder that the model came from (weights, tokenizer, card) to the Hub; returns the address of the commit."""
        from huggingface_hub import HfApi

        if self.folder is None:
            raise ValueError("this model was not loaded from a folder: save it first, and load that")
        api = HfApi(token=token)
        api.create_repo(repo_id, private=private, exist_ok=True)
        kinds = [*FILES, "*.md"]
        return str(api.upload_folder(repo_id=repo_id, folder_path=str(self.folder), allow_patterns=kinds, commit_message=message))

    def _logits(self, name: str, hidden_BLH: torch.Tensor, batch: dict) -> torch.Tensor:
        return self.model.head(name, self.model.pool(hidden_BLH, batch, self.labels[name]["pooling"]))

    def _token_classes(self, name: str, hidden_BLH: torch.Tensor, batch: dict) -> torch.Tensor:
        """Number of the likeliest class at each token [B, room for tokens]; those beyond an example's end mean nothing."""
        first = self.model.head(name, hidden_BLH[:, 1:].flatten(0, 1)).argmax(1).view(len(hidden_BLH), -1)
        return torch.nn.functional.pad(first, (0, max(0, self._room - first.shape[1])))[:, : self._room]

    def _frame(self, logits: dict[str, np.ndarray], index) -> pd.DataFrame:
        columns: dict[str, Any] = {}
        for name, values in logits.items():
            head, classes = self.labels[name], self.labels[name]["classes"]
            if head["pooling"] == "token":
                columns[name] = self._of_bases(head, values.astype(np.int64))
                continue
            if head["kind"] == "mse":
                columns[name] = values[:, 0] * head.get("scale", 1.0) + head.get("center", 0.0)
                continue
            if head["kind"] == "binary_cross_entropy":
                chance = 1 / (1 + np.exp(-values))
                columns[name] = ["|".join(c for c, p in zip(classes, row, strict=True) if p > 0.5) for row in chance]
            else:
                chance = np.exp(values - values.max(1, keepdims=True))
                chance /= chance.sum(1, keepdims=True)
                columns[name] = np.array(classes, object)[values.argmax(1)]
            columns |= {f"{name}_p_{c}": chance[:, i] for i, c in enumerate(classes)}
        return pd.DataFrame(columns, index=index)

    def _of_bases(self, head: dict, numbers: np.ndarray) -> list[str]:
        """The class of every base of every sequence, from those of the tokens of windows [n, room]."""
        classes, out = np.array(head["classes"], object), [[] for _ in range(len(self.names))]  # type: ignore[var-annotated]
        for (ids, owner), row in zip(self._windows, numbers, strict=True):
            out[owner] += np.repeat(classes[row[: len(ids)]], self.tokenizer.lengths(ids)).tolist()
        return [head["separator"].join(bases) for bases in out]

    def _run(self, data: Any, wanted: dict[str, Callable], layer: int | None, batch_size: int = 32, max_tokens: int | None = None,
             precision: str | None = None, progress: bool = False, parts: Path | None = None, **options) -> dict[str, np.ndarray]:  # fmt: skip
        """Every wanted function of (hidden states, batch) for all examples, {name: [n, ...]}."""
        self.counts = Counter()
        read = self._cells if self.is_rna else self._sequences
        limit = getattr(self.tokenizer, "max_tokens", None)
        n, owner, chunks = read(data, min(max_tokens or self.max_tokens, limit or 1 << 40), **options)
        out: dict[str, np.ndarray] = {}
        bar = _progress(n) if progress else None
        if parts is not None:
            parts.mkdir(parents=True, exist_ok=True)
        for start, examples in chunks:
            done = parts / f"{start}.npz" if parts is not None else None
            if done is not None and done.exists():
                found = dict(np.load(done))
            else:
                found = self._chunk(examples, wanted, layer, batch_size, precision)
                if done is not None:
                    partial = done.with_suffix(".partial.npz")
                    np.savez(partial, **found)  # type: ignore[arg-type]
                    partial.rename(done)
            for name, values in found.items():
                out.setdefault(name, np.empty((n, *values.shape[1:]), np.float32))[start : start + len(values)] = values
            if bar is not None:
                bar.update(len(examples))
        if bar is not None:
            bar.close()
        per_token = {f"label {n}" for n, head in self.labels.items() if head["pooling"] == "token"}
        return out if owner is None else {n: v if n in per_token else _means(v, *owner) for n, v in out.items()}

    def _chunk(self, examples: list, wanted: dict, layer: int | None, batch_size: int, precision: str | None) -> dict[str, np.ndarray]:
        """As `_run`, for some examples: those of like length together, so that there is little padding."""
        order = np.argsort([-len(e[0]) for e in examples], kind="stable")
        batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
        found = [self._forward([examples[i] for i in b], wanted, layer, precision) for b in batches]
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
        kind = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision or "")
        with torch.autocast(self.device.type, kind, enabled=kind is not None):
            hidden = self.model.encode(batch) if layer is None else self._layer(batch, layer)
            return {name: function(hidden, batch).float().cpu().numpy() for name, function in wanted.items()}

    def _layer(self, batch: dict, number: int) -> torch.Tensor:
        layers = self.model.backbone.layers
        if not -len(layers) <= number < len(layers):
            raise ValueError(f"layer {number} does not exist: the model has {len(layers)}")
        caught: list = []
        hook = layers[number].register_forward_hook(lambda module, args, output: caught.append(output))
        try:
            self.model.encode(batch)
        finally:
            hook.remove()
        hidden = caught[0][0] if isinstance(caught[0], tuple) else caught[0]
        absent = batch["input_ids"].shape[1] - hidden.shape[1]  # where a model of others has no [CLS]
        return torch.nn.functional.pad(hidden, (0, 0, absent, 0))

    def _cells(
        self,
        data: Any,
        max_tokens: int,
        counts: str = "auto",
        gene_column: str | None = None,
        expects: str = "counts",
        min_matched: float = 0.3,
    ) -> tuple[int, None, Iterator]:
        """Number of cells, and chunks of (first number, examples of (ids, values, depth))."""
        from bmfm.cells.sources import Cells, open_source
        from bmfm.hashing import example_keys

        tokenizer = self.tokenizer.for_inference()
        assert tokenizer.vocabulary is not None
        source = open_source(data, tokenizer.vocabulary, counts, gene_column, None, expects, min_matched)
        self.match, self.names = source.match, source.view.obs.index
        cells = Cells([source], block=CHUNK, cached_blocks=2)
        measured = [np.flatnonzero(source.measured).astype(np.int32)]
        if tokenizer.depth["kind"] == "auto" and not tokenizer.depth["target"]:
            tokenizer.settle(cells.take(np.arange(min(len(cells), 2 * CHUNK))).totals)

        def chunks() -> Iterator:
            for start in range(0, len(cells), CHUNK):
                numbers = np.arange(start, min(start + CHUNK, len(cells)))
                held = cells.take(numbers)
                tokens = tokenizer(held, example_keys(0, 0, numbers), np.zeros(len(numbers), np.int64), measured, max_tokens)
                self.counts.update(tokens.counted(held))
                depth = tokens.depth if tokens.depth is not None else [None] * len(numbers)
                cuts = [slice(a, b) for a, b in pairwise(tokens.offsets)]
                yield start, [(tokens.ids[c], tokens.values[c], d) for c, d in zip(cuts, depth, strict=True)]

        return len(cells), None, chunks()

    def _sequences(self, data: Any, max_tokens: int) -> tuple[int, tuple[np.ndarray, np.ndarray], Iterator]:
        """Number of windows, (sequence, tokens) of each, and chunks of (first number, examples of (ids,)).

        A sequence longer than the context is cut into windows; its result is their mean, weighted by tokens.
        """
        self.names, texts, seconds = read_sequences(data)
        tokens, n_replaced = self.tokenizer.of_texts(rna_as_dna(texts)[0])
        room = self._room = max_tokens - 2
        if seconds is not None:
            others, n = self.tokenizer.of_texts(rna_as_dna(seconds)[0])
            tokens, n_replaced = (
                [np.concatenate([a, [SEP], b]).astype(np.int32) for a, b in zip(tokens, others, strict=True)],
                n_replaced + n,
            )
            if long := sum(len(t) > room for t in tokens):
                raise ValueError(f"{long:,} of {len(tokens):,} pairs are longer than {max_tokens} tokens, and pairs cannot be cut into windows: give a larger max_tokens")  # fmt: skip
        refuse_unknown(tokens, "sequences")
        windows = [(ids[a : a + room], number) for number, ids in enumerate(tokens) for a in range(0, max(1, len(ids)), room)]
        self._windows = windows
        self.counts.update(
            sequences=len(texts), tokens=sum(map(len, tokens)), windows=len(windows), unknown_tokens=sum(int((t == UNK).sum()) for t in tokens),
            characters_read_as_N=n_replaced,
        )  # fmt: skip
        owner = np.array([n for _, n in windows]), np.array([max(1, len(ids)) for ids, _ in windows])
        chunks = ((s, [(ids,) for ids, _ in windows[s : s + CHUNK]]) for s in range(0, len(windows), CHUNK))
        return len(windows), owner, chunks


def _means(values: np.ndarray, owner: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Weighted mean of the rows of each owner, in the order of owners."""
    sums = np.zeros((owner[-1] + 1, *values.shape[1:]))
    np.add.at(sums, owner, values * weight[:, None])
    return (sums / np.bincount(owner, weights=weight)[:, None]).astype(np.float32)


def read_regions_of_fasta(fasta: str | Path, bed: str | Path) -> pd.Series:
    """Sequences of the regions of a BED file, named ``contig:start-end`` (0-based, half-open)."""
    from bmfm.files import require_file
    from bmfm.genome.alphabet import decode
    from bmfm.genome.reference import Reference
    from bmfm.genome.regions import bed_rows

    reference = Reference.from_fasta(fasta)
    names, texts = [], []
    for _, contig, start, end in bed_rows(require_file(bed, "BED file")):
        names.append(f"{contig}:{start}-{end}")
        texts.append(decode(reference.fetch(contig, start, end) & 0x7F))
    return pd.Series(texts, index=pd.Index(names, name="region"))


def read_sequences(data: str | Path | pd.Series | pd.DataFrame | Sequence) -> tuple[pd.Index, list[str], list[str] | None]:
    """Names, texts and, of pairs, second texts: of a FASTA file (plain, gzip or bgzip), or of sequences as they are.

    Pairs are a frame of two columns, or tuples; a Series or frame has names.
    """
    if isinstance(data, pd.Series):
        return data.index, data.astype(str).tolist(), None
    if isinstance(data, pd.DataFrame):
        if data.shape[1] != 2:
            raise ValueError(f"pairs of sequences need a frame of two columns, this one has {list(data.columns)}")
        return data.index, *(data[c].astype(str).tolist() for c in data)  # type: ignore[return-value]
    if isinstance(data, str | Path):
        import pysam

        from bmfm.files import require_file

        with pysam.FastxFile(str(require_file(data, "FASTA file"))) as records:
            found = [(str(r.name), str(r.sequence)) for r in records]
        if not found:
            raise ValueError(f"{data} holds no FASTA record")
        return pd.Index([n for n, _ in found], name="name"), [s for _, s in found], None
    texts = list(data)
    if texts and not isinstance(texts[0], str):
        firsts, seconds = zip(*texts, strict=True)
        return pd.RangeIndex(len(texts)), list(firsts), list(seconds)
    return pd.RangeIndex(len(texts)), texts, None


def _progress(n: int):
    from tqdm.auto import tqdm

    return tqdm(total=n, unit="example")
