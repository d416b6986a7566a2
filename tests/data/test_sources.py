"""A source of one's own through the data module of any source: what stands in its batches is written out by hand."""

from itertools import islice

import numpy as np
import pytest
import torch

from bmfm.data.module import ExampleDataModule
from bmfm.special import CLS, PAD, SEP
from bmfm.tokenizers.dna import DnaTokenizer, single_base
from bmfm.tokenizers.rna import CellTokenizer
from tests.data.paired import PairedSequences, PerturbedCells

SPLIT = {"by": "random", "validation": 0.2, "test": 0.2}
CONTROLS = [[3, 0, 1, 0], [0, 2, 0, 0]]
PERTURBED = [[3, 5, 1, 0], [0, 0, 0, 4], [1, 1, 1, 1], [9, 0, 0, 2], [0, 7, 0, 0], [2, 0, 0, 0]] * 4


def cell_tokenizer(**settings) -> CellTokenizer:
    return CellTokenizer(["A", "B", "C", "D"], order="as_given", values={"kind": "as_is"}, **settings)


def connected(source, tokenizer, batch_size=4, split=SPLIT, max_tokens=16, **settings) -> ExampleDataModule:
    data = ExampleDataModule(source, split, max_tokens, batch_size, **settings)
    data.connect(tokenizer)
    return data


def rows_of_cells(cells: list[list[int]], width: int = 8) -> tuple[list[list[int]], list[list[float]]]:
    """Ids and values of cells whose genes come by id, after [CLS] and before [SEP], padded."""
    first = cell_tokenizer().plain_ids[0]
    ids = [[CLS, *(first + g for g, n in enumerate(cell) if n), SEP] for cell in cells]
    values = [[-(CLS + 1.0), *(float(n) for n in cell if n), -(SEP + 1.0)] for cell in cells]
    return [i + [PAD] * (width - len(i)) for i in ids], [v + [-(PAD + 1.0)] * (width - len(v)) for v in values]


def test_a_control_and_a_perturbed_cell():
    data = connected(PerturbedCells(CONTROLS, PERTURBED), cell_tokenizer())
    data.need({"full_profile"})
    data.add_labels("number", np.arange(24))
    seen = []
    for batch in data.held_out_loader("validation"):
        numbers, other = batch["labels"]["number"].tolist(), batch["parts"]["perturbed"]
        for part, cells in ((batch, [CONTROLS[c] for c in batch["control"].tolist()]), (other, [PERTURBED[n] for n in numbers])):
            ids, values = rows_of_cells(cells)
            assert part["input_ids"].tolist() == ids and part["values"].tolist() == values
            assert part["sequence_ids"].tolist() == [[int(i != PAD) for i in row] for row in ids]
            first = cell_tokenizer().plain_ids[0]
            profile = [(r, first + g, float(n)) for r, cell in enumerate(cells) for g, n in enumerate(cell) if n]
            assert list(zip(*(part["full_profile"][k].tolist() for k in ("row", "gene", "value")), strict=True)) == profile
            assert part["gene_panel_mask"].tolist() == [[False] * first + [True] * 4] and part["source_ids"].tolist() == [0] * len(cells)
        assert batch["counts"]["cells"] == batch["counts"]["perturbed_cells"] == len(numbers)
        seen += numbers
        prepared = data.prepare_batch(batch, training=False)
        assert "special_tokens_mask" not in prepared and "special_tokens_mask" not in prepared["parts"]["perturbed"]
    assert seen == data.numbers["validation"].tolist() and len(seen) == 5


def test_a_pair_of_sequences():
    pairs = [("ACGT", "G"), ("N", "TTG"), ("CA", "AC")]
    data = connected(PairedSequences(pairs), single_base(), split={"by": "random", "validation": 0.0, "test": 0.0})
    assert data.tokenizer.names[:10] == ["[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]", "A", "G", "T", "C", "N"]
    batch = data.parts["train"].__getitems__([(0, 0), (0, 1), (0, 2)])
    written = {"ACGT": [3, 5, 8, 6, 7, 1, 2, 2], "N": [3, 9, 1, 2, 2, 2, 2, 2], "CA": [3, 8, 5, 1, 2, 2, 2, 2]}
    beside = {"ACGT": [3, 6, 1, 2, 2, 2, 2, 2], "N": [3, 7, 7, 6, 1, 2, 2, 2], "CA": [3, 5, 8, 1, 2, 2, 2, 2]}
    order = [next(s for s, ids in written.items() if ids == row) for row in batch["input_ids"].tolist()]
    assert sorted(order) == sorted(written)
    assert batch["parts"]["second"]["input_ids"].tolist() == [beside[s] for s in order]
    assert batch["counts"]["pairs"] == 3 and batch["counts"]["tokens"] == 7 and batch["counts"]["second_tokens"] == 6
    counts = np.bincount([5, 8, 6, 7, 9, 8, 5], minlength=len(data.tokenizer))  # of the input alone
    assert np.array_equal(data.spec().statistics["token_counts"], counts)


def test_a_part_with_a_tokenizer_of_its_own():
    source = PerturbedCells(CONTROLS, PERTURBED, ["ACGT"[n % 4 :] for n in range(24)])
    data = connected(source, cell_tokenizer(), part_tokenizers={"dna": single_base()})
    data.add_labels("number", np.arange(24))
    data.need({"full_profile"})
    assert isinstance(data.tokenizers["dna"], DnaTokenizer)
    batch = next(iter(data.held_out_loader("test")))
    dna = batch["parts"]["dna"]
    expected = [[CLS, *([5, 8, 6, 7][n % 4 :]), SEP] for n in batch["labels"]["number"].tolist()]
    assert dna["input_ids"].tolist() == [ids + [PAD] * (8 - len(ids)) for ids in expected]
    assert "full_profile" not in dna and "values" not in dna and "full_profile" in batch["parts"]["perturbed"]


def by_example(batch) -> list[dict]:
    """What a batch holds of each example, wherever it lies in the rows, and in its other part."""
    examples = []
    for i, key in enumerate(batch["example_keys"].tolist()):
        parts = {"": batch, **batch["parts"]}
        tokens = {(p, k): part[k][part["example_ids"] == i].tolist() for p, part in parts.items() for k in ("input_ids", "values")}
        examples.append(tokens | {"key": key, "control": int(batch["control"][i]), "label": int(batch["labels"]["number"][i])})
    return examples


@pytest.mark.parametrize("packing", [False, True])
def test_examples_depend_on_no_worker_and_no_batch(packing):
    def examples(**settings):
        tokenizer = CellTokenizer(["A", "B", "C", "D"], sequence_dropout=0.3)
        data = connected(PerturbedCells(CONTROLS, PERTURBED), tokenizer, packing=packing, **settings)
        data.add_labels("number", np.arange(24))
        train = [e for batch in islice(data.training_batches(), 48 // data.batch_size) for e in by_example(batch)]
        return train, [e for part in ("validation", "test") for batch in data.held_out_loader(part) for e in by_example(batch)]

    train, held_out = examples()
    for settings in ({"batch_size": 6}, {"num_workers": 2}):
        again = examples(**settings)
        assert again[0][:48] == train[:48] and again[1] == held_out
    epoch = len(PERTURBED) - len(held_out)
    one, two = (sorted(train[e * epoch : (e + 1) * epoch], key=lambda example: example["label"]) for e in (0, 1))
    assert [e["label"] for e in one] == [e["label"] for e in two] and [e["control"] for e in one] != [e["control"] for e in two]


def test_what_objectives_may_know():
    data = connected(PerturbedCells(CONTROLS, PERTURBED), cell_tokenizer(), split={**SPLIT, "by": "stratified", "column": "gene"})
    spec = data.spec()
    assert spec.column_names == ("gene",) and spec.column("gene")[:5].tolist() == ["up", "down", "down", "up", "up"]
    with pytest.raises(KeyError, match="PerturbedCells has no column 'donor'"):
        spec.column("donor")
    assert spec.where(3) == "example 4"
    controls = next(iter(data.training_batches()))["control"]
    assert set(controls.tolist()) <= {0, 1}
    numbers, keys = data.statistics_sample()
    drawn = np.array(CONTROLS)[(keys % np.uint64(2)).astype(int)]
    first = data.tokenizer.plain_ids[0]
    assert sorted(numbers) == sorted(spec.training_examples)
    np.testing.assert_array_equal(spec.statistics["token_counts"][first:], (drawn > 0).sum(0))
    np.testing.assert_allclose(spec.statistics["profile_mean"][first:], drawn.mean(0))
    np.testing.assert_allclose(spec.statistics["profile_zero_rate"][first:], (drawn == 0).mean(0))
    data.add_labels("gene", np.arange(24))
    features, labels = data.features("test", "gene")
    assert labels.tolist() == data.numbers["test"].tolist() and features.shape == (len(labels), len(data.tokenizer))
    assert set(np.asarray(features.sum(1)).ravel()) <= {1.0, 2.0}


def test_mistakes():
    with pytest.raises(ValueError, match="PairedSequences holds no examples"):
        connected(PairedSequences([]), single_base())
    with pytest.raises(ValueError, match="leaves no training examples"):
        connected(PairedSequences([("A", "C")]), single_base(), split={"by": "random", "validation": 0.9, "test": 0.0})
    data = connected(PairedSequences(), single_base())
    with pytest.raises(ValueError, match="ExampleDataModule has no full_profile"):
        data.need({"full_profile"})
    with pytest.raises(KeyError, match="PairedSequences has no column 'label'"):
        data.column("label")


def test_labels_of_tokens_follow_their_examples():
    pairs = [("ACGT", "G"), ("N", "TTG"), ("CA", "AC")]
    data = connected(PairedSequences(pairs), single_base(), split={"by": "random", "validation": 0.0, "test": 0.0}, packing=True)
    data.add_labels("base", [np.array([0, 1, 0, 1]), np.array([7]), np.array([2, 3])])
    batch = data.parts["train"].__getitems__([(0, 0), (0, 1), (0, 2)])
    labels = batch["labels"]["base"]
    assert labels.shape == batch["input_ids"].shape and labels.dtype == torch.int64
    of_base = dict(zip(batch["input_ids"].flatten().tolist(), labels.flatten().tolist(), strict=True))
    assert of_base[9] == 7 and all(of_base[special] == -100 for special in (1, 2, 3))
    assert sorted(labels[labels >= 0].tolist()) == [0, 0, 1, 1, 2, 3, 7]


def test_a_figure_that_the_source_lacks_is_named():
    data = connected(PairedSequences([("ACGT", "GG")] * 10), single_base())
    assert "token_counts" in data.statistics and "value_sums" not in data.statistics
    with pytest.raises(KeyError, match=r"needs the figure 'value_sums'.*they have token_counts.*`statistics`"):
        data.statistics["value_sums"]
