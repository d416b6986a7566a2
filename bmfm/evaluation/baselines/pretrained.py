"""Yardsticks of pretraining: simple methods that are fitted to what a checkpoint was pretrained on, and then embed a task's examples.

A checkpoint has seen many cells or much sequence before the task; a method that is fitted to the task alone has not. These have.
"""

from pathlib import Path
from typing import Any

import numpy as np

from bmfm.evaluation.baselines.cells import import_scvi
from bmfm.evaluation.baselines.projection import Projection, fit_projection, log_normalised, read_projection, save_projection
from bmfm.evaluation.examples.base import Examples
from bmfm.evaluation.methods.base import EmbeddingMethod
from bmfm.evaluation.methods.checkpoint import CheckpointFolder
from bmfm.evaluation.pretraining import Pretraining, cells_in_vocabulary
from bmfm.evaluation.task_spec import TaskSpec
from bmfm.files import cached_folder
from bmfm.storage.folders import PROJECTION


class PretrainedEmbeddings(EmbeddingMethod):
    """What yardsticks of pretraining share: a checkpoint, and where its data are.

    Parameters
    ----------
    checkpoint
        Model folder, name of a model that ships, or Hub id.
    pretraining
        Files of the pretraining data, see `Pretraining`; None is what the checkpoint's recipe says.
    """

    mode = "zero_shot"

    def __init__(self, name: str, checkpoint: str, pretraining: Any = None, remote_code: bool = False):
        super().__init__(name)
        self.checkpoint = CheckpointFolder(checkpoint, remote_code)
        self.pretraining = Pretraining(checkpoint, pretraining, remote_code)

    @property
    def settings(self) -> dict[str, Any]:
        """What it is fitted with, beside the data and the seed."""
        return {}

    @property
    def fitted_to(self) -> dict[str, Any]:
        """What identifies the data that it is fitted to."""
        return self.pretraining.key

    def takes(self, task: TaskSpec) -> bool:
        return super().takes(task) and task.omics == self.checkpoint.omics

    def unavailable(self) -> str | None:
        if self.omics and self.checkpoint.omics not in self.omics:
            return None  # it takes no task
        try:
            _ = self.fitted_to
        except (FileNotFoundError, ValueError) as error:
            return str(error)
        return None

    def identity(self, task: TaskSpec | None = None) -> dict[str, Any]:
        return super().identity(task) | self.settings | {"pretraining": self.fitted_to}


class ProjectedPca(PretrainedEmbeddings):
    """Principal components of the pretraining cells, onto which the task's cells are projected.

    Both are read in the genes of the checkpoint's tokenizer, normalised to a total of 10,000 and logarithmised; genes that a file of
    the task lacks are 0. A model that ships may carry its components (``pca.safetensors``), so that they are there without the cells.

    Parameters
    ----------
    n_genes, n_components
        See `projection.fit_projection`.
    max_cells
        Pretraining cells that are fitted to; of more, so many are drawn.
    """

    omics = ("rna",)

    def __init__(
        self, name: str, checkpoint: str, pretraining: Any = None, remote_code: bool = False,
        n_genes: int = 2000, n_components: int = 50, max_cells: int = 50_000,
    ):  # fmt: skip
        super().__init__(name, checkpoint, pretraining, remote_code)
        self.n_genes, self.n_components, self.max_cells = n_genes, n_components, max_cells

    @property
    def settings(self) -> dict[str, Any]:
        return {"n_genes": self.n_genes, "n_components": self.n_components, "max_cells": self.max_cells}

    @property
    def stored(self) -> Path | None:
        """The components that the checkpoint carries, unless other cells are named."""
        file = self.checkpoint.folder / PROJECTION
        return file if file.is_file() and self.pretraining.files is None else None

    @property
    def fitted_to(self) -> dict[str, Any]:
        from bmfm.evaluation.checksums import content_hash

        return {"stored": content_hash([self.stored])} if self.stored else super().fitted_to

    def takes(self, task: TaskSpec) -> bool:
        return super().takes(task) and task.config.data.expects == "counts"

    def fit(self) -> Projection:
        """The components of the pretraining cells, from their files."""
        counts = self.pretraining.cells(self.max_cells)
        return fit_projection(log_normalised(counts, len(self.pretraining.tokenizer)), self.n_genes, self.n_components)

    def projection(self) -> Projection:
        """The components that the checkpoint carries, or those of the pretraining cells, fitted once and kept in the cache."""
        vocabulary = self.pretraining.tokenizer.vocabulary
        if self.stored:
            return read_projection(self.stored, vocabulary.ids)

        def build(folder: Path) -> None:
            save_projection(self.fit(), vocabulary.names, folder / PROJECTION)

        folder = cached_folder("projections", {"version": 1} | self.settings | self.fitted_to, build)
        return read_projection(folder / PROJECTION, vocabulary.ids)

    def embed(self, examples: Examples, seed: int = 0, learn_from: np.ndarray | None = None) -> np.ndarray:
        tokenizer = self.pretraining.tokenizer
        counts = cells_in_vocabulary(examples.data, tokenizer.vocabulary)
        return self.projection().transform(log_normalised(counts, len(tokenizer)))


class ProjectedScvi(PretrainedEmbeddings):
    """The latent space of scVI, trained on the pretraining cells; its encoder then reads the task's (Lopez et al., Nature Methods 2018).

    Genes are the most variable ones of the pretraining cells; those that a file of the task lacks are 0. Needs ``bmfm[bench]``.

    Parameters
    ----------
    n_genes
        As in `projection.fit_projection`.
    max_epochs
        None is what scvi-tools chooses by the number of cells.
    max_cells
        Pretraining cells that it is trained on; of more, so many are drawn.
    """

    omics = ("rna",)
    deterministic = False

    def __init__(
        self, name: str, checkpoint: str, pretraining: Any = None, remote_code: bool = False,
        n_genes: int = 2000, n_latent: int = 10, max_epochs: int | None = None, max_cells: int = 50_000,
    ):  # fmt: skip
        super().__init__(name, checkpoint, pretraining, remote_code)
        self.n_genes, self.n_latent, self.max_epochs, self.max_cells = n_genes, n_latent, max_epochs, max_cells

    @property
    def settings(self) -> dict[str, Any]:
        return {"n_genes": self.n_genes, "n_latent": self.n_latent, "max_epochs": self.max_epochs, "max_cells": self.max_cells}

    def takes(self, task: TaskSpec) -> bool:
        return super().takes(task) and task.config.data.expects == "counts"

    def embed(self, examples: Examples, seed: int = 0, learn_from: np.ndarray | None = None) -> np.ndarray:
        scvi = import_scvi(seed)
        from scipy.sparse import csr_matrix

        tokenizer = self.pretraining.tokenizer

        def adata(counts: Any, genes: np.ndarray) -> Any:
            import anndata

            matrix = csr_matrix((counts.counts.astype(np.float32), counts.ids, counts.offsets), (len(counts), len(tokenizer)))
            return anndata.AnnData(matrix[:, genes].tocsr())

        def build(folder: Path) -> None:
            counts = self.pretraining.cells(self.max_cells)
            genes = np.sort(fit_projection(log_normalised(counts, len(tokenizer)), self.n_genes, 2).genes)
            np.save(folder / "genes.npy", genes)
            cells = adata(counts, genes)
            scvi.model.SCVI.setup_anndata(cells)
            model = scvi.model.SCVI(cells, n_latent=self.n_latent)
            model.train(max_epochs=self.max_epochs, enable_progress_bar=False)
            model.save(str(folder / "scvi"), save_anndata=False)

        key = {"version": 1, "seed": seed, "scvi": scvi.__version__} | self.settings | self.fitted_to
        folder = cached_folder("scvi", key, build)
        query = adata(cells_in_vocabulary(examples.data, tokenizer.vocabulary), np.load(folder / "genes.npy"))
        model = scvi.model.SCVI.load(str(folder / "scvi"), adata=query)
        return np.asarray(model.get_latent_representation(), np.float32)
