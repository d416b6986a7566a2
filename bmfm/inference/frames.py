"""From the logits of label heads to a table of predictions, a row an example."""

import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from bmfm.inference.annotate import free_name
from bmfm.label_kinds import LabelKind, kind_of, ragged


def label_kinds(heads: Mapping[str, dict], folder: Path | None) -> dict[str, LabelKind]:
    """The kind of each label head; those that need names of classes have them.

    Parameters
    ----------
    folder
        Of the saved model, for messages; modules that lie in it are not imported.
    """
    kinds = {}
    for name, head in heads.items():
        kinds[name] = kind_of(head, f"{folder / 'config.json' if folder else 'config.json'}: heads.{name}", folder)
        if kinds[name].needs_classes and not kinds[name].classes:
            raise ValueError(f"the head {name!r} has no names of classes in config.json, heads.{name}.classes: write them there")
    return kinds


def classes_of_bases(kind: LabelKind, logits: np.ndarray, n_bases: np.ndarray) -> list[str] | None:
    """The likeliest class of each base of a sequence, from the logits of its tokens [L, size] and how many bases each stands for [L]; None
    where a logit is NaN or infinite."""
    if not np.isfinite(logits).all():
        return None
    return np.repeat(np.array(kind.classes, object)[logits.argmax(1)], n_bases).tolist()


def predictions_frame(
    kinds: Mapping[str, LabelKind], outputs: Mapping[str, np.ndarray | list], names: pd.Index, empty: np.ndarray | None = None
) -> pd.DataFrame:
    """Predictions [n, columns] of every label head; none (None of classes, NaN of numbers) from logits that are NaN or infinite.

    Parameters
    ----------
    outputs
        {head: logits [n, size]}; of heads that label bases {head: n lists of a class for each base, or None}.
    empty
        [n] bool, examples that get no prediction, as there is nothing in them that the model knows.
    """
    columns: dict[str, np.ndarray] = {}
    failed = np.zeros(len(names), bool)
    for name, values in outputs.items():
        if isinstance(values, list):
            missing = np.array([bases is None for bases in values], bool)
            scores = ragged(values)
        else:
            missing = ~np.isfinite(values).all(1)
            scores = kinds[name].scores(np.where(missing[:, None], 0, values))
        failed |= missing
        if empty is not None:
            missing = missing | empty
        for ending, column in kinds[name].columns(scores).items():
            # a head may be called as another's probability is
            key = free_name(name + ending, {*columns, *outputs}) if ending else name
            columns[key] = _without(column, missing)
    if failed.any():
        warnings.warn(
            f"the model gives NaN or infinite numbers for {failed.sum():,} of {len(failed):,} examples "
            f"(first: {names[int(failed.argmax())]}): nothing is predicted for them; precision=fp32 is the widest range of numbers",
            stacklevel=4,
        )
    return pd.DataFrame(columns, index=names)


def _without(column: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """The column with None (of objects) or NaN where values are missing; numbers as float32."""
    if column.dtype != object:
        return np.where(missing, np.nan, column).astype(np.float32)
    column = column.copy()
    column[missing] = None
    return column
