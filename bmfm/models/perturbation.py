"""A perturbation as a vector that goes into [CLS]: what is done to which genes, or which drug is given at which dose."""

import torch
from torch import nn

from bmfm.cells.perturbations import KINDS, PERTURBATION_FIELDS
from bmfm.models.embeddings import ExampleEncoder, FieldEncoder
from bmfm.tokenizers.batch import Batch


class PerturbationEncoder(ExampleEncoder):
    """Sum over a cell's targets of a small network of the target's row, scaled and shifted by its kind, and of the dose.

    The rows of genes are those of ``input_ids``: a gene that was never perturbed in training has the vector that it has as a part of cells.
    Drugs have rows of their own. A cell to which nothing is done gets 0, and so do all cells of a batch without perturbations.

    Parameters
    ----------
    size
        V, number of genes and special tokens; ids from there on are drugs.
    n_drugs
        Number of drugs.
    """

    def __init__(self, hidden_size: int, size: int, n_drugs: int = 0, eps: float = 1e-12):
        super().__init__()
        self.size, self.hidden_size = size, hidden_size
        self.norm = nn.LayerNorm(hidden_size, eps=eps)
        self.scale, self.shift = (nn.Embedding(len(KINDS), hidden_size) for _ in range(2))
        self.drugs = nn.Embedding(n_drugs, hidden_size) if n_drugs else None
        self.dose = nn.Linear(1, hidden_size, bias=False)
        self.dense_1, self.dense_2 = nn.Linear(hidden_size, 2 * hidden_size), nn.Linear(2 * hidden_size, hidden_size)

    def initialize(self) -> None:
        """Kinds begin alike, so that what is learned of a gene by one of them holds for the others until they are seen to differ."""
        nn.init.ones_(self.scale.weight)
        nn.init.zeros_(self.shift.weight)

    def forward(self, batch: Batch, tokens: FieldEncoder) -> torch.Tensor:
        n = len(batch["cls_index"])
        if PERTURBATION_FIELDS[0] not in batch:
            return self.dose.weight.new_zeros(n, self.hidden_size)
        cell, vectors = self.of_targets(batch, tokens)
        return vectors.new_zeros(n, self.hidden_size).index_add(0, cell, vectors)

    def of_targets(self, batch: Batch, tokens: FieldEncoder) -> tuple[torch.Tensor, torch.Tensor]:
        """The cell [T] and the vector [T, H] of each target of a batch."""
        ids, doses = batch["perturbation_ids"], batch["perturbation_doses"]
        cell, place = (ids[..., 0] >= 0).nonzero(as_tuple=True)
        target, kind = ids[cell, place].unbind(-1)
        is_gene = target < self.size
        rows = tokens(torch.where(is_gene, target, 0))
        if self.drugs is not None:
            of_drugs = self.drugs((target - self.size).clamp(min=0))
            rows = torch.where(is_gene[:, None], rows, of_drugs.to(rows.dtype))
        dose = self.dose(doses[cell, place].to(self.dose.weight.dtype)[:, None])
        states = self.norm(rows) * self.scale(kind) + self.shift(kind) + dose
        return cell, self.dense_2(nn.functional.gelu(self.dense_1(states)))
