"""Score every substitution of regions or sequences: ``python -m bmfm.mutagenesis checkpoint=... fasta=... regions=[chr20:1-200] output=...``."""

from bmfm.cli import main


def mutate(config) -> None:
    """Run a composed mutagenesis, and write each output by the end of its name."""
    from pathlib import Path

    from bmfm.genome.fasta import read_records
    from bmfm.inference.loading import load
    from bmfm.variants.mutagenesis import mutagenesis

    outputs = [Path(o) for o in ([config.output] if isinstance(config.output, str) else config.output)]
    if there := [o for o in outputs if o.exists() and not config.overwrite]:
        raise SystemExit(f"bmfm: {there[0]} exists already; choose another output, or overwrite=true")
    model = load(config.checkpoint, config.attention, config.device, config.revision, config.remote_code)
    regions, sequences = config.regions, None
    if regions is None:
        records = list(read_records(Path(config.fasta).expanduser()))
        sequences = [text for _, text in records]
    elif isinstance(regions, str):
        regions = [regions]
    result = mutagenesis(
        model, sequences, fasta=None if regions is None else config.fasta, regions=None if regions is None else list(regions), score=config.score,
        strands=config.strands, batch_size=config.batch_size, precision=config.precision,
    )  # fmt: skip
    if sequences is not None:
        result.names = [name for name, _ in records]
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
