"""Downloads of benchmark data: each file whole and checked, or not there."""

import shutil
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import unquote
from urllib.request import Request, urlopen

from bmfm.evaluation.tasks import RECORD, DataFile, TaskSpec, find_file, recorded, sha256, write_json

BLOCK = 1 << 20


def fetch(card: TaskSpec, root: str | Path) -> list[Path]:
    """Download what a card's data lack below the data root.

    An interrupted download goes on where it stopped, if the server's file is still the same. A checksum that the card does not
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
    lacking = [f for f in card.files if find_file(f, root) is None]
    if by_hand := [f.path for f in lacking if not f.url]:
        raise ValueError(f"{card.name}: {', '.join(by_hand)} cannot be downloaded; {' '.join((card.how or '').split())}")
    return [_fetch(f, root) for f in lacking]


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
    found = sha256(done)
    expected = data_file.sha256 or recorded(root).get(data_file.path)
    if expected and found != expected:
        rejected = done.rename(target.with_name(target.name + ".rejected"))
        raise ValueError(f"{data_file.url}: SHA-256 of its content is {found}, expected {expected}; the file is kept as {rejected}")
    if not expected:
        write_json(root / RECORD, recorded(root) | {data_file.path: found})
    return done.rename(target)


def _from_hub(url: str) -> str:
    """A file of the Hugging Face Hub, through its cache: ``hf://datasets/OWNER/NAME@REVISION/path``."""
    from huggingface_hub import hf_hub_download

    kind, owner, name, path = url.removeprefix("hf://").split("/", 3)
    name, _, revision = name.partition("@")
    return hf_hub_download(f"{owner}/{name}", path, repo_type=kind.removesuffix("s"), revision=unquote(revision) or None)


def _download(url: str, partial: Path) -> None:
    """Into a file that another call may go on with; beside it stands which version of the server's file it is part of."""
    from tqdm import tqdm

    version = partial.with_name(partial.name + ".version")
    begun = partial.stat().st_size if partial.is_file() and version.is_file() else 0
    headers = {"Range": f"bytes={begun}-", "If-Range": version.read_text()} if begun else {}
    try:
        with urlopen(Request(url, headers={"User-Agent": "bmfm"} | headers), timeout=60) as answer:
            if answer.status not in (200, 206):
                raise OSError(f"{url}: the server answers {answer.status} and sends no file; take it by hand from the source's page")
            begun = begun if answer.status == 206 else 0
            etag = answer.headers.get("ETag", "")
            if said := etag if etag and not etag.startswith("W/") else answer.headers.get("Last-Modified"):
                version.write_text(said)
            else:
                version.unlink(missing_ok=True)
            left = answer.headers.get("Content-Length")
            whole = begun + int(left) if left else None
            with (
                partial.open("ab" if begun else "wb") as out,
                tqdm(total=whole, initial=begun, unit="B", unit_scale=True, desc=partial.stem) as bar,
            ):
                while block := answer.read(BLOCK):
                    out.write(block)
                    bar.update(len(block))
    except HTTPError as error:
        if error.code == 416:  # nothing is left to send, or the file has shrunk: begin again
            partial.unlink()
            return _download(url, partial)
        raise OSError(f"{url}: the server answers {error.code} {error.reason}; look at the source's page") from error
    except (URLError, TimeoutError, ConnectionError) as error:
        raise OSError(f"{url} cannot be downloaded: {getattr(error, 'reason', error)}; run again to go on") from error
    size = partial.stat().st_size
    with partial.open("rb") as came:
        start = came.read(512).lstrip().lower()
    if not size or start.startswith((b"<!doctype html", b"<html")):
        partial.unlink()
        raise OSError(f"{url}: the server sends {'a web page' if size else 'an empty file'}; take the file by hand from the source's page")
    if whole and size != whole:
        raise OSError(f"{url}: {size:,} of {whole:,} bytes came; run again to go on")
    version.unlink(missing_ok=True)
