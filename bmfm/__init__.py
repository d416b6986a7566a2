"""Foundation models of genomic DNA with its variants, and of single-cell RNA."""

__version__ = "0.1.0"


def load(name, **options):
    """A model with its tokenizer, ready to embed and predict: see `bmfm.inference.load`."""
    from bmfm.inference import load as _load

    return _load(name, **options)
