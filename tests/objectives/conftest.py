"""A made-up `DataSpec` and small models, by which objectives can be tried without files."""

import numpy as np
import pandas as pd
import pytest
import torch

from bmfm.data.spec import DataSpec
from bmfm.models.model import build
from tests.conftest import BERT


def made_up_spec(n_tokens=100, n_special=5, columns=None, n_bins=None, n_cls=1) -> DataSpec:
    """40 examples, the first 30 for training, the others for validation."""
    rng = np.random.default_rng(0)
    statistics = {
        "token_counts": rng.integers(1, 50, n_tokens),
        "value_sums": rng.random(n_tokens) * 50,
        "zero_counts": rng.integers(0, 2, n_tokens),
        "profile_mean": rng.random(n_tokens),
        "profile_zero_rate": rng.random(n_tokens),
        "bin_log_frequency": np.log(np.full(n_bins or 1, 1 / (n_bins or 1), np.float32)),
    }

    def check_cls(number, who):
        if number >= n_cls:
            raise ValueError(f"{who} reads CLS token {number}")

    return DataSpec(
        vocabulary=[f"t{i}" for i in range(n_tokens)],
        plain_ids=(n_special, n_tokens),
        n_cls=n_cls,
        n_bins=n_bins,
        check_cls=check_cls,
        parts={"train": np.arange(30), "validation": np.arange(30, 40), "test": np.arange(0)},
        statistics=statistics,
        column=lambda name, as_text=False: pd.Series(columns[name], dtype=object).to_numpy(),
        column_names=list(columns or ()),
        where=lambda number: f"row {number + 1}",
    )


@pytest.fixture
def small_model():
    def make(heads, fields=None, values=None, n_tokens=100):
        torch.manual_seed(0)
        fields = fields or {"input_ids": {"size": n_tokens}}
        size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
        return build(fields, heads, backbone=BERT, attention="sdpa", values=values, hidden_dropout_prob=0.0, **size).eval()

    return make
