"""Score every substitution of regions or sequences: ``python -m bmfm.mutagenesis checkpoint=... fasta=... regions=[chr20:1-200] output=...``."""

from bmfm.cli import main


def mutate(config) -> None:
    """Run a composed mutagenesis, and write each output by the end of its name."""
    from pathlib import Path

    from bmfm.inference.loading import load
    from bmfm.variants.mutagenesis import mutagenesis

    outputs = [Path(o) for o in ([config.output] if isinstance(config.output, str) else config.output)]
    if there := [o for o in outputs if o.exists() and not config.overwrite]:
        raise SystemExit(f"bmfm: {there[0]} exists already; choose another output, or overwrite=true")
    model = load(config.checkpoint, config.attention, config.device, config.revision, config.remote_code)
    regions = config.regions if config.regions is None or isinstance(config.regions, str) else list(config.regions)
    result = mutagenesis(
        model, fasta=config.fasta, regions=regions, length=config.length, score=config.score, strands=config.strands,
        batch_size=config.batch_size, precision=config.precision,
    )  # fmt: skip
    for output in outputs:
        if output.suffix in (".png", ".svg", ".pdf"):
            result.plot(output, projection=config.projection)
        elif not output.suffix:
            result.save_modisco(output, config.projection)
        else:
            result.save(output, config.projection)
        print(f"written to {output}")


if __name__ == "__main__":
    main(mutate, "mutagenesis")
