"""A benchmark of responses to perturbations: what methods must do, how it is scored, a baseline, and models of `ResponseDecoder`."""

import time
from abc import abstractmethod
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import anndata
import numpy as np
from bmfm_extension_example.perturbation import PERTURBED
from scipy.sparse import csr_matrix

from bmfm.data.sources import INPUT
from bmfm.evaluation.examples.base import Examples
from bmfm.evaluation.methods.base import Method
from bmfm.evaluation.protocols.base import Outcome, Protocol
from bmfm.evaluation.task_spec import TaskSpec
from bmfm.hashing import example_keys
from bmfm.metrics import Metric
from bmfm.tokenizers.rna import CellTokenizer


class PerturbedCells(Examples):
    """Pairs of cells of `PerturbationPairs`, in all genes of the file."""

    def __len__(self) -> int:
        return len(self.data.source)

    def lossless_tokenizer(self) -> CellTokenizer:
        return CellTokenizer("from_data")

    @property
    def genes(self) -> list[str]:
        first, end = self.data.tokenizer.plain_ids
        return self.data.tokenizer.names[first:end]

    @cached_property
    def _of_parts(self) -> dict[str, tuple[Any, dict[str, np.ndarray]]]:
        """{part: (raw input cells, {part of an example: log-normalised values [n, genes]})}."""
        first, end = self.data.tokenizer.plain_ids
        encoded = {}
        for part, numbers in self.parts.items():
            dataset = self.data.parts[part]
            raw, tokens = dataset.encode(numbers, example_keys(dataset.seed, 0, np.arange(len(numbers))))
            profiles = {name: t.full_profile for name, t in tokens.items()}
            values = {
                name: csr_matrix((p.values, p.gene_ids, p.offsets), (len(p), end)).toarray()[:, first:] for name, p in profiles.items()
            }
            encoded[part] = raw.parts[INPUT], values
        return encoded

    def values(self, part: str, of: str = PERTURBED) -> np.ndarray:
        """Log-normalised values [n, genes] of a part's examples; those of perturbed test cells are the answers, and counted."""
        self.test_uses += part == "test" and of == PERTURBED
        return self._of_parts[part][1][of]

    def of(self, part: str) -> anndata.AnnData:
        """Control cells with the perturbed gene switched on."""
        first, end = self.data.tokenizer.plain_ids
        counts = self._of_parts[part][0].counts
        cells = anndata.AnnData(csr_matrix((counts.counts, counts.ids, counts.offsets), (len(counts), end))[:, first:])
        cells.var_names = self.genes
        return cells

    @property
    def inputs(self) -> anndata.AnnData:
        return anndata.concat([self.of(part) for part in self.parts])

    def input_hashes(self) -> list[bytes]:
        return [b""] * len(self)


class ResponseMethod(Method):
    """A method that predicts the cells that a perturbation leaves."""

    omics = ("rna",)

    @abstractmethod
    def respond(self, examples: PerturbedCells) -> np.ndarray:
        """Log-normalised values [n, genes] of the perturbed cells of the test part."""


class MeanResponse(ResponseMethod):
    """The mean perturbed cell of training, whatever the gene."""

    def respond(self, examples: PerturbedCells) -> np.ndarray:
        mean = examples.values("train").mean(0)
        return np.broadcast_to(mean, (len(examples.parts["test"]), len(mean)))


class ModelResponse(ResponseMethod):
    """A model that was trained for `objective.ResponseDecoder`.

    Parameters
    ----------
    checkpoint
        Its folder.
    head
        Name of the objective.
    """

    kind = "checkpoint"
    mode = "zero_shot"

    def __init__(self, name: str, checkpoint: str, head: str = "response"):
        super().__init__(name)
        self.checkpoint, self.head = checkpoint, head

    def identity(self, task: TaskSpec | None = None) -> dict[str, Any]:
        from bmfm.evaluation.checksums import content_hash

        return {"model": content_hash([self.checkpoint]), "head": self.head}

    def respond(self, examples: PerturbedCells) -> np.ndarray:
        import bmfm

        predictor = bmfm.load(self.checkpoint)
        place = {gene: i for i, gene in enumerate(predictor.tokenizer.names)}
        columns = [place[gene] for gene in examples.genes]
        predictions = np.empty((len(examples.parts["test"]), len(columns)), np.float32)
        for rows, batch in predictor.batches(examples.of("test")):
            state = predictor.forward(batch).pool(0)
            predictions[rows] = predictor.model.head(self.head, state).detach().cpu().numpy()[:, columns]
        return predictions


def delta_pearson(truth: np.ndarray, prediction: np.ndarray, control: np.ndarray) -> float:
    """Pearson correlation over genes of the predicted and the true change from the control, [genes] each; 0 where nothing changes."""
    a, b = truth - control, prediction - control
    norm = np.linalg.norm(a - a.mean()) * np.linalg.norm(b - b.mean())
    return float((a - a.mean()) @ (b - b.mean()) / norm) if norm > 0 else 0.0


class PerturbationResponse(Protocol[ResponseMethod, PerturbedCells]):
    """Mean cells of each perturbation of the test part, predicted and true, compared with the mean control.

    Parameters
    ----------
    column
        Of the perturbed gene.
    """

    needs = ResponseMethod

    def __init__(self, column: str = "perturbation"):
        self.column = column

    def metrics(self, task: TaskSpec) -> Mapping[str, Metric]:
        return {
            "delta_pearson": Metric("correlation of the change of expression", -1.0),
            "delta_mse": Metric("squared error of the change of expression", 0.0, np.inf, more_is_better=False),
        }

    def run(self, examples: PerturbedCells, method: ResponseMethod, seed: int, folder: Path, n_bootstrap: int) -> Outcome:
        start = time.perf_counter()
        predictions = method.respond(examples)
        duration = time.perf_counter() - start
        truth, control = examples.values("test"), examples.values("test", INPUT).mean(0)
        perturbed = examples.column(self.column)[examples.parts["test"]]
        means = {gene: (truth[perturbed == gene].mean(0), predictions[perturbed == gene].mean(0)) for gene in np.unique(perturbed)}
        correlations = np.array([delta_pearson(*pair, control) for pair in means.values()])
        errors = np.array([((a - b) ** 2).mean() for a, b in means.values()])
        drawn = np.random.default_rng(0).integers(0, len(means), (n_bootstrap, len(means)))
        figures = {"delta_pearson": correlations, "delta_mse": errors}
        intervals = (
            {name: np.quantile(each[drawn].mean(1), [0.025, 0.975]).tolist() for name, each in figures.items()} if n_bootstrap else {}
        )
        return Outcome(
            {name: float(each.mean()) for name, each in figures.items()},
            duration,
            {name: (low, high) for name, (low, high) in intervals.items()},
            test_uses=examples.test_uses,
        )
