"""Object stores: inputs, outputs and shards of commands there are what they are on a disk."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import fsspec
import numpy as np
import pandas as pd
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from bmfm import ledger as ledger_module
from bmfm.cli import compose
from bmfm.inference import runner, sequence_blocks
from bmfm.ledger import Ledger
from bmfm.places import StoreError, StorePath, fetch, place, staged, with_local_inputs
from bmfm.predict import predict


class Unreliable(MemoryFileSystem):
    """A store that is not reached after some uploads of shards."""

    protocol = "unreliable"
    store, pseudo_dirs = {}, [""]  # of its own
    uploads_left = 100

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.replace("unreliable://", "memory://"))

    def put_file(self, lpath, rpath, **options):
        if rpath.endswith(".npz"):
            if not Unreliable.uploads_left:
                raise ConnectionResetError("the network is away")
            Unreliable.uploads_left -= 1
        return super().put_file(lpath, rpath, **options)


fsspec.register_implementation("unreliable", Unreliable, clobber=True)


@pytest.fixture
def memory():
    """The URL of an empty folder, and its file system."""
    store = fsspec.filesystem("memory")
    store.rm("/", recursive=True) if store.find("/") else None
    return store


def test_shards_and_claims_in_a_store(memory, monkeypatch):
    ledger = Ledger.of_plan(place("memory://bucket/out.csv"), {"a": 1})
    assert (
        ledger.folder.url.startswith("memory://bucket/.out.csv.")
        and ledger.is_there()
        and json.loads(memory.cat(f"{ledger.folder.url}/plan.json"))
    )
    worker, calls = Ledger(ledger.folder, ledger.key, is_worker=True), []
    found = [part.get(n, lambda n=n: calls.append(n) or {"x": np.arange(n)}) for n in range(3) for part in (worker, ledger, ledger)]
    assert calls == [0, 1, 2] and [len(f["x"]) for f in found] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert worker.get(1, lambda: pytest.fail("finished")) is None and ledger.n_finished() == 3 and not worker.is_open(1)
    claim = ledger.folder / "00000007.claim"
    claim.create(json.dumps({"host": "elsewhere", "pid": 1}).encode())
    assert worker.get(7, lambda: pytest.fail("another holds it")) is None
    monkeypatch.setattr(ledger_module, "SILENCE", -1)  # as if it had not been heard of for long
    assert worker.get(7, lambda: {"x": np.ones(1)})["x"] == 1 and not claim.exists()
    memory.pipe(f"{ledger.folder.url}/00000001.npz", b"damaged")
    assert len(ledger.get(1, lambda: {"x": np.arange(9)})["x"]) == 9
    with ledger.finishing() as is_ours:
        assert is_ours
    assert not memory.find("/bucket")


def test_a_claim_is_made_once_and_renewed_by_its_holder_alone(memory, monkeypatch):
    monkeypatch.setattr(ledger_module, "HEARTBEAT", 0.02)
    claim = StorePath("memory://bucket/0.claim")
    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(lambda _: ledger_module._make(claim), range(40))) >= 1
    claim.unlink()
    worker = Ledger(claim.parent, is_worker=True)
    with worker._claim("0") as is_ours:
        assert is_ours
        first = claim.modified()
        time.sleep(0.1)
        assert claim.modified() > first
        claim.write_bytes(b"of another")
        time.sleep(0.1)
        assert claim.read_bytes() == b"of another"


def test_inputs_are_copied_once_and_again_when_they_change(memory, tmp_path, monkeypatch):
    monkeypatch.setenv("BMFM_CACHE", str(tmp_path))
    for name in ("m/a.json", "m/sub/b.txt", "x.csv", "y.csv"):
        memory.pipe(f"/bucket/{name}", name.encode())
    folder = fetch("memory://bucket/m")
    assert sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.*")) == ["a.json", "sub/b.txt"]
    assert fetch("memory://bucket/m/") == folder and fetch("memory://bucket/x.csv").read_bytes() == b"x.csv"
    memory.pipe("/bucket/m/a.json", b"new")
    assert fetch("memory://bucket/m") != folder and (fetch("memory://bucket/m") / "a.json").read_bytes() == b"new"
    config = with_local_inputs(
        compose("predict", ["checkpoint=bmfm-rna-mini", "data.path='memory://bucket/*.csv'", "output=memory://o.h5ad"])
    )
    assert [open(p).read() for p in config.data.path] == ["x.csv", "y.csv"] and config.output == "memory://o.h5ad"  # noqa: PTH123, SIM115
    memory.pipe("/bucket/sub/z.csv", b"in another folder")
    again = compose("predict", ["checkpoint=bmfm-rna-mini", "data.path='memory://bucket/*.csv'", "output=o.h5ad"])
    assert len(with_local_inputs(again).data.path) == 2
    card = compose("train", ["+recipe=dna_finetune", "+task=genomic_benchmarks/human_enhancers_cohn", "checkpoint=x"])
    assert with_local_inputs(card) is card  # addresses in a card are read by people, or downloaded by the benchmark
    for url in ("memory://bucket/cells.soma", "tiledb://lab/soma"):  # read where it is
        assert with_local_inputs(compose("predict", ["checkpoint=x", f"data.path={url}", "output=o.h5ad"])).data.path == url
    plain = compose("predict", ["checkpoint=bmfm-rna-mini", "data.path=x.h5ad", "output=o.h5ad"])
    assert with_local_inputs(plain) is plain


@pytest.mark.parametrize(
    ("url", "kind", "message"),
    [
        ("memory://bucket/cels.h5ad", FileNotFoundError, "data.path.*did you mean cells.h5ad"),
        ("s33://bucket/x", StoreError, r"no kind of store s33://; did you mean .*s3://"),
        ("gs://bucket/x", ImportError, "pip install gcsfs"),
        ("unreliable://../x", FileNotFoundError, "does not exist"),
    ],
)
def test_what_is_not_there_is_said(url, kind, message, memory):
    memory.pipe("/bucket/cells.h5ad", b"")
    if url.startswith("gs") and "gcsfs" in sys.modules:
        pytest.skip("gcsfs is installed")
    with pytest.raises(kind, match=message):
        fetch(url, "data.path")


def test_outputs_appear_last_and_folders_are_refused(memory, tmp_path):
    with staged([place("memory://b/x.csv"), tmp_path / "y.csv"]) as files:
        for file in files:
            file.write_text("text")
        (files[0].parent / "x.csv.summary.json").write_text("{}")
        assert not memory.find("/b")
    assert sorted(memory.find("/b")) == ["/b/x.csv", "/b/x.csv.summary.json"] and (tmp_path / "y.csv").read_text() == "text"
    with pytest.raises(StoreError, match="several files cannot"):
        predict(compose("predict", ["checkpoint=bmfm-rna-mini", "data.path=x", "output=memory://o.zarr"]))


def run(checkpoint, path, output, *more):
    predict(compose("predict", [f"checkpoint={checkpoint}", f"data.path={path}", f"output={output}", "progress=false", *more]))


def test_a_prediction_from_store_to_store_when_the_network_goes_away(dna_model, write, tmp_path, monkeypatch):
    monkeypatch.setenv("BMFM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sequence_blocks, "CHUNK", 2)
    path = write("in.csv", "sequence\n" + "ACGTTGCA\nGGGTACC\nAC\n" * 3)
    run(dna_model, path, tmp_path / "out.csv")
    store = fsspec.filesystem("unreliable")
    store.put(str(dna_model), "/b/model", recursive=True)
    store.put_file(str(path), "/b/in.csv")
    there = ("unreliable://b/model", "unreliable://b/in.csv", "unreliable://b/out.csv")
    monkeypatch.setattr(Unreliable, "uploads_left", 2)
    with pytest.raises(StoreError, match="start again: what is finished is kept"):
        run(*there)
    monkeypatch.setattr(Unreliable, "uploads_left", 100)
    run_chunk, calls = runner.run_chunk, []
    monkeypatch.setattr(runner, "run_chunk", lambda *args: calls.append(1) or run_chunk(*args))
    run(*there)
    assert len(calls) == 3 and store.cat("/b/out.csv") == (tmp_path / "out.csv").read_bytes()
    assert not [name for name in store.find("/b") if ".out.csv" in name]
    with pytest.raises(SystemExit, match=r"unreliable://b/out\.csv exists already"):
        run(*there)


@pytest.fixture
def s3(monkeypatch, tmp_path):
    """A server that speaks S3, with a bucket."""
    pytest.importorskip("s3fs", reason="pip install 'bmfm[scale]'")
    server = pytest.importorskip("moto.server", reason="pip install 'moto[server,s3]'").ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("BMFM_CACHE", str(tmp_path / "cache"))
    fsspec.filesystem("s3").clear_instance_cache()
    store = fsspec.filesystem("s3", use_listings_cache=False)
    if store.exists("bucket"):
        store.rm("bucket", recursive=True)
    store.mkdir("bucket")
    yield store
    server.stop()


@pytest.mark.slow
def test_claims_of_s3_are_conditional_writes(s3):
    claim = StorePath("s3://bucket/folder/0.claim")
    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(lambda _: ledger_module._make(claim), range(40))) == 1
    assert ledger_module._is_held(claim)
    claim.write_bytes(json.dumps({"host": socket.gethostname(), "pid": 2**22 + 1}).encode())
    assert not ledger_module._is_held(claim) and ledger_module._take(claim)
    with pytest.raises(StoreError, match="no such bucket: make it"):
        Ledger.of_plan(place("s3://nowhere/out.csv"), {})
    with pytest.raises(FileNotFoundError, match="does not exist"):
        fetch("s3://nowhere/out.csv")


@pytest.mark.slow
def test_workers_share_a_prediction_on_s3_and_write_the_same_bytes(s3, dna_model, write, tmp_path):
    """Two commands at once, of two workers each, one of which is killed."""
    path = write("in.csv", "sequence\n" + "ACGTTGCA\nGGGTACC\nAC\n" * 3000)
    run(dna_model, path, tmp_path / "out.parquet")
    s3.put(str(dna_model), "bucket/model", recursive=True)
    s3.put_file(str(path), "bucket/in.csv")
    command = [
        sys.executable,
        "-m",
        "bmfm.predict",
        "checkpoint=s3://bucket/model",
        "data.path=s3://bucket/in.csv",
        "output=s3://bucket/out.parquet",
    ]
    command += ["launcher=local", "launcher.workers=2", "progress=false"]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for _ in range(2)]
    killed = False
    while not killed and any(p.poll() is None for p in both):
        for name in s3.find("bucket"):
            if name.endswith(".claim") and "output" not in name:
                os.kill(json.loads(s3.cat(name))["pid"], 9)
                killed = True
                break
    said = [p.communicate()[0] for p in both]
    assert [p.returncode for p in both] == [0, 0], said
    assert s3.cat("bucket/out.parquet") == (tmp_path / "out.parquet").read_bytes()
    assert sorted(s3.find("bucket")) == sorted(["bucket/in.csv", "bucket/out.parquet", *s3.find("bucket/model")])
    assert pd.read_parquet(tmp_path / "out.parquet").shape[0] == 9_000
    shutil.rmtree(tmp_path / "cache")
