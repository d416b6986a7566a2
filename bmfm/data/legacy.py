"""What objectives that are still bound to a data module ask of it; goes when all are set up from a `DataSpec`."""

import re
from typing import Any

import numpy as np


class BoundByObjectives:
    def __getattr__(self, name: str) -> Any:
        data: Any = self
        calls = {
            "training_examples": lambda: data.numbers["train"],
            "text_column": lambda: lambda column: data.column(column, as_text=True),
            "cut": lambda: data.is_cut,
            "token_lengths": lambda: [spans[:, 1] - spans[:, 0] for spans in data.token_spans()],
            "add_token_labels": lambda: data.add_labels,
            "columns": lambda: lambda pattern: [c for c in data.column_names if re.fullmatch(pattern, c)],
            "numbers_of": lambda: lambda names: data.table[names].to_numpy(np.float32, na_value=np.nan),
        }
        if name not in calls or (
            name in ("cut", "token_lengths", "add_token_labels", "columns", "numbers_of") and "table" not in vars(data)
        ):
            raise AttributeError(name)
        return calls[name]()
