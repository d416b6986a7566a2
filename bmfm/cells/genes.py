"""Gene vocabularies, and matching a file's genes to one: by symbol, by alias or previous symbol, by Ensembl id."""

import gzip
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bmfm.files import ASSETS, open_whole, require_file
from bmfm.special import SPECIAL_TOKENS, UNK

EXTRA_CLS = tuple(f"[CLS_{i}]" for i in range(31))
DEPTH = ("[S]", "[T]")
SHIPPED = ("protein_coding", "all_genes", "gene2vec")
_ENSEMBL = re.compile(r"(ENS[A-Z]*G\d{11})")
_VERSIONED = re.compile(r"(ENS[A-Z]*G\d{11})\.\d+")
_ASSEMBLY = re.compile(r"(GRCh3[78]|hg19|hg38|GRCm3[89]|mm10|mm39)_+")
_LIKELY_COLUMNS = ("feature_name", "gene_symbols", "gene_symbol", "symbol", "gene_name", "gene_names", "gene_short_name")
_LIKELY_ID_COLUMNS = ("feature_id", "gene_ids", "gene_id", "ensembl_id", "ensembl", "ensembl_gene_id")


@lru_cache(maxsize=1)
def _known_genes() -> tuple[list[tuple[str, ...]], dict[str, list[int]]]:
    """Names of each human gene (symbol first, then aliases) and {symbol, alias or Ensembl id: genes}."""
    names: list[tuple[str, ...]] = []
    index: dict[str, list[int]] = {}
    with gzip.open(ASSETS / "genes" / "human_genes.tsv.gz", "rt") as lines:
        next(lines)
        for number, line in enumerate(lines):
            _, symbol, aliases, ensembl, _ = line.rstrip("\n").split("\t")
            own = tuple(dict.fromkeys([symbol, *(a for a in aliases.split("|") if a)]))
            names.append(own)
            for name in (*own, *(e for e in ensembl.split("|") if e)):
                index.setdefault(name, []).append(number)
    return names, index


@dataclass
class GeneMatch:
    """How the genes of one file were found in a vocabulary.

    Attributes
    ----------
    ids
        Vocabulary id of each of the file's genes, ``int32`` [G]; -1 where there is none.
    column
        The ``.var`` column that was read (``index`` for ``var_names``).
    how
        Number of genes by the way they were found, or why they were not.
    n_other
        Features that are no genes by ``.var`` (`other_features`): antibodies, guides, peaks. They are not matched.
    matrix
        Where the counts were read: ``X``, ``raw``, ``layers/NAME``.
    """

    ids: np.ndarray
    column: str
    how: dict[str, int] = field(default_factory=dict)
    n_other: int = 0
    matrix: str = "X"

    @property
    def n_genes(self) -> int:
        """Genes of the file."""
        return len(self.ids) - self.n_other

    @property
    def n_matched(self) -> int:
        return int((self.ids >= 0).sum())

    @property
    def share(self) -> float:
        """Matched genes over all genes of the file."""
        return self.n_matched / max(1, self.n_genes)

    def __str__(self) -> str:
        said = ", ".join(f"{n:,} {way}" for way, n in self.how.items() if n)
        where = f"; counts from {self.matrix}" if self.matrix != "X" else ""
        return f"{self.n_matched:,} of {self.n_genes:,} genes in the vocabulary ({self.share:.1%}, by var {self.column}: {said}){where}"


class GeneVocabulary:
    """Genes as tokens: special tokens first (and, in published vocabularies, [S] and [T] where they stand).

    Parameters
    ----------
    names
        Every token, in the order of its id.
    """

    def __init__(self, names: Sequence[str]):
        self.names = list(names)
        if tuple(self.names[: len(SPECIAL_TOKENS)]) != SPECIAL_TOKENS:
            raise ValueError(f"a gene vocabulary begins with {SPECIAL_TOKENS}, this one with {tuple(self.names[:5])}")
        self.ids = {name: i for i, name in enumerate(self.names)}
        if len(self.ids) < len(self.names):
            twice = next(n for i, n in enumerate(self.names) if self.ids[n] != i)
            raise ValueError(f"gene {twice!r} stands twice in the vocabulary")
        special = {*SPECIAL_TOKENS, *EXTRA_CLS, *DEPTH}
        plain = [i for i, name in enumerate(self.names) if name not in special]
        if not plain:
            raise ValueError("the vocabulary holds no gene")
        self.plain_ids = (plain[0], plain[-1] + 1)

    @classmethod
    def load(cls, name: str | Path) -> "GeneVocabulary":
        """One that ships (``protein_coding``, ``all_genes``, ``gene2vec``), or a file with a token a line.

        A file that lacks special tokens is taken as genes alone, and gets them.
        """
        shipped = ASSETS / "genes" / f"{name}.vocab.txt.gz"
        if shipped.is_file():
            names = gzip.decompress(shipped.read_bytes()).decode().split()
            return cls(names if name != "all_genes" else [*names, *DEPTH])  # as published: 94,911 tokens with [S] and [T]
        file = require_file(name, f"gene vocabulary (none of {', '.join(SHIPPED)}; file)")
        names = [line.strip() for line in file.read_text().splitlines() if line.strip()]
        return cls(names) if names[:1] == [SPECIAL_TOKENS[0]] else cls.of_genes(names)

    @classmethod
    def of_genes(cls, genes: Iterable[str]) -> "GeneVocabulary":
        """A vocabulary of these genes with all special tokens before them."""
        return cls([*SPECIAL_TOKENS, *EXTRA_CLS, *DEPTH, *dict.fromkeys(genes)])

    def __len__(self) -> int:
        return len(self.names)

    def save(self, path: Path) -> None:
        path.write_text("\n".join(self.names) + "\n")

    @cached_property
    def _by_ensembl(self) -> dict[str, int]:
        """Tokens that carry their Ensembl id in their name, as ``5_8S_rRNA_ENSG00000275877``."""
        first, last = self.plain_ids
        found = ((m[1], i) for i in range(first, last) if (m := _ENSEMBL.search(self.names[i])))
        return {ensembl: i for ensembl, i in found}

    def find(self, name: str) -> tuple[int, str]:
        """Id of a gene, or -1, and the way it was found.

        The name of a human assembly before a gene's (``GRCh38_TP53``, as files of two species have it) is left out.
        """
        if (prefix := _ASSEMBLY.match(name)) and prefix[1] in ("GRCh37", "GRCh38", "hg19", "hg38"):
            number, way = self.find(name[prefix.end() :])
            return number, f"{way} after {prefix[1]}_" if number >= 0 else way
        if (own := self.ids.get(name, UNK)) >= self.plain_ids[0]:
            return own, "by symbol"
        names, index = _known_genes()
        bare = name.split(".")[0] if name.startswith("ENS") else name
        way = "by Ensembl id" if name.startswith("ENS") else "by alias"
        if bare in self._by_ensembl:
            return self._by_ensembl[bare], way
        rows = index.get(bare, [])
        by_symbol = {self.ids[names[r][0]] for r in rows if names[r][0] in self.ids}
        found = by_symbol or {self.ids[n] for r in rows for n in names[r] if n in self.ids}
        if len(found) == 1:
            return found.pop(), way
        return -1, "ambiguous" if found else "not in the vocabulary"

    def match(
        self,
        var: pd.DataFrame,
        column: str | None = None,
        orthologs: Mapping[str, str] | None = None,
        beside: pd.DataFrame | None = None,
    ) -> GeneMatch:
        """Find a file's genes: exact symbols first, then aliases, then Ensembl ids with or without a version.

        Where a column of ``.var`` says that features are no genes (antibodies of CITE-seq, peaks), they are left out,
        whatever they are called; see `other_features`.

        Parameters
        ----------
        column
            The ``.var`` column that names genes, ``index`` for ``var_names``; None tries these and the usual columns and
            takes the best.
        orthologs
            {name in the file: human gene}, for other species; Ensembl ids with or without a version.
        beside
            ``.var`` where `var` is that of raw: it says what features are if `var` does not.

        Raises
        ------
        KeyError
            If there is no such column.
        """
        columns = {c: var[c] for c in var.columns} | {"index": var.index}
        if column is not None and column not in columns:
            raise KeyError(f"there is no .var column {column!r} (gene_column); there are {', '.join(map(str, columns))}")
        tried = [column] if column else ["index", *(c for c in (*_LIKELY_COLUMNS, *_LIKELY_ID_COLUMNS) if c in columns)]
        other = other_features(var, beside)
        return max((self._match(columns[c].astype(str).tolist(), str(c), orthologs, other) for c in tried), key=lambda m: m.n_matched)

    def _match(self, names: list[str], column: str, orthologs: Mapping[str, str] | None, other: list[str | None]) -> GeneMatch:
        asked = human_names(names, orthologs)
        ids = np.full(len(names), -1, np.int32)
        how: dict[str, int] = {}
        found = [self.find(name) if kind is None else (-1, f"no genes but {kind}") for name, kind in zip(asked, other, strict=True)]
        exact = {i for i, way in found if way == "by symbol"}
        for k, (i, way) in enumerate(found):
            if way == "by alias" and i in exact:
                i, way = -1, "aliases of a gene that is there itself"
            ids[k] = i
            how[way] = how.get(way, 0) + 1
        matched = ids[ids >= 0]
        if n_merged := len(matched) - len(np.unique(matched)):
            how["of them sharing a gene (their counts are added)"] = n_merged
        return GeneMatch(ids, column, how, sum(kind is not None for kind in other))


_KIND_COLUMNS = (
    "feature_types", "feature_type", "featuretypes", "featuretype", "feature_class", "feature_kind", "feature_category", "modality",
    "modalities", "library_type", "gene_type", "gene_biotype", "biotype", "type", "assay",
)  # fmt: skip
_ASSAYS = {"gene expression", "gex", "gene", "genes", "rna", "mrna", "transcriptome", "transcript", "transcripts", "transcriptomics"}
_NO_GENES = set(
    [
        "antibody",
        "antibodies",
        "adt",
        "adts",
        "protein",
        "proteins",
        "prot",
        "proteomics",
        "abseq",
        "cite",
        "citeseq",
        "totalseq",
        "hto",
        "htos",
        "hashtag",
        "hashtags",
        "hashing",
        "isotype",
        "crispr",
        "guide",
        "guides",
        "grna",
        "sgrna",
        "peak",
        "peaks",
        "atac",
        "chromatin",
        "multiplex",
        "multiplexing",
        "cmo",
        "capture",
        "custom",
        "vdj",
        "surface",
    ]
)


def _words(text: Any) -> str:
    """In small letters, words apart by one space: ``Gene_Expression`` is ``gene expression``."""
    return " ".join(re.findall("[a-z0-9]+", str(text).lower()))


def other_features(var: pd.DataFrame, beside: pd.DataFrame | None = None) -> list[str | None]:
    """Of each feature None if it is a gene, or what a column of ``.var`` calls it.

    Columns are known by name (``feature_types``, ``feature_type``, ``modality``, ``feature_class``, ..., capitals or not).
    What such a column calls by a word for other things (antibody, protein, ADT, HTO, AbSeq, peaks, guide, ...) is no gene;
    ``protein_coding`` and other biotypes are. Where some features are called Gene Expression, RNA, mRNA, transcriptome or
    alike, the column is one of assays, and whatever else stands there is no gene; else, what is not known is kept.

    Parameters
    ----------
    beside
        Another table, which is asked by name where `var` has no such column.
    """
    columns = [c for c in var.columns if _words(c).replace(" ", "_") in _KIND_COLUMNS]
    if not columns and beside is not None:
        there = dict(zip(beside.index, other_features(beside), strict=True))
        return [there.get(name) for name in var.index]
    out: list[str | None] = [None] * len(var)
    for column in columns:
        kinds = var[column].astype(object).where(var[column].notna(), "").astype(str).str.strip()
        words = {kind: _words(kind) for kind in kinds.unique()}
        of_assays = any(w in _ASSAYS for w in words.values())
        is_other = {
            kind: w not in _ASSAYS and (of_assays or bool(_NO_GENES & set(w.replace("protein coding", "").split())))
            for kind, w in words.items()
        }
        out = [old or ((kind or "unnamed features") if is_other[kind] else None) for old, kind in zip(out, kinds, strict=True)]
    return out


def human_names(names: Iterable[str], orthologs: Mapping[str, str] | None) -> list[str]:
    """Names as a table of orthologs translates them: as they stand, else without the version of an Ensembl id or the name of
    an assembly before them; those it does not know stay."""
    names = list(names)
    if not orthologs:
        return names
    bare = {_VERSIONED.sub(r"\1", name): human for name, human in orthologs.items()} | dict(orthologs)

    def human(name: str) -> str:
        plain = _VERSIONED.sub(r"\1", _ASSEMBLY.sub("", name, count=1))
        return bare.get(name) or bare.get(plain) or name

    return [human(name) for name in names]


def read_orthologs(table: Any) -> dict[str, str]:
    """{gene of another species: human gene}.

    Parameters
    ----------
    table
        A mapping or Series of these; a DataFrame, or a CSV or TSV file with a header, with them as the first two columns.

    Raises
    ------
    ValueError
        If it is something else, or has fewer columns.
    """
    if isinstance(table, Mapping | pd.Series):
        return {str(name): str(human) for name, human in table.items() if pd.notna(human)}
    name = "the DataFrame of orthologs"
    if isinstance(table, str | Path):
        file = require_file(table, "table of orthologs")
        with open_whole(file) as stream:
            frame = pd.read_csv(stream, sep="\t" if ".tsv" in file.name or ".txt" in file.name else ",", dtype=str)
        table, name = frame, str(file)
    if not isinstance(table, pd.DataFrame):
        raise ValueError(f"orthologs of type {type(table).__name__} cannot be read: give a dict, a table of two columns, or its path")
    if table.shape[1] < 2:
        raise ValueError(f"{name}: two columns are needed, the other species' gene and the human gene")
    pairs = table.dropna().astype(str)
    return dict(zip(pairs.iloc[:, 0], pairs.iloc[:, 1], strict=True))
