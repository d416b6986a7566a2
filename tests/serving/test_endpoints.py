"""What a server answers is what the model says offline, and what it refuses it refuses in one form."""

import json
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from bmfm.files import ASSETS
from tests.conftest import SLICE_FASTA

SEQUENCES = ["ACGTTAGCAAC" * 3, "GATTACA" * 200, "g"]
ARROW = {"Accept": "application/vnd.apache.arrow.stream"}


@pytest.fixture(scope="session")
def adata():
    return anndata.read_h5ad(ASSETS / "rna" / "pbmc3k.h5ad")[:3].copy()


@pytest.fixture(scope="session")
def body(adata):
    dense = pd.DataFrame(adata.to_df())
    counts = [row.tolist() for row in dense.to_numpy(float)]
    indices = np.flatnonzero(counts[1])[::-1].tolist()
    counts[1] = {"indices": indices, "values": [counts[1][i] for i in indices]}
    return {"genes": list(adata.var_names), "counts": counts, "cell_ids": ["a", "b", "a"]}


def test_embeddings_of_sequences(dna, dna_client):
    for options in ({}, {"pooling": "max_mean"}, {"strands": "average"}):
        reply = dna_client.post("/embed", json={"sequences": SEQUENCES, **options}).json()
        np.testing.assert_allclose(reply["embeddings"], dna.embed(SEQUENCES, **options), rtol=1e-5, atol=1e-6)
    assert reply["ids"] == ["0", "1", "2"] and reply["counts"] == {"unknown_tokens": 0, "truncated": 0, **dna.counts}


def test_predictions_of_cells(cells, cells_client, adata, body):
    reply = cells_client.post("/predict", json=body).json()
    expected = cells.predict(adata)
    assert list(reply["columns"]) == list(expected) and reply["ids"] == ["a", "b", "a"]
    for name, values in reply["columns"].items():
        if expected[name].dtype == object:
            assert values == expected[name].tolist()
        else:
            np.testing.assert_allclose(values, expected[name], rtol=1e-5, atol=1e-6)
    counts = reply["counts"]
    assert counts["truncated"] == cells.counts["truncated_cells"] and counts["unknown_genes"] == int((cells.match.ids < 0).sum())
    embeddings = cells_client.post("/embed", json=body).json()["embeddings"]
    np.testing.assert_allclose(embeddings, cells.embed(adata), rtol=1e-5, atol=1e-6)


def test_the_stream_of_arrow_holds_the_same(dna_client, cells_client, body):
    for client, path, sent in ((dna_client, "/embed", {"sequences": SEQUENCES}), (cells_client, "/predict", body)):
        plain, stream = client.post(path, json=sent).json(), client.post(path, json=sent, headers=ARROW)
        table = pa.ipc.open_stream(stream.content).read_all()
        assert stream.headers["content-type"] == ARROW["Accept"] and table["id"].to_pylist() == plain["ids"]
        assert json.loads(table.schema.metadata[b"counts"]) == plain["counts"]
        if path == "/embed":
            np.testing.assert_allclose(np.stack(table["embedding"].to_pylist()), plain["embeddings"], rtol=1e-6)
        else:
            assert {name: table[name].to_pylist() for name in table.column_names[1:]} == plain["columns"]


def test_scores_of_variants(dna, dna_client):
    import bmfm

    model = bmfm.load("bmfm-dna-mini")
    table = pd.DataFrame({"chrom": "chr20", "pos": [100000, 150001], "ref": ["A", "CTA"], "alt": ["G", "C"]})
    reply = dna_client.post("/score_variants", json={"variants": table.to_dict("records")}).json()["columns"]
    expected = model.score_variants(table, SLICE_FASTA)
    assert reply["status"] == expected["status"].tolist()
    np.testing.assert_allclose([np.nan if v is None else v for v in reply["llr"]], expected["llr"], rtol=1e-4, atol=1e-5)


def test_pairs_of_sequences_are_variants_of_their_own_genome(dna_client, tmp_path):
    """Oracle: a genome with the first sequence of each pair, and the changes by their coordinates."""
    import bmfm

    rng = np.random.default_rng(0)
    texts = ["".join(rng.choice(list("ACGT"), 120)) for _ in range(2)]
    (tmp_path / "g.fa").write_text("".join(f">pair{i}\n{text}\n" for i, text in enumerate(texts)))
    alt = "ACGT"["ACGT".index(texts[0][50]) - 1]
    pairs = [
        {"ref": texts[0], "alt": texts[0][:50] + alt + texts[0][51:]},
        {"ref": texts[1], "alt": texts[1][:70] + "ACCA" + texts[1][70:]},
    ]
    reply = dna_client.post("/score_variants", json={"pairs": pairs}).json()["columns"]
    model = bmfm.load("bmfm-dna-mini")
    snv = model.score_variants([f"pair0:51:{texts[0][50]}:{alt}"], tmp_path / "g.fa")
    indel = model.score_variants([f"pair1:70:{texts[1][69]}:{texts[1][69]}ACCA"], tmp_path / "g.fa", allele_model="pll")
    assert reply["method"] == ["base", "pll"] and reply["kind"] == ["SNV", "INS"]
    np.testing.assert_allclose(reply["llr"], [snv["llr"][0], indel["llr"][0]], rtol=1e-4, atol=1e-5)


def test_explanations(cells_client, dna_client, dna):
    from bmfm.interpret.dna_explain import explain_sequences

    reply = dna_client.post("/explain", json={"sequences": SEQUENCES[:1]}).json()["explanations"]
    expected = explain_sequences(dna, SEQUENCES[:1], progress=False).contributions.attribution()[0]
    np.testing.assert_allclose(reply[0]["contributions"], expected, rtol=1e-4, atol=1e-5)
    genes = {"genes": ["CD3D", "LYZ", "nothing", "MS4A1"], "counts": [[3, 0, 4, 1]], "target": "head:type", "method": "occlusion"}
    (of_cell,) = cells_client.post("/explain", json=genes).json()["explanations"]
    assert set(of_cell["indices"]) <= {0, 3} and of_cell["target"] in "abc"


REFUSED = [
    ("dna", "/embed", {"sequences": ["ACGT", "MKVLAEF", ""]}, 422, [1, 2]),
    ("dna", "/embed", {"sequences": ["ACGT", 5]}, 422, [1]),
    ("dna", "/embed", {"sequences": []}, 422, []),
    ("dna", "/embed", {"sequences": ["ACGT"], "nothing": 1}, 422, []),
    ("dna", "/embed", {"sequences": ["ACGT"], "pooling": 7}, 422, []),
    ("dna", "/embed", {"genes": ["A"], "counts": [[1]]}, 422, []),
    ("dna", "/embed", {"sequences": ["ACGT"] * 201}, 413, []),
    ("dna", "/embed", {"sequences": ["A" * 600_000]}, 413, []),
    ("dna", "/predict", {"sequences": ["ACGT"]}, 422, []),
    ("dna", "/score_variants", {"pairs": [{"ref": "ACGT", "alt": "ACGT"}, {"ref": "ACGT", "alt": "AC?T"}]}, 422, [0, 1]),
    ("dna", "/score_variants", {}, 422, []),
    ("dna", "/explain", {"sequences": ["ACGT"] * 17}, 413, []),
    ("dna", "/explain", {"sequences": ["ACGT", "ACGT" * 10_000]}, 422, [1]),
    ("cells", "/embed", {"genes": ["CD3D", 5], "counts": [[1, 2]]}, 422, []),
    ("dna", "/nothing", {}, 404, []),
    ("cells", "/embed", {"genes": ["CD3D", "LYZ"], "counts": [[1, 2], [1]]}, 422, [1]),
    ("cells", "/embed", {"genes": ["CD3D", "LYZ"], "counts": [[1, 2], [1, -2], [1.5, 0]]}, 422, [1, 2]),
    ("cells", "/embed", {"genes": ["CD3D", "LYZ"], "counts": [{"indices": [0, 2], "values": [1, 2]}]}, 422, [0]),
    ("cells", "/embed", {"genes": ["x", "y"], "counts": [[1, 2]]}, 422, [0]),
    ("cells", "/embed", {"genes": ["CD3D"], "counts": [[1]], "strands": "average"}, 422, []),
    ("cells", "/explain", {"genes": ["CD3D"], "counts": [[1]]}, 422, []),
    ("cells", "/score_variants", {"pairs": [{"ref": "ACGT", "alt": "ACTT"}]}, 422, []),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "path", "sent", "status", "items"), REFUSED)
def test_what_is_refused(dna_client, cells_client, kind, path, sent, status, items):
    reply = (dna_client if kind == "dna" else cells_client).post(path, json=sent)
    error = reply.json()["error"]
    assert (reply.status_code, [item["item"] for item in error["items"]]) == (status, items) and error["message"]


def test_a_body_without_its_length_is_refused_too(dna_client):
    reply = dna_client.post("/embed", content=(b" " * 100_000 for _ in range(6)), headers={"Content-Type": "application/json"})
    assert reply.status_code == 413 and "max_body_mb" in reply.json()["error"]["message"]


def test_reports(dna_client, dna):
    info = dna_client.get("/info").json()
    assert info["model"] == "bmfm-dna-mini" and info["max_tokens"] == 512 and info["genome"] and info["card"]["tags"]
    assert info["parameters"] == sum(p.numel() for p in dna.model.parameters())
    lines = dna_client.get("/metrics").text.splitlines()
    families = {line.split()[2]: line.split()[3] for line in lines if line.startswith("# TYPE")}
    assert families["bmfm_request_seconds"] == "histogram" and families["bmfm_requests_total"] == "counter"
    buckets = [int(line.split()[-1]) for line in lines if line.startswith("bmfm_request_seconds_bucket")]
    (total,) = [int(line.split()[-1]) for line in lines if line.startswith("bmfm_request_seconds_count")]
    assert buckets == sorted(buckets) and buckets[-1] == total > 0


@pytest.mark.slow
def test_an_exported_model_is_served_too(tmp_path, dna, dna_client, cells, body):
    pytest.importorskip("onnxruntime")
    import bmfm
    from bmfm.exporting.export import export
    from tests.serving.conftest import serving

    variants = {
        "pairs": [{"ref": "ACGTTAGCAAC" * 9, "alt": "ACGTTAGCAAC" * 4 + "G" + ("ACGTTAGCAAC" * 5)[1:]}],
        "scores": ["llr", "embedding", "jsd"],
    }
    asked = [("/embed", {"sequences": SEQUENCES}), ("/score_variants", variants), ("/explain", {"sequences": SEQUENCES[:1]})]
    for model, requests in ((dna, asked), (cells, [("/predict", body)])):
        export(model, tmp_path / "onnx", overwrite=True)
        with serving(bmfm.load(tmp_path / "onnx", backend="onnx")) as client, serving(model) as other:
            for path, sent in requests:
                found, expected = (c.post(path, json=sent).json() for c in (client, other))
                _agree(found, expected)
            refused = client.post("/explain", json={**requests[-1][1], "method": "ig", "target": "head:x"})
            assert refused.status_code == 422 and "backend=torch" in refused.text


def _agree(found, expected):
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key in expected:
            _agree(found[key], expected[key])
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for pair in zip(found, expected, strict=True):
            _agree(*pair)
    else:
        assert found == (pytest.approx(expected, rel=1e-3, abs=1e-4) if isinstance(expected, float) else expected)


SNAPSHOT = Path(__file__).with_name("openapi.json")
"""What clients rely on: ``python -m tests.serving.snapshot`` writes it anew."""


def test_what_clients_rely_on_is_as_it_was(dna_client):
    from tests.serving.snapshot import reduced

    assert reduced(dna_client.get("/openapi.json").json()) == json.loads(SNAPSHOT.read_text())
