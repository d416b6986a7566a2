"""FASTA, FASTQ and BED as users have them, whole or broken; samtools and bedtools say what is right."""

import gzip
import shutil
import subprocess

import numpy as np
import pysam
import pytest

import bmfm
from bmfm.cells.genes import read_orthologs
from bmfm.cells.ontology import Ontology
from bmfm.data.tables import read_table
from bmfm.genome.alphabet import decode
from bmfm.genome.reference import Reference
from bmfm.genome.regions import read_regions
from bmfm.inference.sequences import read_regions_of_fasta, read_sequences


def run(*command: str) -> str:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def genome(seed: int, lengths, letters="ACGTacgtNRy") -> dict[str, str]:
    rng = np.random.default_rng(seed)
    return {f"c{i}": "".join(rng.choice(list(letters), n)) for i, n in enumerate(lengths)}


def fasta(path, contigs: dict[str, str], width: int = 7, end: str = "\n"):
    lines = [
        line for name, text in contigs.items() for line in (f">{name} words", *(text[i : i + width] for i in range(0, len(text), width)))
    ]
    path.write_bytes((end.join(lines) + end).encode())
    return path


def plain(text: str) -> str:
    """Upper case, and N for what is no base."""
    return "".join(c if c in "ACGTN" else "N" for c in text.upper())


def test_fasta_with_any_line_ends_is_what_faidx_reads(tmp_path):
    contigs = genome(0, (40, 1, 23))
    path = fasta(tmp_path / "a.fa", contigs)
    run("samtools", "faidx", str(path))
    by_samtools = {n: plain("".join(run("samtools", "faidx", str(path), n).split("\n")[1:])) for n in contigs}
    for end in ("\n", "\r\n", "\r"):
        reference = Reference.from_fasta(fasta(tmp_path / f"{len(end)}{ord(end[0])}.fa", contigs, end=end))
        assert {n: decode(reference.fetch(n, 0, len(t))) for n, t in contigs.items()} == by_samtools
        names, texts, _ = read_sequences(reference.source)
        assert dict(zip(names, texts, strict=True)) == contigs


@pytest.mark.parametrize("chunk", [1, 2, 3, 11])
def test_pieces_do_not_depend_on_where_reads_end(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr("bmfm.genome.fasta._CHUNK", chunk)
    contigs = {"a": "ACGT" * 5, "bc": "G", "d": "NNTT"}
    for end in ("\n", "\r\n", "\r"):
        assert dict(zip(*read_sequences(fasta(tmp_path / "x.fa", contigs, end=end))[:2], strict=True)) == contigs


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b">a\nAC>GT\n", "contig 'a' has '>' at position 3"),
        (b">a\nACGT\n>b\n", "record 2, the last, has a header and no sequence"),  # as samtools faidx does
        (b">a\nACGT\n>b", "record 2, the last, has a header and no sequence"),
        (b"ACGT\n>a\nACGT\n", "does not begin with '>' but with b'ACGT"),
        (b">a\nMKVLAEFI\n", "'L' at position 4, which is no nucleotide code"),
    ],
)
def test_broken_fasta(tmp_path, content, message):
    path = tmp_path / "x.fa"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        Reference.from_fasta(path)
    assert str(error.value).startswith(str(path))


def test_names_in_latin_1_and_folders(tmp_path, dna_model):
    path = tmp_path / "x.fa"
    path.write_bytes(">sé x\nACGT\n".encode("latin-1"))
    assert Reference.from_fasta(path).names.names == ["sé"] and list(read_sequences(path)[0]) == ["sé"]
    for read in (Reference.from_fasta, bmfm.load(dna_model).embed):
        with pytest.raises(FileNotFoundError, match="is a folder"):
            read(tmp_path)


def test_fastq(tmp_path):
    path = tmp_path / "x.fq.gz"
    path.write_bytes(gzip.compress(b"@r1 x\nACGT\n+\n>>@I\n@r2\nNN\n+r2\n!!\n"))
    with pysam.FastxFile(str(path)) as records:
        by_pysam = [(r.name, r.sequence) for r in records]
    assert list(zip(*read_sequences(path)[:2], strict=True)) == by_pysam == [("r1", "ACGT"), ("r2", "NN")]
    path.write_bytes(gzip.compress(b"@r1 x\nACGT\n+\n>>@I\n@r2\nNN\n+r2\n"))
    with pytest.raises(ValueError, match="record 2 is no FASTQ"):
        read_sequences(path)


def bgzip(text: str, path) -> bytes:
    with pysam.BGZFile(str(path), "wb") as sink:
        sink.write(text.encode())
    return path.read_bytes()


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """(what, bytes) of a text cut or damaged in each way."""

    def _broken(text: str):
        whole = bgzip(text, tmp_path_factory.mktemp("bgzip") / "x.gz")
        block = int.from_bytes(whole[16:18], "little") + 1
        packed = gzip.compress(text.encode())
        damaged = bytearray(packed)
        damaged[len(packed) // 2] ^= 0xFF
        return {
            "bgzip cut at a block": whole[:block],
            "bgzip without its end": whole[:-28],
            "bgzip cut in a block": whole[: block + 40],
            "gzip cut": packed[: len(packed) // 2],
            "gzip damaged": bytes(damaged),
        }

    return _broken


def test_compressed_files_that_end_early_are_refused_by_name(tmp_path, broken):
    rng = np.random.default_rng(0)
    bases = "".join(rng.choice(list("ACGT"), 200_000))
    rows = "\n".join(f"{bases[i : i + 50]},{i}" for i in range(0, 200_000, 50))
    readers = {
        "x.fa.gz": (f">a\n{bases}\n", Reference.from_fasta),
        "y.fa.gz": (f">a\n{bases}\n", read_sequences),
        "x.bed.gz": ("".join(f"c0\t{i}\t{i + 1}\n" for i in range(40)) * 2000, lambda p: list(read_regions(str(p), small))),
        "x.csv.gz": (f"sequence,n\n{rows}\n", read_table),
        "x.obo.gz": ("[Term]\nid: CL:1\nname: x\n\n" * 20_000, Ontology.from_obo),
        "x.tsv.gz": ("mouse\thuman\n" + "\n".join(f"M{i}\tH{i}" for i in range(20_000)), read_orthologs),
    }
    small = Reference.from_fasta(fasta(tmp_path / "small.fa", genome(1, (50,))))
    for name, (text, read) in readers.items():
        path = tmp_path / name
        for content in (gzip.compress(text.encode()), bgzip(text, path)):
            path.write_bytes(content)
            read(path)
        for what, content in broken(text).items():
            path.write_bytes(content)
            # a flipped bit may show as wrong text before the checksum at the end is reached
            with pytest.raises(ValueError, match="" if what == "gzip damaged" else "copy or download it again") as error:
                read(path)
            assert str(path) in str(error.value), what


def test_regions_of_a_bed_are_what_bedtools_reads(tmp_path):
    contigs = genome(2, (60, 35, 80))
    path, rng = fasta(tmp_path / "g.fa", contigs), np.random.default_rng(3)
    rows = []
    for _ in range(60):
        name = f"c{rng.integers(3)}"
        start, end = sorted(rng.choice(len(contigs[name]) + 1, 2, replace=False))
        rows.append(f"{name}\t{start}\t{end}\ta name\t0\t{rng.choice(list('+-.'))}")
    three = ["\t".join(row.split("\t")[:3]) for row in rows]
    for lines, options in ((rows, ("-s",)), (three, ())):
        bed = tmp_path / f"{len(options)}.bed"
        bed.write_text("track name=x\nbrowser position c0:1-2\n#\n" + "\n".join(lines) + "\n")
        by_bedtools = run("bedtools", "getfasta", *options, "-fi", str(path), "-bed", str(bed)).split("\n")
        sequences = read_regions_of_fasta(path, bed)
        assert list(sequences.index) == [line[1:] for line in by_bedtools[:-1:2]]
        assert list(sequences) == [plain(line) for line in by_bedtools[1::2]]


def test_bed_lines_that_are_wrong(tmp_path):
    path = fasta(tmp_path / "g.fa", {"track1": "ACGT", "browserX": "GGGG", "track": "CCCC"})
    reference, bed = Reference.from_fasta(path), tmp_path / "x.bed"
    bed.write_text("track1\t1\t3\nbrowserX\t0\t1\ntrack\t0\t2\ntrack name=x\n")
    assert list(read_regions_of_fasta(path, bed)) == ["CG", "G", "CC"]
    assert read_regions(str(bed), reference).tolist() == [[1, 3], [5, 6], [10, 12]]
    for text, message in (
        ("", "holds no region"),
        ("track name=x\n", "holds no region"),
        ("track1\t2\t5\n", ":1: interval 2-5 .* is not inside track1, which has 4 bases"),
        ("#\ntrack1\t2\t2\n", ":2: interval 2-2 .* is empty"),
        ("track9\t2\t2\n", ":1: contig 'track9' is not in the genome"),
    ):
        bed.write_text(text)
        for read in (lambda: read_regions_of_fasta(path, bed), lambda: read_regions(str(bed), reference)):
            with pytest.raises(ValueError, match=message) as error:
                read()
            assert str(error.value).startswith(str(bed))
    bed.write_text("track1\t0\t2\tx\t0\tminus\n")
    with pytest.raises(ValueError, match=":1: column 6 is the strand"):
        read_regions_of_fasta(path, bed)
    for word, message in (("track1:3-2", "is empty"), ("track1:0-2", "not inside"), ([], "list of regions is empty")):
        with pytest.raises(ValueError, match=message):
            read_regions(word, reference)


def test_contigs_named_like_regions(write):
    reference = Reference.from_fasta(write("g.fa", ">a:1-4\nACGT\n>a\nGGGG\n"))
    assert read_regions(["a:1-4"], reference).tolist() == [[0, 4]] and read_regions(["a:1-3"], reference).tolist() == [[5, 8]]


def test_many_contigs_open_at_once(tmp_path):
    import time

    path = fasta(tmp_path / "g.fa", {f"scaffold_{i}": "ACGT" for i in range(20_000)})
    Reference.from_fasta(path)
    began = time.perf_counter()
    reference = Reference.from_fasta(path)
    assert reference.names.require("scaffold_19999", "") == 19_999 and len(reference) == 80_000
    assert time.perf_counter() - began < 5  # 0.1 s; far off only if something is quadratic
    with pytest.raises(ValueError, match="more than once: scaffold_7;"):
        Reference.from_fasta(
            fasta(tmp_path / "h.fa", {f"scaffold_{i % 20_000}": "A" for i in range(7)} | {"scaffold_7 a": "A", "scaffold_7 b": "A"})
        )
