"""Tasks of variants: figures against scikit-learn and SciPy, tables with faults, scores made elsewhere, probes and baselines."""

import gzip
import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from omegaconf import OmegaConf
from scipy.stats import rankdata, spearmanr
from sklearn.metrics import average_precision_score, roc_auc_score

from bmfm.cli import compose, instantiate
from bmfm.evaluation.baselines import contexts
from bmfm.evaluation.baselines.variants import TransitionTransversion
from bmfm.evaluation.benchmark import benchmark
from bmfm.evaluation.examples.variants import VariantExamples
from bmfm.evaluation.methods.variants import ScoreColumn, VariantFile, VariantMethod, VariantProbe, VariantScores
from bmfm.evaluation.probes import leave_one_group_out
from bmfm.evaluation.protocols.base import protocol_of
from bmfm.evaluation.task_files import read_examples, read_suite, read_task
from bmfm.evaluation.variant_metrics import ScoredVariants, Stratum, bootstrap, measure
from bmfm.genome.reference import Reference
from bmfm.genome.variants import VariantTable

RNG = np.random.default_rng(0)
GENOME = {c: "".join(RNG.choice(list("ACGT"), 400)) for c in ("1", "2", "3", "X")}
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("traitgym_complex", "gpn_msa", "cadd", "satmut_test")]
CARDS = ("clinvar", "traitgym_mendelian", "sge", "satmut_dev", *SLOW)
COMPLEMENT = str.maketrans("ACGT", "TGCA")


def write_fasta(file: Path, contigs: dict[str, str]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(file, "wt") as out:
        out.writelines(f">{name}\n{sequence}\n" for name, sequence in contigs.items())
    return file


def snvs(n: int, seed: int = 0) -> pd.DataFrame:
    """Different SNVs of `GENOME` on all its contigs."""
    rng = np.random.default_rng(seed)
    rows = []
    for chrom, sequence in GENOME.items():
        for pos in rng.choice(np.arange(20, 380), n // len(GENOME), replace=False):
            ref = sequence[pos - 1]
            rows.append((chrom, int(pos), ref, rng.choice([b for b in "ACGT" if b != ref])))
    return pd.DataFrame(rows, columns=["chrom", "pos", "ref", "alt"])


@cache
def card(name):
    """A task as it ships; what it reads is found below the root that `read` is given."""
    return read_task(f"variants/{name}", ["checkpoint=none"])


def read(task, root) -> VariantExamples:
    examples = read_examples(task, root)
    assert isinstance(examples, VariantExamples)
    return examples


class Given(VariantMethod):
    """Scores as they are given."""

    def __init__(self, values, scale="magnitude"):
        super().__init__("given")
        self.values, self.scale = np.asarray(values, float), scale

    def score(self, examples, seed=0):
        return VariantScores(self.values, self.scale)


# figures


def scored_at_random(n=300, effect=False):
    rng = np.random.default_rng(1)
    label = (rng.random(n) < 0.3).astype(float)
    score = np.round(label + rng.normal(0, 1.5, n), 1)  # with ties
    classes = rng.choice(["missense", "intron", "rare"], n, p=[0.5, 0.45, 0.05])
    strata = tuple(Stratum("consequence", c, np.flatnonzero(classes == c)) for c in np.unique(classes))
    return ScoredVariants(score, label, None, rng.choice(["1", "2", "X"], n), rng.integers(0, 40, n).astype(str), strata), classes


def test_figures_of_labels_are_those_of_scikit_learn():
    s, classes = scored_at_random()
    rng = np.random.default_rng(2)
    for weight in (np.ones(300), rng.integers(0, 3, 300).astype(float)):  # as a bootstrap draws
        got, rows = measure(s, 10)(weight), np.repeat(np.arange(300), weight.astype(int))
        label, score, chrom = s.label[rows], s.score[rows], s.chrom[rows]
        assert got["auroc"] == pytest.approx(roc_auc_score(label, score)) and got["auprc"] == pytest.approx(
            average_precision_score(label, score)
        )
        by_chrom = [((chrom == c).mean(), average_precision_score(label[chrom == c], score[chrom == c])) for c in ("1", "2", "X")]
        assert got["auprc_by_chrom"] == pytest.approx(sum(w * v for w, v in by_chrom))
        assert got["base_rate"] == pytest.approx(label.mean())
        of_classes = {c: roc_auc_score(label[classes[rows] == c], score[classes[rows] == c]) for c in ("missense", "intron")}
        assert got["auroc_by_consequence"] == pytest.approx(np.mean(list(of_classes.values())))  # `rare` has too few positives
        assert got["auroc|consequence|intron"] == pytest.approx(of_classes["intron"])


def test_pairs_of_match_groups_by_hand():
    label, group = np.array([1, 0, 0, 1, 0, 1.0, 0]), np.array(["a", "a", "a", "b", "b", "c", "d"])
    scored = ScoredVariants(np.array([2, 1, 2, 0, 3, 5, 4.0]), label, None, np.array(["1"] * 7), group)
    # a: one pair won and one tied, b: lost; c and d lack an outcome
    assert measure(scored)(np.ones(7))["pairwise_accuracy"] == pytest.approx((0.75 + 0) / 2)


def test_a_bootstrap_draws_clusters_whole():
    s, _ = scored_at_random()
    estimate = bootstrap(measure(s), s.match_group, 200)["auprc"]
    rng, names = np.random.default_rng(0), np.unique(s.match_group)
    draws = []
    for _ in range(200):  # the same draws, by rows
        rows = np.concatenate([np.flatnonzero(s.match_group == names[i]) for i in rng.integers(0, len(names), len(names))])
        draws.append(average_precision_score(s.label[rows], s.score[rows]))
    assert estimate.se == pytest.approx(np.std(draws, ddof=1)) and (estimate.low, estimate.high) == pytest.approx(
        np.quantile(draws, [0.025, 0.975])
    )
    one_cluster = bootstrap(measure(s), np.zeros(300), 5)["auprc"]
    assert one_cluster.se == 0


def test_correlations_of_elements_are_those_of_scipy():
    rng = np.random.default_rng(3)
    n, element = 200, np.repeat(["a", "b"], 100)
    noise = rng.integers(1, 50, n).astype(float)  # few barcodes, large effects
    ratio, effect = rng.normal(size=n), rng.normal(size=n) / noise
    score, size = np.abs(ratio) - noise / 40, np.abs(effect)
    strata = tuple(Stratum("element", e, np.flatnonzero(element == e)) for e in "ab")
    got = measure(ScoredVariants(score, None, size, np.array(["1"] * n), None, strata, (ratio, effect), noise))(np.ones(n))
    parts = [element == e for e in "ab"]
    assert got["spearman_by_element"] == pytest.approx(np.mean([spearmanr(score[p], size[p])[0] for p in parts]))
    assert got["spearman_signed_by_element"] == pytest.approx(np.mean([spearmanr(ratio[p], effect[p])[0] for p in parts]))

    def rest(x, z):  # of ranks, after a straight line through those of the covariate
        line = np.stack([np.ones(len(z)), rankdata(z)], 1)
        return rankdata(x) - line @ np.linalg.lstsq(line, rankdata(x), rcond=None)[0]

    partial = [np.corrcoef(rest(score[p], noise[p]), rest(size[p], noise[p]))[0, 1] for p in parts]
    assert got["spearman_partial_by_element"] == pytest.approx(np.mean(partial))
    assert abs(got["spearman_partial_by_element"]) < 0.2 < got["spearman_by_element"]


# tables


@pytest.fixture
def task(tmp_path):
    """A task of CADD's layout below a root, with the genome; `write(rows)` writes its table."""
    write_fasta(tmp_path / "genomes" / "GRCh38.fa.gz", {f"chr{c}": s for c, s in GENOME.items()})
    (tmp_path / "variants").mkdir()

    def write(table: pd.DataFrame, **changed):
        given = replace(card("cadd"), examples={**card("cadd").examples, **changed})
        named = table.rename(columns={"chrom": "#Chrom", "pos": "Pos", "ref": "Ref", "alt": "Alt"}).assign(
            **{c: v for c, v in (("Consequence", "intron_variant"), ("AF", np.nan)) if c not in table}
        )
        file = tmp_path / "variants" / "cadd.tsv.gz"
        with gzip.open(file, "wt") as out:
            out.write("## CADD GRCh38-v1.7\n" + named.to_csv(sep="\t", index=False))
        return given, tmp_path

    return write


def test_faults_of_a_table_are_named_and_counted(task):
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
    given, root = task(pd.concat([good, faults]), max_ref_mismatch=0.5)
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
def test_mistaken_cards_are_refused(task, changed, message):
    given, root = task(snvs(8).assign(Label=[0, 1] * 4), **changed)
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


def test_tables_of_scores_are_matched_by_coordinates(task, tmp_path):
    table = snvs(40)
    given, root = task(table.assign(Label=[0, 1] * 20))
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


def test_a_vcf_of_scores_has_one_an_allele(task, tmp_path):
    table = snvs(8)
    row = table.iloc[0]
    second = next(b for b in "ACGT" if b not in (row.ref, row.alt))
    given, root = task(pd.concat([table, pd.DataFrame([(row.chrom, row.pos, row.ref, second)], columns=table.columns)]).assign(Label=[0, 1, 0] * 3))  # fmt: skip
    header = "##fileformat=VCFv4.2\n" + "".join(f"##contig=<ID={c},length=400>\n" for c in GENOME)
    header += "".join(f'##INFO=<ID={i},Number=A,Type={t},Description="x">\n' for i, t in (("BMFM_LLR", "Float"), ("BMFM_STATUS", "String")))
    header += "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"
    lines = [f"{row.chrom}\t{row.pos}\t.\t{row.ref}\t{second},{row.alt}\t.\t.\tBMFM_LLR=-2,.;BMFM_STATUS=OK,EDGE"]
    lines += [f"{r.chrom}\t{r.pos}\t.\t{r.ref}\t{r.alt}\t.\t.\tBMFM_LLR={i}" for i, r in enumerate(table.iloc[1:].itertuples(), 1)]
    (tmp_path / "scores.vcf").write_text(header + "\n".join(lines) + "\n")
    scores = ScoreColumn(VariantFile("ours", str(tmp_path / "scores.vcf")), "BMFM_LLR").score(read(given, root))
    assert np.isnan(scores.values[0]) and scores.status[0] == "EDGE" and scores.values[1:].tolist() == [1, 2, 3, 4, 5, 6, 7, -2]


def test_a_probe_learns_from_other_chromosomes_alone(task, tmp_path):
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
    given, root = task(table.assign(Label=np.where(groups == "2", 1 - target, target).astype(int)))
    pd.DataFrame(features, columns=["a", "b"]).to_parquet(tmp_path / "features.parquet", index=False)
    scores = VariantProbe(VariantFile("x", str(tmp_path / "features.parquet"), ordered=True)).score(read(given, root)).values
    before, chrom = np.delete(predicted, 27), np.delete(groups, 27)
    assert np.array_equal(scores[chrom == "2"], before[chrom == "2"]) and not np.allclose(scores[chrom == "1"], before[chrom == "1"])


# baselines


def by_name():
    config = compose("benchmark", ["+suite=small_variants", "baseline=[variants]"])
    return {k: instantiate(v, _convert_="all") for k, v in OmegaConf.to_container(config.baselines, resolve=True).items()}


def test_directions_of_simple_baselines(task):
    sequence = GENOME["1"]
    cg = sequence.index("CG", 20)
    table = pd.DataFrame(
        [("1", cg + 1, "C", "T"), ("1", cg + 1, "C", "G"), ("1", cg + 1, "CG", "C")], columns=["chrom", "pos", "ref", "alt"]
    )
    more = snvs(8).assign(Label=[0, 1] * 4, Consequence="intron_variant")
    more = more[more["chrom"] != "1"]
    terms = ["stop_gained", "intron_variant&missense_variant", "what"]
    given, root = task(pd.concat([table.assign(Label=[1, 0, 1], Consequence=terms, AF=[0.1, 0.2, np.nan]), more]))
    examples, named = read(given, root), by_name()
    frequency = named["variant_frequency"].score(examples).values[:3]
    assert frequency.tolist() == [-0.1, -0.2, 0]  # the card says that an allele without a frequency was never seen
    severity = named["variant_consequence"].score(examples).values[:3]
    assert severity[0] > severity[1] > named["variant_consequence"].score(examples).values[4] and np.isnan(severity[2])
    assert np.array_equal(TransitionTransversion("x").score(examples).values[:3], [0, 1, np.nan], equal_nan=True)
    loses = [
        (sequence[:cg] + alt + sequence[cg + len(ref) :]).count("CG") < sequence.count("CG")
        for ref, alt in (("C", "T"), ("C", "G"), ("CG", "C"))
    ]
    assert named["variant_cpg"].score(examples).values[:3].tolist() == loses
    takes = {name for name, method in named.items() if method.takes(given)}
    assert "variant_frequency" in takes and "variant_tss" not in takes
    clinvar, promoter = card("traitgym_mendelian"), read_task("gue/tf_0", ["checkpoint=none"])
    assert {"variant_tss", "variant_consequence"} < {n for n, m in named.items() if m.takes(clinvar)} and not named["variant_frequency"].takes(clinvar)  # fmt: skip
    assert not named["variant_tss"].takes(promoter)


def test_rates_of_pentanucleotides_by_counting(tmp_path):
    fasta = write_fasta(tmp_path / "genome.fa.gz", {"1": GENOME["1"] + "N" + GENOME["2"], "2": GENOME["3"]})
    sequences = {"1": GENOME["1"] + "N" + GENOME["2"], "2": GENOME["3"]}
    header = (
        "##fileformat=VCFv4.2\n" + "".join(f"##contig=<ID={c}>\n" for c in sequences) + "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"
    )
    rng, lines, expected, places = np.random.default_rng(7), [], {}, {}
    for contig, sequence in sequences.items():
        for pos in sorted(rng.choice(np.arange(3, len(sequence) - 2), 80, replace=False)):
            ref = sequence[pos - 1]
            if ref == "N":
                continue
            alt = rng.choice([b for b in "ACGT" if b != ref])
            lines.append(f"{contig}\t{pos}\t.\t{ref}\t{alt}\t.\t.\tAF=0.1")
            context = sequence[pos - 3 : pos + 2]
            for word, base in ((context, alt), (context.translate(COMPLEMENT)[::-1], alt.translate(COMPLEMENT))):
                if "N" not in word:
                    expected[word, base] = expected.get((word, base), 0) + 1
        for i in range(len(sequence) - 4):
            word = sequence[i : i + 5]
            if "N" not in word:
                for w in (word, word.translate(COMPLEMENT)[::-1]):
                    places[w] = places.get(w, 0) + 1
    lines.append(f"1\t50\t.\t{sequences['1'][49]}\t{sequences['1'][49]}AC\t.\t.\tAF=0.1")  # no SNV
    vcf = tmp_path / "x.vcf"
    vcf.write_text(header + "\n".join(sorted(lines, key=lambda x: (x.split("\t")[0], int(x.split("\t")[1])))) + "\n")
    from bmfm.genome.variants import VariantFilter

    reference = Reference.from_fasta(fasta)
    counts, at = contexts.mutation_counts(reference, VariantTable.from_vcf(vcf, reference, VariantFilter()))
    number = {b: i for i, b in enumerate("AGTC")}
    words = ["".join(w) for w in np.array(list("AGTC"))[np.arange(1024)[:, None] // 4 ** np.arange(4, -1, -1) % 4]]
    assert counts.sum() == sum(expected.values()) and all(counts[words.index(w), number[b]] == n for (w, b), n in expected.items())
    assert [places.get(w, 0) for w in words] == at.tolist()
    rates = contexts.mutation_rates(counts, at, 10.0)
    assert (rates > 0).all() and rates[words.index(next(iter(expected))[0])].max() < 1


def test_a_markov_model_by_counting(task, tmp_path):
    table = snvs(12)
    given, root = task(pd.concat([table, pd.DataFrame([("2", 100, GENOME["2"][99], GENOME["2"][99] + "ACG")], columns=table.columns)]).assign(Label=[0, 1] * 6 + [1]))  # fmt: skip
    background = {c: s for c, s in GENOME.items() if c in "23"}
    fasta = write_fasta(tmp_path / "background.fa.gz", background)
    values = contexts.KmerLikelihood("x", str(fasta), str(fasta), k=3).score(read(given, root)).values
    counts: dict[str, float] = {}
    for sequence in background.values():
        for strand in (sequence, sequence.translate(COMPLEMENT)[::-1]):
            for i in range(len(strand) - 2):
                counts[strand[i : i + 3]] = counts.get(strand[i : i + 3], 0) + 1

    def likelihood(text):
        total = 0.0
        for strand in (text, text.translate(COMPLEMENT)[::-1]):
            for i in range(len(strand) - 2):
                after = {b: counts.get(strand[i : i + 2] + b, 0) + 1.0 for b in "ACGT"}
                total += np.log(after[strand[i + 2]] / sum(after.values())) / 2
        return total

    examples = read(given, root)
    expected = []
    for chrom, pos, ref, alt in examples.variants.itertuples(index=False):
        sequence = GENOME[str(chrom).removeprefix("chr")]
        before, after = sequence[pos - 3 : pos - 1], sequence[pos - 1 + len(ref) : pos + 1 + len(ref)]
        expected.append(likelihood(before + alt + after) - likelihood(before + ref + after))
    assert values == pytest.approx(expected)


# cards and the runner


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


def test_the_card_turns_ratios_and_leaves_magnitudes(task):
    ratio = np.array([3.0, -3] * 4)
    for sign, expected in {"minus": 1.0, "plus": 0.0, "abs": 0.5}.items():
        given, root = task(snvs(8).assign(Label=[0, 1] * 4), sign=sign)
        examples, protocol = read(given, root), protocol_of(given)
        assert protocol.run(examples, Given(ratio, "log_ratio"), 0, root, 0).metrics["auroc"] == expected
        assert protocol.run(examples, Given(ratio), 0, root, 0).metrics["auroc"] == 0.0
    with pytest.raises(ValueError, match="given scored none of 8 variants: 8 NOT_DEFINED"):
        protocol.run(examples, Given([np.nan] * 8), 0, root, 0)


def test_a_checkpoint_beside_baselines_from_command_to_report(task, tmp_path, monkeypatch):
    """The model's part is played by a function that knows some of the answers."""
    table = snvs(80).assign(Label=[0, 1] * 40, AF=[0.0001, 0.3] * 40)
    _, root = task(table)
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
    monkeypatch.setattr("bmfm.evaluation.launch.LocalPool.__call__", lambda self, run, jobs, failed: map(run, jobs))
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
