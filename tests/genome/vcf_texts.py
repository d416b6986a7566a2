"""Small genomes and VCF texts, and the rows of a table of variants in plain Python, for the tests of the VCF reader."""

from bmfm.genome.alphabet import decode
from bmfm.genome.variants import VariantTable
from tests.conftest import vcf

GENOME = {"chr1": "ACGTACGTACGTACGTACGT" * 3, "chrM": "ACGTACGTNNGT"}


DECLARED = (
    "##contig=<ID=1>\n##contig=<ID=MT>\n"
    '##INFO=<ID=CAF,Number=.,Type=String,Description="c">\n##INFO=<ID=EUR_AF,Number=A,Type=Float,Description="e">\n'
    '##FORMAT=<ID=PS,Number=1,Type=Integer,Description="p">\n##FORMAT=<ID=DP,Number=1,Type=Integer,Description="d">\n'
)


def text_of(*records: str, samples: str = "", declared: str = "") -> str:
    return vcf(*records, samples=samples).replace("##FILTER", declared + "##FILTER", 1)


def table(variants: VariantTable) -> list[tuple]:
    alt = [decode(variants.alt[a:b]) for a, b in zip(variants.alt_start[:-1], variants.alt_start[1:], strict=True)]
    columns = (variants.start, variants.end, alt, variants.low, variants.high, variants.record, variants.allele)
    return [tuple(c.item() if hasattr(c, "item") else c for c in row) for row in zip(*columns, strict=True)]


def slices(variants: VariantTable) -> list[float]:
    return [round(float(h - low), 4) for low, h in zip(variants.low, variants.high, strict=True)]
