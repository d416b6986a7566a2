"""The cell tokenizer: which genes of a cell the model sees, in which order, and with which values.

It owns all that turns counts into fields: the gene vocabulary, the order and truncation, what is done with zeros, the
value transform, read depth, and the special tokens in front. It is saved beside the model as JSON and text.

Each of four choices is a class of its own, named in the settings by a short name or, from any module, by its path:
``order`` (`cell_order`), ``zeros`` (`cell_zeros`), ``values.kind`` (`cells.values`) and ``read_depth.mode`` (`cells.read_depth`).

In training the genes that a cell shows, and what is downsampled or dropped of it, are drawn by its key. For inference, and for
cells that are held out of training, they are a function of the cell alone: `CellTokenizer.for_inference`.

A cell's total, by which counts are normalised, is over the genes of the vocabulary, so that a file which also counts
other transcripts gives the same values. log_normalise is log(1 + x / total * 1e4); the published code divides by total + 1.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bmfm.cells.counts import CellBatch, Counts, by_gene, content_keys
from bmfm.cells.gene_medians import median_where_expressed, read_medians, write_medians
from bmfm.cells.genes import EXTRA_CLS, GeneVocabulary
from bmfm.cells.perturbations import PERTURBATION_FIELDS
from bmfm.cells.read_depth import sums
from bmfm.special import PAD, SEP
from bmfm.tokenizers.base import Profiles, Tokens, hash_of_names
from bmfm.tokenizers.cell_encoder import CellEncoder
from bmfm.tokenizers.cell_settings import DEPTH, VALUES, CellSettings
from bmfm.tokenizers.collate import collate


class CellTokenizer(CellSettings):
    """Turns cells into gene and value tokens.

    Parameters
    ----------
    genes
        A shipped vocabulary, a file with a gene a line, or ``from_data`` (the genes of the training files).
    order
        ``random``, ``descending`` expression (ties in random order), ``distinctive``: by count over the gene's median in the training
        cells that express it (`cells.gene_medians`), or ``as_given``: by vocabulary id, whatever the order of a file's columns,
        zeros among the rest; the first `max_tokens` of what is expressed are kept.
    zeros
        Genes that the file measures but the cell does not express: none (``expressed``); after the cell's own, any
        (``measured``), or first those that other cells of the batch express (``batch_wise``: a cell of training then
        depends on its batch; for inference this is ``measured``); so many that they make up `zero_share` of the input
        (``interleaved``); or as they come (``all``).
    sequence_dropout
        Probability that an expressed gene is not shown.
    values
        ``{kind, target_sum, n_bins, upper}``, see `cells.values`; target_sum may be ``median``.
    read_depth
        ``{mode, min_total, rate, target, share}``: read-depth tokens [S], [T], see `cells.read_depth`. ``downsample`` and ``poisson``
        lower the read depth of the input, ``equal`` does not; ``align`` and ``auto`` set [T] to the total `target`. `target` is the
        largest total of the training cells where it is not given; it is saved, and inference with a model that lowers aligns to it.
        ``split`` (without these tokens) and ``split_aware`` show a share of each cell's molecules, drawn uniformly from the two
        numbers `share`; objective ``counts`` predicts the others, and inference shows the whole cell.
    n_cls
        [CLS] and then [CLS_0], [CLS_1], ...
    positions
        Whether the place in the input means something to the model.
    summary
        Give the model, beside the tokens, the values of all genes that are shown before truncation (`base.Tokens.shown_profile`).
    trained_on
        What the training files held; saved: ``orthologs``, {gene of another species: human gene}, by which their genes were found,
        used for the cells of inference; ``expects``, ``counts`` or ``normalised``, asked of the cells of inference
        (`resolve_expects`), None if that is not known; ``drugs``, names of the drugs that cells were treated with, a list, empty where genes alone
        were perturbed, and None where nothing was: the model then reads no perturbation.

    Attributes
    ----------
    orthologs, expects, drugs
        See `trained_on`.
    gene_medians
        [V] float32, of orders and values that are relative to them; None until they are learned from training cells (`fit_gene_medians`).
    keyed_by_content
        Whether tokens are a function of the cell alone, see `for_inference`.
    """

    FILES = ("cell_tokenizer.json", "genes.txt")
    MEDIANS = "gene_medians.txt"
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
        summary: bool = False,
        trained_on: Mapping[str, Any] | None = None,
    ):
        self.values: dict[str, Any] = VALUES | dict(values or {})
        self.read_depth: dict[str, Any] = DEPTH | dict(read_depth or {})
        self.order, self.zeros, self.zero_share, self.sequence_dropout = order, zeros, zero_share, sequence_dropout
        self.n_cls, self.positions, self.summary = n_cls, positions, summary
        files = {"orthologs": None, "expects": None, "drugs": None} | dict(trained_on or {})
        self.orthologs: dict[str, str] | None = files.pop("orthologs")
        self.expects: str | None = files.pop("expects")
        self.drugs: list[str] | None = files.pop("drugs")
        if files:
            raise ValueError(f"trained_on of a tokenizer has no {', '.join(map(repr, files))}, only orthologs, expects and drugs")
        self._check_settings()
        self.keyed_by_content = False
        self.gene_medians: np.ndarray | None = None
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

    def _check_settings(self) -> None:
        """Raise a ValueError naming the first setting that is unknown or out of range, and what it may be."""
        self.check_choices()
        if isinstance(self.n_cls, bool) or not isinstance(self.n_cls, int) or self.n_cls < 1:
            raise ValueError(f"tokenizer.n_cls={self.n_cls!r} must be a whole number of at least 1")
        for name, value in (("positions", self.positions), ("summary", self.summary)):
            if not isinstance(value, bool):
                raise ValueError(f"tokenizer.{name}={value!r}: true or false is expected")
        if not 0 <= self.sequence_dropout < 1 or not 0 <= self.zero_share < 1:
            raise ValueError(f"sequence_dropout={self.sequence_dropout} and zero_share={self.zero_share} must be at least 0 and below 1")

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
        return int(self.values["n_bins"]) if self.value_transform.is_binned else None

    @property
    def fields(self) -> dict[str, dict]:
        """What the model's field encoders must take."""
        values: dict = {"n_special": self.n_special} | ({"n_bins": self.n_bins} if self.n_bins else {})
        fields: dict[str, dict] = {"input_ids": {"size": len(self)}, "values": values}
        fields |= {"summary": {"size": len(self)}} if self.summary else {}
        return fields | ({} if self.drugs is None else {"perturbation": {"size": len(self), "n_drugs": len(self.drugs)}})

    def check_cls(self, number: int, who: str) -> None:
        """Raise a ValueError if there is no such CLS token."""
        if not 0 <= number < self.n_cls:
            raise ValueError(f"objective {who} reads CLS token {number}, but tokenizer.n_cls={self.n_cls}")

    def fit_normalization(self, totals: np.ndarray) -> None:
        """Replace ``median`` and a missing target of read depth by the median and the largest of all training cells' totals."""
        totals = totals[totals > 0]
        if self.values["target_sum"] == "median":
            self.values["target_sum"] = float(np.median(totals))
        if self.depth_mode.fits_target and not self.read_depth["target"]:
            self.read_depth["target"] = float(totals.max())

    def fit_gene_medians(self, cells: Counts) -> None:
        """Learn `gene_medians` from training cells, where the settings read them."""
        self.gene_medians = median_where_expressed(cells, len(self))

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
        expected = expects or self.expects or "counts"
        self.check_expects(expected, self.expects)
        if expected == "normalised" and self.values["kind"] == "log_normalise":
            self.values["kind"] = "as_is"
        return expected

    @property
    def is_fitted(self) -> bool:
        """Whether `fit_normalization` and `fit_gene_medians` have nothing left to do."""
        has_target = not self.depth_mode.fits_target or bool(self.read_depth["target"])
        return self.values["target_sum"] != "median" and has_target and (self.gene_medians is not None or not self.reads_gene_medians)

    @property
    def encoder(self) -> CellEncoder:
        """What makes tokens by these settings."""
        if self.values["target_sum"] == "median":
            raise ValueError("tokenizer.values.target_sum=median is known once training cells were seen (`fit_normalization`)")
        if self.reads_gene_medians and self.gene_medians is None:
            raise ValueError(
                f"{self.relative_settings}: the tokenizer has no medians of genes, which are learned in training and saved as {self.MEDIANS}; train with "
                "this setting, or choose tokenizer.order=descending"
            )
        return CellEncoder(
            self.gene_order,
            self.zero_genes,
            self.value_transform,
            self.depth_mode,
            self.value_settings,
            self.depth_settings,
            float(self.zero_share),
            float(self.sequence_dropout),
            len(self),
            self.summary,
            self.gene_medians,
        )

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
            field ``read_depth``, full profiles and, with `summary`, the shown ones.
        """
        room = self._room(max_tokens)
        counts = raw.counts
        if self.keyed_by_content or self.gene_order.by_gene:
            counts = by_gene(counts, len(self))
        if self.keyed_by_content:
            keys = content_keys(counts)
        if self.depth_mode.aligns and not self.read_depth["target"]:
            raise ValueError(
                "the tokenizer has no target of read depth: it was saved without (read_depth.target of cell_tokenizer.json). Give "
                "depth_target=N (data.depth_target on the command line), a total of counts such as the deepest training cells had"
            )
        tokens = self.encoder.encode(CellBatch(counts, raw.source_ids, raw.gene_panels), keys, room)
        if raw.perturbations is not None:
            tokens.example_fields |= raw.perturbations.as_fields()
        return tokens

    def encode_profiles(self, raw: CellBatch) -> Tokens:
        """Cells without tokens, their full profiles alone: what is predicted of a cell that no model reads."""
        counts, n = raw.counts, len(raw)
        profiles = Profiles(counts.ids, self.full_profile(counts), counts.offsets)
        depth = {"read_depth": np.zeros((n, 2), np.float32)} if self.has_depth else {}
        return Tokens(np.empty(0, np.int32), np.zeros(n + 1, np.int64), {"values": np.empty(0, np.float32)}, depth, profiles)

    def _room(self, max_tokens: int) -> int:
        """Genes that an input holds."""
        room = max_tokens - len(self.prefix) - 1
        if room < 1:
            raise ValueError(f"max_tokens={max_tokens} leaves no room for genes beside {len(self.prefix) + 1} special tokens")
        return room

    def collate(self, tokens: Tokens, row_length: int | None = None) -> dict[str, Any]:
        """Rows of a batch, in NumPy arrays; packed where a row length is given.

        ``values`` are -(id + 1) at special tokens and padding, and log(1 + total) of the input and the target at [S] and [T].
        """
        fills = {"values": -(PAD + 1.0)}
        batch = collate(tokens, self.prefix, self.n_special, row_length, self.positions, fills)
        values, first = batch["values"].reshape(-1), batch["cls_index"]
        for i in range(self.n_cls):
            values[first + i] = -(self.prefix[i] + 1.0)
        if self.has_depth:
            values[first + self.n_cls], values[first + self.n_cls + 1] = tokens.example_fields["read_depth"].T
        values[first + len(self.prefix) + tokens.lengths] = -(SEP + 1.0)
        batch |= {name: tokens.example_fields[name] for name in PERTURBATION_FIELDS if name in tokens.example_fields}
        return batch | ({} if tokens.shown_profile is None else {"shown_profile": tokens.shown_profile.as_batch()})

    def spans(self, ids: np.ndarray, n_bases: int | None = None) -> np.ndarray:
        """Ids of the gene that each of an example's tokens [L] stands for, [L, 2] half-open; special tokens stand for none."""
        ids = np.asarray(ids, np.int64)
        return np.stack([ids, ids + (ids >= self.n_special)], 1)

    def description(self) -> dict[str, Any]:
        """What a model depends on of its tokenizer: a hash of the genes in the order of their ids, and what their values, CLS
        tokens, read depth, positions and summary are, and a hash of the medians of genes where they are read."""
        return {
            "tokens": hash_of_names(self.names),
            "values": self.values["kind"],
            "n_bins": self.n_bins,
            "n_cls": self.n_cls,
            "read_depth": self.has_depth,
            "positions": self.positions,
            "summary": self.summary,
            "gene_medians": hashlib.sha256(self.gene_medians.tobytes()).hexdigest() if self.gene_medians is not None else None,
        } | ({} if self.drugs is None else {"drugs": self.drugs})

    def full_profile(self, counts: Counts) -> np.ndarray:
        """Values of every expressed gene of the cells, ``float32`` [nnz], in the order of `counts`."""
        return self.encoder.transform(counts, sums(counts.counts, counts.offsets))

    def for_inference(self, depth_target: float | None = None, order: str | None = None, shown_in_part: bool = False) -> "CellTokenizer":
        """The same, with tokens that are a function of the cell (and of which genes its file measures) alone.

        Nothing is dropped, thinned or split, and read depth is aligned to the training cells' deepest. What is drawn (which genes
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
        settings |= {"zeros": self.zero_genes.for_inference or self.zeros}
        if not shown_in_part:
            settings["sequence_dropout"] = 0.0
            if self.lowers_depth:
                settings["read_depth"] = self.read_depth | {"mode": self.depth_mode.for_inference}
        if depth_target is not None:
            if not self.has_depth:
                raise ValueError(f"depth_target={depth_target}: this model has no tokens of read depth")
            if isinstance(depth_target, str) or not depth_target > 0:
                raise ValueError(f"depth_target={depth_target!r} must be a total of counts above 0")
            settings["read_depth"] = self.read_depth | {"mode": "align", "target": float(depth_target)}
        again = CellTokenizer("from_data", **settings)
        assert self.vocabulary is not None
        again.bind_vocabulary(self.vocabulary)
        again.gene_medians, again.keyed_by_content = self.gene_medians, True
        return again

    @property
    def settings(self) -> dict:
        names = ("order", "zeros", "zero_share", "sequence_dropout", "values", "read_depth", "n_cls", "positions", "summary")
        files: dict[str, Any] = {name: value for name, value in (("orthologs", self.orthologs), ("expects", self.expects)) if value}
        files |= {} if self.drugs is None else {"drugs": self.drugs}
        return {name: getattr(self, name) for name in names} | ({"trained_on": files} if files else {})

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``cell_tokenizer.json``, ``genes.txt`` and, where they are known, ``gene_medians.txt``."""
        assert self.vocabulary is not None
        (Path(folder) / self.FILES[0]).write_text(json.dumps(self.settings, indent=1))
        self.vocabulary.save(Path(folder) / self.FILES[1])
        if self.gene_medians is not None:
            write_medians(self.gene_medians, Path(folder) / self.MEDIANS)

    @classmethod
    def from_pretrained(cls, folder: str | Path, **changes) -> "CellTokenizer":
        """Read a tokenizer from a folder that `save_pretrained` wrote; `changes` replace its settings."""
        settings, genes = (Path(folder) / name for name in cls.FILES)
        tokenizer = cls("from_data", **json.loads(settings.read_text()) | changes)
        tokenizer.bind_vocabulary(GeneVocabulary(genes.read_text().split("\n")[:-1]))
        if (medians := Path(folder) / cls.MEDIANS).is_file():
            tokenizer.gene_medians = read_medians(medians, len(tokenizer))
        return tokenizer
