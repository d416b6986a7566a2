"""TF-MoDISco on the files that ``bmfm explain`` writes, from a model that was taught a planted motif to the report."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from bmfm.cli import compose
from bmfm.explain import run_explain
from bmfm.inference.predictor import Predictor
from bmfm.models.model import build
from bmfm.tokenizers import dna

MOTIF = "TGATTACA"
LENGTH = 100


def make_texts(n: int, seed: int, is_planted: bool) -> list[str]:
    rng = np.random.default_rng(seed)
    texts = ["".join(rng.choice(list("ACGT"), LENGTH)) for _ in range(n)]
    places = rng.integers(5, LENGTH - 5 - len(MOTIF), n) if is_planted else []
    return [text[:at] + MOTIF + text[at + len(MOTIF) :] for text, at in zip(texts, places, strict=True)] if is_planted else texts


def teach(folder: Path) -> None:
    """A small convolutional model that tells sequences with the motif from others."""
    tokenizer = dna.single_base()
    torch.manual_seed(0)
    heads = {"site": {"size": 2, "pooling": "max_mean", "classes": ["no", "yes"]}}
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "kernel_size": 9, "max_dilation": 1, "dropout": 0.0}
    model = build(tokenizer.fields, heads, "bmfm.models.backbones.conv.Conv", **shape)
    model.config.max_tokens = LENGTH + 2
    predictor, labels = Predictor(model, tokenizer, "cpu"), torch.tensor([1] * 32 + [0] * 32)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for step in range(300):
        ((rows, batch),) = predictor.batches(make_texts(32, 2 * step, True) + make_texts(32, 2 * step + 1, False), 64)
        loss = nn.functional.cross_entropy(model.head("site", model.pool(model.encode(batch), batch, "max_mean")), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.mark.slow
def test_modisco_finds_the_planted_motif(tmp_path):
    pytest.importorskip("modiscolite")
    h5py = pytest.importorskip("h5py")
    teach(tmp_path / "model")
    (tmp_path / "s.fa").write_text("".join(f">s{i}\n{text}\n" for i, text in enumerate(make_texts(200, 9999, True))))
    run_explain(compose("explain", [
        f"checkpoint={tmp_path / 'model'}", f"fasta={tmp_path / 's.fa'}", "method=ism", "target=head:site:yes", f"output={tmp_path / 'sites'}",
        "strands=forward", "batch_size=256", "progress=false",
    ]))  # fmt: skip
    modisco = Path(sys.executable).with_name("modisco")
    motifs = ["motifs", "-s", "sites.ohe.npz", "-a", "sites.hyp.npz", "-n", "2000", "-w", "100", "-o", "motifs.h5"]
    for arguments in (motifs, ["report", "-i", "motifs.h5", "-o", "report"]):
        subprocess.run([modisco, *arguments], cwd=tmp_path, check=True, timeout=300)
    with h5py.File(tmp_path / "motifs.h5") as results:
        assert list(results) == ["pos_patterns"]
        pattern = results["pos_patterns/pattern_0"]
        share, contribution = pattern["sequence"][:], pattern["contrib_scores"][:]
        assert pattern["seqlets/n_seqlets"][0] > 20
    first = int(np.argmax([contribution[i : i + len(MOTIF)].sum() for i in range(len(contribution) - len(MOTIF))]))
    inside = share[first : first + len(MOTIF)]
    assert "".join("ACGT"[i] for i in inside.argmax(1)) == MOTIF and inside.max(1).min() > 0.9
    assert "pattern_0" in (tmp_path / "report" / "report.html").read_text()
