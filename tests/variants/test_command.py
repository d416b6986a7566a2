"""Files in, files out: nothing is lost, reordered or changed beside the scores; what was interrupted ends with the same bytes."""

import gzip
import io
import json
import shutil
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pysam
import pytest

from bmfm.cli import compose
from bmfm.genome.alphabet import decode
from bmfm.score import score
from bmfm.variants import command
from bmfm.variants.outputs import as_cadd
from bmfm.variants.scoring import Scorer, score_variants
from tests.conftest import vcf

BCFTOOLS = pytest.mark.skipif(not shutil.which("bcftools"), reason="bcftools is not installed")


@pytest.fixture(scope="module")
def text(reference):
    return decode(reference.fetch("chr1", 0, 600))


@pytest.fixture(scope="module")
def source(text, tmp_path_factory):
    """A bgzipped VCF with genotypes and every oddity that is not an error."""
    other = {b: "ACGT".replace(b, "") for b in "ACGT"}
    p = 150
    records = [
        f"chr1 {p} rs1 {text[p - 1]} {other[text[p - 1]][0]} 50 PASS AF=0.1 GT 0|1 1|1",
        f"chr1 {p + 5} rs2;rs3 {text[p + 4]} {','.join(other[text[p + 4]])} . q10 AF=0.1,0.2,0.3;COMMON GT 0/2 ./.",
        f"chr1 {p + 9} . {text[p + 8]} . . . . GT 0|0 0|0",
        f"chr1 {p + 20} . {text[p + 19 : p + 23]} {text[p + 19]},<DEL>,* . PASS COMMON GT 0|1 2|3",
        f"chr1 {p + 20} . {other[text[p + 19]][0]} {text[p + 19]} . PASS . GT 0|1 0|0",
    ]
    records += [f"chr1 {q} . {text[q - 1]} {other[text[q - 1]][q % 3]} . . . GT 0|1 0|0" for q in range(200, 560, 6)]
    records.append("9 77 . A C . PASS AC=1;AN=4 GT 0|1 0|0")
    path = tmp_path_factory.mktemp("vcf") / "in.vcf.gz"
    plain = path.with_suffix("")
    plain.write_text(vcf(*records, samples="s1 s2"))
    pysam.tabix_compress(str(plain), str(path), force=True)
    return path


def run(folder, genome, source, output, **settings):
    config = compose(
        "score",
        [
            f"checkpoint={folder}",
            f"fasta={genome}",
            f"variants={source}",
            f"output={output}",
            "progress=false",
            *(f"{k}={v}" for k, v in settings.items()),
        ],
    )
    score(config)


def lines_of(path):
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    return [line.split("\t") for line in text.splitlines() if not line.startswith("##")]


def test_a_vcf_keeps_all_that_it_had(base_folder, base_model, reference, genome, source, tmp_path, capsys):
    out, table = tmp_path / "out.vcf.gz", tmp_path / "out.parquet"
    run(base_folder, genome, source, f"[{out},{table}]", scores="[llr,embedding,heads]")
    before, after = lines_of(source), lines_of(out)
    assert [[c for i, c in enumerate(line) if i != 7] for line in after] == [[c for i, c in enumerate(line) if i != 7] for line in before]
    for old, new in zip(before[1:], after[1:], strict=True):
        kept = [f for f in new[7].split(";") if not f.startswith("BMFM_")]
        assert kept == ([] if old[7] == "." and new[7] != "." else old[7].split(";"))
    assert after[3][7] == "."  # a record without ALT has nothing to score
    scored = score_variants(base_model, str(source), reference, scores=("llr", "embedding", "heads"))
    written = pd.read_parquet(table)
    pd.testing.assert_frame_equal(written, scored, check_dtype=False)
    with pysam.VariantFile(str(out)) as file:
        records = list(file)
        assert file.header.info["BMFM_LLR"].number == "A" and file.header.info["BMFM_STATUS"].type == "String"
    rows = iter(written.itertuples())
    for record in records:
        for i in range(len(record.alts or ())):
            row = next(rows)
            assert record.info["BMFM_STATUS"][i] == row.status
            value = record.info["BMFM_LLR"][i]
            assert (value is None) == (row.status not in ("OK", "DUPLICATE_OK"))
            assert value is None or value == pytest.approx(row.llr, rel=1e-5)
            assert value is None or record.info["BMFM_HEAD_SCORE"][i] == pytest.approx(row.head_score, rel=1e-5)
    assert next(rows, None) is None
    assert written["status"].value_counts().to_dict() == {"OK": 65, "SYMBOLIC": 1, "SPILL": 1, "REF_MISMATCH": 1, "NO_CONTIG": 1}
    counts = json.loads((tmp_path / "out.vcf.gz.summary.json").read_text())["counts"]
    assert counts["records"] == 66 and counts["alleles"] == 69 and counts["records_without_ALT"] == 1 and counts["REF_MISMATCH"] == 1
    assert "records 66; alleles 69" in capsys.readouterr().out
    with pysam.TabixFile(str(out)) as index:
        assert len(list(index.fetch("chr1", 149, 160))) == 3


@BCFTOOLS
def test_bcftools_reads_what_is_written(base_folder, genome, source, tmp_path):
    tidy = tmp_path / "tidy.vcf"  # with the header that htslib asks for
    tidy.write_text(subprocess.run(["bcftools", "view", str(source)], capture_output=True, text=True, check=True).stdout)
    subprocess.run(["bcftools", "view", "-Ob", "-o", str(tmp_path / "in.bcf"), str(tidy)], check=True, capture_output=True)
    run(base_folder, genome, tmp_path / "in.bcf", tmp_path / "out.bcf")
    run(base_folder, genome, source, tmp_path / "out.vcf.gz")
    form = "%CHROM %POS %ALT %INFO/BMFM_LLR %INFO/BMFM_METHOD %INFO/BMFM_STATUS [%GT ]\n"
    query = [
        subprocess.run(["bcftools", "query", "-f", form, str(tmp_path / name)], capture_output=True, text=True, check=True).stdout
        for name in ("out.bcf", "out.vcf.gz")
    ]
    assert query[0] == query[1] and query[0].count("\n") == 66
    near = subprocess.run(
        ["bcftools", "view", "-H", "-i", "INFO/BMFM_LLR<100", str(tmp_path / "out.vcf.gz"), "chr1:150-160"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert near.stdout.count("\n") == 2


def test_an_interrupted_run_ends_with_the_same_bytes(base_folder, genome, source, tmp_path, monkeypatch):
    run(base_folder, genome, source, f"[{tmp_path / 'whole.vcf.gz'},{tmp_path / 'whole.tsv.gz'}]", shard_size=20)
    plain, calls = Scorer.score, []

    def fails_at_third(self, alleles, done=None):
        calls.append(len(alleles))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return plain(self, alleles, done)

    outputs = f"[{tmp_path / 'cut.vcf.gz'},{tmp_path / 'cut.tsv.gz'}]"
    with monkeypatch.context() as patch:
        patch.setattr(Scorer, "score", fails_at_third)
        with pytest.raises(KeyboardInterrupt):
            run(base_folder, genome, source, outputs, shard_size=20)
    assert not (tmp_path / "cut.vcf.gz").exists() and len(calls) == 3
    with monkeypatch.context() as patch:
        patch.setattr(Scorer, "score", lambda self, alleles, done=None: calls.append(len(alleles)) or plain(self, alleles, done))
        run(base_folder, genome, source, outputs, shard_size=20)
    assert len(calls) == 3 + 2  # of four shards two were finished
    for name in ("vcf.gz", "tsv.gz"):
        whole, cut = ((tmp_path / f"{which}.{name}").read_bytes() for which in ("whole", "cut"))
        assert whole == cut
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_workers_share_the_shards(base_folder, genome, source, tmp_path, monkeypatch):
    run(base_folder, genome, source, f"[{tmp_path / 'alone.vcf.gz'},{tmp_path / 'alone.tsv.gz'}]", shard_size=20)
    monkeypatch.setattr("bmfm.launch.LocalPool.__call__", lambda self, work, numbers, failed: map(work, numbers))
    plain, calls = Scorer.score, []
    monkeypatch.setattr(Scorer, "score", lambda self, alleles, done=None: calls.append(done) or plain(self, alleles, done))
    run(base_folder, genome, source, f"[{tmp_path / 'shared.vcf.gz'},{tmp_path / 'shared.tsv.gz'}]", shard_size=20, launcher="local")
    assert len(calls) == 4
    for name in ("vcf.gz", "tsv.gz"):
        assert (tmp_path / f"alone.{name}").read_bytes() == (tmp_path / f"shared.{name}").read_bytes()


def test_layouts_of_others(base_folder, genome, source, tmp_path):
    run(base_folder, genome, source, tmp_path / "full.tsv")
    run(base_folder, genome, source, tmp_path / "cadd.tsv.gz", layout="cadd")
    run(base_folder, genome, source, tmp_path / "features.parquet", layout="traitgym")
    full, cadd, features = (
        pd.read_csv(tmp_path / n, sep="\t") if "tsv" in n else pd.read_parquet(tmp_path / n)
        for n in ("full.tsv", "cadd.tsv.gz", "features.parquet")
    )
    assert list(cadd) == ["#Chrom", "Pos", "Ref", "Alt", "RawScore", "PHRED"] and len(cadd) == full["llr"].notna().sum()
    np.testing.assert_allclose(cadd["RawScore"], -full["llr"].dropna(), rtol=1e-4)
    assert not {"chrom", "pos", "ref", "alt"} & set(features) and len(features) == len(full)
    thousand = pd.DataFrame({"chrom": "1", "pos": range(1000), "ref": "A", "alt": "C", "llr": np.arange(1000.0)})
    phred = as_cadd(thousand)["PHRED"]
    assert phred.iloc[0] == pytest.approx(30) and phred.iloc[-1] == pytest.approx(0)


def test_mistakes_are_named(base_folder, genome, source, text, tmp_path):
    out = tmp_path / "out.vcf.gz"
    run(base_folder, genome, source, out)
    with pytest.raises(SystemExit, match="exists already; choose another output, or overwrite=true"):
        run(base_folder, genome, source, out)
    with pytest.raises(ValueError, match=r"has the INFO field BMFM_STATUS already.*info_prefix=BMFM2"):
        run(base_folder, genome, out, tmp_path / "twice.vcf")
    run(base_folder, genome, out, tmp_path / "twice.vcf", info_prefix="BMFM2")
    assert "BMFM2_LLR=" in (tmp_path / "twice.vcf").read_text()
    with pytest.raises(ValueError, match=r"it must end in one of \.vcf"):
        run(base_folder, genome, source, tmp_path / "out.txt")
    other = str.maketrans("ACGT", "CGTA")
    wrong = [f"chr1 {q} . {text[q - 1].translate(other)} {text[q - 1]} . . ." for q in range(200, 240)]
    (tmp_path / "wrong.vcf").write_text(vcf(*wrong))
    with pytest.raises(
        ValueError, match=r"wrong\.vcf: REF disagrees with .*genome\.fa for 40 of 40 alleles.*wrong assembly.*max_ref_mismatch=1"
    ):
        run(base_folder, genome, tmp_path / "wrong.vcf", tmp_path / "w.vcf")
    run(base_folder, genome, tmp_path / "wrong.vcf", tmp_path / "w.vcf", max_ref_mismatch=1)
    (tmp_path / "cut.vcf.gz").write_bytes(source.read_bytes()[:-200])
    with pytest.raises(ValueError, match=r"cut\.vcf\.gz: the bgzip data are cut or damaged"):
        run(base_folder, genome, tmp_path / "cut.vcf.gz", tmp_path / "c.vcf")
    (tmp_path / "short.vcf").write_text(vcf(f"chr1 200 . {text[199]} A . . .") + "chr1\t210\t.\tA\n")
    with pytest.raises(ValueError, match=r"short\.vcf: record 2 .* fewer than the 8 columns"):
        run(base_folder, genome, tmp_path / "short.vcf", tmp_path / "c.vcf")


def test_unsorted_and_tables_keep_their_order(base_folder, genome, text, tmp_path):
    rows = [(q, text[q - 1], "ACGT".replace(text[q - 1], "")[0]) for q in (300, 200, 250)]
    (tmp_path / "in.vcf").write_text(vcf(*(f"chr1 {q} . {r} {a} . . ." for q, r, a in rows)))
    run(base_folder, genome, tmp_path / "in.vcf", tmp_path / "out.vcf.gz")
    assert [line[1] for line in lines_of(tmp_path / "out.vcf.gz")[1:]] == ["300", "200", "250"]
    assert not (tmp_path / "out.vcf.gz.tbi").exists()  # there is no index of what is out of order
    pd.DataFrame(rows, columns=["Position", "Ref", "Alt"]).assign(Chr="1").to_csv(tmp_path / "in.csv", index=False)
    run(base_folder, genome, tmp_path / "in.csv", f"[{tmp_path / 'table.csv'},{tmp_path / 'table.vcf'}]")
    scores = pd.read_csv(tmp_path / "table.csv")
    assert scores["pos"].tolist() == [300, 200, 250]
    assert [line[1] for line in lines_of(tmp_path / "table.vcf")[1:]] == ["300", "200", "250"]


def test_a_pipe_is_read(base_folder, genome, source, tmp_path, monkeypatch):
    data = gzip.decompress(source.read_bytes())
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    run(base_folder, genome, "-", tmp_path / "out.vcf")
    assert len(lines_of(tmp_path / "out.vcf")) == 67 and not list(tmp_path.glob(".*"))
    assert "##bmfm_score=<ID=BMFM,Model=" in (tmp_path / "out.vcf").read_text()  # what scores depend on


@pytest.mark.slow
def test_a_killed_process_goes_on_where_it_was(base_folder, genome, source, tmp_path):
    run(base_folder, genome, source, tmp_path / "whole.vcf.gz", shard_size=5)
    command_line = [
        sys.executable, "-m", "bmfm.score", f"checkpoint={base_folder}", f"fasta={genome}", f"variants={source}", f"output={tmp_path / 'cut.vcf.gz'}",
        "shard_size=5", "progress=false",
    ]  # fmt: skip
    process = subprocess.Popen(command_line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not list(tmp_path.glob(".cut.vcf.gz.*/00003.parquet")):
        time.sleep(0.001)
    process.kill()
    process.wait()
    assert not (tmp_path / "cut.vcf.gz").exists()
    subprocess.run(command_line, check=True, capture_output=True)
    assert (tmp_path / "cut.vcf.gz").read_bytes() == (tmp_path / "whole.vcf.gz").read_bytes()


def test_what_comes_through_pipes_is_kept_apart(tmp_path, monkeypatch):
    kept = []
    for content in (b"one", b"two", b"one"):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        kept.append(command._variants("-", [tmp_path / "out.vcf"]))
    assert [path.read_bytes() for path in kept] == [b"one", b"two", b"one"] and kept[0] == kept[2]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"one")))
    assert command._variants("-", [tmp_path / "out.vcf", tmp_path / "out.tsv"]) != kept[0]  # of a command that writes something else
    assert len(list(tmp_path.iterdir())) == 3
