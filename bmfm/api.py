"""What `bmfm.load` returns: the `Predictor`, and the questions that need more than one forward pass."""

from typing import Any

import pandas as pd

from bmfm.inference.predictor import Predictor
from bmfm.variants.mutagenesis import Mutagenesis, mutagenesis
from bmfm.variants.scoring import score_variants


class Model(Predictor):
    """A model and its tokenizer, see `Predictor`, and of DNA its answers about variants."""

    def score_variants(self, variants: Any, fasta: Any, **options: Any) -> pd.DataFrame:
        """Scores of variants, one row an ALT; see `variants.scoring.score_variants`."""
        return score_variants(self, variants, fasta, **options)

    def mutagenesis(self, sequences: Any = None, **options: Any) -> Mutagenesis:
        """Scores of every substitution of sequences or regions; see `variants.mutagenesis.mutagenesis`."""
        return mutagenesis(self, sequences, **options)
