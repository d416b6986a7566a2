"""The part of an OpenAPI document that clients rely on, without the words: ``python -m tests.serving.snapshot`` writes `openapi.json` anew."""

import json
from pathlib import Path
from typing import Any


def reduced(document: dict[str, Any]) -> dict[str, Any]:
    """Paths with their methods, bodies and statuses; bodies with their keys, what is required, and the types."""
    paths = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {}).get("$ref")
            paths[f"{method} {path}"] = {"body": body, "statuses": sorted(operation["responses"])}
    schemas = {
        name: {"keys": {key: _type(value) for key, value in schema["properties"].items()}, "required": schema.get("required", [])}
        for name, schema in document["components"]["schemas"].items()
        if name.endswith(("Body", "Counts", "Pair", "Variant"))
    }
    return {"paths": paths, "schemas": schemas}


def _type(schema: dict[str, Any]) -> Any:
    if "anyOf" in schema:
        return [_type(one) for one in schema["anyOf"]]
    kind = schema.get("$ref") or schema.get("enum") or schema.get("type")
    return {"list of": _type(schema["items"])} if kind == "array" else kind


if __name__ == "__main__":
    import bmfm
    from bmfm.serving.app import create_app
    from bmfm.serving.batching import Limits
    from bmfm.serving.engine import Engine

    app = create_app(Engine(bmfm.load("bmfm-dna-mini"), Limits()))
    Path(__file__).with_name("openapi.json").write_text(json.dumps(reduced(app.openapi()), indent=1) + "\n")
