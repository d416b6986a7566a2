"""The one path from data to what a trained model makes of them: embeddings, predictions, log-probabilities, states, gradients."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from operator import methodcaller
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from bmfm.inference.annotate import annotate, check_annotated
from bmfm.inference.frames import classes_of_bases, label_kinds, predictions_frame
from bmfm.inference.inputs import Inputs
from bmfm.inference.outputs import Outputs
from bmfm.inference.readers import reader_of
from bmfm.inference.runner import PRECISIONS, Request, Results, RunOptions, batches_by_length, collect, work_on
from bmfm.inference.token_scores import TokenLogProbs, TokenStates, score_inputs
from bmfm.models.model import BmfmModel
from bmfm.models.pooling import cls_of
from bmfm.storage.folders import written_files
from bmfm.tokenizers.base import Tokenizer, Tokens
from bmfm.tokenizers.batch import Batch
from bmfm.tokenizers.collate import to_tensors


class Predictor:
    """A model and its tokenizer; printing it says what it is.

    Whatever data a method takes: of cells an AnnData, a DataFrame of cells x genes, a path, pattern or folder of files, or a list of these
    (`inference.cells.read_cells`); of DNA sequences, pairs of them, or the path of a FASTA file (`inference.sequences.read_sequences`); or
    `Inputs` that `read` made. Whatever options it takes: ``batch_size``, ``max_tokens``, ``precision``, ``progress`` and, of
    DNA, ``strands`` (`inference.runner.RunOptions`), and those of the reader, as ``counts``, ``gene_column``, ``orthologs``, ``depth_target`` of cells and
    ``alphabet`` of DNA.

    Parameters
    ----------
    device
        ``cpu``, ``cuda``, ...; None takes a GPU if there is one.
    folder
        That the model was read from.

    Attributes
    ----------
    counts
        What the last call saw: examples, tokens, and what was truncated or unknown.
    match
        How the genes of the last AnnData were found.
    inputs
        What the last call ran on.
    """

    def __init__(self, model: BmfmModel, tokenizer: Tokenizer, device: str | torch.device | None = None, folder: Path | None = None):
        self.folder = folder
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.model, self.tokenizer, self.reader = model.to(self.device).eval(), tokenizer, reader_of(tokenizer)
        self.counts: Counter[str] = Counter()
        self.match: Any = None
        self.inputs: Inputs

    def __repr__(self) -> str:
        config, n = self.model.config, sum(p.numel() for p in self.model.parameters())
        first, end = self.tokenizer.plain_ids
        lines = [
            f"Predictor of {self.reader.title}: {self.model.backbone.name}, {n / 1e6:,.1f} M parameters",
            f"  context     {self.max_tokens:,} tokens",
            f"  vocabulary  {end - first:,} {self.reader.tokens}, [CLS] x {self.tokenizer.n_cls}",
            f"  pooling     {config.pooling}",
            *(f"  head        {_head_line(name, head)}" for name, head in config.heads.items()),
            f"  device      {self.device}",
            f"  folder      {self.folder or '(none)'}",
        ]
        return "\n".join(lines)

    @property
    def labels(self) -> dict[str, dict]:
        """The label heads, {name: description}."""
        return {n: h for n, h in self.model.config.heads.items() if "pooling" in h}

    @property
    def max_tokens(self) -> int:
        """Longest input where nothing else is said: what the model was trained with, or its positions."""
        return int(self.model.config.max_tokens or self.model.backbone.capabilities.max_tokens or 2048)

    def check_pooling(self, pooling: str | int | None) -> str | int:
        """As `BmfmModel.check_pooling`, and the number of a CLS token must be one that the tokenizer writes."""
        pooling, n_cls = self.model.check_pooling(pooling), self.tokenizer.n_cls
        number = cls_of(pooling)
        if number is not None and pooling != "pooler":
            if number >= n_cls:
                there = "one CLS token, number 0" if n_cls == 1 else f"{n_cls} CLS tokens, numbers 0 to {n_cls - 1}"
                raise ValueError(f"pooling={pooling}: this model has {there}; or choose mean")
            self.tokenizer.check_cls(number, f"pooling={pooling}")
        return pooling

    def embed(self, data: Any, pooling: str | int | None = None, layer: int | None = None, **options: Any) -> np.ndarray:
        """Embeddings [n, H], float32.

        Parameters
        ----------
        pooling
            Number of a CLS token, ``mean``, ``mean_all``, ``max_mean``, ``pooler`` or ``balanced``, see `BmfmModel.pool`; None is the model's own.
        layer
            Take the states after this layer (0 is the first) rather than the last; where these would be ``balanced``, [CLS] is taken as it is.
        """
        embeddings, _ = self.embed_and_predict(data, True, False, pooling, layer, **options)
        assert embeddings is not None
        return embeddings

    def predict(self, data: Any, **options: Any) -> pd.DataFrame:
        """Classes with their probabilities, or numbers, for every label head; rows as in the data.

        Nothing is predicted for a cell without any gene of the vocabulary: its row is missing (None, NaN).
        """
        _, predictions = self.embed_and_predict(data, False, True, **options)
        assert predictions is not None
        return predictions

    def embed_and_predict(
        self, data: Any, embeddings: bool, predictions: bool, pooling: str | int | None = None, layer: int | None = None, **options: Any
    ) -> tuple[np.ndarray | None, pd.DataFrame | None]:
        """Both from one pass; None for what is not asked for. See `embed` and `predict`."""
        requests = self._requests(embeddings, predictions, pooling, layer)
        inputs, run_options = self._read(data, options)
        results = self._collect(inputs, requests, run_options)
        return results.of_examples.get("embedding"), self._predictions(inputs, results) if predictions else None

    def work(
        self, data: Any, embeddings: bool, predictions: bool, pooling: str | int | None = None, layer: int | None = None, **options: Any
    ) -> None:
        """Do a worker's share of `embed_and_predict`: the chunks of its ``ledger`` that are open, one after the other."""
        requests = self._requests(embeddings, predictions, pooling, layer)
        inputs, run_options = self._read(data, options)
        for of_strand, wanted, strand_options in self._strands(inputs, requests, run_options):
            work_on(of_strand, wanted, strand_options, self._runner(run_options))

    def _requests(self, embeddings: bool, predictions: bool, pooling: str | int | None, layer: int | None) -> dict[str, Request]:
        if layer is not None and predictions:
            raise ValueError("layer chooses the states of embeddings: ask for predictions=false with it")
        if predictions and not self.labels:
            raise ValueError(f"this model has no label heads, only {', '.join(self.model.config.heads) or 'none'}: fine-tune it first")
        if not embeddings and not predictions:
            raise ValueError("nothing is asked for: embeddings=true or, with label heads, predictions=true")
        requests: dict[str, Request] = {}
        if embeddings:
            self._check_layers([] if layer is None else [layer])
            pooling = self.check_pooling(pooling)
            if pooling == "balanced" and layer is not None:  # its map is of the states after the last layer
                pooling = 0
            pool = methodcaller("pool", pooling, layer)
            requests["embedding"] = Request(pool, all_layers=layer is not None)
        if predictions:
            label_kinds(self.labels, self.folder)
            requests |= self._label_requests()
        return requests

    def logits(self, data: Any, heads: Sequence[str] | None = None, **options: Any) -> dict[str, np.ndarray]:
        """Logits of label heads for whole examples in the order of the data, {head: float32 [n, size]}.

        Those of a sequence longer than the context are the mean over its windows, weighted by tokens.

        Parameters
        ----------
        heads
            Names of heads; None takes all that label examples, rather than tokens.
        """
        of_examples = [name for name, head in self.labels.items() if head["pooling"] != "token"]
        if unknown := sorted(set(heads or []) - set(of_examples)):
            raise ValueError(f"{', '.join(unknown)}: no such head that labels examples; this model has {', '.join(of_examples) or 'none'}")
        chosen = {f"label {name}" for name in (of_examples if heads is None else heads)}
        inputs, run_options = self._read(data, options)
        requests = {name: request for name, request in self._label_requests().items() if name in chosen}
        results = self._collect(inputs, requests, run_options)
        return {name.removeprefix("label "): logits for name, logits in results.of_examples.items()}

    def hidden_states(self, data: Any, layers: Sequence[int] | None = None, **options: Any) -> TokenStates:
        """States of every token of every example, and what each token stands for.

        Parameters
        ----------
        layers
            Numbers of layers (0 is the first, -1 the last), whose states are stacked [layers, L, H]; None takes the states after the last
            layer and its norm, [L, H].
        """
        if layers is not None and not len(layers):
            raise ValueError("layers is empty: name at least one, or give None for the states after the last layer and its norm")
        self._check_layers([] if layers is None else layers)

        def compute(outputs: Outputs) -> torch.Tensor:
            return outputs.tokens() if layers is None else torch.stack([outputs.tokens(layer) for layer in layers], 1)

        inputs, run_options = self._read_forward(data, options)
        results = self._collect(inputs, {"states": Request(compute, per_token=True, all_layers=layers is not None)}, run_options)
        offsets = inputs.of_examples(results.offsets)[1:-1]
        states = np.split(results.values["states"], offsets)
        ids = np.split(results.ids, offsets)
        stacked = states if layers is None else [of_example.swapaxes(0, 1) for of_example in states]
        return TokenStates(inputs.names, stacked, ids, partial(inputs.spans, self.tokenizer, ids))

    def log_probs(
        self,
        data: Any,
        positions: Sequence[Sequence[int] | np.ndarray] | None = None,
        tokens: str | Sequence[int] | None = None,
        mask_share: float | None = None,
        **options: Any,
    ) -> TokenLogProbs:
        """Log-probabilities of tokens, by the language-model head of the model.

        A masked model is asked about tokens that are hidden from it: [MASK] stands in their place (of cells, the gene is hidden and its value
        shown). A causal model is asked what follows the tokens before; of the first token it says nothing (NaN, where that is asked for by
        its place) if no special token stands before it. Tokens of a sequence longer than the context are scored within their window.

        Parameters
        ----------
        positions
            For each example the places of the tokens to score, from 0, special tokens around it not counted; None scores every
            ordinary token (not [UNK], nor [SEP] between a pair).
        tokens
            None: of the token that stands there, whose sum is the (pseudo-)log-likelihood of the example (`TokenLogProbs.total`). ``all``: of
            all V tokens. Or ids: of these.
        mask_share
            Share of an example's scored tokens that is masked at a time, spread evenly, as 0.15; 1 masks all of them together. None masks one at a
            time, which takes as many passes as there are tokens. Causal models mask nothing.

        Raises
        ------
        ValueError
            If the model has no language-model head, is masked and has no [MASK], or positions or ids do not exist.
        """
        inputs, run_options = self._read_forward(data, options)
        forward = partial(self.forward, precision=run_options.precision)
        return score_inputs(inputs, self.tokenizer, self.model, self._batch, forward, run_options, positions, tokens, mask_share)

    def annotate(self, adata: Any, pooling: str | int | None = None, overwrite: bool = False, **options: Any) -> dict[str, str]:
        """Write embeddings and, of a model with label heads, predictions into an AnnData; see `inference.annotate.annotate`.

        Results go to rows by their place, so that cells' names may repeat, and beside what is there: ``.obsm["X_bmfm"]``,
        and ``.obs["cell_type_predicted"]`` where there is a ``cell_type``. Returns {result: where it was written}.
        """
        check_annotated(adata)
        embeddings, predictions = self.embed_and_predict(adata, True, bool(self.labels), pooling, **options)
        return annotate(adata, embeddings, predictions, overwrite)

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

    def read(self, data: Any, max_tokens: int | None = None, **options: Any) -> Inputs:
        """Data as tokenized examples, which every other method takes in place of the data.

        Parameters
        ----------
        max_tokens
            Longest input, special tokens included; None is the model's own. The tokenizer's limit holds in any case.
        """
        if isinstance(data, Inputs):
            if max_tokens or options:
                raise ValueError(f"{', '.join(['max_tokens'] * bool(max_tokens) + sorted(options))}: these inputs were read already")
            return data
        return self.reader.read(self.tokenizer, data, self.longest_input(max_tokens), **options)

    def longest_input(self, max_tokens: int | None = None) -> int:
        """Longest input in tokens where `max_tokens` is asked for; None is the model's own."""
        return min(n for n in (max_tokens or self.max_tokens, self.tokenizer.max_tokens) if n)

    def batches(self, data: Any, batch_size: int = 32, max_tokens: int | None = None, **options: Any) -> Iterator[tuple[np.ndarray, Batch]]:
        """Batches on the device, of inputs of like length, each with the numbers of its rows.

        A row is an example, or a window of one that is longer than the context: ``inputs.owner[rows]`` says of which, for
        ``inputs = model.read(data)``.
        """
        for start, tokens in self.read(data, max_tokens, **options).chunks():
            for rows in batches_by_length(tokens, batch_size):
                yield start + rows, self._batch(tokens.take(rows))

    def forward(
        self,
        batch: Batch,
        embeddings: torch.Tensor | None = None,
        grad: bool = False,
        all_layers: bool = False,
        precision: str | None = None,
    ) -> Outputs:
        """Run the model on a batch of `batches`.

        Parameters
        ----------
        embeddings
            [R, L, H] to run on in place of those of the batch: perturbed, interpolated, or of another modality.
        grad
            Keep what gradients by the embeddings need, see `Outputs.gradient`.
        all_layers
            Keep the states after each layer.
        precision
            See `inference.runner.RunOptions`.
        """
        kind = PRECISIONS[RunOptions(precision=precision).precision]
        with torch.set_grad_enabled(grad), torch.autocast(self.device.type, kind, enabled=kind is not None):
            if embeddings is None:
                embeddings = self.model.embed(batch).detach()
            if grad and not embeddings.requires_grad:
                embeddings = embeddings.detach().requires_grad_()
            hidden = self.model.run(embeddings, batch, all_layers)
        return Outputs(self.model, batch, embeddings, hidden, grad, kind)

    def _batch(self, tokens: Tokens) -> Batch:
        """A padded batch on the device, with the places of its content tokens."""
        rows = self.tokenizer.collate(tokens)
        lengths = np.diff(tokens.offsets)
        n_before = int((rows["example_ids"] == 0).sum() - lengths[0] - 1)  # special tokens in front; one comes after
        first = np.repeat(rows["cls_index"] + n_before, lengths)
        rows["content_index"] = first + np.arange(len(first)) - np.repeat(tokens.offsets[:-1], lengths)
        batch: Any = to_tensors(rows, self.device)
        return batch

    def _read(self, data: Any, options: Mapping[str, Any]) -> tuple[Inputs, RunOptions]:
        run_options, reader_options = RunOptions.split(options, self.reader)
        self.inputs = self.read(data, run_options.max_tokens, **reader_options)
        self.counts, self.match = self.inputs.counts, self.inputs.match
        return self.inputs, run_options

    def _read_forward(self, data: Any, options: Mapping[str, Any]) -> tuple[Inputs, RunOptions]:
        """As `_read`, for what belongs to tokens, which are others on the other strand."""
        inputs, run_options = self._read(data, options)
        if run_options.strands == "average":
            raise ValueError("strands=average: tokens belong to one strand; ask for the reverse complements of the sequences beside them")
        return inputs, run_options

    def _runner(self, options: RunOptions) -> Callable[[Tokens, bool], Outputs]:
        return lambda tokens, all_layers: self.forward(self._batch(tokens), all_layers=all_layers, precision=options.precision)

    def _strands(
        self, inputs: Inputs, requests: Mapping[str, Request], options: RunOptions
    ) -> Iterator[tuple[Inputs, Mapping[str, Request], RunOptions]]:
        """What goes through the model: the inputs and, for means over both strands of what belongs to whole examples, the other strand."""
        yield inputs, requests, options
        of_rows = {name: request for name, request in requests.items() if not request.per_token}
        if of_rows and (options.strands or self.model.config.strands) == "average":
            if inputs.other_strand is None:
                raise ValueError("strands=average: these inputs have no other strand, as those of cells have none; choose strands=forward")
            yield inputs.other_strand(), of_rows, replace(options, ledger=options.ledger and options.ledger.below("other_strand"))

    def _collect(self, inputs: Inputs, requests: Mapping[str, Request], options: RunOptions) -> Results:
        strands = []
        for of_strand, wanted, strand_options in self._strands(inputs, requests, options):
            strands.append(collect(of_strand, wanted, strand_options, self._runner(options)))
            of_rows = {name: values for name, values in strands[-1].values.items() if not wanted[name].per_token}
            strands[-1].of_examples = {name: of_strand.mean_of_windows(values) for name, values in of_rows.items()}
        results = strands[0]
        for other in strands[1:]:
            results.of_examples |= {name: (results.of_examples[name] + values) / 2 for name, values in other.of_examples.items()}
        return results

    def _label_requests(self) -> dict[str, Request]:
        return {
            f"label {name}": Request(methodcaller("logits", name), per_token=head["pooling"] == "token")
            for name, head in self.labels.items()
        }

    def _of_head(self, inputs: Inputs, results: Results, name: str) -> np.ndarray | list[np.ndarray]:
        if self.labels[name]["pooling"] != "token":
            return results.of_examples[f"label {name}"]
        return np.split(results.values[f"label {name}"], inputs.of_examples(results.offsets)[1:-1])

    def _predictions(self, inputs: Inputs, results: Results) -> pd.DataFrame:
        kinds = label_kinds(self.labels, self.folder)
        outputs: dict[str, np.ndarray | list] = {}
        for name in self.labels:
            logits = self._of_head(inputs, results, name)
            if isinstance(logits, list):
                ids = np.split(results.ids, inputs.of_examples(results.offsets)[1:-1])
                n_bases = [np.diff(spans, axis=1)[:, 0] for spans in inputs.spans(self.tokenizer, ids)]
                outputs[name] = [classes_of_bases(kinds[name], of_tokens, n) for of_tokens, n in zip(logits, n_bases, strict=True)]
            else:
                outputs[name] = logits
        return predictions_frame(kinds, outputs, inputs.names, inputs.empty)

    def _check_layers(self, layers: Sequence[int]) -> None:
        n = len(self.model.backbone.layers)
        if absent := [layer for layer in layers if not -n <= layer < n]:
            raise ValueError(f"layer {absent[0]} does not exist: the model has {n}")


def _head_line(name: str, head: dict) -> str:
    classes = head.get("classes") or []
    shown = f"{', '.join(map(str, classes[:4]))}{', ...' if len(classes) > 4 else ''}"
    outputs = f"{len(classes)} classes ({shown})" if classes else f"{head['size']:,} outputs"
    return f"{name}: {outputs}" + (f", pooling {head['pooling']}" if "pooling" in head else "")
