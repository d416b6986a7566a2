"""A table over the runs of a multirun: ``python -m bmfm.train -m +recipe=... seed=0,1,2``."""

import json
import time
from pathlib import Path

from hydra.experimental.callback import Callback


def mean_and_half_width(values: list[float]) -> tuple[float, float]:
    """Mean, and half the width of its 95% confidence interval by Student's t."""
    from statistics import mean, stdev

    from scipy.stats import t

    n = len(values)
    return mean(values), float(t.ppf(0.975, n - 1)) * stdev(values) / n**0.5 if n > 1 else float("nan")


class SeedTable(Callback):
    """Prints mean and interval of every metric over the runs that a multirun finished, and writes ``seeds.json``."""

    def on_multirun_start(self, config, **kwargs) -> None:
        self.start_time = time.time()

    def on_multirun_end(self, config, **kwargs) -> None:
        folder = Path(config.run_dir).parent
        files = [f for f in sorted(folder.glob("*/metrics.json")) if f.stat().st_mtime >= self.start_time]
        if not files:
            return
        runs = {f.parent.name: json.loads(f.read_text()) for f in files}
        shared = [k for k in next(iter(runs.values())) if all(k in r for r in runs.values()) and not k.endswith("_n")]
        table = {k: mean_and_half_width([r[k] for r in runs.values()]) for k in shared}
        (folder / "seeds.json").write_text(json.dumps({"runs": runs, "mean_and_95%_half_width": table}, indent=1))
        from rich.console import Console
        from rich.table import Table

        shown = Table("metric", "mean", "± 95%", title=f"{config.name}: {len(runs)} runs ({', '.join(runs)})", title_justify="left")
        for name, (mean, half) in table.items():
            shown.add_row(name, f"{mean:.4f}", f"{half:.4f}")
        Console().print(shown)
