"""What a batch holds: names and shapes, the same for both omics from here on.

``N`` examples lie in ``R`` rows of length ``L``: one a row (padded), or several (packed). ``V`` is the vocabulary, ``S`` the number
of sources in a batch.
"""

from typing import Any, NotRequired, TypedDict

import torch


class FullProfile(TypedDict):
    """Genes of cells, [nnz] each: the number of the example (int64, ascending), the gene's id (int64) and its value (float32).

    ``hidden_count`` (float32): of full profiles, how many molecules of the gene are not shown, where the tokenizer splits counts.
    """

    row: torch.Tensor
    gene: torch.Tensor
    value: torch.Tensor
    hidden_count: NotRequired[torch.Tensor]


class Accumulation(TypedDict):
    """Where a training batch stands in its optimiser step: its number, the batches of the step, and the labels of each loss in all of them."""

    number: int
    size: int
    label_counts: dict[str, float]


class Batch(TypedDict, total=False):
    """A batch of tokenized examples, a plain dict of tensors.

    Attributes
    ----------
    input_ids
        [R, L] int64, with hidden tokens as [MASK].
    original_ids
        [R, L] int64, before anything was hidden; added by the objectives.
    values, targets
        [R, L] float32, of cells: values, -(id + 1) at special tokens; and the values before read depth was lowered.
    has_variant
        [R, L] bool, of DNA: tokens with a base that was written from a variant.
    label_probs
        [R, L, 4] float32, of DNA whose tokens are bases, with ``representation=soft_labels``: probabilities of A, G, T and C, which masked
        language modelling takes as the label; NaN where the token itself is the label.
    sequence_ids
        [R, L] int64: from 1 in each row, 0 where padded. Tokens of different sequences never see each other.
    position_ids
        [R, L] int64, from 0 in each example; all 0 for cells, whose genes have no order.
    example_ids
        [R, L] int64, from 0 through the batch, -1 where padded.
    cls_index
        [N] int64, place of each example's first token in the flattened rows.
    content_index
        [T] int64, places of the examples' tokens in the flattened rows, example by example, without the special tokens around them; of
        batches that the Predictor makes.
    special_tokens_mask
        [R, L] bool, tokens that are no content; gone once the objectives have prepared the batch.
    isolated_mask
        [R, L] bool, tokens that are seen by themselves alone; added by objectives that ask for it.
    example_keys
        [N] int64, the bits of each example's key, its only source of randomness; gone once the batch is prepared.
    packed
        Whether rows may hold several examples.
    full_profile, source_ids, gene_panel_mask
        Of cells, where an objective needs whole cells: the values of all expressed genes; the source [N] of each cell; the genes that
        each source measures [S, V] bool.
    shown_profile
        Of cells whose tokenizer gives a summary: the values of all genes that may be shown, those that truncation leaves out too.
    perturbation_ids, perturbation_doses
        [N, K, 2] int64 and [N, K] float32, of cells of which is asked what becomes of them: see `cells.perturbations.Perturbations`.
    context_ids, control_profiles
        Of pairs of cells: the number of each example's context [N] int64, and the mean values of the control cells of all contexts
        [C, V] float32.
    parts
        {name: batch}: further named parts of the same examples, as the perturbed cell beside its control.
    labels
        {objective: [R, L] or [N, ...]}, with -100 (integers) or NaN as "no label".
    counts
        {what: number} of examples, tokens, and what was truncated, unknown or written otherwise.
    accumulation
        Of training batches.
    """

    input_ids: torch.Tensor
    original_ids: torch.Tensor
    values: torch.Tensor
    targets: torch.Tensor
    has_variant: torch.Tensor
    label_probs: torch.Tensor
    sequence_ids: torch.Tensor
    position_ids: torch.Tensor
    example_ids: torch.Tensor
    cls_index: torch.Tensor
    content_index: torch.Tensor
    special_tokens_mask: torch.Tensor
    isolated_mask: torch.Tensor
    example_keys: torch.Tensor
    packed: bool
    full_profile: FullProfile
    source_ids: torch.Tensor
    gene_panel_mask: torch.Tensor
    shown_profile: FullProfile
    perturbation_ids: torch.Tensor
    perturbation_doses: torch.Tensor
    context_ids: torch.Tensor
    control_profiles: torch.Tensor
    parts: dict[str, Any]
    labels: dict[str, torch.Tensor]
    counts: dict[str, int]
    accumulation: Accumulation
