"""Checksums of data and models: of what a file holds, wherever it lies and however it is compressed."""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

from bmfm.files import cache_root, fingerprint, open_whole

RECORD = "checksums.json"
"""Below the data root, the SHA-256 of files that were downloaded before anyone had published theirs; below the cache root, those of
files that were hashed before."""


def sha256(file: Path) -> str:
    """SHA-256 of a file's decompressed content, hexadecimal."""
    with open_whole(file) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]


def combined(hashes: list[str]) -> str:
    """One hash as it is, or the SHA-256 of several in their order."""
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def content_hash(paths: Iterable[str | Path]) -> str:
    """SHA-256 of decompressed contents, hexadecimal: of one file its own, of several (or a folder's) that of their hashes in order.

    Hashes are remembered below the cache root by path, size and modification time.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        files += [p for p in sorted(path.rglob("*")) if p.is_file()] if path.is_dir() else [path]
    memory = cache_root() / RECORD
    remembered = json.loads(memory.read_text()) if memory.is_file() else {}
    fresh, hashes = {}, []
    for file in files:
        identity = fingerprint(file)
        entry = remembered.get(identity["path"])
        if entry is None or entry | {"sha256": None} != identity | {"sha256": None}:
            entry = fresh[identity["path"]] = identity | {"sha256": sha256(file)}
        hashes.append(entry["sha256"])
    if fresh:
        write_json(memory, remembered | fresh)
    return combined(hashes)


def write_json(path: Path, content: dict) -> None:
    """Write at once and whole, so that another process never reads half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
    partial.replace(path)


def recorded(root: str | Path) -> dict[str, str]:
    """{path: SHA-256} of first downloads below a data root."""
    record = Path(root).expanduser() / RECORD
    return json.loads(record.read_text()) if record.is_file() else {}
