import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bmfm.data.stream import BatchStream
from bmfm.special import CLS, SEP
from bmfm.tokenizers.base import Tokens
from bmfm.tokenizers.collate import collate, place_packed
from tests.conftest import flat_tokens


@settings(deadline=None)
@given(st.lists(st.integers(0, 60), min_size=1, max_size=20), st.booleans(), st.booleans())
def test_rows_hold_every_token_once(lengths, packing, positions):
    ids, flags, offsets = flat_tokens(lengths)
    prefix = np.array([CLS, 5])
    batch = collate(Tokens(ids, offsets, {"has_variant": flags}), prefix, 5, 64 if packing else None, positions)
    for b in range(len(lengths)):
        mine = batch["example_ids"] == b
        expected = [CLS, 5, *ids[offsets[b] : offsets[b + 1]], SEP]
        assert batch["input_ids"][mine].tolist() == expected
        assert batch["position_ids"][mine].tolist() == (list(range(len(expected))) if positions else [0] * len(expected))
        assert len({*batch["sequence_ids"][mine].tolist()}) == 1
        assert batch["has_variant"][mine].tolist() == [False, False, *flags[offsets[b] : offsets[b + 1]], False]
        assert batch["special_tokens_mask"][mine].tolist() == [True, True, *[False] * lengths[b], True]
        assert np.flatnonzero(mine.ravel())[0] == batch["cls_index"][b]
    assert (batch["sequence_ids"] == 0).sum() == batch["input_ids"].size - sum(lengths) - 3 * len(lengths)
    assert batch["input_ids"].shape[1] % 8 == 0 and batch["special_tokens_mask"][batch["sequence_ids"] == 0].all()


def test_packing_saves_rows():
    layout = place_packed(np.array([60, 4, 30, 34]), 64)
    assert layout.width == 64 and layout.row.max() == 1


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
