"""Sequences of DNA as tokenized examples, as they are, of FASTA files, of regions of a genome: the reader of models of DNA."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bmfm.genome.representation import Encoded
from bmfm.inference.inputs import Inputs, cut_into_windows, in_chunks
from bmfm.tokenizers.dna import SequenceTokenizer, refuse_unknown
from bmfm.tokenizers.texts import by_number, check_texts, join_pairs, other_strands


def tokenize_sequences(tokenizer: SequenceTokenizer, data: Any, max_tokens: int, alphabet: str = "auto") -> Inputs:
    """Tokens of what `read_sequences` takes.

    A sequence that is longer than the context is cut into windows; its result is their mean, weighted by tokens.

    Parameters
    ----------
    alphabet
        How texts are read: ``plain``, ``snp`` or, each text for itself, ``auto``; see `genome.alphabet.read_text`.

    Raises
    ------
    ValueError
        If a pair of sequences is longer than the context, or most tokens are [UNK].
    """
    inputs = tokenize_some(tokenizer, data, max_tokens, alphabet)
    refuse_unknown(inputs.counts["unknown_tokens"], inputs.counts["tokens"], "sequences")
    return inputs


def tokenize_some(tokenizer: SequenceTokenizer, data: Any, max_tokens: int, alphabet: str = "auto", first: int = 0) -> Inputs:
    """As `tokenize_sequences`, of some of the sequences, of which all may be [UNK].

    Parameters
    ----------
    first
        Number of the first of them, for messages.
    """
    names, texts, seconds = read_sequences(data)
    where = partial(_where, names, first)
    raw, n_replaced = tokenizer.read_texts(texts, alphabet, where)
    n_bases = np.diff(raw.offsets)
    if seconds is not None:
        others, n = tokenizer.read_texts(seconds, alphabet, where)
        raw, n_bases, n_replaced = join_pairs(raw, others), n_bases + np.diff(others.offsets), n_replaced + n
    inputs = _encode(tokenizer, names, raw, max_tokens, seconds is not None)
    inputs.counts = Counter({"sequences": len(texts), **inputs.counts, "characters_read_as_N": n_replaced})
    inputs.n_bases = n_bases
    inputs.other_strand = lambda: _encode(tokenizer, names, other_strands(raw), max_tokens, seconds is not None)
    return inputs


def _encode(tokenizer: SequenceTokenizer, names: pd.Index, raw: Encoded, max_tokens: int, are_pairs: bool) -> Inputs:
    """Tokens of sequences or pairs, in windows."""
    tokens = tokenizer.encode(raw)
    room = max_tokens - len(tokenizer.prefix) - 1
    if are_pairs and (long := int((tokens.lengths > room).sum())):
        raise ValueError(
            f"{long:,} of {len(tokens):,} pairs are longer than {max_tokens} tokens, and pairs cannot be cut into windows: "
            "give a larger max_tokens"
        )
    rows, owner = cut_into_windows(tokens, room)
    counts = Counter(tokens=len(tokens.ids), windows=len(rows), unknown_tokens=tokens.counts["unknown_tokens"])
    return Inputs(names, len(rows), partial(in_chunks, rows), owner, np.maximum(1, rows.lengths), counts)


def read_regions_of_fasta(fasta: str | Path, bed: str | Path) -> pd.Series:
    """Sequences of the regions of a BED file by their names, see `read_regions`."""
    names, texts = zip(*read_regions(fasta, bed), strict=True)
    return pd.Series(texts, index=pd.Index(names, name="region"))


def read_regions(fasta: str | Path, regions: str | Path | int) -> Iterator[tuple[str, str]]:
    """Names and sequences of regions of a genome, which stays on disk.

    Parameters
    ----------
    regions
        A BED file, of whose regions sequences are what ``bedtools getfasta -s`` gives: one on the strand ``-`` (column 6) is read as its
        reverse complement. Or a number of bases: each contig is cut into pieces of that, the last of which may be shorter.

    Yields
    ------
    name, sequence
        The name is ``contig:start-end`` (0-based, half-open) and, where the BED file has a strand, ``contig:start-end(-)``.

    Raises
    ------
    ValueError
        If a region is not inside its contig, or its strand is none; or of fewer bases than one.
    """
    from bmfm.files import require_file
    from bmfm.genome.alphabet import COMPLEMENT, decode
    from bmfm.genome.reference import Reference
    from bmfm.genome.regions import bed_rows, locate

    reference = Reference.from_fasta(fasta)
    if isinstance(regions, int):
        if regions < 1:
            raise ValueError(f"data.tile={regions}: give the bases of a tile, at least 1")
        for contig in reference.contigs:
            for start in range(0, contig["length"], regions):
                end = min(start + regions, contig["length"])
                yield f"{contig['name']}:{start}-{end}", decode(reference.fetch(contig["name"], start, end))
        return
    for row in bed_rows(require_file(regions, "BED file")):
        if row.strand not in (None, "+", "-", "."):
            raise ValueError(f"{row.where}: column 6 is the strand, +, - or ., but is {row.strand[:20]!r}; correct it, or keep 5 columns")
        number, start, end = locate(row, reference)
        codes = reference.fetch(reference.names.names[number], start, end)
        yield row.name, decode(COMPLEMENT[codes][::-1] if row.strand == "-" else codes)


TAKEN = "a list, Series or {name: sequence} of texts; tuples of two texts, or a frame, for pairs; or the path of a FASTA or FASTQ file"


def read_sequences(data: str | Path | Mapping | pd.Series | pd.DataFrame | Sequence) -> tuple[pd.Index, list[str], list[str] | None]:
    """Names, texts and, of pairs, second texts: of a FASTA or FASTQ file (plain, gzip or bgzip), or of sequences as they are.

    Pairs are tuples of two texts or a frame (see `_columns`); a Series, frame or mapping has names. White space in a text
    stands for no base and is left out.

    Raises
    ------
    ValueError
        If a sequence is missing or no text (see `tokenizers.texts.check_texts`), naming it; if there is none; if a frame
        does not say which columns are sequences; or if a text stands where a file or a list is expected.
    """
    if isinstance(data, Mapping):
        data = pd.Series(dict(data), dtype=object)
    if isinstance(data, pd.Series):
        columns, names = [data], data.index
    elif isinstance(data, pd.DataFrame):
        columns, names = _columns(data), data.index
    elif isinstance(data, str | Path):
        names, columns = _read_file(data)
    elif not isinstance(data, Iterable) or (isinstance(data, np.ndarray) and not data.ndim):
        raise ValueError(f"{str(data)[:40]!r} ({type(data).__name__}) holds no sequences: give {TAKEN}")
    else:
        texts = list(data)
        is_pairs = any(isinstance(t, tuple | list) for t in texts)
        if is_pairs and not all(isinstance(t, tuple | list) and len(t) == 2 for t in texts):
            raise ValueError("pairs and single sequences are mixed: give tuples of two texts, or texts, but not both")
        columns, names = list(zip(*texts, strict=True)) if is_pairs else [texts], pd.RangeIndex(len(texts))  # type: ignore[assignment]
    if not len(names):
        raise ValueError("there are no sequences: give at least one")
    read = [check_texts(column, partial(_where, names, 0)) for column in columns]
    return names, read[0], read[1] if len(read) > 1 else None


def _columns(frame: pd.DataFrame) -> list[pd.Series]:
    """The columns of a frame that hold sequences, one or, of pairs, two.

    ``sequence`` and ``second`` are a pair, whatever else the frame has; its one column, or ``sequence`` among three or more,
    holds single sequences; two columns of other names are a pair. Two columns of which one is named as names are
    (``id``, ``gene_name``, ...), or just one is ``sequence``, might be meant either way and are refused.
    """
    names = [str(c) for c in frame.columns]
    if "sequence" in names and "second" in names:
        return [frame.iloc[:, names.index("sequence")], frame.iloc[:, names.index("second")]]
    if len(names) == 1 or ("sequence" in names and len(names) > 2):
        return [frame.iloc[:, names.index("sequence") if "sequence" in names else 0]]
    if len(names) == 2 and "sequence" not in names and not any(map(_NAMES.fullmatch, names)):
        return [frame.iloc[:, 0], frame.iloc[:, 1]]
    raise ValueError(
        f"which columns of the frame are sequences? It has {', '.join(map(repr, names)) or 'none'}. For single sequences give one column, "
        "as frame.set_index(NAMES)[COLUMN]; for pairs name the two columns sequence and second"
    )


_NAMES = re.compile(r"(.*[ _.])?(ids?|names?|index|key|gene|transcript|region|contig|chrom|accession|label)|unnamed.*", re.IGNORECASE)


def _where(names: pd.Index, first: int, number: int) -> str:
    if isinstance(names, pd.RangeIndex):
        return by_number(first + number)
    name = names[number]
    return f"sequence {name.item() if isinstance(name, np.generic) else name!r} ({first + number}, counted from 0)"


def _read_file(path: str | Path) -> tuple[pd.Index, list[list[str]]]:
    from bmfm.data.tables import is_table

    if _is_sequence(str(path)) and (len(str(path)) > 200 or not Path(path).exists()):
        raise ValueError(
            f"{str(path)[:20]!r}: there is no such file; if it is a sequence, where a file or a list is expected, give [sequence]"
        )
    if is_table(path):
        raise ValueError(
            f"{path} is a table: read it and give its column of sequences, as pandas.read_csv(...)['sequence'], or run "
            f"python -m bmfm.predict checkpoint=... data.path={path} output=..."
        )
    names, texts = zip(*fasta_records(path), strict=True)
    return pd.Index(names, name="name"), [list(texts)]


def fasta_records(path: str | Path) -> Iterator[tuple[str, str]]:
    """Names and sequences of a FASTA or FASTQ file.

    Raises
    ------
    ValueError
        As `genome.fasta.read_records`; or naming the first record without a sequence.
    """
    from bmfm.files import require_file
    from bmfm.genome.fasta import read_records

    try:
        for number, (name, text) in enumerate(read_records(require_file(path, "FASTA file")), start=1):
            if not text:
                raise ValueError(f"{path}: record {number}, {name!r}, has no sequence. Remove it, and others that have none")
            yield name, text
    except ValueError as error:
        if "not a FASTA file" in str(error):
            raise ValueError(f"{error}; of a file with a sequence in each line give Path(...).read_text().split()") from None
        raise


def _is_sequence(text: str) -> bool:
    """Whether a text holds nothing but letters of nucleotides (IUPAC codes, symbols of the SNP-aware alphabet), and white space."""
    from bmfm.genome.alphabet import IUPAC_AMBIGUOUS, SYMBOLS

    return set("".join(text.split()).upper()) <= {*"ACGTUN", *IUPAC_AMBIGUOUS, *SYMBOLS}
