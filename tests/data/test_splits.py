import numpy as np
import pytest
from hydra.errors import InstantiationException

from bmfm.cli import compose, instantiate
from bmfm.data.samplers import ShuffledSampler
from bmfm.data.splits import keep_training, split_examples


class TestSplits:
    labels = np.repeat(["a", "b", "c"], [60, 30, 10])
    donors = np.repeat([f"d{i}" for i in range(20)], 5)

    def column(self, name):
        return {"label": self.labels, "donor": self.donors, "part": np.array(["train", "val", "test", "train"] * 25), "file": self.labels}[
            name
        ]

    @pytest.mark.parametrize(
        "split",
        [
            {"by": "random", "validation": 0.2, "test": 0.1},
            {"by": "stratified", "column": "label", "validation": 0.2, "test": 0.1},
            {"by": "group", "column": "donor", "validation": 0.2, "test": 0.1},
            {"by": "column", "column": "part"},
            {"by": "column", "column": "label", "validation": ["b"], "test": ["c"]},
            {"by": "file", "test": ["c"]},
        ],
    )
    def test_parts_are_disjoint_and_whole(self, split):
        parts = split_examples(split, 100, self.column)
        assert sorted(np.concatenate(list(parts.values()))) == list(range(100))
        again = split_examples(split, 100, self.column)
        assert all((parts[p] == again[p]).all() for p in parts)
        if split["by"] == "stratified":
            assert [np.sum(self.labels[parts["validation"]] == c) for c in "abc"] == [12, 6, 2]
        if split["by"] == "group":
            held = [set(self.donors[p]) for p in parts.values()]
            assert not (held[0] & held[1] or held[0] & held[2] or held[1] & held[2])
            assert 5 <= len(parts["test"]) <= 15 and 15 <= len(parts["validation"]) <= 30

    @pytest.mark.parametrize(
        ("split", "said"),
        [
            ({"by": "rndom"}, "unknown"),
            ({"by": "random", "validation": 0.6, "test": 0.5}, "leave nothing"),
            ({"by": "column", "column": "label"}, "train, validation and test"),
            ({"by": "column", "column": "label", "test": ["z"]}, "do not occur"),
            ({"by": "group", "column": "label", "validation": 0.1, "test": 0.1}, ""),
        ],
    )
    def test_mistakes(self, split, said):
        if said:
            with pytest.raises(ValueError, match=said):
                split_examples(split, 100, self.column)

    def test_an_epoch_visits_every_cell_once_in_an_order_of_its_own(self):
        cells = np.arange(10, 110)
        for order in (ShuffledSampler(cells, 3), ShuffledSampler(cells, 3, cells // 8, 2)):
            assert sorted(order.epoch(0)) == cells.tolist() and (order.epoch(0) != order.epoch(1)).any()
            picked = order(np.array([0, 1, 5, 0]), np.array([3, 4, 5, 6]))
            again = ShuffledSampler(cells, 3, order.blocks, 2)
            assert (picked == [again.epoch(0)[3], again.epoch(1)[4], again.epoch(5)[5], again.epoch(0)[6]]).all()

    def test_blocks_are_read_in_groups(self):
        cells = np.arange(96)
        order = ShuffledSampler(cells, 0, cells // 8, 3).epoch(0) // 8
        assert all(len(set(order[i : i + 24])) == 3 for i in range(0, 96, 24))

    def test_balanced_drawing(self):
        order = ShuffledSampler(np.arange(100), 0, classes=np.repeat([0, 1], [95, 5])).epoch(0)
        assert len(order) == 100 and 35 <= (order >= 95).sum() <= 65


@pytest.mark.parametrize("seed", [0, 1])
def test_fewer_training_examples_are_among_more(seed):
    parts = {"train": np.arange(5, 95), "validation": np.arange(5), "test": np.arange(95, 100)}
    split = {"by": "column", "seed": seed}
    drawn = {n: keep_training(parts, {**split, "n_train": n}) for n in (1, 10, 40, 90, None)}
    for n, kept in drawn.items():
        assert len(kept["train"]) == (n or 90) and (kept["train"] == np.unique(kept["train"])).all()
        assert (kept["validation"] == parts["validation"]).all() and (kept["test"] == parts["test"]).all()
    assert set(drawn[1]["train"]) < set(drawn[10]["train"]) < set(drawn[40]["train"]) < set(drawn[90]["train"]) == set(drawn[None]["train"])
    assert drawn[40]["train"].min() < 25 and drawn[40]["train"].max() > 75  # from everywhere, not the first
    assert set(drawn[40]["train"]) != set(keep_training(parts, {**split, "seed": seed + 1, "n_train": 40})["train"])
    for wrong in (0, -1, 91, 0.5, True, "ten"):
        with pytest.raises(ValueError, match=r"data\.split\.n_train=.*from 1 to 90"):
            keep_training(parts, {**split, "n_train": wrong})


def test_windows_of_a_genome_have_no_number_of_training_examples():
    config = compose("train", ["+recipe=dna_ref", "data.fasta=no_such.fa", "+data.split.n_train=5"])
    with pytest.raises(InstantiationException, match=r"data\.split\.n_train counts examples.*data\.windows\.coverage"):
        instantiate(config.data, _convert_="all")
