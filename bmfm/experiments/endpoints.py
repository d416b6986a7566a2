"""What the runs say: the endpoints of each arm, and the differences between arms with their intervals."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from bmfm.experiments.runs import REFERENCE, Job
from bmfm.experiments.statistics import bootstrap_means, bootstrap_p, detectable, draw_counts, holm, interval, rankings, sign_flip
from bmfm.training.seeds import mean_and_half_width

ENDPOINTS = {
    "E1": "log-likelihood of the alleles of held-out common variants, nats",
    "E2": "average precision of polymorphic sites against matched sites",
    "E3": "area under the ROC curve of frequent against rare variants",
    "E4": "log p(REF) - log p(ALT) where ALT is the major allele, nats",
    "E5": "loss at places without a variant, nats",
}
FUNCTION = "E6"
WORDS = ENDPOINTS | {FUNCTION: "Spearman correlation of log p(ALT) - log p(REF) with measured effects, mean over elements"}
"""The endpoints in words; of function where effects are named."""
STRATA = {
    "CpG transitions": lambda loci: loci["cpg_transition"],
    "all others": lambda loci: ~loci["cpg_transition"],
    "frequency 0.01 to 0.05": lambda loci: loci["frequency"].between(0.01, 0.05, "left"),
    "frequency 0.05 to 0.5": lambda loci: loci["frequency"].between(0.05, 0.5),
    "frequency above 0.5": lambda loci: loci["frequency"] > 0.5,
}
LARGEST_HARM = 0.005
"""Relative difference of E5 up to which an arm does no harm."""


@dataclass(frozen=True)
class Answers:
    """What one run says of the loci and blocks of its fold.

    Attributes
    ----------
    loci
        Of the fold, see `runs.Experiment.loci`.
    log_probs
        Of A, G, T and C at each of them, [n, 4].
    block_loss
        {number of a block: mean loss at its places without a variant}.
    """

    loci: pd.DataFrame
    log_probs: np.ndarray
    block_loss: Mapping[int, float]

    @classmethod
    def of(cls, loci: pd.DataFrame, record: Mapping[str, Any]) -> "Answers":
        if len(record["log_probs"]) != len(loci):
            raise ValueError(f"run {record['arm']}, seed {record['seed']}, fold {record['fold']}: its loci are not those of these data")
        means = (total / n for total, n in zip(record["block_losses"], record["block_counts"], strict=True))
        return cls(loci, np.array(record["log_probs"]), dict(zip(record["blocks"], means, strict=True)))

    @cached_property
    def ref(self) -> np.ndarray:
        """log p(REF) [n]."""
        return self.log_probs[np.arange(len(self.loci)), self.loci["ref"]]

    @cached_property
    def alt(self) -> np.ndarray:
        """log p(ALT) [n]; NaN where there is no variant."""
        alt = self.loci["alt"].to_numpy()
        return np.where(alt >= 0, self.log_probs[np.arange(len(alt)), alt], np.nan)

    def block_means(self, endpoint: str, chosen: Callable[[pd.DataFrame], pd.Series] | None = None) -> dict[int, float]:
        """{number of a block: E1, E4 or E5 there}, of blocks that have a locus for it."""
        if endpoint == "E5":
            return dict(self.block_loss)
        frequency = self.loci["frequency"].to_numpy()
        is_common = (self.loci["site"] == 1).to_numpy()
        if endpoint == "E1":
            values = frequency * self.alt + (1 - frequency) * self.ref
        else:
            values, is_common = self.ref - self.alt, is_common & (frequency > 0.5)
        if chosen is not None:
            is_common = is_common & chosen(self.loci).to_numpy()
        means = pd.Series(values[is_common]).groupby(self.loci["block"].to_numpy()[is_common]).mean()
        return {int(str(block)): float(value) for block, value in means.items()}

    def ranked(self, endpoint: str, counts: np.ndarray) -> np.ndarray:
        """E2 or E3 for each draw of blocks [n_draws, B]."""
        if endpoint == "E2":
            sites = self.loci["site"].to_numpy() >= 0
            first = sites & ~self.loci.duplicated(["position", "site"]).to_numpy()
            return site_precision(self.loci[first], -self.ref[first], counts)
        pairs = self.loci["pair"].to_numpy() >= 0
        scores, pair = (self.alt - self.ref)[pairs], self.loci["pair"].to_numpy()[pairs] == 1
        return rankings(pair, scores, self.loci["pair_block"].to_numpy()[pairs], counts)[0]


def site_precision(loci: pd.DataFrame, scores: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Average precision of scores that say that a site is polymorphic, for each draw of blocks."""
    return rankings(loci["site"].to_numpy() == 1, scores, loci["site_block"].to_numpy(), counts)[1]


@dataclass(frozen=True)
class Results:
    """Finished runs, and how often each block is drawn in the bootstrap.

    Attributes
    ----------
    runs
        {run: what it says}.
    fold
        Of each block [B].
    n_draws
        Of bootstraps and sign flips.
    function
        {run: {element: E6}}, of models that were asked.
    """

    runs: Mapping[Job, Answers]
    fold: np.ndarray
    n_draws: int
    function: Mapping[Job, Mapping[str, float]] = field(default_factory=dict)

    @property
    def endpoints(self) -> tuple[str, ...]:
        """Those that there are figures of."""
        return (*ENDPOINTS, FUNCTION) if self.function else tuple(ENDPOINTS)

    def arms(self) -> list[str]:
        """Names of the arms that have a finished run."""
        return list(dict.fromkeys(job.arm for job in self.runs))

    def shared(self, *arms: str) -> list[tuple[int, int]]:
        """(seed, fold) of which all these arms have a run."""
        sets = [{(job.seed, job.fold) for job in self.runs if job.arm == arm} for arm in arms]
        return sorted(set.intersection(*sets))

    @cached_property
    def counts(self) -> np.ndarray:
        """[1 + n_draws, B], blocks drawn within their folds; the first row takes each block once."""
        drawn = draw_counts(self.fold, self.n_draws, np.random.default_rng(0))
        return np.concatenate([np.ones((1, len(self.fold)), np.int64), drawn])

    def by_block(self, arm: str, endpoint: str, which: list[tuple[int, int]], chosen: Any = None) -> dict[Any, float]:
        """{block: the mean over seeds of E1, E4 or E5}, or {element: the mean over seeds and folds of E6}."""
        values: dict[Any, list[float]] = {}
        for job in (Job(arm, seed, fold) for seed, fold in which):
            means = self.function.get(job, {}) if endpoint == FUNCTION else self.runs[job].block_means(endpoint, chosen)
            for block, value in means.items():
                values.setdefault(block, []).append(value)
        return {block: float(np.mean(of_seeds)) for block, of_seeds in sorted(values.items())}

    def _ranked(self, arm: str, endpoint: str, which: list[tuple[int, int]]) -> np.ndarray:
        return _mean_of_defined([self.runs[Job(arm, seed, fold)].ranked(endpoint, self.counts) for seed, fold in which])

    @cached_property
    def _kept(self) -> dict[tuple, np.ndarray]:
        return {}

    def draws(self, arm: str, endpoint: str, which: list[tuple[int, int]]) -> np.ndarray:
        """E2 or E3 of an arm, mean over seeds and folds: of all blocks, and of each draw [1 + n_draws]."""
        key = (arm, endpoint, tuple(which))
        if key not in self._kept:
            self._kept[key] = self._ranked(arm, endpoint, which)
        return self._kept[key]

    def level(self, arm: str, endpoint: str) -> dict[str, float]:
        """An endpoint of one arm, over all of its runs."""
        which = self.shared(arm)
        if endpoint in ("E2", "E3"):
            return _figure(self.draws(arm, endpoint, which))
        values = np.array(list(self.by_block(arm, endpoint, which).values()))
        return _figure(self._means(values)) if len(values) else dict.fromkeys(("mean", "low", "high"), float("nan"))

    def _means(self, values: np.ndarray) -> np.ndarray:
        """Mean of blocks, and of draws of these."""
        counts = draw_counts(np.zeros(len(values)), self.n_draws, np.random.default_rng(1))
        return np.concatenate([[values.mean()], bootstrap_means(values, counts)])

    def baseline(self) -> dict[str, Any]:
        """E2 of the table of mutation rates of pentanucleotides that is counted on each fold's training blocks."""
        draws = self._table_draws(self.shared(REFERENCE))
        return _figure(draws)

    def _table_draws(self, which: list[tuple[int, int]]) -> np.ndarray:
        folds = sorted({fold for _, fold in which})
        of_fold = []
        for fold in folds:
            loci = next(answers.loci for job, answers in self.runs.items() if job.fold == fold)
            sites = loci[(loci["site"] >= 0) & ~loci.duplicated(["position", "site"])]
            of_fold.append(site_precision(sites, sites["rate"].to_numpy(), self.counts))
        return _mean_of_defined(of_fold)

    def contrast(self, arm: str, other: str) -> dict[str, Any]:
        """One arm minus another, on the runs that both have."""
        which = self.shared(arm, other)
        by_run = self._by_run(arm, other, which)
        result: dict[str, Any] = {
            "arm": arm,
            "other": other,
            "seeds": sorted({seed for seed, _ in which}),
            "folds": sorted({fold for _, fold in which}),
            "runs": len(which),
            "E1 by seed": {
                seed: float(np.mean([v for (s, _), v in by_run.items() if s == seed])) for seed in sorted({s for s, _ in which})
            },
            "E1 over runs": _over_runs(list(by_run.values())),
        }
        for endpoint in self.endpoints:
            if endpoint in ("E2", "E3"):
                draws = self.draws(arm, endpoint, which) - self.draws(other, endpoint, which)
                result[endpoint] = _figure(draws) | {"p": bootstrap_p(draws[1:])}
            else:
                result[endpoint] = self._block_contrast(arm, other, endpoint, which)
        secondary = {endpoint: result[endpoint]["p"] for endpoint in self.endpoints[1:]}
        adjusted = holm({endpoint: p for endpoint, p in secondary.items() if p == p})
        for endpoint in secondary:
            result[endpoint]["p_holm"] = adjusted.get(endpoint, float("nan"))
        if arm != REFERENCE:
            result["E2 over the table"] = _figure(self.draws(arm, "E2", which) - self._table_draws(which))
        result["strata of E1"] = {
            name: self._block_contrast(arm, other, "E1", which, chosen) for name, chosen in STRATA.items()
        }  # fmt: skip
        return result

    def _by_run(self, arm: str, other: str, which: list[tuple[int, int]]) -> dict[tuple[int, int], float]:
        """{(seed, fold): mean difference of E1 over the blocks of this run}."""
        means = {}
        for pair in which:
            ours, theirs = (self.by_block(name, "E1", [pair]) for name in (arm, other))
            means[pair] = float(np.mean([ours[b] - theirs[b] for b in ours]))
        return means

    def _block_contrast(self, arm: str, other: str, endpoint: str, which: list[tuple[int, int]], chosen: Any = None) -> dict[str, Any]:
        ours, theirs = (self.by_block(name, endpoint, which, chosen) for name in (arm, other))
        blocks = sorted(ours.keys() & theirs.keys())
        if len(blocks) < 2:
            return {"mean": float("nan"), "low": float("nan"), "high": float("nan"), "blocks": len(blocks), "p": float("nan")}
        values = np.array([ours[b] - theirs[b] for b in blocks])
        if endpoint == "E5":
            values = values / np.array([theirs[b] for b in blocks])
        sd = float(values.std(ddof=1))
        return _figure(self._means(values)) | {
            "p": sign_flip(values, self.n_draws, np.random.default_rng(2)),
            "blocks": len(blocks),
            "sd": sd,
            "detectable": detectable(sd, len(blocks)),
        }

    def power(self, n_blocks: int) -> dict[str, Any]:
        """What a difference of E1 must be to be seen on so many blocks, by the runs of the reference alone: two seeds of it differ as two arms
        would by chance."""
        which = self.shared(REFERENCE)
        seeds = sorted({seed for seed, _ in which})
        folds = [fold for fold in sorted({f for _, f in which}) if all((seed, fold) in which for seed in seeds)]
        if len(seeds) < 2 or not folds:
            return {"seeds": len(seeds), "detectable": None}
        by_seed = [self.by_block(REFERENCE, "E1", [(seed, fold) for fold in folds]) for seed in seeds]
        blocks = sorted(set.intersection(*(set(values) for values in by_seed)))
        values = np.array([[of_seed[b] for b in blocks] for of_seed in by_seed])
        pairs = [(a, b) for a in range(len(seeds)) for b in range(a)]
        variance = np.mean([np.var(values[a] - values[b], ddof=1) for a, b in pairs])
        sd = float(np.sqrt(variance / len(seeds)))
        here = {"seeds": len(seeds), "folds": len(folds), "blocks": len(blocks), "sd": sd}
        return here | {"planned_blocks": n_blocks, "detectable": detectable(sd, n_blocks)}


def _mean_of_defined(draws: list[np.ndarray]) -> np.ndarray:
    """Mean over runs of each draw, of those where the figure is defined; NaN where it is in none."""
    values = np.array(draws)
    defined = ~np.isnan(values)
    n = defined.sum(0)
    return np.where(n > 0, np.where(defined, values, 0).sum(0) / np.maximum(n, 1), np.nan)


def _over_runs(values: list[float]) -> dict[str, float]:
    """Mean of runs, and Student's interval: blocks that one model is asked about share what its training added by chance."""
    mean, half = mean_and_half_width(values)
    return {"mean": mean, "low": mean - half, "high": mean + half}


def _figure(draws: np.ndarray) -> dict[str, float]:
    """A figure, which stands first, and the interval of its draws."""
    low, high = interval(draws[1:])
    return {"mean": float(draws[0]), "low": low, "high": high}
