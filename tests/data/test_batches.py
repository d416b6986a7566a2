import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bmfm.data.collate import collate, place_packed
from bmfm.data.stream import BatchStream
from bmfm.tokenizers.dna import CLS, SEP
from tests.conftest import flat_tokens


@settings(deadline=None)
@given(st.lists(st.integers(0, 60), min_size=1, max_size=20), st.booleans())
def test_rows_hold_every_token_once(lengths, packing):
    ids, flags, offsets = flat_tokens(lengths)
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
    batch = collate(*flat_tokens([5]))
    assert torch.from_numpy(batch["input_ids"]).dtype == torch.int64 and batch["input_ids"].shape[1] % 8 == 0
