"""Tables of sequences: read to the letter, with any line ends, and predicted; missing cells are refused by their place."""

import bz2
import gzip

import numpy as np
import pandas as pd
import pytest
from pandas._libs.parsers import STR_NA_VALUES

import bmfm
from bmfm.cli import compose
from bmfm.data.table import SequenceTable
from bmfm.data.tables import read_table
from bmfm.inference.sequences import read_sequences
from bmfm.predict import predict
from bmfm.tokenizers import dna


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
    table = predicted(dna_model, tmp_path, path, "data.id=id")
    assert table["id"].tolist() == ids
    np.testing.assert_allclose(table.drop(columns="id"), expected, atol=1e-4)
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
        table = predicted(dna_model, tmp_path, paths)
        assert table.iloc[:, 0].tolist() == names
        np.testing.assert_allclose(table.iloc[:, 1:], expected, atol=1e-4)
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
    ("content", "message"),
    [
        ('"sequence","n"\n"1","ACGT",1\n"2","GGGG",2\n', r"row 2 has more cells .*write\.csv, or write\.table"),  # write.table of R
        ("sequence,n\nACGT,1,\nGGGG,2,note\n", "row 3 has more cells"),
        ("sequence,n\nACGT,1,,x\nGGGG,2,,\n", "row 2 has more cells"),
        ("sequence,n\nACGT,1\nGGGG,2,note\n", "line 3"),
    ],
)
def test_lines_with_more_cells_than_the_header_are_refused(write, content, message):
    path = write("x.csv", content)
    for columns in (["sequence"], ()):
        with pytest.raises(ValueError, match=message) as error:
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


def test_tables_of_training_are_read_by_blocks(write, monkeypatch):
    for module in ("bmfm.data.table", "bmfm.data.tables"):
        monkeypatch.setattr(f"{module}.BLOCK", 3)
    rng = np.random.default_rng(0)
    texts = ["".join(rng.choice(list("ACGT"), length)) for length in rng.integers(4, 90, 10)]
    path = write("x.csv", "n,sequence,note,\n" + "".join(f"0{n},{text},,\n" for n, text in enumerate(texts)))
    data = SequenceTable(path, {"by": "random", "validation": 0.2, "test": 0.2}, 12, 4, reverse_complement=1.0)
    tokenizer = dna.DnaTokenizer.from_pretrained("dna_demo")
    data.connect(tokenizer)
    expected = pd.read_csv(path, usecols=["n", "sequence", "note"])
    pd.testing.assert_frame_equal(data.table[["n", "sequence", "note"]], expected, check_dtype=False)
    complement = [text.translate(str.maketrans("ACGT", "TGCA"))[::-1] for text in texts]
    ids = [ids[:10] for ids in tokenizer.tokenizer(texts + complement, add_special_tokens=False)["input_ids"]]
    assert [data.tokens[row].tolist() for row in range(10)] == ids[:10]
    assert [data.parts["train"].source.tokens[row].tolist() for row in range(20)] == ids
    assert data.is_cut.tolist() == [len(x) > 10 for x in tokenizer.tokenizer(texts, add_special_tokens=False)["input_ids"]]
