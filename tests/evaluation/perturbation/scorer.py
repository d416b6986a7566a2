"""The public scorer of the Virtual Cell Challenge, `cell-eval2`, on made-up counts.

``python -m tests.evaluation.perturbation.scorer``, from the root of the repository and in an environment of its own with ``pip install
cell-eval2==0.20.0 pdex==0.3.0 pyarrow numba scikit-learn``, writes ``scorer.json``, with which the tests compare where that package is
not installed.
"""

import hashlib
import json
import math
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from bmfm.evaluation.perturbation.comparison import Comparison, GroupedCells
from bmfm.evaluation.perturbation.moments import lognormalised
from tests.evaluation.perturbation.toy import toy

STORED = Path(__file__).with_suffix(".json")
PREDICTIONS = ("imperfect", "replicate", "no change", "real")
COLUMNS = {
    "pds_cosine": "pds_cosine",
    "expr_mse_unbiased": "expr_mse_unbiased",
    "expr_mse_unbiased_capped": "expr_mse_unbiased_capped",
    "expr_distance_unbiased": "expr_distance_unbiased",
    "expr_mse_unbiased_capped_norm": "expr_mse_unbiased_capped_norm",
    "direction_fidelity_yield": "de_wilcoxon_direction_fidelity_yield_raw",
    "direction_reach": "de_wilcoxon_direction_reach_raw",
    "sig_jaccard": "de_wilcoxon_sig_jaccard",
    "lfc_nmae": "de_wilcoxon_lfc_nmae",
    "des": "overlap_at_N",
    "pds_l1": "discrimination_score_l1",
    "mae": "mae",
}
"""Names of our metrics in the scorer."""


def digest(comparison: Comparison) -> str:
    """Of the counts, so that a numpy that draws others is found out."""
    parts = (x for side in (comparison.real, comparison.predicted) for x in (side.values.toarray().astype("<i4"), side.codes.astype("<i4")))
    return hashlib.sha256(b"".join(p.tobytes() for p in parts)).hexdigest()


def adata_of(comparison: Comparison, *parts: GroupedCells) -> Any:
    import anndata
    import pandas as pd
    from scipy.sparse import vstack

    labels = np.array([*comparison.conditions, "non-targeting"])[np.concatenate([p.codes for p in parts])]
    obs = pd.DataFrame({"target": labels}, index=[f"cell{i}" for i in range(len(labels))])
    return anndata.AnnData(vstack([p.values for p in parts], format="csr"), obs, pd.DataFrame(index=list(comparison.genes)))


def score(comparison: Comparison) -> dict[str, dict[str, dict[str, float | None]]]:
    """Figures of both challenges, {profile: {metric: {condition, or "mean": figure}}}."""
    from cell_eval2 import EvalConfig

    logs = lognormalised(comparison, median_total(comparison))
    config = EvalConfig.from_preset("cell-eval-0.7.6")
    config.metrics = "vcc"
    return {"vcc2026": _scored(comparison, EvalConfig.from_preset("vcc2026")), "vcc2025": _scored(logs, config)}


def median_total(comparison: Comparison) -> float:
    return float(np.median(np.asarray(comparison.real.values.sum(1))))


def references(comparison: Comparison) -> dict[str, dict[str, float]]:
    """Figures of the mean submission and of halves of the measured cells."""
    from cell_eval2 import EvalConfig, build_generic_baseline
    from cell_eval2.anchor import compute_replicate_anchor

    config, real = EvalConfig.from_preset("vcc2026"), adata_of(comparison, comparison.real)
    baseline = build_generic_baseline(real, config=config).agg
    row = baseline.filter(baseline["statistic"] == "mean").to_dicts()[0]
    _, replicate = compute_replicate_anchor(real, config=config)
    anchor = dict(zip(replicate["metric"].to_list(), replicate["replicate"].to_list(), strict=True))
    return {
        side: {ours: found[theirs] for ours, theirs in COLUMNS.items() if theirs in found}
        for side, found in (("baseline", row), ("replicate", anchor))
    }


def _scored(comparison: Comparison, config: Any) -> dict[str, dict[str, float | None]]:
    from cell_eval2 import aggregate_metrics, compute_metrics

    controls = GroupedCells(comparison.real.of(-1), np.full((comparison.real.codes == -1).sum(), -1))
    frame = compute_metrics(adata_of(comparison, comparison.predicted, controls), adata_of(comparison, comparison.real), config=config)
    means = aggregate_metrics(frame)
    figures: dict[str, dict[str, float | None]] = {}
    for name, theirs in COLUMNS.items():
        rows = frame.filter(frame["metric"] == theirs)
        values = dict(zip(rows["perturbation"].to_list(), rows["value"].to_list(), strict=True))
        if mean := means.filter(means["metric"] == theirs)["mean"].to_list():
            values["mean"] = mean[0]
            figures[name] = {k: None if v is None or math.isnan(v) else v for k, v in values.items()}
    return figures


def main() -> None:
    stored: dict[str, Any] = {"versions": {name: version(name) for name in ("cell-eval2", "pdex", "numpy", "scipy")}, "predictions": {}}
    for predicted in PREDICTIONS:
        comparison = toy(predicted)
        stored["predictions"][predicted] = {"digest": digest(comparison)} | score(comparison)
    stored["references"] = references(toy("imperfect"))
    STORED.write_text(json.dumps(stored, indent=1) + "\n")


if __name__ == "__main__":
    main()
