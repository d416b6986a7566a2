"""Small models and genomes on which scores are known."""

import numpy as np
import pytest
import torch

import bmfm
from bmfm.genome.reference import Reference
from bmfm.storage.folders import CALIBRATION
from bmfm.variants.calibration import Calibration
from tests.conftest import HEADS, MODERNBERT, SMALL

CONV = "bmfm.models.backbones.conv.Conv"
TABLE = {"A": 0.4, "C": -0.3, "G": 1.1, "T": -2.0}
"""Logits of the model that predicts the same everywhere."""


def saved(folder, tokenizer, heads, backbone, **settings):
    """A model folder with new weights."""
    from bmfm.models.model import build

    torch.manual_seed(1)
    model = build(tokenizer.fields, heads, backbone, **settings)
    model.config.max_tokens = 130
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)  # so that context matters
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory):
    """A convolutional model of single bases with label heads."""
    from bmfm.tokenizers import dna

    tokenizer = dna.single_base()
    heads = {"mlm": {"size": len(tokenizer)}, "score": HEADS["score"], "type": HEADS["type"] | {"pooling": "mean"}}
    folder = saved(tmp_path_factory.mktemp("base"), tokenizer, heads, CONV, hidden_size=16, num_hidden_layers=2, kernel_size=5)
    Calibration((0.4, 1.6, 0.4)).save(folder / CALIBRATION)
    return folder


@pytest.fixture(scope="session")
def base_model(base_folder):
    return bmfm.load(base_folder)


@pytest.fixture(scope="session")
def bpe_model(tmp_path_factory):
    """A ModernBERT of BPE tokens."""
    from bmfm.tokenizers import dna

    tokenizer = dna.DnaTokenizer.from_pretrained("dna_demo")
    folder = saved(tmp_path_factory.mktemp("bpe"), tokenizer, {"mlm": {"size": len(tokenizer)}}, MODERNBERT, **SMALL)
    return bmfm.load(folder)


@pytest.fixture(scope="session")
def table_model(base_folder):
    """A model whose logits are `TABLE` everywhere."""
    model = bmfm.load(base_folder)
    head = dict(model.model.named_parameters())
    with torch.no_grad():
        head["heads.decoders.to_mlm.weight"].zero_()
        bias = head["heads.decoders.to_mlm.bias"].zero_()
        for base, logit in TABLE.items():
            bias[model.tokenizer.names.index(base)] = logit
    return model


@pytest.fixture(scope="session")
def genome(tmp_path_factory):
    """Two contigs: random bases with repeats, and a short one; a stretch of N in the first."""
    rng = np.random.default_rng(5)
    bases = "".join(rng.choice(list("ACGT"), 1500))
    text = bases[:300] + "CACACACACACA" + bases[300:600] + "AAAAAAAAA" + bases[600:900] + "N" * 60 + bases[900:]
    path = tmp_path_factory.mktemp("genome") / "genome.fa"
    path.write_text(f">chr1 first\n{text}\n>chrM\n{bases[:90].lower()}\n")
    return path


@pytest.fixture(scope="session")
def reference(genome, cache):
    return Reference.from_fasta(genome)
