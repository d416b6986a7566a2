"""Downloads of benchmark data: each file whole and checked, or not there."""

import shutil
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import unquote
from urllib.request import Request, urlopen

from bmfm.evaluation.checksums import RECORD, recorded, sha256, write_json
from bmfm.evaluation.task_spec import DataFile, TaskSpec

BLOCK = 1 << 20


def fetch(task: TaskSpec, root: str | Path) -> list[Path]:
    """Download what a task's data lack below the data root.

    An interrupted download goes on where it stopped, if the server's file is still the same. A checksum that the task does not
    give is recorded in ``checksums.json`` below the root at the first download, and checked from then on.

    Returns
    -------
    paths
        The files that were downloaded.

    Raises
    ------
    ValueError
        Where a checksum differs (the file is kept beside as ``.rejected``), or a missing file has no download: says how to get it.
    OSError
        Where the server does not answer or stops early.
    """
    root = Path(root).expanduser()
    missing = [f for f in task.files if f.find(root) is None]
    if by_hand := [f.path for f in missing if not f.url]:
        raise ValueError(f"{task.name}: {', '.join(by_hand)} cannot be downloaded; {' '.join((task.how or '').split())}")
    return [_fetch(f, root) for f in missing]


def _fetch(data_file: DataFile, root: Path) -> Path:
    assert data_file.url is not None
    target = root / data_file.path
    partial = target.with_name(target.name + ".partial")
    target.parent.mkdir(parents=True, exist_ok=True)
    if data_file.url.startswith("hf://"):
        shutil.copyfile(_from_hub(data_file.url), partial)
    else:
        _download(data_file.url, partial)
    done = partial.rename(partial.with_suffix(".checking" + target.suffix))  # the suffix says whether to decompress
    actual = sha256(done)
    expected = data_file.sha256 or recorded(root).get(data_file.path)
    if expected and actual != expected:
        rejected = done.rename(target.with_name(target.name + ".rejected"))
        raise ValueError(f"{data_file.url}: SHA-256 of its content is {actual}, expected {expected}; the file is kept as {rejected}")
    if not expected:
        write_json(root / RECORD, recorded(root) | {data_file.path: actual})
    return done.rename(target)


def _from_hub(url: str) -> str:
    """A file of the Hugging Face Hub, through its cache: ``hf://datasets/OWNER/NAME@REVISION/path``."""
    from huggingface_hub import hf_hub_download

    kind, owner, name, path = url.removeprefix("hf://").split("/", 3)
    name, _, revision = name.partition("@")
    return hf_hub_download(f"{owner}/{name}", path, repo_type=kind.removesuffix("s"), revision=unquote(revision) or None)


def _download(url: str, partial: Path) -> None:
    """Into a file that another call may go on with; beside it stands which version of the server's file it is part of."""
    version = partial.with_name(partial.name + ".version")
    n_before = partial.stat().st_size if partial.is_file() and version.is_file() else 0
    headers = {"Range": f"bytes={n_before}-", "If-Range": version.read_text()} if n_before else {}
    try:
        with urlopen(Request(url, headers={"User-Agent": "bmfm"} | headers), timeout=60) as answer:
            n_expected = _receive(answer, url, partial, version, n_before)
    except HTTPError as error:
        if error.code == 416:  # nothing is left to send, or the file has shrunk: begin again
            partial.unlink()
            return _download(url, partial)
        raise OSError(f"{url}: the server answers {error.code} {error.reason}; look at the source's page") from error
    except (URLError, TimeoutError, ConnectionError) as error:
        reason = error.reason if isinstance(error, URLError) else error
        raise OSError(f"{url} cannot be downloaded: {reason}; run again to go on") from error
    size = partial.stat().st_size
    with partial.open("rb") as content:
        start = content.read(512).lstrip().lower()
    if not size or start.startswith((b"<!doctype html", b"<html")):
        partial.unlink()
        raise OSError(f"{url}: the server sends {'a web page' if size else 'an empty file'}; take the file by hand from the source's page")
    if n_expected and size != n_expected:
        raise OSError(f"{url}: {size:,} of {n_expected:,} bytes came; run again to go on")
    version.unlink(missing_ok=True)


def _receive(answer: Any, url: str, partial: Path, version: Path, n_before: int) -> int | None:
    """Write what the server sends behind the bytes that were there; returns how many there must be in the end, where it says so."""
    from tqdm import tqdm

    if answer.status not in (200, 206):
        raise OSError(f"{url}: the server answers {answer.status} and sends no file; take it by hand from the source's page")
    n_before = n_before if answer.status == 206 else 0
    etag = answer.headers.get("ETag", "")
    if which := etag if etag and not etag.startswith("W/") else answer.headers.get("Last-Modified"):
        version.write_text(which)
    else:
        version.unlink(missing_ok=True)
    n_left = answer.headers.get("Content-Length")
    n_expected = n_before + int(n_left) if n_left else None
    with (
        partial.open("ab" if n_before else "wb") as out,
        tqdm(total=n_expected, initial=n_before, unit="B", unit_scale=True, desc=partial.stem) as bar,
    ):
        while block := answer.read(BLOCK):
            out.write(block)
            bar.update(len(block))
    return n_expected
