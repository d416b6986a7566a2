"""Explanations of models of DNA as the command line asks for them: files in, files out."""

from pathlib import Path
from typing import Any

from bmfm.files import require_file
from bmfm.genome.alphabet import N
from bmfm.genome.regions import regions_file
from bmfm.inference.shared_run import SharedRun
from bmfm.interpret.dna_dependency import dependency_map
from bmfm.interpret.dna_explain import METHODS, RUNNING, DnaExplanation, explain_sequences
from bmfm.interpret.dna_report import annotate, write_report
from bmfm.interpret.dna_seqlets import find_seqlets, write_bed
from bmfm.ledger import Ledger
from bmfm.places import Place, check_outputs, place, staged
from bmfm.variants.contributions import PICTURES

TABLES = (".csv", ".tsv", ".parquet")
OF_BASES = (".npz", *TABLES, ".bw", ".bed", ".html", *PICTURES, "")
OF_PAIRS = (".npz", *TABLES, *PICTURES)
GRADIENTS = ("baseline", "n_shuffled", "n_steps")


def explain_dna(shared: SharedRun) -> None:
    """Explain the sequences of a FASTA file, or regions of it, and write each output by the end of its name."""
    config, method = shared.config, shared.config.method
    if method not in (*METHODS, "dependency"):
        raise SystemExit(f"bmfm: method={method}: models of DNA are explained by {', '.join(METHODS)} or dependency")
    if {config.page.genes, config.page.variants} != {None} and ".html" not in {Path(output).suffix for output in _names(config)}:
        raise SystemExit("bmfm: page.genes and page.variants are shown by the page alone: add an output that ends in .html")
    for key in ("genes", "variants"):
        if config.page[key] is not None:
            require_file(config.page[key], f"file of {key}")
    outputs = [_free(output, shared, OF_PAIRS if method == "dependency" else OF_BASES) for output in _names(config)]
    regions = config.regions if config.regions is None or isinstance(config.regions, str) else list(config.regions)
    where = {"fasta": require_file(config.fasta, "FASTA file"), "regions": regions, "length": config.length, "context": config.context}
    running = {name: config[name] for name in RUNNING}
    if method == "dependency":
        shared.check_alone()
        if config.target is not None:
            raise SystemExit(f"bmfm: target={config.target}: a dependency map asks the language model, and has no target")
        _explain_pairs(shared, outputs, where | running)
        return
    if method in ("ig", "grad_x_input"):
        running |= {name: config.attribution[name] for name in GRADIENTS} | {"seed": config.seed}
    asked = {"method": method, "target": config.target, "contrast": config.attribution.contrast}

    def compute(ledger: Ledger) -> Any:
        return explain_sequences(shared.predictor, **where, **asked, **running, ledger=ledger)

    def write(found: DnaExplanation, files: list[Path]) -> None:
        for file, output in zip(files, outputs, strict=True):
            for written in _write(file, found, config):
                print(f"written to {output.with_name(written.name)}")
        _say(found)

    bed = regions_file(regions)
    shared(outputs, [where["fasta"], *([bed] if bed else [])], compute, write)


def _explain_pairs(shared: SharedRun, outputs: list[Place], options: dict[str, Any]) -> None:
    """Dependency maps."""
    about = shared.config.dependency
    maps = dependency_map(shared.predictor, hide_target=about.hide_target, **options)
    with staged(outputs) as files:
        for file, output in zip(files, outputs, strict=True):
            maps.save(file)
            print(f"written to {output}")
    strongest = maps.frame(about.min_distance).head(10)
    print(f"strongest dependencies of bases at least {about.min_distance} apart, in bits of log2 odds:")
    print(strongest.to_string(index=False, float_format=lambda x: f"{x:.3g}"))


def _names(config: Any) -> list[str]:
    """The outputs that are asked for."""
    return [config.output] if isinstance(config.output, str) else list(config.output)


def _write(file: Path, found: DnaExplanation, config: Any) -> list[Path]:
    """Write one output; returns the files that it is."""
    if not file.suffix:
        return found.contributions.save_modisco(file)
    if file.suffix == ".bed":
        write_bed(find_seqlets(found.contributions, **config.seqlets), found.contributions, file)
    elif file.suffix == ".html":
        seqlets = find_seqlets(found.contributions, **config.seqlets)
        annotation = annotate(found.contributions, config.page.genes, config.page.variants)
        about = f"Model: {config.checkpoint}; method: {found.method}; genome: {Path(config.fasta).name}; strands: {config.strands}; context: {config.context:,} bases."
        write_report(file, found.contributions, about, seqlets, annotation, found.logos)
    else:
        found.save(file)
    return [file]


def _say(found: DnaExplanation) -> None:
    of, report = found.contributions, found.report
    print(f"{of.score} by {found.method}: {len(of.sequences):,} sequences of {of.sequences.length:,} bases (resolution: {of.resolution})")
    n = int((of.sequences.bases < 0).sum())
    if n:
        print(f"{n:,} bases are N, and have no contribution")
    if (n := int((of.sequences.codes == N).sum()) - n) and of.sequences.context:
        print(f"{n:,} bases of the context ({of.sequences.context:,} on either side) are N, or beyond the end of a contig")
    if "target" in report and report["target"].nunique() > 1:
        print(f"classes: {', '.join(f'{name} {n:,}' for name, n in report['target'].value_counts().items())}")
    if "complete" in report and (n := int((~report["complete"]).sum())):
        print(f"{n:,} sequences have contributions that do not add up within 5%: give more n_steps, or method=ism")


def _free(output: str, shared: SharedRun, endings: tuple[str, ...]) -> Place:
    """An output that can be written; says so and ends where it cannot."""
    path = place(output)
    check_outputs([path])
    if path.suffix not in endings:
        named = [ending for ending in endings if ending]
        raise SystemExit(
            f"bmfm: output={output}: it must end in {', '.join(named[:-1])} or {named[-1]}" + (", or in nothing" if "" in endings else "")
        )
    written = path if path.suffix else path.with_name(f"{path.name}.ohe.npz")
    if not shared.config.overwrite and shared.ledger is None and written.exists():
        raise SystemExit(f"bmfm: {written} exists already; choose another output, or overwrite=true")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
