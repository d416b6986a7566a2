"""Additions to bmfm from outside of it: every class here is named by a ``_target_`` in ``conf/``, and by nothing else."""
