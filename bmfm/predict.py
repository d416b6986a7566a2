"""Embed the sequences or cells of a file, and predict their labels: ``python -m bmfm.predict checkpoint=... data.path=... output=...``."""

from bmfm.cli import main


def predict(config) -> None:
    """Run a composed prediction; an interrupted one goes on where it was when it is started again."""
    if config.perturbations is not None:
        from bmfm.perturbation.command import run_responses as run
    else:
        from bmfm.inference.command import run
    run(config)


if __name__ == "__main__":
    main(predict, "predict")
