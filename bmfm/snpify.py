"""Write known variants into labelled sequences: ``python -m bmfm.snpify data.path=... data.fasta=... data.variants=... output=...``."""

from bmfm.cli import main


def snpify(config) -> None:
    """Write the tables of a composed configuration, sequences of all classes by one rule."""
    from bmfm.data.snpify_files import run

    run(config)


if __name__ == "__main__":
    main(snpify, "snpify")
