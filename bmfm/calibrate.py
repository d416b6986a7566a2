"""Score random variants of a genome, and keep with a model what later scores are measured by: ``python -m bmfm.calibrate MODEL GENOME.fa``.

Two files are written into the model's folder: ``variant_calibration.json``, the linear model that `allele_model=pll_cal` takes off (insertions and deletions
by default), and ``variant_background.parquet``, scores of random SNVs by context, with which the column ``quantile`` compares. They hold for the default
window and both strands. Without them calibrations are made when they are needed, and kept in the cache.
"""

import argparse
import sys

from bmfm.cli import exit_status


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="bmfm calibrate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("model", help="folder of a model of DNA")
    parser.add_argument("fasta", help="genome")
    parser.add_argument("--snvs", type=int, default=10_000, help="random SNVs of the background (default: %(default)s; 0 writes none)")
    parser.add_argument("--variants", type=int, default=2_000, help="random variants of the calibration (default: %(default)s)")
    parser.add_argument("--precision", choices=["bf16", "fp16"], help="of the forward passes (default: that of the weights)")
    parser.add_argument("--seed", type=int, default=0, help="of the places (default: %(default)s)")
    return exit_status(lambda: _calibrate(parser.parse_args(arguments)))


def _calibrate(arguments: argparse.Namespace) -> None:
    from bmfm.genome.reference import Reference
    from bmfm.inference.loading import load
    from bmfm.storage.folders import BACKGROUND, CALIBRATION
    from bmfm.variants.options import ScoreOptions
    from bmfm.variants.scoring import Scorer

    model = load(arguments.model)
    assert model.folder is not None
    scorer = Scorer(model, Reference.from_fasta(arguments.fasta), ScoreOptions(background=None, precision=arguments.precision))
    calibration = scorer.fit_calibration(arguments.variants, arguments.seed)
    calibration.save(model.folder / CALIBRATION)
    print(f"{model.folder / CALIBRATION}: {', '.join(f'{c:.4g}' for c in calibration.coefficients)}")
    if arguments.snvs:
        background = scorer.make_background(arguments.snvs, arguments.seed)
        background.to_parquet(model.folder / BACKGROUND)
        print(f"{model.folder / BACKGROUND}: {len(background):,} SNVs in {background['context'].nunique()} contexts")


if __name__ == "__main__":
    sys.exit(main())
