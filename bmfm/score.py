"""Score the variants of a VCF: ``python -m bmfm.score checkpoint=... fasta=... variants=in.vcf.gz output=out.vcf.gz``."""

from bmfm.cli import main


def score(config) -> None:
    """Run a composed scoring; an interrupted one goes on where it was when it is started again."""
    from bmfm.variants.command import run

    run(config)


if __name__ == "__main__":
    main(score, "score")
