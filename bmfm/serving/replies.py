"""Results as JSON, or as a stream of Arrow for programs that want many numbers."""

import io
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from starlette.responses import JSONResponse, Response

ARROW = "application/vnd.apache.arrow.stream"


def wants_arrow(accept: str | None) -> bool:
    """Whether a header ``Accept`` names the stream of Arrow."""
    return any(part.split(";")[0].strip().lower() == ARROW for part in (accept or "").split(","))


def reply(
    accept: str | None, ids: list[str], counts: Mapping[str, int], embeddings: np.ndarray | None = None, table: pd.DataFrame | None = None
) -> Response:
    """Embeddings [n, H], or the columns of a table [n], of examples with their names, and what was truncated or unknown.

    In Arrow, counts are in the schema's metadata (``counts``, JSON), and embeddings a column of fixed-size lists.
    """
    if wants_arrow(accept):
        return _arrow(ids, counts, embeddings, table)
    result: dict[str, Any] = {"ids": ids}
    if embeddings is not None:
        result["embeddings"] = numbers(embeddings)
    if table is not None:
        result["columns"] = {str(name): column(table[name]) for name in table}
    return JSONResponse(result | {"counts": dict(counts)})


def numbers(values: np.ndarray) -> list[Any]:
    """An array as lists; None for what is no finite number, which JSON does not have."""
    if np.isfinite(values).all():
        return values.tolist()
    return np.where(np.isfinite(values), values, None).tolist()  # type: ignore[call-overload]


def column(values: pd.Series) -> list[Any]:
    """A column as JSON has it."""
    return [_plain(value) for value in values]


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(v) for v in value]
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def _arrow(ids: list[str], counts: Mapping[str, int], embeddings: np.ndarray | None, table: pd.DataFrame | None) -> Response:
    import pyarrow as pa

    columns: dict[str, Any] = {"id": pa.array(ids, pa.string())}
    if embeddings is not None:
        flat = pa.array(np.ascontiguousarray(embeddings, np.float32).reshape(-1))
        columns["embedding"] = pa.FixedSizeListArray.from_arrays(flat, embeddings.shape[1])
    if table is not None:
        columns |= {name if name not in columns else f"{name}_2": pa.array(column(table[name])) for name in map(str, table)}
    result = pa.table(columns).replace_schema_metadata({"counts": json.dumps(dict(counts))})
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, result.schema) as writer:
        writer.write_table(result)
    return Response(sink.getvalue(), media_type=ARROW)
