"""AnnData to cells: counts by gene of one vocabulary, whatever the files call them (NumPy, anndata; no torch).

``formats.AnnDataView`` (what users have) -> ``matrix.Matrix`` (rows, whatever the layout) -> ``sources.Cells`` (aligned by
gene) -> ``counts.Counts`` (cells as rows of (gene id, count) pairs), with normalisation, read-depth thinning and the ontologies of labels beside.
"""
