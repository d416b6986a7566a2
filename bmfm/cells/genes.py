"""Gene vocabularies, and matching a file's genes to one: by symbol, by alias or previous symbol, by Ensembl id."""

import gzip
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

from bmfm.files import ASSETS, open_whole, require_file
from bmfm.special import SPECIAL_TOKENS, UNK

EXTRA_CLS = tuple(f"[CLS_{i}]" for i in range(31))
DEPTH = ("[S]", "[T]")
SHIPPED = ("protein_coding", "all_genes", "gene2vec")
_ENSEMBL = re.compile(r"(ENS[A-Z]*G\d{11})")
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
        Features that are no genes by ``.var`` (`_other_features`): antibodies, guides, peaks. They are not matched.
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
        """Id of a gene, or -1, and the way it was found."""
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

    def match(self, var: pd.DataFrame, column: str | None = None, orthologs: dict[str, str] | None = None) -> GeneMatch:
        """Find a file's genes: exact symbols first, then aliases, then Ensembl ids with or without a version.

        Where ``.var["feature_types"]`` says that features are no genes (antibodies of CITE-seq, peaks), they are left out,
        whatever they are called.

        Parameters
        ----------
        column
            The ``.var`` column that names genes; None tries ``var_names`` and the usual columns and takes the best.
        orthologs
            {name in the file: human gene}, for other species.

        Raises
        ------
        KeyError
            If there is no such column.
        """
        columns = {"index": var.index} | {c: var[c] for c in var.columns}
        if column is not None and column not in columns:
            raise KeyError(f"there is no .var column {column!r} (gene_column); there are {', '.join(map(str, columns))}")
        tried = [column] if column else ["index", *(c for c in (*_LIKELY_COLUMNS, *_LIKELY_ID_COLUMNS) if c in columns)]
        other = _other_features(var)
        return max((self._match(columns[c].astype(str).tolist(), str(c), orthologs, other) for c in tried), key=lambda m: m.n_matched)

    def _match(self, names: list[str], column: str, orthologs: dict[str, str] | None, other: list[str | None]) -> GeneMatch:
        asked = [orthologs.get(n, n) for n in names] if orthologs else names
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


_GENE_KINDS = ("gene expression", "gex", "gene", "genes", "rna")
_OTHER_KINDS = (
    "capture",
    "antibody",
    "adt",
    "protein expression",
    "hto",
    "crispr",
    "guide",
    "peak",
    "atac",
    "chromatin",
    "custom",
    "multiplex",
)


def _other_features(var: pd.DataFrame) -> list[str | None]:
    """Of each feature None if it is a gene, or what else ``.var["feature_types"]`` calls it.

    Where no feature is called Gene Expression, only what is plainly something else is left out: the column may classify
    genes.
    """
    if "feature_types" not in var:
        return [None] * len(var)
    kinds = var["feature_types"].astype(object).where(var["feature_types"].notna(), "").astype(str).str.strip()
    lower = kinds.str.lower()
    if lower.isin(_GENE_KINDS).any():
        is_gene = lower.isin(_GENE_KINDS)
    else:
        is_gene = ~lower.map(lambda kind: any(word in kind for word in _OTHER_KINDS))
    return [None if gene else kind or "unnamed features" for gene, kind in zip(is_gene, kinds, strict=True)]


def read_orthologs(path: str | Path) -> dict[str, str]:
    """{gene of another species: human gene} from the first two columns of a CSV or TSV table with a header."""
    file = require_file(path, "table of orthologs")
    with open_whole(file) as stream:
        table = pd.read_csv(stream, sep="\t" if ".tsv" in file.name or ".txt" in file.name else ",", dtype=str).dropna()
    if table.shape[1] < 2:
        raise ValueError(f"{file}: two columns are needed, the other species' gene and the human gene")
    return dict(zip(table.iloc[:, 0], table.iloc[:, 1], strict=True))
