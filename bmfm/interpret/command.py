"""Explanations as the command line asks for them: files in, files out, parts that an interrupted run finished are used again, and workers share them."""

from pathlib import Path
from typing import Any

from omegaconf import ListConfig, OmegaConf

from bmfm.cells.formats import find_sources
from bmfm.files import require_file
from bmfm.inference.annotate import write_anndata
from bmfm.inference.loading import load
from bmfm.inference.shared_run import SharedRun
from bmfm.inference.tables import write_rows
from bmfm.interpret.attention import attention_edges
from bmfm.interpret.dna_command import explain_dna
from bmfm.interpret.explain import explain, key_of
from bmfm.interpret.in_silico import perturb_in_silico
from bmfm.interpret.pictures import plot_table
from bmfm.ledger import Ledger
from bmfm.places import Place, check_outputs, place, staged, with_local_inputs

CELLS = (".h5ad", ".zarr")
TABLES = (".csv", ".tsv", ".parquet")
PICTURES = (".png", ".svg", ".pdf")
READING = ("counts", "expects", "gene_column", "orthologs", "min_matched", "depth_target", "order")
ATTRIBUTION = ("baseline", "n_steps", "contrast", "classes", "groupby", "alpha", "top")
EDITING = ("kind", "min_cells", "n_matched")
EDGES = ("layer", "heads", "genes", "n_genes", "top_k", "min_cells")
ALWAYS = ("max_cells", "seed", "batch_size", "max_tokens", "precision", "progress")


def run_explain(config: Any, ledger: Ledger | None = None) -> None:
    """Explain what the omics of the model has.

    Parameters
    ----------
    ledger
        Of a worker, which adds to it and writes nothing else.
    """
    asked, config = config, with_local_inputs(config)
    predictor = load(config.checkpoint, config.attention, config.device, config.revision, config.remote_code)
    is_dna = predictor.tokenizer.omics == "dna"
    needed, other = ("fasta", "data.path") if is_dna else ("data.path", "fasta")
    if OmegaConf.select(config, needed) is None or OmegaConf.select(config, other) is not None:
        raise SystemExit(f"bmfm: {config.checkpoint} is a model of {predictor.reader.title}: give {needed}=..., and no {other}")
    method, baseline = ("mlm", "mask") if is_dna else ("ig", "zero_value")
    config.method, config.attribution.baseline = config.method or method, config.attribution.baseline or baseline
    commands = {"edit": edit_cells, "attention": attention_of_cells}
    command = explain_dna if is_dna else commands.get(config.method, explain_cells)
    command(SharedRun(config, predictor, run_explain, ledger, asked))


def explain_cells(shared: SharedRun) -> None:
    """Attributions of genes: an AnnData, a table, a picture, by the end of each output's name."""
    config, outputs = shared.config, _outputs(shared, CELLS + TABLES + PICTURES)
    if config.target is None:
        raise SystemExit("bmfm: target=head:NAME is needed: what is explained")
    key, options = key_of(config.target, config.method), _options(config, "attribution", ATTRIBUTION)

    def compute(ledger: Ledger) -> Any:
        return explain(shared.predictor, config.data.path, config.target, method=config.method, ledger=ledger, **options)

    def write(adata: Any, files: list[Path]) -> None:
        for file, output in zip(files, outputs, strict=True):
            if file.suffix in CELLS:
                write_anndata(adata, file)
            elif file.suffix in PICTURES:
                plot_table(adata, key, file)
            else:
                write_rows(adata.uns[key]["table"], file)
            print(f"written to {output}")
        _say(adata, key)

    shared(outputs, _read_from(config), compute, write)


def edit_cells(shared: SharedRun) -> None:
    """Genes edited in silico: a table."""
    config, outputs, edit = shared.config, _outputs(shared, TABLES), shared.config.edit
    goal = {name: edit.goal[name] for name in ("column", "start", "end") if edit.goal[name] is not None}
    genes = edit.genes if isinstance(edit.genes, str) else list(edit.genes)
    read_from = _read_from(config)
    if isinstance(genes, str) and genes != "all":
        read_from.append(require_file(genes, "list of genes (edit.genes)"))
        genes = read_from[-1].read_text().split()
    options = _options(config, "edit", EDITING) | {"readout": config.target or "embedding", "goal": goal or None}

    def compute(ledger: Ledger) -> Any:
        return perturb_in_silico(shared.predictor, config.data.path, genes, ledger=ledger, **options)

    def write(table: Any, files: list[Path]) -> None:
        for file, output in zip(files, outputs, strict=True):
            write_rows(table, file)
            print(f"written to {output}")
        about = table.attrs
        print(
            f"{about['readout']}: {len(table):,} edits of {about['n_cells']:,} cells, compared with {about['n_genes_compared']:,}; {int((table['fdr'] < 0.05).sum()):,} with an FDR below .05"
        )
        shown = table.drop(columns="downstream", errors="ignore").head(10)
        print(shown.to_string(index=False, float_format=lambda x: f"{x:.4g}"))

    shared(outputs, read_from, compute, write)


def attention_of_cells(shared: SharedRun) -> None:
    """Attention between genes: a table of edges."""
    config, outputs = shared.config, _outputs(shared, TABLES)
    shared.check_alone()
    table = attention_edges(shared.predictor, config.data.path, **_options(config, "edges", EDGES))
    with staged(outputs) as files:
        for file, output in zip(files, outputs, strict=True):
            write_rows(table, file)
            print(f"written to {output}")
    about = table.attrs
    print(
        f"{len(table):,} edges between {about['n_genes']:,} genes over {about['n_cells']:,} cells, layer {about['layer']}; {about['note']}"
    )
    print("rank correlation of all weights with the mean attention that the source gets, and with the size of the co-expression:")
    for head, of in about["spearman"].items():
        print(f"  {'head ' if head.isdigit() else ''}{head}: {of['source_mean']:.3f}, {of['coexpression']:.3f}")


def _options(config: Any, group: str, names: tuple[str, ...]) -> dict[str, Any]:
    """Options of these names of a group, those of every method, and those of the reader; lists as lists."""
    options = {name: config[name] for name in ALWAYS} | {name: config[group][name] for name in names}
    options |= {name: config.data[name] for name in READING}
    return {name: list(value) if isinstance(value, ListConfig) else value for name, value in options.items()}


def _read_from(config: Any) -> list[Any]:
    """Files that cells come from."""
    return [*find_sources(config.data.path), *([config.data.orthologs] if config.data.orthologs else [])]


def _say(adata: Any, key: str) -> None:
    about = adata.uns[key]
    print(f"{about['target']} by {about['method']}: {about['n_cells']:,} cells, in layers[{key!r}], varm and uns (unit: {about['unit']})")
    for name, words in (
        ("n_empty_cells", "cells show no gene that the model knows, and have no attributions"),
        ("n_doubled_cells", "cells were done with twice the steps"),
        ("n_incomplete_cells", "cells have attributions that do not add up within 5%"),
        ("n_genes_the_model_does_not_know", "genes of the file are not in the model's vocabulary"),
        ("n_genes_shown_that_var_lacks", "genes that the model was shown are in .raw alone, and their attributions are not written"),
        ("n_genes_never_shown", "genes were never part of an input"),
        ("n_genes_that_share_a_gene_with_one_before", "genes of the file are the same gene of the model as one before them, which has the attribution"),
    ):  # fmt: skip
        if about[name]:
            print(f"{about[name]:,} {words}")
    for name, of_class in about["table"].groupby("class", sort=False):
        print(f"{name}: {', '.join(of_class[of_class['direction'] == 'for']['gene'].head(10))}")


def _outputs(shared: SharedRun, endings: tuple[str, ...]) -> list[Place]:
    """Outputs that can be written; says so and ends where one cannot."""
    config = shared.config
    paths = [place(output) for output in ([config.output] if isinstance(config.output, str) else config.output)]
    check_outputs(paths)
    for path in paths:
        if path.suffix not in endings:
            raise SystemExit(f"bmfm: output={path}: with method={config.method} it must end in {', '.join(endings[:-1])} or {endings[-1]}")
        if not config.overwrite and shared.ledger is None and path.exists():
            raise SystemExit(f"bmfm: {path} exists already; choose another output, or overwrite=true")
    return paths
