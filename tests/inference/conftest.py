"""Models of others, made on the spot, as the Hub has them: what single tokens of our own are compared with."""

import pytest


@pytest.fixture(scope="session")
def bert_folder(tmp_path_factory):
    """A `BertForMaskedLM` of single bases, with its tokenizer."""
    import torch
    from transformers import BertConfig, BertForMaskedLM, BertTokenizerFast

    folder = tmp_path_factory.mktemp("bert")
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"ACGTN", *(f"##{c}" for c in "ACGTN")]
    (folder / "vocab.txt").write_text("\n".join(vocab))
    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(vocab), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16)
    model = BertForMaskedLM(config)
    for parameter in model.parameters():  # so that log-probabilities differ
        torch.nn.init.normal_(parameter, 0.0, 0.3)
    model.save_pretrained(folder)
    BertTokenizerFast(str(folder / "vocab.txt"), do_lower_case=False).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def gpt2_folder(tmp_path_factory):
    """A causal `GPT2LMHeadModel` of single bases, with a token before each sequence, with its tokenizer."""
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Split
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("gpt2")
    vocab = {"[PAD]": 0, "[UNK]": 1, "<s>": 2, "A": 3, "C": 4, "G": 5, "T": 6, "N": 7}
    backend = Tokenizer(WordLevel(vocab, unk_token="[UNK]"))
    backend.pre_tokenizer = Split("", "isolated")
    roles = {"pad_token": "[PAD]", "unk_token": "[UNK]", "bos_token": "<s>"}
    PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=32, **roles).save_pretrained(folder)
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=8, n_embd=16, n_layer=2, n_head=2, n_positions=32, bos_token_id=2, eos_token_id=2))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0.0, 0.3)
    model.save_pretrained(folder)
    return folder
