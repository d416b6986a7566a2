"""Fine-tuning and prediction as a user runs them, in this process where that is enough."""

import json
import shutil

import anndata
import numpy as np
import pandas as pd
import pytest
import torch

import bmfm
from bmfm.checkpoints.load import from_checkpoint, read_model
from bmfm.cli import compose
from bmfm.files import ASSETS
from bmfm.ledger import Ledger
from bmfm.models.lora import has_lora, merge_lora
from bmfm.training.module import LitModel
from bmfm.training.optim import adamw, depth_of
from bmfm.training.seeds import mean_and_half_width
from tests.training.test_train import run

QUIET = [
    "trainer.enable_progress_bar=false",
    "callbacks.progress=null",
    "trainer.log_every_n_steps=5",
    "trainer.accelerator=cpu",
    "trainer.devices=1",
]
SHORT = [
    *QUIET,
    "trainer.max_steps=60",
    "trainer.val_check_interval=20",
    "optimizer.lr=3e-3",
    "schedule.warmup_steps=5",
    "data.batch_size=16",
]


def finetune(folder, *overrides):
    from bmfm.train import train

    return train(compose("train", ["+recipe=dna_finetune", *SHORT, f"run_dir={folder}", *overrides]))


def test_longest_input_is_that_of_the_checkpoint(tmp_path, dna_model, sequence_table):
    from bmfm.training.run import assemble

    shutil.copytree(dna_model, tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps(config | {"max_tokens": 77}))
    choices = ["+recipe=dna_finetune", f"checkpoint={tmp_path / 'model'}", f"data.path={sequence_table}"]
    assert assemble(compose("train", choices))[0].max_tokens == 77
    assert assemble(compose("train", [*choices, "data.max_tokens=99"]))[0].max_tokens == 99


def test_some_of_the_training_examples_are_enough(dna_model, sequence_table):
    """Those of the files that were given as such; the others are counted, and no part but that of training is smaller."""
    from bmfm.training.run import assemble

    of = lambda *more: assemble(compose("train", ["+recipe=dna_finetune", f"checkpoint={dna_model}", f"data.path={sequence_table}", *more]))[0]  # noqa: E731  # fmt: skip
    whole, some, others = of(), of("data.split.n_train=30"), of("data.split.n_train=30", "data.split.seed=1")
    assert [len(some.numbers[part]) for part in ("train", "validation", "test")] == [30, 40, 40] == [len(some.parts[p]) for p in some.parts]
    assert set(some.numbers["train"]) < set(whole.numbers["train"]) and set(some.numbers["train"]) != set(others.numbers["train"])
    note = "training examples left out by data.split.n_train"
    assert some.facts()[note] == "130" and note not in whole.facts()
    with pytest.raises(ValueError, match=r"data\.split\.n_train=161: .* from 1 to 160"):
        of("data.split.n_train=161")


def test_layers_are_compiled_while_they_are_fitted(monkeypatch, tmp_path, dna_model, sequence_table):
    """Each of them, in training and validation; what is tested and saved afterwards is the plain model."""
    compiled, called = [], []

    def compile_(forward, **options):
        compiled.append(forward.__self__)
        return lambda *args, **more: (called.append(torch.is_grad_enabled()), forward(*args, **more))[1]

    monkeypatch.setattr(torch, "compile", compile_)
    monkeypatch.setattr(LitModel, "on_test_epoch_start", lambda self: tested.append((len(called), self.model.backbone.is_compiled)))
    tested: list = []
    steps = ("trainer.max_steps=3", "trainer.val_check_interval=3", "schedule.warmup_steps=1", "logistic_regression=false")
    finetune(tmp_path / "run", f"checkpoint={dna_model}", f"data.path={sequence_table}", "compile=true", *steps)
    n_layers = len(read_model(dna_model).backbone.layers)
    assert len(compiled) == len(set(compiled)) == n_layers
    assert called.count(True) == 3 * n_layers and called.count(False) > 0
    assert tested == [(len(called), False)]


def test_sequences_are_learned_and_predicted(tmp_path, dna_model, sequence_table):
    metrics = finetune(tmp_path / "run", f"checkpoint={dna_model}", f"data.path={sequence_table}", "objectives.label.pooling=mean")
    assert metrics["test/label/accuracy"] > 0.85 and metrics["test/label/logistic_regression_accuracy"] > 0.9
    model = bmfm.load(tmp_path / "run" / "model")
    assert model.max_tokens == 512  # the checkpoint does not say what it was trained with
    table = pd.read_csv(sequence_table / "test.csv")
    said = model.predict(table["sequence"])
    assert (said["label"].to_numpy() == table["label"].to_numpy()).mean() == pytest.approx(metrics["test/label/accuracy"], abs=1e-6)
    # and by the command, keyed by an id column
    table.assign(name=[f"s{i}" for i in range(len(table))]).to_parquet(tmp_path / "in.parquet")
    from bmfm.predict import predict

    options = [f"checkpoint={tmp_path / 'run' / 'model'}", f"data.path={tmp_path / 'in.parquet'}", "data.id=name", "progress=false"]
    for suffix, read in ((".csv", pd.read_csv), (".parquet", pd.read_parquet)):
        predict(compose("predict", [*options, f"output={tmp_path / ('out' + suffix)}"]))
        out = read(tmp_path / f"out{suffix}")
        assert out["name"].tolist()[:2] == ["s0", "s1"] and {"label", "label_p_rich", "e15"} <= set(out.columns)
        np.testing.assert_allclose(out["label_p_rich"], said["label_p_rich"], atol=1e-5)
    with pytest.raises(SystemExit, match="exists already"):
        predict(compose("predict", [*options, f"output={tmp_path / 'out.csv'}"]))
    with pytest.raises(SystemExit, match=r"must end in \.csv"):
        predict(compose("predict", [*options, f"output={tmp_path / 'out.h5ad'}"]))


@pytest.mark.parametrize(
    "how",
    [
        ["model.freeze_encoder=true"],
        ["model.lora={r: 4, alpha: 8, dropout: 0.0, dora: false}"],
        ["model.lora={r: 4, alpha: 8, dropout: 0.0, dora: true}"],
    ],
)
def test_what_is_not_trained_stays(tmp_path, dna_model, sequence_table, how):
    finetune(
        tmp_path, f"checkpoint={dna_model}", f"data.path={sequence_table}", "trainer.max_steps=10", "trainer.val_check_interval=5", *how
    )
    before, after = read_model(dna_model).state_dict(), read_model(tmp_path / "model").state_dict()
    changed = {name for name, value in after.items() if name in before and (value != before[name]).any()}
    if "lora" in how[0]:
        adapter = json.loads((tmp_path / "adapter" / "adapter.json").read_text())
        assert adapter["base"] == str(dna_model) and adapter["lora"]["r"] == 4
        assert changed and all(name.startswith("backbone.body.layers") and name.endswith("weight") for name in changed)
    else:
        assert not changed


def test_merged_adapters_change_nothing(dna_model):
    heads = {"y": {"size": 2, "pooling": 0, "classes": ["a", "b"]}}
    fields = {"input_ids": {"size": 512}}
    torch.manual_seed(0)
    model = from_checkpoint(fields, heads, str(dna_model), attention="sdpa", lora={"r": 4, "alpha": 8}).eval()
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert has_lora(model) and all("lora_" in n or n.startswith("heads.") for n in trained)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    ids = torch.randint(5, 500, (2, 16))
    batch = {"input_ids": ids, "sequence_ids": torch.ones_like(ids), "position_ids": torch.arange(16).expand(2, 16), "packed": False}
    with torch.no_grad():
        apart = model.encode(batch)
        torch.testing.assert_close(merge_lora(model).encode(batch), apart, atol=1e-5, rtol=1e-4)
    assert not has_lora(model)
    with pytest.raises(ValueError, match="use the checkpoint's tokenizer"):
        from_checkpoint({"input_ids": {"size": 99}}, heads, str(dna_model))


def test_cells_are_written_beside_what_was_there(tmp_path, cells_model):
    from bmfm.predict import predict

    adata = anndata.read_h5ad(ASSETS / "rna" / "pbmc3k.h5ad")[:50].copy()
    adata.layers["counts"] = adata.X.copy()
    adata.write_h5ad(tmp_path / "in.h5ad")
    adata.write_zarr(tmp_path / "in.zarr")
    for kind in ("h5ad", "zarr"):
        output = tmp_path / f"out.{kind}"
        predict(
            compose("predict", [f"checkpoint={cells_model}", f"data.path={tmp_path / f'in.{kind}'}", f"output={output}", "progress=false"])
        )
        out = anndata.read_h5ad(output) if kind == "h5ad" else anndata.read_zarr(output)
        assert out.obsm["X_bmfm"].shape == (50, 16) and {"cell_type", "type", "type_p_a", "score"} <= set(out.obs.columns)
        assert (out.layers["counts"] == adata.X).all()
        np.testing.assert_allclose(out.obsm["X_bmfm"], bmfm.load(cells_model).embed(adata), atol=1e-5)
    assert not list(tmp_path.glob(".out*"))


def test_an_interrupted_prediction_goes_on(tmp_path, dna_model, monkeypatch):
    from bmfm.inference import inputs

    monkeypatch.setattr(inputs, "CHUNK", 4)
    model, texts = bmfm.load(dna_model), ["ACGT" * n for n in range(1, 15)]
    whole = model.embed(texts)
    calls = []
    forward = model.forward

    def failing(batch, **options):
        calls.append(len(batch["input_ids"]))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return forward(batch, **options)

    monkeypatch.setattr(model, "forward", failing)
    with pytest.raises(KeyboardInterrupt):
        model.embed(texts, ledger=Ledger(tmp_path / "parts"))
    np.testing.assert_array_equal(model.embed(texts, ledger=Ledger(tmp_path / "parts")), whole)
    assert sum(calls) == 4 * 3 + 6


def test_regions_of_a_fasta(tmp_path, dna_model, write):
    from bmfm.inference.sequences import read_regions_of_fasta

    fasta = write("g.fa", ">chr1\nACGTACGTGG\n>chr2\nTTTTCCCC\n")
    found = read_regions_of_fasta(fasta, write("r.bed", "chr2\t2\t6\nchr1\t0\t4\n"))
    assert found.to_dict() == {"chr2:2-6": "TTCC", "chr1:0-4": "ACGT"}
    assert bmfm.load(dna_model).embed(found).shape == (2, 16)


@pytest.mark.slow
def test_several_seeds_in_one_command(tmp_path, dna_model, sequence_table):
    few = [o for o in SHORT if "max_steps" not in o and "val_check" not in o and "progress" not in o]
    settings = [f"checkpoint={dna_model}", f"data.path={sequence_table}", "trainer.max_steps=4", "trainer.val_check_interval=2", *few]
    code, out, err = run(tmp_path / "x", "-m", "+recipe=dna_finetune", *settings, "seed=0,1", f"hydra.sweep.dir={tmp_path / 'sweep'}", "trainer.enable_progress_bar=false", "callbacks.progress=null", one_folder=False, cwd=tmp_path)  # fmt: skip
    assert code == 0, err[-3000:]
    table = json.loads((tmp_path / "runs" / "dna_finetune" / "seeds.json").read_text())
    assert set(table["runs"]) == {"seed0", "seed1"} and "2 runs" in out
    values = [r["test/label/accuracy"] for r in table["runs"].values()]
    assert table["mean_and_95%_half_width"]["test/label/accuracy"][0] == pytest.approx(np.mean(values))
    assert mean_and_half_width([1.0, 2.0, 3.0]) == pytest.approx((2.0, 2.484), abs=1e-3)


def test_layers_learn_at_their_own_rates(dna_model):
    model = read_model(dna_model)
    assert depth_of("backbone.body.layers.1.attn.Wo.weight", 2) == 1 and depth_of("embeddings.input_ids.embedding.weight", 2) == 3
    groups = adamw(model, 1.0, (0.9, 0.99), 1e-8, 0.1, layer_decay=0.5, head_lr=3.0).param_groups
    rates = {id(p): g["lr"] for g in groups for p in g["params"]}
    found = {name: rates[id(p)] for name, p in model.named_parameters()}
    assert found["embeddings.input_ids.embedding.weight"] == 0.125 and found["backbone.body.layers.1.attn.Wo.weight"] == 0.5
    assert found["backbone.body.layers.0.mlp.Wo.weight"] == 0.25 and found["heads.transform.dense.weight"] == 3.0
    assert len(found) == sum(len(g["params"]) for g in groups)


def test_tables(tmp_path, sequence_table, write):
    from bmfm.data.table import SequenceTable
    from bmfm.tokenizers import dna

    tokenizer = dna.DnaTokenizer.from_pretrained("dna_demo")
    one = SequenceTable(sequence_table / "train.csv", {"by": "random", "validation": 0.2, "test": 0.1}, 64, 4, second="second")
    one.connect(tokenizer)
    assert [len(one.numbers[p]) for p in ("train", "validation", "test")] == [112, 32, 16]
    batch = one.parts["train"].__getitems__([(0, 0), (0, 1)])
    assert ((batch["input_ids"] == 1).sum(1) == 2).all()  # [SEP] between and after
    with pytest.warns(UserWarning, match="lose their end.*data.max_tokens"):
        SequenceTable(sequence_table, {"by": "random", "validation": 0.1, "test": 0.1}, 8, 4).connect(tokenizer)
    with pytest.raises(KeyError, match=r"no column 'seq'.*data\.sequence"):
        SequenceTable(sequence_table, {}, 64, 4, sequence="seq").connect(tokenizer)
    with pytest.raises(ValueError, match=r"1 of 2 sequences are missing: .*t\.csv: row 3, column sequence"):
        SequenceTable(write("t.csv", "sequence,label\nACGT,1\n,0\n"), {"by": "random"}, 64, 4).connect(tokenizer)
    with pytest.raises(FileNotFoundError, match=r"without train\.csv"):
        (tmp_path / "empty").mkdir()
        SequenceTable(tmp_path / "empty", {}, 64, 4).connect(tokenizer)
