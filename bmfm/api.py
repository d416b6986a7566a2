"""What `bmfm.load` returns: the `Predictor`, and the questions that need more than one forward pass."""

from typing import Any

import pandas as pd

from bmfm.inference.predictor import Predictor
from bmfm.interpret.attention import attention_edges
from bmfm.interpret.dna_dependency import DependencyMaps, dependency_map
from bmfm.interpret.dna_explain import explain_sequences
from bmfm.interpret.explain import explain
from bmfm.interpret.gene_vectors import enrichment, gene_embeddings, neighbours
from bmfm.interpret.in_silico import perturb_in_silico
from bmfm.perturbation.responses import predict_responses
from bmfm.perturbation.screen import screen
from bmfm.variants.mutagenesis import Mutagenesis, mutagenesis
from bmfm.variants.scoring import score_variants


class Model(Predictor):
    """A model and its tokenizer, see `Predictor`, and its answers about variants (of DNA) and perturbations (of cells)."""

    def score_variants(self, variants: Any, fasta: Any, **options: Any) -> pd.DataFrame:
        """Scores of variants, one row an ALT; see `variants.scoring.score_variants`."""
        return score_variants(self, variants, fasta, **options)

    def mutagenesis(self, sequences: Any = None, **options: Any) -> Mutagenesis:
        """Scores of every substitution of sequences or regions; see `variants.mutagenesis.mutagenesis`."""
        return mutagenesis(self, sequences, **options)

    def predict_responses(self, data: Any, perturbations: Any, **options: Any) -> Any:
        """Cells after perturbations, as an AnnData; see `perturbation.responses.predict_responses`."""
        return predict_responses(self, data, perturbations, **options)

    def screen(self, data: Any, readout: Any, genes: Any = None, **options: Any) -> pd.DataFrame:
        """Genes ranked by the predicted effect of perturbing them; see `perturbation.screen.screen`."""
        return screen(self, data, readout, genes, **options)

    def explain(self, data: Any = None, target: str | None = None, **options: Any) -> Any:
        """Cells with attributions of their genes, as an AnnData, see `interpret.explain.explain`; contributions of the bases of sequences or regions, see
        `interpret.dna_explain.explain_sequences`."""
        if self.tokenizer.omics == "dna":
            return explain_sequences(self, data, target=target, **options)
        if target is None:
            raise ValueError("target=... is needed, as head:NAME")
        return explain(self, data, target, **options)

    def dependency_map(self, sequences: Any = None, **options: Any) -> DependencyMaps:
        """How much what is expected at one base depends on another, for all pairs; see `interpret.dna_dependency.dependency_map`."""
        return dependency_map(self, sequences, **options)

    def perturb_in_silico(self, data: Any, genes: Any = "all", kind: str = "delete", **options: Any) -> Any:
        """What deleting, setting or scaling genes does to embeddings, heads or decoded profiles; see `interpret.in_silico.perturb_in_silico`."""
        return perturb_in_silico(self, data, genes, kind, **options)

    def gene_embeddings(self) -> pd.DataFrame:
        """The embedding of every gene; see `interpret.gene_vectors.gene_embeddings`."""
        return gene_embeddings(self)

    def neighbours(self, gene: str, k: int = 20) -> pd.DataFrame:
        """The genes with the nearest embeddings; see `interpret.gene_vectors.neighbours`."""
        return neighbours(self, gene, k)

    def enrichment(self, genes: Any, gene_sets: Any) -> pd.DataFrame:
        """Gene sets that some of the model's genes are enriched in, against all of them; see `interpret.gene_vectors.enrichment`."""
        return enrichment(list(genes), gene_sets, list(self.gene_embeddings().index))

    def attention_edges(self, data: Any, **options: Any) -> pd.DataFrame:
        """Attention between genes as sparse edges, which is weak evidence; see `interpret.attention.attention_edges`."""
        return attention_edges(self, data, **options)
