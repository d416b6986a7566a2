"""How much of cells the longest input cuts off, in figures and in words."""

import numpy as np

from bmfm.tokenizers.base import Tokens
from bmfm.tokenizers.rna import CellTokenizer


class Truncation:
    """How much of cells `max_tokens` cuts off, summed over batches."""

    def __init__(self) -> None:
        self.cells = self.genes = self.cut_cells = self.cut_genes = self.longest = 0

    def add(self, tokens: Tokens) -> None:
        """Add what became of the cells of one `CellTokenizer.encode`."""
        assert tokens.full_profile is not None
        lengths: np.ndarray = tokens.full_profile.lengths
        self.cells += len(tokens)
        self.genes += int(lengths.sum())
        self.cut_cells += tokens.counts["truncated_cells"]
        self.cut_genes += tokens.counts["genes_left_out_by_truncation"]
        self.longest = max(self.longest, int(lengths.max(initial=0)))

    def message(self, tokenizer: CellTokenizer, max_tokens: int, largest_panel: int) -> str | None:
        """The figures in words, where more than 1% of what the cells express is not seen, as token or in a summary; else None.

        Parameters
        ----------
        largest_panel
            Genes of the file with most.
        """
        if tokenizer.summary or self.cut_genes <= 0.01 * self.genes:
            return None
        needed = tokenizer.zero_genes.room_for(self.longest, largest_panel, tokenizer.zero_share)
        enough = -(-(needed + len(tokenizer.prefix) + 1) // 8) * 8
        remedy = "" if tokenizer.positions else f"; max_tokens={enough} shows all"
        return (
            f"{self.cut_genes / self.genes:.0%} of all expressed genes are not seen, of {self.cut_cells:,} of {self.cells:,} cells "
            f"(longest cell {self.longest:,} genes, max_tokens={max_tokens}){remedy}"
        )
