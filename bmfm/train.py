"""Train a model, from new weights or from a checkpoint: ``python -m bmfm.train +recipe=dna_snp``. Any setting can be overridden: ``optimizer.lr=1e-3``."""

from bmfm.cli import main
from bmfm.places import with_local_inputs


def train(config) -> dict[str, float]:
    """Run one composed recipe, see `training.run.train`."""
    from bmfm.training.run import train as run

    return run(with_local_inputs(config))


if __name__ == "__main__":
    main(train, "train")
