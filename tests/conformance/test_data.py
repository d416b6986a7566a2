"""Everything that ``conf/data`` lists, and the extension's source of pairs, gives the same examples however they are asked for."""

from itertools import islice

import numpy as np
import pytest
import torch

from bmfm.cli import compose
from bmfm.training.run import assemble
from tests.conformance.cases import choices
from tests.conformance.runs import DATA

every_data = pytest.mark.parametrize("name", DATA)


def test_nothing_is_left_out():
    assert set(DATA) == set(choices("data")) - {"census"}


def data_of(name: str, files: dict[str, str], **settings: int):
    """A data module of its own, connected, with its objectives."""
    overrides = [o for o in DATA[name] if o.split("=")[0].removeprefix("data.") not in settings]
    torch.manual_seed(0)
    return assemble(compose("train", [*(o.format(**files) for o in overrides), *(f"data.{k}={v}" for k, v in settings.items())]))[0]


def by_example(batch) -> list[dict[str, list]]:
    """What a batch holds of each of its examples, wherever it lies in the rows."""
    examples = []
    for i in range(len(batch["cls_index"])):
        mine = {name: value for name, value in batch.items() if name in ("input_ids", "values", "targets", "has_variant", "position_ids")}
        of_tokens = {name: value[batch["example_ids"] == i].tolist() for name, value in mine.items()}
        labels = {f"label {n}": (v[batch["example_ids"] == i] if v.shape == batch["input_ids"].shape else v[i]).tolist() for n, v in batch.get("labels", {}).items()}  # fmt: skip
        for profile in batch.keys() & {"full_profile", "shown_profile"}:
            rows = batch[profile]["row"] == i
            labels |= {f"{profile} {n}": batch[profile][n][rows].tolist() for n in ("gene", "value")}
        for part, other in batch.get("parts", {}).items():
            labels |= {f"{part} {n}": v for n, v in by_example(other)[i].items()}
        key = {"key": int(batch["example_keys"][i])} if "example_keys" in batch else {}  # other parts share it
        examples.append(of_tokens | labels | key)
    return examples


def assert_same(a: list[dict], b: list[dict]) -> None:
    assert len(a) == len(b) > 0
    for one, other in zip(a, b, strict=True):
        assert one.keys() == other.keys()
        for what in one:
            np.testing.assert_array_equal(one[what], other[what], err_msg=what)


@every_data
def test_workers_change_nothing(files, name):
    batches = []
    for num_workers in (0, 2):
        data = data_of(name, files, num_workers=num_workers)
        train = [e for batch in islice(data.training_batches(), 3) for e in by_example(batch)]
        held_out = [e for batch in islice(data.val_dataloader(), 2) for e in by_example(batch)]
        batches.append((train, held_out))
    for alone, spread in zip(*batches, strict=True):
        assert_same(alone, spread)


@every_data
def test_examples_are_the_same_in_batches_of_any_size(files, name):
    """And of any device: each takes its share of every batch."""
    seen = []
    for size in (4, 6):
        data = data_of(name, files, batch_size=size)
        train = [e for batch in islice(data.training_batches(), 12 // size) for e in by_example(batch)]
        held_out = [e for batch in islice(data.val_dataloader(), 12 // size) for e in by_example(batch)]
        seen.append((train, held_out))
        keys = [e["key"] for e in train]
        assert len(set(keys)) == len(keys)
    for few, many in zip(*seen, strict=True):
        assert_same(few, many)


@every_data
def test_resumed_data_go_on(files, name):
    data = data_of(name, files)
    whole = [by_example(batch) for batch in islice(data.training_batches(), 3)]
    data.first_batch = 2
    assert_same(by_example(next(iter(data.training_batches()))), whole[2])


@every_data
def test_objectives_are_told_what_there_is(files, name):
    """The parts share no example, and the `DataSpec` speaks of the same vocabulary and examples as the batches."""
    data = data_of(name, files)
    spec = data.spec()
    assert list(spec.vocabulary) == list(data.tokenizer.names) and spec.plain_ids == data.tokenizer.plain_ids
    numbers = [n for part in spec.parts.values() for n in part.tolist()]
    assert len(set(numbers)) == len(numbers)
    assert {part for part, of_part in spec.parts.items() if len(of_part)} in (set(data.parts), set())
    for part, of_part in spec.parts.items():
        assert len(of_part) in (0, len(data.parts[part]))
    assert spec.statistics["token_counts"].shape == (len(spec.vocabulary),)
    if len(numbers):
        assert spec.where(numbers[0]) != spec.where(numbers[-1])
        for column in spec.column_names[:3]:
            assert len(spec.column(column)) >= len(numbers)
    else:
        with pytest.raises(KeyError):
            spec.column("label")
