import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bmfm.data.collate import collate, place_packed
from bmfm.data.stream import BatchStream
from bmfm.objectives.mlm import IGNORE, MaskedLanguageModel
from bmfm.tokenizers.dna import CLS, MASK, SEP


def _flat(lengths, seed=0):
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    rng = np.random.default_rng(seed)
    return rng.integers(5, 100, offsets[-1]).astype(np.int32), rng.random(offsets[-1]) < 0.2, offsets


@settings(deadline=None)
@given(st.lists(st.integers(0, 60), min_size=1, max_size=20), st.booleans())
def test_rows_hold_every_token_once(lengths, packing):
    ids, flags, offsets = _flat(lengths)
    batch = collate(ids, flags, offsets, 64 if packing else None)
    for b in range(len(lengths)):
        mine = batch["sequence_of_token"] == b
        expected = [CLS, *ids[offsets[b] : offsets[b + 1]], SEP]
        assert batch["input_ids"][mine].tolist() == expected
        assert batch["position_ids"][mine].tolist() == list(range(len(expected)))
        assert len({*batch["document"][mine].tolist()}) == 1
        assert batch["has_variant"][mine].tolist() == [False, *flags[offsets[b] : offsets[b + 1]], False]
    assert (batch["document"] == 0).sum() == batch["input_ids"].size - sum(lengths) - 2 * len(lengths)


def test_packing_saves_rows():
    row, _, _, width = place_packed(np.array([60, 4, 30, 34]), 64)
    assert width == 64 and row.max() == 1


def test_masks_depend_on_the_example_alone():
    objective = MaskedLanguageModel(100, share=0.3, masked=0.8, random=0.1)
    lengths = [300, 200, 250, 90]
    ids, flags, offsets = _flat(lengths)
    keys = np.array([3, 1, 4, 15], np.uint64)
    padded = objective.prepare(collate(ids, flags, offsets), keys)
    packed = objective.prepare(collate(ids, flags, offsets, 512), keys)
    for b in range(4):
        for field in ("input_ids", "labels"):
            pick = lambda batch: batch[field] if field == "input_ids" else batch["labels"]["mlm"]  # noqa: B023, E731
            assert (pick(padded)[padded["sequence_of_token"] == b] == pick(packed)[packed["sequence_of_token"] == b]).all()
    labels, inputs = padded["labels"]["mlm"], padded["input_ids"]
    chosen = labels != IGNORE
    assert chosen.sum() / sum(lengths) == pytest.approx(0.3, abs=0.05)
    assert (inputs[chosen] == MASK).mean() == pytest.approx(0.8, abs=0.08)
    assert (inputs[chosen] == labels[chosen]).mean() == pytest.approx(0.1, abs=0.06)
    assert not chosen[np.isin(inputs, [CLS, SEP])].any()
    with pytest.raises(ValueError, match="masking rates"):
        MaskedLanguageModel(100, masked=0.9, random=0.2)


def test_batches_do_not_depend_on_devices_or_restarts():
    def take(n, **options):
        return [b for _, b in zip(range(n), BatchStream(10, 4, **options), strict=False)]

    whole = take(6)
    assert take(3, start=3) == whole[3:]
    halves = [take(6, rank=r, world=2) for r in (0, 1)]
    assert [sorted(a + b) for a, b in zip(*halves, strict=True)] == whole
    assert whole[2] == [(0, 8), (0, 9), (1, 0), (1, 1)]
    with pytest.raises(ValueError, match="multiple"):
        BatchStream(10, 4, world=3)


def test_torch_sees_the_arrays():
    batch = collate(*_flat([5]))
    assert torch.from_numpy(batch["input_ids"]).dtype == torch.int64 and batch["input_ids"].shape[1] % 8 == 0
