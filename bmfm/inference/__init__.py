"""A trained model on data that nobody split: three lines of Python, or ``python -m bmfm.predict``.

>>> model = bmfm.load("runs/rna_multitask/model")
>>> adata.obsm["X_bmfm"] = model.embed(adata)
>>> model.annotate(adata)  # both: embedding to .obsm, predictions to .obs, over nothing that is there

``cells`` and ``sequences`` turn what users have into chunks of tokenized examples (`inputs.Inputs`); ``predictor`` runs
the model on them; ``annotate`` writes what it says beside the cells.
"""

from bmfm.inference.predictor import Predictor, load

__all__ = ["Predictor", "load"]
