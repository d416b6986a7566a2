"""A stand-in for data modules and models, by which objectives can be tried on made-up batches."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from bmfm.models.model import build
from tests.conftest import BERT


class FakeData:
    """What objectives ask of a data module: 40 examples, the first 30 for training."""

    def __init__(self, n_tokens=100, n_special=5, columns=None, n_bins=None, n_cls=1):
        names = [f"t{i}" for i in range(n_tokens)]
        self.tokenizer = SimpleNamespace(names=names, plain_ids=(n_special, n_tokens), n_bins=n_bins, check_cls=self._check_cls)
        rng = np.random.default_rng(0)
        self.statistics = {
            "token_counts": rng.integers(1, 50, n_tokens),
            "value_sums": rng.random(n_tokens) * 50,
            "zero_counts": rng.integers(0, 2, n_tokens),
            "profile_mean": rng.random(n_tokens),
            "profile_zero_rate": rng.random(n_tokens),
            "bin_log_frequency": np.log(np.full(n_bins or 1, 1 / (n_bins or 1), np.float32)),
        }
        self.columns, self.n_cls = columns or {}, n_cls
        self.training_examples = np.arange(30)
        self.numbers = {"train": np.arange(30), "validation": np.arange(30, 40), "test": np.arange(0)}
        self.labels, self.notes = {}, {}

    def _check_cls(self, number, who):
        if number >= self.n_cls:
            raise ValueError(f"{who} reads CLS token {number}")

    def column(self, name):
        return pd.Series(self.columns[name], dtype=object).to_numpy()

    text_column = column

    def where(self, number):
        return f"row {number + 1}"

    def add_labels(self, name, labels):
        self.labels[name] = labels

    def note(self, name, said):
        self.notes[name] = said


@pytest.fixture
def small_model():
    def make(heads, fields=None, values=None, n_tokens=100):
        torch.manual_seed(0)
        fields = fields or {"input_ids": {"size": n_tokens}}
        size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
        return build(fields, heads, backbone=BERT, attention="sdpa", values=values, hidden_dropout_prob=0.0, **size).eval()

    return make
