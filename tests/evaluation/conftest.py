"""A task of variants that tests write the table of."""

import gzip
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from tests.evaluation.variant_tasks import GENOME, card, write_fasta


@pytest.fixture
def variant_task(tmp_path):
    """A task of CADD's layout below a root, with the genome; `write(rows)` writes its table."""
    write_fasta(tmp_path / "genomes" / "GRCh38.fa.gz", {f"chr{c}": s for c, s in GENOME.items()})
    (tmp_path / "variants").mkdir()

    def write(table: pd.DataFrame, **changed):
        given = replace(card("cadd"), examples={**card("cadd").examples, **changed})
        named = table.rename(columns={"chrom": "#Chrom", "pos": "Pos", "ref": "Ref", "alt": "Alt"}).assign(
            **{c: v for c, v in (("Consequence", "intron_variant"), ("AF", np.nan)) if c not in table}
        )
        file = tmp_path / "variants" / "cadd.tsv.gz"
        with gzip.open(file, "wt") as out:
            out.write("## CADD GRCh38-v1.7\n" + named.to_csv(sep="\t", index=False))
        return given, tmp_path

    return write
