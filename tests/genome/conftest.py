"""A genome of two short contigs for the tests of the VCF reader."""

import pysam
import pytest

from bmfm.genome.reference import Reference
from tests.genome.vcf_texts import GENOME

pysam.set_verbosity(0)  # htslib's own warnings about the odd records of these tests


@pytest.fixture(scope="session")
def small(tmp_path_factory, cache) -> Reference:
    path = tmp_path_factory.mktemp("genome") / "g.fa"
    path.write_text("".join(f">{name}\n{bases}\n" for name, bases in GENOME.items()))
    return Reference.from_fasta(path)
