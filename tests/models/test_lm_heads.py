"""Models of others with their own embeddings and language-model head: both are exactly what transformers computes."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertTokenizerFast,
    EsmConfig,
    EsmForMaskedLM,
    EsmTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
)

from bmfm.checkpoints.load import from_checkpoint, read_model, read_tokenizer, save_together, set_trained
from bmfm.genome.alphabet import encode
from bmfm.genome.representation import Encoded
from bmfm.special import MASK
from bmfm.storage.remote_code import remote_code
from bmfm.tokenizers.collate import to_tensors

WORDS = [a + b + c for a in "ACGT" for b in "ACGT" for c in "ACGT"]
TEXTS = ["ACGTTGCAACGA", "ACGTAG", "GATTACAGATTACAA"]
MLM = {"transform": True, "tied": "input_ids"}


def _words(folder, **special):
    vocab = {token: i for i, token in enumerate([*special.values(), *"ACGTN"])}
    backend = Tokenizer(WordLevel(vocab, unk_token=special["unk_token"]))
    backend.pre_tokenizer = Split("", "isolated")
    PreTrainedTokenizerFast(tokenizer_object=backend, **special).save_pretrained(folder)


def nucleotide_transformer(folder):
    """ESM over k-mers, whose embeddings of [MASK] are dropped and of all others scaled by how many there are (token_dropout)."""
    (folder / "vocab.txt").write_text("\n".join(["<unk>", "<pad>", "<mask>", "<cls>", *WORDS, *"ACGTN"]))
    tokenizer = EsmTokenizer(str(folder / "vocab.txt"), eos_token=None, model_max_length=64)
    config = EsmConfig(vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
                       max_position_embeddings=66, pad_token_id=1, mask_token_id=2, token_dropout=True)  # fmt: skip
    EsmForMaskedLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def dnabert(folder):
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"ACGTN", *(f"##{c}" for c in "ACGTN")]))
    BertForMaskedLM(
        BertConfig(vocab_size=15, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16)
    ).save_pretrained(folder)
    BertTokenizerFast(str(folder / "vocab.txt"), do_lower_case=False).save_pretrained(folder)


def gpt2(folder):
    _words(folder, bos_token="<s>", pad_token="<pad>", unk_token="<unk>", eos_token="</s>")
    GPT2LMHeadModel(GPT2Config(vocab_size=9, n_embd=8, n_layer=2, n_head=2, n_positions=32)).save_pretrained(folder)


CODE = """
import torch
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutput


class SumConfig(PretrainedConfig):
    model_type = "sum_lm"

    def __init__(self, d_model=8, n_layer=2, vocab_size=8, **kwargs):
        self.d_model, self.n_layer, self.vocab_size = d_model, n_layer, vocab_size
        super().__init__(**kwargs)


class SumModel(PreTrainedModel):
    config_class = SumConfig
    base_model_prefix = "sums"

    def __init__(self, config):
        super().__init__(config)
        self.wte = torch.nn.Embedding(config.vocab_size, config.d_model)
        self.blocks = torch.nn.ModuleList(torch.nn.Linear(config.d_model, config.d_model) for _ in range(config.n_layer))
        self.post_init()

    def forward(self, input_ids, output_hidden_states=False):
        hidden = self.wte(input_ids) * (1 + input_ids[..., None] / 10)
        for block in self.blocks:
            hidden = hidden + torch.relu(block(hidden.cumsum(1)))
        return BaseModelOutput(last_hidden_state=hidden)


class SumForCausalLM(PreTrainedModel):
    config_class = SumConfig
    base_model_prefix = "sums"

    def __init__(self, config):
        super().__init__(config)
        self.sums = SumModel(config)
        self.lm_head = torch.nn.Linear(config.d_model, config.vocab_size)
        self.post_init()

    def forward(self, input_ids, labels=None):
        outputs = self.sums(input_ids)
        return CausalLMOutput(logits=self.lm_head(outputs[0]))
"""


def hyena(folder):
    """Code of its own, which makes something of the ids beside what it looks up, and does not say where it looks up."""
    (folder / "modeling_sum.py").write_text(CODE)
    auto = {name: f"modeling_sum.Sum{kind}" for name, kind in (("AutoConfig", "Config"), ("AutoModel", "Model"), ("AutoModelForCausalLM", "ForCausalLM"))}  # fmt: skip
    described = {"model_type": "sum_lm", "d_model": 8, "n_layer": 2, "vocab_size": 8, "architectures": ["SumForCausalLM"], "auto_map": auto}
    (folder / "config.json").write_text(json.dumps(described))
    _words(folder, pad_token="[PAD]", unk_token="[UNK]", sep_token="[SEP]")
    shapes = {"sums.wte.weight": (8, 8), "lm_head.weight": (8, 8), "lm_head.bias": (8,)}
    shapes |= {f"sums.blocks.{i}.{n}": s for i in range(2) for n, s in (("weight", (8, 8)), ("bias", (8,)))}
    save_file({name: torch.randn(shape) for name, shape in shapes.items()}, folder / "model.safetensors", {"format": "pt"})


MODELS = {
    "nucleotide_transformer": (nucleotide_transformer, EsmForMaskedLM, "masked"),
    "dnabert": (dnabert, BertForMaskedLM, "masked"),
    "gpt2": (gpt2, GPT2LMHeadModel, "causal"),
    "hyena": (hyena, AutoModelForCausalLM, "causal"),
}


@pytest.fixture(scope="module", params=MODELS)
def case(request, tmp_path_factory):
    """A folder, its model of transformers, our model and its tokenizer, and the kind of its head."""
    make, model_class, kind = MODELS[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    make(folder)
    more = {"trust_remote_code": True} if request.param == "hyena" else {}
    with remote_code(True):
        return folder, model_class.from_pretrained(folder, **more).eval(), read_model(folder), read_tokenizer(folder), kind


def _batch(tokenizer):
    raw = Encoded(encode("".join(TEXTS)), np.concatenate([[0], np.cumsum([len(t) for t in TEXTS])]).astype(np.int64))
    tokens = tokenizer.encode(raw, np.arange(1, 4, dtype=np.uint64), 30)
    batch = to_tensors(tokenizer.collate(tokens))
    if tokenizer.hf_token_ids[MASK] >= 0:
        batch["input_ids"][1, 2] = MASK
    return batch


def _theirs(model, tokenizer, batch, example):
    """Ids of one example as transformers gets them, what it makes of them, and our columns of them."""
    ids = tokenizer.hf_token_ids[batch["input_ids"][example].numpy()]
    columns = np.flatnonzero((batch["example_ids"][example].numpy() >= 0) & (ids >= 0))
    given = torch.tensor(ids[columns])[None]
    encoder = model.base_model
    with torch.no_grad():
        return given, encoder(given)[0][0], model(given).logits[0], columns


def test_states_and_logits_are_those_of_transformers(case):
    _, theirs, model, tokenizer, kind = case
    batch = _batch(tokenizer)
    assert model.backbone.capabilities.lm_head and model.backbone.lm_head == kind and model.backbone.causal == (kind == "causal")
    with torch.no_grad():
        states = model.run(model.embed(batch), batch, all_layers=True)
        logits = model.lm_logits(states.last)
    assert torch.equal(states.last, model.encode(batch)) and len(states.layers) == 2
    ours = np.flatnonzero(tokenizer.hf_token_ids >= 0)
    for example in range(3):
        _, hidden, expected, columns = _theirs(theirs, tokenizer, batch, example)
        torch.testing.assert_close(states.last[example, columns], hidden, atol=1e-6, rtol=1e-5)
        mine = logits[example, columns]
        torch.testing.assert_close(mine[:, ours], expected[:, tokenizer.hf_token_ids[ours]], atol=1e-6, rtol=1e-5)
        assert (mine[:, tokenizer.hf_token_ids < 0] == -torch.inf).all()


def test_embeddings_can_be_changed_and_get_gradients(case):
    """The gradient of the looked-up rows is that of transformers' own embedding, summed over where each row stands."""
    _, theirs, model, tokenizer, _ = case
    batch = _batch(tokenizer)
    embeddings = model.embed(batch).detach().requires_grad_()
    hidden = model.run(embeddings, batch).last
    given, _, _, columns = _theirs(theirs, tokenizer, batch, 0)
    weights = torch.randn(len(columns), hidden.shape[-1])
    (gradient,) = torch.autograd.grad((hidden[0, columns] * weights).sum(), embeddings)
    table = next(p for n, p in theirs.named_parameters() if n.endswith(("word_embeddings.weight", "wte.weight")))
    theirs.zero_grad()
    (theirs.base_model(given)[0][0] * weights).sum().backward()
    summed = torch.zeros_like(table).index_add_(0, given[0], gradient[0, columns])
    torch.testing.assert_close(summed, table.grad, atol=1e-5, rtol=1e-4)
    assert not gradient[1:].any()
    other = model.run(embeddings.flip(-1), batch).last
    assert not torch.allclose(other[0, columns], hidden[0, columns], atol=1e-3)


def test_saved_with_ours(tmp_path, case):
    folder, _, model, tokenizer, _ = case
    save_together(model, tokenizer, tmp_path)
    with remote_code(True):
        again, read = read_model(tmp_path), read_tokenizer(tmp_path)
    assert read.hf_token_ids.tolist() == tokenizer.hf_token_ids.tolist()
    batch = _batch(tokenizer)
    with torch.no_grad():
        for a, b in zip(_outputs(again, batch), _outputs(model, batch), strict=True):
            assert torch.equal(a, b)
    assert str(folder) not in (tmp_path / "config.json").read_text()


def _outputs(model, batch):
    hidden = model.encode(batch)
    return hidden, model.lm_logits(hidden)


def test_heads_that_predict_tokens_are_the_models_own(case):
    """They go on learning where they are; a label head is new, and does not touch them."""
    folder, _, before, tokenizer, _ = case
    n = len(tokenizer)
    heads = {"mlm": MLM | {"size": n}, "y": {"size": 2, "pooling": "mean", "classes": ["a", "b"]}}
    model = from_checkpoint(tokenizer.fields, heads, str(folder), remote_code=True).eval()
    assert model.config.heads["mlm"] == {"size": n, "own": True} and model.pretrained_heads == {"mlm"}
    batch = _batch(tokenizer)
    with torch.no_grad():
        hidden = model.encode(batch)
        torch.testing.assert_close(model.head("mlm", hidden[0]), before.lm_logits(hidden)[0])
    unused = set(model.unused_parameters())
    assert not unused & {name for name, _ in model.named_parameters() if "head" in name or "cls.predictions" in name} - {
        name for name in unused if "contact" in name
    }
    labels_alone = from_checkpoint(tokenizer.fields, {"y": heads["y"]}, str(folder), remote_code=True)
    encoder = {id(p) for p in labels_alone.backbone.encoder.parameters()}
    outside = {f"backbone.{n}" for n, p in labels_alone.backbone.named_parameters() if id(p) not in encoder}
    assert bool(outside) != folder.name.startswith("gpt2")  # whose head is its embedding and nothing else
    assert outside <= set(labels_alone.unused_parameters())
    set_trained(model, freeze_encoder=True)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {n for n, _ in model.named_parameters() if n.startswith("heads.")} | outside
    set_trained(model, lora={"r": 2, "alpha": 4})
    assert all("lora_" in n or n.startswith("heads.") for n, p in model.named_parameters() if p.requires_grad)
    assert not any("lora_" in n for n in outside)


def test_training_goes_on_from_their_loss(case):
    """The first loss is what transformers' own logits give; after some steps it is lower."""
    folder, theirs, _, tokenizer, _ = case
    model = from_checkpoint(tokenizer.fields, {"mlm": MLM | {"size": len(tokenizer)}}, str(folder), remote_code=True).eval()
    batch = _batch(tokenizer)
    _, _, expected, columns = _theirs(theirs, tokenizer, batch, 2)
    labels = torch.from_numpy(np.flatnonzero(tokenizer.hf_token_ids >= 0))[: len(columns)]
    columns = columns[: len(labels)]
    own = torch.nn.functional.cross_entropy(expected[: len(labels)], torch.from_numpy(tokenizer.hf_token_ids)[labels])
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    losses = []
    for _ in range(5):
        loss = torch.nn.functional.cross_entropy(model.head("mlm", model.encode(batch)[2, columns]), labels)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0] - 0.01
    known = torch.from_numpy(tokenizer.hf_token_ids >= 0)
    if known.sum() == expected.shape[1]:  # a softmax over the same tokens
        assert losses[0] == pytest.approx(own.item(), rel=1e-4)


def test_a_model_without_the_weights_of_a_head_has_none(tmp_path):
    """Whatever its architecture is called: a head that transformers would draw anew is no head."""
    dnabert(tmp_path)
    config = BertConfig.from_pretrained(tmp_path)
    BertForSequenceClassification(config).save_pretrained(tmp_path)
    model = read_model(tmp_path)
    assert not model.backbone.capabilities.lm_head
    described = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(described | {"architectures": ["BertForMaskedLM"]}))
    model = read_model(tmp_path)
    assert model.backbone.lm_head is None
    with pytest.raises(ValueError, match=r"no head that predicts tokens.*objective=\[mlm\]"):
        model.lm_logits(torch.zeros(1, 1, 16))


def test_code_of_a_head_is_not_run_unasked(tmp_path):
    hyena(tmp_path)
    described = json.loads((tmp_path / "config.json").read_text())
    del described["auto_map"]["AutoModel"]
    (tmp_path / "config.json").write_text(json.dumps(described))
    with pytest.raises(ValueError, match="remote_code=true"):
        read_model(tmp_path)
    with remote_code(True):
        assert read_model(tmp_path).backbone.lm_head == "causal"
