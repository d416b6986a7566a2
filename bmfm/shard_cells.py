"""Shuffle the cells of many files once, into a collection for training from disk: ``python -m bmfm.shard_cells path='cells/*.h5ad' output=FOLDER``."""

from bmfm.cli import main


def shard_cells(config) -> None:
    """Write the collection of a composed configuration."""
    from bmfm.cells.sharding import run

    run(config)


if __name__ == "__main__":
    main(shard_cells, "shard_cells")
