"""Cells of an AnnData as tokenized examples."""

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np

from bmfm.cells.sources import Cells, open_source
from bmfm.hashing import example_keys
from bmfm.inference.inputs import CHUNK, Inputs
from bmfm.tokenizers.rna import CellTokenizer


def read_cells(
    tokenizer: CellTokenizer,
    data: Any,
    max_tokens: int,
    counts: str = "auto",
    gene_column: str | None = None,
    expects: str = "counts",
    min_matched: float = 0.3,
) -> Inputs:
    """Examples of (ids, values, read depth) of an AnnData, or of the path of one."""
    tokenizer = tokenizer.for_inference()
    assert tokenizer.vocabulary is not None
    source = open_source(data, tokenizer.vocabulary, counts, gene_column, None, expects, min_matched)
    cells = Cells([source], block=CHUNK, cached_blocks=2)
    measured = [np.flatnonzero(source.measured).astype(np.int32)]
    if tokenizer.depth["kind"] == "auto" and not tokenizer.depth["target"]:
        tokenizer.settle(cells.take(np.arange(min(len(cells), 2 * CHUNK))).totals)
    counted: Counter[str] = Counter()

    def chunks() -> Iterator:
        for start in range(0, len(cells), CHUNK):
            numbers = np.arange(start, min(start + CHUNK, len(cells)))
            held = cells.take(numbers)
            tokens = tokenizer(held, example_keys(0, 0, numbers), np.zeros(len(numbers), np.int64), measured, max_tokens)
            counted.update(tokens.counted(held))
            depth = tokens.depth if tokens.depth is not None else [None] * len(numbers)
            cuts = [slice(a, b) for a, b in pairwise(tokens.offsets)]
            yield start, [(tokens.ids[c], tokens.values[c], d) for c, d in zip(cuts, depth, strict=True)]

    return Inputs(source.view.obs.index, len(cells), chunks(), counts=counted, match=source.match)
