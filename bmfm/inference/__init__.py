"""A trained model on data that nobody split: three lines of Python, or ``python -m bmfm.predict``.

>>> model = bmfm.load("runs/rna_multitask/model")
>>> adata.obsm["X_bmfm"] = model.embed(adata)
>>> model.annotate(adata)  # both: embedding to .obsm, predictions to .obs, over nothing that is there

``readers`` (``cells``, ``sequences``) turn what users have into chunks of tokenized examples, `inputs.Inputs`; `predictor.Predictor`
makes batches of them and runs the model; ``outputs`` is what it makes of a batch, gradients included; ``runner`` collects results of
all examples; ``token_scores`` are log-probabilities and states of single tokens; ``frames`` and ``annotate`` write predictions down.
"""

from bmfm.inference.loading import load
from bmfm.inference.predictor import Predictor

__all__ = ["Predictor", "load"]
