"""From sources to batches. A batch is a plain dict of tensors; DNA and RNA share everything from here on.

Rows hold one example each, or several packed ones (N examples in R rows of length L):

- ``input_ids`` [R, L] int64; ``values`` [R, L] float32 of cells, -(id + 1) at special tokens, and ``targets`` alike
  where read depth was lowered; ``has_variant`` [R, L] bool of DNA;
- ``document`` [R, L] int64, from 1 in each row, 0 where padded; ``position_ids`` [R, L] int64, from 0 in each example
  (all 0 for cells, whose genes have no order); ``packed`` bool;
- ``example`` [R, L] int64, from 0 through the batch, -1 where padded; ``first`` [N] int64, flat place of each example's
  first token; ``special`` [R, L] bool, tokens that are no content; ``keys`` [N] int64, the bits of each example's key;
- ``cell``: ``{row, gene, value}`` [nnz], whole cells for objectives that need them, with ``source`` [N] and
  ``measured`` [S, V] bool;
- ``counts`` {name: int}: what was truncated, unknown or written otherwise.

The objectives' `prepare` then adds ``tokens`` (``input_ids`` before anything was hidden), ``labels`` {name: [R, L] or
[N, ...]} with -100 or NaN as "no label", and ``unseen`` [R, L] bool if hidden tokens shall not see each other.
Training batches have ``window``: the batch's ``number`` in its optimiser step, the ``size`` of the step in batches, and
``label_counts``, how many labels each loss has in all of them on this device.
"""
