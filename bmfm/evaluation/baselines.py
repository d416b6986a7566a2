"""What simple methods reach: on the split of a training run, and as entrants of a benchmark."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from bmfm.evaluation.examples import Examples
from bmfm.evaluation.methods import Method, fit_and_predict
from bmfm.evaluation.tasks import TaskSpec
from bmfm.special import IGNORE


class LinearBaseline(Method):
    """Logistic or ridge regression on k-mers of sequences, or on normalised log counts of all genes."""

    def __init__(self, name: str, omics: list[str]):
        super().__init__(name)
        self.omics = tuple(omics)

    def predict(self, examples: Examples, seed: int, folder: Path) -> dict[str, np.ndarray]:
        from sklearn.linear_model import LogisticRegression, Ridge
        from sklearn.multiclass import OneVsRestClassifier

        rows = {part: examples.features(part) for part in ("train", "test")}
        linear = LogisticRegression(max_iter=300)
        made = {"classification": linear, "multilabel": OneVsRestClassifier(linear), "regression": Ridge(1.0)}
        return {
            name: fit_and_predict(made.get(kind), kind, len(classes), rows, examples, name)
            for name, (kind, classes) in examples.kinds.items()
        }


class CnnBaseline(Method):
    """Two convolutions over one-hot bases, pooled; trained with early stopping on validation.

    Parameters
    ----------
    channels, width
        Of the first convolution, whose filters span `width` bp; the second has as many channels.
    max_epochs, patience
        It stops where validation has not improved for `patience` epochs, and goes back to the best.
    """

    omics = ("dna",)
    deterministic = False

    def __init__(self, name: str, channels: int = 64, width: int = 12, dropout: float = 0.3, lr: float = 1e-3,
                 batch_size: int = 128, max_epochs: int = 12, patience: int = 3):  # fmt: skip
        super().__init__(name)
        self.settings: dict[str, Any] = {"channels": channels, "width": width, "dropout": dropout, "lr": lr, "batch_size": batch_size,
                         "max_epochs": max_epochs, "patience": patience}  # fmt: skip

    def identity(self, card: TaskSpec | None = None) -> dict:
        return super().identity(card) | self.settings

    def predict(self, examples: Examples, seed: int, folder: Path) -> dict[str, np.ndarray]:
        return {name: self._one(examples, name, kind, len(classes), seed) for name, (kind, classes) in examples.kinds.items()}

    def _one(self, examples: Examples, name: str, kind: str, n_classes: int, seed: int) -> np.ndarray:
        import torch
        from torch.nn import functional

        if kind not in ("classification", "multilabel", "regression"):
            raise ValueError(f"{examples.card.name}: the small CNN does not predict {kind}")
        s = self.settings
        torch.manual_seed(seed)
        order = np.random.default_rng(seed)
        train = examples.labels("train", name).astype(float)
        center, scale = (float(np.nanmean(train)), float(np.nanstd(train)) or 1.0) if kind == "regression" else (0.0, 1.0)
        codes = self._codes(examples)
        net = torch.nn.Sequential(
            torch.nn.Conv1d(4, s["channels"], s["width"], padding=s["width"] // 2), torch.nn.ReLU(), torch.nn.MaxPool1d(2, ceil_mode=True),
            torch.nn.Conv1d(s["channels"], s["channels"], 5, padding=2), torch.nn.ReLU(), _MeanAndMax(), torch.nn.Dropout(s["dropout"]),
            torch.nn.Linear(2 * s["channels"], 1 if kind == "regression" else n_classes),
        )  # fmt: skip
        optimizer = torch.optim.AdamW(net.parameters(), lr=s["lr"], weight_decay=1e-3)

        def loss(logits: torch.Tensor, labels: np.ndarray) -> torch.Tensor:
            if kind == "classification":
                return functional.cross_entropy(logits, torch.from_numpy(labels.astype(np.int64)), ignore_index=IGNORE)
            if kind == "regression":
                known = torch.from_numpy(~np.isnan(labels))
                return functional.mse_loss(logits[known, 0], torch.from_numpy(((labels - center) / scale).astype(np.float32))[known])
            given = torch.from_numpy(~np.isnan(labels))
            wanted = torch.from_numpy(np.nan_to_num(labels).astype(np.float32))
            return functional.binary_cross_entropy_with_logits(logits[given], wanted[given])

        def forward(numbers: np.ndarray) -> torch.Tensor:
            return net(functional.one_hot(torch.from_numpy(codes[numbers]).long(), 5)[..., :4].transpose(1, 2).float())

        def outputs(part: str) -> torch.Tensor:
            net.eval()
            with torch.no_grad():
                return torch.cat([forward(chunk) for chunk in np.array_split(examples.parts[part], -(-len(examples.parts[part]) // 512))])

        best: tuple[float, dict] = (np.inf, {})
        since = 0
        for _ in range(s["max_epochs"]):
            net.train()
            places = order.permutation(len(train))
            for chunk in np.array_split(places, max(1, len(places) // s["batch_size"])):
                optimizer.zero_grad()
                loss(forward(examples.parts["train"][chunk]), train[chunk]).backward()
                optimizer.step()
            held_out = float(loss(outputs("validation"), examples.labels("validation", name).astype(float)))
            since = 0 if held_out < best[0] else since + 1
            if not since:
                best = held_out, {k: v.clone() for k, v in net.state_dict().items()}
            if since >= s["patience"]:
                break
        net.load_state_dict(best[1])
        logits = outputs("test")
        if kind == "regression":
            return logits[:, 0].numpy() * scale + center
        return (logits.softmax(1) if kind == "classification" else logits.sigmoid()).numpy().astype(float)

    @staticmethod
    def _codes(examples: Examples) -> np.ndarray:
        """Numbers of bases [n, longest]: 0 to 3 for A, C, G, T, 4 for all else and beyond the end; pairs one after the other."""
        texts = examples.inputs if examples.inputs.ndim == 1 else examples.inputs.agg("N".join, axis=1)
        table = np.full(256, 4, np.uint8)
        for i, pair in enumerate(("Aa", "Cc", "Gg", "TtUu")):
            table[[ord(c) for c in pair]] = i
        codes = [table[np.frombuffer(t.encode("ascii", "replace"), np.uint8)] for t in texts.astype(str)]
        out = np.full((len(codes), max(map(len, codes))), 4, np.uint8)
        for row, code in zip(out, codes, strict=True):
            row[: len(code)] = code
        return out


def _MeanAndMax():
    import torch

    class MeanAndMax(torch.nn.Module):
        def forward(self, x_BCL: torch.Tensor) -> torch.Tensor:
            return torch.cat([x_BCL.mean(2), x_BCL.amax(2)], 1)

    return MeanAndMax()


class PcaEmbeddings(Method):
    """Principal components of the most variable genes' normalised log counts (scanpy's standard steps).

    Genes and components come from the training part where there is one to be predicted from, else from all cells.
    """

    omics = ("rna",)
    protocols = ("integration",)

    def __init__(self, name: str, n_genes: int = 2000, n_components: int = 50):
        super().__init__(name)
        self.n_genes, self.n_components = n_genes, n_components

    def identity(self, card: TaskSpec | None = None) -> dict:
        return super().identity(card) | {"n_genes": self.n_genes, "n_components": self.n_components}

    def embed(self, examples: Examples, seed: int = 0) -> np.ndarray:
        import scanpy as sc
        from sklearn.decomposition import PCA

        values, n = log_values(examples)
        seen = examples.parts["train"] if examples.card.protocol == "labels" else np.arange(n)
        known = sc.AnnData(values[seen])
        sc.pp.filter_genes(known, min_cells=3)
        kept = known.var_names.astype(int).to_numpy()
        sc.pp.highly_variable_genes(known, n_top_genes=min(self.n_genes, len(kept)))
        genes = kept[known.var["highly_variable"].to_numpy()]
        dense = values[:, genes].toarray()
        center, spread = dense[seen].mean(0), dense[seen].std(0)
        dense = np.clip((dense - center) / np.where(spread > 0, spread, 1), -10, 10)
        n_components = min(self.n_components, len(seen) - 1, len(genes))
        return PCA(n_components, random_state=seed).fit(dense[seen]).transform(dense).astype(np.float32)


class HarmonyEmbeddings(PcaEmbeddings):
    """The same components with batches aligned by Harmony (Korsunsky et al., Nature Methods 2019); needs ``bmfm[bench]``."""

    deterministic = False

    def embed(self, examples: Examples, seed: int = 0) -> np.ndarray:
        try:
            import harmonypy
        except ImportError as error:
            raise ImportError("Harmony needs harmonypy: pip install 'bmfm[bench]'") from error
        if not examples.card.batch:
            raise ValueError(f"{examples.card.name} names no batch: there is nothing for Harmony to align")
        components = super().embed(examples, seed)
        obs = pd.DataFrame({examples.card.batch: examples.column(examples.card.batch)})
        aligned = np.asarray(harmonypy.run_harmony(components, obs, [examples.card.batch], random_state=seed, verbose=False).Z_corr)
        return np.asarray(aligned if aligned.shape == components.shape else aligned.T, np.float32)

    def takes(self, card: TaskSpec) -> bool:
        return bool(card.batch)


class ScviEmbeddings(Method):
    """scVI trained on the counts of the cells it embeds (Lopez et al., Nature Methods 2018); needs ``bmfm[bench]``."""

    omics = ("rna",)
    protocols = ("integration",)
    deterministic = False

    def __init__(self, name: str, n_genes: int = 2000, n_latent: int = 10, max_epochs: int | None = None):
        super().__init__(name)
        self.n_genes, self.n_latent, self.max_epochs = n_genes, n_latent, max_epochs

    def identity(self, card: TaskSpec | None = None) -> dict:
        return super().identity(card) | {"n_genes": self.n_genes, "n_latent": self.n_latent, "max_epochs": self.max_epochs}

    def takes(self, card: TaskSpec) -> bool:
        return card.config.data.expects == "counts"

    def embed(self, examples: Examples, seed: int = 0) -> np.ndarray:
        try:
            import scvi
        except ImportError as error:
            raise ImportError("scVI needs scvi-tools: pip install 'bmfm[bench]'") from error
        import scanpy as sc

        logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
        scvi.settings.seed = seed
        counts = examples.data.cells.take(np.arange(len(examples.data.cells)))
        adata = sc.AnnData(csr_matrix((counts.counts.astype(np.float32), counts.ids, counts.offsets), shape=(len(counts.offsets) - 1, len(examples.data.tokenizer))))  # fmt: skip
        adata.obs["batch"] = examples.column(examples.card.batch) if examples.card.batch else "one"
        values = sc.AnnData(log_values(examples)[0])
        sc.pp.filter_genes(adata, min_cells=3)
        values = values[:, adata.var_names].copy()
        sc.pp.highly_variable_genes(values, n_top_genes=min(self.n_genes, values.n_vars))
        adata = adata[:, values.var["highly_variable"]].copy()
        scvi.model.SCVI.setup_anndata(adata, batch_key="batch")
        model = scvi.model.SCVI(adata, n_latent=self.n_latent)
        model.train(max_epochs=self.max_epochs, enable_progress_bar=False)
        return np.asarray(model.get_latent_representation(), np.float32)


def log_values(examples: Examples) -> tuple[csr_matrix, int]:
    """Normalised log counts of all cells, CSR [n, genes], and n."""
    data = examples.data
    n = len(data.cells)
    counts = data.cells.take(np.arange(n))
    values: Any = data.tokenizer.full_profile(counts)
    return csr_matrix((values, counts.ids, counts.offsets), (n, len(data.tokenizer))), n
