"""Requests that come together go through the model together, and get what they would get alone; what is too much is refused."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import httpx
import numpy as np
import pytest

from bmfm.serving.batching import Batcher, Limits
from bmfm.serving.engine import Engine
from bmfm.serving.errors import Refusal
from bmfm.serving.limits import LimitMiddleware
from bmfm.serving.metrics import Metrics
from bmfm.serving.pieces import Piece, join_tokens, merge, split, whole
from bmfm.tokenizers.base import Profiles, Tokens
from tests.serving.conftest import TestClient, create_app, serving


def sequences(n, seed=0, longest=1500):
    rng = np.random.default_rng(seed)
    return ["".join(rng.choice(list("ACGT"), rng.integers(1, longest))) for _ in range(n)]


def test_a_hundred_clients_get_the_offline_numbers(dna):
    texts = sequences(200, longest=120)
    expected = dna.embed(texts)
    with serving(dna, max_batch=16, max_tokens=2000) as client, ThreadPoolExecutor(100) as clients:

        def ask(number):
            return client.post("/embed", json={"sequences": texts[2 * number : 2 * number + 2]}).json()["embeddings"]

        replies = list(clients.map(ask, range(100)))
        lines = dict(line.rsplit(" ", 1) for line in client.get("/metrics").text.splitlines() if not line.startswith("#"))
    np.testing.assert_allclose(np.concatenate(replies), expected, rtol=1e-5, atol=2e-6)
    n_batches, n_requests = int(lines["bmfm_batch_requests_count"]), int(float(lines["bmfm_batch_requests_sum"]))
    assert n_batches < n_requests / 2 and n_requests >= 100  # batches really form
    assert int(lines["bmfm_examples_total"]) == 200 and lines['bmfm_requests_total{path="/embed",status="200"}'] == "100"


@pytest.mark.parametrize("strands", [False, True])
def test_pieces_are_cut_and_joined_without_a_change(dna, strands):
    requests = [sequences(n, seed=n, longest=700) for n in (1, 4, 5)]
    options = {"strands": "average"} if strands else {}
    pieces = [piece for texts in requests for piece in split(whole(dna.read(texts), strands), 2)]
    assert max(piece.n_rows for piece in pieces if piece.n_examples > 1) <= 2 and len(pieces) > 3
    together = dna.embed(merge(pieces), **options)
    np.testing.assert_allclose(together, np.concatenate([dna.embed(texts, **options) for texts in requests]), rtol=1e-5, atol=2e-6)


def test_tokens_are_joined_with_all_genes_of_their_cells():
    """Two cells of one request and one of another: tokens 1 2 | 3 | 4 5, and profiles of 1, 2 and 3 genes."""
    shown = Profiles(np.array([7, 8, 9, 7, 8, 9]), np.arange(6, dtype=np.float32), np.array([0, 1, 3, 6]))
    tokens = Tokens(np.array([1, 2, 3, 4, 5], np.int32), np.array([0, 2, 3, 5]), {"values": np.arange(5.0)}, shown_profile=shown)
    joined = join_tokens([tokens.take(np.array([0, 1])), tokens.take(np.array([2]))])
    assert joined.ids.tolist() == [1, 2, 3, 4, 5] and joined.offsets.tolist() == [0, 2, 3, 5]
    assert joined.fields["values"].tolist() == [0, 1, 2, 3, 4] and joined.shown_profile.values.tolist() == [0, 1, 2, 3, 4, 5]
    assert joined.shown_profile.gene_ids.tolist() == [7, 8, 9, 7, 8, 9] and joined.shown_profile.offsets.tolist() == [0, 1, 3, 6]


@pytest.mark.slow
def test_cells_are_joined_with_all_their_genes():
    """Of a model that reads a summary of all genes, beside those that are shown."""
    import anndata

    import bmfm
    from bmfm.files import ASSETS

    model = bmfm.load("bmfm-rna-mini")
    adata = anndata.read_h5ad(ASSETS / "rna" / "pbmc3k.h5ad")[:6].copy()
    pieces = [piece for part in (adata[:4], adata[4:]) for piece in split(whole(model.read(part.copy())), 2)]
    assert [piece.n_examples for piece in pieces] == [2, 2, 2]
    np.testing.assert_allclose(model.embed(merge(pieces)), model.embed(adata), rtol=1e-5, atol=2e-6)


def batcher_of(run, **limits):
    batcher = Batcher(run, Limits(**limits), Metrics())
    batcher.start()
    return batcher


def one(dna, n=1) -> Piece:
    return whole(dna.read(["ACGT"] * n))


def test_the_queue_has_an_end_and_what_waits_is_finished(dna):
    is_running, may_go_on = Event(), Event()

    def run(key, pieces):
        is_running.set()
        may_go_on.wait(10)
        return [piece.n_examples for piece in pieces]

    async def scenario():
        batcher = batcher_of(run, max_queue=4, max_batch=2, max_wait_ms=0.01)
        first = asyncio.create_task(batcher.submit("a", one(dna)))
        while not is_running.is_set():
            await asyncio.sleep(0.01)
        waiting = asyncio.create_task(batcher.submit("a", one(dna, 3)))
        await asyncio.sleep(0.01)
        with pytest.raises(Refusal) as full:
            await batcher.submit("a", one(dna, 2))
        with pytest.raises(Refusal) as never:
            await batcher.submit("a", one(dna, 5))
        assert (full.value.status, full.value.headers, never.value.status) == (429, {"Retry-After": "1"}, 413)
        closing = asyncio.create_task(batcher.close())
        await asyncio.sleep(0.01)
        with pytest.raises(Refusal) as stopping:
            await batcher.submit("a", one(dna))
        may_go_on.set()
        await closing
        return stopping.value.status, await first, await waiting

    assert asyncio.run(scenario()) == (503, [1], [2, 1])


def test_what_fails_together_is_tried_by_itself(dna):
    def run(key, pieces):
        if any(piece.n_examples == 2 for piece in pieces):
            raise ValueError("two")
        return [piece.n_examples for piece in pieces]

    async def scenario():
        batcher = batcher_of(run, max_wait_ms=50)
        results = await asyncio.gather(*(batcher.submit("a", one(dna, n)) for n in (1, 2, 3)), return_exceptions=True)
        await batcher.close()
        return results

    first, failed, last = asyncio.run(scenario())
    assert (first, last) == ([1], [3]) and str(failed) == "two"


def test_batches_are_of_one_key_and_keep_their_bounds(dna):
    batches = []

    def run(key, pieces):
        batches.append((key, sum(p.n_rows for p in pieces), max(p.longest for p in pieces)))
        return [0] * len(pieces)

    async def scenario():
        batcher = batcher_of(run, max_batch=8, max_tokens=1000, max_wait_ms=30)
        asked = [("ab"[i % 2], whole(dna.read([text]))) for i, text in enumerate(sequences(40, longest=500))]
        await asyncio.gather(*(batcher.submit(*request) for request in asked))
        await batcher.close()

    asyncio.run(scenario())
    assert {key for key, _, _ in batches} == {"a", "b"} and sum(n for _, n, _ in batches) == 40 and len(batches) < 30
    assert all(n <= 8 and n * longest <= 1000 for _, n, longest in batches)


def test_a_full_server_says_so(dna):
    """A request that runs, one that waits, and one that finds no place; then there is a place again."""
    is_running, may_go_on = Event(), Event()

    class Slow(Engine):
        def run(self, key, pieces):
            is_running.set()
            may_go_on.wait(10)
            return super().run(key, pieces)

    body = {"sequences": ["ACGT"]}
    with TestClient(create_app(Slow(dna, Limits(max_queue=1, max_wait_ms=0)))) as client, ThreadPoolExecutor(2) as clients:
        while client.get("/health").status_code != 200:
            time.sleep(0.02)
        asked = []
        asked.append(clients.submit(client.post, "/embed", json=body))
        assert is_running.wait(5)
        asked.append(clients.submit(client.post, "/embed", json=body))
        while _waiting(client) < 1:
            time.sleep(0.02)
        refused = client.post("/embed", json=body)
        may_go_on.set()
        assert [reply.result().status_code for reply in asked] == [200, 200]
        assert refused.status_code == 429 and refused.headers["Retry-After"] == "1" and "waiting" in refused.json()["error"]["message"]
        assert client.post("/embed", json=body).status_code == 200


def _waiting(client) -> int:
    return int(client.get("/metrics").text.split("\nbmfm_queue_rows ")[1].split()[0])


def asked_of_middleware(receive, scope=None, app=None, **limits):
    """What the bounds before the endpoints answer: status and body."""
    sent = []

    async def send(message):
        sent.append(message)

    async def ask():
        middleware = LimitMiddleware(app or forbidden, Limits(**limits), Metrics(), body_seconds=0.05)
        await middleware({"type": "http", "method": "POST", "path": "/embed", "headers": [], **(scope or {})}, receive, send)

    asyncio.run(ask())
    return (sent[0]["status"], sent[1]["body"].decode()) if sent else None


async def forbidden(scope, receive, send):
    raise AssertionError("the endpoints were asked")


def test_a_body_that_does_not_come_is_not_waited_for():
    async def never():
        await asyncio.sleep(60)

    async def gone():
        return {"type": "http.disconnect"}

    assert asked_of_middleware(never)[0] == 408 and asked_of_middleware(gone) is None


def test_of_a_client_that_went_away_nothing_more_is_run(dna):
    ran, is_running, may_go_on = [], Event(), Event()

    def run(key, pieces):
        is_running.set()
        may_go_on.wait(10)
        ran.append(key)
        return [0] * len(pieces)

    async def scenario():
        batcher = batcher_of(run, max_wait_ms=0)
        messages = iter([{"type": "http.request", "body": b"", "more_body": False}, {"type": "http.disconnect"}])
        metrics = Metrics()

        async def receive():
            return next(messages)

        async def app(scope, receive, send):
            assert (await receive())["type"] == "http.request"
            await batcher.submit("of the one that went", one(dna))

        async def send(message):
            raise AssertionError("nobody is there")

        first = asyncio.create_task(batcher.submit("first", one(dna)))
        while not is_running.is_set():
            await asyncio.sleep(0.01)
        middleware = LimitMiddleware(app, Limits(), metrics)
        await asyncio.wait_for(middleware({"type": "http", "method": "POST", "path": "/embed", "headers": []}, receive, send), 5)
        may_go_on.set()
        await first
        await batcher.close()
        return metrics.text()

    assert 'status="499"} 1' in asyncio.run(scenario()) and ran == ["first"]


def test_a_model_that_cannot_run_is_told(dna, caplog):
    class Broken(Engine):
        def warm_up(self):
            raise ValueError("there is no such kernel")

    with TestClient(create_app(Broken(dna, Limits()))) as client:
        while not caplog.records:
            time.sleep(0.01)
        assert client.get("/health").status_code == 503
    assert "cannot be run" in caplog.text and "no such kernel" in caplog.text
    with pytest.raises(ValueError, match="precision='bf17' is unknown"):
        Engine(dna, Limits(), precision="bf17")


def test_a_body_that_is_said_to_be_too_large_is_not_read():
    async def not_asked():
        raise AssertionError("the body was read")

    status, body = asked_of_middleware(not_asked, {"headers": [(b"content-length", b"2000000")]}, max_body_mb=1.0)
    assert status == 413 and "1 MB (max_body_mb)" in body


@pytest.mark.parametrize("declared", [True, False])
def test_the_bytes_of_all_requests_have_a_bound(declared):
    """The first of two bodies of 0.6 MB is being answered; with it gone there is room again."""

    async def scenario():
        statuses, may_go_on = [], asyncio.Event()

        async def app(scope, receive, send):
            await may_go_on.wait()
            await send({"type": "http.response.start", "status": 200, "headers": []})

        async def ask():
            messages = iter([{"type": "http.request", "body": b"x" * 300_000, "more_body": more} for more in (True, False)])

            async def receive():
                return next(messages, None) or await asyncio.sleep(60)

            async def send(message):
                if message["type"] == "http.response.start":
                    statuses.append((message["status"], dict(message["headers"]).get(b"retry-after")))

            headers = [(b"content-length", b"600000")] if declared else []
            await middleware({"type": "http", "method": "POST", "path": "/embed", "headers": headers}, receive, send)

        middleware = LimitMiddleware(app, Limits(max_body_mb=1.0, max_total_mb=1.0), Metrics())
        first = asyncio.create_task(ask())
        await asyncio.sleep(0.01)
        await ask()
        may_go_on.set()
        await first
        await ask()
        return statuses, middleware.n_bytes

    assert asyncio.run(scenario()) == ([(429, b"1"), (200, None), (200, None)], 0)
    with pytest.raises(ValueError, match="max_total_mb=1 of all requests is less than max_body_mb=16"):
        Limits(max_total_mb=1)


def test_a_call_of_the_model_that_does_not_end_is_not_waited_for(dna):
    is_running, may_go_on = Event(), Event()

    def run(key, pieces):
        is_running.set()
        may_go_on.wait(30)
        return [0] * len(pieces)

    async def scenario():
        batcher = batcher_of(run, max_wait_ms=0)
        asked = asyncio.create_task(batcher.submit("a", one(dna)))
        while not is_running.is_set():
            await asyncio.sleep(0.01)
        begin = time.monotonic()
        is_finished = await batcher.close(0.1)
        asked.cancel()
        return is_finished, time.monotonic() - begin < 5

    assert asyncio.run(scenario()) == (False, True)
    may_go_on.set()


def test_what_fails_inside_is_told_without_its_words(caplog):
    """Words of an error may hold data: the log has its kind and place."""

    async def broken(scope, receive, send):
        raise RuntimeError("patient 7")

    messages = iter([{"type": "http.request", "body": b"", "more_body": False}])

    async def empty():
        return next(messages, None) or await asyncio.sleep(60)

    status, body = asked_of_middleware(empty, app=broken)
    assert status == 500 and "patient" not in body + caplog.text and "RuntimeError at test_batching.py" in caplog.text


@pytest.mark.slow
def test_a_process_that_is_told_to_stop_finishes_what_waits():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = [sys.executable, "-m", "bmfm.serve", "checkpoint=bmfm-dna-mini", f"port={port}"]
    with subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1"}
    ) as process:
        try:
            address = f"http://127.0.0.1:{port}"
            _wait_until_healthy(process, address)
            with ThreadPoolExecutor(4) as clients:
                body = {"sequences": ["ACGTTAGCAAC" * 20] * 2}
                refused = httpx.post(f"{address}/embed", json={"sequences": ["MKVLPEFIQ"]})
                assert refused.status_code == 422 and "MKVLPEFIQ" in refused.text
                asked = [clients.submit(httpx.post, f"{address}/explain", json=body, timeout=120) for _ in range(3)]
                time.sleep(1.0)
                process.send_signal(signal.SIGTERM)
                time.sleep(0.5)
                with pytest.raises(httpx.ConnectError):
                    httpx.get(f"{address}/health")
                assert [reply.result().status_code for reply in asked] == [200] * 3
            out, err = process.communicate(timeout=60)
            assert (
                process.returncode in (0, -signal.SIGTERM)
                and "Traceback" not in err
                and not any(text in out + err for text in ("ACGT", "MKVL"))
            )
        finally:
            process.kill()


def _wait_until_healthy(process, address):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"{address}/health").status_code == 200:
                return
        except httpx.ConnectError:
            time.sleep(0.1)
    raise AssertionError(process.communicate(timeout=5))
