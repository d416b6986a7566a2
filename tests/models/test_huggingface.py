"""DNA models of others as backbones, made on the spot in the forms that the Hub has them in."""

import json
import shutil

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertTokenizerFast,
    EsmConfig,
    EsmForMaskedLM,
    EsmTokenizer,
    PreTrainedTokenizerFast,
)

import bmfm
from bmfm.checkpoints.huggingface import is_huggingface
from bmfm.checkpoints.load import from_checkpoint, read_model, read_tokenizer
from bmfm.cli import compose
from bmfm.special import CLS, PAD, SEP
from bmfm.tokenizers.huggingface import HuggingFaceTokenizer

WORDS = [a + b + c for a in "ACGT" for b in "ACGT" for c in "ACGT"]
TEXTS = ["ACGTTGCAACGA", "acgtag", "GATTACAGATTACAA"]


@pytest.fixture(scope="module")
def nucleotide_transformer(tmp_path_factory):
    """ESM layers over k-mers: <cls> before, nothing after, as the Nucleotide Transformer has it."""
    folder = tmp_path_factory.mktemp("nt")
    (folder / "vocab.txt").write_text("\n".join(["<unk>", "<pad>", "<mask>", "<cls>", *WORDS, *"ACGTN"]))
    tokenizer = EsmTokenizer(str(folder / "vocab.txt"), eos_token=None, model_max_length=64)
    torch.manual_seed(0)
    config = EsmConfig(vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
                       max_position_embeddings=66, pad_token_id=1, mask_token_id=2, token_dropout=False)  # fmt: skip
    EsmForMaskedLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def dnabert(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dnabert")
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"ACGTN", *(f"##{c}" for c in "ACGTN")]
    (folder / "vocab.txt").write_text("\n".join(vocab))
    tokenizer = BertTokenizerFast(str(folder / "vocab.txt"), do_lower_case=False)
    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(vocab), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16)
    BertForMaskedLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


CODE = """
import pathlib
import torch
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

pathlib.Path("{mark}").write_text("ran")


class TinyConfig(PretrainedConfig):
    model_type = "tiny_conv"

    def __init__(self, d_model=8, n_layer=2, vocab_size=7, **kwargs):
        self.d_model, self.n_layer, self.vocab_size = d_model, n_layer, vocab_size
        super().__init__(**kwargs)


class TinyModel(PreTrainedModel):
    config_class = TinyConfig
    base_model_prefix = "tiny"

    def __init__(self, config):
        super().__init__(config)
        self.embed = torch.nn.Embedding(config.vocab_size, config.d_model)
        self.layers = torch.nn.ModuleList(torch.nn.Linear(config.d_model, config.d_model) for _ in range(config.n_layer))
        self.post_init()

    def get_input_embeddings(self):
        return self.embed

    def forward(self, input_ids, output_hidden_states=False):
        hidden = self.embed(input_ids)
        for layer in self.layers:
            hidden = hidden + torch.relu(layer(hidden.cumsum(1)))
        return BaseModelOutput(last_hidden_state=hidden)
"""


@pytest.fixture
def with_code(tmp_path):
    """A causal model of single bases with code of its own, without [CLS] and mask: as HyenaDNA comes. The code leaves a mark when run."""
    folder = tmp_path / "hyena"
    folder.mkdir()
    (folder / "modeling_tiny.py").write_text(CODE.replace("{mark}", str(tmp_path / "mark")))
    auto = {"AutoConfig": "modeling_tiny.TinyConfig", "AutoModel": "modeling_tiny.TinyModel"}
    (folder / "config.json").write_text(
        json.dumps({"model_type": "tiny_conv", "d_model": 8, "n_layer": 2, "vocab_size": 7, "auto_map": auto})
    )
    vocab = {"[PAD]": 0, "[UNK]": 1, "A": 2, "C": 3, "G": 4, "T": 5, "N": 6}
    backend = Tokenizer(WordLevel(vocab, unk_token="[UNK]"))
    backend.pre_tokenizer = Split("", "isolated")
    PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    from safetensors.torch import save_file

    torch.manual_seed(0)
    shapes = {"embed.weight": (7, 8)} | {f"layers.{i}.{n}": s for i in range(2) for n, s in (("weight", (8, 8)), ("bias", (8,)))}
    save_file({name: torch.randn(shape) for name, shape in shapes.items()}, folder / "model.safetensors", {"format": "pt"})
    return folder


def _theirs(folder, texts, model_class, tokenizer_class):
    """Hidden states of each text by transformers alone."""
    tokenizer, model = tokenizer_class.from_pretrained(folder), model_class.from_pretrained(folder).eval()
    with torch.no_grad():
        return [model(**tokenizer(t, return_tensors="pt"), output_hidden_states=True).hidden_states[-1][0].numpy() for t in texts]


@pytest.mark.parametrize("pooling", [0, "mean", "mean_all", None])
@pytest.mark.parametrize("which", ["nt", "bert"])
def test_embeddings_are_those_of_transformers(which, pooling, nucleotide_transformer, dnabert):
    folder, classes = (
        (nucleotide_transformer, (EsmForMaskedLM, EsmTokenizer)) if which == "nt" else (dnabert, (BertForMaskedLM, BertTokenizerFast))
    )
    assert is_huggingface(folder)
    expected = _theirs(folder, [t.upper() for t in TEXTS], *classes)
    expected = np.stack([h[0] if pooling == 0 else h.mean(0) if pooling == "mean_all" else h[1:].mean(0) for h in expected])
    model = bmfm.load(folder)
    np.testing.assert_allclose(model.embed(TEXTS, pooling=pooling), expected, atol=1e-5)
    np.testing.assert_allclose(model.embed(TEXTS, pooling=pooling, batch_size=1), expected, atol=1e-5)
    assert model.counts["unknown_tokens"] == 0 and model.max_tokens == (64 if which == "nt" else 512)


def test_ids_are_ours(nucleotide_transformer):
    tokenizer = read_tokenizer(nucleotide_transformer)
    assert (
        isinstance(tokenizer, HuggingFaceTokenizer)
        and tokenizer.hf_token_ids[[CLS, PAD]].tolist() == [3, 1]
        and tokenizer.hf_token_ids[SEP] == -1
    )
    raw, n_replaced = tokenizer.read_texts(["acgtrA"])
    ids = tokenizer.encode(raw)[0]
    assert [tokenizer.names[i] for i in ids] == ["ACG", "T", "N", "A"] and n_replaced == 1
    assert tokenizer.spans(ids, 6).tolist() == [[0, 3], [3, 4], [4, 5], [5, 6]]


def test_fine_tuning_saving_and_layers(tmp_path, nucleotide_transformer, sequence_table):
    from bmfm.train import train
    from tests.training.test_finetune import SHORT

    options = [
        f"checkpoint={nucleotide_transformer}",
        f"data.path={sequence_table}",
        "objectives.label.pooling=mean",
        "optimizer.layer_decay=0.9",
    ]
    metrics = train(compose("train", ["+recipe=dna_finetune", *SHORT, f"run_dir={tmp_path}", *options]))
    assert metrics["test/label/accuracy"] > 0.8
    model = bmfm.load(tmp_path / "model")
    assert model.predict(TEXTS)["label"].isin(["rich", "poor"]).all()
    assert np.isfinite(model.embed(TEXTS, layer=0)).all()
    with pytest.raises(ValueError, match=r"data.packing=false"):
        train(compose("train", ["+recipe=dna_finetune", *SHORT, f"run_dir={tmp_path / 'p'}", "data.packing=true", *options]))


def test_masked_language_modelling_goes_on(tmp_path, nucleotide_transformer):
    """On windows of a genome, by the model's own tokenizer and language-model head, which training changes."""
    from bmfm.train import train
    from tests.test_conf import SHRUNK, SHRUNK_DNA

    options = ["tokenizer=checkpoint", "model=checkpoint", f"checkpoint={nucleotide_transformer}", "+recipe=dna_ref", f"run_dir={tmp_path}"]
    metrics = train(compose("train", [*options, *SHRUNK, *SHRUNK_DNA, "optimizer.lr=0.01"]))
    before, after = bmfm.load(nucleotide_transformer).model, bmfm.load(tmp_path / "model").model
    assert np.isfinite(metrics["val/loss"]) and after.backbone.capabilities.lm_head
    named = dict(before.backbone.named_parameters())
    moved = {name for name, p in after.backbone.named_parameters() if not torch.equal(p, named[name])}
    assert any("lm_head" in name for name in moved) and any("encoder" in name for name in moved)


def test_code_is_run_only_if_asked_for(tmp_path, with_code):
    with pytest.raises(ValueError, match="remote_code=true"):
        bmfm.load(with_code)
    assert not (tmp_path / "mark").exists()
    model = bmfm.load(with_code, remote_code=True)
    assert (tmp_path / "mark").exists()
    embedded = model.embed(["ACGT", "AC"], pooling="mean")
    np.testing.assert_allclose(embedded[1], model.embed(["AC"], pooling="mean")[0], atol=1e-6)
    assert model.embed(["ACGT"], layer=0, pooling="mean").shape == (1, 8)
    body, ids = model.model.backbone.encoder, torch.tensor([[2, 3, 4, 5]])
    np.testing.assert_allclose(embedded[0], body(ids).last_hidden_state[0].mean(0).detach().numpy(), atol=1e-5)
    with pytest.raises(ValueError, match="pooling=mean"):
        model.tokenizer.check_cls(0, "objective label")


def test_code_of_a_saved_model_is_not_run_either(tmp_path, with_code):
    """Neither may a config.json that claims permission get it."""
    model = bmfm.load(with_code, remote_code=True)
    saved = tmp_path / "saved"
    model.model.save_pretrained(saved)
    model.tokenizer.save_pretrained(saved)
    (tmp_path / "mark").unlink()
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps(config | {"remote_code": True, "trust_remote_code": True}))
    with pytest.raises(ValueError, match="remote_code=true"):
        read_model(saved)
    assert str(tmp_path) not in (saved / "config.json").read_text() and (saved / "code" / "modeling_tiny.py").is_file()
    shutil.rmtree(with_code)  # what was saved stands alone
    again = bmfm.load(saved, remote_code=True)
    np.testing.assert_allclose(again.embed(["ACGT"], pooling="mean"), model.embed(["ACGT"], pooling="mean"), atol=1e-6)


def test_padding_does_not_go_beyond_the_positions(nucleotide_transformer):
    """Batches are padded to a multiple of 8, here to 64 + 8 with [SEP]; the model has 64 positions."""
    model = bmfm.load(nucleotide_transformer)
    assert model.max_tokens == 64
    embedded = model.embed(["ACG" * 62, "ACG" * 200], pooling="mean", max_tokens=1000)
    assert np.isfinite(embedded).all() and model.counts["windows"] == 1 + 4


def test_inputs_are_cut_to_the_positions_and_that_is_said(tmp_path, nucleotide_transformer):
    from bmfm.data.table import SequenceTable

    (tmp_path / "t.csv").write_text("sequence,label\n" + "".join(f"{'ACG' * n},a\n" for n in (10, 80, 20)))
    data = SequenceTable(tmp_path / "t.csv", {"by": "random", "validation": 0.0, "test": 0.0}, 1000, 2)
    with pytest.warns(UserWarning, match="33.3% of inputs lose their end"):
        data.connect(read_tokenizer(nucleotide_transformer))
    assert "64 tokens" in data.notes["longest input"] and data.tokens.lengths.max() == 62


def test_overlapping_words(tmp_path):
    """DNABERT writes a sequence as one word of k bases for each base, with spaces between them."""
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    tokenizer = BertTokenizerFast(str(tmp_path / "vocab.txt"), do_lower_case=False)
    BertConfig(vocab_size=len(tokenizer), hidden_size=16).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    read = HuggingFaceTokenizer.from_pretrained(tmp_path)
    ids = read.encode(read.read_texts(["ACGTTN"])[0])[0]
    assert [read.names[i] for i in ids] == ["ACG", "CGT", "GTT", "[UNK]"]
    assert read.spans(ids, 6).tolist() == [[0, 1], [1, 2], [2, 3], [3, 6]]


def test_a_first_token_that_sees_nothing_is_refused(tmp_path):
    from transformers import GPT2Config, GPT2LMHeadModel

    vocab = {"<s>": 0, "<pad>": 1, "<unk>": 2, **{c: 3 + i for i, c in enumerate("ACGTN")}, "AA": 8, "CC": 9}
    backend = Tokenizer(WordLevel(vocab, unk_token="<unk>"))
    backend.pre_tokenizer = Split("", "isolated")
    PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", pad_token="<pad>", unk_token="<unk>").save_pretrained(tmp_path)
    GPT2LMHeadModel(GPT2Config(vocab_size=10, n_embd=8, n_layer=1, n_head=2, n_positions=32)).save_pretrained(tmp_path)
    model = bmfm.load(tmp_path)
    with pytest.raises(ValueError, match="see only what is before them"):
        model.embed(["ACGT"], pooling=0)
    embedded = model.embed(["ACGT", "ACGA"], pooling="mean")
    assert (embedded[0] != embedded[1]).any() and model.max_tokens == 32


def test_text_that_a_tokenizer_does_not_read_is_refused(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cell"]))
    tokenizer = BertTokenizerFast(str(tmp_path / "vocab.txt"), do_lower_case=False)
    config = BertConfig(vocab_size=len(tokenizer), hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    BertForMaskedLM(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"2 of 2 tokens are \[UNK\]"):
        bmfm.load(tmp_path).embed(["ACGT", "GGGA"])


def test_weights_that_are_absent_are_named(tmp_path, dnabert):
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "broken"
    shutil.copytree(dnabert, folder)
    state = load_file(folder / "model.safetensors")
    save_file({k: v for k, v in state.items() if "layer.1." not in k}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"no weights for .*layer\.1"):
        read_model(folder)


def test_a_folder_that_names_another_model_is_refused(tmp_path, dnabert):
    """transformers follows `adapter_config.json` to the model that it names, wherever that is."""
    shutil.copytree(dnabert, tmp_path / "m")
    (tmp_path / "m" / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "someone/else"}')
    with pytest.raises(ValueError, match="holds a peft adapter: merge it"):
        bmfm.load(tmp_path / "m")


def test_new_weights(dnabert):
    fields = read_tokenizer(dnabert).fields
    heads = {"label": {"size": 2, "pooling": 0, "classes": ["a", "b"], "kind": "bmfm.label_kinds.Classification"}}
    torch.manual_seed(3)
    kept, new = (from_checkpoint(fields, heads, str(dnabert), random_init=s).state_dict() for s in (False, True))
    name = "backbone.network.bert.encoder.layer.0.output.dense.weight"
    assert (kept[name] == read_model(dnabert).state_dict()[name]).all() and (kept[name] != new[name]).any()
