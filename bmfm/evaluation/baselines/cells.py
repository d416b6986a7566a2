"""Embeddings of cells by standard methods."""

import logging
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from bmfm.evaluation.baselines.projection import fit_projection
from bmfm.evaluation.examples.base import Examples
from bmfm.evaluation.methods.base import EmbeddingMethod
from bmfm.evaluation.task_spec import TaskSpec


class PcaEmbeddings(EmbeddingMethod):
    """Principal components of the most variable genes' normalised log counts (scanpy's standard steps).

    Genes and components come from the examples that may be learned from: the training part, or all cells where none is tested.
    """

    omics = ("rna",)

    def __init__(self, name: str, n_genes: int = 2000, n_components: int = 50):
        super().__init__(name)
        self.n_genes, self.n_components = n_genes, n_components

    def identity(self, task: TaskSpec | None = None) -> dict[str, Any]:
        return super().identity(task) | {"n_genes": self.n_genes, "n_components": self.n_components}

    def embed(self, examples: Examples, seed: int = 0, learn_from: np.ndarray | None = None) -> np.ndarray:
        values = log_values(examples)
        learn_from = examples.parts["train"] if learn_from is None else learn_from
        return fit_projection(values[learn_from], self.n_genes, self.n_components, seed).transform(values).astype(np.float32)


class HarmonyEmbeddings(PcaEmbeddings):
    """The same components with batches aligned by Harmony (Korsunsky et al., Nature Methods 2019); needs ``bmfm[bench]``."""

    deterministic = False

    def takes(self, task: TaskSpec) -> bool:
        return super().takes(task) and bool(task.batch)

    def embed(self, examples: Examples, seed: int = 0, learn_from: np.ndarray | None = None) -> np.ndarray:
        try:
            import harmonypy
        except ImportError as error:
            raise ImportError("Harmony needs harmonypy: pip install 'bmfm[bench]'") from error
        batch = examples.task.batch
        if not batch:
            raise ValueError(f"{examples.task.name} names no batch: there is nothing for Harmony to align")
        components = super().embed(examples, seed, learn_from)
        obs = pd.DataFrame({batch: examples.column(batch)})
        aligned = np.asarray(harmonypy.run_harmony(components, obs, [batch], random_state=seed, verbose=False).Z_corr)
        return np.asarray(aligned if aligned.shape == components.shape else aligned.T, np.float32)


class ScviEmbeddings(EmbeddingMethod):
    """scVI trained on the counts of the cells it embeds (Lopez et al., Nature Methods 2018); needs ``bmfm[bench]``."""

    omics = ("rna",)
    deterministic = False

    def __init__(self, name: str, n_genes: int = 2000, n_latent: int = 10, max_epochs: int | None = None):
        super().__init__(name)
        self.n_genes, self.n_latent, self.max_epochs = n_genes, n_latent, max_epochs

    def identity(self, task: TaskSpec | None = None) -> dict[str, Any]:
        return super().identity(task) | {"n_genes": self.n_genes, "n_latent": self.n_latent, "max_epochs": self.max_epochs}

    def takes(self, task: TaskSpec) -> bool:
        return super().takes(task) and task.config.data.expects == "counts"

    def embed(self, examples: Examples, seed: int = 0, learn_from: np.ndarray | None = None) -> np.ndarray:
        scvi = import_scvi(seed)
        import scanpy as sc

        batch = examples.task.batch
        adata = sc.AnnData(_csr(examples, _all_cells(examples).counts.astype(np.float32)))
        adata.obs["batch"] = examples.column(batch) if batch else "one"
        values = sc.AnnData(log_values(examples))
        sc.pp.filter_genes(adata, min_cells=3)
        values = values[:, adata.var_names].copy()
        sc.pp.highly_variable_genes(values, n_top_genes=min(self.n_genes, values.n_vars))
        adata = adata[:, values.var["highly_variable"]].copy()
        scvi.model.SCVI.setup_anndata(adata, batch_key="batch")
        model = scvi.model.SCVI(adata, n_latent=self.n_latent)
        model.train(max_epochs=self.max_epochs, enable_progress_bar=False)
        return np.asarray(model.get_latent_representation(), np.float32)


def import_scvi(seed: int) -> Any:
    """scvi-tools, which draws by a seed and says little; an ImportError with the remedy where it is not installed."""
    try:
        import scvi
    except ImportError as error:
        raise ImportError("scVI needs scvi-tools: pip install 'bmfm[bench]'") from error
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    scvi.settings.verbosity = logging.WARNING
    scvi.settings.seed = seed
    return scvi


def _all_cells(examples: Examples) -> Any:
    return examples.data.cells.take(np.arange(len(examples)))


def _csr(examples: Examples, values: np.ndarray) -> csr_matrix:
    """A value of each count of all cells, as a matrix of cells x genes."""
    counts = _all_cells(examples)
    return csr_matrix((values, counts.ids, counts.offsets), (len(examples), len(examples.data.tokenizer)))


def log_values(examples: Examples) -> csr_matrix:
    """Normalised log counts of all cells, CSR [n, genes]."""
    return _csr(examples, examples.data.tokenizer.full_profile(_all_cells(examples)))
