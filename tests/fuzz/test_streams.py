"""A record that is damaged in the middle of a stream: the error names the file and the record, and nothing before it is lost."""

import gzip
import json
import warnings

import anndata
import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pysam
import pytest
import scipy.sparse as sp

import bmfm
from bmfm.cells.sources import Cells, open_source
from bmfm.cli import instantiate
from bmfm.data.tables import read_table
from bmfm.genome.regions import read_regions
from bmfm.genome.variants import VariantTable
from bmfm.genome.vcf_filter import VariantFilter
from bmfm.genome.vcf_stream import cut_at_records
from bmfm.ledger import Ledger
from bmfm.tokenizers.rna import CellTokenizer
from bmfm.variants.alleles import prepare
from bmfm.variants.reading import read_variants
from tests.fuzz.mutations import bgzip
from tests.fuzz.test_cells import GENES, VOCABULARY
from tests.fuzz.test_genome import small
from tests.genome.vcf_texts import GENOME, text_of

N, CHUNK = 3000, 40


@pytest.fixture(scope="module")
def matrix():
    return np.random.default_rng(0).poisson(3.0, (N, len(GENES))).astype(np.float32)


def _vcf(n: int, bad: int | None = None, samples: str = "") -> bytes:
    """Records at the first places of chr1 again and again; one of them has no POS."""
    places = [i % 40 + 1 for i in range(n)]
    rows = [
        f"chr1 {'x' if i == bad else p} . {GENOME['chr1'][p - 1]} N . . AF=0.5" + " GT 0|1" * bool(samples) for i, p in enumerate(places)
    ]
    return text_of(*rows, samples=samples).encode()


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bgzip])
def test_a_record_of_a_vcf(tmp_path, pack):
    file = tmp_path / "x.vcf.gz"
    file.write_bytes(pack(_vcf(6000, 4321)))
    for read in (lambda: VariantTable.from_vcf(file, small(), cache_dir=tmp_path), lambda: list(read_variants(file, 1000))):
        with pytest.raises(ValueError, match=r"x\.vcf\.gz: record 4322 .*cannot be read: its POS is no whole number"):
            read()
    shards = read_variants(file, 1000)
    assert sum(len(next(shards)) for _ in range(4)) == 4000  # what stands before it was given


def _bcf(tmp_path, change) -> str:
    """A BCF of htslib, of which one record is changed."""
    (tmp_path / "x.vcf").write_bytes(_vcf(5, samples="s1"))
    with (
        pysam.VariantFile(str(tmp_path / "x.vcf")) as source,
        pysam.VariantFile(str(tmp_path / "y.bcf"), "wb", header=source.header) as sink,
    ):
        for record in source:
            sink.write(record)
    raw = bytearray(gzip.decompress((tmp_path / "y.bcf").read_bytes()))
    at = 9 + int.from_bytes(raw[5:9], "little")
    for _ in range(3):
        at += 8 + int.from_bytes(raw[at : at + 4], "little") + int.from_bytes(raw[at + 4 : at + 8], "little")
    change(raw, at)
    (tmp_path / "x.bcf").write_bytes(raw)
    return tmp_path / "x.bcf"


def _type(raw, at):
    place = raw.index(np.float32(0.5).tobytes(), at) - 1  # AF: one value of type 5, float
    assert raw[place] == 0x15
    raw[place] = 0x1F & ~1 | 0x10  # a type that the format does not have


def _fields(raw, at):
    assert raw[at + 31] == 1  # n_fmt
    raw[at + 31] = 0


@pytest.mark.parametrize(("change", "problem"), [(_type, "its binary fields"), (_fields, "a genotype")])
def test_a_record_of_a_bcf(tmp_path, change, problem):
    with pytest.raises(ValueError, match=rf"x\.bcf: record 4 .*cannot be read: {problem}"):
        VariantTable.from_vcf(_bcf(tmp_path, change), small(), VariantFilter(samples=["s1"]), tmp_path)


def test_a_damaged_length_does_not_copy_the_rest_of_a_file_again_and_again(tmp_path):
    tried = []
    pieces = ((b"x" * 100, i) for i in range(5000))
    assert len(b"".join(p for p, _ in cut_at_records(pieces, b"", lambda data: tried.append(len(data)) or 0, tmp_path))) == 500_000
    assert sum(tried) < 2 * 500_000
    with pytest.raises(ValueError, match="a record of more than 1,000 bytes"):
        list(cut_at_records(iter([(b"x" * 2000, 0)]), b"", lambda data: 0, tmp_path, longest=1000))


def test_alleles_and_samples_that_cannot_be_told_apart(tmp_path):
    file = tmp_path / "x.vcf"
    many = ",".join(["C"] * 32_768)  # one more than int16 has numbers for
    file.write_text(text_of(f"chr1 1 . A {many} . . ."))
    with pytest.raises(ValueError, match=r"record 1 .*more than 32,767 ALT alleles"):
        VariantTable.from_vcf(file, small(), cache_dir=tmp_path)
    file.write_bytes(_vcf(2, samples="a\tb").replace(b"FORMAT\ta", b"FORMAT\tb").replace(b"0|1\n", b"0|1\t1|1\n"))
    with pytest.raises(ValueError, match=r"sample b is named more than once"):
        VariantTable.from_vcf(file, small(), VariantFilter(samples=["b"]), tmp_path)
    file.write_bytes(_vcf(2, samples="s").replace(b"FORMAT\ts", b"FORMAT\ts\x0b1"))
    samples = list(pysam.VariantFile(str(file)).header.samples)  # a sign of the end of a page is part of a name
    assert VariantTable.from_vcf(file, small(), VariantFilter(samples=samples), tmp_path).genotypes.tolist() == [[[0, 1]]] * 2


def test_records_without_alternatives_have_no_alleles():
    assert len(prepare(small(), ["chr1"], np.array([1]), [b"A"], [b"."])) == 0


def test_numbers_of_a_bed_file(tmp_path):
    for row in ("chr1\t" + "9" * 5000 + "\t3", "chr1\t1\t6\x1c"):
        (tmp_path / "x.bed").write_text("chr1\t0\t2\n" + row)
        with pytest.raises(ValueError, match=r"x\.bed:2: expected contig, start and end"):
            read_regions(str(tmp_path / "x.bed"), small())
    with pytest.raises(ValueError, match="region 'chr1:9999"):
        read_regions(["chr1:" + "9" * 5000 + "-"], small())


@pytest.mark.parametrize(
    ("row", "message"),
    [("AC\0GT,x", "row 202 holds a NUL byte"), ("ACGT,x,y", "(line|row) 202"), (",x", "row 202, column sequence is ''")],
)
def test_a_row_of_a_csv(tmp_path, row, message):
    rows = [f"ACGT,{i}" for i in range(400)]
    rows[200] = row
    (tmp_path / "x.csv").write_text("\n".join(["sequence,label", *rows]))
    with pytest.raises(ValueError, match=message) as error:
        read_table(tmp_path / "x.csv", sequences=["sequence"])
    assert str(tmp_path / "x.csv") in str(error.value)


def test_a_page_of_a_parquet(tmp_path):
    file = tmp_path / "x.parquet"
    pq.write_table(
        pa.table({"sequence": [f"ACGT{'A' * i}" for i in range(400)]}),
        file,
        compression="none",
        use_dictionary=False,
        write_statistics=False,
        write_page_checksum=True,
    )
    raw = bytearray(file.read_bytes())
    raw[raw.index(b"ACGT" + b"A" * 200) + 50] = ord("C")
    file.write_bytes(raw)
    assert pq.read_table(file)["sequence"].to_pylist()[200].count("C") == 2  # what is read without a look at the checksum
    with pytest.raises(ValueError, match=r"x\.parquet cannot be read.*CRC"):
        read_table(file, sequences=["sequence"])


def _on_disk(path) -> Cells:
    return Cells([open_source(path, VOCABULARY)], block=50, cached_blocks=2)


def _counts(cells: Cells, start: int, stop: int) -> np.ndarray:
    held = cells.take(np.arange(start, stop))
    rows = np.repeat(np.arange(stop - start), np.diff(held.offsets))
    return sp.coo_matrix((held.counts, (rows, held.ids - VOCABULARY.plain_ids[0])), (stop - start, len(GENES))).toarray()


def _adata(matrix) -> anndata.AnnData:
    names = pd.DataFrame(index=[f"cell{i}" for i in range(N)])
    return anndata.AnnData(sp.csr_matrix(matrix), obs=names, var=pd.DataFrame(index=GENES))


def test_a_chunk_of_an_h5ad(tmp_path, matrix, cells_model):
    file = tmp_path / "x.h5ad"
    _adata(matrix).write_h5ad(file, compression="gzip")
    with h5py.File(file, "r+") as opened:
        data = opened["X/data"][:]
        attributes = dict(opened["X"].attrs)
        del opened["X/data"]
        opened["X"].create_dataset("data", data=data, chunks=(256,), compression="gzip")
        opened["X"].attrs.update(attributes)
        chunk = opened["X/data"].id.get_chunk_info(CHUNK)
    raw = bytearray(file.read_bytes())
    raw[chunk.byte_offset : chunk.byte_offset + chunk.size] = bytes(chunk.size)
    file.write_bytes(raw)
    cells, first = _on_disk(file), int(np.searchsorted(sp.csr_matrix(matrix).indptr, CHUNK * 256, "right")) - 1
    assert np.array_equal(_counts(cells, 0, first // 50 * 50), matrix[: first // 50 * 50])
    where = rf"x\.h5ad, X, rows {first // 50 * 50:,} to {first // 50 * 50 + 50:,} cannot be read"
    with pytest.raises(ValueError, match=where):  # as a step of training reads it
        cells.take(np.arange(N))
    with pytest.raises(ValueError, match=r"x\.h5ad, X, rows [0-9,]+ to [0-9,]+ cannot be read"):
        bmfm.load(cells_model).embed(file)


@pytest.mark.parametrize("damage", ["removed", "cut"])
def test_a_chunk_of_a_zarr(tmp_path, matrix, damage):
    folder = tmp_path / "x.zarr"
    with warnings.catch_warnings(), anndata.settings.override(zarr_write_format=3, auto_shard_zarr_v3=False):
        warnings.simplefilter("ignore")
        _adata(matrix).write_zarr(folder)
        import zarr

        group = zarr.open_group(folder, mode="r+")
        data = group["X/data"][:]
        group["X"].create_array("data", shape=data.shape, dtype=data.dtype, chunks=(256,), overwrite=True)[:] = data
        zarr.consolidate_metadata(folder)
    chunk = folder / "X" / "data" / "c" / str(CHUNK)
    if damage == "removed":
        chunk.unlink()  # zarr itself reads zeros then
        assert not zarr.open_group(folder, mode="r")["X/data"][CHUNK * 256 : (CHUNK + 1) * 256].any()
    else:
        chunk.write_bytes(chunk.read_bytes()[:20])
    with pytest.raises(ValueError, match=r"x\.zarr.*data lack 1 of|x\.zarr, X, rows [0-9,]+ to [0-9,]+ cannot be read"):
        _on_disk(folder).take(np.arange(N))


def test_a_shard_that_numpy_cannot_read_is_computed_again(tmp_path):
    ledger = Ledger(tmp_path, "key")
    ledger.get(0, lambda: {"x": np.arange(3)})
    file = tmp_path / "00000000.npz"
    raw = file.read_bytes()
    at = raw.index(b"'shape'") + 9
    import zipfile

    with zipfile.ZipFile(file) as source:
        parts = {name: source.read(name) for name in source.namelist()}
    with zipfile.ZipFile(file, "w") as target:
        for name, content in parts.items():
            target.writestr(name, content.replace(b"'shape': (3,)", b"'shape': ((3,"))
    assert at > 0 and ledger.get(0, lambda: {"x": np.array([7])})["x"].tolist() == [7]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"_target_": "bmfm.genome.vcf_filter.VariantFilter", "min_frequency": float("nan")}, "min_frequency=nan: a number is expected"),
        ({"_target_": "bmfm.genome.vcf_filter.VariantFilter", "pass_only": "no"}, "pass_only='no': true or false is expected"),
        ({"_target_": "bmfm.tokenizers.rna.CellTokenizer", "n_cls": 1.5}, "n_cls=1.5: a whole number is expected"),
        ({"_target_": 3}, "_target_=3 is no path"),
        ({"_target_": "torch.nn.Linear", "in_features": [1], "out_features": 2}, "in_features=.1.: a whole number"),
    ],
)
def test_settings_of_another_kind(settings, message):
    with pytest.raises(ValueError, match=message):
        instantiate(settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"positions": {}}, "positions={}: true or false"),
        ({"values": {"target_sum": float("nan")}}, "target_sum=nan must be"),
        ({"values": {"bins": 3}}, "tokenizer.values.bins is unknown"),
        ({"read_depth": {"rate": -1}}, "rate=-1 must be"),
    ],
)
def test_settings_of_cells(settings, message):
    with pytest.raises(ValueError, match=message):
        CellTokenizer(GENES, **settings)


def test_a_model_folder_whose_tokenizer_is_damaged(tmp_path, dna_model):
    for file in dna_model.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    tokens = json.loads((dna_model / "tokenizer.json").read_text())
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokens | {"added_tokens": [3]}))
    with pytest.raises(ValueError, match=rf"{tmp_path}, its model cannot be read"):
        bmfm.load(tmp_path)
