"""Sequences as users have them: FASTA, BED, tables and lists, whole or broken. samtools and bedtools say what is right."""

import bz2
import gzip
import shutil
import subprocess

import numpy as np
import pandas as pd
import pysam
import pytest
from pandas._libs.parsers import STR_NA_VALUES

import bmfm
from bmfm.cells.genes import read_orthologs
from bmfm.cells.ontology import Ontology
from bmfm.cli import compose
from bmfm.data.table import SequenceTable
from bmfm.data.tables import read_table
from bmfm.genome.alphabet import decode, read_text
from bmfm.genome.reference import Reference
from bmfm.genome.regions import read_regions
from bmfm.inference.sequences import read_regions_of_fasta, read_sequences
from bmfm.predict import predict
from bmfm.tokenizers import dna
from bmfm.tokenizers.texts import read_texts


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
    said = {n: plain("".join(run("samtools", "faidx", str(path), n).split("\n")[1:])) for n in contigs}
    for end in ("\n", "\r\n", "\r"):
        reference = Reference.from_fasta(fasta(tmp_path / f"{len(end)}{ord(end[0])}.fa", contigs, end=end))
        assert {n: decode(reference.fetch(n, 0, len(t))) for n, t in contigs.items()} == said
        names, texts, _ = read_sequences(reference.source)
        assert dict(zip(names, texts, strict=True)) == contigs


@pytest.mark.parametrize("chunk", [1, 2, 3, 11])
def test_pieces_do_not_depend_on_where_reads_end(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr("bmfm.genome.fasta._CHUNK", chunk)
    contigs = {"a": "ACGT" * 5, "bc": "G", "d": "NNTT"}
    for end in ("\n", "\r\n", "\r"):
        assert dict(zip(*read_sequences(fasta(tmp_path / "x.fa", contigs, end=end))[:2], strict=True)) == contigs


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b">a\nAC>GT\n", "contig 'a' has '>' at position 3"),
        (b">a\nACGT\n>b\n", "record 2, the last, has a header and no sequence"),  # as samtools faidx does
        (b">a\nACGT\n>b", "record 2, the last, has a header and no sequence"),
        (b"ACGT\n>a\nACGT\n", "does not begin with '>' but with b'ACGT"),
        (b">a\nMKVLAEFI\n", "'L' at position 4, which is no nucleotide code"),
    ],
)
def test_broken_fasta(tmp_path, content, said):
    path = tmp_path / "x.fa"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=said) as error:
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
        said = [(r.name, r.sequence) for r in records]
    assert list(zip(*read_sequences(path)[:2], strict=True)) == said == [("r1", "ACGT"), ("r2", "NN")]
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
        said = run("bedtools", "getfasta", *options, "-fi", str(path), "-bed", str(bed)).split("\n")
        found = read_regions_of_fasta(path, bed)
        assert list(found.index) == [line[1:] for line in said[:-1:2]]
        assert list(found) == [plain(line) for line in said[1::2]]


def test_bed_lines_that_are_wrong(tmp_path):
    path = fasta(tmp_path / "g.fa", {"track1": "ACGT", "browserX": "GGGG", "track": "CCCC"})
    reference, bed = Reference.from_fasta(path), tmp_path / "x.bed"
    bed.write_text("track1\t1\t3\nbrowserX\t0\t1\ntrack\t0\t2\ntrack name=x\n")
    assert list(read_regions_of_fasta(path, bed)) == ["CG", "G", "CC"]
    assert read_regions(str(bed), reference).tolist() == [[1, 3], [5, 6], [10, 12]]
    for text, said in (
        ("", "holds no region"),
        ("track name=x\n", "holds no region"),
        ("track1\t2\t5\n", ":1: interval 2-5 .* is not inside track1, which has 4 bases"),
        ("#\ntrack1\t2\t2\n", ":2: interval 2-2 .* is empty"),
        ("track9\t2\t2\n", ":1: contig 'track9' is not in the genome"),
    ):
        bed.write_text(text)
        for read in (lambda: read_regions_of_fasta(path, bed), lambda: read_regions(str(bed), reference)):
            with pytest.raises(ValueError, match=said) as error:
                read()
            assert str(error.value).startswith(str(bed))
    bed.write_text("track1\t0\t2\tx\t0\tminus\n")
    with pytest.raises(ValueError, match=":1: column 6 is the strand"):
        read_regions_of_fasta(path, bed)
    for word, said in (("track1:3-2", "is empty"), ("track1:0-2", "not inside"), ([], "list of regions is empty")):
        with pytest.raises(ValueError, match=said):
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


IUPAC = "ACGTBDHACGTXRYuUN"


@pytest.mark.parametrize(
    ("text", "alphabet", "expected", "n_replaced"),
    [
        (IUPAC, "auto", "ACGTNNNACGTNNNTTN", 6),  # plain: no character of a pair
        (IUPAC.lower(), "auto", "ACGTNNNACGTNNNTTN", 6),
        ("AUGUT", "auto", "ATGTT", 0),
        ("AB高X", "auto", "AB高X", 0),  # "高", A or G: the text is SNP-aware, B is A before an insertion, X a deletion
        ("ab高xR", "auto", "AB高XN", 1),
        ("ABXU", "snp", "ABXU", 0),
        ("AB高", "plain", "ANN", 2),
        ("ACGT中", "auto", "ACGTN", 1),
    ],
)
def test_each_text_is_read_by_itself(text, alphabet, expected, n_replaced):
    codes, n = read_text(text, alphabet)
    assert decode(codes) == expected and n == n_replaced
    together, _ = read_texts(["ACGTACGT高", text * 2 + "ACGT", "BUXACGTACGTACGT"], alphabet)
    assert decode(together[1]) == expected * 2 + "ACGT"


@pytest.mark.parametrize("text", ["MKVLAEFIPQGHRDS", "hello world", "r1.fa"])
def test_what_is_no_nucleotide_sequence_is_refused(dna_model, text):
    model = bmfm.load(dna_model)
    with pytest.raises(ValueError, match=r"sequence 'b' \(1, counted from 0\).*no nucleotide"):
        model.embed({"a": "ACGT", "b": text})
    model.embed(["ACGTRRRR"])
    assert model.counts["characters_read_as_N"] == 4


@pytest.mark.parametrize("missing", ["", " ", None, float("nan"), np.nan, pd.NA, "NA", "nan", "None", 7, 1.5, b"ACGT", ["ACGT"]])
def test_missing_sequences_are_refused(dna_model, missing):
    model = bmfm.load(dna_model)
    inputs = [
        (["ACGT", missing], "sequence 1"),
        (pd.Series(["ACGT", missing], index=["x", "y"], dtype=object), "sequence 'y'"),
        (pd.DataFrame({"a": ["ACGT"] * 2, "b": pd.Series(["ACGT", missing], dtype=object)}), "sequence 1"),
        ([("ACGT", "ACGT"), ("ACGT", missing)], "sequence 1"),
        ({"x": "ACGT", "y": missing}, "sequence 'y'"),
    ]
    for data, where in inputs[1:] if isinstance(missing, list) else inputs:
        with pytest.raises(ValueError, match=f"1 of 2 sequences are (missing|no text): {where}"):
            model.embed(data)


def test_a_sequence_is_no_path(dna_model):
    model = bmfm.load(dna_model)
    for text in ("ACGTACGTNN", "acgu" * 100, "ACGT", "ACGTRYACGT", "ACGT ACGT", "AB高X\n"):
        with pytest.raises(ValueError, match="give \\[sequence\\]"):
            model.embed(text)
    with pytest.raises(ValueError, match="no sequences"):
        model.embed([])
    assert (model.embed({"a": "ACGT"}) == model.embed(["ACGT"])).all()


@pytest.mark.parametrize("what", [None, 5, 1.5, np.float32(1), np.array("ACGT"), object()])
def test_what_holds_no_sequences_is_told_what_is_taken(dna_model, what):
    with pytest.raises(ValueError, match="holds no sequences: give a list, Series"):
        bmfm.load(dna_model).embed(what)


@pytest.mark.parametrize("name", ["x.csv", "A.CSV", "x.tsv.gz", "x.Parquet", "seqs.txt", "seqs"])
def test_a_file_that_is_no_fasta_is_told_what_to_do(write, dna_model, name):
    with pytest.raises(ValueError, match=r"bmfm\.predict.* data\.path" if name[0] != "s" else r"read_text\(\)\.split\(\)") as error:
        bmfm.load(dna_model).embed(write(name, "ACGT\nACGT\n") if not name.endswith("gz") else write(name, ""))
    assert name in str(error.value)


def test_frames_say_which_columns_are_sequences():
    one, two, names = ["ACGT", "GG"], ["CC", "TTT"], ["GATA1", "TAT"]
    for frame, expected in (
        ({"x": one}, (one, None)),
        ({"id": names, "sequence": one, "label": [0, 1]}, (one, None)),
        ({"id": names, "second": two, "sequence": one}, (one, two)),
        ({"sequence": one, "second": two}, (one, two)),
        ({"enhancer": one, "promoter": two}, (one, two)),
    ):
        assert read_sequences(pd.DataFrame(frame))[1:] == expected
    for columns in (("id", "sequence"), ("sequence", "label"), ("gene_name", "text"), ("Unnamed: 0", "a"), ("a", "b", "c"), ()):
        with pytest.raises(ValueError, match="which columns of the frame are sequences"):
            read_sequences(pd.DataFrame({c: one for c in columns}, index=[0, 1]))


def predicted(checkpoint, tmp_path, path, *more, output="out.csv") -> pd.DataFrame:
    target = tmp_path / output
    predict(
        compose("predict", [f"checkpoint={checkpoint}", f"data.path={path}", f"output={target}", "progress=false", "overwrite=true", *more])
    )
    return pd.read_csv(target, dtype={0: str}, keep_default_na=False)


def test_ids_are_written_as_they_were_read(write, dna_model, tmp_path):
    ids = ["001", "1", "1e5", "NA", "", "1.0", " x", "002"]
    path = write("x.csv", "sequence,id\n" + "".join(f"{'ACGT' * (n + 1)},{name}\n" for n, name in enumerate(ids)))
    expected = bmfm.load(dna_model).embed(["ACGT" * (n + 1) for n in range(len(ids))])
    found = predicted(dna_model, tmp_path, path, "data.id=id")
    assert found["id"].tolist() == ids
    np.testing.assert_allclose(found.drop(columns="id"), expected, atol=1e-4)
    with pytest.raises(KeyError, match=r"no column 'x'.*data\.id"):
        predicted(dna_model, tmp_path, path, "data.id=x")
    pd.DataFrame({"id": [1, 2], "sequence": ["ACGT", ""]}).to_parquet(tmp_path / "x.parquet")
    with pytest.raises(ValueError, match="row 2, column sequence"):
        predicted(dna_model, tmp_path, tmp_path / "x.parquet", "data.id=id")
    with pytest.raises(ValueError, match=r"sequence 2 \(1, counted from 0\) is ''"):
        read_sequences(pd.DataFrame({"sequence": ["ACGT", ""]}, index=np.array([1, 2])))


def test_columns_that_predict_reads(write, dna_model, tmp_path):
    model = bmfm.load(dna_model)
    one, two = ["ACGT" * 5, "GGGT"], ["CC", "TTTA"]
    path = write("X.CSV", "a,1,sequence\n" + "".join(f"{a},{b},{a}\n" for a, b in zip(one, two, strict=True)))
    for options, expected in (
        (("data.sequence=1",), model.embed(two)),
        (("data.sequence=null",), model.embed(one)),
        (("data.sequence=a", "data.second=1"), model.embed(list(zip(one, two, strict=True)))),
        (("data.second=1",), model.embed(list(zip(one, two, strict=True)))),
    ):
        np.testing.assert_allclose(predicted(dna_model, tmp_path, path, *options).drop(columns="id"), expected, atol=1e-4)
    with pytest.raises(KeyError, match=r"X\.CSV has no column '2'; it has a, 1, sequence\. Name it by data\.sequence"):
        predicted(dna_model, tmp_path, path, "data.sequence=2")


def test_files_are_predicted_one_after_the_other(write, dna_model, tmp_path):
    a, b = write("a.csv", "sequence\nACGT\nGGGT\n"), write("b.tsv", "n\tsequence\n1\tCC\n")
    one, two = write("a.fa", ">x\nACGT\n>y\nGGGT\n"), write("b.fa", ">z\nCC\n")
    expected = bmfm.load(dna_model).embed(["ACGT", "GGGT", "CC"])
    for paths, names in ((f"[{a},{b}]", ["0", "1", "2"]), (f"[{one},{two}]", ["x", "y", "z"])):
        found = predicted(dna_model, tmp_path, paths)
        assert found.iloc[:, 0].tolist() == names
        np.testing.assert_allclose(found.iloc[:, 1:], expected, atol=1e-4)
    with pytest.raises(ValueError, match="empty list"):
        predicted(dna_model, tmp_path, "[]")


def test_alphabet_on_the_command_line(write, dna_model, tmp_path, capsys):
    path = write("x.csv", "sequence\nACGTACGTBX\n")  # B: A before an insertion, or C, G or T; X: a deletion, or any base
    for alphabet, n_replaced in (("auto", 2), ("plain", 2), ("snp", 0)):
        predicted(dna_model, tmp_path, path, f"data.alphabet={alphabet}")
        assert f"characters read as N {n_replaced}" in capsys.readouterr().out
    with pytest.raises(ValueError, match="alphabet"):
        predicted(dna_model, tmp_path, path, "data.alphabet=dna")


@pytest.mark.parametrize("cell", ["", "NA", "NaN", "nan", "NULL", "None"])
def test_missing_cells_of_tables_are_refused(write, cell, tmp_path):
    one = write("one.csv", f"sequence\nACGT\n{cell}\nGGGG\n\n\n")  # in a table of one column an empty cell is an empty line
    two = write("two.tsv", f"n\tsequence\n1\tACGT\n2\t{cell}\n3\tGGGG\n")
    pd.DataFrame({"sequence": ["GG", "ACGT", cell or None]}).to_parquet(tmp_path / "three.parquet")
    for path in (one, two, tmp_path / "three.parquet"):
        with pytest.raises(ValueError, match=rf"1 of 3 sequences are missing: {path}: row 3, column sequence"):
            read_table(path, sequences=["sequence"])
        with pytest.raises(ValueError, match="1 of 3 sequences are missing"):
            SequenceTable(path, {"by": "random", "validation": 0.3, "test": 0.3}, 64, 4).connect(
                dna.DnaTokenizer.from_pretrained("dna_demo")
            )


def test_tables_are_read_to_the_letter(write):
    table = read_table(write("x.csv", "sequence,n,note\nACGT,1,NA\nNN,2,\n\n\n"), sequences=[0])
    assert table["sequence"].tolist() == ["ACGT", "NN"] and table["n"].tolist() == [1, 2] and table["note"].isna().all()
    with pytest.raises(ValueError, match=r"row 3 of all.*no nucleotide"):
        path = write("y.csv", "sequence,n\nACGT,1\nACGT,2\n0.25,3\n")
        SequenceTable(path, {"by": "random", "validation": 0.3, "test": 0.3}, 64, 4).connect(dna.DnaTokenizer.from_pretrained("dna_demo"))


def test_lines_that_end_in_one_more_separator_than_the_header(write):
    # what pandas is asked for explicitly; by itself it takes the first column for an index
    content = "sequence,n\nACGT,1,\nGGGG,2,\n"
    expected = pd.read_csv(write("x.csv", content), header=None, skiprows=1, names=["sequence", "n", "nothing"])[["sequence", "n"]]
    for columns in ([0], ["sequence"], ()):
        pd.testing.assert_frame_equal(read_table(write("x.csv", content), sequences=columns), expected)
    data = SequenceTable(write("x.csv", content), {"by": "random", "validation": 0.5, "test": 0.0}, 64, 4)
    data.connect(dna.DnaTokenizer.from_pretrained("dna_demo"))
    assert data.table["sequence"].tolist() == ["ACGT", "GGGG"] and data.column("n").tolist() == [1, 2]
    assert read_table(write("y.tsv", "n\tsequence\n1\tACGT\t\t\n"), sequences=["sequence"])["sequence"].tolist() == ["ACGT"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('"sequence","n"\n"1","ACGT",1\n"2","GGGG",2\n', r"row 2 has more cells .*write\.csv, or write\.table"),  # write.table of R
        ("sequence,n\nACGT,1,\nGGGG,2,note\n", "row 3 has more cells"),
        ("sequence,n\nACGT,1,,x\nGGGG,2,,\n", "row 2 has more cells"),
        ("sequence,n\nACGT,1\nGGGG,2,note\n", "line 3"),
    ],
)
def test_lines_with_more_cells_than_the_header_are_refused(write, content, said):
    path = write("x.csv", content)
    for columns in (["sequence"], ()):
        with pytest.raises(ValueError, match=said) as error:
            read_table(path, sequences=columns)
        assert str(error.value).startswith(str(path))


def test_a_missing_sequence_at_the_end_is_missed(tmp_path):
    one, two = pd.DataFrame({"sequence": ["ACGT", "GG", None]}), pd.DataFrame({"a": ["ACGT", "GG", None], "sequence": ["A", "C", None]})
    for number, frame in enumerate((one, two)):
        path = tmp_path / f"{number}.csv"
        for index in (False, True):
            frame.to_csv(path, index=index)
            with pytest.raises(ValueError, match=r"1 of 3 sequences are missing: .*row 4, column sequence"):
                read_table(path, sequences=["sequence"])
            path.write_text(path.read_text().replace("\r", "") + "\n\r\n  \n")  # blank lines behind it are no rows
            with pytest.raises(ValueError, match=r"1 of 3 sequences are missing: .*row 4, column sequence"):
                read_table(path, sequences=["sequence"])


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_tables_with_any_line_ends_and_names(tmp_path, end, mark):
    for name, separator in (
        ("a.CSV", ","),
        ("a.txt.csv", ","),
        ("a.tsv.csv.gz", ","),
        ("b.TXT", "\t"),
        ("a.csv.tsv", "\t"),
        ("c.csv.bz2", ","),
    ):
        content = mark + end.join(separator.join(row) for row in (("sequence", "n"), ("ACGT", "1"), ("GG", "2"), (""))).encode()
        pack = {".gz": gzip.compress, ".bz2": bz2.compress}.get((tmp_path / name).suffix, bytes)
        (tmp_path / name).write_bytes(pack(content))
        table = read_table(tmp_path / name, sequences=["sequence"])
        assert table.to_dict("list") == {"sequence": ["ACGT", "GG"], "n": [1, 2]}, name


def test_every_spelling_of_missing_is_refused(write, dna_model):
    model = bmfm.load(dna_model)
    words = {*STR_NA_VALUES, "\\N", "ND", "N.A.", "n.a.", "Unknown", "-"}
    for word in sorted(w for spelled in words for w in {spelled, spelled.upper(), spelled.lower(), spelled.title(), f" {spelled}"}):
        with pytest.raises(ValueError, match="1 of 3 sequences are missing: sequence 1"):
            read_sequences(["ACGT", word, "GG"])
        with pytest.raises(ValueError, match=r"1 of 2 sequences are missing: .*row 3, column sequence"):
            read_table(write("x.csv", f"n,sequence\n1,ACGT\n2,{word}\n"), sequences=["sequence"])
    model.embed(["N", "nn", "AN", "NNA", "ANA"])
    assert model.counts["characters_read_as_N"] == 0


def test_white_space_is_no_base(write, dna_model):
    """As samtools reads FASTA: what stands between letters is left out, and a label of bases stands for a letter."""
    model = bmfm.load(dna_model)
    plain = model.embed(["ACGTACGT"])
    for text in ("ACGTACGT\n", " ACGTACGT", "ACGT ACGT", "ACGT\r\nACGT", "ACGT\tACGT\u00a0"):
        assert np.array_equal(model.embed([text]), plain) and model.counts["characters_read_as_N"] == 0
    content = 'sequence,labels\n"ACGT\nACGT",01010101\n GGGGCCCC ,00000001\n'
    data = SequenceTable(write("x.csv", content), {"by": "random", "validation": 0.5, "test": 0.0}, 64, 4, text=["labels"])
    data.connect(dna.DnaTokenizer.from_pretrained("dna_demo"))
    assert data.table["sequence"].tolist() == ["ACGTACGT", "GGGGCCCC"] and [int(spans[-1, 1]) for spans in data.token_spans()] == [8, 8]


def test_groups_that_look_like_numbers_are_told_apart(write):
    rows = "".join(f"ACGT,{donor}\n" for donor in ("001", "1", "01", "1.0", "1e0", "0001"))
    data = SequenceTable(
        write("x.csv", "sequence,donor\n" + rows), {"by": "group", "column": "donor", "validation": 0.2, "test": 0.2}, 64, 4
    )
    data.connect(dna.DnaTokenizer.from_pretrained("dna_demo"))
    assert data.table["donor"].tolist() == ["001", "1", "01", "1.0", "1e0", "0001"]
    assert sorted(np.concatenate(list(data.numbers.values()))) == list(range(6)) and all(len(n) for n in data.numbers.values())
