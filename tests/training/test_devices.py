"""Two processes against one, on models and data that once stopped them."""

import pytest
import torch

from bmfm.models.model import build
from bmfm.tokenizers import dna
from bmfm.training.devices import choose_precision
from tests.conftest import BERT, SMALL


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


@pytest.mark.parametrize(
    ("flags", "chosen"),
    [("fpu avx512f avx512_bf16 amx_bf16", "bf16-mixed"), ("fpu avx512f", "32-true"), (None, "32-true")],
)
def test_precision_is_chosen_by_what_the_cpu_can_do(monkeypatch, flags, chosen):
    from pathlib import Path

    def read_text(self):
        if flags is None:
            raise FileNotFoundError
        return f"processor : 0\nflags\t\t: {flags}\n"

    monkeypatch.setattr(Path, "read_text", read_text)
    assert choose_precision("auto", "cpu") == chosen and choose_precision("16-mixed", "cpu") == "16-mixed"
