"""Write a model for other runtimes (ONNX, torch.export, stock transformers): ``python -m bmfm.export checkpoint=... format=onnx output=DIR``."""

from bmfm.cli import main


def export(config) -> None:
    """Export the model of a composed configuration, and say how far the result is from it."""
    from bmfm.exporting.command import run

    run(config)


if __name__ == "__main__":
    main(export, "export")
