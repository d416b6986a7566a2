"""Whole runs of the entry point, in processes of their own: what a user types."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

SHORT = [
    "model.hidden_size=32", "model.intermediate_size=32", "model.num_hidden_layers=2", "data.batch_size=4", "trainer.log_every_n_steps=1",
    "trainer.enable_progress_bar=false", "callbacks.progress=null", "trainer.val_check_interval=8", "callbacks.last.every_n_train_steps=4",
    "trainer.accumulate_grad_batches=2",
]  # fmt: skip
TINY = {
    "dna": ["+recipe=dna_snp", *SHORT, "data.windows.min_length=200", "data.windows.max_length=200", "data.held_out_windows.coverage=0.2"],
    "rna": ["+recipe=rna_multitask", *SHORT, "data.max_tokens=64", "data.statistics_cells=64", "data.packing=true", "trainer.limit_val_batches=10",
            "tokenizer.read_depth.mode=downsample", "objectives.genes.masking.adaptive=true", "data.split.validation=0.05"],
}  # fmt: skip
DROPOUT = {"dna": "model.mlp_dropout", "rna": "model.hidden_dropout_prob"}


def run(
    folder: Path, *overrides: str, module: str = "bmfm.train", wait: bool = True, one_folder: bool = True, cwd=None, **environment: str
):
    command = [sys.executable, "-m", module, *overrides, *([f"run_dir={folder}"] if module == "bmfm.train" and one_folder else [])]
    own = {k: v for k, v in os.environ.items() if k not in ("MASTER_ADDR", "MASTER_PORT", "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE")}
    process = subprocess.Popen(command, env=own | {"OMP_NUM_THREADS": "1"} | environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cwd)  # fmt: skip
    if not wait:
        return process
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def losses(folder: Path) -> dict[int, float]:
    from bmfm.training.report import read_curve

    return dict(read_curve(folder / "csv")["train/loss"])


@pytest.fixture(scope="module")
def whole_runs(tmp_path_factory):
    """{omics: (folder, printed)} of a finished run."""
    done = {}
    for omics, tiny in TINY.items():
        folder = tmp_path_factory.mktemp(omics)
        code, out, err = run(folder, *tiny, f"{DROPOUT[omics]}=0.1", "trainer.max_steps=12")
        assert code == 0, err[-3000:]
        done[omics] = folder, out
    return done


@pytest.mark.parametrize("omics", TINY)
def test_run_leaves_model_curve_and_summary(whole_runs, omics):
    folder, out = whole_runs[omics]
    for name in (
        "model/model.safetensors",
        "model/README.md",
        "model/recipe.json",
        "loss.png",
        "checkpoints/last.ckpt",
        "checkpoints/best.ckpt",
    ):
        assert (folder / name).stat().st_size > 100, name
    with next((folder / "csv").glob("*/metrics.csv")).open() as lines:
        columns = set(csv.DictReader(lines).fieldnames or ())
    if omics == "dna":
        assert "with a variant" in out and "left out" in out
        assert {"val/loss", "val/mlm/perplexity", "val/mlm/accuracy", "val/baseline_loss", "val/mlm/loss_reference", "train/lr"} <= columns
    else:
        assert "logistic regression" in out and "genes in the vocabulary" in out and "62 examples have none" in out
        assert {"val/genes/perplexity", "val/values/pearson", "val/cell_type/macro_f1", "train/cell_type/cross_entropy"} <= columns


def test_model_of_cells_says_what_it_needs(whole_runs):
    from bmfm.models.model import BmfmModel
    from bmfm.tokenizers.rna import CellTokenizer

    folder = whole_runs["rna"][0] / "model"
    model, tokenizer = BmfmModel.from_pretrained(folder), CellTokenizer.from_pretrained(folder)
    assert len(model.config.heads["cell_type"]["classes"]) == 8 and model.config.fields["input_ids"]["size"] == len(tokenizer) == 19321


def test_model_loads_in_plain_transformers_with_the_same_logits(whole_runs):
    folder, _ = whole_runs["dna"]
    script = (
        "import sys; sys.modules['bmfm'] = None\n"
        "import torch\nfrom transformers import AutoModelForMaskedLM, AutoTokenizer\n"
        f"m = AutoModelForMaskedLM.from_pretrained({str(folder / 'model')!r}).eval()\n"
        f"t = AutoTokenizer.from_pretrained({str(folder / 'model')!r})\n"
        "x = t(['ACGTTTGACC[MASK]高TTA', 'AC'], return_tensors='pt', padding=True)\n"
        f"torch.save((x['input_ids'], x['attention_mask'], m(**{{k: x[k] for k in ('input_ids', 'attention_mask')}}).logits), {str(folder / 'l.pt')!r})\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    import torch
    from transformers import ModernBertForMaskedLM

    from bmfm.checkpoints.transformers_format import from_transformers

    ids, mask, theirs = torch.load(folder / "l.pt")
    model = from_transformers(ModernBertForMaskedLM.from_pretrained(folder / "model")).eval()
    batch = {"input_ids": ids, "sequence_ids": mask, "position_ids": torch.arange(ids.shape[1]).expand_as(ids)}
    with torch.no_grad():
        ours = model.head("mlm", model.encode(batch))
    torch.testing.assert_close(ours[mask > 0], theirs[mask > 0], atol=1e-6, rtol=1e-5)


@pytest.mark.slow  # tests/conformance goes on after every step of every recipe
@pytest.mark.parametrize("omics", ["dna", "rna"])
def test_killed_and_resumed_run_is_the_uninterrupted_one_bit_for_bit(whole_runs, tmp_path, omics):
    whole, _ = whole_runs[omics]
    settings = [*TINY[omics], f"{DROPOUT[omics]}=0.1", "trainer.max_steps=12"]
    process = run(tmp_path, *settings, wait=False)
    last = tmp_path / "checkpoints" / "last.ckpt"
    deadline = time.time() + 120
    while not last.exists() and time.time() < deadline and process.poll() is None:
        time.sleep(0.02)
    time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    code, _, err = run(tmp_path, *settings, "resume=true")
    assert code == 0, err[-3000:]
    expected, resumed = losses(whole), losses(tmp_path)
    assert resumed and all(expected[step] == loss for step, loss in resumed.items())
    assert max(resumed) == max(expected)
    import safetensors.torch

    a, b = (safetensors.torch.load_file(f / "model" / "model.safetensors") for f in (whole, tmp_path))
    assert all((a[k] == b[k]).all() for k in a)


def test_sigterm_saves_before_leaving(tmp_path):
    process = run(
        tmp_path,
        *TINY["dna"],
        "trainer.max_steps=100000",
        "trainer.val_check_interval=100000",
        "callbacks.last.every_n_train_steps=100000",
        wait=False,
    )
    deadline = time.time() + 120
    while not list(tmp_path.glob("csv/*/hparams.yaml")) and not list(tmp_path.glob("csv/*")) and time.time() < deadline:
        time.sleep(0.1)
    time.sleep(3)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err[-2000:]
    assert (tmp_path / "checkpoints" / "last.ckpt").exists() and "checkpoints" in out


def test_a_finished_run_is_not_overwritten(whole_runs):
    code, _, err = run(whole_runs["dna"][0], *TINY["dna"], "trainer.max_steps=12")
    assert code != 0 and "resume=true" in err


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["+recipe=dna_spn"], "did you mean dna_snp"),
        (["+recipe=dna_snp", "optimizer.lrr=1"], "did you mean optimizer.lr"),
        (["+recipe=dna_snp", "data.fasta=nowhere.fa"], "nowhere.fa' does not exist"),
        (["+recipe=dna_snp_113m"], "needs data.fasta=..., data.variants=..."),
        (["+recipe=rna_wced", "data.path=nowhere.h5ad"], "nowhere.h5ad' does not exist"),
        pytest.param(
            ["+recipe=rna_wced", "data.counts=layers/raw"],
            "no matrix 'layers/raw'; counts (data.counts) can be auto, X",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ["+recipe=rna_multitask", "objectives.cell_type.column=celltype"],
            "no .obs column 'celltype'; it has cell_type",
            marks=pytest.mark.slow,
        ),
        (["+recipe=rna_llama_32m_mlm_multitask"], "needs data.path=..., objectives.cell_type.ontology=..."),
    ],
)
def test_mistakes_are_answered_clearly(tmp_path, overrides, said):
    code, _, err = run(tmp_path, *overrides)
    assert code != 0 and said in err and "Traceback" not in err


def test_tokenizer_entry_point(tmp_path):
    small = ["data.windows.coverage=0.05", "vocab_size=100", f"output={tmp_path / 't'}", f"hydra.run.dir={tmp_path}"]
    code, out, err = run(tmp_path, "+recipe=dna_tokenizer", *small, module="bmfm.tokenize")
    assert code == 0 and "100 tokens" in out, err[-2000:]
    assert (tmp_path / "t" / "tokenizer.json").exists()


@pytest.mark.slow
def test_overfitting_a_few_windows_learns_them_by_heart(tmp_path):
    limits = [
        "callbacks.progress=null",
        "trainer.enable_progress_bar=false",
        "trainer.val_check_interval=300",
        "trainer.limit_val_batches=1",
    ]
    code, _, err = run(tmp_path, "+recipe=dna_snp", "+debug=overfit", *limits)
    assert code == 0, err[-2000:]
    curve = [loss for _, loss in sorted(losses(tmp_path).items())]
    assert np.mean(curve[-3:]) < 0.5 * curve[0]


@pytest.mark.slow
def test_compiled_run_gives_the_losses_of_the_plain_one(tmp_path):
    for name in ("plain", "compiled"):
        code, _, err = run(tmp_path / name, *TINY["dna"], "trainer.max_steps=4", f"compile={'true' if name == 'compiled' else 'false'}")
        assert code == 0, err[-2000:]
    plain, compiled = losses(tmp_path / "plain"), losses(tmp_path / "compiled")
    np.testing.assert_allclose(list(compiled.values()), list(plain.values()), rtol=1e-4)


@pytest.mark.slow
def test_wheel_carries_configuration_and_data(tmp_path):
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", tmp_path, root], check=True, capture_output=True)
    import zipfile

    names = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    for wanted in (
        "bmfm/conf/train.yaml",
        "bmfm/conf/recipe/dna_snp.yaml",
        "bmfm/assets/genome/chr20_slice.fa.gz",
        "bmfm/assets/rna/pbmc3k.h5ad",
        "bmfm/assets/genes/human_genes.tsv.gz",
        "bmfm/cells/sources.py",
        "bmfm/evaluation/baselines/linear.py",
        "bmfm/assets/tokenizers/dna_demo/tokenizer.json",
    ):
        assert wanted in names
