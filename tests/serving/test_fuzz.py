"""Whatever is sent, the answer is an error of ours or a right result."""

import json
import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

QUICK = settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
LONG = settings(max_examples=5000, deadline=None, suppress_health_check=list(HealthCheck))

SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.integers(10**400, 10**401), st.floats(), st.text(max_size=8))
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4), max_leaves=12
)
SEQUENCE = st.one_of(st.text("ACGTNacgtnRYU", max_size=700), st.text("ACGT高XB \n", max_size=30), st.text(max_size=12))
GENE = st.one_of(st.sampled_from(["CD3D", "LYZ", "MS4A1", "NKG7", "ENSG00000167286", "nan", "[CLS]", "[MASK]"]), st.text(max_size=6))
COUNT = st.one_of(st.integers(-1, 60), st.floats(width=32), st.just(1e300), st.integers(0, 10**30))


@st.composite
def cells(draw):
    """Genes, and counts that often fit them."""
    genes = draw(st.lists(GENE, max_size=6))
    n = len(genes) + draw(st.sampled_from([0, 0, 0, 0, 1]))
    dense = st.lists(st.integers(0, 60) if draw(st.booleans()) else COUNT, min_size=n, max_size=n)
    sparse = st.fixed_dictionaries({"indices": st.lists(st.integers(-1, n), max_size=n), "values": st.lists(COUNT, max_size=n)})
    body = {"genes": genes, "counts": draw(st.lists(st.one_of(dense, sparse), max_size=3))}
    return body | draw(st.fixed_dictionaries({}, optional={"cell_ids": st.lists(st.text(max_size=4), max_size=3)}))


OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "pooling": SCALARS | st.sampled_from(["mean", "max_mean", 0, "pooler"]),
        "strands": st.sampled_from(["average", "forward", "x", None]),
        "extra": VALUES,
    },
)
SENT = st.one_of(
    st.builds(lambda s, o: {"sequences": s, **o}, st.lists(SEQUENCE, max_size=4), OPTIONS),
    st.builds(lambda c, o: c | o, cells(), OPTIONS),
    st.dictionaries(
        st.sampled_from(["sequences", "genes", "counts", "cell_ids", "pooling", "pairs", "variants", "scores"]), VALUES, max_size=4
    ),
    st.builds(lambda p: {"pairs": [{"ref": a, "alt": b} for a, b in p]}, st.lists(st.tuples(SEQUENCE, SEQUENCE), max_size=2)),
    st.builds(
        lambda v: {"variants": v},
        st.lists(
            st.fixed_dictionaries(
                {"chrom": st.sampled_from(["chr20", "20", "", "x"]), "pos": st.integers(-1, 10**12), "ref": SEQUENCE, "alt": SEQUENCE}
            ),
            max_size=2,
        ),
    ),
    VALUES,
)
PATHS = ["/embed", "/predict", "/score_variants", "/explain"]


def check(client, model, path, sent, content):
    reply = client.post(path, content=content, headers={"Content-Type": "application/json"})
    assert reply.status_code == 200 or 400 <= reply.status_code < 500, (path, sent, reply.text)
    answer = reply.json()
    if reply.status_code != 200:
        assert isinstance(answer["error"]["message"], str) and isinstance(answer["error"]["items"], list)
        return
    if path == "/embed" and "sequences" in sent and sent["sequences"] is not None:
        options = {key: sent[key] for key in ("pooling", "strands") if sent.get(key) is not None}
        np.testing.assert_allclose(answer["embeddings"], model.embed(sent["sequences"], **options), rtol=1e-4, atol=1e-5)
    elif path == "/embed":
        assert len(answer["embeddings"]) == len(sent["counts"]) and all(math.isfinite(x) for row in answer["embeddings"] for x in row)


def fuzz(dna, dna_client, cells_model, cells_client, path, sent):
    content = json.dumps(sent).encode()
    check(dna_client, dna, path, sent, content)
    check(cells_client, cells_model, path, sent, content)


@QUICK
@given(path=st.sampled_from(PATHS), sent=SENT)
def test_bodies(dna, dna_client, cells, cells_client, path, sent):
    fuzz(dna, dna_client, cells, cells_client, path, sent)


@QUICK
@given(
    path=st.sampled_from(PATHS),
    sent=st.binary(max_size=60)
    | st.sampled_from([b"[" * 100_000, b'{"sequences": ["' + b"\xff" * 9, b"1" * 9000, b'"\\ud800"', b'{"sequences":["\\ud800ACGT"]}']),
)
def test_bytes(dna_client, path, sent):
    reply = dna_client.post(path, content=sent, headers={"Content-Type": "application/json"})
    assert reply.status_code == 200 or (400 <= reply.status_code < 500 and reply.json()["error"]["message"])


@pytest.mark.slow
@LONG
@given(path=st.sampled_from(PATHS), sent=SENT)
def test_bodies_for_longer(dna, dna_client, cells, cells_client, path, sent):
    fuzz(dna, dna_client, cells, cells_client, path, sent)
