"""From FASTA and VCF to encoded windows of sequence. NumPy and numba only; no torch.

The way of a base pair through this folder::

    FASTA -> reference.Reference        one byte a base, memory-mapped
    VCF   -> variants.VariantTable      sorted edits of the reference, with allele frequencies
             windows.WindowSampler      which interval, which strand: a function of (seed, epoch, index)
             representation.*           reference | biallele | haplotype | soft_labels: window -> symbols of alphabet.py

Coordinates are 0-based and half-open everywhere, except in what a user reads or writes as VCF.
"""
