"""Files that try to run something, or to fill the memory, while they are read. All are made on the spot, and none may leave a mark."""

import io
import os
import pathlib
import pickle
import struct
import sys
import tarfile
import time
import zipfile

import numpy as np
import pytest
import torch

from bmfm.storage.pickled import StubConfig, read_checkpoint


class _Call:
    """Pickles as a call of any function."""

    def __init__(self, function, *args):
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


class _Evil(_Call):
    def __init__(self, mark):
        super().__init__(os.system, f"touch {mark}")


PROTO, STOP = b"\x80\x02", b"."


def _text(value: str) -> bytes:
    """BINUNICODE."""
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def _global(module, name) -> bytes:
    return f"c{module}\n{name}\n".encode()


def _archive(file, program, extra=(), folder="archive", compression=zipfile.ZIP_STORED):
    """A zip archive as torch.save writes it, around any pickle."""
    with zipfile.ZipFile(file, "w", compression) as out:
        out.writestr(f"{folder}/data.pkl", program)
        out.writestr(f"{folder}/version", "3\n")
        for name, data in extra:
            out.writestr(name, data)


def _tensor(size=(2,), stride=(1,), offset=0, numel=2, key="0", kind="FloatStorage") -> bytes:
    """A dict with a state dict of one tensor, by hand."""

    def number(n):
        return b"J" + struct.pack("<i", n) if -(1 << 31) <= n < 1 << 31 else b"\x8a\x08" + struct.pack("<q", n)

    def several(values):
        return b"(" + b"".join(map(number, values)) + b"t"

    storage = b"(" + _text("storage") + _global("torch", kind) + _text(key) + _text("cpu") + number(numel) + b"tQ"
    arguments = b"(" + storage + number(offset) + several(size) + several(stride) + b"\x89" + _global("collections", "OrderedDict") + b")Rt"
    tensor = _global("torch._utils", "_rebuild_tensor_v2") + arguments + b"R"
    return PROTO + b"}" + _text("state_dict") + b"}" + _text("w") + tensor + b"ss" + STOP


NUMBERS = [("archive/data/0", np.arange(2, dtype="<f4").tobytes())]


def _refused(file, match):
    began = time.process_time()
    with pytest.raises(ValueError, match=match) as raised:
        read_checkpoint(file)
    said = str(raised.value)
    assert said.startswith(str(file)) and "\n" not in said and len(said) < 600 + len(str(file))
    assert time.process_time() - began < 10


def test_a_tensor_by_hand_is_read(tmp_path):
    """The hostile ones below differ from this one alone."""
    file = tmp_path / "last.ckpt"
    _archive(file, _tensor(), NUMBERS)
    assert read_checkpoint(file)["state_dict"]["w"].tolist() == [0, 1]
    assert torch.load(file, weights_only=True)["state_dict"]["w"].tolist() == [0, 1]  # and torch agrees that it is one


@pytest.mark.parametrize(
    ("tensor", "match"),
    [
        ({"size": (3,)}, "does not fit"),
        ({"size": (1 << 40,), "stride": (0,)}, "does not fit"),
        ({"offset": 2}, "does not fit"),
        ({"offset": -1}, "torch.save does not write"),
        ({"stride": (-1,)}, "torch.save does not write"),
        ({"stride": (1 << 40,)}, "does not fit"),
        ({"size": (2, 2)}, "torch.save does not write"),
        ({"numel": 1 << 40}, r"bytes of data/0, where there is 8 bytes"),
        ({"numel": 1, "size": (1,)}, "4 bytes of data/0"),
        ({"numel": -2}, "torch.save does not write"),
        ({"key": "1"}, "data/1, where there is nothing"),
        ({"key": "../0"}, "torch.save does not write"),
        ({"kind": "UntypedStorage"}, r"torch\.UntypedStorage"),
    ],
)
def test_tensors_outside_their_storage(tmp_path, tensor, match):
    file = tmp_path / "last.ckpt"
    _archive(file, _tensor(**tensor), NUMBERS)
    _refused(file, match)


CALLS = {
    "os.system": lambda mark: _Evil(mark),
    "eval": lambda mark: _Call(eval, f"open({str(mark)!r}, 'w')"),
    "exec": lambda mark: _Call(exec, f"open({str(mark)!r}, 'w')"),
    "open": lambda mark: _Call(open, str(mark), "w"),
    "Path.touch": lambda mark: _Call(pathlib.Path.touch, pathlib.PosixPath(mark)),
    "getattr": lambda mark: _Call(getattr, "x", "upper"),
    "import": lambda mark: _Call(__import__, "antigravity"),
    "torch.load": lambda mark: _Call(torch.load, str(mark)),
    "torch.hub": lambda mark: _Call(torch.hub.load, "x", "y"),
    "np.save": lambda mark: _Call(np.save, str(mark), np.zeros(1)),
    "copyreg": lambda mark: _Call(__import__("copyreg").add_extension, "os", "system", 77),
}


@pytest.mark.parametrize("call", CALLS)
def test_calls_are_refused(tmp_path, call):
    file, mark = tmp_path / "last.ckpt", tmp_path / "mark"
    torch.save({"state_dict": {}, "hyper_parameters": {"model_config": CALLS[call](mark)}}, file)
    _refused(file, "refused and nothing in it was run")
    file.write_bytes(pickle.dumps(CALLS[call](mark)))  # a bare pickle
    _refused(file, "nothing in it was run")
    torch.save({"state_dict": CALLS[call](mark)}, file, _use_new_zipfile_serialization=False)
    _refused(file, "nothing in it was run")
    assert not list(tmp_path.glob("mark*")) and "antigravity" not in sys.modules


def _build(target: bytes, state: bytes = b"}" + _text("parse") + _text("x") + b"s") -> bytes:
    return PROTO + target + state + b"b" + STOP


PROGRAMS = {
    "attributes of an allowed class": (_build(_global("pathlib", "PosixPath")), "setting attributes of pathlib.PosixPath"),
    "attributes of a function": (_build(_global("torch._utils", "_rebuild_tensor_v2")), "setting attributes of"),
    "attributes of a type": (_build(_global("builtins", "dict")), "setting attributes of builtins.dict"),
    "attributes of the config's module": (_build(_global("bmfm_targets.config", "main")), "setting attributes of bmfm_targets"),
    "attributes of text": (_build(_text("x")), "setting attributes of str"),
    "attributes of a list": (_build(b"]"), "setting attributes of list"),
    "calling text": (PROTO + _text("os.system") + b")R" + STOP, "calling what is no name"),
    "calling a bag": (PROTO + _global("bmfm_targets.config", "X") + b")R)R" + STOP, "calling what is no name"),
    "a class of another package": (PROTO + _global("bmfm_targetsx", "X") + b")R" + STOP, "asks for bmfm_targetsx.X"),
    "attributes through dots": (PROTO + _global("collections", "OrderedDict.__init__.__globals__") + b")R" + STOP, "__globals__"),
    "a method of a path": (PROTO + _global("pathlib", "PosixPath.unlink") + b")R" + STOP, "PosixPath.unlink"),
    "the extension registry": (PROTO + b"\x82\x01" + STOP, "EXT1"),
    "names from the stack": (b"\x80\x04" + _text("os") + _text("system") + b"\x93)R" + STOP, "STACK_GLOBAL"),
    "an instance, old style": (PROTO + b"(" + b"ios\nsystem\n" + STOP, "INST"),
    "an object, old style": (PROTO + b"(" + _global("os", "system") + b"o" + STOP, "posix|os.system|OBJ"),
    "a persistent id as text": (PROTO + b"Px\n" + STOP, "PERSID"),
    "a persistent id of another kind": (PROTO + _text("module") + b"Q" + STOP, "torch.save does not write"),
    "a value that is not there": (PROTO + b"0" + STOP, "POP"),
    "a mark that is not there": (PROTO + b"t" + STOP, "not there"),
    "a memo that is not there": (PROTO + b"h\x07" + STOP, "damaged"),
    "no end": (PROTO + b"}", "damaged|without an end"),
    "two ends": (PROTO + b"}}" + STOP, "several values"),
    "nothing": (b"", "damaged|without an end"),
    "text alone": (PROTO + _text("x") + STOP, "a str where a dict"),
    "half a number": (PROTO + b"J\x00", "damaged"),
    "a text that claims 4 GB": (PROTO + b"X\xff\xff\xff\xff" + b"x" + STOP, "damaged"),
    "a number of 2 GB": (PROTO + b"\x8b\xff\xff\xff\x7f" + STOP, "damaged|LONG4"),
    "a list as a key": (PROTO + b"}]Ns" + STOP, "list as a key"),
    "a deep tuple as a key": (PROTO + b"}" + b")" + b"\x85" * 200_000 + b"Ns" + STOP, "tuple as a key"),
    "a list that holds itself": (PROTO + b"]q\x00h\x00a" + STOP, "a list where a dict"),
    "lists in lists": (PROTO + b"]" * 500_000 + b"a" * 499_999 + STOP, "a list where a dict"),
    "a dict copied for ever": (
        PROTO + _global("bmfm_targets.config", "X") + b")R}(" + b"".join(_text(str(i)) + b"N" for i in range(3000)) + b"uq\x00" + b"bh\x00" * 20_000 + b"b" + STOP,
        "copies of more than",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs(tmp_path, name):
    before = {c: dict(vars(c)) for c in (pathlib.PosixPath, pathlib.PurePath, dict, StubConfig, torch.Tensor)}
    program, match = PROGRAMS[name]
    file = tmp_path / "last.ckpt"
    _archive(file, program)
    _refused(file, match)
    assert {c: dict(vars(c)) for c in before} == before


def test_values_of_the_allowed_names_are_inert(tmp_path):
    """Each stands for plain data; recursion among them is no trouble."""
    file = tmp_path / "last.ckpt"
    held = {"p": pathlib.PosixPath("/etc/passwd"), "d": torch.float16, "s": torch.Size([2, 3]), "v": torch.device("cuda:1"), "i": {3, 4}}
    torch.save(held, file)
    assert read_checkpoint(file) == {"p": "//etc/passwd", "d": "float16", "s": (2, 3), "v": "cuda", "i": {3, 4}}
    loop = PROTO + b"}q\x00" + _text("me") + b"h\x00s" + STOP
    _archive(file, loop)
    again = read_checkpoint(file)
    assert again["me"]["me"] is again["me"]


def test_archives(tmp_path):
    file = tmp_path / "last.ckpt"
    whole = _tensor()
    _archive(file, whole, [*NUMBERS, ("archive/code/__torch__.py", "x = 1")])
    _refused(file, r"TorchScript archive \(code/__torch__\.py\)")
    _archive(file, whole, [*NUMBERS, ("archive/constants.pkl", b"")])
    _refused(file, "TorchScript archive")
    _archive(file, whole, [*NUMBERS, ("../../evil.py", "x")])
    _refused(file, "is no part of a checkpoint")
    _archive(file, whole, [*NUMBERS, ("archive/readme.txt", "x")])
    _refused(file, "readme.txt")
    _archive(file, whole, [("archive/data/0", bytes(8))], compression=zipfile.ZIP_DEFLATED)
    _refused(file, "compressed or encrypted")
    _archive(file, whole, [("archive/data/0", bytes(1 << 20))], compression=zipfile.ZIP_DEFLATED)
    _refused(file, "compressed or encrypted")
    with pytest.warns(UserWarning, match="Duplicate"):
        _archive(file, whole, NUMBERS * 2)
    _refused(file, "some twice")
    _archive(file, whole, [*NUMBERS, ("archive/byteorder", "big")])
    _refused(file, "big-endian")
    with zipfile.ZipFile(file, "w") as out:
        out.writestr("archive/version", "3")
    _refused(file, r"without data\.pkl")
    _archive(file, b"x" * ((1 << 26) + 1))
    _refused(file, "more than 64 MiB")


def test_a_torchscript_model_is_refused_before_it_runs(tmp_path):
    """torch.load would hand it to torch.jit.load, whatever its name."""

    class Model(torch.nn.Module):
        def forward(self, x):
            return x + 1

    file = tmp_path / "last.ckpt"
    torch.jit.script(Model()).save(str(file))
    _refused(file, "TorchScript archive")


def test_other_files(tmp_path):
    file = tmp_path / "last.ckpt"
    torch.save({"state_dict": {"w": torch.zeros(2000)}}, file)
    whole = file.read_bytes()
    for n in (4, 30, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:n])
        _refused(file, "damaged")
    changed = bytearray(whole)
    changed[len(whole) // 2] ^= 1
    file.write_bytes(changed)
    _refused(file, "damaged.*CRC")
    for text, match in (
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "git lfs pull"),
        (b"<!doctype html>", "no checkpoint of torch.save"),
        (b"\x93NUMPY", "no checkpoint of torch.save"),
    ):
        file.write_bytes(text)
        _refused(file, match)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name in ("storages", "tensors", "pickle"):
            tar.addfile(tarfile.TarInfo(name))
    file.write_bytes(packed.getvalue())
    _refused(file, "format of torch before 1.6")
    torch.save({"state_dict": {"w": torch.zeros(2)}}, file, _use_new_zipfile_serialization=False)
    _refused(file, "format of torch before 1.6")
    with pytest.raises(FileNotFoundError, match="checkpoint"):
        read_checkpoint(tmp_path)


def test_tensors_are_those_that_torch_reads(tmp_path):
    """Of every kind, transposed, sliced, shared and empty."""
    base = torch.arange(12.0).view(3, 4)
    state = {
        "t": base.T,
        "slice": base[1:, 2:],
        "row": base[1],
        "none": torch.zeros(0, 3),
        "scalar": torch.tensor(3.5),
        "p": torch.nn.Parameter(base),
    }
    state |= {
        str(d): torch.arange(5).to(d)
        for d in (torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.int64, torch.uint8, torch.bool)
    }
    file = tmp_path / "last.ckpt"
    torch.save({"state_dict": state}, file)
    ours, theirs = read_checkpoint(file)["state_dict"], torch.load(file, weights_only=True)["state_dict"]
    assert ours.keys() == theirs.keys()
    assert all(
        torch.equal(ours[k], theirs[k]) and ours[k].dtype == theirs[k].dtype and ours[k].stride() == theirs[k].stride() for k in theirs
    )


def _twice(n: int) -> bytes:
    """A pair of a pair of ... of one text, each twice the same: 2^n texts written out."""
    return _text("x") + b"q\x01" + b"h\x01\x86q\x01" * n


def _lightning(config: bytes, labels: bytes = b"}") -> bytes:
    state = _tensor()[len(PROTO + b"}" + _text("state_dict") + b"}" + _text("w")) : -3]
    state = b"}(" + _text("model.scbert.embeddings.LayerNorm.weight") + state + b"u"
    return PROTO + b"}(" + _text("state_dict") + state + _text("hyper_parameters") + b"}(" + _text("model_config") + config \
        + _text("label_dict") + labels + b"uu" + STOP  # fmt: skip


DOUBLED = {
    "a number": lambda: _lightning(b"}(" + _text("hidden_size") + _twice(45) + b"u"),
    "a kind": lambda: _lightning(
        b"}(" + _text("fields") + b"](}(" + _text("field_name") + _text("expressions") + _text("encoder_kwargs")
        + b"}(" + _text("kind") + _twice(30) + b"uueu"
    ),
    "a label": lambda: _lightning(b"}(" + _text("label_columns") + b"](}(" + _text("label_column_name") + _twice(45) + b"ueu"),
    "classes": lambda: _lightning(b"}", b"}(" + _text("label") + _twice(25) + b"u"),
    "a list that holds itself": lambda: _lightning(b"}(" + _text("hidden_size") + b"]q\x00h\x00au"),
}  # fmt: skip


@pytest.mark.parametrize("what", DOUBLED)
def test_values_that_are_larger_written_out(tmp_path, what):
    """Each is read, as nothing expands it, and refused before anything would."""
    from bmfm.checkpoints.published import read_published

    file = tmp_path / "last.ckpt"
    _archive(file, DOUBLED[what](), NUMBERS)
    began = time.process_time()
    with pytest.raises(ValueError, match=r"its configuration holds (more than 1,000,000 values|values that hold themselves)") as raised:
        read_published(tmp_path)
    assert time.process_time() - began < 5 and str(raised.value).isprintable()


def test_messages_are_short_and_plain(tmp_path):
    """Terminals obey control characters in names, and nobody reads 300,000 letters."""
    from bmfm.checkpoints.published import read_published

    file, long = tmp_path / "last.ckpt", "a" * 300_000
    key = PROTO + b"}(" + _text("a\n\x1b[31mTraceback") + b"N" + _text(long) + b"Nu" + STOP
    weights = _tensor().replace(_text("w"), _text("\x1b[2J\n" + long))
    weights = weights[:-2] + _text("hyper_parameters") + b"}s" + STOP
    for program, extra in (
        (PROTO + _global("\x1b[2J\x1b]0;evil\x07", "x\x1b[31m") + b")R" + STOP, ()),
        (PROTO + _global(long, "x") + b")R" + STOP, ()),
        (key, ()),
        (weights, NUMBERS),
        (PROTO + b"}" + STOP, [("archive/code/a\nb\x1b[31m", "x")]),
        (PROTO + b"}" + STOP, [("archive/" + "z" * 60_000, "x")]),
    ):
        _archive(file, program, extra)
        with pytest.raises(ValueError, match=r"last\.ckpt") as raised:
            read_published(tmp_path)
        assert str(raised.value).isprintable() and len(str(raised.value)) < 700
