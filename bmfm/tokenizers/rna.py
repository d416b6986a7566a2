"""The cell tokenizer: which genes of a cell the model sees, in which order, and with which values.

It owns all that turns counts into fields: the gene vocabulary, the order and truncation, what is done with zeros, the
value transform, read depth, and the special tokens in front. It is saved beside the model as JSON and text.

In training the genes that a cell shows, and what is thinned or dropped of it, are drawn by its key. For inference, and for
cells that are held out of training, they are a function of the cell alone: `CellTokenizer.for_inference`.

A cell's total, by which counts are normalised, is over the genes of the vocabulary, so that a file which also counts
other transcripts gives the same values. log_normalise is log(1 + x / total * 1e4); the published code divides by total + 1.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bmfm.cells.counts import CellBatch, Counts, by_gene, content_keys
from bmfm.cells.genes import EXTRA_CLS, GeneVocabulary
from bmfm.cells.values import DOWNSAMPLE, EQUAL, KINDS, POISSON
from bmfm.special import PAD, SEP
from bmfm.tokenizers.base import Profiles, Tokens
from bmfm.tokenizers.cell_kernels import choose_tokens, whole_values
from bmfm.tokenizers.collate import collate_tokens
from bmfm.tokenizers.dna import hash_of_names

ORDERS = ("random", "descending", "as_given")
ZEROS = ("expressed", "batch_wise", "interleaved", "all", "measured")
READ_DEPTH_MODES = ("none", "equal", "downsample", "poisson", "align", "auto")


@dataclass
class CellTokens:
    """Tokens of a batch of cells, without special tokens: cell b is ``ids[offsets[b]:offsets[b + 1]]``.

    Attributes
    ----------
    ids, values, targets
        Gene ids, input values, and the values before read depth was lowered (the same array where it was not).
    whole
        Values of every expressed gene of the cells, like `Counts.ids`: what whole-cell decoding predicts.
    depth
        [B, 2] log(1 + total) of the input and of the target, or None without read-depth tokens.
    n_truncated, n_left_out
        Cells with more expressed genes than fit, and how many genes that left out.
    """

    ids: np.ndarray
    values: np.ndarray
    targets: np.ndarray
    offsets: np.ndarray
    whole: np.ndarray
    depth: np.ndarray | None
    n_truncated: int
    n_left_out: int

    def counted(self, counts: Counts) -> dict[str, int]:
        """What became of the cells, for reports."""
        return {
            "cells": len(counts),
            "tokens": len(self.ids),
            "truncated_cells": self.n_truncated,
            "genes_left_out_by_truncation": self.n_left_out,
            "empty_cells": int((np.diff(counts.offsets) == 0).sum()),
        }


class Truncation:
    """How much of cells `max_tokens` cuts off, summed over batches."""

    def __init__(self) -> None:
        self.cells = self.genes = self.cut_cells = self.cut_genes = self.longest = 0

    def add_tokens(self, tokens: Tokens) -> None:
        """Add what became of the cells of one `CellTokenizer.encode`."""
        assert tokens.full_profile is not None
        lengths = tokens.full_profile.lengths
        self.cells += len(tokens)
        self.genes += int(lengths.sum())
        self.cut_cells += tokens.counts["truncated_cells"]
        self.cut_genes += tokens.counts["genes_left_out_by_truncation"]
        self.longest = max(self.longest, int(lengths.max(initial=0)))

    def add(self, counts: Counts, tokens: CellTokens) -> None:
        lengths = np.diff(counts.offsets)
        self.cells += len(counts)
        self.genes += len(counts.ids)
        self.cut_cells += tokens.n_truncated
        self.cut_genes += tokens.n_left_out
        self.longest = max(self.longest, int(lengths.max(initial=0)))

    def message(self, tokenizer: "CellTokenizer", max_tokens: int, largest_panel: int) -> str | None:
        """The figures in words, where more than 1% of what the cells express is not seen; else None.

        Parameters
        ----------
        largest_panel
            Genes of the file with most.
        """
        if self.cut_genes <= 0.01 * self.genes:
            return None
        needed = {"interleaved": math.ceil(self.longest / (1 - tokenizer.zero_share)) + 1, "all": largest_panel}.get(
            tokenizer.zeros, self.longest
        )
        enough = -(-(needed + len(tokenizer.prefix) + 1) // 8) * 8
        remedy = "" if tokenizer.positions else f"; max_tokens={enough} shows all"
        return (
            f"{self.cut_genes / self.genes:.0%} of all expressed genes are not seen, of {self.cut_cells:,} of {self.cells:,} cells "
            f"(longest cell {self.longest:,} genes, max_tokens={max_tokens}){remedy}"
        )

    said = message  # until everyone takes the new name


class CellTokenizer:
    """Turns cells into gene and value tokens.

    Parameters
    ----------
    genes
        A shipped vocabulary, a file with a gene a line, or ``from_data`` (the genes of the training files).
    order
        ``random``, ``descending`` expression (ties in random order), or ``as_given``: by vocabulary id, whatever the
        order of a file's columns, zeros among the rest; the first `max_tokens` of what is expressed are kept.
    zeros
        Genes that the file measures but the cell does not express: none (``expressed``); after the cell's own, any
        (``measured``), or first those that other cells of the batch express (``batch_wise``: a cell of training then
        depends on its batch; for inference this is ``measured``); so many that they make up `zero_share` of the input
        (``interleaved``); or as they come (``all``).
    sequence_dropout
        Probability that an expressed gene is not shown.
    values
        ``{kind, target_sum, n_bins, upper}``, see `cells.values.transform`; target_sum may be ``median``.
    read_depth
        ``{mode, min_total, rate, target}``: read-depth tokens [S], [T]. ``downsample`` and ``poisson`` thin the input,
        ``equal`` does not; ``align`` and ``auto`` set [T] to the total `target`. `target` is the largest total of the
        training cells where it is not given; it is saved, and inference with a model that thins aligns to it.
    n_cls
        [CLS] and then [CLS_0], [CLS_1], ...
    positions
        Whether the place in the input means something to the model.
    orthologs
        {gene of another species: human gene}, by which the training files' genes were found; saved, and used for the
        cells of inference.
    expects
        ``counts`` or ``normalised``: what the training files held; saved, and asked of the cells of inference
        (`resolve_expects`). None if that is not known.

    Attributes
    ----------
    keyed_by_content
        Whether tokens are a function of the cell alone, see `for_inference`.
    """

    FILES = ("cell_tokenizer.json", "genes.txt")
    omics = "rna"
    max_tokens: int | None = None

    def __init__(
        self,
        genes: str | Sequence[str] = "protein_coding",
        order: str = "random",
        zeros: str = "expressed",
        zero_share: float = 0.5,
        sequence_dropout: float = 0.0,
        values: dict | None = None,
        read_depth: dict | None = None,
        n_cls: int = 1,
        positions: bool = False,
        orthologs: dict[str, str] | None = None,
        expects: str | None = None,
    ):
        for what, given, known in (("order", order, ORDERS), ("zeros", zeros, ZEROS)):
            if given not in known:
                raise ValueError(f"tokenizer.{what}={given!r} is unknown; choose from {', '.join(known)}")
        self.values: dict[str, Any] = {"kind": "log_normalise", "target_sum": 1e4, "n_bins": 51, "upper": 10.0} | dict(values or {})
        self.read_depth: dict[str, Any] = {"mode": "none", "min_total": 1000, "rate": 0.6, "target": None} | dict(read_depth or {})
        if self.values["kind"] not in KINDS:
            raise ValueError(f"tokenizer.values.kind={self.values['kind']!r} is unknown; choose from {', '.join(KINDS)}")
        if self.read_depth["mode"] not in READ_DEPTH_MODES:
            raise ValueError(f"tokenizer.read_depth.mode={self.read_depth['mode']!r} is unknown; choose from {', '.join(READ_DEPTH_MODES)}")
        if self.read_depth["mode"] == "align" and not self.read_depth["target"]:
            raise ValueError("tokenizer.read_depth.mode=align needs tokenizer.read_depth.target, a total of counts")
        target: Any = self.read_depth["target"]
        if target is not None and (isinstance(target, str | bool) or not (target == 0 or 0 < target < math.inf)):
            raise ValueError(f"tokenizer.read_depth.target={target!r} must be a total of counts above 0")
        if isinstance(n_cls, bool) or not isinstance(n_cls, int) or n_cls < 1:
            raise ValueError(f"tokenizer.n_cls={n_cls!r} must be a whole number of at least 1")
        if not 0 <= sequence_dropout < 1 or not 0 <= zero_share < 1:
            raise ValueError(f"sequence_dropout={sequence_dropout} and zero_share={zero_share} must be at least 0 and below 1")
        self.order, self.zeros, self.zero_share, self.sequence_dropout = order, zeros, zero_share, sequence_dropout
        self.n_cls, self.positions, self.orthologs = n_cls, positions, orthologs
        self.expects = expects
        self.keyed_by_content = False
        self.vocabulary: GeneVocabulary | None = None
        if not isinstance(genes, str):
            self.bind_vocabulary(GeneVocabulary.of_genes(genes))
        elif genes != "from_data":
            self.bind_vocabulary(GeneVocabulary.load(genes))

    def bind_vocabulary(self, vocabulary: GeneVocabulary) -> None:
        """Bind a vocabulary; the special tokens that the settings need must be in it."""
        needed = ["[CLS]", *EXTRA_CLS[: self.n_cls - 1]] + (["[S]", "[T]"] if self.has_depth else [])
        if absent := [t for t in needed if t not in vocabulary.ids]:
            raise ValueError(
                f"the gene vocabulary lacks {', '.join(absent)}, which tokenizer.n_cls={self.n_cls} and tokenizer.read_depth need"
            )
        self.vocabulary = vocabulary
        self.prefix = np.array([vocabulary.ids[t] for t in needed], np.int64)

    use = bind_vocabulary  # until everyone takes the new name

    @property
    def depth(self) -> dict[str, Any]:
        """Old name of `read_depth`."""
        return self.read_depth | {"kind": self.read_depth["mode"]}

    @property
    def has_depth(self) -> bool:
        return self.read_depth["mode"] != "none"

    @property
    def lowers_depth(self) -> bool:
        """Whether cells are shown at a lower read depth than they have."""
        return self.read_depth["mode"] in ("downsample", "poisson")

    @property
    def names(self) -> list[str]:
        assert self.vocabulary is not None
        return self.vocabulary.names

    def __len__(self) -> int:
        return len(self.names)

    @property
    def plain_ids(self) -> tuple[int, int]:
        assert self.vocabulary is not None
        return self.vocabulary.plain_ids

    @property
    def n_special(self) -> int:
        return self.plain_ids[0]

    @property
    def n_bins(self) -> int | None:
        return int(self.values["n_bins"]) if self.values["kind"] in ("bins", "percentile_bins") else None

    @property
    def fields(self) -> dict[str, dict]:
        """What the model's field encoders must take."""
        values: dict = {"n_special": self.n_special} | ({"n_bins": self.n_bins} if self.n_bins else {})
        return {"input_ids": {"kind": "embedding", "size": len(self)}, "values": values}

    def check_cls(self, number: int, who: str) -> None:
        """Raise a ValueError if there is no such CLS token."""
        if not 0 <= number < self.n_cls:
            raise ValueError(f"objective {who} reads CLS token {number}, but tokenizer.n_cls={self.n_cls}")

    def fit_normalization(self, totals: np.ndarray) -> None:
        """Replace ``median`` and a missing target of read depth by the median and the largest of all training cells' totals."""
        totals = totals[totals > 0]
        if self.values["target_sum"] == "median":
            self.values["target_sum"] = float(np.median(totals))
        if self.read_depth["mode"] in ("downsample", "poisson", "auto") and not self.read_depth["target"]:
            self.read_depth["target"] = float(totals.max())

    settle = fit_normalization  # until everyone takes the new name

    def resolve_expects(self, expects: str | None = None) -> str:
        """What files must hold, ``counts`` or ``normalised``; None takes what the training files held.

        Values that are log-normalised in the file are taken as they are by a model that log-normalises counts itself: from
        here on this tokenizer's kind of values is ``as_is``.

        Raises
        ------
        ValueError
            If the tokenizer's values cannot be made from that: values would be normalised twice, or a model of normalised
            values would see counts.
        """
        kind, asked = self.values["kind"], expects or self.expects or "counts"
        if asked not in ("counts", "normalised"):
            raise ValueError(f"expects={asked!r} (data.expects) is unknown; choose counts or normalised")
        if asked == "normalised" and kind == "log_normalise":
            self.values["kind"] = "as_is"
        elif asked == "normalised" and kind in ("normalise", "log1p", "bins"):
            raise ValueError(
                f"expects=normalised (data.expects): this model makes its values from counts (tokenizer.values.kind={kind}), and would "
                "normalise twice; give raw counts, or train with tokenizer.values.kind=as_is"
            )
        if self.expects and asked != self.expects and kind == "as_is":
            raise ValueError(
                f"expects={asked} (data.expects): this model takes values as they are (tokenizer.values.kind=as_is) and was trained with "
                f"expects={self.expects}; give it such values"
            )
        return asked

    reading = resolve_expects  # until everyone takes the new name

    @property
    def is_settled(self) -> bool:
        """Old name of `is_fitted`."""
        return self.is_fitted

    @property
    def is_fitted(self) -> bool:
        """Whether `fit_normalization` has nothing left to do."""
        return self.values["target_sum"] != "median" and (
            self.read_depth["mode"] not in ("downsample", "poisson", "auto") or bool(self.read_depth["target"])
        )

    def _transform(self) -> tuple[int, float, int, float]:
        v = self.values
        if v["target_sum"] == "median":
            raise ValueError("tokenizer.values.target_sum=median is known once training cells were seen (`fit_normalization`)")
        return KINDS.index(v["kind"]), float(v["target_sum"]), int(v["n_bins"]), float(v["upper"])

    def encode(self, raw: CellBatch, keys: np.ndarray, max_tokens: int) -> Tokens:
        """Tokens of cells.

        Parameters
        ----------
        raw
            Cells, and which genes their sources measure.
        keys
            One ``uint64`` for each cell, the only source of randomness; not read by a tokenizer `for_inference`, which keys each
            cell by its content.
        max_tokens
            Longest input, special tokens included.

        Returns
        -------
        Tokens
            With the fields ``values`` and, where read depth may be lowered, ``targets`` (the values before it was), the example
            field ``read_depth``, and full profiles.
        """
        counts, keys = self.arrange(raw.counts, keys)
        found = self(counts, keys, raw.source_ids, list(raw.gene_panels), max_tokens)
        fields = {"values": found.values} | ({"targets": found.targets} if self.lowers_depth else {})
        return Tokens(
            found.ids,
            found.offsets,
            fields,
            {} if found.depth is None else {"read_depth": found.depth},
            Profiles(counts.ids, found.whole, counts.offsets),
            found.counted(counts),
        )

    def collate(self, tokens: Tokens, row_length: int | None = None) -> dict[str, Any]:
        """Rows of a batch, in NumPy arrays; packed where a row length is given.

        ``values`` are -(id + 1) at special tokens and padding, and log(1 + total) of the input and the target at [S] and [T].
        """
        fills = {"values": -(PAD + 1.0)}
        batch = collate_tokens(tokens, self.prefix, self.n_special, row_length, self.positions, fills)
        self.finish_values(batch, tokens.lengths, tokens.example_fields.get("read_depth"))
        return batch

    def spans(self, ids: np.ndarray, n_bases: int | None = None) -> np.ndarray:
        """Ids of the gene that each of an example's tokens [L] stands for, [L, 2] half-open; special tokens stand for none."""
        ids = np.asarray(ids, np.int64)
        return np.stack([ids, ids + (ids >= self.n_special)], 1)

    def description(self) -> dict[str, Any]:
        """What a model depends on of its tokenizer: a hash of the genes in the order of their ids, and what their values, CLS
        tokens, read depth and positions are."""
        return {
            "tokens": hash_of_names(self.names),
            "values": self.values["kind"],
            "n_bins": self.n_bins,
            "n_cls": self.n_cls,
            "read_depth": self.has_depth,
            "positions": self.positions,
        }

    def arrange(self, counts: Counts, keys: np.ndarray) -> tuple[Counts, np.ndarray]:
        """Cells and keys as `__call__` must get them: by gene, and keyed by content, where that is asked for."""
        if self.keyed_by_content or self.order == "as_given":
            counts = by_gene(counts, len(self))
        return counts, content_keys(counts) if self.keyed_by_content else keys

    def __call__(self, counts: Counts, keys: np.ndarray, source: np.ndarray, measured: list[np.ndarray], max_tokens: int) -> CellTokens:
        """Tokens of cells.

        Parameters
        ----------
        counts, keys
            Cells, and one ``uint64`` each, the only source of randomness; both from `arrange`.
        source
            Number of each cell's source [B], and for each source the ids of the genes that it has, ``int32``.
        max_tokens
            Longest input, special tokens included.
        """
        max_genes = max_tokens - len(self.prefix) - 1
        if max_genes < 1:
            raise ValueError(f"max_tokens={max_tokens} leaves no room for genes beside {len(self.prefix) + 1} special tokens")
        if self.read_depth["mode"] == "auto" and not self.read_depth["target"]:
            raise ValueError(
                "the tokenizer has no target of read depth: it was saved without (read_depth.target of cell_tokenizer.json). Give depth_target=N "
                "(data.depth_target on the command line), a total of counts such as the deepest training cells had"
            )
        n = len(counts)
        most = np.diff(counts.offsets) if self.zeros == "expressed" else np.full(n, max_genes)
        size = int(np.minimum(most, max_genes).sum())
        ids, values, targets = np.empty(size, np.int32), np.empty(size, np.float32), np.empty(size, np.float32)
        offsets, totals = np.zeros(n + 1, np.int64), np.empty((n, 2))
        how = {"downsample": DOWNSAMPLE, "poisson": POISSON}.get(self.read_depth["mode"], EQUAL)
        pools = measured if self.zeros != "expressed" else [np.empty(0, np.int32)] * len(measured)
        pool_offsets = np.cumsum([0, *map(len, pools)])
        whole = np.empty(len(counts.counts), np.float32)
        cut = choose_tokens(
            counts.ids, counts.counts, counts.offsets, keys, source, np.concatenate(pools), pool_offsets, max_genes, ORDERS.index(self.order),
            ZEROS.index(self.zeros), float(self.zero_share), float(self.sequence_dropout), *self._transform(), how,
            float(self.read_depth["min_total"]), float(self.read_depth["rate"]), len(self), whole, ids, values, targets, offsets, totals,
        )  # fmt: skip
        end = offsets[-1]
        depth = None
        if self.has_depth:
            if self.read_depth["mode"] in ("align", "auto"):
                totals[:, 1] = self.read_depth["target"]
            depth = np.log1p(totals).astype(np.float32)
        return CellTokens(ids[:end], values[:end], targets[:end], offsets, whole, depth, *cut)

    def full_profile(self, counts: Counts) -> np.ndarray:
        """Values of every expressed gene of the cells, ``float32`` [nnz], in the order of `counts`."""
        out = np.empty(len(counts.counts), np.float32)
        whole_values(counts.counts, counts.offsets, *self._transform(), out)
        return out

    whole_cells = full_profile  # until everyone takes the new name

    def finish_values(self, batch: dict, lengths: np.ndarray, depth: np.ndarray | None) -> None:
        """Write the values of special tokens into collated cells of these lengths: -(id + 1), and log totals at [S], [T]."""
        values, first = batch["values"].reshape(-1), batch["cls_index"]
        for i in range(self.n_cls):
            values[first + i] = -(self.prefix[i] + 1.0)
        if depth is not None:
            values[first + self.n_cls], values[first + self.n_cls + 1] = depth.T
        values[first + len(self.prefix) + lengths] = -(SEP + 1.0)

    def for_inference(self, depth_target: float | None = None, order: str | None = None, shown_in_part: bool = False) -> "CellTokenizer":
        """The same, with tokens that are a function of the cell (and of which genes its file measures) alone.

        Nothing is dropped or thinned, and read depth is aligned to the training cells' deepest. What is drawn (which genes
        of a cell are shown if not all fit, ties of ``descending``, genes that are not expressed) is drawn by a key made
        of the cell's genes and counts: two files with the same cell give the same tokens, in whatever order, batch or
        company, and `order` means what it meant in training, so that the model sees what it knows. ``batch_wise`` zeros
        are drawn from all genes of the file instead.

        Parameters
        ----------
        depth_target
            Total of counts to which read depth is aligned; None takes the saved one.
        order
            None keeps the one of training. ``descending`` shows the most expressed genes of cells that do not fit: other
            inputs than a model of ``random`` order was trained on, so that its heads lose, while like cells come closer
            (a small model of blood cells, 384 tokens: cell types predicted .87 for .89, by 15 neighbours .93 for .91).
        shown_in_part
            Keep dropout and thinning (by the cell's key): what objectives that reconstruct the rest of a cell are
            measured on.
        """
        settings = self.settings | {"order": order or self.order}
        settings |= {"zeros": "measured" if self.zeros == "batch_wise" else self.zeros}
        if not shown_in_part:
            settings["sequence_dropout"] = 0.0
            if self.read_depth["mode"] in ("downsample", "poisson"):
                settings["read_depth"] = self.read_depth | {"mode": "auto"}
        if depth_target is not None:
            if not self.has_depth:
                raise ValueError(f"depth_target={depth_target}: this model has no tokens of read depth")
            if isinstance(depth_target, str) or not depth_target > 0:
                raise ValueError(f"depth_target={depth_target!r} must be a total of counts above 0")
            settings["read_depth"] = self.read_depth | {"mode": "align", "target": float(depth_target)}
        again = CellTokenizer("from_data", **settings)
        assert self.vocabulary is not None
        again.bind_vocabulary(self.vocabulary)
        again.keyed_by_content = True
        return again

    @property
    def settings(self) -> dict:
        names = ("order", "zeros", "zero_share", "sequence_dropout", "values", "read_depth", "n_cls", "positions")
        return {name: getattr(self, name) for name in names} | {
            name: getattr(self, name) for name in ("orthologs", "expects") if getattr(self, name)
        }

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``cell_tokenizer.json`` and ``genes.txt``."""
        assert self.vocabulary is not None
        (Path(folder) / self.FILES[0]).write_text(json.dumps(self.settings, indent=1))
        self.vocabulary.save(Path(folder) / self.FILES[1])

    @classmethod
    def from_pretrained(cls, folder: str | Path, **changes) -> "CellTokenizer":
        """Read a tokenizer from a folder that `save_pretrained` wrote; `changes` replace its settings."""
        settings, genes = (Path(folder) / name for name in cls.FILES)
        tokenizer = cls("from_data", **json.loads(settings.read_text()) | changes)
        tokenizer.bind_vocabulary(GeneVocabulary(genes.read_text().split("\n")[:-1]))
        return tokenizer
