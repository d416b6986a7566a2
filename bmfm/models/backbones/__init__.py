"""Backbones, one file a family; which one a model has is configuration (``_target_``), and it may lie in another package."""
