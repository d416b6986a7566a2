"""Copies of a genome with their edits, whole and cut into windows: bcftools says what a copy is."""

import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bmfm.genome.alphabet import DEL, INSERTED, PAIR, SYMBOLS, decode, reverse_complement
from bmfm.genome.reference import Reference
from bmfm.genome.representation import BiAllele, Haplotype
from bmfm.genome.variants import VariantFilter, VariantReport, VariantTable
from bmfm.genome.windows import Windows
from tests.genome.reference_representation import biallele, haplotype

PHASED = VariantFilter(samples=["s"], missing_frequency=0.5)


def opened(folder, contigs: dict[str, str], records, keep=PHASED):
    (folder / "g.fa").write_text("".join(f">{name}\n{text}\n" for name, text in contigs.items()))
    header = "##fileformat=VCFv4.2\n" + "".join(f"##contig=<ID={n},length={len(t)}>\n" for n, t in contigs.items())
    rows = "\n".join("\t".join((str(r[0]), str(r[1]), ".", r[2], r[3], ".", ".", ".", "GT", r[4])) for r in records)
    declared = '##FORMAT=<ID=GT,Number=1,Type=String,Description="g">\n' + "".join(
        f'##INFO=<ID={key},Number=.,Type={kind},Description="x">\n'
        for key, kind in (("AF", "Float"), ("AC", "Integer"), ("FREQ", "String"))
    )
    (folder / "v.vcf").write_text(header + declared + "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\ts\n" + rows + "\n")
    reference = Reference.from_fasta(folder / "g.fa")
    return reference, VariantTable.from_vcf(folder / "v.vcf", reference, keep)


def windows(start, end, reverse=False, key=1) -> Windows:
    start, end = np.atleast_1d(start).astype(np.int64), np.atleast_1d(end).astype(np.int64)
    return Windows(start, end, np.full(len(start), reverse), np.broadcast_to(np.uint64(key), len(start)).copy())


def key_of_copy(represent: Haplotype, copy: int) -> int:
    """A key whose window shows this copy of the one sample."""
    from bmfm.genome.haplotype import _source_of

    return next(k for k in range(100) if _source_of(np.uint64(k), represent.samples)[1] == copy)


def consensus(folder, copy: int, *options: str) -> dict[str, str]:
    """Whole contigs of a copy as bcftools writes them, {name: text}."""
    if shutil.which("bcftools") is None:
        pytest.skip("bcftools is not installed")
    packed = folder / "v.vcf.gz"
    if not packed.exists():
        for command in (["bcftools", "view", "-Oz", "-o", str(packed), str(folder / "v.vcf")], ["bcftools", "index", str(packed)]):
            subprocess.run(command, check=True, capture_output=True)
    command = ["bcftools", "consensus", "-f", str(folder / "g.fa"), "-s", "s", "-H", str(copy + 1), *options, str(packed)]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return {r.split("\n")[0].split()[0]: "".join(r.split("\n")[1:]) for r in text.split(">")[1:]}


def random_records(rng, contigs: dict[str, str], gap: int = 2, is_aligned: bool = False):
    """Edits of every kind from the first base to the last, apart by `gap` bases or more, with phased genotypes.

    With `is_aligned`, those alone that say which base stands for which.
    """
    records = []
    for name, text in contigs.items():
        at = 0
        while at < len(text):
            n_ref = int(min(rng.choice([1, 1, 1, 2, 3, 6]), len(text) - at))
            kind = rng.choice(["substitution", "insertion", "deletion", "complex"][: 3 if is_aligned else 4])
            ref = text[at : at + (1 if is_aligned and kind == "insertion" else n_ref)]
            if kind == "substitution":
                alt = "".join(rng.choice([b for b in "ACGT" if b != r]) for r in ref)
            elif kind == "insertion":
                alt = ref + "".join(rng.choice(list("ACGT"), rng.integers(1, 5)))
            elif kind == "deletion":
                alt = ref[0]
            else:
                alt = "".join(rng.choice(list("ACGT"), rng.integers(1, 7)))
            if alt != ref:
                records.append((name, at + 1, ref, alt, rng.choice(["0|1", "1|0", "1|1", "1|1"])))
            at += n_ref + gap + int(rng.integers(0, 6))
        if rng.random() < 0.7 and (not records or records[-1][0] != name or records[-1][1] + len(records[-1][2]) < len(text)):
            records.append((name, len(text), text[-1], text[-1] + "TTA", "1|1"))  # after the last base
    return records


def random_genome(rng) -> dict[str, str]:
    return {f"c{i}": "".join(rng.choice(list("ACGT"), n)) for i, n in enumerate(rng.integers(20, 90, 3))}


@pytest.mark.parametrize("seed", range(6))
def test_copies_and_their_slices_are_those_of_bcftools(tmp_path, seed):
    rng = np.random.default_rng(seed)
    contigs = random_genome(rng)
    reference, variants = opened(tmp_path, contigs, random_records(rng, contigs))
    represent = Haplotype(reference, variants, ["s"])
    for copy in range(2):
        by_bcftools, key = consensus(tmp_path, copy), key_of_copy(represent, copy)
        for c, name in enumerate(contigs):
            edges = np.unique(
                np.concatenate([[reference.starts[c], reference.ends[c]], rng.integers(reference.starts[c], reference.ends[c], 9)])
            )
            for cuts in ([edges[0], edges[-1]], edges, np.arange(edges[0], edges[-1] + 1)):
                for reverse in (False, True):
                    encoded = represent(windows(cuts[:-1], cuts[1:], reverse, key))
                    pieces = [encoded[b] & 0x7F for b in range(len(encoded))]
                    pieces = [reverse_complement(p) if reverse else p for p in pieces]
                    assert decode(np.concatenate(pieces)) == by_bcftools[name]


@pytest.mark.parametrize("seed", range(6))
def test_pairs_are_the_two_copies_of_bcftools(tmp_path, seed):
    """bcftools marks deleted bases (X) and writes inserted ones in lower case: the states of each locus of a copy."""
    rng = np.random.default_rng(100 + seed)
    contigs = random_genome(rng)
    reference, variants = opened(tmp_path, contigs, random_records(rng, contigs, is_aligned=True))
    represent = BiAllele(reference, variants, sample="s")
    texts = [consensus(tmp_path, copy, "--mark-del", "X", "--mark-ins", "lc") for copy in range(2)]
    for c, name in enumerate(contigs):
        for reverse in (False, True):
            copies = [states(text[name], reverse) for text in texts]
            expected = PAIR[copies[0], copies[1]]
            start, end = reference.starts[c], reference.ends[c]
            cuts = np.unique(np.concatenate([[start, end], rng.integers(start, end, 5)]))
            for edges in (cuts, [start, end], np.arange(start, end + 1)):
                encoded = represent(windows(edges[:-1], edges[1:], reverse))
                order = range(len(encoded) - 1, -1, -1) if reverse else range(len(encoded))
                joined = np.concatenate([encoded[b] & 0x7F for b in order])
                assert decode(joined) == decode(expected)


def states(text: str, reverse: bool) -> list[int]:
    """States of the loci of a copy in the order of reading; an insertion marks the base read before it."""
    text = text[::-1].translate(str.maketrans("ACGTacgt", "TGCAtgca")) if reverse else text
    states: list[int] = []
    for character in text:
        if character.isupper():
            states.append(DEL if character == "X" else SYMBOLS.index(character))
        elif (place := next((i for i in range(len(states) - 1, -1, -1) if states[i] != DEL), None)) is not None and states[place] < DEL:
            states[place] += INSERTED
    return states


TINY = {"1": "ACGTACGT", "2": "CCCCGGGG"}


def test_insertions_after_the_last_base_of_a_contig(tmp_path):
    reference, variants = opened(tmp_path, TINY, [("1", 8, "T", "TAAA", "1|1"), ("2", 8, "G", "GTT", "1|1")])
    represent = Haplotype(reference, variants, ["s"], positions=True)
    bounds = windows(reference.starts, reference.ends)
    encoded = represent(bounds)
    assert [decode(encoded[b]) for b in range(2)] == ["ACGTACGTAAA", "CCCCGGGGTT"]  # as bcftools consensus
    assert encoded.positions.tolist() == [*range(8), 7, 7, 7, *range(9, 17), 16, 16]
    back = represent(windows(reference.starts, reference.ends, True))
    assert [decode(back[b]) for b in range(2)] == ["TTTACGTACGT", "AACCCCGGGG"]
    inner = represent(windows([0, 7, 9, 10], [7, 8, 10, 17]))  # a window that ends or begins elsewhere has its own bases
    assert [decode(inner[b]) for b in range(4)] == ["ACGTACG", "TAAA", "C", "CCCGGGGTT"]
    for pairing in ({"sample": "s"}, {"pairing": "always"}):
        pairs = BiAllele(reference, variants, **pairing)
        forward, back = pairs(bounds), pairs(windows(reference.starts, reference.ends, True))
        last = "UH" if "sample" in pairing else (SYMBOLS[PAIR[2, 2 + INSERTED]], SYMBOLS[PAIR[1, 1 + INSERTED]])
        assert [decode(forward[b]) for b in range(2)] == ["ACGTACG" + last[0], "CCCCGGG" + last[1]]
        assert [decode(back[b]) for b in range(2)] == ["ACGTACGT", "CCCCGGGG"]  # nothing is read before it
        assert not (back.symbols & 0x80).any()


def test_insertions_before_the_first_base_of_a_contig(write):
    reference = Reference.from_fasta(write("g.fa", ">1\nACGTACGT\n>2\nCCCCGGGG\n"))
    variants = table_of([(9, 9, 2)], np.random.default_rng(0), (1, 1))
    bounds, behind = windows(reference.starts, reference.ends), windows(reference.starts, reference.ends, True)
    encoded = Haplotype(reference, variants, positions=True)(bounds)
    assert [len(encoded[b]) for b in range(2)] == [8, 10] and encoded.positions[8:11].tolist() == [9, 9, 9]
    for pairing in ("frequency", "always"):
        pairs = BiAllele(reference, variants, pairing)
        assert not (pairs(bounds).symbols & 0x80).any()
        assert np.flatnonzero(pairs(behind).symbols & 0x80).tolist() == [15]  # the last base that is read


def test_overlapping_deletions_and_edits_across_an_edge(tmp_path):
    reference, variants = opened(tmp_path, {"1": "ACGTACGTAA"}, [("1", 2, "CGTA", "C", "1|1"), ("1", 4, "TACG", "T", "1|1")])
    represent = Haplotype(reference, variants, ["s"])
    assert decode(represent(windows(0, 10))[0]) == "ACCGTAA"  # the first is applied, as by bcftools
    assert decode(represent(windows(6, 7))[0]) == "G"
    assert decode(BiAllele(reference, variants, sample="s")(windows(6, 7))[0]) == "G"
    (tmp_path / "other").mkdir()
    reference, variants = opened(tmp_path / "other", {"1": "A" * 10 + "CC" + "A" * 8}, [("1", 11, "CC", "GT", "1|1")])
    represent = Haplotype(reference, variants, ["s"])
    assert decode(represent(windows(11, 16))[0]) == "TAAAA" and decode(represent(windows(6, 11))[0]) == "AAAAG"


def test_an_insertion_beside_an_edit_is_marked_on_the_base_that_is_read_before_it(tmp_path):
    """Deleted bases are passed over and substituted ones keep the mark, on either strand and wherever the window ends."""
    reference, variants = opened(
        tmp_path,
        {"1": "AAAACCCCGGGG"},
        [("1", 4, "A", "ATT", "1|1"), ("1", 4, "ACC", "A", "1|1"), ("1", 9, "GG", "G", "1|1"), ("1", 10, "G", "GA", "1|1")],
    )
    represent = BiAllele(reference, variants, sample="s")
    forward = "AAABXXCCHXGG"
    back = "CDXCGHXXTTTT"  # the insertion before locus 4 follows the complement of locus 6, over loci 4 and 5
    assert decode(represent(windows(0, 12))[0]) == forward and decode(represent(windows(0, 12, True))[0]) == back
    for cut in range(13):
        assert decode(represent(windows(0, cut))[0]) + decode(represent(windows(cut, 12))[0]) == forward
        assert decode(represent(windows(cut, 12, True))[0]) + decode(represent(windows(0, cut, True))[0]) == back


OVERLAPS = [
    [("1", 4, "TCA", "T"), ("1", 5, "C", "A")],
    [("1", 4, "TCA", "T"), ("1", 4, "TC", "AA")],
    [("1", 4, "TC", "AA"), ("1", 4, "T", "A")],
    [("1", 4, "T", "A"), ("1", 4, "TC", "AA")],
    [("1", 4, "T", "TTT"), ("1", 4, "TC", "AA")],
    [("1", 4, "TC", "AA"), ("1", 4, "T", "TTT")],
    [("1", 4, "TC", "AA"), ("1", 4, "TCA", "T")],
    [("1", 5, "CATG", "C"), ("1", 5, "CA", "C")],
    [("1", 5, "CA", "C"), ("1", 5, "CATG", "C")],
    [("1", 4, "TCA", "T"), ("1", 5, "CA", "GG"), ("1", 6, "AT", "GG")],
    [("1", 4, "TCA", "T"), ("1", 4, "TC", "AA"), ("1", 5, "CATG", "C"), ("1", 9, "G", "T")],
]


@pytest.mark.parametrize("records", OVERLAPS)
def test_of_overlapping_edits_that_of_the_earlier_record_is_applied(tmp_path, records):
    """Every window of either representation is a slice of the copy that bcftools writes."""
    reference, variants = opened(tmp_path, {"1": "ACGTCATGGACT"}, [(*record, "1|1") for record in records])
    by_bcftools = consensus(tmp_path, 0)["1"]
    represent, pairs = Haplotype(reference, variants, ["s"]), BiAllele(reference, variants, sample="s")
    whole = decode(pairs(windows(0, 12))[0])
    for cut in range(13):
        assert decode(represent(windows(0, cut))[0]) + decode(represent(windows(cut, 12))[0]) == by_bcftools
        assert decode(pairs(windows(0, cut))[0]) + decode(pairs(windows(cut, 12))[0]) == whole
    marked = consensus(tmp_path, 0, "--mark-del", "X", "--mark-ins", "lc")["1"]
    assert [int(s) & 0x7F for s in pairs(windows(0, 12))[0]] == [int(PAIR[s, s]) for s in states(marked, False)]


def test_alleles_of_one_record_do_not_overlap(tmp_path):
    _, variants = opened(tmp_path, {"1": "ACGTCATGGACT"}, [("1", 4, "TCA", "T,AAA", "1|2"), ("1", 6, "A", "G", "1|1")])
    reason = next(r for r in variants.report.noted if "overlaps" in r)
    assert variants.report.noted[reason] == 1  # the last lies within both alleles of the first


@st.composite
def tables(draw):
    """Two contigs and many edits, sorted, overlapping in every way, with drawn alleles."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    lengths = rng.integers(1, 60, 2)
    longest = int(draw(st.sampled_from([2, 8, 40])))
    rows = set()
    for _ in range(int(rng.integers(0, 40))):
        c = int(rng.integers(2))
        first = (0, int(lengths[0]) + 1)[c]
        start = int(rng.integers(0, lengths[c] + 1))
        end = min(int(lengths[c]), start + int(rng.integers(0, longest)))
        n_alt = int(rng.integers(0, 4)) if end > start else int(rng.integers(1, 4))
        rows.add((first + start, first + end, n_alt))
    return lengths, sorted(rows, key=lambda row: (row[0], row[1] > row[0], rng.random())), rng


@settings(max_examples=150, deadline=None)
@given(tables())
def test_every_window_is_a_slice_of_its_copy(table):
    lengths, rows, rng = table
    codes = np.concatenate([rng.integers(0, 4, lengths[0]), [4], rng.integers(0, 4, lengths[1]), [4]]).astype(np.uint8)
    ends = np.cumsum(lengths + 1) - 1
    names = tuple({"name": n, "length": int(length)} for n, length in zip("ab", lengths, strict=True))
    reference = Reference(None, None, codes, ends - lengths, ends, names)  # type: ignore[arg-type]
    records = rng.permutation(len(rows)) if rng.integers(2) else np.arange(len(rows))
    order = np.lexsort((records, [end > start for start, end, _ in rows], [row[0] for row in rows])) if rows else []
    variants = replace(table_of([rows[i] for i in order], rng), record=records[order].astype(np.int32) if rows else np.empty(0, np.int32))
    for _ in range(10):
        c = int(rng.integers(2))
        start, end = sorted(int(x) for x in rng.integers(reference.starts[c], ends[c] + 1, 2))
        if start == end:
            continue
        reverse, key = bool(rng.integers(2)), np.uint64(rng.integers(2**63))
        one = windows(start, end, reverse, key)
        assert BiAllele(reference, variants)(one)[0].tolist() == biallele(reference, variants, start, end, reverse, key)
        encoded = Haplotype(reference, variants, positions=True)(one)
        symbols, positions = haplotype(reference, variants, start, end, reverse, key)
        assert encoded[0].tolist() == symbols and encoded.positions.tolist() == positions


def table_of(rows, rng, frequency=(0.3, 0.9)) -> VariantTable:
    n = len(rows)
    start, end, n_alt = (np.array(c, np.int64) for c in zip(*rows, strict=True)) if n else (np.empty(0, np.int64),) * 3
    alt_start = np.concatenate([[0], np.cumsum(n_alt)]).astype(np.int64)
    return VariantTable(
        start=start, end=end, alt_start=alt_start, alt=rng.integers(0, 4, alt_start[-1]).astype(np.uint8),
        low=np.zeros(n, np.float32), high=rng.uniform(*frequency, n).astype(np.float32), record=np.arange(n, dtype=np.int32),
        allele=np.ones(n, np.int8), genotypes=np.empty((0, 0, 2), np.int8), samples=(), report=VariantReport(""),
    )  # fmt: skip


def test_long_tables_are_searched_block_by_block():
    """Many blocks of edits lie between a window and the long deletions that reach it."""
    rng = np.random.default_rng(0)
    n = 40_000
    reference = Reference(
        None, None, rng.integers(0, 4, n + 1).astype(np.uint8), np.array([0]), np.array([n]), ({"name": "a", "length": n},)
    )  # type: ignore[arg-type]
    rows = sorted({(int(s), int(s) + 1, 1) for s in rng.integers(0, n, 15_000)} | {(5, 30_000, 0), (7, 20_001, 0), (20_000, 39_000, 0)})
    variants = table_of(rows, rng, (0.4, 0.6))
    for start in (10_000, 19_999, 25_000, 38_990):
        for key in range(2):
            for reverse in (False, True):
                one = windows(start, start + 20, reverse, key)
                assert (
                    Haplotype(reference, variants)(one)[0].tolist()
                    == haplotype(reference, variants, start, start + 20, reverse, np.uint64(key))[0]
                )


def test_tables_of_sites_are_built_once_and_piece_by_piece(tmp_path, monkeypatch):
    """Sites by hand: an SNV, a deletion of two loci, and an insertion that is a state of the base on either side."""
    from bmfm.genome import sites

    records = [("1", 2, "C", "G", "0|1"), ("1", 4, "TAC", "T", "0|1"), ("1", 8, "T", "TA", "0|1"), ("2", 3, "C", "CA", "0|1")]
    reference, variants = opened(tmp_path, TINY, records)
    for piece in (1, 100):
        monkeypatch.setattr(sites, "_PIECE", piece)
        forward, back = (sites.site_table(reference, variants, reverse) for reverse in (False, True))
        assert forward.position.tolist() == [1, 4, 5, 7, 11] and back.position.tolist() == [1, 4, 5, 12]
        assert forward.first_state.tolist() == [0, 2, 4, 6, 8, 10]
        assert forward.state.tolist() == [3, 1, 0, DEL, 3, DEL, 2, 2 + INSERTED, 3, 3 + INSERTED]
        assert np.allclose(forward.frequency, 0.5)
    first = BiAllele(reference, variants, "always")
    monkeypatch.setattr(sites, "site_table", None)
    again = BiAllele(reference, VariantTable.from_vcf(tmp_path / "v.vcf", reference, PHASED), "always")
    for one, other in zip([*first.sites[0], *first.sites[1]], [*again.sites[0], *again.sites[1]], strict=True):
        assert (one == other).all() and not other.flags.writeable and other.base is not None
