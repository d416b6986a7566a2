"""Reading other people's Lightning checkpoints without running anything that is in them.

A ``.ckpt`` is a zip archive with a pickle, and a pickle is a program: it may name any function to call, and set attributes of
whatever it can reach. It is never given to `pickle` or `torch.load`. `_Machine` goes through its instructions itself and
knows only those that lay out data; the few names that it accepts stand for values of our own (tensors, tuples, text, or a
`StubConfig` of attributes), so that there is nothing to call and nothing to change. Numbers of tensors are taken from the archive
only where they lie within their storage. Anything else is refused in one line.
"""

import math
import pickletools
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from bmfm.files import require_file
from bmfm.storage.config import plain, shown

STUB_MODULES = ("bmfm_targets.", "omegaconf.")
"""Modules whose classes become `StubConfig`: the published system's configuration."""
ALLOWED_GLOBALS = {("builtins", n) for n in ("dict", "list", "int", "float", "complex", "str", "bool", "slice")} | {("typing", "Any")}
PATHS = {("pathlib", name) for name in ("PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath")}
DTYPES = {
    "Float": torch.float32, "Double": torch.float64, "Half": torch.float16, "BFloat16": torch.bfloat16, "Long": torch.int64,
    "Int": torch.int32, "Short": torch.int16, "Char": torch.int8, "Byte": torch.uint8, "Bool": torch.bool,
}  # fmt: skip
MAX_PICKLE, MAX_STEPS, MAX_COPIED, MAX_ENTRIES = 1 << 26, 3_000_000, 20_000_000, 200_000
MAX_VALUES, MAX_DEPTH = 1_000_000, 40
"""Values that configuration may hold, each counted as often as it is reached, and how deep they may lie in one another."""


class Refused(Exception):
    """What a checkpoint asks for and does not get."""


@dataclass
class StubConfig:
    """Attributes of an object whose class is not here.

    Attributes
    ----------
    name
        Its class.
    args
        What the class was called with.
    fields
        {attribute: value}.
    """

    name: str
    args: tuple = field(default=(), repr=False)
    fields: dict[str, Any] = field(default_factory=dict, repr=False)

    def get(self, name: str, default: Any = None) -> Any:
        return self.fields.get(name, default)


@dataclass(frozen=True)
class _Name:
    """A global that the pickle names; it stands for itself and cannot be called but by `_Machine.call`."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(frozen=True)
class _Storage:
    key: str
    dtype: torch.dtype
    numel: int


@dataclass(frozen=True)
class _View:
    """A tensor that is not read yet."""

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class _Mapping(dict):
    """What was an OrderedDict; attributes that the pickle gives it (`_metadata` of a state dict) are dropped."""


class _Machine:
    """Goes through the instructions of a pickle that torch wrote (protocol 2)."""

    def __init__(self) -> None:
        self.stack: list = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.copied = 0
        self.steps: dict[str, Callable[[Any], None]] = {
            "PROTO": lambda a: None,
            "MARK": lambda a: self.marks.append(len(self.stack)),
            "NONE": lambda a: self.stack.append(None),
            "NEWTRUE": lambda a: self.stack.append(True),
            "NEWFALSE": lambda a: self.stack.append(False),
            "EMPTY_DICT": lambda a: self.stack.append({}),
            "EMPTY_LIST": lambda a: self.stack.append([]),
            "EMPTY_TUPLE": lambda a: self.stack.append(()),
            "TUPLE": lambda a: self.stack.append(tuple(self.since_mark())),
            "TUPLE1": lambda a: self.stack.append(self.pop(1)),
            "TUPLE2": lambda a: self.stack.append(self.pop(2)),
            "TUPLE3": lambda a: self.stack.append(self.pop(3)),
            "APPEND": lambda a: self.extend(list(self.pop(1))),
            "APPENDS": lambda a: self.extend(self.since_mark()),
            "SETITEM": lambda a: self.update(list(self.pop(2))),
            "SETITEMS": lambda a: self.update(self.since_mark()),
            "GLOBAL": lambda a: self.stack.append(self.named(*a.split(" ", 1))),
            "REDUCE": lambda a: self.stack.append(self.call(*self.pop(2))),
            "NEWOBJ": lambda a: self.stack.append(self.call(*self.pop(2))),
            "BUILD": lambda a: self.build(*self.pop(1)),
            "BINPERSID": lambda a: self.stack.append(self.storage(*self.pop(1))),
        }
        self.steps |= dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE"), self.stack.append)
        self.steps |= dict.fromkeys(("BINPUT", "LONG_BINPUT"), lambda a: self.memo.__setitem__(a, self.top()))
        self.steps |= dict.fromkeys(("BINGET", "LONG_BINGET"), lambda a: self.stack.append(self.memo[a]))

    def run(self, program: bytes) -> Any:
        for n, (opcode, argument, _) in enumerate(pickletools.genops(program)):
            if opcode.name == "STOP":
                if len(self.stack) != 1 or self.marks:
                    raise Refused("a pickle that ends with several values")
                return self.stack[0]
            if opcode.name not in self.steps:
                raise Refused(f"the pickle instruction {opcode.name}")
            if n >= MAX_STEPS:
                raise Refused(f"more than {MAX_STEPS:,} steps")
            self.steps[opcode.name](argument)
        raise Refused("a pickle without an end")

    def top(self) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise Refused("a value that is not there")
        return self.stack[-1]

    def pop(self, n: int) -> tuple:
        if len(self.stack) - (self.marks[-1] if self.marks else 0) < n:
            raise Refused("a value that is not there")
        out = tuple(self.stack[-n:])
        del self.stack[-n:]
        return out

    def since_mark(self) -> list:
        if not self.marks:
            raise Refused("a value that is not there")
        at = self.marks.pop()
        out = self.stack[at:]
        del self.stack[at:]
        return out

    def extend(self, items: list) -> None:
        if type(self.top()) is not list:
            raise Refused("appending to what is no list")
        self.top().extend(items)

    def update(self, items: list) -> None:
        if type(self.top()) not in (dict, _Mapping) or len(items) % 2:
            raise Refused("setting items of what is no dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            self.top()[_key(key)] = value

    def copy(self, items: Any) -> Any:
        """Items that are about to be copied: not so many that a small file fills the memory."""
        self.copied += len(items)
        if self.copied > MAX_COPIED:
            raise Refused(f"copies of more than {MAX_COPIED:,} values")
        return items

    @staticmethod
    def named(module: str, name: str) -> Any:
        """What a global stands for."""
        module = {"__builtin__": "builtins"}.get(module, module)
        symbol = _Name(module, name)
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return name
        kind = name.removesuffix("Storage") if module == "torch" and name.endswith("Storage") else None
        if module.startswith(STUB_MODULES) or (module, name) in ALLOWED_GLOBALS | PATHS or str(symbol) in _Machine.CALLS or kind in DTYPES:
            return symbol
        raise Refused(str(symbol))

    CALLS = (
        "collections.OrderedDict", "collections.defaultdict", "builtins.set", "builtins.frozenset", "torch.Size", "torch.device",
        "torch.serialization._get_layout", "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter",
    )  # fmt: skip

    def call(self, what: Any, args: Any) -> Any:
        """The value that stands for a class or function that is called."""
        if type(what) is not _Name or type(args) is not tuple:
            raise Refused("calling what is no name")
        named = str(what)
        if what.module.startswith(STUB_MODULES):
            return StubConfig(named, args)
        if (what.module, what.name) in PATHS and all(isinstance(a, str) for a in args):
            return "/".join(self.copy(args))
        if named == "collections.defaultdict" and len(args) <= 1:
            return _Mapping()
        if named == "collections.OrderedDict" and len(args) <= 1:
            pairs = [p for p in self.copy(args[0] if args else []) if type(p) in (list, tuple) and len(p) == 2]
            return _Mapping((_key(k), v) for k, v in pairs)
        if named in ("builtins.set", "builtins.frozenset") and len(args) <= 1 and (not args or type(args[0]) is list):
            return {_key(x) for x in self.copy(args[0] if args else [])}
        if named == "torch.Size" and len(args) == 1 and type(args[0]) in (tuple, list):
            return tuple(self.copy(args[0]))
        if named in ("torch.device", "torch.serialization._get_layout") and args and isinstance(args[0], str):
            return args[0]
        if named == "torch._utils._rebuild_parameter" and args and type(args[0]) is _View:
            return args[0]
        if named == "torch._utils._rebuild_tensor_v2" and len(args) >= 4:
            return _view(*args[:4])
        raise Refused(f"calling {named} with {', '.join(type(a).__name__ for a in args) or 'nothing'}")

    def build(self, state: Any) -> None:
        """Attributes of the value on top."""
        target = self.top()
        if type(target) is _Mapping:
            return
        if type(target) is not StubConfig:
            raise Refused(f"setting attributes of {target if type(target) is _Name else type(target).__name__}")
        for part in state if type(state) is tuple else (state,):
            if type(part) in (dict, _Mapping):
                target.fields.update({str(k): v for k, v in self.copy(part).items()})

    @staticmethod
    def storage(identity: Any) -> _Storage:
        """A storage by what the pickle says of it: ("storage", type, key, device, number of elements)."""
        match identity:
            case ("storage", _Name("torch", kind), str(key), str(), int(numel), *_) if kind.removesuffix("Storage") in DTYPES:
                if re.fullmatch(r"\d{1,9}", key) and type(numel) is int and numel >= 0:
                    return _Storage(key, DTYPES[kind.removesuffix("Storage")], numel)
        raise Refused("a tensor that torch.save does not write")


def _key(key: Any) -> str | int | float | None:
    if not isinstance(key, str | int | float | None):
        raise Refused(f"a {type(key).__name__} as a key")
    return key


def _view(storage: Any, offset: Any, size: Any, stride: Any) -> _View:
    """A tensor that lies within its storage and is no larger."""
    numbers = (offset, *size, *stride) if type(size) is tuple and type(stride) is tuple else (None,)
    if (
        type(storage) is not _Storage
        or any(type(n) is not int or not 0 <= n < 1 << 48 for n in numbers)
        or len(size) != len(stride)
        or len(size) > 16
    ):
        raise Refused("a tensor that torch.save does not write")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    n = math.prod(size)
    if n and (last >= storage.numel or n > storage.numel):
        raise Refused(f"a tensor of shape {size} of a storage of {storage.numel:,} numbers, which it does not fit into")
    return _View(storage, offset, size, stride)


def check_size(held: Any) -> None:
    """Raise a ValueError if configuration is larger written out than in the file, as a pair of pairs of pairs that are all one.

    Showing, hashing or comparing such a value takes as many steps as it has values written out; one that holds itself has no
    end. (Values of omegaconf know what they lie in, which is not read.)
    """
    sizes: dict[int, int] = {}
    around: set[int] = set()

    def parts(value: Any) -> list:
        if type(value) is StubConfig:
            return [value.args, {k: v for k, v in value.fields.items() if k != "_parent"}]
        if isinstance(value, dict):
            return [*value.keys(), *value.values()]
        return list(value) if isinstance(value, list | tuple | set) else []

    def size(value: Any, depth: int) -> int:
        if not isinstance(value, StubConfig | dict | list | tuple | set) or not value:
            return 1
        if id(value) in around or depth > MAX_DEPTH:
            raise ValueError(f"its configuration holds values that hold themselves, or lie more than {MAX_DEPTH} deep in one another")
        if id(value) not in sizes:
            around.add(id(value))
            sizes[id(value)] = 1 + sum(size(part, depth + 1) for part in parts(value))
            around.remove(id(value))
        if sizes[id(value)] > MAX_VALUES:
            raise ValueError(f"its configuration holds more than {MAX_VALUES:,} values written out")
        return sizes[id(value)]

    size(held, 0)


class _Archive:
    """The zip archive that torch.save writes: one folder with ``data.pkl`` and ``data/NUMBER``, nothing compressed."""

    PARTS = re.compile(r"data\.pkl|byteorder|version|\.format_version|\.storage_alignment|\.data/serialization_id|data/\d{1,9}")

    def __init__(self, file: Path):
        self.zip = zipfile.ZipFile(file)
        entries = self.zip.infolist()
        names = [e.filename for e in entries]
        folder = names[0].split("/", 1)[0] if names else ""
        parts = [n.removeprefix(f"{folder}/") for n in names]
        if script := next((p for p in parts if p.startswith("code/") or p == "constants.pkl"), None):
            raise Refused(f"code: it is a TorchScript archive ({script})")
        if len(entries) > MAX_ENTRIES or len(set(names)) != len(names):
            raise Refused("an archive with too many entries, or some twice")
        if other := next((n for n, p in zip(names, parts, strict=True) if n == p or not self.PARTS.fullmatch(p)), None):
            raise Refused(f"{shown(other)}, which is no part of a checkpoint that torch.save wrote")
        if packed := next(
            (e for e in entries if e.compress_type != zipfile.ZIP_STORED or e.file_size != e.compress_size or e.flag_bits & 1), None
        ):
            raise Refused(f"{shown(packed.filename)}, which is compressed or encrypted")
        if sum(e.file_size for e in entries) > file.stat().st_size:
            raise Refused("entries that are larger together than the file")
        self.entries = dict(zip(parts, entries, strict=True))
        if "data.pkl" not in self.entries:
            raise Refused("an archive without data.pkl")
        if self.entries["data.pkl"].file_size > MAX_PICKLE:
            raise Refused(f"a pickle of more than {MAX_PICKLE >> 20} MiB")
        if "byteorder" in self.entries and self.read("byteorder") != b"little":
            raise Refused("big-endian numbers")
        self.storages: dict[_Storage, torch.Tensor] = {}

    def read(self, part: str) -> bytes:
        return self.zip.read(self.entries[part])

    def tensor(self, view: _View) -> torch.Tensor:
        storage, part = view.storage, f"data/{view.storage.key}"
        if storage not in self.storages:
            expected = storage.numel * storage.dtype.itemsize
            if part not in self.entries or self.entries[part].file_size != expected:
                there = f"{self.entries[part].file_size:,} bytes" if part in self.entries else "nothing"
                raise Refused(f"{expected:,} bytes of {part}, where there is {there}")
            empty = torch.empty(0, dtype=storage.dtype)
            self.storages[storage] = torch.frombuffer(bytearray(self.read(part)), dtype=storage.dtype) if expected else empty
        return self.storages[storage].as_strided(view.size, view.stride, view.offset)


def read_checkpoint(path: str | Path) -> dict:
    """A Lightning checkpoint: weights of its ``state_dict`` as tensors on the CPU, configuration objects as `StubConfig`.

    Tensors elsewhere (of an optimiser) are not read.

    Raises
    ------
    ValueError
        If the file is no checkpoint that torch.save wrote, is damaged, or asks for anything but tensors, containers and
        the published system's configuration; nothing was run.
    """
    file = require_file(path, "checkpoint")
    try:
        with file.open("rb") as start:
            _check_beginning(start.read(512))
        archive = _Archive(file)
        checkpoint = _Machine().run(archive.read("data.pkl"))
        if type(checkpoint) not in (dict, _Mapping):
            raise Refused(f"a {type(checkpoint).__name__} where a dict is expected")
        if type(checkpoint.get("state_dict")) in (dict, _Mapping):
            checkpoint["state_dict"] = {str(k): archive.tensor(v) if type(v) is _View else v for k, v in checkpoint["state_dict"].items()}
        archive.zip.close()
    except Refused as refused:
        raise ValueError(
            f"{file} asks for {plain(str(refused))}, which a checkpoint of weights does not need; it was refused and nothing in it was run. "
            "Ask its authors for safetensors"
        ) from None
    except _NoCheckpoint as error:
        raise ValueError(f"{file} {error}") from None
    except Exception as error:
        reason = plain(f"{type(error).__name__}: {error}")
        raise ValueError(f"{file} is damaged or no checkpoint of torch.save ({reason}): download it again") from None
    return dict(checkpoint)


class _NoCheckpoint(Exception):
    pass


def _check_beginning(start: bytes) -> None:
    """Raise a `_NoCheckpoint` that says what a file is that is no zip archive."""
    if start.startswith(b"PK\x03\x04"):
        return
    if not start:
        raise _NoCheckpoint("is empty: download it again")
    if start.startswith(b"version https://git-lfs"):
        raise _NoCheckpoint("is a pointer of Git LFS, not the file itself: git lfs pull")
    if start[:1] == b"\x80" or start[257:262] == b"ustar":
        raise _NoCheckpoint(
            "is in the format of torch before 1.6, which is not read: nothing in it was run. If you trust where it comes from, "
            "write it anew with torch (torch.save(torch.load(FILE, weights_only=False), FILE))"
        )
    raise _NoCheckpoint("is no checkpoint of torch.save: download it again")
