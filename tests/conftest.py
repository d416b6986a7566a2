from pathlib import Path

import numpy as np
import pytest

from bmfm.files import ASSETS
from bmfm.genome.reference import Reference
from bmfm.genome.variants import VariantTable

SLICE_FASTA = ASSETS / "genome" / "chr20_slice.fa.gz"
SLICE_VCF = ASSETS / "genome" / "chr20_slice.1000g.vcf.gz"


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    """All derived files of the test session in one folder of its own."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("BMFM_CACHE", str(folder))
        patch.setenv("WANDB_MODE", "offline")
        yield folder


@pytest.fixture(scope="session")
def slice_reference(cache) -> Reference:
    return Reference.from_fasta(SLICE_FASTA)


@pytest.fixture(scope="session")
def slice_variants(slice_reference) -> VariantTable:
    return VariantTable.from_vcf(SLICE_VCF, slice_reference)


@pytest.fixture
def write(tmp_path):
    """Write a text file into the test's folder; returns its path."""

    def _write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return _write


VCF_HEADER = (
    "##fileformat=VCFv4.2\n##contig=<ID=chr1>\n##contig=<ID=chrM>\n##contig=<ID=9>\n"
    '##INFO=<ID=AF,Number=A,Type=Float,Description="f">\n##INFO=<ID=AC,Number=A,Type=Integer,Description="c">\n'
    '##INFO=<ID=AN,Number=1,Type=Integer,Description="n">\n##INFO=<ID=FREQ,Number=.,Type=String,Description="d">\n'
    '##INFO=<ID=COMMON,Number=0,Type=Flag,Description="k">\n##FILTER=<ID=q10,Description="q">\n'
    '##FORMAT=<ID=GT,Number=1,Type=String,Description="g">\n'
)


def vcf(*records: str, samples: str = "") -> str:
    columns = "#CHROM POS ID REF ALT QUAL FILTER INFO" + (f" FORMAT {samples}" if samples else "")
    return VCF_HEADER + "\n".join("\t".join(line.split()) for line in (columns, *records)) + "\n"


def flat_tokens(lengths, seed=0):
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    rng = np.random.default_rng(seed)
    return rng.integers(5, 100, offsets[-1]).astype(np.int32), rng.random(offsets[-1]) < 0.2, offsets
