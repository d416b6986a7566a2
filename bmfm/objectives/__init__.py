"""What a model is trained for: labels from a batch, heads where they are needed, losses with names.

An objective has

- ``heads``: the heads it needs, {name: description} (`models.heads.Heads`), known once it is bound;
- ``needs``: what it wants of the data beside tokens, a set of ``"whole_cell"`` (every gene of a cell) and ``"shown_in_part"`` (held-out
  cells with dropout and thinning as in training, for what reconstructs the rest), or nothing;
- ``bind(name, data)``: learn classes and baselines from the training part;
- ``baseline``: logits [size] that know nothing of the input, as the frequencies of tokens: where the head's bias begins;
- ``prepare(batch, keys)``: change a CPU batch in place: hide tokens, add ``labels``; depends on the examples' keys alone;
- ``losses(model, batch, hidden_BLH)`` -> {loss: `Loss`};
- ``score(model, batch, hidden_BLH)`` -> {name: sums}, tensors that add up over batches and devices; ``loss/x`` holds
  (sum of the loss, number of labels, sum of the baseline's loss);
- ``summarise(sums)`` -> {metric: float}, and ``rows(metrics)`` -> lines of the summary.

`together.Objectives` holds several under their names.
"""

from typing import NamedTuple

import torch


class Loss(NamedTuple):
    """Sum of a loss over its labels, the number of labels, and the weight among all losses."""

    total: torch.Tensor
    n: torch.Tensor
    weight: float = 1.0
