"""What a model is trained for: labels from a batch, heads where they are needed, losses with names.

An objective has

- ``heads``: the heads it needs, {name: description} (`models.heads.Heads`), known once it is bound;
- ``needs``: what it wants of the data beside tokens, a set of ``"whole_cell"`` (every gene of a cell) and ``"shown_in_part"`` (held-out
  cells with dropout and thinning as in training, for what reconstructs the rest), or nothing;
- ``bind(name, data)``: learn classes and baselines from the training part;
- ``baseline``: logits [size] that know nothing of the input, as the frequencies of tokens: where the head's bias begins;
- ``prepare(batch, keys, training)``: change a CPU batch in place: hide tokens, add ``labels``; depends on the examples'
  keys, and in training on what was learned from held-out errors (`after_validation`), which never moves held-out masks;
- ``label_counts(batch)`` -> {loss: number (or summed weight) of the labels of a prepared batch}, without a model: what
  the losses of all batches of an optimiser step are divided by is known before the first of them;
- ``losses(model, batch, hidden_BLH)`` -> {loss: `Loss`};
- ``score(model, batch, hidden_BLH)`` -> {name: sums}, tensors that add up over batches and devices; ``loss/x`` holds
  (sum of the loss, number of labels, sum of the baseline's loss); names that begin with ``each/`` hold a row for each
  example instead, which are put one after the other;
- ``adversarial``: whether the encoder learns to forget these labels: their loss is no part of the monitored one;
- ``unscored``: the parts (validation, test) that have no label of it;
- ``summarise(sums)`` -> {metric: float}, and ``rows(metrics)`` -> lines of the summary.

`multitask.Objectives` holds several under their names.
"""

from typing import NamedTuple

import torch


class Loss(NamedTuple):
    """Sum of a loss over its labels, the number of labels, and the weight among all losses."""

    total: torch.Tensor
    n: torch.Tensor
    weight: float = 1.0
