"""Alleles of a VCF to scores of a model, and every base of a sequence to the scores of its mutants.

One record of a file becomes one row an ALT (`alleles.Alleles`: checked against the genome, trimmed, left-aligned), a window of the
genome with REF and one with ALT (`windows`), questions to the model (`questions`, by the rules in `rules`), and numbers (`scoring`), which
`vcf_output` and `tables` write in the order of the input.
"""
