import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from scipy import stats

from bmfm.cells.counts import CellBatch, Counts, concatenate
from bmfm.cells.genes import GeneVocabulary
from bmfm.cells.read_depth import ReadDepth
from bmfm.cells.values import ValueTransform
from bmfm.cli import instantiate
from bmfm.tokenizers.cell_candidates import Plan
from bmfm.tokenizers.cell_order import ORDERS, GeneOrder
from bmfm.tokenizers.cell_zeros import ZEROS, MeasuredZeros
from bmfm.tokenizers.rna import CellTokenizer
from tests.cells import reference_cells as reference

GENES = [f"G{i}" for i in range(40)]
FIRST = GeneVocabulary.of_genes(GENES).plain_ids[0]


def cells(seed, n=6, n_genes=30, whole=True):
    """Cells over the first 30 of 40 genes; every fourth cell is empty."""
    rng = np.random.default_rng(seed)
    parts = []
    for b in range(n):
        counts = rng.poisson(1.5, n_genes).astype(np.float32) * (b % 4 != 3)
        if not whole:
            counts *= rng.random(n_genes).astype(np.float32)
        own = np.flatnonzero(counts)
        parts.append(Counts((own + FIRST).astype(np.int32), counts[own], np.array([0, len(own)])))
    return concatenate(parts), rng.integers(0, 2**62, n).astype(np.uint64)


MEASURED = [np.arange(FIRST, FIRST + 30, dtype=np.int32)]


@settings(deadline=None, max_examples=150)
@given(
    st.integers(0, 10**6), st.sampled_from(list(ORDERS)), st.sampled_from(list(ZEROS)), st.integers(3, 60), st.sampled_from([0.0, 0.4]),
    st.sampled_from(["log_normalise", "as_is", "percentile_bins"]), st.booleans(), st.sampled_from(["none", "downsample", "poisson"]),
)  # fmt: skip
def test_tokens_obey_the_rules(seed, order, zeros, max_tokens, dropout, kind, whole, depth):
    depth = depth if whole else "none"
    counts, keys = cells(seed, whole=whole)
    tokenizer = CellTokenizer(
        GENES, order, zeros, 0.4, dropout, values={"kind": kind}, read_depth={"mode": depth, "min_total": 10}, positions=False
    )
    tokenizer.fit_gene_medians(counts)
    room = max_tokens - len(tokenizer.prefix) - 1
    if room < 1:
        return
    tokens = tokenizer.encode(CellBatch(counts, np.zeros(6, np.int64), MEASURED), keys, max_tokens)
    all_values, medians = tokens.fields["values"], tokenizer.gene_medians
    all_targets = tokens.fields.get("targets", all_values)
    for b in range(6):
        part, mine = slice(*tokens.offsets[b : b + 2]), slice(*counts.offsets[b : b + 2])
        ids, values, targets = tokens.ids[part], all_values[part], all_targets[part]
        own = dict(zip(counts.ids[mine].tolist(), counts.counts[mine].tolist(), strict=True))
        assert len(set(ids)) == len(ids) <= room and set(ids) <= set(MEASURED[0])
        whole_cell = reference.transform(list(own.values()), sum(own.values()), kind) if own else []
        truth = dict(zip(own, whole_cell, strict=True))
        np.testing.assert_allclose(targets, [truth.get(i, 0.0) for i in ids.tolist()], rtol=1e-5)
        if depth == "none":
            assert (values == targets).all()
        else:
            assert (values[targets == 0] == 0).all()
        expressed = [i for i in ids.tolist() if i in own]
        if zeros == "expressed":
            assert len(expressed) == len(ids)
        if dropout == 0 and depth == "none":
            if zeros == "expressed":
                assert len(ids) == min(len(own), room)
            if zeros == "all":
                assert len(ids) == min(30, room)
            if zeros == "batch_wise":
                assert len(ids) == min(30, room) and len(expressed) == min(len(own), room)
        if zeros == "interleaved" and dropout == 0 and depth == "none" and len(own) == len(expressed) and expressed:
            assert len(ids) - len(expressed) <= np.ceil(0.4 * room)
        shown = [own[i] for i in expressed]
        if order == "descending" and depth == "none":
            assert shown == sorted(shown, reverse=True)
            if dropout == 0 and expressed:
                assert shown == sorted(own.values(), reverse=True)[: len(shown)]
        if order == "distinctive" and depth == "none":
            ratio = {i: np.float32(c) / medians[i] for i, c in own.items()}
            assert expressed == sorted(expressed, key=lambda i: (-ratio[i], list(own).index(i)))
            if dropout == 0 and expressed:
                assert expressed == sorted(own, key=lambda i: -ratio[i])[: len(expressed)]
        if order == "as_given" and zeros == "expressed":
            assert expressed == sorted(expressed)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("zeros", [z for z in ZEROS if z != "batch_wise"])
def test_a_cell_does_not_depend_on_its_batch(order, zeros):
    counts, keys = cells(3)
    tokenizer = CellTokenizer(GENES, order, zeros, 0.3, 0.2, read_depth={"mode": "downsample", "min_total": 10})
    tokenizer.fit_gene_medians(counts)
    whole = tokenizer.encode(CellBatch(counts, np.zeros(6, np.int64), MEASURED), keys, 14)
    for b in range(6):
        mine = slice(*counts.offsets[b : b + 2])
        alone = Counts(counts.ids[mine], counts.counts[mine], np.array([0, mine.stop - mine.start]))
        tokens = tokenizer.encode(CellBatch(alone, np.zeros(1, np.int64), MEASURED), keys[b : b + 1], 14)
        part = slice(*whole.offsets[b : b + 2])
        assert (tokens.ids == whole.ids[part]).all()
        assert all((tokens.fields[name] == whole.fields[name][part]).all() for name in ("values", "targets"))
        assert (tokens.example_fields["read_depth"][0] == whole.example_fields["read_depth"][b]).all()


class RarestFirst(GeneOrder):
    """An order of a module that is not part of the package: by vocabulary id, backwards."""

    def arrange(self, candidates, plan):
        for b in range(len(candidates.n)):
            part = slice(candidates.offsets[b], candidates.offsets[b] + candidates.n[b])
            candidates.entries[part] = candidates.entries[part][::-1].copy()


class Doubled(ValueTransform):
    def __call__(self, counts, offsets, totals, settings):
        return counts * 2


class Halved(ReadDepth):
    is_lowered = True

    def lower(self, counts, totals, keys, settings):
        return np.floor(counts.counts / 2)


class OneZero(MeasuredZeros):
    def plan(self, candidates, n_unexpressed, room, share, ranks):
        return Plan(np.minimum(candidates.n, room - 1), np.minimum(n_unexpressed, 1))


def test_classes_of_other_modules_are_named_by_their_path(tmp_path):
    counts, keys = cells(4, whole=True)
    here = __name__
    tokenizer = CellTokenizer(
        GENES,
        order=f"{here}.RarestFirst",
        zeros=f"{here}.OneZero",
        values={"kind": f"{here}.Doubled"},
        read_depth={"mode": f"{here}.Halved"},
    )
    tokenizer.save_pretrained(tmp_path)
    tokenizer = CellTokenizer.from_pretrained(tmp_path)
    tokens = tokenizer.encode(CellBatch(counts, np.zeros(6, np.int64), MEASURED), keys, 60)
    for b in range(6):
        part, mine = slice(*tokens.offsets[b : b + 2]), slice(*counts.offsets[b : b + 2])
        shown = {i: c for i, c in zip(counts.ids[mine].tolist(), counts.counts[mine].tolist(), strict=True) if c // 2}
        assert tokens[b][:-1].tolist() == sorted(shown, reverse=True) and tokens[b][-1] not in counts.ids[mine]
        assert tokens.fields["values"][part].tolist() == [2 * (shown[i] // 2) for i in tokens[b][:-1].tolist()] + [0]
        assert tokens.fields["targets"][part].tolist() == [2 * shown[i] for i in tokens[b][:-1].tolist()] + [0]
    for path, message in ((f"{here}.Doubled", "no GeneOrder"), ("os.system", "no GeneOrder"), ("nowhere.Order", "cannot be imported")):
        with pytest.raises(ValueError, match=message):
            CellTokenizer(GENES, order=path)


def test_zeros_by_batch_come_from_the_batch_first():
    counts = Counts(np.array([FIRST, FIRST + 1, FIRST + 2], np.int32), np.ones(3, np.float32), np.array([0, 1, 3]))
    tokens = CellTokenizer(GENES, zeros="batch_wise").encode(
        CellBatch(counts, np.zeros(2, np.int64), MEASURED), np.array([1, 2], np.uint64), 5
    )
    assert set(tokens.ids[:3].tolist()) == {FIRST, FIRST + 1, FIRST + 2} and sorted(tokens.fields["values"][:3] > 0) == [False, False, True]


def test_random_choice_is_uniform():
    n = 4000
    counts = Counts(np.tile(np.arange(FIRST, FIRST + 10, dtype=np.int32), n), np.ones(10 * n, np.float32), np.arange(0, 10 * n + 1, 10))
    keys = np.random.default_rng(0).integers(0, 2**62, n).astype(np.uint64)
    for zeros, n_genes in (("expressed", 10), ("all", 30)):
        tokens = CellTokenizer(GENES, zeros=zeros).encode(CellBatch(counts, np.zeros(n, np.int64), MEASURED), keys, 6)
        seen = np.bincount(tokens.ids - FIRST, minlength=30)[:n_genes]
        assert abs(seen / n - 4 / n_genes).max() < 0.03
        assert tokens.counts["truncated_cells"] == n or zeros == "all"


def test_read_depth_tokens():
    counts, keys = cells(0)
    totals = counts.totals
    for depth, target in (
        ({"mode": "equal"}, totals),
        ({"mode": "align", "target": 500}, np.full(6, 500.0)),
        ({"mode": "auto"}, np.full(6, totals.max())),
    ):
        tokenizer = CellTokenizer(GENES, read_depth=depth)
        tokenizer.fit_normalization(totals)
        tokens = tokenizer.encode(CellBatch(counts, np.zeros(6, np.int64), MEASURED), keys, 64)
        np.testing.assert_allclose(tokens.example_fields["read_depth"], np.log1p(np.stack([totals, target], 1)), rtol=1e-6)
    assert CellTokenizer(GENES, n_cls=3, read_depth={"mode": "equal"}).prefix.tolist() == [3, 5, 6, 36, 37]


def test_save_and_load(tmp_path):
    counts, keys = cells(1)
    tokenizer = CellTokenizer(GENES, order="descending", values={"kind": "log_normalise", "target_sum": "median"}, n_cls=2)
    tokenizer.fit_normalization(counts.totals)
    tokenizer.save_pretrained(tmp_path)
    again = CellTokenizer.from_pretrained(tmp_path)
    a, b = (t.encode(CellBatch(counts, np.zeros(6, np.int64), MEASURED), keys, 20) for t in (tokenizer, again))
    assert (a.fields["values"] == b.fields["values"]).all() and again.names == tokenizer.names and again.settings == tokenizer.settings


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"order": "rnd"}, "choose from random"),
        ({"zeros": "none"}, "choose from expressed"),
        ({"values": {"kind": "log"}}, "choose from log_normalise"),
        ({"read_depth": {"mode": "deep"}}, "choose from none"),
        ({"read_depth": {"mode": "align"}}, "target"),
        ({"sequence_dropout": 1.0}, "below 1"),
        ({"genes": "gene2vec", "n_cls": 2}, "lacks"),
    ],
)
def test_mistakes(options, said):
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        CellTokenizer(**({"genes": GENES} | options))


def test_a_summary_holds_all_that_is_shown_before_truncation():
    """Dropout and a lower read depth take genes from it, the longest input none: the tokens of an input that is long enough."""
    counts, keys = cells(7)
    raw = CellBatch(counts, np.zeros(6, np.int64), MEASURED)
    settings = {"sequence_dropout": 0.3, "read_depth": {"mode": "downsample", "min_total": 10}, "values": {"kind": "as_is"}}
    tokenizer = CellTokenizer(GENES, summary=True, **settings)
    assert tokenizer.fields["summary"] == {"size": len(tokenizer)} and "summary" not in CellTokenizer(GENES).fields
    short, long = tokenizer.encode(raw, keys, 9), tokenizer.encode(raw, keys, 60)
    everything = {
        (b, i, v)
        for b in range(6)
        for i, v in zip(long[b].tolist(), long.fields["values"][slice(*long.offsets[b : b + 2])].tolist(), strict=True)
    }
    for tokens in (short, long, CellTokenizer(GENES, summary=True, order="descending", zeros="measured", **settings).encode(raw, keys, 9)):
        profile = tokenizer.collate(tokens, 64)["shown_profile"]
        assert [v.dtype for v in profile.values()] == [np.int64, np.int64, np.float32] and (np.diff(profile["row"]) >= 0).all()
        assert len(profile["row"]) == len(everything) < len(counts.ids)
        assert set(zip(*(v.tolist() for v in profile.values()), strict=True)) == everything
    assert len(short.ids) < len(long.ids)
    some = short.take(np.array([4, 0])).shown_profile
    assert some.gene_ids.tolist() == [*(i for b in (4, 0) for n, i in zip(profile["row"], profile["gene"], strict=True) if n == b)]
    assert CellTokenizer(GENES).encode(raw, keys, 9).shown_profile is None


@pytest.mark.parametrize("mode", ["split", "split_aware"])
def test_what_is_shown_and_what_is_hidden_make_up_the_cell(tmp_path, mode):
    counts, keys = cells(8, n=40)
    raw = CellBatch(counts, np.zeros(40, np.int64), MEASURED)
    tokenizer = CellTokenizer(GENES, values={"kind": "as_is"}, read_depth={"mode": mode, "target": 500})
    tokens = tokenizer.encode(raw, keys, 64)
    hidden = tokens.full_profile.as_batch()["hidden_count"]
    assert hidden.dtype == np.float32 and "targets" not in tokens.fields and (tokens.full_profile.values == counts.counts).all()
    totals = []
    for b in range(40):
        mine = slice(*counts.offsets[b : b + 2])
        left = counts.counts[mine] - hidden[mine]
        shown = dict(zip(tokens[b].tolist(), tokens.fields["values"][slice(*tokens.offsets[b : b + 2])].tolist(), strict=True))
        assert shown == {i: x for i, x in zip(counts.ids[mine].tolist(), left.tolist(), strict=True) if x > 0}
        totals.append([left.sum(), hidden[mine].sum()])
    assert 0.2 < np.sum(totals, 0)[0] / counts.counts.sum() < 0.8
    if mode == "split_aware":
        np.testing.assert_allclose(tokens.example_fields["read_depth"], np.log1p(totals), rtol=1e-6)
    some = tokens.take(np.array([5, 2])).full_profile
    assert some.hidden_counts.tolist() == [*hidden[counts.offsets[5] : counts.offsets[6]], *hidden[counts.offsets[2] : counts.offsets[3]]]
    for whole in (
        tokenizer.for_inference(),
        tokenizer.for_inference(depth_target=9) if mode == "split_aware" else tokenizer.for_inference(),
    ):
        tokens = whole.encode(raw, keys, 64)
        assert tokens.full_profile.hidden_counts is None and tokens.fields["values"].sum() == counts.counts.sum()
    again = tokenizer.for_inference(shown_in_part=True)
    assert (
        again.encode(raw, keys, 64).full_profile.hidden_counts == again.encode(raw, keys + np.uint64(1), 64).full_profile.hidden_counts
    ).all()
    counts.counts[3] += 0.5
    with pytest.raises(ValueError, match=r"a cell has \d+\.5 of a gene; give raw counts"):
        tokenizer.encode(raw, keys, 64)
    with pytest.raises(ValueError, match=rf"mode={mode} splits the molecules of cells, and needs counts"):
        tokenizer.resolve_expects("normalised")


def test_the_parts_of_poisson_counts_are_independent_poisson():
    """Binomial thinning: with one share, means share * rate and (1 - share) * rate, and no correlation; of a share that varies from cell to
    cell it is Uniform(share), whatever the gene."""
    n, rates = 20_000, np.array([0.3, 1.0, 4.0, 80.0])
    table = np.random.default_rng(0).poisson(rates, (n, 4)).astype(np.float32)
    rows, genes = table.nonzero()
    counts = Counts((FIRST + genes).astype(np.int32), table[rows, genes], np.searchsorted(rows, np.arange(n + 1)).astype(np.int64))
    keys = np.random.default_rng(1).integers(0, 2**62, n).astype(np.uint64)
    for share in ([0.3, 0.3], [0.2, 0.8]):
        tokenizer = CellTokenizer(GENES, read_depth={"mode": "split", "share": share})
        profile = tokenizer.encode(CellBatch(counts, np.zeros(n, np.int64), MEASURED), keys, 64).full_profile
        hidden = np.zeros((n, 4))
        hidden[rows, genes] = profile.hidden_counts
        shown = table - hidden
        assert np.allclose(shown.mean(0) / rates, np.mean(share), atol=0.02) and (hidden >= 0).all() and (shown >= 0).all()
        if share[0] == share[1]:
            both = np.concatenate([shown, hidden], 1)
            assert abs(np.corrcoef(both.T) - np.eye(8)).max() < 0.03
            np.testing.assert_allclose(both.var(0), np.concatenate([0.3 * rates, 0.7 * rates]), rtol=0.05)
        else:
            of_cells = shown[:, 3] / table[:, 3]
            assert abs(np.sort(of_cells) - np.linspace(0.2, 0.8, n)).mean() < 0.02
            assert abs(np.corrcoef(of_cells[: n // 2], of_cells[n // 2 :])[0, 1]) < 0.03


def test_distinctive_ranks_are_those_of_scipy(tmp_path):
    """Average ranks of count over the median of count / total where it is not 0; the table is saved, and asked for."""
    counts, keys = cells(9, n=12)
    raw, dense = CellBatch(counts, np.zeros(12, np.int64), MEASURED), np.zeros((12, FIRST + 40))
    dense[np.repeat(np.arange(12), np.diff(counts.offsets)), counts.ids] = counts.counts
    share = dense / np.maximum(dense.sum(1, keepdims=True), 1)
    medians = np.array([1e4 * np.median(x[x > 0]) if (x > 0).any() else np.nan for x in share.T])
    tokenizer = CellTokenizer(GENES, order="distinctive", values={"kind": "distinctive_ranks"})
    assert not tokenizer.is_fitted
    with pytest.raises(ValueError, match=r"no medians of genes.*saved as gene_medians\.txt"):
        tokenizer.encode(raw, keys, 12)
    tokenizer.fit_gene_medians(counts)
    np.testing.assert_allclose(tokenizer.gene_medians, np.where(np.isnan(medians), np.nanmedian(medians), medians), rtol=1e-6)
    tokenizer.save_pretrained(tmp_path)
    again = CellTokenizer.from_pretrained(tmp_path)
    assert again.is_fitted and again.description() == tokenizer.description() != CellTokenizer(GENES).description()
    tokens = again.for_inference().encode(raw, keys, 12)
    for b in (0, 1, 2, 4):
        own = np.flatnonzero(dense[b])
        ranks = stats.rankdata(dense[b, own].astype(np.float32) / tokenizer.gene_medians[own]) / len(own)
        expected = own[np.argsort(-ranks, kind="stable")][:10]
        assert tokens[b].tolist() == expected.tolist()
        np.testing.assert_allclose(tokens.fields["values"][slice(*tokens.offsets[b : b + 2])], np.sort(ranks)[::-1][:10], rtol=1e-6)
    (tmp_path / "gene_medians.txt").write_text("1.0\n")
    with pytest.raises(ValueError, match=r"gene_medians\.txt holds 1 numbers, \d+ above 0"):
        CellTokenizer.from_pretrained(tmp_path)


def test_a_tokenizer_passes_through_configurations_as_it_is():
    tokenizer = CellTokenizer(GENES)
    assert instantiate(OmegaConf.create({"_target_": "builtins.dict"}), tokenizer=tokenizer)["tokenizer"] is tokenizer
