"""From sources to batches: ``source -> examples -> tokens -> batch``, the same path for DNA, cells, and what else a source gives.

- `sources`: raw examples by number, of one or several named parts;
- `splits`, `samplers`: which of them are for training, validation and test, and in which order they come;
- `examples`: the one data set, which makes batches of them by their tokenizers (`bmfm.tokenizers.batch` says what a batch holds);
- `module`: loaders, optimiser steps, labels and `spec.DataSpec`, what objectives may know;
- `dna`, `rna`, `table`: data modules that read a genome, cells, and tables of sequences.
"""
