"""Figures of a server in the text format of Prometheus."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from threading import Lock

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)

HELP = {
    "bmfm_requests_total": "Requests by path and status.",
    "bmfm_examples_total": "Examples that went through the model.",
    "bmfm_tokens_total": "Tokens that went through the model, without padding.",
    "bmfm_unknown_total": "Tokens of sequences, and genes of requests, that the vocabulary does not hold.",
    "bmfm_request_seconds": "Time from the first byte of a request to the last of its reply.",
    "bmfm_batch_requests": "Parts of requests that went through the model together.",
    "bmfm_batch_rows": "Rows that went through the model together.",
    "bmfm_queue_rows": "Rows that wait.",
    "bmfm_ready": "Whether the model is warm.",
}


class Metrics:
    """Counters, histograms and gauges, which several threads may change."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._counters: dict[str, Counter[str]] = defaultdict(Counter)
        self._histograms: dict[str, tuple[Sequence[float], Counter[float], list[float]]] = {}
        self._gauges: dict[str, float] = {"bmfm_queue_rows": 0, "bmfm_ready": 0}
        for name, bounds in (("bmfm_request_seconds", SECONDS), ("bmfm_batch_requests", SIZES), ("bmfm_batch_rows", SIZES)):
            self._histograms[name] = (bounds, Counter(), [0.0, 0.0])

    def count(self, name: str, n: float = 1, **labels: str) -> None:
        """Add to a counter; labels are words of our own, never data."""
        with self._lock:
            self._counters[name][",".join(f'{key}="{value}"' for key, value in labels.items())] += n  # type: ignore[assignment]

    def observe(self, name: str, value: float) -> None:
        """Add a value to a histogram."""
        with self._lock:
            bounds, counts, sums = self._histograms[name]
            counts[next((bound for bound in bounds if value <= bound), float("inf"))] += 1
            sums[0] += value
            sums[1] += 1

    def set(self, name: str, value: float) -> None:
        """Set a gauge."""
        with self._lock:
            self._gauges[name] = value

    def text(self) -> str:
        """All of them."""
        lines: list[str] = []

        def begin(name: str, kind: str) -> None:
            lines.extend([f"# HELP {name} {HELP[name]}", f"# TYPE {name} {kind}"])

        with self._lock:
            for name, values in sorted(self._counters.items()):
                begin(name, "counter")
                lines.extend(
                    f"{name}{{{labels}}} {value:g}" if labels else f"{name} {value:.0f}" for labels, value in sorted(values.items())
                )
            for name, (bounds, counts, (total, n)) in self._histograms.items():
                begin(name, "histogram")
                below = 0
                for bound in (*bounds, float("inf")):
                    below += counts[bound]
                    lines.append(f'{name}_bucket{{le="{"+Inf" if bound == float("inf") else f"{bound:g}"}"}} {below}')
                lines.extend([f"{name}_sum {total:g}", f"{name}_count {n:.0f}"])
            for name, value in self._gauges.items():
                begin(name, "gauge")
                lines.append(f"{name} {value:g}")
        return "\n".join(lines) + "\n"
