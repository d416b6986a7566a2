"""Scores with known answers: a model that predicts the same everywhere, a plain masked pass by hand, spellings that mean the same."""

import shutil

import numpy as np
import pandas as pd
import pytest

from bmfm.genome.alphabet import decode
from bmfm.variants.divergence import jensen_shannon
from bmfm.variants.scoring import score_variants
from tests.conftest import vcf
from tests.variants.conftest import TABLE

COMPLEMENT = str.maketrans("ACGT", "TGCA")


@pytest.fixture(scope="module")
def text(reference):
    return decode(reference.fetch("chr1", 0, 600))


def snvs(text, positions):
    """One substitution at each 0-based position."""
    return [f"chr1:{p + 1}:{text[p]}:{'ACGT'.replace(text[p], '')[p % 3]}" for p in positions]


def test_a_table_model_gives_differences_of_its_table(table_model, reference, text):
    chosen = snvs(text, range(100, 160, 7))
    found = score_variants(table_model, chosen, reference)
    for row, variant in zip(found.itertuples(), chosen, strict=True):
        _, _, ref, alt = variant.split(":")
        assert row.llr_fwd == pytest.approx(TABLE[alt] - TABLE[ref], abs=1e-5)
        assert row.llr_rc == pytest.approx(TABLE[alt.translate(COMPLEMENT)] - TABLE[ref.translate(COMPLEMENT)], abs=1e-5)
        assert row.llr == pytest.approx((row.llr_fwd + row.llr_rc) / 2) and row.method == "base" and row.status == "OK"
    p = 200
    mnv = f"chr1:{p + 1}:{text[p : p + 3]}:{text[p : p + 3].translate(COMPLEMENT)}"
    expected = sum(TABLE[b.translate(COMPLEMENT)] - TABLE[b] for b in text[p : p + 3])
    assert score_variants(table_model, [mnv], reference)["llr_fwd"][0] == pytest.approx(expected, abs=1e-5)


def test_a_masked_pass_by_hand(base_model, reference, text):
    """The same window as text, masked and asked about by the Predictor itself."""
    variant = snvs(text, [250])[0]
    _, _, ref, alt = variant.split(":")
    found = score_variants(base_model, [variant], reference, window=129, max_indel=40).iloc[0]
    window = text[250 - 64 : 250 + 65]
    assert (found.window_start, found.window_end, found.left_context, found.right_context) == (186, 315, 64, 64)
    names = base_model.tokenizer.names
    for strand, letters, a, b in (
        ("fwd", window, ref, alt),
        ("rc", window.translate(COMPLEMENT)[::-1], *(x.translate(COMPLEMENT) for x in (ref, alt))),
    ):
        log_probs = base_model.log_probs([letters], positions=[[64]], tokens=[names.index(a), names.index(b)]).log_probs[0]
        assert found[f"llr_{strand}"] == pytest.approx(float(log_probs[1] - log_probs[0]), abs=1e-5)


def test_rules_agree_where_they_mean_the_same(base_model, reference, text):
    """Of tokens of single bases all rules ask the same question."""
    chosen = snvs(text, range(100, 140, 9))
    scores = {
        rule: score_variants(base_model, chosen, reference, allele_model=rule)["llr"] for rule in ("base", "span", "base_forced", "pll")
    }
    for rule in ("span", "base_forced", "pll"):
        np.testing.assert_allclose(scores[rule], scores["base"], atol=1e-5)


def test_spellings_of_one_indel_score_the_same(base_model, reference, text):
    p = text.index("CACACACACACA")
    left, right = f"chr1:{p}:{text[p - 1 : p + 2]}:{text[p - 1]}", f"chr1:{p + 8}:{text[p + 7 : p + 10]}:{text[p + 7]}"
    padded = f"chr1:{p - 2}:{text[p - 3 : p + 4]}:{text[p - 3 : p]}{text[p + 2 : p + 4]}"
    inserted = [f"chr1:{p}:{text[p - 1]}:{text[p - 1]}CA", f"chr1:{p + 12}:{text[p + 11]}:ACA"]
    found = score_variants(
        base_model, [left, right, padded, *inserted], reference, allele_model="pll", scores=("llr", "embedding", "heads")
    )
    for column in ("llr_fwd", "llr_rc", "emb_l2", "emb_cos", "head_score", "head_type_a"):
        values = found[column].to_numpy()
        np.testing.assert_allclose(values[:3], values[0], rtol=1e-6)
        np.testing.assert_allclose(values[3:], values[3], rtol=1e-6)
        assert abs(values[0] - values[3]) > 1e-6


def test_pseudo_likelihoods_are_sums_over_tokens_that_differ(bpe_model, reference, text):
    """Of the whole windows: tokens that are the same on both sides of the change are the same in both, and cancel only where they are left out."""
    chosen = [*snvs(text, [210]), f"chr1:300:{text[299:303]}:{text[299]}"]
    found = score_variants(bpe_model, chosen, reference, allele_model="pll", window=132, strands="forward")
    for row in found.itertuples():
        start, position = int(row.window_start), row.pos - 1
        ref = text[start : start + 132]
        alt = (text[start:position] + row.alt + text[position + len(row.ref) :])[:132]
        ids = [bpe_model.read([t]) for t in (ref, alt)]
        tokens = [next(iter(i.chunks()))[1].ids for i in ids]
        spans = [bpe_model.tokenizer.spans(t, 132) for t in tokens]
        sides = []
        for spelled, of, n in ((tokens[0], spans[0], len(row.ref)), (tokens[1], spans[1], len(row.alt))):
            begin, shift = position - start, 132 - n
            sides.append([(int(t), int(a) - begin, int(b) - begin - n) for t, (a, b) in zip(spelled, of, strict=True)])
            assert shift > 0
        common = 0
        while sides[0][common][:2] == sides[1][common][:2] and sides[0][common][2] + len(row.ref) <= 0:
            common += 1
        ends = [{s[2] for s in side} for side in sides]
        # tokens from the nearest common cut to the right on that are the same to the end of both
        cut = min(e for e in ends[0] & ends[1] if e >= 0 and _same_after(sides, e))
        total = []
        for side, text_of, n_common in ((sides[0], ref, common), (sides[1], alt, common)):
            places = [i for i, s in enumerate(side) if i >= n_common and s[2] <= cut]
            total.append(float(bpe_model.log_probs([text_of], positions=[places]).total()["log_likelihood"].iloc[0]))
        assert row.llr == pytest.approx(total[1] - total[0], abs=1e-4)


def _same_after(sides, cut):
    after = [[(t, e) for t, _, e in side if e > cut] for side in sides]
    n = min(map(len, after)) - 2  # the far ends differ, where the windows do
    return after[0][:n] == after[1][:n]


def test_span_is_antisymmetric_and_multi_is_always_defined(bpe_model, reference, text, tmp_path):
    """Where the genome has ALT, the same question is asked with the two exchanged."""
    positions = [p for p in range(120, 400, 5)]
    there = score_variants(bpe_model, snvs(text, positions), reference, allele_model="span", strands="forward")
    changed = list(decode(reference.fetch("chr1", 0, 1500)))
    for row in there.itertuples():
        changed[row.pos - 1] = row.alt
    for row in there[there["llr"].notna()].head(6).itertuples():
        other = list(decode(reference.fetch("chr1", 0, 1500)))
        other[row.pos - 1] = row.alt
        path = tmp_path / f"{row.pos}.fa"
        path.write_text(">chr1\n" + "".join(other) + "\n")
        back = score_variants(bpe_model, [f"chr1:{row.pos}:{row.alt}:{row.ref}"], path, allele_model="span", strands="forward").iloc[0]
        if back.status == "OK" and _same_cut(bpe_model, text, row):
            assert back.llr == pytest.approx(-row.llr, abs=1e-5)
    undefined = there[there["status"] == "NOT_DEFINED"]
    assert len(undefined) and undefined["llr"].isna().all()
    every = score_variants(bpe_model, snvs(text, positions), reference, allele_model="multi", strands="forward")
    assert (every["status"] == "OK").all()
    assert set(score_variants(bpe_model, snvs(text, positions[:3]), reference)["method"]) == {"pll"}


def _same_cut(model, text, row):
    windows = [text[row.pos - 65 : row.pos - 1] + base + text[row.pos : row.pos + 64] for base in (row.ref, row.alt)]
    cuts = [set(model.tokenizer.spans(next(iter(model.read([w]).chunks()))[1].ids, 129)[:, 0].tolist()) for w in windows]
    return cuts[0] == cuts[1]


def test_batches_duplicates_and_lines_of_several_alleles_change_nothing(base_model, reference, text):
    p = 333
    alts = "ACGT".replace(text[p], "")
    line = pd.DataFrame(
        {"chrom": ["chr1"] * 2, "pos": [p + 1, 401], "ref": [text[p], text[400]], "alt": [",".join(alts), "ACGT".replace(text[400], "")[0]]}
    )
    joined = score_variants(base_model, line, reference, scores=("llr", "embedding", "jsd"), batch_size=1)
    single = score_variants(
        base_model, [f"chr1:{p + 1}:{text[p]}:{a}" for a in alts], reference, scores=("llr", "embedding", "jsd"), batch_size=64
    )
    for column in ("llr", "llr_fwd", "llr_rc", "emb_l2", "emb_cos", "jsd"):
        np.testing.assert_allclose(joined[column][:3], single[column], atol=1e-5)
    assert joined["alt"].tolist()[:3] == list(alts) and len(joined) == 4
    again = score_variants(base_model, [f"chr1:{p + 1}:{text[p]}:{alts[0]}"] * 2, reference)
    assert again["status"].tolist() == ["OK", "DUPLICATE_OK"] and again["llr"][0] == again["llr"][1]


def test_distances_are_those_of_states_by_hand(base_model, reference, text):
    variant = snvs(text, [250])[0]
    ref, alt = variant.split(":")[2:]
    found = score_variants(
        base_model, [variant], reference, window=129, max_indel=40, scores=("embedding",), radius=20, strands="forward"
    ).iloc[0]
    windows = [text[186:250] + base + text[251:315] for base in (ref, alt)]
    first, second = (s[64 - 20 : 64 + 21].astype(np.float64) for s in base_model.hidden_states(windows).states)
    assert found.emb_l2 == pytest.approx(np.sqrt(((first - second) ** 2).sum()), rel=1e-5)
    assert found.emb_l1 == pytest.approx(np.abs(first - second).sum(), rel=1e-5)
    cosine = (first * second).sum() / np.sqrt((first**2).sum() * (second**2).sum())
    assert found.emb_cos == pytest.approx(1 - cosine, abs=1e-6)
    logits = base_model.logits(windows)
    heads = score_variants(base_model, [variant], reference, window=129, max_indel=40, scores=("heads",), strands="forward").iloc[0]
    change = logits["type"][1] - logits["type"][0]
    assert heads.head_type == pytest.approx(np.abs(change).max(), abs=1e-5) and heads.head_type_b == pytest.approx(change[1], abs=1e-5)
    assert heads.head_score == pytest.approx(float(logits["score"][1, 0] - logits["score"][0, 0]), abs=1e-5)


def test_jensen_shannon_is_that_of_scipy():
    from scipy.spatial.distance import jensenshannon

    rng = np.random.default_rng(0)
    p, q = rng.dirichlet(np.ones(4), 20), rng.dirichlet(np.ones(4), 20)
    np.testing.assert_allclose(
        jensen_shannon(np.log(p), np.log(q)), [jensenshannon(a, b) ** 2 for a, b in zip(p, q, strict=True)], atol=1e-12
    )
    certain = np.log(np.array([[1 - 3e-12, 1e-12, 1e-12, 1e-12], [1e-12, 1 - 3e-12, 1e-12, 1e-12]]))
    assert jensen_shannon(certain[:1], certain[1:])[0] == pytest.approx(np.log(2), abs=1e-9) and jensen_shannon(certain, certain).max() == 0


def test_calibrated_scores_are_less_what_random_variants_say(base_folder, reference, text, tmp_path):
    """The fit is least squares on the same terms by hand; that of the model's folder is read."""
    import bmfm
    from bmfm.storage.folders import CALIBRATION
    from bmfm.variants.calibration import Calibration
    from bmfm.variants.options import ScoreOptions
    from bmfm.variants.scoring import Scorer

    rng = np.random.default_rng(0)
    terms = rng.normal(size=(50, 3))
    fitted = Calibration.fit(terms @ [1.0, -2.0, 0.5], terms)
    np.testing.assert_allclose(fitted.coefficients, [1.0, -2.0, 0.5])
    shutil.copytree(base_folder, tmp_path / "model")
    base_model = bmfm.load(tmp_path / "model")
    scorer = Scorer(base_model, reference, ScoreOptions(window=132))
    made = scorer.fit_calibration(60)
    made.save(tmp_path / "model" / CALIBRATION)
    rows = [f"chr1:300:{text[299:303]}:{text[299]}", f"chr1:320:{text[319]}:{text[319]}GAT"]
    plain = score_variants(base_model, rows, reference, allele_model="pll", window=132)
    calibrated = score_variants(base_model, rows, reference, window=132)
    a, b, c = made.coefficients
    assert abs(c) > 0 and a == pytest.approx(c)  # a token is a base: the two cannot be told apart, and share what there is
    unigram = scorer.log_unigram
    ids = {base: base_model.tokenizer.names.index(base) for base in "ACGT"}
    for i, (letters, sign) in enumerate(((text[300:303], -1), ("GAT", 1))):
        both = [sum(unigram[ids[x]] for x in s) for s in (letters, letters.translate(COMPLEMENT))]
        expected = plain["llr"][i] - sign * (3 * a + b * np.mean(both) + 3 * c)
        assert calibrated["llr"][i] == pytest.approx(expected, abs=1e-5)
    assert calibrated["method"].tolist() == ["pll_cal"] * 2 and calibrated["dtok"].tolist() == [-3, 3]


def test_quantiles_count_random_variants_of_the_same_context(base_model, reference, text):
    from bmfm.variants.options import ScoreOptions
    from bmfm.variants.scoring import Scorer

    found = score_variants(base_model, snvs(text, range(100, 130, 3)), reference, background=300)
    background = Scorer(base_model, reference, ScoreOptions(background=300)).background
    assert background is not None and 250 < len(background) <= 300
    for row in found.itertuples():
        p = row.pos - 1
        like = background[background["context"] == f"{text[p - 1 : p + 2]}>{row.alt}"]["llr"].abs()
        expected = (like < abs(row.llr)).mean() if len(like) else np.nan
        assert row.quantile == pytest.approx(expected, nan_ok=True)


def test_mistakes_are_named(base_model, cells_model, reference, text):
    import bmfm

    for options, message in (
        ({"scores": ("llr", "magic")}, "magic is unknown; choose from llr"),
        ({"allele_model": "best"}, "allele_model='best' is unknown"),
        ({"window": 50}, "at least 132 bases"),
        ({"allele_model": "likelihood"}, "rule of causal models"),
        ({"strands": "left"}, "choose from both, forward, reverse"),
    ):
        with pytest.raises(ValueError, match=message):
            score_variants(base_model, snvs(text, [200]), reference, **options)
    with pytest.raises(ValueError, match="this is one of cells"):
        score_variants(bmfm.load(cells_model), snvs(text, [200]), reference)
    with pytest.raises(ValueError, match="'chr1:5': write chromosome:position:REF:ALT"):
        score_variants(base_model, ["chr1:5"], reference)
    with pytest.raises(ValueError, match="has no column alt; it has chrom, pos, ref"):
        score_variants(base_model, pd.DataFrame({"chrom": ["1"], "pos": [1], "ref": ["A"]}), reference)
    with pytest.raises(ValueError, match="row 1 has the position 'x'"):
        score_variants(base_model, ["chr1:x:A:C"], reference)


def test_no_base_beyond_the_models_reach_changes_a_score(base_model, reference, text):
    """The window is as short as that allows."""
    chosen = snvs(text, range(250, 300, 11))
    assert base_model.model.backbone.capabilities.reach == 2 * (1 + 2)
    short, long = (score_variants(base_model, chosen, reference, window=w, max_indel=4) for w in (40, 128))
    np.testing.assert_allclose(short["llr"], long["llr"], atol=1e-5)
    tight = score_variants(base_model, chosen, reference, window=40, max_indel=4, strands="forward")["llr"]
    seen = base_model.log_probs(
        [text[250 - 6 : 250 + 7]], positions=[[6]], tokens=[base_model.tokenizer.names.index(b) for b in (text[250], chosen[0][-1])]
    )
    assert tight[0] == pytest.approx(float(seen.log_probs[0, 1] - seen.log_probs[0, 0]), abs=1e-5)


def test_on_the_copies_of_a_sample_the_allele_alone_differs(base_model, reference, text, tmp_path):
    near, p, gone = 248, 250, 256
    other = "ACGT".replace(text[near], "")[0]
    lines = [
        f"chr1 {near + 1} . {text[near]} {other} . . . GT 1|0",
        f"chr1 {p + 1} . {text[p]} {'ACGT'.replace(text[p], '')[1]} . . . GT 1|1",
        f"chr1 {gone + 1} . {text[gone : gone + 3]} {text[gone]} . . . GT 0|1",
    ]
    path = tmp_path / "s.vcf"
    path.write_text(vcf(*lines, samples="donor"))
    variant = f"chr1:{p + 1}:{text[p]}:{'ACGT'.replace(text[p], '')[0]}"
    found = score_variants(base_model, [variant], reference, sample="donor", sample_vcf=str(path), strands="forward").iloc[0]
    names = base_model.tokenizer.names
    copies = [text[:near] + other + text[near + 1 :], text[: gone + 1] + text[gone + 3 :]]
    for copy, letters in zip((found.llr_copy1, found.llr_copy2), copies, strict=True):
        log_probs = base_model.log_probs(
            [letters[p - 40 : p + 41]], positions=[[40]], tokens=[names.index(b) for b in (text[p], variant[-1])]
        ).log_probs[0]
        assert copy == pytest.approx(float(log_probs[1] - log_probs[0]), abs=1e-5)
    assert found.llr == pytest.approx((found.llr_copy1 + found.llr_copy2) / 2) and abs(found.llr_copy1 - found.llr_copy2) > 1e-4
    with pytest.raises(ValueError, match=r"say in which VCF or BCF its genotypes are \(sample_vcf\)"):
        score_variants(base_model, [variant], reference, sample="donor")


def test_one_rule_for_all_alleles(base_model, reference, text):
    rows = [*snvs(text, [250]), f"chr1:300:{text[299:303]}:{text[299]}"]
    uniform, calibrated = (score_variants(base_model, rows, reference, allele_model=rule) for rule in ("uniform", "pll_cal"))
    assert uniform["method"].tolist() == ["pll_cal"] * 2 and uniform["llr"].tolist() == calibrated["llr"].tolist()
