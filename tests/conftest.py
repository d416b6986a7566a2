import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: as many processes as cores, one thread each

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


def cell_examples(inputs) -> list[tuple]:
    """(ids, values, totals of read depth or None) of every cell of `bmfm.inference.inputs.Inputs`."""
    rows = []
    for _, tokens in inputs.chunks():
        depth = tokens.example_fields.get("read_depth", [None] * len(tokens))
        cuts = [slice(a, b) for a, b in zip(tokens.offsets, tokens.offsets[1:], strict=False)]
        rows += [(tokens.ids[c], tokens.fields["values"][c], d) for c, d in zip(cuts, depth, strict=True)]
    return rows


SMALL = {"attention": "sdpa", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
BERT, MODERNBERT, LLAMA = (f"bmfm.models.backbones.{name}" for name in ("bert.Bert", "modernbert.ModernBert", "llama.Llama"))
VALUES = {
    "token": {"_target_": "bmfm.models.embeddings.BinEncoder"},
    "mlp": {"_target_": "bmfm.models.embeddings.MlpEncoder", "special": False},
    "mlp_special": {"_target_": "bmfm.models.embeddings.MlpEncoder"},
    "scale_adapt": {"_target_": "bmfm.models.embeddings.ScaleAdaptEncoder"},
}
HEADS = {
    "type": {"size": 3, "kind": "bmfm.label_kinds.Classification", "pooling": 0, "classes": ["a", "b", "c"]},
    "score": {"size": 1, "kind": "bmfm.label_kinds.Regression", "pooling": "mean", "classes": [], "center": 5.0, "scale": 2.0},
    "tags": {"size": 2, "kind": "bmfm.label_kinds.MultiLabel", "pooling": 0, "classes": ["x", "y"]},
}


@pytest.fixture(scope="session")
def cells_model(tmp_path_factory):
    """Folder of a small untrained model of cells with label heads."""
    folder = tmp_path_factory.mktemp("cells_model")
    import torch

    from bmfm.models.model import build
    from bmfm.tokenizers.rna import CellTokenizer

    torch.manual_seed(0)
    tokenizer = CellTokenizer(read_depth={"mode": "downsample", "target": 8000}, sequence_dropout=0.5, order="descending")
    model = build(tokenizer.fields, HEADS, BERT, values=VALUES["mlp_special"], hidden_dropout_prob=0.1, **SMALL)
    model.config.max_tokens = 128
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def dna_model(tmp_path_factory):
    """Folder of a small untrained ModernBERT of DNA."""
    folder = tmp_path_factory.mktemp("dna_model")
    import torch

    from bmfm.checkpoints.transformers_format import to_transformers
    from bmfm.models.model import build
    from bmfm.tokenizers import dna

    torch.manual_seed(0)
    tokenizer = dna.DnaTokenizer.from_pretrained("dna_demo")
    heads = {"mlm": {"size": len(tokenizer), "transform": True, "tied": "input_ids"}}
    model = build({"input_ids": {"size": len(tokenizer)}}, heads, MODERNBERT, max_position_embeddings=64, **SMALL)
    to_transformers(model).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def sequence_table(tmp_path_factory):
    """Folder with train, dev and test tables: what is labelled `rich` has more G and C."""
    folder = tmp_path_factory.mktemp("sequences")
    rng = np.random.default_rng(0)
    for part, n in (("train", 160), ("dev", 40), ("test", 40)):
        rich = rng.random(n) < 0.5
        lines = ["sequence,second,label,number,tags"]
        for r in rich:
            weights = [0.1, 0.4, 0.4, 0.1] if r else [0.4, 0.1, 0.1, 0.4]
            text = "".join(rng.choice(list("ACGT"), 60, p=weights))
            gc = (text.count("G") + text.count("C")) / 60
            lines.append(f"{text},{text[:20]},{'rich' if r else 'poor'},{gc},{'a|b' if r else 'b'}")
        (folder / f"{part}.csv").write_text("\n".join(lines) + "\n")
    return folder


def pytest_collection_modifyitems(items) -> None:
    """Whole runs in processes of their own come first, so that no worker is left alone with them at the end."""
    items.sort(key=lambda item: item.path.name not in ("test_train.py", "test_runner.py", "test_extension.py"))
