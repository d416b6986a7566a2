"""Tasks of variants: tables with faults, scores made elsewhere, probes, cards, and a whole benchmark."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from bmfm.cli import compose
from bmfm.evaluation.benchmark import benchmark
from bmfm.evaluation.methods.variants import ScoreColumn, VariantFile, VariantProbe
from bmfm.evaluation.probes import leave_one_group_out
from bmfm.evaluation.protocols.base import protocol_of
from bmfm.evaluation.task_files import read_suite
from tests.evaluation.variant_tasks import GENOME, Given, by_name, card, read, snvs, write_fasta


def test_faults_of_a_table_are_named_and_counted(variant_task):
    good = snvs(16).assign(Label=[0, 1] * 8)
    first = good.iloc[0]
    other = next(b for b in "ACGT" if b not in (first.ref, first.alt))
    faults = pd.DataFrame(
        [
            ("1", 5000, "A", "C", 1),  # OUTSIDE
            ("7", 5, "A", "C", 1),  # NO_CONTIG
            ("2", 3, "<DEL>", "A", 1),
            ("2", 4, GENOME["2"][3], "*", 0),  # BAD_ALLELE
            (first.chrom, first.pos, other, first.alt, 0),  # REF_MISMATCH
            (*good.iloc[1][["chrom", "pos", "ref", "alt"]], good.iloc[1].Label),  # DUPLICATE
            (*good.iloc[2][["chrom", "pos", "ref", "alt"]], 1 - good.iloc[2].Label),  # CONTRADICTING, with the row itself
            ("2", 6, GENOME["2"][5], "ACGT".replace(GENOME["2"][5], "")[0], "VUS"),  # NO_LABEL
        ],
        columns=["chrom", "pos", "ref", "alt", "Label"],
    )
    given, root = variant_task(pd.concat([good, faults]), max_ref_mismatch=0.5)
    examples = read(given, root)
    assert examples.unusable == {"OUTSIDE": 1, "NO_CONTIG": 1, "BAD_ALLELE": 2, "REF_MISMATCH": 1, "DUPLICATE": 1, "CONTRADICTING": 2, "NO_LABEL": 1}  # fmt: skip
    assert len(examples) == 15 and (examples.table["frequency"] == 0).all()
    outcome = protocol_of(given).run(examples, Given(np.arange(15)), 0, root, 20)
    assert outcome.metrics["coverage"] == pytest.approx(15 / 23)  # of the rows with a label
    assert outcome.counts["rows of the table not scored by any method: CONTRADICTING"] == 2 and outcome.test_uses == 1
    with pytest.raises(ValueError, match=r"2 of 21 rows do not have the REF of .*GRCh38.fa.gz \(first: row 17\).*another assembly"):
        read(replace(given, examples={**given.examples, "max_ref_mismatch": 0.05}), root)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"colour": "red"}, "task.examples.colour is no setting of a task of variants; it has columns, fasta"),
        ({"sign": "down"}, "task.examples.sign='down'; choose plus, minus, abs"),
        ({"columns": {"lable": "x"}}, "task.examples.columns.lable is unknown"),
        ({"columns": {"frequency": "AF"}}, "names neither label nor effect"),
        ({"columns": {"label": "Class"}}, r"has no column 'Class' \(task.examples.columns.label\); it has #Chrom, Pos"),
        ({"keep": "Depth > 3"}, "task.examples.keep='Depth > 3': there is no column 'Depth'"),
    ],
)
def test_mistaken_cards_are_refused(variant_task, changed, message):
    given, root = variant_task(snvs(8).assign(Label=[0, 1] * 4), **changed)
    with pytest.raises(ValueError, match=message):
        read(given, root)


def test_deletions_of_elements_are_spelled_as_vcf_does(tmp_path):
    """`-` is a deletion; positions on the genome are turned into those of elements, whose header says where they lie."""
    sequence = "GATTACAGAT"
    write_fasta(tmp_path / "variants" / "satmut_mpra.reference.fa.gz", {f"{e} GRCh37 11:{s}-{s + 9}": sequence for e, s in (("HBB", 101), ("UC88", 501))})  # fmt: skip
    rows = [(11, 101, "G", "-", "HBB"), (11, 104, "T", "-", "HBB"), (11, 104, "T", "C", "HBB"), (11, 504, "T", "C", "UC88"), (11, 99, "T", "C", "UC88")]  # fmt: skip
    table = pd.DataFrame(rows, columns=["Chrom", "Pos", "Ref", "Alt", "Element"]).assign(Coefficient=np.arange(5) / 10, Barcodes=50)
    table.to_csv(tmp_path / "variants" / "satmut_mpra.tsv.gz", sep="\t", index=False)
    task = card("satmut_dev")
    examples = read(replace(task, examples={**task.examples, "elements": ["HBB", "UC88"], "max_ref_mismatch": 0.5}), tmp_path)
    assert examples.variants.values.tolist() == [["HBB", 1, "GA", "A"], ["HBB", 3, "TT", "T"], ["HBB", 4, "T", "C"], ["UC88", 4, "T", "C"]]
    assert examples.unusable == {"OUTSIDE": 1}
    # a table of scores may spell them in either way, on the genome or on the element
    scores = pd.DataFrame({"chrom": ["chr11", "11", "HBB", "UC88"], "pos": [101, 103, 4, 4], "ref": ["G", "TT", "T", "T"], "alt": ["-", "T", "C", "C"], "llr": [1.0, 2, 3, 4]})  # fmt: skip
    scores.to_csv(tmp_path / "scores.csv", index=False)
    assert ScoreColumn(VariantFile("x", str(tmp_path / "scores.csv"))).score(examples).values.tolist() == [1, 2, 3, 4]


def test_halves_of_elements_are_apart():
    halves = [set(card(f"satmut_{half}").examples["elements"]) for half in ("dev", "test")]
    assert not halves[0] & halves[1] and sorted(map(len, halves)) == [5, 6]


# scores made elsewhere


def test_tables_of_scores_are_matched_by_coordinates(variant_task, tmp_path):
    table = snvs(40)
    given, root = variant_task(table.assign(Label=[0, 1] * 20))
    examples, truth = read(given, root), np.arange(40.0)
    gpn = table.assign(chrom="chr" + table["chrom"], score=truth).sample(frac=1, random_state=0)
    gpn.to_parquet(tmp_path / "gpn.parquet", index=False)
    scores = ScoreColumn(VariantFile("GPN", str(tmp_path / "gpn.parquet"))).score(examples)
    assert scores.values.tolist() == truth.tolist() and scores.scale == "log_ratio"
    cadd = (
        table.assign(RawScore=truth, PHRED=truth * 2).iloc[5:].rename(columns={"chrom": "#Chrom", "pos": "Pos", "ref": "Ref", "alt": "Alt"})
    )
    (tmp_path / "cadd.tsv").write_text("## CADD v1.7\n## more\n" + cadd.to_csv(sep="\t", index=False))
    method = ScoreColumn(VariantFile("CADD", str(tmp_path / "cadd.tsv")), "PHRED", "magnitude")
    assert method.score(examples).values[5:].tolist() == (truth[5:] * 2).tolist()
    outcome = protocol_of(given).run(examples, method, 0, root, 0)
    assert outcome.metrics["coverage"] == 35 / 40 and outcome.counts["variants not scored: NOT_IN_TABLE"] == 5
    with pytest.raises(ValueError, match="the table has RawScore, PHRED: name the one"):
        ScoreColumn(VariantFile("CADD", str(tmp_path / "cadd.tsv"))).score(examples)
    pd.concat([gpn, gpn.iloc[:1].assign(score=-1)]).to_parquet(tmp_path / "twice.parquet", index=False)
    with pytest.raises(ValueError, match=r"has several rows of .*, which differ"):
        ScoreColumn(VariantFile("x", str(tmp_path / "twice.parquet"))).score(examples)
    gpn.assign(pos=gpn["pos"] + 1).to_parquet(tmp_path / "zero.parquet", index=False)
    with pytest.raises(ValueError, match="has none of the 40 variants"):
        ScoreColumn(VariantFile("x", str(tmp_path / "zero.parquet"))).score(examples)


def test_a_vcf_of_scores_has_one_an_allele(variant_task, tmp_path):
    table = snvs(8)
    row = table.iloc[0]
    second = next(b for b in "ACGT" if b not in (row.ref, row.alt))
    given, root = variant_task(pd.concat([table, pd.DataFrame([(row.chrom, row.pos, row.ref, second)], columns=table.columns)]).assign(Label=[0, 1, 0] * 3))  # fmt: skip
    header = "##fileformat=VCFv4.2\n" + "".join(f"##contig=<ID={c},length=400>\n" for c in GENOME)
    header += "".join(f'##INFO=<ID={i},Number=A,Type={t},Description="x">\n' for i, t in (("BMFM_LLR", "Float"), ("BMFM_STATUS", "String")))
    header += "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"
    lines = [f"{row.chrom}\t{row.pos}\t.\t{row.ref}\t{second},{row.alt}\t.\t.\tBMFM_LLR=-2,.;BMFM_STATUS=OK,EDGE"]
    lines += [f"{r.chrom}\t{r.pos}\t.\t{r.ref}\t{r.alt}\t.\t.\tBMFM_LLR={i}" for i, r in enumerate(table.iloc[1:].itertuples(), 1)]
    (tmp_path / "scores.vcf").write_text(header + "\n".join(lines) + "\n")
    scores = ScoreColumn(VariantFile("ours", str(tmp_path / "scores.vcf")), "BMFM_LLR").score(read(given, root))
    assert np.isnan(scores.values[0]) and scores.status[0] == "EDGE" and scores.values[1:].tolist() == [1, 2, 3, 4, 5, 6, 7, -2]


def test_a_probe_learns_from_other_chromosomes_alone(variant_task, tmp_path):
    rng = np.random.default_rng(5)
    n, groups = 60, np.repeat(["1", "2", "3"], 20)
    target = rng.integers(0, 2, n).astype(float)
    features = np.stack([target + rng.normal(0, 0.7, n), rng.normal(0, 100, n)], 1)
    predicted = leave_one_group_out(features, target, groups, True)
    assert roc_auc_score(target, predicted) > 0.75
    numbers = leave_one_group_out(features, features @ [2.0, 0.01], groups, False)
    assert spearmanr(numbers, features @ [2.0, 0.01])[0] > 0.99
    with pytest.raises(ValueError, match="needs three; there are 2"):
        leave_one_group_out(features[:40], target[:40], groups[:40], True)
    # features in the order of the table, with other labels on one chromosome, and a row of it that cannot be scored
    table = snvs(80, seed=6).iloc[:n]
    table.loc[27, "ref"] = "N"
    given, root = variant_task(table.assign(Label=np.where(groups == "2", 1 - target, target).astype(int)))
    pd.DataFrame(features, columns=["a", "b"]).to_parquet(tmp_path / "features.parquet", index=False)
    scores = VariantProbe(VariantFile("x", str(tmp_path / "features.parquet"), ordered=True)).score(read(given, root)).values
    before, chrom = np.delete(predicted, 27), np.delete(groups, 27)
    assert np.array_equal(scores[chrom == "2"], before[chrom == "2"]) and not np.allclose(scores[chrom == "1"], before[chrom == "1"])


# baselines


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("traitgym_complex", "gpn_msa", "cadd", "satmut_test")]
CARDS = ("clinvar", "traitgym_mendelian", "sge", "satmut_dev", *SLOW)


def table_of(card: dict, n=24):
    """A small table with the columns that a card names, under its names."""
    rng = np.random.default_rng(8)
    columns = card["columns"]
    table = snvs(n)
    made = {
        "label": lambda: rng.permutation([card.get("positive", [1])[-1], card.get("negative", [0])[-1]] * (n // 2)),
        "effect": lambda: rng.normal(size=n),
        "match_group": lambda: [f"g{i // 4}" for i in range(n)],
        "consequence": lambda: rng.choice(["missense_variant", "intron_variant"], n),
        "element": lambda: ["BRCA1", "VHL"] * (n // 2),
        "frequency": lambda: rng.random(n) / 2,
        "tss_distance": lambda: rng.integers(1, 10_000, n),
        "covariate": lambda: rng.integers(10, 500, n),
    }
    return table.assign(**{columns[what]: make() for what, make in made.items() if what in columns})


@pytest.mark.parametrize("name", CARDS)
def test_every_card_reads_files_of_its_format_and_has_its_baselines(tmp_path, name):
    task = card(name)
    table = table_of(dict(task.examples))
    if name.startswith("satmut"):
        elements, width = list(task.examples["elements"]), 60
        write_fasta(tmp_path / task.files[1].path, {f"{e} GRCh37 1:{1 + i * width}-{(i + 1) * width}": GENOME["1"][i * width : (i + 1) * width] for i, e in enumerate(elements)})  # fmt: skip
        starts = [i * width + 10 + j for i in range(len(elements)) for j in range(8)]
        rows = [("1", p + 1, GENOME["1"][p], "-" if p % 2 else "ACGT".replace(GENOME["1"][p], "")[0], elements[p // width]) for p in starts]
        table = pd.DataFrame(rows, columns=["Chrom", "Pos", "Ref", "Alt", "Element"]).assign(Coefficient=np.arange(len(rows)) % 7 / 7, Barcodes=20)  # fmt: skip
        table.loc[0, "Barcodes"] = 3
    else:
        write_fasta(tmp_path / task.files[1].path, GENOME)
    file = tmp_path / task.files[0].path
    file.parent.mkdir(exist_ok=True)
    table.to_parquet(file) if file.suffix == ".parquet" else table.to_csv(file, sep="\t", index=False)
    examples, protocol = read(task, tmp_path), protocol_of(task)
    assert len(examples) == len(table) - name.startswith("satmut") and not examples.unusable
    described = protocol.metrics(task)
    baselines = {k: m for k, m in by_name().items() if m.takes(task) and k != "variant_pentanucleotide"}
    assert {"variant_random", "variant_transversion", "variant_cpg", "variant_kmer"} <= set(baselines)
    for method in baselines.values():
        outcome = protocol.run(examples, method, 0, tmp_path, 3)
        assert task.metric in outcome.metrics and set(outcome.metrics) <= set(described), method.name
        assert 0 < outcome.metrics["coverage"] <= 1 and outcome.strata and outcome.test_uses >= 1
        examples.test_uses = 0


def test_the_card_turns_ratios_and_leaves_magnitudes(variant_task):
    ratio = np.array([3.0, -3] * 4)
    for sign, expected in {"minus": 1.0, "plus": 0.0, "abs": 0.5}.items():
        given, root = variant_task(snvs(8).assign(Label=[0, 1] * 4), sign=sign)
        examples, protocol = read(given, root), protocol_of(given)
        assert protocol.run(examples, Given(ratio, "log_ratio"), 0, root, 0).metrics["auroc"] == expected
        assert protocol.run(examples, Given(ratio), 0, root, 0).metrics["auroc"] == 0.0
    with pytest.raises(ValueError, match="given scored none of 8 variants: 8 NOT_DEFINED"):
        protocol.run(examples, Given([np.nan] * 8), 0, root, 0)


def test_a_checkpoint_beside_baselines_from_command_to_report(variant_task, tmp_path, monkeypatch):
    """The model's part is played by a function that knows some of the answers."""
    table = snvs(80).assign(Label=[0, 1] * 40, AF=[0.0001, 0.3] * 40)
    _, root = variant_task(table)
    calls = []

    def score(predictor, variants, fasta, scores, progress, **options):
        calls.append((scores, options["allele_model"], fasta))
        values = {
            "llr": ("llr", np.where(np.arange(len(variants)) % 2, -1.0, 1.0)),
            "embedding": ("emb_l2", np.arange(len(variants)) % 3.0),
        }[scores[0]]
        frame = variants.assign(status="OK", method="span", **{values[0]: values[1], "emb_cos": 0.5})
        frame.loc[3, ["status", values[0]]] = ["N_CONTEXT", np.nan]
        return frame

    monkeypatch.setattr("bmfm.evaluation.methods.variants.score_with", score)
    monkeypatch.setattr("bmfm.inference.load", lambda *args, **more: None)
    monkeypatch.setattr("bmfm.launch.LocalPool.__call__", lambda self, run, jobs, failed: map(run, jobs))
    table[["chrom", "pos", "ref", "alt"]].assign(PHRED=np.arange(80)).to_parquet(tmp_path / "cadd.parquet", index=False)
    suite = "+suite={name: s, title: t, tasks: [variants/cadd], modes: [variant_llr, variant_l2, variant_cosine]}"
    overrides = [suite, "checkpoint=bmfm-dna-mini", f"data_root={root}", f"run_dir={tmp_path / 'run'}", "n_bootstrap=10", "seeds=[0]"]
    elsewhere = f"variant_scores={{CADD: {{path: {tmp_path / 'cadd.parquet'}, column: PHRED, scale: magnitude}}}}"
    records = benchmark(compose("benchmark", [*overrides, elsewhere, "baseline=[variants]", *(f"baselines.variant_{b}=null" for b in ("pentanucleotide", "kmer", "cpg", "consequence")), "variants.allele_model=span"]))  # fmt: skip
    by = {(r["model"], r["mode"]): r for r in records}
    assert all(r["status"] == "ok" for r in records) and {m for n, m in by if n == "bmfm-dna-mini"} == {
        "variant_llr",
        "variant_l2",
        "variant_cosine",
    }
    llr = by["bmfm-dna-mini", "variant_llr"]
    assert llr["metrics"]["auroc"] == 1.0 and llr["metrics"]["coverage"] == 79 / 80
    assert llr["counts"]["variants not scored: N_CONTEXT"] == 1 and llr["counts"]["variants by the rule span"] == 80
    assert sorted(scores for scores, *_ in calls) == [("embedding",), ("llr",)]  # once a family, whatever the modes
    assert ("CADD", "variant_table") in by and by["allele frequency", "baseline"]["metrics"]["auroc"] == 0.0
    page, text = ((tmp_path / "run" / f).read_text() for f in ("report.html", "report.md"))
    assert (
        "by frequency: mean percentile of the score" in text and "0.0001 to 0.001 (40)" in page and "variants not scored: N CONTEXT" in text
    )
    assert json.loads((tmp_path / "run" / "results.json").read_text())["records"][0]["strata"]


def test_suites_say_how_checkpoints_take_part():
    assert compose("benchmark", ["+suite=variants"]).modes == list(read_suite("variants").modes)
    assert compose("benchmark", ["+suite=gue"]).modes == ["zero_shot", "linear_probe", "finetune"]
    assert compose("benchmark", ["+suite=variants", "modes=[variant_llr]"]).modes == ["variant_llr"]
