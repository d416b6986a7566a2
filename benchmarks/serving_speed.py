"""Speed of a server beside the predictor offline, and of ONNX beside torch, in one run: ``python benchmarks/serving_speed.py``.

Of the server: requests a second and latencies (p50, p99) of so many clients at once, each with its next request as soon as it has an answer, and what
the same examples take offline, all at once, and one by one. Of backends: examples a second of one batch size in float32 and bfloat16 by torch, and in float32 and int8 by
onnxruntime, with the least cosine of their embeddings with those of torch in float32.
"""

import argparse
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

import bmfm
from bmfm.exporting.export import export
from bmfm.exporting.parity import real_examples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", default="bmfm-dna-mini")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--requests", type=int, default=256, help="of each number of clients")
    parser.add_argument("--examples", type=int, default=256, help="that backends embed")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--length", type=int, default=400, help="bases of a sequence")
    parser.add_argument("--json", type=Path, help="a file for the figures")
    options = parser.parse_args()
    model = bmfm.load(options.checkpoint)
    figures = {"server": of_server(model, options), "backends": of_backends(model, options)}
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


def of_server(model, options) -> list[dict]:
    """Figures of every number of clients, and of the predictor in this process."""
    bodies = [body_of(model, options, i) for i in range(options.requests)]
    data = data_of(model, options, options.requests)
    model.embed(data, progress=False)
    rows = []
    for what, size in (("offline, batches", options.batch_size), ("offline, one by one", 1)):
        begin = time.perf_counter()
        model.embed(data, batch_size=size, progress=False)
        seconds = time.perf_counter() - begin
        rows.append({"what": what, "examples_a_second": options.requests / seconds})
        print(f"{what:22} {options.requests / seconds:9.1f} examples/s")
    with server(options.checkpoint) as address:
        ask(address, bodies[:8], 4)
        for n_clients in options.clients:
            seconds, latencies = ask(address, bodies, n_clients)
            p50, p99 = np.percentile(latencies, [50, 99]) * 1000
            rows.append({"what": f"{n_clients} clients", "examples_a_second": len(bodies) / seconds, "p50_ms": p50, "p99_ms": p99})
            print(f"{f'{n_clients} clients':22} {len(bodies) / seconds:9.1f} requests/s, p50 {p50:7.1f} ms, p99 {p99:7.1f} ms")
    return rows


def of_backends(model, options) -> list[dict]:
    """Figures of each backend and precision."""
    data = data_of(model, options, options.examples)
    expected = model.embed(data, progress=False)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for precision in ("fp32", "int8"):
            export(model, Path(folder) / precision, precision=precision)
        ways = [("torch fp32", model, {}), ("torch bf16", model, {"precision": "bf16"})]
        ways += [(f"onnx {p}", bmfm.load(Path(folder) / p, backend="onnx"), {}) for p in ("fp32", "int8")]
        for name, predictor, more in ways:
            inputs = predictor.read(data)
            run = {"batch_size": options.batch_size, "progress": False} | more
            predictor.embed(inputs, **run)
            seconds, cpu = [], []
            for _ in range(3):
                begin, cpu_begin = time.perf_counter(), time.process_time()
                found = predictor.embed(inputs, **run)
                seconds.append(time.perf_counter() - begin)
                cpu.append(time.process_time() - cpu_begin)
            cosine = ((found * expected).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(expected, axis=1)).min()
            rates = {"examples_a_second": len(found) / min(seconds), "examples_a_second_of_cpu_time": len(found) / min(cpu)}
            rows.append({"backend": name, **rates, "least_cosine": float(cosine)})
            print(
                f"{name:22} {len(found) / min(seconds):9.1f} examples/s ({len(found) / min(cpu):.1f} a second of CPU time), least cosine {cosine:.6f}"
            )
    return rows


def data_of(model, options, n):
    """So many examples: random sequences, or cells that ship, again and again."""
    if model.tokenizer.omics == "dna":
        rng = np.random.default_rng(0)
        return ["".join(rng.choice(list("ACGT"), options.length)) for _ in range(n)]
    cells = real_examples(model)
    return cells[np.arange(n) % cells.n_obs].copy()


def body_of(model, options, number) -> bytes:
    """The body of a request with one example."""
    if model.tokenizer.omics == "dna":
        return json.dumps({"sequences": data_of(model, options, 1)}).encode()
    cells = real_examples(model)
    row = np.asarray(cells[[number % cells.n_obs]].to_df())[0]
    found = np.flatnonzero(row)
    return json.dumps({"genes": [cells.var_names[i] for i in found], "counts": [row[found].tolist()]}).encode()


@contextlib.contextmanager
def server(checkpoint):
    """The address of a server in another process."""
    import httpx

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with subprocess.Popen(
        [sys.executable, "-m", "bmfm.serve", f"checkpoint={checkpoint}", f"port={port}"], stdout=subprocess.DEVNULL
    ) as process:
        try:
            for _ in range(600):
                with contextlib.suppress(httpx.ConnectError):
                    if httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200:
                        break
                time.sleep(0.1)
            yield f"http://127.0.0.1:{port}/embed"
        finally:
            process.terminate()


def ask(address, bodies, n_clients):
    """Seconds that all requests took, and each of them."""
    import httpx

    headers = {"Content-Type": "application/json"}
    with httpx.Client(limits=httpx.Limits(max_connections=n_clients), timeout=120) as client, ThreadPoolExecutor(n_clients) as threads:

        def one(body):
            begin = time.perf_counter()
            reply = client.post(address, content=body, headers=headers)
            assert reply.status_code == 200, reply.text
            return time.perf_counter() - begin

        begin = time.perf_counter()
        latencies = list(threads.map(one, bodies))
        return time.perf_counter() - begin, latencies


if __name__ == "__main__":
    main()
