"""Cells of CELLxGENE Census by query: ``pip install 'bmfm[census]'``."""

from typing import Any

from bmfm.cells.genes import GeneVocabulary
from bmfm.cells.sources import CellSource, open_source


class Census:
    """Opens the cells of a query as a source beside files.

    Parameters
    ----------
    organism
        As the census writes it, ``Homo sapiens``.
    obs_filter
        A SOMA value filter, as ``tissue_general == "blood" and is_primary_data == True``.
    obs_columns
        Columns of cells to fetch; labels must be among them.
    version
        Release, as ``2025-01-30``; ``stable`` moves with time.
    uri
        A census elsewhere, as a local copy; None takes the public one.
    max_cells
        Take a random sample of so many cells; None takes all.
    seed
        Of that sample.
    """

    def __init__(
        self,
        obs_filter: str,
        organism: str = "Homo sapiens",
        obs_columns: tuple[str, ...] = ("cell_type", "tissue", "tissue_general", "donor_id", "dataset_id", "assay", "sex"),
        version: str = "stable",
        uri: str | None = None,
        max_cells: int | None = None,
        seed: int = 0,
    ):
        self.obs_filter, self.organism, self.obs_columns = obs_filter, organism, list(obs_columns)
        self.version, self.uri, self.max_cells, self.seed = version, uri, max_cells, seed

    def fetch(self) -> Any:
        """The query's cells with raw counts as an AnnData."""
        try:
            import cellxgene_census
        except ImportError:
            raise ImportError("cells of the census need an extra: pip install 'bmfm[census]'") from None
        import numpy as np

        source = {"uri": self.uri} if self.uri else {"census_version": self.version}
        with cellxgene_census.open_soma(**source) as census:
            coordinates = None
            if self.max_cells:
                obs = cellxgene_census.get_obs(census, self.organism, value_filter=self.obs_filter, column_names=["soma_joinid"])
                ids = obs["soma_joinid"].to_numpy()
                coordinates = np.sort(np.random.default_rng(self.seed).permutation(ids)[: self.max_cells]).tolist()
            return cellxgene_census.get_anndata(
                census,
                self.organism,
                obs_value_filter=None if coordinates else self.obs_filter,
                obs_coords=coordinates,
                obs_column_names=self.obs_columns,
            )

    def __call__(self, vocabulary: GeneVocabulary) -> list[CellSource]:
        adata = self.fetch()
        if not adata.n_obs:
            raise ValueError(f"census: no cell of {self.organism} answers data.census.obs_filter={self.obs_filter!r}")
        return [open_source(adata, vocabulary, "X", "feature_name")]
