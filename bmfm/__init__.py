"""Foundation models of genomic DNA with its variants, and of single-cell RNA."""

__version__ = "0.1.0"
