"""Regions in donors: an AnnData whose values are those of the sequences that each copy has, written here by hand."""

import anndata
import numpy as np
import pytest

import bmfm
from bmfm.cli import compose
from bmfm.inference import donors, runner
from bmfm.predict import predict
from tests.conftest import HEADS, MODERNBERT, SMALL

GENOME = "ACGTACGTTGCAACGGTTAACCGATCGATTGC"
VCF = """##fileformat=VCFv4.2
##contig=<ID=chr1,length=32>
##contig=<ID=chr2,length=32>
##FORMAT=<ID=GT,Number=1,Type=String,Description="g">
#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\tx\ty\t007
chr1\t3\t.\tG\tA,T\t.\t.\t.\tGT\t0|1\t1|2\t0|0
chr1\t6\t.\tC\tCAA\t.\t.\t.\tGT\t1|0\t0|0\t0|0
chr1\t20\t.\tACCGA\tA\t.\t.\t.\tGT\t0|0\t0|1\t./.
"""
BED = "1\t1\t9\tpeak\t0\t+\n1\t20\t24\tgone\t0\t+\n1\t8\t22\tback\t0\t-\n1\t1\t9\n"
COPIES = {  # of each region what the two copies of x, y and 007 hold
    "1:1-9(+)": [("CGTACAAGTT", "CATACGTT"), ("CATACGTT", "CTTACGTT"), ("CGTACGTT", "CGTACGTT")],
    "1:20-24(+)": [("CCGA", "CCGA"), ("CCGA", ""), ("CCGA", "CCGA")],
    "1:8-22(-)": [("GGTTAACCGTTGCA",) * 2, ("GGTTAACCGTTGCA", "TTAACCGTTGCA"), ("GGTTAACCGTTGCA",) * 2],
}


@pytest.fixture(scope="module")
def labelled_model(tmp_path_factory):
    """Folder of a small untrained model of DNA with label heads."""
    import torch

    from bmfm.models.model import build
    from bmfm.tokenizers import dna

    torch.manual_seed(0)
    folder, tokenizer = tmp_path_factory.mktemp("labelled"), dna.single_base()
    model = build({"input_ids": {"size": len(tokenizer)}}, HEADS, MODERNBERT, max_position_embeddings=64, **SMALL)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def files(write):
    fasta = write("g.fa", f">chr1\n{GENOME}\n>chr2\n{GENOME}\n")
    return [f"data.fasta={fasta}", f"data.variants={write('v.vcf', VCF)}", f"data.bed={write('r.bed', BED)}"]


def run(checkpoint, output, *overrides):
    predict(compose("predict", [f"checkpoint={checkpoint}", f"output={output}", "progress=false", *overrides]))
    return anndata.read_zarr(output) if str(output).endswith("zarr") else anndata.read_h5ad(output)


def test_values_are_those_of_the_sequences_of_each_copy(labelled_model, files, tmp_path, capsys):
    adata = run(labelled_model, tmp_path / "out.h5ad", *files)
    model = bmfm.load(labelled_model)
    outputs = ["score", "tags_p_x", "tags_p_y", "type_p_a", "type_p_b", "type_p_c"]
    regions = [*COPIES, "1:1-9"]
    assert adata.obs_names.tolist() == ["x", "y", "007"] and adata.var_names.tolist() == [f"{r}:{o}" for r in regions for o in outputs]
    assert adata.obs["n_regions_changed"].tolist() == [2, 4, 0]
    assert adata.var["start"].tolist()[::6] == [1, 20, 8, 1] and adata.var["strand"].tolist()[::6] == ["+", "+", "-", "+"]
    assert adata.var["n_sequences"].tolist()[::6] == [4, 1, 2, 4] and set(adata.var["chrom"]) == {"chr1"}
    embedded = adata.obsm["X_bmfm"].reshape(3, 4, 16)
    for r, region in enumerate(regions):
        columns = slice(6 * r, 6 * r + 6)
        for donor, texts in enumerate(COPIES[region if region in COPIES else "1:1-9(+)"]):
            expected = [model.predict([t])[outputs].to_numpy(float)[0] if t else np.full(6, np.nan) for t in texts]
            for copy in range(2):
                np.testing.assert_allclose(adata.layers[f"copy{copy + 1}"][donor, columns], expected[copy], atol=1e-5)
            np.testing.assert_allclose(adata.X[donor, columns], sum(expected) / 2, atol=1e-5)
            if all(texts):
                np.testing.assert_allclose(embedded[donor, r], model.embed(list(texts)).mean(0), atol=1e-5)
        np.testing.assert_allclose(adata.var["reference"].to_numpy()[columns], adata.X[2, columns], atol=1e-6)
    printed = capsys.readouterr().out
    assert "3 donors, 4 regions, 7 different sequences" in printed and "1 copies of regions are deleted as a whole" in printed
    assert "noted genotype not called (read as the reference): 1" in printed


def test_workers_share_the_blocks(dna_model, files, tmp_path, monkeypatch):
    monkeypatch.setattr(donors, "BLOCK_BASES", 1)
    alone = run(dna_model, tmp_path / "alone.h5ad", *files)
    run_chunk, calls = runner.run_chunk, []
    monkeypatch.setattr(runner, "run_chunk", lambda *args: calls.append(1) or run_chunk(*args))
    monkeypatch.setattr("bmfm.launch.LocalPool.__call__", lambda self, work, numbers, failed: map(work, numbers))
    shared = run(dna_model, tmp_path / "shared.h5ad", *files, "launcher=local")
    np.testing.assert_array_equal(alone.obsm["X_bmfm"], shared.obsm["X_bmfm"])
    assert len(calls) == 4


def test_without_heads_there_are_distances_and_an_interrupted_one_goes_on(dna_model, files, tmp_path, monkeypatch):
    monkeypatch.setattr(donors, "BLOCK_BASES", 1)  # a block for each region
    run_chunk, calls = runner.run_chunk, []

    def stop(*args):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(1)
        return run_chunk(*args)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(runner, "run_chunk", stop)
        run(dna_model, tmp_path / "out.zarr", *files, "data.samples=[y,007]")
    monkeypatch.setattr(runner, "run_chunk", lambda *args: calls.append(1) or run_chunk(*args))
    adata = run(dna_model, tmp_path / "out.zarr", *files, "data.samples=[y,007]")
    assert len(calls) == 4 and {p.name for p in tmp_path.iterdir()} == {"g.fa", "v.vcf", "r.bed", "out.zarr"}
    model = bmfm.load(dna_model)
    states = model.embed(["CATACGTT", "CGTACGTT"])
    assert adata.var["output"].tolist() == ["embedding_distance"] * 4 and adata.obs_names.tolist() == ["y", "007"]
    np.testing.assert_allclose(adata.layers["copy1"][0, 0], np.linalg.norm(states[0] - states[1]), rtol=1e-4)
    assert np.isnan(adata.layers["copy2"][0, 1]) and not adata.X[1].any()


def test_faults_are_named(dna_model, cells_model, files, write, tmp_path):
    fasta, variants, bed = files
    unphased = write("u.vcf", VCF.replace("1|2", "1/2"))
    for overrides, message in (
        ([fasta, bed], "need data.variants=..., too"),
        ([], "data.path=... is needed"),
        ([*files, f"data.path={fasta.split('=')[1]}"], "data.path is of other sequences"),
        ([*files, "data.samples=[x,z]"], "samples z are not in the file, which has 3"),
        ([fasta, bed, f"data.variants={unphased}"], "1 heterozygous genotypes of 3 samples have no phase"),
        ([fasta, variants, f"data.bed={write('b.bed', '2' + chr(9) + '0' + chr(9) + '9')}"], r"no alleles on chr2 \(1 regions\)"),
        ([fasta, variants, f"data.bed={write('c.bed', '1' + chr(9) + '0' + chr(9) + '33')}"], r"c.bed:1: interval 0-33 .* is not inside"),
        ([fasta, variants, f"data.bed={write('d.bed', '3' + chr(9) + '0' + chr(9) + '9')}"], r"d.bed:1: contig '3' is not in the genome"),
    ):
        with pytest.raises((SystemExit, ValueError), match=message):
            run(dna_model, tmp_path / "out.h5ad", *overrides)
    with pytest.raises(SystemExit, match="need one of DNA"):
        run(cells_model, tmp_path / "out.h5ad", *files)
    with pytest.raises(SystemExit, match=r"must end in \.h5ad or \.zarr"):
        run(dna_model, tmp_path / "out.csv", *files)
    bare = [fasta, variants, f"data.bed={tmp_path / 'b.bed'}", "data.bare_contigs=reference", "data.unphased=as_written"]
    assert not run(dna_model, tmp_path / "out.h5ad", *bare).X.any()
