"""The endpoints of a server, and what stands between them and the network: limits, errors, figures."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import numpy as np
import pandas as pd
from fastapi import FastAPI, Header, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from bmfm import __version__
from bmfm.serving.batching import Batcher
from bmfm.serving.bodies import EmbedBody, ExplainBody, PredictBody, VariantsBody, check_omics, read_examples
from bmfm.serving.engine import Engine, reply_counts
from bmfm.serving.errors import Refusal, message_of, place_of
from bmfm.serving.limits import LimitMiddleware
from bmfm.serving.metrics import Metrics
from bmfm.serving.pieces import whole
from bmfm.serving.replies import ARROW, reply

LOGGER = logging.getLogger("bmfm.serving")
Accept = Annotated[str | None, Header()]

ERRORS: dict[int | str, dict[str, Any]] = {
    413: {"description": "The request is larger than the server takes."},
    422: {"description": "The request cannot be read; items names what of it."},
    429: {"description": "Too much is waiting."},
    503: {"description": "The server is stopping."},
}
OF_EXAMPLES = ("sequences", "counts", "cell_ids", "variants", "pairs")
"""Lists of bodies that have an entry an example."""

END_SECONDS = 10.0
"""How long a call of the model that still runs is waited for, once the time for requests is over."""

STREAM: dict[int | str, dict[str, Any]] = {200: {"content": {ARROW: {}}}, **ERRORS}


class Service:
    """A model with its queue and figures, as the endpoints share it."""

    def __init__(self, engine: Engine):
        self.engine, self.metrics, self.is_ready = engine, Metrics(), False
        self.batcher: Batcher

    @asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        """Warm the model while the port is open, and finish what waits at the end, but for a call of the model that takes longer than `END_SECONDS`."""
        self.batcher = Batcher(self.engine.run, self.engine.limits, self.metrics)
        self.batcher.start()
        warming = asyncio.create_task(self._warm_up())
        yield
        is_finished = await self.batcher.close(END_SECONDS)
        warming.cancel()
        if not is_finished:
            LOGGER.error(
                "a call of the model was still running %g seconds after the requests ended: the process ends without it", END_SECONDS
            )

    async def _warm_up(self) -> None:
        try:
            await self.batcher.submit_job(self.engine.warm_up)
        except Exception as error:  # /health says 503 from now on
            LOGGER.error("the model cannot be run: %s: %s", place_of(error), message_of(error))  # nobody's data are in these words
            return
        self.is_ready = True
        self.metrics.set("bmfm_ready", 1)

    async def run(self, what: str, body: EmbedBody | PredictBody) -> tuple[list[str], dict[str, int], list[Any]]:
        """Names of the examples, what was seen of them, and results by pieces."""
        engine = self.engine
        key = engine.key(what, body.pooling if isinstance(body, EmbedBody) else None, body.strands)
        both = key.strands == "average"
        piece = await run_in_threadpool(
            lambda: whole(read_examples(engine.predictor, body, engine.limits.max_examples, **engine.reading), both)
        )
        results = await self.batcher.submit(key, piece)
        counts = reply_counts(piece.inputs)
        self.metrics.count("bmfm_unknown_total", counts.get("unknown_tokens", 0) + counts.get("unknown_genes", 0))
        return list(map(str, piece.inputs.names)), counts, results


def create_app(engine: Engine) -> FastAPI:
    """The server of a model, for any ASGI server."""
    service = Service(engine)
    app = FastAPI(
        title="bmfm", version=__version__, lifespan=service.lifespan, docs_url=None, redoc_url=None,
        description="Embeddings and predictions of a foundation model of DNA or of single-cell RNA.",
    )  # fmt: skip
    _add_reports(app, service)
    _add_model(app, service)
    _add_errors(app)
    app.state.service = service
    app.add_middleware(LimitMiddleware, limits=engine.limits, metrics=service.metrics)
    return app


def _add_reports(app: FastAPI, service: Service) -> None:
    @app.get("/health", responses={503: {"description": "The model is not warm yet."}})
    async def health() -> JSONResponse:
        """Whether the model is warm."""
        return JSONResponse({"status": "ok" if service.is_ready else "starting"}, 200 if service.is_ready else 503)

    @app.get("/info")
    async def info() -> dict[str, Any]:
        """What the model is, and what the server takes."""
        return service.engine.info()

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> PlainTextResponse:
        """Figures for Prometheus."""
        return PlainTextResponse(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_model(app: FastAPI, service: Service) -> None:
    limits = service.engine.limits

    @app.post("/embed", responses=STREAM)
    async def embed(body: EmbedBody, accept: Accept = None) -> Response:
        """One vector for each example."""
        ids, counts, parts = await service.run("embed", body)
        return await run_in_threadpool(lambda: reply(accept, ids, counts, embeddings=np.concatenate(parts)))

    @app.post("/predict", responses=STREAM)
    async def predict(body: PredictBody, accept: Accept = None) -> Response:
        """Classes and probabilities, or numbers, of every label head."""
        ids, counts, parts = await service.run("predict", body)
        return await run_in_threadpool(lambda: reply(accept, ids, counts, table=pd.concat(parts)))

    @app.post("/score_variants", responses=STREAM)
    async def score_variants(body: VariantsBody, accept: Accept = None) -> Response:
        """Scores of variants, by coordinates or as pairs of sequences."""
        if (body.variants is None) == (body.pairs is None):
            raise Refusal(422, "give variants, of the server's genome, or pairs of sequences; one of them")
        asked, engine = body.variants if body.variants is not None else body.pairs or [], service.engine
        if not asked or not body.scores:
            raise Refusal(422, "the request holds no variant, or asks for no score: give at least one")
        if len(asked) > 10 * limits.max_slow:
            raise Refusal(
                413, f"the request holds {len(asked):,} variants, at most {10 * limits.max_slow:,} are taken at a time: send parts of it"
            )
        if engine.predictor.tokenizer.omics != "dna":
            raise Refusal(422, "variants are scored by models of DNA; this is one of cells")

        def job() -> pd.DataFrame:
            return (
                engine.score(body.variants, body.scores) if body.variants is not None else engine.score_pairs(body.pairs or [], body.scores)
            )

        table = await service.batcher.submit_job(job)
        return await run_in_threadpool(lambda: reply(accept, list(map(str, range(len(table)))), {"variants": len(table)}, table=table))

    @app.post("/explain", responses=ERRORS)
    async def explain(body: ExplainBody) -> Response:
        """What each base, or gene, contributes to what is expected, or predicted."""
        n = check_omics(service.engine.predictor, body, limits.max_slow)
        inputs = await run_in_threadpool(lambda: read_examples(service.engine.predictor, body, limits.max_slow, **service.engine.reading))
        if long := np.flatnonzero(np.bincount(inputs.owner, minlength=n) > 1).tolist():
            words = f"longer than the context of {service.engine.predictor.max_tokens:,} tokens: explain parts of it"
            raise Refusal(422, f"{len(long):,} of {n:,} sequences are too long: sequence {long[0]} is {words}", [(i, words) for i in long])
        results = await service.batcher.submit_job(lambda: service.engine.explain(body))
        return JSONResponse({"ids": body.cell_ids or list(map(str, range(n))), "explanations": results})


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(Refusal)
    async def refused(request: Request, error: Refusal) -> JSONResponse:
        return JSONResponse(error.body(), error.status, error.headers)

    @app.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: RequestValidationError) -> JSONResponse:
        words = [(".".join(str(part) for part in e["loc"][1:]), e["loc"], e["msg"]) for e in error.errors()[:20]]
        items = [
            (loc[2], f"{path}: {text}") for path, loc, text in words if len(loc) > 2 and loc[1] in OF_EXAMPLES and isinstance(loc[2], int)
        ]
        message = "; ".join(f"{path or 'body'}: {text}" for path, _, text in words[:3])
        return await refused(request, Refusal(422, message, items))

    @app.exception_handler(HTTPException)
    async def of_http(request: Request, error: HTTPException) -> JSONResponse:
        return await refused(request, Refusal(error.status_code, str(error.detail), headers=error.headers))
