"""What a model of DNA makes of regions of a genome in each donor: an AnnData of donors x (regions x outputs), to be joined with RNA by donor.

Each donor has two copies of a region, and each sequence that occurs goes through the model once, however many donors have it.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bmfm.files import require_file
from bmfm.genome.alphabet import COMPLEMENT, SYMBOLS
from bmfm.genome.personal import PersonalGenome
from bmfm.genome.reference import Reference
from bmfm.genome.regions import bed_rows, locate
from bmfm.inference.predictor import Predictor
from bmfm.ledger import Ledger

DISTANCE = "embedding_distance"
"""The output of a model without label heads: Euclidean distance of the embedding of a copy to that of the reference."""

BLOCK_BASES = 1 << 29
"""Bases of all copies of the regions that are looked at together; those that differ are held in memory."""

_LETTERS = np.frombuffer("".join(SYMBOLS[:5]).encode("ascii"), np.uint8)


@dataclass(frozen=True)
class DonorRegions:
    """Regions of a genome that are read in each donor.

    Attributes
    ----------
    table
        A row a region, by its unique name: ``chrom``, ``start``, ``end`` (0-based, half-open) and ``strand`` (``+`` where the file has
        none).
    contig, start, end : int64 [R]
        Numbers of the contigs; places in `Reference.codes`.
    reverse : bool [R]
    """

    table: pd.DataFrame
    contig: np.ndarray
    start: np.ndarray
    end: np.ndarray
    reverse: np.ndarray

    def __len__(self) -> int:
        return len(self.table)


def read_donor_regions(bed: str | Path, reference: Reference) -> DonorRegions:
    """Regions of a BED file in its order; a region that is there twice gets ``-1``, ... behind its name.

    Raises
    ------
    ValueError
        Naming the line whose contig is not in the genome, whose interval is not inside it, or whose strand is none.
    """
    from anndata.utils import make_index_unique

    rows = list(bed_rows(require_file(bed, "BED file")))
    for row in rows:
        if row.strand not in (None, "+", "-", "."):
            raise ValueError(f"{row.where}: column 6 is the strand, +, - or ., but is {row.strand[:20]!r}; correct it, or keep 5 columns")
    located = np.array([locate(row, reference) for row in rows], np.int64)
    reverse = np.array([row.strand == "-" for row in rows])
    table = pd.DataFrame(
        {
            "chrom": pd.Categorical([reference.contigs[contig]["name"] for contig in located[:, 0]]),
            "start": located[:, 1],
            "end": located[:, 2],
            "strand": pd.Categorical(np.where(reverse, "-", "+"), ["+", "-"]),
        },
        index=make_index_unique(pd.Index([row.name for row in rows], name="region")),
    )
    first = reference.starts[located[:, 0]]
    return DonorRegions(table, located[:, 0], first + located[:, 1], first + located[:, 2], reverse)


def contigs_without_variants(people: PersonalGenome, regions: DonorRegions) -> dict[str, int]:
    """Contigs of which the variant file has no allele, each with its number of regions: there all donors are the reference."""
    starts, ends, edits = people.reference.starts, people.reference.ends, people.variants.start
    n_edits = np.searchsorted(edits, ends, "right") - np.searchsorted(edits, starts)
    bare = regions.contig[n_edits[regions.contig] == 0]
    return {people.reference.contigs[contig]["name"]: int(n) for contig, n in zip(*np.unique(bare, return_counts=True), strict=True)}


@dataclass
class DonorSequences:
    """The different sequences of some regions, and who has them.

    Attributes
    ----------
    texts
        Of different sequences.
    names
        Whose each is, of the first that has it.
    number : int32 [S, R, 2]
        Of each donor's two copies their sequence; -1 where nothing is left of the region.
    reference_number : int32 [R]
    """

    texts: list[str]
    names: list[str]
    number: np.ndarray
    reference_number: np.ndarray


def donor_sequences(people: PersonalGenome, regions: DonorRegions, part: slice = slice(None)) -> DonorSequences:
    """The sequences of some regions in all donors of `people`, and in the reference."""
    names, n_regions = regions.table.index[part], len(regions.table.index[part])
    start, end, reverse = regions.start[part], regions.end[part], regions.reverse[part]
    # a haplotype is a region with some edits, and is written once; the first are those without any
    region_of, edits_of, owner_of = list(range(n_regions)), [np.empty(0, np.int64)] * n_regions, ["reference"] * n_regions
    known: dict[tuple[int, bytes], int] = {}
    haplotype = np.empty((len(people.samples), n_regions, 2), np.int64)
    haplotype[:] = np.arange(n_regions)[:, None]
    for donor, sample in enumerate(people.samples):
        chosen, first = people.applied_edits(sample, np.repeat([0, 1], n_regions), np.tile(start, 2), np.tile(end, 2))
        for window in np.flatnonzero(np.diff(first)).tolist():
            copy, region = divmod(window, n_regions)
            edits = chosen[first[window] : first[window + 1]]
            number = known.setdefault((region, edits.tobytes()), len(region_of))
            if number == len(region_of):
                region_of.append(region)
                edits_of.append(edits)
                owner_of.append(f"{sample} copy {copy + 1}")
            haplotype[donor, region, copy] = number
    first_edit = np.append(0, np.cumsum([len(edits) for edits in edits_of]))
    encoded = people.write(start[region_of], end[region_of], np.concatenate(edits_of), first_edit)
    texts: dict[str, int] = {"": -1}
    text_names: list[str] = []
    number_of = np.empty(len(region_of), np.int32)
    for h, region in enumerate(region_of):
        symbols = COMPLEMENT[encoded[h]][::-1] if reverse[region] else encoded[h]
        text = _LETTERS[symbols].tobytes().decode("ascii")
        number_of[h] = texts.setdefault(text, len(text_names))
        if number_of[h] == len(text_names):
            text_names.append(f"{names[region]}, {owner_of[h]}")
    return DonorSequences(list(texts)[1:], text_names, number_of[haplotype], number_of[:n_regions])


@dataclass
class DonorPredictions:
    """What a model makes of regions in donors.

    Attributes
    ----------
    outputs
        Names of the K outputs: columns of `Predictor.predict` that are numbers, or `DISTANCE`.
    values : float32 [S, R, 2, K]
        Of both copies; NaN where nothing is left of the region.
    reference : float32 [R, K]
        Of the reference.
    embeddings : float32 [S, R, H] or None
        Means over both copies.
    number : int32 [S, R, 2], reference_number : int32 [R]
        Which copies have the same sequence, see `DonorSequences`; numbers are those of a block of regions.
    counts
        What the model saw.
    """

    outputs: list[str]
    values: np.ndarray
    reference: np.ndarray
    embeddings: np.ndarray | None
    number: np.ndarray
    reference_number: np.ndarray
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def n_lost(self) -> int:
        """Copies of regions of which nothing is left."""
        return int((self.number < 0).sum())

    @property
    def n_changed(self) -> np.ndarray:
        """Of each donor [S], regions of which a copy is not the reference."""
        return (self.number != self.reference_number[:, None]).any(2).sum(1)

    @property
    def n_sequences(self) -> np.ndarray:
        """Of each region [R], different sequences among the copies."""
        return np.array([len(np.unique(of_region[of_region >= 0])) for of_region in self.number.swapaxes(0, 1)], np.int64)


def _blocks(people: PersonalGenome, regions: DonorRegions) -> Iterator[slice]:
    """Regions whose copies have at most `BLOCK_BASES` bases together, or one of them."""
    bases = np.cumsum(regions.end - regions.start) * (2 * len(people.samples) + 1)
    first = 0
    while first < len(regions):
        before = bases[first - 1] if first else 0
        last = max(first + 1, int(np.searchsorted(bases, before + BLOCK_BASES, "right")))
        yield slice(first, last)
        first = last


def predict_donors(
    predictor: Predictor,
    people: PersonalGenome,
    regions: DonorRegions,
    embeddings: bool = True,
    predictions: bool | None = None,
    pooling: str | int | None = None,
    layer: int | None = None,
    ledger: Ledger | None = None,
    **options: Any,
) -> DonorPredictions:
    """Run a model on both copies of regions in all donors.

    Parameters
    ----------
    predictions
        Whether the outputs are those of label heads; None: where the model has some.
    ledger
        Where finished shards are kept, which others and the next run with it use.
    options
        Of `Predictor.embed_and_predict`.

    Raises
    ------
    ValueError
        If there would be no outputs: the model has no label heads that give numbers, and no embeddings are asked for.
    """
    predictions = bool(predictor.labels) if predictions is None else predictions
    blocks = []
    for found, texts, of_block in _blocks_of_sequences(people, regions, ledger):
        embedded, predicted = predictor.embed_and_predict(
            texts, embeddings, predictions, pooling, layer, ledger=of_block, alphabet="plain", **options
        )
        blocks.append(_of_copies(found, embedded, predicted))
        blocks[-1].counts.update(predictor.counts)
    return DonorPredictions(
        blocks[0].outputs,
        np.concatenate([b.values for b in blocks], 1),
        np.concatenate([b.reference for b in blocks]),
        np.concatenate([b.embeddings for b in blocks if b.embeddings is not None], 1) if embeddings else None,
        np.concatenate([b.number for b in blocks], 1),
        np.concatenate([b.reference_number for b in blocks]),
        sum((b.counts for b in blocks), Counter()),
    )


def work_on_donors(
    predictor: Predictor,
    people: PersonalGenome,
    regions: DonorRegions,
    embeddings: bool,
    predictions: bool | None,
    pooling: str | int | None,
    layer: int | None,
    ledger: Ledger,
    **options: Any,
) -> None:
    """Do a worker's share of `predict_donors`."""
    predictions = bool(predictor.labels) if predictions is None else predictions
    for _, texts, of_block in _blocks_of_sequences(people, regions, ledger):
        predictor.work(texts, embeddings, predictions, pooling, layer, ledger=of_block, alphabet="plain", **options)


def _blocks_of_sequences(
    people: PersonalGenome, regions: DonorRegions, ledger: Ledger | None
) -> Iterator[tuple[DonorSequences, pd.Series, Ledger | None]]:
    """The sequences of donors, block by block, as the Predictor takes them, and the ledger of each block."""
    for number, part in enumerate(_blocks(people, regions)):
        found = donor_sequences(people, regions, part)
        texts = pd.Series(found.texts, index=pd.Index(found.names, name="sequence"), dtype=object)
        yield found, texts, ledger and ledger.below(f"{number:04d}")


def _of_copies(found: DonorSequences, embedded: np.ndarray | None, predicted: pd.DataFrame | None) -> DonorPredictions:
    """What a model makes of sequences, as that of the donors who have them."""
    mean = None if embedded is None else _rows(embedded, found.number).mean(2, dtype=np.float32)
    numeric = None if predicted is None else predicted.select_dtypes("number")
    if numeric is not None and numeric.shape[1]:
        outputs, table = list(map(str, numeric.columns)), numeric.to_numpy(np.float32)
        values, reference = _rows(table, found.number), table[found.reference_number]
    elif embedded is not None:
        outputs, values = [DISTANCE], np.empty((*found.number.shape, 1), np.float32)
        for region, of_reference in enumerate(embedded[found.reference_number]):
            values[:, region, :, 0] = np.linalg.norm(_rows(embedded, found.number[:, region]) - of_reference, axis=-1)
        reference = np.zeros((len(found.reference_number), 1), np.float32)
    else:
        raise ValueError("no label head of this model gives a number for a whole sequence: ask for embeddings=true, or fine-tune it first")
    return DonorPredictions(outputs, values, reference, mean, found.number, found.reference_number)


def _rows(table: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Rows of a table by their numbers, NaN where a number is -1."""
    rows = table[np.maximum(numbers, 0)].astype(np.float32)
    rows[numbers < 0] = np.nan
    return rows


def as_anndata(results: DonorPredictions, donors: Sequence[str], regions: DonorRegions, about: Mapping[str, str]) -> Any:
    """An AnnData of donors x features, one feature a region and output (``chr20:99-200:score``), regions one after the other.

    ``X`` is the mean over both copies, which stand in the layers ``copy1`` and ``copy2``. ``.var`` has the region, its coordinates
    (0-based, half-open), the output, its value for the reference, and how many different sequences the donors have. The embeddings, means
    over both copies, are ``.obsm["X_bmfm"]`` [donors, regions x H]: ``.reshape(donors, regions, H)`` parts them.

    Parameters
    ----------
    about
        Where it comes from, for ``.uns["bmfm"]``.
    """
    import anndata

    n_outputs, n_donors = len(results.outputs), len(donors)
    copies = [results.values[:, :, copy].reshape(n_donors, -1) for copy in range(2)]
    var = regions.table.loc[np.repeat(regions.table.index, n_outputs)].reset_index()
    var["output"] = pd.Categorical(np.tile(results.outputs, len(regions)), results.outputs)
    var["reference"] = results.reference.ravel()
    var["n_sequences"] = np.repeat(results.n_sequences, n_outputs)
    var.index = pd.Index(var["region"] + ":" + var["output"].astype(str))
    var["region"] = pd.Categorical(var["region"], regions.table.index)
    obs = pd.DataFrame({"n_regions_changed": results.n_changed}, index=pd.Index(donors, name="donor"))
    adata = anndata.AnnData((copies[0] + copies[1]) / 2, obs=obs, var=var, layers={"copy1": copies[0], "copy2": copies[1]})
    adata.uns["bmfm"] = {**about, "coordinates": "0-based, half-open"}
    if results.embeddings is not None:
        adata.obsm["X_bmfm"] = results.embeddings.reshape(n_donors, -1)
        adata.uns["bmfm"]["embedding_size"] = results.embeddings.shape[2]
    return adata
