from itertools import pairwise

import numpy as np
import pytest
import torch

from bmfm.data.collate import collate
from bmfm.models.attention import attention_inputs, flattened, resolve
from bmfm.models.modernbert import build, encode

SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4, "local_attention": 16}


def _batch(row_length=None):
    lengths = np.array([50, 9, 33, 61, 20])
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    ids = np.random.default_rng(0).integers(5, 200, offsets[-1]).astype(np.int32)
    batch = collate(ids, np.zeros(len(ids), bool), offsets, row_length)
    return {k: torch.from_numpy(v) for k, v in batch.items()}


def _by_sequence(batch, hidden):
    return [hidden[batch["sequence_of_token"] == b] for b in range(5)]


@pytest.mark.parametrize("attention", ["sdpa", "eager", pytest.param("flex_attention", marks=pytest.mark.slow)])
def test_packed_equals_padded_equals_plain_transformers(attention):
    torch.manual_seed(0)
    model = build(200, attention=attention, **SMALL).eval()
    padded, packed = _batch(), _batch(96)
    assert packed["document"].max() > 1
    with torch.no_grad():
        ours = encode(model, padded)
        plain = model.model(padded["input_ids"], attention_mask=(padded["document"] > 0).long()).last_hidden_state
        apart = encode(model, packed)
    for a, b, c in zip(*(_by_sequence(x, h) for x, h in ((padded, ours), (packed, apart), (padded, plain))), strict=True):
        torch.testing.assert_close(a, b, atol=2e-6, rtol=1e-5)
        torch.testing.assert_close(a, c, atol=2e-6, rtol=1e-5)


def test_flattened_documents_for_varlen_attention():
    batch = _batch(96)
    places, cumulative, longest = flattened(batch["document"])
    lengths = cumulative.diff().tolist()
    assert sorted(lengths) == [11, 22, 35, 52, 63] and longest == 63
    flat = batch["sequence_of_token"].flatten()[places]
    assert all(len(flat[a:b].unique()) == 1 for a, b in pairwise(cumulative))


def test_choice_of_attention():
    assert resolve("auto") in ("sdpa", "flash_attention_2")
    with pytest.raises(ValueError, match="unknown"):
        resolve("flsh")
    if not torch.cuda.is_available():
        with pytest.raises(ImportError, match="bmfm"):
            resolve("flash_attention_2")
    model = build(200, attention="sdpa", **SMALL)
    embeds = torch.zeros(1, 4, 32)
    mask = attention_inputs(model.config, embeds, torch.tensor([[1, 1, 2, 0]]))["attention_mask"]["full_attention"]
    assert mask.squeeze().tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]


def test_published_size():
    from hydra.utils import instantiate

    from bmfm.cli import compose

    config = compose("train", ["+recipe=dna_snp_113m", "data.fasta=x", "data.variants=y"])
    with torch.device("meta"):
        model = instantiate(config.model, vocab_size=4096)
    assert sum(p.numel() for p in model.model.parameters()) == pytest.approx(113.48e6, rel=0.001)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(117.22e6, rel=0.001)


def test_unknown_setting_is_an_error():
    with pytest.raises(ValueError, match="hiden_size"):
        build(100, hiden_size=3)
