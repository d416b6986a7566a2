"""A server as the command line asks for it."""

import logging
import os
import warnings
from dataclasses import fields
from typing import Any

from bmfm.exporting.onnx import load_onnx
from bmfm.genome.reference import Reference
from bmfm.inference.loading import load
from bmfm.inference.predictor import Predictor
from bmfm.serving.batching import Limits


def run(config: Any) -> None:
    """Serve the model of a composed configuration until the process is told to stop."""
    try:
        import uvicorn

        from bmfm.serving.app import create_app
        from bmfm.serving.engine import Engine
    except ImportError as error:
        raise SystemExit(f"bmfm: {error.name} is not installed: pip install 'bmfm[serve]'") from None
    limits = Limits(**{f.name: config[f.name] for f in fields(Limits)})
    reference = Reference.from_fasta(config.fasta) if config.fasta is not None else None
    engine = Engine(read_predictor(config), limits, reference, config.precision, {"min_matched": config.min_matched})
    warnings.simplefilter("ignore")  # they name cells and sequences of requests
    logging.basicConfig(level=logging.WARNING)
    shown = f"[{config.host}]" if ":" in config.host else config.host
    print(f"serving {config.checkpoint} at http://{shown}:{config.port}", flush=True)
    app = create_app(engine)
    server = uvicorn.Config(
        app, host=config.host, port=config.port, access_log=False, log_level="warning", server_header=False,
        timeout_graceful_shutdown=config.shutdown_seconds, timeout_keep_alive=30,
    )  # fmt: skip
    try:
        uvicorn.Server(server).run()
    finally:
        if app.state.service.batcher.is_running:  # Python itself would wait for it
            os._exit(1)


def read_predictor(config: Any) -> Predictor:
    """The model of a configuration, by the backend that it names."""
    if config.backend == "onnx":
        return load_onnx(config.checkpoint, config.revision)
    if config.backend != "torch":
        raise SystemExit(f"bmfm: backend={config.backend}: choose torch or onnx")
    return load(config.checkpoint, device=config.device, revision=config.revision)
