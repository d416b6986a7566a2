"""Foundation models of genomic DNA with its variants, and of single-cell RNA."""

__version__ = "0.1.0"


def load(name, **options):
    """A model with its tokenizer, ready to embed, predict and score: a `bmfm.api.Model`; options as of `bmfm.inference.load`."""
    from bmfm.api import Model
    from bmfm.inference import load as _load

    return _load(name, kind=Model, **options)
