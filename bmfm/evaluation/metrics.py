"""Metrics of the benchmark: those of `bmfm.metrics`, by which training scores its held-out examples, too."""

from bmfm.metrics import KINDS, METRICS, Metric, score

__all__ = ["KINDS", "METRICS", "Metric", "score"]
