"""Serve a model over HTTP: ``python -m bmfm.serve checkpoint=... port=8000``."""

from bmfm.cli import main


def serve(config) -> None:
    """Serve the model of a composed configuration until the process is told to stop."""
    from bmfm.serving.command import run

    run(config)


if __name__ == "__main__":
    main(serve, "serve")
