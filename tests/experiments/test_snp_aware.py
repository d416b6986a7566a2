"""The experiment from its command to its report, and on genomes whose answer is known."""

import json

import numpy as np
import pytest

from bmfm.cli import override
from bmfm.evaluation.leakage import write_bed
from bmfm.experiments.arms import Arm, check_no_leak, train_arm
from bmfm.experiments.asking import log_probs_at
from bmfm.experiments.endpoints import Answers, Results
from bmfm.experiments.report import conclusion
from bmfm.experiments.runs import Experiment, Job
from bmfm.experiments.snp_aware import run
from bmfm.genome.control_variants import write_snvs
from bmfm.genome.regions import merge
from bmfm.inference.loading import load
from tests.experiments.made_up import SHORT, SMALL, config, planted, random_genome


def test_runs_are_finished_once_and_reported(tmp_path, capsys):
    small = (*random_genome(tmp_path, 6000, 400), "block_size=1000", "n_folds=3", "folds=[0]", "seeds=[0]", "n_draws=100", "steps=2")
    less, out = ("model.hidden_size=8", "data.batch_size=4", *SHORT), tmp_path / "out"
    run(config(*small, "arms=[R]", training=less))
    file = out / "runs" / "R-seed0-fold0.json"
    written = file.stat().st_mtime_ns
    assert "nothing is shown" in capsys.readouterr().out
    (tmp_path / "e.csv").write_text("chrom,pos,ref,alt,effect,element\n" + "".join(_effects(tmp_path / "g.fa")))
    small = (*small, override("function", {"effects": tmp_path / "e.csv", "fasta": tmp_path / "g.fa", "absolute": True}))
    run(config(*small, "arms=[R,S]", training=less))
    assert sorted(f.name for f in file.parent.iterdir()) == [file.name, "S-seed0-fold0.json"] and file.stat().st_mtime_ns == written
    assert sorted(p.name for p in (out / "models").iterdir()) == ["R-seed0-fold0", "S-seed0-fold0"]
    assert json.loads((out / "power.json").read_text()) == {"seeds": 1, "detectable": None}
    report = json.loads((out / "report.json").read_text())
    assert report["finished"] == {"R": 1, "S": 1} and not report["missing"]
    assert [(c["arm"], c["other"]) for c in report["contrasts"]] == [("S", "R")]
    text = capsys.readouterr().out
    assert "Function, the correlation with measured effects: S - R" in text and (out / "report.png").is_file()
    of_runs = [json.loads((out / "function" / f"{arm}-seed0-fold0.json").read_text())["correlations"] for arm in "RS"]
    assert report["levels"]["S"]["E6"]["mean"] == pytest.approx(np.mean(list(of_runs[1].values()))) and len(of_runs[0]) == 2
    assert "p_holm" in report["contrasts"][0]["E6"]
    with pytest.raises(ValueError, match=r"R-seed0-fold0.json was made with other settings \(gap\): choose another folder"):
        run(config(*small, "gap=300", "report_only=true", training=less))
    with pytest.raises(FileNotFoundError, match=r"variants: file .*no.vcf' does not exist"):
        run(config(*small, "variants=no.vcf", training=less))
    with pytest.raises(ValueError, match="arms: Q are not among the definitions, which are R, H, S"):
        run(config(*small, "arms=[R,Q]", training=less))


def _effects(fasta):
    text, rng = fasta.read_text().split("\n")[1], np.random.default_rng(0)
    for p in range(1000, 1060):
        yield f"c,{p + 1},{text[p]},{'ACGT'.replace(text[p], '')[0]},{rng.normal():.4f},{'first' if p < 1030 else 'second'}\n"


def _answers(loci, log_probs, losses):
    record = {"arm": "", "seed": 0, "fold": 0, "log_probs": log_probs, "block_losses": losses, "block_counts": [1] * len(losses)}
    return Answers.of(loci, record | {"blocks": [*range(len(losses))]})


def test_endpoints_by_hand():
    """Four loci of two blocks: numbers that can be followed."""
    import pandas as pd

    rows = {
        "position": [1, 2, 11, 12], "ref": [0, 1, 0, 3], "alt": [1, -1, 2, 0], "frequency": [0.25, 0.0, 0.75, 0.0002], "block": [0, 0, 1, 1],
        "site": [1, 0, 1, -1], "pair": [1, -1, 1, 0], "site_block": [0, 0, 1, -1], "pair_block": [0, -1, 1, 1],
        "cpg_transition": [True, False, False, False], "rate": [0.1, 0.2, 0.3, 0.4],
    }  # fmt: skip
    loci = pd.DataFrame(rows)
    log_probs = np.log([[0.5, 0.3, 0.1, 0.1], [0.1, 0.7, 0.1, 0.1], [0.2, 0.2, 0.4, 0.2], [0.1, 0.2, 0.3, 0.4]])
    flat = np.log(np.full((4, 4), 0.25))
    runs = {Job("R", 0, 0): _answers(loci, flat, [1.0, 2.0]), Job("H", 0, 0): _answers(loci, log_probs, [1.01, 1.98])}
    results = Results(runs, np.zeros(2), 200)
    c = results.contrast("H", "R")
    first, second = 0.25 * np.log(0.3) + 0.75 * np.log(0.5), 0.75 * np.log(0.4) + 0.25 * np.log(0.2)
    assert c["E1"]["mean"] == pytest.approx((first + second) / 2 - np.log(0.25)) and c["E1"]["blocks"] == 2
    assert c["E1 by seed"][0] == pytest.approx(c["E1"]["mean"]) and np.isnan(c["E1 over runs"]["low"])
    assert c["strata of E1"]["CpG transitions"]["blocks"] == 1
    assert results.level("H", "E2")["mean"] == 1 and results.level("R", "E2")["mean"] == pytest.approx(2 / 3)
    assert results.level("H", "E3")["mean"] == 1 and results.level("R", "E3")["mean"] == 0.5  # -0.51, 0.69 over -1.39
    assert results.level("H", "E4")["mean"] == pytest.approx(np.log(0.2 / 0.4))
    assert c["E5"]["mean"] == pytest.approx((0.01 - 0.01) / 2, abs=1e-9)
    assert results.power(8) == {"seeds": 1, "detectable": None}


def test_power_is_that_of_two_seeds():
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.1, (2, 40))

    class Made(Results):
        def by_block(self, arm, endpoint, which, chosen=None):
            return dict(enumerate(noise[which[0][0]]))

    results = Made({Job("R", seed, 0): None for seed in (0, 1)}, np.zeros(40), 10)  # type: ignore[arg-type]
    power = results.power(160)
    assert power["sd"] == pytest.approx(np.std(noise[0] - noise[1], ddof=1) / 2**0.5)
    assert power["detectable"] == pytest.approx(2.8 * power["sd"] / 160**0.5)


def _contrasts(tmp_path):
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    return {(c["arm"], c["other"]): c for c in report["contrasts"]}, report


def test_the_conclusion_is_by_the_rule():
    """Above the reference and above all controls, over blocks and over runs."""

    def figure(low, high):
        return {"mean": (low + high) / 2, "low": low, "high": high, "blocks": 50, "detectable": 0.01}

    def verdict(*e1, over_runs=(0.01, 0.05)):
        others = ("R", "H-shuf")
        contrasts = [
            {"arm": "H", "other": o, "E1": figure(*of), "E1 over runs": figure(*over_runs), "E1 by seed": {0: 0.1, 1: -0.1}}
            for o, of in zip(others, e1, strict=True)
        ]
        return conclusion({"contrasts": contrasts, "titles": {"R": "", "H": "haplotypes"}, "endpoints": {"E1": ""}, "missing": 0})

    assert "over R +0.0300 [+0.0100, +0.0500] nats (50 blocks, 1 of 2 seeds above 0)" in verdict((0.01, 0.05), (0.01, 0.02))
    assert "is shown on these blocks" in verdict((0.01, 0.05), (0.01, 0.02))
    for text in (verdict((0.01, 0.05), (-0.01, 0.02)), verdict((0.01, 0.05), (0.01, 0.02), over_runs=(-0.01, 0.1))):
        assert "is not shown; a difference of 0.0100 nats would have been seen" in text
    assert "not shown, and the opposite is" in verdict((-0.05, -0.01), (-0.02, -0.01), over_runs=(-0.05, -0.01))
    assert "nothing is shown" in conclusion({"contrasts": [], "titles": {"R": "", "H": ""}, "endpoints": {}, "missing": 0})


@pytest.mark.slow
def test_a_planted_rule_is_found_and_its_shuffle_is_not(tmp_path):
    """A motif says where a base nearly always varies. Frequencies that are shuffled among many more variants that hardly vary leave little of
    the rule, and so of the gain."""
    small = (*planted(tmp_path, 200_000), "block_size=10000", "n_folds=4", "folds=[0,1]", "seeds=[0]", "steps=300", "loci.n_negatives=1")
    run(config(*small, "arms=[R,H,S,H-shuf]", training=("model.hidden_size=64",)))
    c, report = _contrasts(tmp_path)
    for arm in ("H", "S"):
        assert c[arm, "R"]["E1"]["low"] > 0.1 and c[arm, "H-shuf"]["E1"]["low"] > 0.1
        assert c[arm, "R"]["E1"]["p"] < 0.01
        assert c[arm, "R"]["E4"]["high"] < -1  # nor is it surprised by the major allele
    assert c["H-shuf", "R"]["E1"]["mean"] < 0.4 * c["H", "R"]["E1"]["mean"]
    # of chromosomes, G stands in the half that has it in the reference and in nine tenths of the other half
    best = 0.9 * np.log(0.95) + 0.1 * np.log(0.05)
    assert best - 0.1 < report["levels"]["H"]["E1"]["mean"] < best + 0.01


@pytest.mark.slow
def test_without_a_rule_all_arms_are_level(tmp_path):
    small = (*random_genome(tmp_path, 200_000, 6000), "block_size=5000", "n_folds=4", "folds=[0,1]", "seeds=[0]", "steps=150")
    run(config(*small, "arms=[R,H,S,H-shuf]", "loci.n_negatives=1", training=("model.hidden_size=64",)))
    c, report = _contrasts(tmp_path)
    for contrast in c.values():
        assert abs(contrast["E1"]["mean"]) < 0.005 and contrast["E1"]["p"] > 0.002
        assert contrast["E2"]["low"] < 0 < contrast["E2"]["high"]
    assert all(level["E3"]["low"] < 0.5 < level["E3"]["high"] for level in report["levels"].values())
    assert report["baseline"]["low"] < 0.53


@pytest.mark.slow
def test_a_leak_is_loud(tmp_path):
    """One block of the test with its variants is shown in training: its E1 jumps, that of the other blocks does not."""
    small = (*random_genome(tmp_path, 24_000, 800), "block_size=2000", "n_folds=4", "folds=[0]")
    experiment = Experiment.of(config(*small))
    loci, block = experiment.loci(0), int(experiment.folds.test_blocks(0)[0])
    intervals = experiment.training_intervals(0)[:2]
    settings = experiment.settings | {"cache": tmp_path / "cache", "steps": 600, "training": [*SMALL, *SHORT, "model.hidden_size=64"]}
    e1 = {}
    for name, rows in (("clean", intervals), ("leaked", merge(np.concatenate([intervals, experiment.folds.blocks[[block]]])))):
        shown = experiment.snvs.inside(rows)
        write_bed(tmp_path / f"{name}.bed", rows, experiment.reference)
        write_snvs(tmp_path / f"{name}.vcf", shown, experiment.reference, "test")
        arm = Arm("", "observed", ["representation=haplotype"])
        folder = train_arm(arm, settings, 0, tmp_path / f"{name}.vcf", tmp_path / f"{name}.bed", tmp_path / name)
        log_probs = log_probs_at(load(folder), experiment.reference, loci["position"].to_numpy(), 41, 64)
        e1[name] = Answers(loci, log_probs, {}).block_means("E1")
    with pytest.raises(ValueError, match="a training interval reaches into the held-out block"):
        check_no_leak(experiment.folds, 0, 200, rows, shown)
    jumps = {b: e1["leaked"][b] - e1["clean"][b] for b in e1["clean"]}
    others = [jump for b, jump in jumps.items() if b != block]
    assert jumps[block] > 0.3 and max(map(abs, others)) < jumps[block] / 2
