"""Known variants in labelled sequences: what is written, by the VCF and the published table of symbols; and what it gives away of the classes."""

import gzip
import json

import numpy as np
import pandas as pd
import pytest

from bmfm.cli import compose
from bmfm.data.snpify import read_labelled, snpify
from bmfm.data.snpify_files import run
from bmfm.data.symbol_leak import known_variants, measure_leak, symbol_presence
from bmfm.files import ASSETS
from bmfm.genome.alphabet import decode, encode, reverse_complement
from bmfm.genome.representation import BiAllele, Haplotype
from tests.conftest import SLICE_FASTA, SLICE_VCF

OPPOSITE = {"A": "T", "T": "A", "C": "G", "G": "C"}
ALWAYS = "data.representation.pairing=always"


def read_vcf() -> pd.DataFrame:
    """POS, REF and ALT of all records, as the text has them."""
    with gzip.open(SLICE_VCF, "rt") as lines:
        return pd.DataFrame([line.split("\t")[1:5] for line in lines if line[0] != "#"], columns=["pos", "id", "ref", "alt"]).astype(
            {"pos": int}
        )


def windows_of(genome: str, n: int, length: int, seed: int = 0) -> pd.DataFrame:
    """Random windows on either strand, with their coordinates (1-based, inclusive)."""
    rng = np.random.default_rng(seed)
    starts = rng.choice(len(genome) - length - 200, n, replace=False) + 100
    strands = rng.choice(["+", "-"], n)
    texts = [
        genome[s : s + length] if strand == "+" else opposite(genome[s : s + length]) for s, strand in zip(starts, strands, strict=True)
    ]
    return pd.DataFrame({"sequence": texts, "label": rng.choice(["a", "b"], n), "contig": "20_slice", "from": starts + 1, "to": starts + length, "strand": strands})  # fmt: skip


def opposite(text: str) -> str:
    return "".join(OPPOSITE[base] for base in reversed(text))


@pytest.fixture(scope="module")
def genome():
    with gzip.open(SLICE_FASTA, "rt") as lines:
        return "".join(line.strip().upper() for line in lines if line[0] != ">")


def expected_text(row, records: pd.DataFrame, table: dict[str, str]) -> str | None:
    """A window with the pair symbol at each SNV; None where another variant is near."""
    first, last = row["from"], row["to"]
    near = records[(records["pos"] > first - 60) & (records["pos"] <= last + 1)]
    if (near["ref"].str.len() > 1).any() or (near["alt"].str.len() > 1).any() or near["pos"].duplicated().any():
        return None
    symbols = list(row["sequence"] if row["strand"] == "+" else opposite(row["sequence"]))
    if row["strand"] == "-":
        symbols = [OPPOSITE[base] for base in symbols]  # complements in the order of the genome
    for pos, ref, alt in near[["pos", "ref", "alt"]].to_numpy():
        if first <= pos <= last:
            pair = sorted((ref, alt) if row["strand"] == "+" else (OPPOSITE[ref], OPPOSITE[alt]))
            symbols[pos - first] = table["_".join(pair)]
    return "".join(symbols if row["strand"] == "+" else symbols[::-1])


def config(tmp_path, path, *overrides, output="out"):
    files = [f"data.path={path}", f"data.fasta={SLICE_FASTA}", f"data.variants={SLICE_VCF}", f"output={tmp_path / output}"]
    return compose("snpify", [*files, *overrides])


def test_snvs_are_written_as_the_published_symbols_and_columns_are_kept(tmp_path, genome, capsys):
    table = windows_of(genome, 60, 120).assign(name=[f"00{i}" for i in range(60)], value=["1e5", "NA"] * 30)
    strange = table.iloc[:2].assign(sequence=["ACGTTGCA" * 15, "ACGTACG"], name=["x", "y"])
    folder = tmp_path / "in"
    folder.mkdir()
    pd.concat([table[:40], strange]).to_csv(folder / "train.csv", index=False)
    table[40:].to_csv(folder / "test.csv.gz", index=False)
    run(config(tmp_path, folder, ALWAYS))
    assert "not found" in (printed := capsys.readouterr().out) and "too short" in printed and "data.alphabet=snp" in printed
    symbols, records = json.loads((ASSETS / "snp_alphabet.json").read_text()), read_vcf()
    written = pd.concat([pd.read_csv(tmp_path / "out" / name, dtype=str, keep_default_na=False) for name in ("train.csv", "test.csv.gz")])
    before = pd.concat([table[:40], strange, table[40:]])
    for column in before.columns.drop("sequence"):
        assert written[column].tolist() == before[column].astype(str).tolist()
    assert written["snpify_status"].tolist() == ["placed"] * 40 + ["not found", "too short"] + ["placed"] * 20
    assert written["sequence"].tolist()[40:42] == strange["sequence"].tolist()
    n_checked = n_symbols = 0
    for (_, row), text, region in zip(before.iterrows(), written["sequence"], written["snpify_region"], strict=True):
        expected = expected_text(row, records, symbols) if row["name"] not in "xy" else None
        if expected is not None:
            assert text == expected and region == f"chr20_slice:{row['from'] - 1}-{row['to']}({row['strand']})"
            n_checked, n_symbols = n_checked + 1, n_symbols + sum(not c.isascii() for c in expected)
    assert n_checked > 20 and n_symbols > 40
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert sum(c["placed"] for c in summary["classes"].values()) == 60 and sum(c["not found"] for c in summary["classes"].values()) == 1
    by_columns = "data.coordinates={contig: contig, start: from, end: to, strand: strand, one_based: true}"
    run(config(tmp_path, folder, ALWAYS, by_columns, "others=drop", output="again"))
    again = pd.read_csv(tmp_path / "again" / "train.csv", dtype=str, keep_default_na=False)
    assert again["sequence"].tolist() == written["sequence"].tolist()[:40]
    with pytest.raises(ValueError, match=r"of 62 sequences 60 placed, 2 disagrees with the genome \(first that is not placed: ACGTTGCA"):
        run(config(tmp_path, folder, ALWAYS, by_columns, "others=refuse", output="third"))
    with pytest.raises(ValueError, match="has a column 'snpify_status'"):
        run(config(tmp_path, tmp_path / "out", output="third"))
    with pytest.raises(ValueError, match=r"data\.coordinates has contig, begin; it takes contig, start, end"):
        run(config(tmp_path, folder, "data.coordinates={contig: contig, begin: from}", output="third"))
    with pytest.raises(SystemExit, match="exists already"):
        run(config(tmp_path, folder))


def test_bases_that_differ_stay_unless_they_are_an_allele(tmp_path, genome, slice_reference, slice_variants):
    records = read_vcf()
    lonely = records[
        (records["ref"].str.len() == 1) & (records["alt"].str.len() == 1) & (records["pos"].diff() > 90) & (records["pos"].diff(-1) < -90)
    ]
    pos, _, ref, alt = lonely.iloc[3]
    text = list(genome[pos - 41 : pos + 39])
    assert text[40] == ref
    third = next(b for b in "ACGT" if b not in (ref, alt))
    other = next(b for b in "ACGT" if b != text[10])
    texts = ["".join([*text[:10], other, *text[11:40], base, *text[41:]]) for base in (ref, alt, third)]
    pd.DataFrame({"sequence": [*texts, opposite(texts[1])]}).to_csv(tmp_path / "t.csv", index=False)
    data = read_labelled(tmp_path / "t.csv", None, None)
    represent = lambda *files: BiAllele(*files, pairing="always")  # noqa: E731
    result = snpify(data, slice_reference, slice_variants, represent, max_mismatches=2)
    pair = json.loads((ASSETS / "snp_alphabet.json").read_text())["_".join(sorted((ref, alt)))]
    expected = [texts[0][:40] + pair + texts[0][41:]] * 2 + [texts[2]]
    assert [decode(s) for s in result.symbols[:3]] == expected and result.leak is None
    assert decode(reverse_complement(result.symbols[3])) == expected[1]
    with pytest.raises(ValueError, match="of 4 sequences 4 not found"):
        snpify(data, slice_reference, slice_variants, represent)
    with pytest.raises(ValueError, match="only representation=biallele"):
        snpify(data, slice_reference, slice_variants, Haplotype, max_mismatches=2)


def random_symbols(codes: np.ndarray, n: int, rng) -> np.ndarray:
    """A sequence with pair symbols at random places, each as likely as any other: how negatives of a published notebook were made."""
    codes = codes.copy()
    codes[rng.choice(len(codes), n, replace=False)] = rng.integers(11, 66, n)
    return codes


def test_classes_cannot_be_told_from_how_variants_were_written(tmp_path, genome, slice_reference, slice_variants):
    """Classes that really differ in their density of variants are told apart by it and no better; labels have no part in what is written.

    The alarm rings where one class has random symbols, and where one class is found in the genome less often.
    """
    rng, records = np.random.default_rng(1), read_vcf()
    table = windows_of(genome, 1500, 100, 1)
    n_known = np.searchsorted(records["pos"], table["to"], "right") - np.searchsorted(records["pos"], table["from"])
    table["label"] = np.where(n_known + rng.normal(0, 1.5, len(table)) > np.median(n_known), "dense", "sparse")
    table.to_csv(tmp_path / "t.csv", index=False)
    data = read_labelled(tmp_path / "t.csv", "sequence", "label")
    represent = lambda *files: BiAllele(*files, pairing="always")  # noqa: E731
    honest = snpify(data, slice_reference, slice_variants, represent)
    assert honest.leak.by_variants > 0.65 and honest.leak.by_symbols > 0.65
    assert (
        abs(honest.leak.by_symbols - honest.leak.by_variants) < 0.01
        and not honest.leak.is_leak
        and honest.leak.sentence().startswith("no leak")
    )

    swapped = read_labelled(tmp_path / "t.csv", "sequence", "label")
    swapped.labels = rng.permutation(swapped.labels)
    again = snpify(swapped, slice_reference, slice_variants, represent)
    assert all(np.array_equal(a, b) for a, b in zip(honest.symbols, again.symbols, strict=True))

    known = known_variants(honest.placements, slice_reference, slice_variants, True)
    is_sparse, placed = honest.of_class == honest.classes.index("sparse"), np.ones(1500, bool)
    published = [
        random_symbols(codes, int((s > 10).sum()), rng) if sparse else s
        for codes, s, sparse in zip(data.codes, honest.symbols, is_sparse, strict=True)
    ]
    leak = measure_leak(honest.of_class, symbol_presence(published), known, placed)
    assert leak.is_leak and leak.by_symbols > 0.85 and leak.sentence().startswith("LEAK")

    lost = np.flatnonzero(is_sparse)[::2]
    data.codes = [encode("".join(rng.permutation(list(decode(c))))) if i in set(lost.tolist()) else c for i, c in enumerate(data.codes)]
    kept = snpify(data, slice_reference, slice_variants, represent)
    assert kept.leak.is_leak and kept.counts().loc["sparse", "not found"] == len(lost)
    assert not snpify(data, slice_reference, slice_variants, represent, others="drop").leak.is_leak
