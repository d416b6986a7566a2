"""Object stores (``s3://bucket/folder/file``, and whatever fsspec has a package for): the only module that knows of URLs.

Inputs are downloaded once, into the cache, and known there by what the store says of them. Outputs are written beside, and appear by one
upload, whole or not at all. `StorePath` has what the ledger needs of a path.
"""

import fnmatch
import hashlib
import io
import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, TypeGuard

from bmfm.files import cache_root, cached_folder, whole_file

FETCHED = "fetched"
"""Folder of the cache with files of object stores."""

PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "az": "adlfs"}
"""What to install for a kind of store, where fsspec does not say it in these words."""

ALREADY_THERE = ("PreconditionFailed", "At least one of the pre-conditions", "ConditionalRequestConflict")
"""What stores say where a file that was to be made is there, or is made or removed at this moment."""

NOT_FETCHED = ("output", "run_dir", "launcher", "hydra", "trainer", "logger", "callbacks", "task")
"""Settings whose URLs are no inputs."""


class StoreError(OSError, ValueError):
    """What a store does not do, with its URL and a remedy."""


def is_url(text: object) -> bool:
    """Whether this is the URL of something in a store, rather than a path of this machine."""
    return isinstance(text, StorePath) or (isinstance(text, str) and re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text) is not None)


def is_experiment(text: object) -> TypeGuard[str]:
    """Whether this is the URL of a SOMA experiment, which TileDB reads where it lies: ``tiledb://...``, a name that ends in ``.soma``, or one in a
    folder ``soma``, as those of CELLxGENE Census are."""
    return isinstance(text, str) and re.match(r"tiledb://|[A-Za-z][A-Za-z0-9+.-]*://(.*\.soma/?$|.*/soma/)", text) is not None


@dataclass(frozen=True)
class StorePath:
    """A file or folder of an object store; methods are those of `pathlib.Path`."""

    url: str

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> "StorePath":
        return StorePath(f"{self.url.rstrip('/')}/{name}")

    @property
    def name(self) -> str:
        return self.url.rstrip("/").rsplit("/", 1)[-1]

    @property
    def suffix(self) -> str:
        return Path(self.name).suffix

    @property
    def parent(self) -> "StorePath":
        return StorePath(self.url.rstrip("/").rsplit("/", 1)[0])

    def with_name(self, name: str) -> "StorePath":
        return self.parent / name

    def with_suffix(self, suffix: str) -> "StorePath":
        return self.with_name(str(Path(self.name).with_suffix(suffix)))

    def exists(self) -> bool:
        with self._store() as (store, path):
            return bool(store.exists(path))

    def mkdir(self, parents: bool = False, exist_ok: bool = False) -> None:
        """Stores have no folders, but in the names of files."""

    def unlink(self, missing_ok: bool = False) -> None:
        with self._store() as (store, path):
            try:
                store.rm_file(path)
            except FileNotFoundError:
                if not missing_ok:
                    raise

    def read_bytes(self) -> bytes:
        with self._store() as (store, path):
            return bytes(store.cat_file(path))

    def write_bytes(self, data: bytes) -> None:
        """Put the whole file, in place of one of the same name."""
        with self._store("written") as (store, path):
            store.pipe_file(path, data)

    def create(self, data: bytes) -> None:
        """Put the file, or raise FileExistsError where there is one: of several processes one succeeds, in stores that can say so
        (conditional writes, as those of S3 and Google); in others, two that ask at the same moment may both."""
        with self._store("written") as (store, path):
            if store.exists(path):
                raise FileExistsError(self.url)
            try:
                store.pipe_file(path, data, mode="create")
            except (TypeError, NotImplementedError):  # this package of fsspec has no conditional writes
                store.pipe_file(path, data)
            except Exception as error:
                if any(said in str(error) for said in ALREADY_THERE):
                    raise FileExistsError(self.url) from error
                raise

    def modified(self) -> float:
        """When it was written by the clock of the store, in seconds."""
        with self._store() as (store, path):
            return float(store.modified(path).timestamp())

    def rglob(self, pattern: str) -> Iterator["StorePath"]:
        """Files below this folder with such a name, sorted."""
        return (path for path, _ in self.files() if fnmatch.fnmatch(path.name, pattern))

    def files(self) -> list[tuple["StorePath", dict[str, Any]]]:
        """All files below, sorted, with what the store says of each; the file itself, if it is one."""
        with self._store() as (store, path):
            is_web = self.url.startswith("http")  # where folders cannot be listed
            found = {path: store.info(path)} if is_web else store.find(path, detail=True)
            files = sorted((name, info) for name, info in found.items() if info.get("type") != "directory")
            within = [name.removeprefix(path).strip("/") for name, _ in files]
            return [(self / name if name else self, info) for name, (_, info) in zip(within, files, strict=True)]

    def names(self) -> list[str]:
        """Names of the files and folders in this folder."""
        with self._store() as (store, path):
            return sorted(name.rstrip("/").rsplit("/", 1)[-1] for name in store.ls(path, detail=False)) if store.exists(path) else []

    def download(self, target: Path) -> None:
        with self._store() as (store, path):
            store.get_file(path, str(target))

    def upload(self, source: Path) -> None:
        """Put a file of this machine, in place of one of the same name; it appears whole."""
        with self._store("written") as (store, path):
            store.put_file(str(source), path)

    def remove_below(self) -> None:
        """Remove all files of this folder."""
        with self._store() as (store, path):
            if store.exists(path):
                store.rm(path, recursive=True)

    @contextmanager
    def _store(self, done: str = "read") -> Iterator[tuple[Any, str]]:
        """The file system of fsspec, and the path in it; its errors become those of the language, or a `StoreError`."""
        scheme = self.url.split("://")[0].lower()
        try:
            from fsspec.core import url_to_fs

            yield url_to_fs(self.url, use_listings_cache=False)
        except FileExistsError:
            raise
        except FileNotFoundError as error:
            if done == "read":
                raise FileNotFoundError(f"{self.url} does not exist") from error
            raise StoreError(f"{self.url} cannot be written, there is no such bucket: make it, or correct the URL ({error})") from error
        except ImportError as error:
            package = PACKAGES.get(scheme, "")
            remedy = "pip install 'bmfm[scale]'" if package == "s3fs" else f"pip install {package}" if package else str(error)
            raise ImportError(f"{self.url}: {scheme}:// needs a package that is not installed: {remedy}") from error
        except Exception as error:
            raise StoreError(f"{self.url} cannot be {done}: {_reason(scheme, error)}") from error


def _reason(scheme: str, error: Exception) -> str:
    """What went wrong, and what to do."""
    said = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    if isinstance(error, ValueError) and "Protocol not known" in said:
        from fsspec import available_protocols

        near = get_close_matches(scheme, available_protocols(), n=3, cutoff=0.5) or ["s3", "gs", "abfs"]
        return f"there is no kind of store {scheme}://; did you mean {' or '.join(f'{name}://' for name in near)}?"
    if isinstance(error, PermissionError) or "Credentials" in said:
        return f"{said}; give credentials (of S3 AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY), or FSSPEC_S3_ANON=true for public data"
    return f"{said}; where the store is not reached, look at the network and the address (of S3 AWS_ENDPOINT_URL) and start again: what is finished is kept"


Place = Path | StorePath


def place(text: str | Path) -> Place:
    """A path of this machine, or one of a store where the text is a URL (of ``file://``, the path)."""
    if not is_url(text):
        return Path(text)
    return Path(str(text)[7:]) if str(text).startswith("file://") else StorePath(str(text).rstrip("/"))


@contextmanager
def whole(target: Place) -> Iterator[BinaryIO]:
    """Write a file that appears whole or not at all, see `files.whole_file`; in a store it appears by one upload."""
    if isinstance(target, Path):
        with whole_file(target) as file:
            yield file
        return
    with tempfile.TemporaryDirectory() as folder:
        kept = Path(folder) / "whole"
        with kept.open("wb") as file:
            yield file
        target.upload(kept)


def opened(source: Place) -> Any:
    """What `numpy.load` and the like take."""
    return source if isinstance(source, Path) else io.BytesIO(source.read_bytes())


def remove_folder(folder: Place) -> None:
    """Remove a folder with all that is in it, as far as it can be."""
    if isinstance(folder, Path):
        shutil.rmtree(folder, ignore_errors=True)
    else:
        folder.remove_below()


@contextmanager
def staged(targets: Sequence[Place]) -> Iterator[list[Path]]:
    """Where to write outputs: themselves, or, of those in a store, files of this machine, which are uploaded at the end, with whatever lies
    beside them by then; each output itself last, so that where it is, all is.

    Raises
    ------
    StoreError
        Where one cannot be uploaded.
    """
    with ExitStack() as stack:
        files, folders = [], []
        for target in targets:
            if isinstance(target, StorePath):
                folders.append(Path(stack.enter_context(tempfile.TemporaryDirectory())))
                files.append(folders[-1] / target.name)
            else:
                files.append(target)
        yield files
        for target, file in zip(targets, files, strict=True):
            if isinstance(target, StorePath):
                written = sorted(p for p in file.parent.rglob("*") if p.is_file())
                for path in [*(p for p in written if p != file), *(p for p in written if p == file)]:
                    (target.parent / str(path.relative_to(file.parent))).upload(path)


def check_outputs(outputs: Sequence[Place]) -> None:
    """Refuse outputs that cannot appear at once in a store.

    Raises
    ------
    StoreError
        For zarr, which is a folder of many files.
    """
    for output in outputs:
        if isinstance(output, StorePath) and output.suffix in (".zarr", ""):
            raise StoreError(f"output={output}: several files cannot appear in a store at once: write one, as .h5ad, or a local folder")


def fetch(url: str, what: str = "file") -> Path:
    """The local copy of a file or folder of a store, in the cache; it is downloaded again where the store says that it has changed.

    Raises
    ------
    FileNotFoundError
        Naming what was expected, and near matches.
    StoreError, ImportError
        Where the store cannot be read.
    """
    source = place(url)
    if isinstance(source, Path):
        return source
    files = source.files()
    if not files:
        others = source.parent.names() if is_url(source.parent.url) else []
        near = get_close_matches(source.name, others, n=3, cutoff=0.5)
        raise FileNotFoundError(f"{what} {url} does not exist" + (f"; did you mean {' or '.join(near)}?" if near else ""))
    name = source.name.partition("?")[0] if url.startswith("http") else source.name
    about = [[str(path), {k: str(v) for k, v in sorted(info.items())}] for path, info in files]
    key = {"url": source.url, "files": hashlib.sha256(json.dumps(about).encode()).hexdigest()}

    def build(folder: Path) -> None:
        for path, _ in files:
            target = folder / name / path.url.removeprefix(source.url).strip("/") if path != source else folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            path.download(target)

    return cached_folder(FETCHED, key, build) / name


def known_as(path: Path) -> str:
    """A path of this machine, as it is known to others: without the place of the cache where it is a copy of a file in a store."""
    resolved, root = path.resolve(), (cache_root() / FETCHED).resolve()
    return str(resolved.relative_to(root)) if resolved.is_relative_to(root) else str(resolved)


def with_local_inputs(config: Any) -> Any:
    """A configuration in which the URLs of inputs are paths of local copies; without such, itself.

    Patterns (``s3://bucket/*.h5ad``) become lists.
    """
    from omegaconf import OmegaConf

    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    local = {k: v if k in NOT_FETCHED else _localised(v, str(k)) for k, v in plain.items()}
    return config if local == plain else OmegaConf.create(local)


def _localised(value: Any, name: str) -> Any:
    if isinstance(value, dict):
        return {k: _localised(v, f"{name}.{k}") for k, v in value.items()}
    if isinstance(value, list):
        return [_localised(v, name) for v in value]
    if not isinstance(value, str) or not is_url(value) or is_experiment(value):
        return value
    if value.startswith(("http://", "https://")) or not any(c in value for c in "*?["):  # ? begins a query there
        return str(fetch(value, f"{name}: file or folder"))
    pattern = re.split(r"[*?\[]", value)[0].rsplit("/", 1)[0]
    found = [path.url for path, _ in StorePath(pattern).files() if PurePosixPath(path.url).match(value)]
    if not found:
        raise FileNotFoundError(f"{name}: no file of the store is called as {value}")
    return [str(fetch(url)) for url in found]
