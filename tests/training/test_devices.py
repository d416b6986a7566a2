"""Two processes against one, on models and data that once stopped them."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from bmfm.models.model import build
from bmfm.tokenizers import dna
from tests.conftest import BERT, SMALL
from tests.training.test_finetune import SHORT
from tests.training.test_train import losses, run


@pytest.fixture(scope="module")
def with_pooler(tmp_path_factory):
    """Folder of a small BERT of DNA that has a pooler."""
    folder = tmp_path_factory.mktemp("with_pooler")
    torch.manual_seed(0)
    tokenizer, still = dna.DnaTokenizer.from_pretrained("dna_demo"), {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model = build({"input_ids": {"size": len(tokenizer)}}, {}, BERT, pooler=True, **still, **SMALL)
    model.config.max_tokens = 64
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("pooling", ["0", "pooler"])
def test_only_what_a_head_reads_is_trained(with_pooler, pooling):
    from bmfm.checkpoints.load import from_checkpoint
    from bmfm.training.optim import freeze_unread

    of_head = {"kind": "bmfm.label_kinds.Classification", "classes": ["a", "b"]}
    heads = {"y": {"size": 2, "pooling": pooling if pooling == "pooler" else int(pooling)} | of_head}
    model = from_checkpoint({"input_ids": {"size": 512}}, heads, str(with_pooler), attention="sdpa")
    frozen = freeze_unread(model)
    ids = torch.randint(5, 500, (2, 16))
    batch = {"input_ids": ids, "sequence_ids": torch.ones_like(ids), "position_ids": torch.arange(16).expand(2, 16), "packed": False}
    batch |= {"cls_index": torch.tensor([0, 16]), "example_ids": torch.arange(2)[:, None].expand(2, 16)}
    model.head("y", model.pool(model.encode(batch), batch, heads["y"]["pooling"])).sum().backward()
    without = {name for name, p in model.named_parameters() if p.requires_grad and p.grad is None}
    assert not without and frozen == ([] if pooling == "pooler" else ["pooler.weight", "pooler.bias"])


def test_what_models_of_others_do_not_read_is_found(tmp_path):
    """ESM brings a pooler and a head for contacts beside its encoder."""
    from transformers import EsmConfig, EsmModel

    from bmfm.models.backbones.huggingface import HuggingFaceBackbone

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 12}
    config = EsmConfig(**sizes, pad_token_id=1, mask_token_id=4, position_embedding_type="rotary")
    assert any("contact" in name for name, _ in EsmModel(config).named_parameters())
    backbone = HuggingFaceBackbone(config.to_dict(), list(range(12)))
    unread = set(backbone.frozen_parameters())
    assert {"network.pooler.dense.weight", "network.contact_head.regression.weight"} <= unread
    assert all("pooler" in name or "contact" in name or "position" in name for name in unread)


def test_two_processes_fine_tune_and_score_as_one(tmp_path, with_pooler):
    """A pooler that nothing reads, one validation example and three test examples for two processes."""
    rng = np.random.default_rng(0)
    for part, n in (("train", 24), ("dev", 1), ("test", 3)):
        table = pd.DataFrame({"sequence": ["".join(rng.choice(list("ACGT"), k)) for k in rng.integers(20, 80, n)]})
        table.assign(label=["a", "b", "c"] * (n // 3) or ["a"]).to_csv(tmp_path / f"{part}.csv", index=False)
    few = [o for o in SHORT if not o.startswith(("trainer.devices", "trainer.max_steps", "trainer.val_check", "data.batch"))]
    settings = [
        "+recipe=dna_finetune",
        f"checkpoint={with_pooler}",
        f"data.path={tmp_path}",
        "logistic_regression=false",
        "data.batch_size=2",
    ]
    steps = ["trainer.max_steps=4", "trainer.val_check_interval=4", "trainer.accumulate_grad_batches=2", "trainer.gradient_clip_val=1.0"]
    found = {}
    for name, devices in (("alone", []), ("together", ["trainer=ddp"])):
        more = [*devices, *few, *steps, f"trainer.devices={len(devices) + 1}", "trainer.log_every_n_steps=1"]
        code, out, err = run(tmp_path / name, *settings, "objectives.label.dropout=0.0", *more)
        assert code == 0, err[-3000:]
        saved = torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)["bmfm"]
        metrics = json.loads((tmp_path / name / "metrics.json").read_text())
        found[name] = losses(tmp_path / name), metrics, saved["counts"], load_file(tmp_path / name / "model" / "model.safetensors")
        assert len(saved["rng"]) == len(devices) + 1 and "training sequences" in out
    (one, one_metrics, one_counts, a), (two, two_metrics, two_counts, b) = found.values()
    assert two == pytest.approx(one, rel=5e-5) and two_metrics == pytest.approx(one_metrics, rel=1e-3) and two_counts == one_counts
    assert one_metrics["val/label/cross_entropy_n"] == 1 and one_metrics["test/label/cross_entropy_n"] == 3
    assert one_counts["sequences"] == 16 and all(torch.allclose(a[k], b[k], atol=1e-4) for k in a)
