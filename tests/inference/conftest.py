"""Models of others, made on the spot, as the Hub has them: what single tokens of our own are compared with."""

import pytest


def _single_bases(folder, special: list[str], **roles):
    """A tokenizer of single bases, with special tokens before them, saved as transformers does."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Split
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    vocab = {token: i for i, token in enumerate([*special, *"ACGTN"])}
    backend = Tokenizer(WordLevel(vocab, unk_token="[UNK]"))
    backend.pre_tokenizer = Split("", "isolated")
    if "[CLS]" in vocab:
        ends = [("[CLS]", vocab["[CLS]"]), ("[SEP]", vocab["[SEP]"])]
        backend.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=64, **roles).save_pretrained(folder)
    return len(vocab)


def _save_drawn(model, folder) -> None:
    """Save a model with weights that are large enough for its log-probabilities to differ."""
    import torch

    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0.0, 0.3)
    model.save_pretrained(folder)


@pytest.fixture(scope="session")
def bert_folder(tmp_path_factory):
    """A `BertForMaskedLM` of single bases, with its tokenizer; ids of special tokens are not this project's."""
    from transformers import BertConfig, BertForMaskedLM

    folder = tmp_path_factory.mktemp("bert")
    roles = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    n = _single_bases(folder, ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], **roles)
    config = BertConfig(vocab_size=n, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16)
    _save_drawn(BertForMaskedLM(config), folder)
    return folder


def save_gpt2(folder, first_token: bool) -> int:
    """Save a causal `GPT2LMHeadModel` of single bases with its tokenizer; returns the number of special tokens.

    Parameters
    ----------
    first_token
        Whether a token stands before each sequence, after which the first base can be predicted.
    """
    from transformers import GPT2Config, GPT2LMHeadModel

    special, roles = ["[PAD]", "[UNK]"], {"pad_token": "[PAD]", "unk_token": "[UNK]"}
    if first_token:
        special, roles = [*special, "<s>"], roles | {"bos_token": "<s>"}
    n = _single_bases(folder, special, **roles)
    config = GPT2Config(vocab_size=n, n_embd=16, n_layer=2, n_head=2, n_positions=64, bos_token_id=2, eos_token_id=2, pad_token_id=0)
    _save_drawn(GPT2LMHeadModel(config), folder)
    return len(special)


@pytest.fixture(scope="session")
def gpt2_folder(tmp_path_factory):
    """A causal `GPT2LMHeadModel` of single bases that has a token before each sequence, with its tokenizer."""
    folder = tmp_path_factory.mktemp("gpt2")
    save_gpt2(folder, first_token=True)
    return folder
