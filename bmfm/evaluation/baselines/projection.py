"""Principal components of variable genes: fitted to some cells, kept as a small file, and any cells projected onto them."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix

from bmfm.cells.counts import Counts
from bmfm.cells.values import LogNormalise, ValueSettings
from bmfm.files import require_file

TARGET_SUM = 1e4
ARRAYS = ("center", "spread", "mean", "components")


@dataclass(frozen=True)
class Projection:
    """Linear components of normalised log counts.

    Attributes
    ----------
    genes : int64 [G]
        Columns of the genes that are read.
    center, spread : float32 [G]
        By which the genes' values are standardised; they are then clipped to [-10, 10].
    mean : float32 [G]
        Of the standardised values.
    components : float32 [C, G]
    """

    genes: np.ndarray
    center: np.ndarray
    spread: np.ndarray
    mean: np.ndarray
    components: np.ndarray

    def transform(self, values: csr_matrix) -> np.ndarray:
        """Components ``float32`` [n, C] of normalised log counts [n, genes]."""
        rows = (values[start : start + 4096, self.genes].toarray() for start in range(0, values.shape[0], 4096))
        return np.concatenate([(standardised(dense, self.center, self.spread) - self.mean) @ self.components.T for dense in rows])


def standardised(dense: np.ndarray, center: np.ndarray, spread: np.ndarray) -> np.ndarray:
    return np.clip((dense - center) / np.where(spread > 0, spread, 1), -10, 10)


def fit_projection(values: csr_matrix, n_genes: int = 2000, n_components: int = 50, seed: int = 0) -> Projection:
    """Principal components of the most variable genes, by scanpy's standard steps.

    Parameters
    ----------
    values
        Normalised log counts of cells, [n, genes].
    n_genes
        The most variable of the genes that at least three cells have.
    """
    import scanpy as sc
    from sklearn.decomposition import PCA

    cells = sc.AnnData(values)
    sc.pp.filter_genes(cells, min_cells=3)
    expressed = cells.var_names.astype(int).to_numpy()
    sc.pp.highly_variable_genes(cells, n_top_genes=min(n_genes, len(expressed)))
    genes = expressed[cells.var["highly_variable"].to_numpy()]
    dense = values[:, genes].toarray()
    center, spread = dense.mean(0), dense.std(0)
    pca = PCA(min(n_components, len(dense) - 1, len(genes)), random_state=seed).fit(standardised(dense, center, spread))
    return Projection(genes, center, spread, pca.mean_, pca.components_)


def log_normalised(counts: Counts, n_genes: int) -> csr_matrix:
    """log(1 + x / total * 10,000) of cells, CSR [n, n_genes]; the total is over the genes of the vocabulary."""
    settings = ValueSettings(target_sum=TARGET_SUM, n_bins=0, upper=0.0)
    values = LogNormalise()(counts.counts, counts.offsets, counts.totals, settings)
    return csr_matrix((values, counts.ids, counts.offsets), (len(counts), n_genes))


def save_projection(projection: Projection, names: list[str], file: Path) -> None:
    """Write a projection as safetensors in float16 (components) and float32.

    Parameters
    ----------
    names
        Of all columns; those of the genes that are read are kept, and by them a projection finds its genes in any vocabulary.
    """
    from safetensors.numpy import save_file

    arrays = {name: np.ascontiguousarray(getattr(projection, name), np.float32) for name in ARRAYS}
    arrays["components"] = arrays["components"].astype(np.float16)
    save_file(arrays, file, {"genes": json.dumps([names[i] for i in projection.genes])})
    file.chmod(0o644)


def read_projection(file: Path, ids: dict[str, int]) -> Projection:
    """A projection that `save_projection` wrote, for columns of these names, {gene: column}.

    Raises
    ------
    FileNotFoundError, ValueError
        Naming the file, where it is not there or is of other genes.
    """
    from safetensors import safe_open

    with safe_open(require_file(file, "projection"), "np") as stored:
        genes = json.loads((stored.metadata() or {}).get("genes", "[]"))
        arrays = {name: stored.get_tensor(name).astype(np.float32) for name in ARRAYS if name in stored.keys()}  # noqa: SIM118
    if missing := [gene for gene in genes if gene not in ids]:
        raise ValueError(f"{file}: {len(missing):,} of its {len(genes):,} genes (first: {missing[0]}) are not in the vocabulary beside it")
    if set(arrays) != set(ARRAYS) or arrays["components"].shape[1:] != (len(genes),):
        raise ValueError(f"{file} is no projection: it holds {', '.join(arrays) or 'nothing'} for {len(genes):,} genes")
    return Projection(np.array([ids[gene] for gene in genes]), **arrays)
