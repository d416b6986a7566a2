"""Compare models on a suite of tasks: ``python -m bmfm.benchmark +suite=gue checkpoint=runs/dna_snp/model data_root=FOLDER``."""

from typing import Any

from bmfm.cli import main


def run(config: Any) -> None:
    """Run the benchmark of a configuration, see `evaluation.benchmark`."""
    from bmfm.evaluation import benchmark

    benchmark.run(config)


if __name__ == "__main__":
    main(run, "benchmark")
