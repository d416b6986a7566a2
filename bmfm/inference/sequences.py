"""Sequences of DNA as tokenized examples: as they are, of FASTA files, of regions of a genome."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bmfm.inference.inputs import CHUNK, Inputs
from bmfm.special import SEP, UNK
from bmfm.tokenizers.dna import refuse_unknown
from bmfm.tokenizers.texts import by_number, check_texts


def tokenize_sequences(tokenizer: Any, data: Any, max_tokens: int, alphabet: str = "auto") -> Inputs:
    """Examples of (ids,) of what `read_sequences` takes.

    A sequence longer than the context is cut into windows; its result is their mean, weighted by tokens.

    Parameters
    ----------
    alphabet
        How texts are read: ``plain``, ``snp`` or, each text for itself, ``auto``; see `genome.alphabet.read_text`.
    """
    names, texts, seconds = read_sequences(data)
    where = partial(_where, names)
    tokens, n_replaced = tokenizer.of_texts(texts, alphabet=alphabet, where=where)
    room = max_tokens - 2
    if seconds is not None:
        others, n = tokenizer.of_texts(seconds, alphabet=alphabet, where=where)
        tokens = [np.concatenate([a, [SEP], b]).astype(np.int32) for a, b in zip(tokens, others, strict=True)]
        n_replaced += n
        if long := sum(len(t) > room for t in tokens):
            raise ValueError(
                f"{long:,} of {len(tokens):,} pairs are longer than {max_tokens} tokens, and pairs cannot be cut into windows: "
                "give a larger max_tokens"
            )
    refuse_unknown(tokens, "sequences")
    windows = [(ids[a : a + room], number) for number, ids in enumerate(tokens) for a in range(0, max(1, len(ids)), room)]
    counts = Counter(
        sequences=len(texts),
        tokens=sum(map(len, tokens)),
        windows=len(windows),
        unknown_tokens=sum(int((t == UNK).sum()) for t in tokens),
        characters_read_as_N=n_replaced,
    )
    chunks = ((s, [(ids,) for ids, _ in windows[s : s + CHUNK]]) for s in range(0, len(windows), CHUNK))
    owner, weight = np.array([n for _, n in windows]), np.array([max(1, len(ids)) for ids, _ in windows])
    return Inputs(names, len(windows), chunks, owner, weight, windows, room, counts)


def read_regions_of_fasta(fasta: str | Path, bed: str | Path) -> pd.Series:
    """Sequences of the regions of a BED file, as ``bedtools getfasta -s`` gives them.

    A region on the strand ``-`` (column 6) is read as its reverse complement. Names are ``contig:start-end`` (0-based,
    half-open) and, where the BED file has a strand, ``contig:start-end(-)``. A region that is not inside its contig is
    an error.
    """
    from bmfm.files import require_file
    from bmfm.genome.alphabet import COMPLEMENT, decode
    from bmfm.genome.reference import Reference
    from bmfm.genome.regions import bed_rows, locate

    reference = Reference.from_fasta(fasta)
    names, texts = [], []
    for row in bed_rows(require_file(bed, "BED file")):
        if row.strand not in (None, "+", "-", "."):
            raise ValueError(f"{row.where}: column 6 is the strand, +, - or ., but is {row.strand[:20]!r}; correct it, or keep 5 columns")
        contig, start, end = locate(row, reference)
        codes = reference.fetch(reference.names.names[contig], start, end)
        names.append(row.name)
        texts.append(decode(COMPLEMENT[codes][::-1] if row.strand == "-" else codes))
    return pd.Series(texts, index=pd.Index(names, name="region"))


def read_sequences(data: str | Path | Mapping | pd.Series | pd.DataFrame | Sequence) -> tuple[pd.Index, list[str], list[str] | None]:
    """Names, texts and, of pairs, second texts: of a FASTA or FASTQ file (plain, gzip or bgzip), or of sequences as they are.

    Pairs are a frame of two columns, or tuples; a Series, frame or mapping has names.

    Raises
    ------
    ValueError
        If a sequence is missing or no text (see `tokenizers.texts.check_texts`), naming it; if there is none; or if a
        text stands where a file or a list is expected.
    """
    if isinstance(data, Mapping):
        data = pd.Series(dict(data), dtype=object)
    if isinstance(data, pd.Series):
        columns, names = [data], data.index
    elif isinstance(data, pd.DataFrame):
        if data.shape[1] != 2:
            raise ValueError(f"pairs of sequences need a frame of two columns, this one has {list(data.columns)}")
        columns, names = [data.iloc[:, 0], data.iloc[:, 1]], data.index
    elif isinstance(data, str | Path):
        names, columns = _read_file(data)
    else:
        texts = list(data)
        is_pairs = any(isinstance(t, tuple | list) for t in texts)
        if is_pairs and not all(isinstance(t, tuple | list) and len(t) == 2 for t in texts):
            raise ValueError("pairs and single sequences are mixed: give tuples of two texts, or texts, but not both")
        columns, names = list(zip(*texts, strict=True)) if is_pairs else [texts], pd.RangeIndex(len(texts))  # type: ignore[assignment]
    if not len(names):
        raise ValueError("there are no sequences: give at least one")
    read = [check_texts(column, partial(_where, names)) for column in columns]
    return names, read[0], read[1] if len(read) > 1 else None


def _where(names: pd.Index, number: int) -> str:
    return by_number(number) if isinstance(names, pd.RangeIndex) else f"sequence {names[number]!r} ({number}, counted from 0)"


def _read_file(path: str | Path) -> tuple[pd.Index, list[list[str]]]:
    from bmfm.files import require_file
    from bmfm.genome.fasta import read_records

    if re.fullmatch(r"[ACGTUNacgtun]{8,}", str(path)) and (len(str(path)) > 200 or not Path(path).exists()):
        raise ValueError(f"{str(path)[:20]!r}... is a sequence, where a file or a list is expected: give [sequence]")
    records = list(read_records(require_file(path, "FASTA file")))
    if empty := [name for name, text in records if not text]:
        raise ValueError(f"{path}: {len(empty):,} of {len(records):,} records have no sequence: {', '.join(empty[:5])}. Remove them")
    return pd.Index([name for name, _ in records], name="name"), [[text for _, text in records]]
