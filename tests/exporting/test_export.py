"""Exported models compute what torch computes, through the same predictor; what cannot be exported, or differs, is refused."""

import json
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import torch

import bmfm
from bmfm.cli import compose, instantiate
from bmfm.exporting.export import export
from bmfm.exporting.formats import write_onnx
from bmfm.exporting.network import Network, network_inputs
from bmfm.exporting.parity import Parity, windows_of
from bmfm.files import ASSETS
from tests.conformance.cases import Case, batch_of, model_of, tokenizer_of
from tests.conftest import SLICE_FASTA

pytest.importorskip("onnxscript")
ort = pytest.importorskip("onnxruntime")

SEQUENCES = ["ACGTTAGCAAC" * 3, "G", "TTNACA" * 40, "GATTACA" * 100]


@pytest.fixture(scope="session")
def cells():
    return anndata.read_h5ad(ASSETS / "rna" / "pbmc3k.h5ad")[20:27].copy()


@pytest.fixture(scope="session")
def dna_mini(tmp_path_factory):
    folder = tmp_path_factory.mktemp("onnx") / "dna"
    few = folder.with_name("few.fa")
    few.write_text("".join(f">{i}\n{text}\n" for i, text in enumerate(SEQUENCES[:3])))
    export(bmfm.load("bmfm-dna-mini"), folder, examples=few)
    return folder


def test_a_model_of_dna_is_the_same_predictor(dna_mini):
    model, exported = bmfm.load("bmfm-dna-mini"), bmfm.load(dna_mini, backend="onnx")
    for options in ({}, {"pooling": "max_mean"}, {"strands": "average"}, {"max_tokens": 64, "batch_size": 3}):
        np.testing.assert_allclose(exported.embed(SEQUENCES, **options), model.embed(SEQUENCES, **options), rtol=1e-4, atol=1e-5)
        assert exported.counts == model.counts
    states = [m.hidden_states(SEQUENCES).states for m in (exported, model)]
    for one, other in zip(*states, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=2e-5)
    scores = [m.log_probs(["ACGTTAGCAACGGTACA"]).total()["log_likelihood"] for m in (exported, model)]
    np.testing.assert_allclose(*scores, rtol=1e-5)
    variants = ["chr20:100000:A:G", "chr20:150001:C:T"]
    tables = [m.score_variants(variants, SLICE_FASTA, scores=["llr"]) for m in (exported, model)]
    pd.testing.assert_frame_equal(*tables, rtol=1e-4, atol=1e-5)


def test_the_record_says_what_was_exported(dna_mini):
    record = json.loads((dna_mini / "export.json").read_text())
    session = ort.InferenceSession(dna_mini / "model.onnx")
    assert record["inputs"] == [i.name for i in session.get_inputs()] and record["outputs"] == [o.name for o in session.get_outputs()]
    assert (
        record["outputs"] == ["last_hidden_state", "embedding", "logits.mlm"] and record["opset"] == 20 and record["pooling"] == "max_mean"
    )
    assert record["parity"]["cosine"] > 0.99999 and record["parity"]["top1_agreement"] == {"mlm": 1.0}
    n_tokens = sum(len(ids) for ids in bmfm.load("bmfm-dna-mini").tokenizer.tokenizer(SEQUENCES[:3])["input_ids"])
    assert record["parity"]["n_examples"] == 3 and record["parity"]["n_tokens"] == n_tokens
    assert record["versions"]["onnxruntime"] == ort.__version__


def test_what_a_graph_cannot_do_is_told(dna_mini):
    model = bmfm.load(dna_mini, backend="onnx")
    _, batch = next(model.batches(SEQUENCES))
    for ask in (
        lambda: model.embed(SEQUENCES, layer=0),
        lambda: model.hidden_states(SEQUENCES, layers=[0]),
        lambda: model.embed(SEQUENCES, precision="bf16"),
        lambda: model.forward(batch, grad=True),
        lambda: model.forward(batch, embeddings=torch.zeros(1)),
    ):
        with pytest.raises(ValueError, match=r"without backend=onnx|leave it out"):
            ask()
    with pytest.raises(AttributeError, match=r"explain: .*without backend=onnx"):
        model.explain(SEQUENCES)


def test_classes_of_an_exported_folder_are_looked_at_first(dna_mini, tmp_path):
    import shutil

    copy = Path(shutil.copytree(dna_mini, tmp_path / "copy"))
    (copy / "evil.py").write_text("raise SystemExit('code of the folder was run')")
    for target, words in (
        ("evil.Backbone", "backbone._target_"),
        ("os.system", "backbone._target_"),
        ("bmfm.models.backbones.huggingface.HuggingFaceBackbone", "model of others|never exported"),
    ):
        config = json.loads((dna_mini / "config.json").read_text())
        (copy / "config.json").write_text(json.dumps(config | {"backbone": {"_target_": target}}))
        with pytest.raises(ValueError, match=words):
            bmfm.load(copy, backend="onnx")


def test_a_graph_that_was_changed_is_refused(dna_mini, tmp_path):
    import shutil

    copy = Path(shutil.copytree(dna_mini, tmp_path / "copy"))
    with (copy / "model.onnx").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(ValueError, match=r"model\.onnx is absent or not as export\.json knows it"):
        bmfm.load(copy, backend="onnx")
    with pytest.raises(FileNotFoundError, match="format=onnx"):
        bmfm.load("bmfm-dna-mini", backend="onnx")
    with pytest.raises(FileNotFoundError, match=r'backend="onnx"'):
        bmfm.load(dna_mini)


@pytest.mark.slow
def test_eight_bits_keep_embeddings_of_cells(tmp_path, cells):
    model = bmfm.load("bmfm-rna-mini")
    record = export(model, tmp_path / "rna", precision="int8")
    exported = bmfm.load(tmp_path / "rna", backend="onnx")
    one, other = exported.embed(cells), model.embed(cells)
    cosine = (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
    assert cosine.min() > 0.995 and record["parity"]["cosine"] > 0.995 and exported.counts == model.counts
    assert all((exported.embed(cells[[i]].copy())[0] == one[i]).all() for i in range(cells.n_obs))  # whatever is beside it
    import onnx

    graph = onnx.load(tmp_path / "rna" / "model.onnx").graph
    kinds = {w.name: w.data_type for w in graph.initializer}
    multiplied = [kinds[node.input[1]] for node in graph.node if node.op_type == "MatMulInteger"]
    assert multiplied and set(multiplied) == {onnx.TensorProto.INT8}
    looked_up = [kinds[node.input[0]] for node in graph.node if node.op_type == "Gather" and node.input[0] in kinds]
    assert onnx.TensorProto.FLOAT in looked_up and onnx.TensorProto.INT8 not in looked_up


@pytest.mark.slow
def test_the_command_says_how_far_it_is(tmp_path, capsys):
    from bmfm.export import export as command

    command(compose("export", ["checkpoint=bmfm-dna-mini", f"output={tmp_path / 'out'}", f"examples={SLICE_FASTA}", "precision=int8"]))
    assert "mlm agrees in 100.0%" in (said := capsys.readouterr().out) and "written to" in said
    assert sorted(p.name for p in (tmp_path / "out").iterdir() if p.suffix in (".onnx", ".json"))[-1] == "variant_calibration.json"
    with pytest.raises(SystemExit, match="overwrite=true"):
        command(compose("export", ["checkpoint=bmfm-dna-mini", f"output={tmp_path / 'out'}"]))


@pytest.mark.slow
def test_labels_are_predicted_the_same(tmp_path, cells_model, cells):
    model = bmfm.load(cells_model)
    export(model, tmp_path / "cells")
    exported = bmfm.load(tmp_path / "cells", backend="onnx")
    pd.testing.assert_frame_equal(exported.predict(cells), model.predict(cells), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(exported.embed(cells), model.embed(cells), rtol=1e-4, atol=1e-5)


def test_a_stock_model_is_that_of_transformers(tmp_path, dna_model):
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    model = bmfm.load(dna_model)
    record = export(model, tmp_path / "hf", format="safetensors_hf")
    network, tokenizer = AutoModelForMaskedLM.from_pretrained(tmp_path / "hf"), AutoTokenizer.from_pretrained(tmp_path / "hf")
    text = "ACGTTAGCAACGGTACAACG"
    encoded = tokenizer(text, return_tensors="pt")
    states = network.model(input_ids=encoded["input_ids"]).last_hidden_state[0]
    np.testing.assert_allclose(states[1:].mean(0).detach().numpy(), model.embed([text])[0], rtol=1e-4, atol=1e-5)
    assert record["parity"]["top1_agreement"]["mlm"] == 1
    with pytest.raises(ValueError, match="ModernBertForMaskedLM cannot hold this model"):
        export(bmfm.load("bmfm-dna-mini"), tmp_path / "no", format="safetensors_hf")
    assert not (tmp_path / "no").exists()


@pytest.mark.slow
def test_a_program_of_torch_takes_other_shapes(tmp_path):
    model = bmfm.load("bmfm-dna-mini")
    record = export(model, tmp_path / "program", format="torch_export")
    program = torch.export.load(tmp_path / "program" / "model.pt2").module()
    rows, batch = next(model.batches(SEQUENCES[:2]))
    _, embedding, _ = program(*network_inputs(batch, record["inputs"]))
    np.testing.assert_allclose(embedding.detach().numpy(), model.embed(SEQUENCES[:2])[rows], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_model_that_differs_is_not_written(tmp_path, monkeypatch):
    def halve(network, *arguments):
        with torch.no_grad():
            network.model.backbone.final_norm.bias.add_(1.0)
        write_onnx(network, *arguments)

    monkeypatch.setattr("bmfm.exporting.export.write_onnx", halve)
    with pytest.raises(ValueError, match=r"least cosine of embeddings and states is .* nothing is written"):
        export(bmfm.load("bmfm-dna-mini"), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("parity", "precision", "is_kept"), [
    (Parity(0.99995), "fp32", True), (Parity(0.9998), "fp32", False), (Parity(0.996), "int8", True), (Parity(0.994), "int8", False),
    (Parity(float("nan")), "fp32", False), (Parity(1.0, top1_agreement={"a": 0.985}), "fp32", False), (Parity(1.0, top1_agreement={"a": 0.995}), "int8", True),
])  # fmt: skip
def test_the_least_agreement(parity, precision, is_kept):
    if is_kept:
        parity.check(precision)
    else:
        with pytest.raises(ValueError, match="nothing is written"):
            parity.check(precision)


def test_models_of_others_and_what_is_there_are_refused(tmp_path, bert_folder):
    with pytest.raises(ValueError, match="optimum"):
        export(bmfm.load(bert_folder), tmp_path / "bert")
    with pytest.raises(ValueError, match="int8 is for format=onnx"):
        export(bmfm.load("bmfm-dna-mini"), tmp_path / "x", format="torch_export", precision="int8")
    with pytest.raises(FileExistsError, match="overwrite=true"):
        export(bmfm.load("bmfm-dna-mini"), tmp_path)


def test_folders_of_other_things_are_never_replaced(tmp_path):
    """As the folder of the model itself."""
    (tmp_path / "model.safetensors").write_bytes(b"weeks of work")
    with pytest.raises(FileExistsError, match="holds no exported model"):
        export(bmfm.load("bmfm-dna-mini", device="cpu"), tmp_path, overwrite=True)
    assert (tmp_path / "model.safetensors").read_bytes() == b"weeks of work"


@pytest.mark.slow
def test_a_graph_of_one_shape_is_no_export(tmp_path):
    class Fixed(Network):
        def forward(self, *tensors):
            states, *others = super().forward(*tensors)
            return states + torch.zeros(len(tensors[0]), 1, 1), *others

    network = Fixed(bmfm.load("bmfm-dna-mini").model)
    with pytest.raises(ValueError, match=r"fix the number or length of examples .input_ids"):
        write_onnx(network, network_inputs(batch_of("dna"), network.inputs), tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


@pytest.mark.slow
def test_weights_of_large_models_lie_beside_the_graph(tmp_path, monkeypatch):
    monkeypatch.setattr("bmfm.exporting.formats.ONE_FILE", 0)
    model = bmfm.load("bmfm-dna-mini")
    record = export(model, tmp_path / "dna")
    assert record["precision"] == "fp32" and (tmp_path / "dna" / "model.onnx").stat().st_size < 500_000
    exported = bmfm.load(tmp_path / "dna", backend="onnx")
    np.testing.assert_allclose(exported.embed(SEQUENCES), model.embed(SEQUENCES), rtol=1e-4, atol=1e-5)
    assert set(json.loads((tmp_path / "dna" / "export.json").read_text())["sha256"]) == {"model.onnx", "model.onnx.data"}


@pytest.mark.slow
def test_both_strands_of_a_convolution_are_a_graph(tmp_path):
    """Of `model.reverse_complement=average`, whose mirror depends on the lengths of the examples."""
    config = compose("train", ["model=conv", "model.reverse_complement=average", "model.hidden_size=32", "tokenizer=single_base"]).model
    tokenizer = tokenizer_of("dna")
    genes = {name: i for i, name in enumerate(tokenizer.names)}
    model = instantiate(config, fields=tokenizer.fields, heads={}, genes=genes, _convert_="all").eval()
    _same_as_the_graph(tmp_path, model, "dna")


BACKBONES = ["modernbert-dna", "bert-rna", "llama-rna", "conv-dna", "hybrid-dna", "set-rna"]


@pytest.mark.slow
@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_is_a_graph(tmp_path, name):
    case = Case(*name.split("-"))
    _same_as_the_graph(tmp_path, model_of(case), case.omics)


def _same_as_the_graph(folder, model, omics):
    """A model and its graph agree on batches of other sizes and widths than the graph was traced with."""
    network = Network(model)
    write_onnx(network, network_inputs(batch_of(omics), network.inputs), folder / "model.onnx")
    session = ort.InferenceSession(folder / "model.onnx")
    for numbers in ((0, 1, 2, 3), (1,), (1, 3)):
        batch = batch_of(omics, numbers, width=48)
        feed = {n: t.numpy() for n, t in zip(network.inputs, network_inputs(batch, network.inputs), strict=True)}
        states, embedding, *_ = session.run(None, feed)
        with torch.no_grad():
            expected, is_token = model.encode(batch), batch["sequence_ids"] > 0
        np.testing.assert_allclose(states[is_token], expected[is_token], rtol=1e-4, atol=2e-5)
        np.testing.assert_allclose(embedding, model.pool(expected, batch).detach(), rtol=1e-4, atol=2e-5)


def test_examples_of_a_genome_are_windows_of_the_context(tmp_path):
    """Two long records, one of which begins with N, and a short one; bgzip or not."""
    rng = np.random.default_rng(0)
    long, other = ("".join(rng.choice(list("ACGT"), 5000)) for _ in range(2))
    (tmp_path / "genome.fa").write_text(f">a\n{'N' * 2000}\n{long[:3000]}\n{long[3000:]}\n>b\n{other}\n>c\nACGTT\n")
    windows = windows_of(tmp_path / "genome.fa", 100)
    assert [len(w) for w in windows] == [100] * 7 + [5] and windows[-1] == "ACGTT"
    assert all(w in long for w in windows[:3]) and all(w in other for w in windows[3:7]) and windows[6] == other[-100:]
    (tmp_path / "short.fa").write_text("".join(f">{i}\nACGT{'A' * i}\n" for i in range(30)))
    assert windows_of(tmp_path / "short.fa", 100) == ["ACGT" + "A" * i for i in range(16)]
    (tmp_path / "empty.fa").write_text(">a\nNNNN\n")
    with pytest.raises(ValueError, match="no bases but N"):
        windows_of(tmp_path / "empty.fa", 100)
