"""Rank genes by what their perturbation is predicted to do: ``python -m bmfm.screen checkpoint=... data.path=... 'readout={genes: [CD8A]}' output=...``."""

from bmfm.cli import main


def run_screen(config) -> None:
    """Run a composed screen."""
    from bmfm.perturbation.command import run_screen as run

    run(config)


if __name__ == "__main__":
    main(run_screen, "screen")
