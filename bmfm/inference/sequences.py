"""Sequences of DNA as tokenized examples: as they are, of FASTA files, of regions of a genome."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bmfm.inference.inputs import CHUNK, Inputs
from bmfm.special import SEP, UNK
from bmfm.tokenizers.dna import refuse_unknown, rna_as_dna


def tokenize_sequences(tokenizer: Any, data: Any, max_tokens: int) -> Inputs:
    """Examples of (ids,) of what `read_sequences` takes.

    A sequence longer than the context is cut into windows; its result is their mean, weighted by tokens.
    """
    names, texts, seconds = read_sequences(data)
    tokens, n_replaced = tokenizer.of_texts(rna_as_dna(texts)[0])
    room = max_tokens - 2
    if seconds is not None:
        others, n = tokenizer.of_texts(rna_as_dna(seconds)[0])
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
