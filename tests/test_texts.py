"""Sequences as texts: which alphabet they are in, what is refused, and what a user is told."""

import numpy as np
import pandas as pd
import pytest

import bmfm
from bmfm.genome.alphabet import decode, read_text
from bmfm.inference.sequences import read_sequences
from bmfm.tokenizers.texts import read_texts

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
