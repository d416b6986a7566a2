"""Say which genes or bases a model's output comes from: ``python -m bmfm.explain checkpoint=... data.path=... target=head:cell_type output=...``."""

from bmfm.cli import main


def run_explain(config) -> None:
    """Run a composed explanation."""
    from bmfm.interpret.command import run_explain as run

    run(config)


if __name__ == "__main__":
    main(run_explain, "explain")
