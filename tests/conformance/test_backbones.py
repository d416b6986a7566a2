"""Every backbone that ``conf/model`` lists, and the extension's, keeps the contract of `models.backbones.base`."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from transformers import AutoModel

from bmfm.checkpoints.load import from_checkpoint, read_model
from bmfm.cli import compose, instantiate
from bmfm.models.flash_attention import PACKAGE_IS_INSTALLED, kernel_for
from bmfm.models.lora import merge_lora
from bmfm.models.model import BmfmModel
from bmfm.tokenizers.collate import to_tensors
from tests.conformance.cases import (
    DEVICE,
    GENES,
    HEADS,
    HUGGINGFACE,
    LENGTHS,
    Case,
    batch_of,
    choices,
    model_of,
    of_example,
    raw_cells,
    small,
    tokenizer_from,
    tokenizer_of,
)

WEIGHTS_OF_OTHERS = ("checkpoint",)
DNA_ONLY = ("conv",)
CASES = [
    *(Case(name, "dna") for name in [*choices("model"), *HUGGINGFACE] if name not in WEIGHTS_OF_OTHERS),
    *(Case(name, "rna") for name in choices("model") if name not in (*WEIGHTS_OF_OTHERS, *DNA_ONLY)),
]
ON_GPU = DEVICE.type == "cuda"
LOADERS = {"read_model": read_model, "BmfmModel": BmfmModel.from_pretrained, "AutoModel": AutoModel.from_pretrained}

every_backbone = pytest.mark.parametrize("case", CASES, ids=str)


@torch.no_grad()
def outputs(model, batch) -> dict[str, torch.Tensor]:
    hidden = model.encode(batch)
    return {"hidden": hidden, "label": model.head("label", model.pool(hidden, batch, "mean"))}


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@every_backbone
def test_a_saved_model_is_the_same_bit_for_bit(tmp_path, case):
    model, batch = model_of(case), batch_of(case.omics)
    before, buffers = outputs(model, batch), dict(model.named_buffers())
    model.save_pretrained(tmp_path)
    for load in LOADERS.values():
        again = load(tmp_path).eval().to(DEVICE)
        assert same(outputs(again, batch), before)
        assert same(dict(again.named_buffers()), buffers)  # tables of positions are computed, not saved


def test_in_a_fresh_process_too(tmp_path):
    """One process for all: whatever this one holds of a model beside its folder is missing there."""
    for case in CASES:
        model = model_of(case)
        model.save_pretrained(tmp_path / str(case))
        torch.save((batch_of(case.omics), model.encode(batch_of(case.omics)).detach()), tmp_path / str(case) / "expected.pt")
    script = (
        "import sys, torch\nfrom pathlib import Path\nfrom bmfm.checkpoints.load import read_model\n"
        "for folder in sorted(Path(sys.argv[1]).iterdir()):\n"
        "    batch, expected = torch.load(folder / 'expected.pt')\n"
        "    with torch.no_grad():\n        assert torch.equal(read_model(folder).eval().to(batch['input_ids'].device).encode(batch), expected), folder\n"
        "print('same')"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "same", done.stderr[-3000:]


@torch.no_grad()
@every_backbone
def test_an_example_does_not_depend_on_its_neighbours(case):
    """Not on the batch, its order, more padding, nor, where several share a row, on who else lies in it."""
    model, batch = model_of(case), batch_of(case.omics)
    whole = model.encode(batch)
    layouts = {
        "alone": batch_of(case.omics, (2,)),
        "another order": batch_of(case.omics, (3, 2, 0)),
        "wider rows": batch_of(case.omics, (0, 1, 2), width=56),
    }
    if model.backbone.capabilities.packing:
        layouts["packed"] = batch_of(case.omics, (1, 0, 3, 2), row_length=64)
        assert len(layouts["packed"]["input_ids"]) < 4
    place = {"alone": 0, "another order": 1, "wider rows": 2, "packed": 3}
    expected = of_example(whole, batch, 2)
    for layout, other in layouts.items():
        states = of_example(model.encode(other), other, place[layout])
        torch.testing.assert_close(states, expected, atol=2e-5, rtol=1e-4, msg=lambda text, layout=layout: f"{layout}: {text}")
        pooled = [model.pool(model.encode(b), b, "mean")[i] for b, i in ((other, place[layout]), (batch, 2))]
        torch.testing.assert_close(*pooled, atol=2e-5, rtol=1e-4)


@every_backbone
def test_rows_of_several_examples_are_refused_where_they_cannot_be_kept_apart(case):
    model = model_of(case)
    if not model.backbone.capabilities.packing:
        with pytest.raises(ValueError, match=r"data\.packing=false"):
            model.encode(batch_of(case.omics, row_length=64))


@torch.no_grad()
@every_backbone
def test_half_precision_is_near(case):
    model, batch = model_of(case), batch_of(case.omics)
    full = model.encode(batch)
    with torch.autocast(DEVICE.type, torch.bfloat16):
        half = model.encode(batch).float()
    a, b = (torch.cat([of_example(h, batch, i) for i in range(4)]) for h in (full, half))
    assert not torch.equal(a, b)  # it was another precision
    assert (a - b).norm() / a.norm() < 0.03
    assert torch.nn.functional.cosine_similarity(a, b).min() > 0.99


@torch.no_grad()
@every_backbone
def test_embedding_and_running_are_two_steps(case):
    model, batch = model_of(case), batch_of(case.omics)
    caught = []
    hooks = [layer.register_forward_hook(lambda m, a, out: caught.append(out[0] if isinstance(out, tuple) else out)) for layer in model.backbone.layers]  # fmt: skip
    states = model.run(model.embed(batch), batch, all_layers=True)
    for hook in hooks:
        hook.remove()
    assert model.embed(batch).shape == (*batch["input_ids"].shape, model.backbone.hidden_size)
    assert torch.equal(states.last, model.encode(batch))
    assert len(states.layers) == len(model.backbone.layers) == len(caught) > 1
    for ours, hooked in zip(states.layers, caught, strict=True):
        assert ours.shape == states.last.shape
        if hooked.numel() != ours.numel():  # layers over latents, beside the first token
            torch.testing.assert_close(ours.flatten(0, 1)[batch["cls_index"]], hooked[:, 0])
            continue
        for example in range(4):
            mine = of_example(ours, batch, example)
            theirs = hooked.transpose(1, 2) if hooked.shape[1:] != ours.shape[1:] else hooked  # convolutions put channels first
            torch.testing.assert_close(mine, of_example(theirs, batch, example))
    assert not model.run(model.embed(batch), batch).layers


@every_backbone
def test_gradients_reach_the_embeddings(case):
    """Against the difference that a small step makes; nothing flows into padding or to other examples.

    In float64 for the sake of the difference, as far as a backbone goes along: rotations and some norms stay in float32.
    """
    model, batch = model_of(case).double(), batch_of(case.omics)
    batch = {k: v.double() if isinstance(v, torch.Tensor) and v.is_floating_point() else v for k, v in batch.items()}
    weights = torch.randn((*batch["input_ids"].shape, model.backbone.hidden_size), dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(DEVICE)  # fmt: skip
    mine = (batch["example_ids"] == 1)[..., None]

    def score(embeddings):
        return (model.run(embeddings, batch).last * weights * mine).sum()

    embeddings = model.embed(batch).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(score(embeddings), embeddings)
    assert gradient[mine.expand_as(gradient)].abs().min() > 0 and not gradient[~mine.expand_as(gradient)].any()
    direction = torch.randn_like(gradient)
    with torch.no_grad():
        step = (score(embeddings + 3e-4 * direction) - score(embeddings - 3e-4 * direction)) / 6e-4
    torch.testing.assert_close(step, (gradient * direction).sum(), rtol=5e-3, atol=2e-2)


@every_backbone
def test_every_parameter_is_trained(case):
    model, batch = model_of(case), batch_of(case.omics)
    model.head("label", model.pool(model.encode(batch), batch, "mean")).square().sum().backward()
    frozen = {f"backbone.{name}" for name in model.backbone.frozen_parameters()}
    without = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    assert without - frozen == set()


def _states(model, batch):
    with torch.no_grad():
        return model.encode(batch)


@every_backbone
def test_capabilities_are_true(case):
    """Of order and direction: what a backbone says of itself is seen from outside."""
    model, batch = model_of(case), batch_of(case.omics, (0,))
    can = model.backbone.capabilities
    states, changed = _states(model, batch), {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
    first, last = 3, 28  # content, and what a token at its end changes
    changed["input_ids"][0, last] = batch["input_ids"][0, last] % (len(tokenizer_of(case.omics)) - 1) + 1
    assert changed["input_ids"][0, last] != batch["input_ids"][0, last]
    after = _states(model, changed)
    assert not torch.equal(after[0, last], states[0, last])
    reaches_back = not torch.equal(after[0, :last], states[0, :last])
    assert reaches_back is not can.causal

    order = torch.arange(batch["input_ids"].shape[1])
    order[first:last] = order[first:last].flip(0)
    moved = {k: v[:, order] if k in ("input_ids", "values") else v for k, v in batch.items()}
    moves_along = torch.allclose(_states(model, moved)[0, order], states[0], atol=1e-5)
    if not can.positions or batch["position_ids"].any():  # a window of local attention goes by place even where positions are 0
        assert moves_along is not can.positions


@every_backbone
def test_isolated_tokens_are_seen_by_themselves_alone(case):
    model, batch = model_of(case), batch_of(case.omics)
    can = model.backbone.capabilities
    isolated = torch.zeros_like(batch["special_tokens_mask"])
    isolated[0, 5] = isolated[2, 7] = True
    batch["isolated_mask"] = isolated
    if not can.isolation:
        with pytest.raises(ValueError, match="masking"):
            model.encode(batch)
        return
    states = _states(model, batch)
    other = dict(batch) | {"input_ids": torch.where(isolated, batch["input_ids"] - 1, batch["input_ids"])}
    after = _states(model, other)
    for example in range(4):
        mine = (batch["example_ids"] == example) & ~isolated
        torch.testing.assert_close(after[mine], states[mine], atol=1e-6, rtol=1e-5)
    assert not torch.equal(after[isolated], states[isolated])
    seen = _states(model, {k: v for k, v in other.items() if k != "isolated_mask"})
    assert not torch.allclose(seen[0, 6:20], states[0, 6:20], atol=1e-5)  # the comparison would see it


@pytest.mark.parametrize(
    "kernel", ["sdpa", "eager", pytest.param("flex_attention", marks=[] if ON_GPU else pytest.mark.slow), "flash_attention_2"]
)
@every_backbone
def test_every_attention_kernel_says_the_same(case, kernel):
    model, batch = model_of(case), batch_of(case.omics)
    expected = _states(model, batch)
    lacks_flex = case.name in HUGGINGFACE and not model.backbone.network._supports_flex_attn  # which transformers says of each architecture
    if kernel not in model.backbone.capabilities.attention or (kernel == "flex_attention" and lacks_flex):
        with pytest.raises(ValueError, match="attention"):
            model.use_attention(kernel)
        return
    there = PACKAGE_IS_INSTALLED if case.name in HUGGINGFACE else kernel_for(0.0) is not None
    if kernel.startswith("flash") and not (ON_GPU and there):
        with pytest.raises((ImportError, ValueError), match=r"(?i)flash"):
            model.use_attention(kernel)
            _states(model, batch)
        return
    model.use_attention(kernel)
    if kernel == "flex_attention" and ON_GPU:  # benchmarks/gpu_check.py tries it with heads of published sizes
        with pytest.raises(Exception, match=r"16 and more|at least 16"):  # ours, or for models of others torch's
            _states(model, batch)
        return
    with torch.autocast("cuda", torch.bfloat16, enabled=kernel.startswith("flash")):
        states = _states(model, batch).float()
    tolerance = {"atol": 0.1, "rtol": 0.1} if kernel.startswith("flash") else {"atol": 2e-5, "rtol": 1e-4}
    for example in range(4):
        torch.testing.assert_close(of_example(states, batch, example), of_example(expected, batch, example), **tolerance)


@every_backbone
def test_adapters_are_saved_and_merged(tmp_path, case):
    model, batch = model_of(case), batch_of(case.omics)
    model.save_pretrained(tmp_path / "base")
    if not any(isinstance(module, torch.nn.Linear) for module in model.backbone.modules()) and case.name not in HUGGINGFACE:
        with pytest.raises(ValueError, match="no linear maps"):
            from_checkpoint({}, HEADS, str(tmp_path / "base"), lora={"r": 2, "alpha": 4})
        return
    tuned = from_checkpoint({}, HEADS, str(tmp_path / "base"), lora={"r": 2, "alpha": 4}).eval().to(DEVICE)
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_" in name:
                parameter.normal_(0, 0.1)
    apart = outputs(tuned, batch)
    assert not torch.allclose(apart["hidden"], outputs(model, batch)["hidden"], atol=1e-4)
    merged = merge_lora(tuned)
    together = outputs(merged, batch)
    torch.testing.assert_close(together["label"], apart["label"], atol=1e-5, rtol=1e-4)
    merged.save_pretrained(tmp_path / "merged")
    assert same(outputs(read_model(tmp_path / "merged").eval().to(DEVICE), batch), together)


@pytest.mark.parametrize("name", choices("values"))
def test_value_encoders(tmp_path, name):
    """Every encoder of values comes back bit for bit, is near in half precision, and learns all of its parameters."""
    binned = ["tokenizer.values.kind=percentile_bins"] if name == "token" else []
    tokenizer = tokenizer_from(compose("train", ["tokenizer=cells", f"tokenizer.genes=[{','.join(GENES)}]", *binned]).tokenizer)
    config = compose(
        "train", ["~representation", "data=rna", "tokenizer=cells", "model=bert", *small("model", "bert"), f"values={name}"]
    ).model
    torch.manual_seed(0)
    model = instantiate(config, fields=tokenizer.fields, heads=HEADS, genes={}, _convert_="all").eval().to(DEVICE)
    raw = raw_cells(LENGTHS)
    rows = to_tensors(tokenizer.collate(tokenizer.encode(raw, np.arange(4, dtype=np.uint64), 64)))
    batch = {k: v.to(DEVICE) if isinstance(v, torch.Tensor) else v for k, v in rows.items()}
    model.save_pretrained(tmp_path)
    assert same(outputs(read_model(tmp_path).eval().to(DEVICE), batch), outputs(model, batch))
    with torch.autocast(DEVICE.type, torch.bfloat16):
        half = model.encode(batch).float()
    shown = batch["sequence_ids"] > 0
    assert (half - model.encode(batch))[shown].norm() / half[shown].norm() < 0.03
    model.embed(batch).square().sum().backward()
    encoder = {n: p for n, p in model.named_parameters() if n.startswith("embeddings.values") and p.requires_grad}
    assert encoder and all(p.grad is not None and p.grad.any() for p in encoder.values())
