"""From sources to batches. A batch is a plain dict of tensors; DNA and RNA share everything from here on.

``input_ids`` [B, L] int64, ``document`` [B, L] int64 (0 where padded; rows may hold several packed documents, numbered
from 1), ``position_ids`` [B, L] int64 (from 0 in each document), ``labels`` {name: [B, L]} with -100 as "no label",
``has_variant`` [B, L] bool; ``start``, ``end`` [N] int64 and ``reverse`` [N] bool locate the N windows in the genome;
``counts`` {name: int} says what was truncated, unknown or written otherwise.
"""
