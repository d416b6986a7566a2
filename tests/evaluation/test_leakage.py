"""Test inputs in pretraining data, against Python's own search of texts and sets of rows."""

import anndata
import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from bmfm import leakage
from bmfm.data.rna import RnaDataModule
from bmfm.evaluation.leakage import cell_leakage
from bmfm.evaluation.task_files import read_examples, read_task
from bmfm.files import ASSETS
from bmfm.genome.occurrences import find_occurrences
from bmfm.genome.reference import Reference
from bmfm.tokenizers.rna import CellTokenizer

OPPOSITE = dict(zip("ACGTN", "TGCAN", strict=True))


def reverse_complement(text):
    return "".join(OPPOSITE[c] for c in reversed(text))


def plain_places(sequence, contigs, most):
    """(contig, start) of every place where at most so many letters differ, on either strand."""
    places = set()
    for strand in (sequence, reverse_complement(sequence)):
        for name, text in contigs.items():
            for start in range(len(text) - len(strand) + 1):
                if sum(a != b for a, b in zip(text[start : start + len(strand)], strand, strict=True)) <= most:
                    places.add((name, start))
    return places


@given(st.data())
@settings(max_examples=25, deadline=None)
def test_every_place_is_found_and_no_other(tmp_path_factory, data):
    """In two contigs of few letters, in lower case and with N, which repeat; sequences cut from them and changed."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    repeat = "".join(rng.choice(list("ACGT"), 40))
    contigs = {
        n: "".join(rng.choice(list("ACGT"), 60)) + repeat + "N" * int(rng.integers(3)) + reverse_complement(repeat) for n in ("1", "2")
    }
    most = data.draw(st.integers(0, 2))
    sequences = [repeat[:35], contigs["1"][20:70], reverse_complement(contigs["2"][-55:]), "".join(rng.choice(list("ACGT"), 50))]
    for number in (1, 2):
        letters = list(sequences[number])
        for place in rng.integers(0, len(letters), most):
            letters[place] = rng.choice(list("ACGT"))
        sequences[number] = "".join(letters)
    fasta = tmp_path_factory.mktemp("genome") / "g.fa"
    fasta.write_text("".join(f">{name}\n{text[:50]}\n{text[50:].lower()}\n" for name, text in contigs.items()))
    reference = Reference.from_fasta(fasta, fasta.parent)
    found = find_occurrences([s.lower() if i % 2 else s for i, s in enumerate(sequences)], reference, most)
    for number, sequence in enumerate(sequences):
        allowed = min(most, sum(len(piece) // 16 for piece in sequence.split("N")) - 1)
        places = {reference.locate(start) for start in found.intervals[found.sequence == number, 0]}
        assert places == plain_places(sequence, contigs, allowed)


def test_the_command_writes_what_to_leave_out(tmp_path, capsys):
    """One test sequence of a task stands in a genome on each strand; what is allowed and what is not make the whole."""
    rng = np.random.default_rng(3)
    texts = ["".join(rng.choice(list("ACGT"), 70)) for _ in range(30)]
    folder = tmp_path / "gue" / "prom" / "prom_core_tata"
    folder.mkdir(parents=True)
    for part, rows in (("train", texts[:20]), ("dev", texts[20:25]), ("test", texts[25:])):
        pd.DataFrame({"sequence": rows, "label": [0, 1, 0, 1, 1] * (len(rows) // 5)}).to_csv(folder / f"{part}.csv", index=False)
    (tmp_path / "g.fa").write_text(f">c\n{'A' * 100}{texts[25]}{'C' * 30}{reverse_complement(texts[26])}\n>d\n{texts[0]}\n")
    options = ["--tasks", "gue/prom_core_tata", "--data-root", str(tmp_path)]
    written = ["--bed", str(tmp_path / "test.bed"), "--allowed", str(tmp_path / "allowed.bed")]
    assert leakage.main(["genome", str(tmp_path / "g.fa"), *options, *written]) == 0
    assert "2 of 5 test sequences in g.fa, 140 bases" in capsys.readouterr().out
    assert (tmp_path / "test.bed").read_text() == "c\t100\t170\nc\t200\t270\n"
    assert (tmp_path / "allowed.bed").read_text() == "c\t0\t100\nc\t170\t200\nd\t0\t70\n"


def test_pretraining_cells_that_are_test_cells(tmp_path):
    """Cells of a task's test part in another file, with genes in another order and others left out, two of them changed."""
    adata = anndata.read_h5ad(ASSETS / "rna" / "pbmc3k.h5ad")[:80].copy()
    adata.obs["part"] = ["train"] * 60 + ["validation"] * 10 + ["test"] * 10
    adata.obs["cell_type"] = ["a", "b"] * 40
    adata.write_h5ad(tmp_path / "t.h5ad")
    genes = np.random.default_rng(0).permutation(adata.n_vars)[:20000]
    other = adata[np.r_[0:30, 70:76], genes].copy()
    other.X[-2:, :] += 1
    other.write_h5ad(tmp_path / "pretraining.h5ad")
    task = read_task("demo/pbmc3k", ["checkpoint=none", f"data.path={tmp_path / 't.h5ad'}", "data.split={by: column, column: part}"])
    examples = read_examples(task, tmp_path)
    found = cell_leakage(examples, examples.parts["test"], str(tmp_path / "pretraining.h5ad"))
    assert found == (10, 4, 36, [("pretraining.h5ad", name) for name in adata.obs_names[70:74]])
    named = tmp_path / "test_cells.csv"
    pd.DataFrame(found.equal, columns=["file", "cell"]).to_csv(named, index=False)
    data = RnaDataModule(str(tmp_path / "pretraining.h5ad"), {"by": "random", "validation": 0.2}, 64, 8, leave_out=str(named))
    data.connect(CellTokenizer("from_data"))
    assert sorted(np.concatenate(list(data.numbers.values()))) == [*range(30), 34, 35]
    assert data.notes["cells left out by data.leave_out"] == "4"
