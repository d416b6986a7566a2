"""Sequences that are read, run and written some at a time are those of the whole file."""

import gzip
import resource

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

import bmfm
from bmfm.cli import compose
from bmfm.data.tables import read_sequence_table, read_table, table_blocks
from bmfm.inference import runner, sequence_blocks, tables
from bmfm.predict import predict


@pytest.fixture
def few_at_a_time(monkeypatch):
    monkeypatch.setattr(sequence_blocks, "CHUNK", 3)
    monkeypatch.setattr(sequence_blocks, "BLOCK_BASES", 50)
    monkeypatch.setattr(tables, "ROWS", 4)


def run(checkpoint, path, output, *more):
    predict(compose("predict", [f"checkpoint={checkpoint}", f"data.path={path}", f"output={output}", "progress=false", *more]))


def random_texts(n=11):
    rng = np.random.default_rng(0)
    return ["".join(rng.choice(list("ACGT"), length)) for length in rng.integers(3, 40, n)]


@pytest.mark.parametrize(("kind", "ending"), [("csv", "csv"), ("parquet", "parquet"), ("fa", "csv"), ("tile", "parquet"), ("bed", "csv")])
def test_any_file_some_at_a_time(kind, ending, few_at_a_time, dna_model, tmp_path):
    texts, more, path = random_texts(), [], tmp_path / f"in.{kind}"
    names = [f"s{n}" for n in range(len(texts))]
    if kind in ("csv", "parquet"):
        frame, more = pd.DataFrame({"n": names, "sequence": texts, "number": 1}), ["data.id=n"]
        frame.to_csv(path, index=False) if kind == "csv" else frame.to_parquet(path, row_group_size=5)
    elif kind == "fa":
        path.write_text("".join(f">{name}\n{text}\n" for name, text in zip(names, texts, strict=True)))
    else:
        whole = "".join(texts)
        path.write_text(f">chr1\n{whole}\n")
        starts = range(0, len(whole), 20)
        names, texts = [f"chr1:{s}-{min(s + 20, len(whole))}" for s in starts], [whole[s : s + 20] for s in starts]
        more = ["data.tile=20"]
        if kind == "bed":
            (tmp_path / "r.bed").write_text("".join(f"chr1\t{s}\t{min(s + 20, len(whole))}\n" for s in starts))
            more = [f"data.bed={tmp_path / 'r.bed'}"]
    run(dna_model, path, tmp_path / f"out.{ending}", *more)
    found = pd.read_csv(tmp_path / "out.csv") if ending == "csv" else pd.read_parquet(tmp_path / "out.parquet")
    assert found.iloc[:, 0].tolist() == names
    np.testing.assert_allclose(found.iloc[:, 1:], bmfm.load(dna_model).embed(texts), atol=1e-5)
    if ending == "parquet":
        groups = pq.ParquetFile(tmp_path / "out.parquet").metadata
        assert [groups.row_group(i).num_rows for i in range(groups.num_row_groups)] == [4] * (len(names) // 4) + [len(names) % 4]
    assert not list(tmp_path.glob(".out*"))


def test_an_interrupted_one_goes_on_and_writes_the_same_bytes(few_at_a_time, dna_model, write, tmp_path, monkeypatch):
    path = write("in.csv", "sequence\n" + "\n".join(random_texts()) + "\n")
    run(dna_model, path, tmp_path / "whole.csv", "strands=average")
    run_chunk, calls = runner.run_chunk, []

    def stop_at(n):
        def run_or_stop(*args):
            if len(calls) == n:
                raise KeyboardInterrupt
            calls.append(1)
            return run_chunk(*args)

        return run_or_stop

    monkeypatch.setattr(runner, "run_chunk", stop_at(3))
    with pytest.raises(KeyboardInterrupt):
        run(dna_model, path, tmp_path / "out.csv", "strands=average")
    calls.clear()
    monkeypatch.setattr(runner, "run_chunk", stop_at(100))
    run(dna_model, path, tmp_path / "out.csv", "strands=average")
    n_blocks = len(list(sequence_blocks.sequence_blocks(compose("predict", ["checkpoint=x", f"data.path={path}", "output=o"]).data)))
    assert n_blocks > 4 and len(calls) == 2 * n_blocks - 3
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_what_is_wrong_at_the_end_is_known_before_anything_is_computed(few_at_a_time, dna_model, write, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "run_chunk", lambda *_: pytest.fail("computed"))
    for content, message in (("", "row 9, column sequence"), ("PROTEIN", "sequence 7 .*no nucleotide")):
        path = write("in.csv", "sequence\n" + "ACGTACGT\n" * 7 + content + "\nACGT\n")
        with pytest.raises(ValueError, match=message):
            run(dna_model, path, tmp_path / "out.csv")


@pytest.mark.parametrize("name", ["x.csv", "x.tsv.gz", "x.parquet"])
def test_blocks_of_a_table_are_its_rows(name, tmp_path):
    frame = pd.DataFrame({"id": ["001", "NA", "3", "4", "5"], "n": [1, 2, None, 4, 5], "sequence": random_texts(5)}, index=list("vwxyz"))
    if name.endswith("parquet"):
        frame.to_parquet(tmp_path / name)
    else:
        text = frame.to_csv(index=False, sep="\t" if "tsv" in name else ",").replace("\n", "\r\n") + "\r\n \n"
        (tmp_path / name).write_bytes(gzip.compress(text.encode()) if name.endswith("gz") else text.encode())
    whole = read_table(tmp_path / name, sequences=["sequence"], ids=["id"]).reset_index(drop=True)
    blocks = list(table_blocks(tmp_path / name, ["sequence"], ["id"], 2))
    assert [len(block) for block in blocks] == [2, 2, 1]
    assert pd.concat(blocks, ignore_index=True)[["id", "sequence"]].equals(whole[["id", "sequence"]]) and whole["id"].tolist()[:2] == [
        "001",
        "NA",
    ]


def test_a_cell_too_many_is_refused_where_the_columns_before_it_are_whole(write):
    path = write("rows.csv", "id,sequence,label\na,ACGTACGT,1\nb,ACG,GGTTACGT,0\nc,CCCC,1\n")
    for read in (read_table, lambda *a: list(table_blocks(*a, 2)), read_sequence_table):
        with pytest.raises(ValueError, match=r"(?s)rows\.csv.*line 3"):
            read(path, *([["sequence"], ["id"]] if read is not read_sequence_table else [[], ["sequence"]]))


def test_names_of_tables_and_fasta_files_are_one_column(few_at_a_time, dna_model, write, tmp_path):
    table, fasta = write("a.csv", "gene,sequence\ng1,ACGT\ng2,GGCC\n"), write("b.fa", ">s1\nACGT\n>s2\nTTTT\n>s3\nCC\n>s4\nGG\n")
    run(dna_model, f"[{table},{fasta}]", tmp_path / "out.csv", "data.id=gene")
    out = pd.read_csv(tmp_path / "out.csv")
    assert out.columns[0] == "id" and out["id"].tolist() == ["g1", "g2", "s1", "s2", "s3", "s4"] and not out.isna().any(axis=None)


def test_a_row_with_too_many_cells_is_found_in_any_block(write):
    for last, message in (("GGGG,2,note", "row 8 has more cells"), ("GG\0GG,2,", "row 8 holds a NUL byte")):
        path = write("x.csv", "sequence,n\n" + "ACGT,1,\n" * 6 + last + "\n")
        with pytest.raises(ValueError, match=message):
            list(table_blocks(path, ["sequence"], [], 2))


@pytest.mark.slow
def test_memory_does_not_grow_with_the_table(tmp_path):
    """A table of 400 MB takes less than 100 MB."""
    text = "ACGT" * 100
    with (tmp_path / "x.csv").open("w") as file:
        file.write("sequence\n")
        for _ in range(100):
            file.write(f"{text}\n" * 10_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert sum(len(block) for block in table_blocks(tmp_path / "x.csv", ["sequence"], [], 2048)) == 1_000_000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024
