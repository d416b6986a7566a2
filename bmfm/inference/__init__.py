"""A trained model on data that nobody split: three lines of Python, or ``python -m bmfm.predict``.

>>> model = bmfm.load("runs/rna_multitask/model")
>>> adata.obsm["X_bmfm"] = model.embed(adata)
>>> adata.obs = adata.obs.join(model.predict(adata))

``cells`` and ``sequences`` turn what users have into chunks of tokenized examples (`inputs.Inputs`); ``predictor`` runs
the model on them.
"""

from bmfm.inference.predictor import Predictor, load

__all__ = ["Predictor", "load"]
