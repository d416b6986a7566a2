"""Explanations as the command line asks for them: files in, files out, batches that an interrupted run finished are used again."""

import shutil
from pathlib import Path
from typing import Any

from omegaconf import ListConfig, OmegaConf

from bmfm.cells.formats import find_sources
from bmfm.files import require_file
from bmfm.inference.annotate import write_anndata
from bmfm.inference.loading import load
from bmfm.inference.predictor import Predictor
from bmfm.inference.tables import write_rows
from bmfm.inference.work_plan import work_plan
from bmfm.interpret.attention import attention_edges
from bmfm.interpret.dna_command import explain_dna
from bmfm.interpret.explain import explain, key_of
from bmfm.interpret.in_silico import perturb_in_silico
from bmfm.interpret.pictures import plot_table
from bmfm.ledger import Ledger

CELLS = (".h5ad", ".zarr")
TABLES = (".csv", ".tsv", ".parquet")
PICTURES = (".png", ".svg", ".pdf")
READING = ("counts", "expects", "gene_column", "orthologs", "min_matched", "depth_target", "order")
ATTRIBUTION = ("baseline", "n_steps", "contrast", "classes", "groupby", "alpha", "top")
EDITING = ("kind", "min_cells", "n_matched")
EDGES = ("layer", "genes", "n_genes", "top_k", "min_cells")
ALWAYS = ("max_cells", "seed", "batch_size", "max_tokens", "precision", "progress")


def run_explain(config: Any) -> None:
    """Explain what the omics of the model has."""
    predictor = load(config.checkpoint, config.attention, config.device, config.revision, config.remote_code)
    is_dna = predictor.tokenizer.omics == "dna"
    needed, other = ("fasta", "data.path") if is_dna else ("data.path", "fasta")
    if OmegaConf.select(config, needed) is None or OmegaConf.select(config, other) is not None:
        raise SystemExit(f"bmfm: {config.checkpoint} is a model of {predictor.reader.title}: give {needed}=..., and no {other}")
    method, baseline = ("mlm", "mask") if is_dna else ("ig", "zero_value")
    config.method, config.attribution.baseline = config.method or method, config.attribution.baseline or baseline
    if is_dna:
        explain_dna(config, predictor)
        return
    commands = {"edit": edit_cells, "attention": attention_of_cells}
    commands.get(config.method, explain_cells)(config, predictor)


def explain_cells(config: Any, predictor: Predictor) -> None:
    """Attributions of genes: an AnnData, a table, a picture, by the end of each output's name."""
    files = _outputs(config, CELLS + TABLES + PICTURES)
    if config.target is None:
        raise SystemExit("bmfm: target=head:NAME is needed: what is explained")
    parts = _parts(config, predictor, files)
    adata = explain(
        predictor, config.data.path, config.target, method=config.method, parts=parts, **_options(config, "attribution", ATTRIBUTION)
    )
    key = key_of(config.target, config.method)
    for file in files:
        if file.suffix in CELLS:
            write_anndata(adata, file)
        elif file.suffix in PICTURES:
            plot_table(adata, key, file)
        else:
            write_rows(adata.uns[key]["table"], file)
        print(f"written to {file}")
    shutil.rmtree(parts, ignore_errors=True)
    _say(adata, key)


def edit_cells(config: Any, predictor: Predictor) -> None:
    """Genes edited in silico: a table."""
    files, edit = _outputs(config, TABLES), config.edit
    goal = {name: edit.goal[name] for name in ("column", "start", "end") if edit.goal[name] is not None}
    genes = edit.genes if isinstance(edit.genes, str) else list(edit.genes)
    if isinstance(genes, str) and genes != "all":
        genes = require_file(genes, "list of genes (edit.genes)").read_text().split()
    parts = _parts(config, predictor, files)
    options = _options(config, "edit", EDITING) | {"readout": config.target or "embedding", "goal": goal or None}
    table = perturb_in_silico(predictor, config.data.path, genes, parts=parts, **options)
    for file in files:
        write_rows(table, file)
        print(f"written to {file}")
    shutil.rmtree(parts, ignore_errors=True)
    about = table.attrs
    print(
        f"{about['readout']}: {len(table):,} edits of {about['n_cells']:,} cells, compared with {about['n_genes_compared']:,}; {int((table['fdr'] < 0.05).sum()):,} with an FDR below .05"
    )
    print(table.drop(columns="downstream", errors="ignore").head(10).to_string(index=False, float_format=lambda x: f"{x:.4g}"))


def attention_of_cells(config: Any, predictor: Predictor) -> None:
    """Attention between genes: a table of edges."""
    files = _outputs(config, TABLES)
    table = attention_edges(predictor, config.data.path, **_options(config, "edges", EDGES))
    for file in files:
        write_rows(table, file)
        print(f"written to {file}")
    about = table.attrs
    print(
        f"{len(table):,} edges between {about['n_genes']:,} genes over {about['n_cells']:,} cells, layer {about['layer']}; {about['note']}"
    )
    print(f"rank correlation of all weights with the mean attention that the source gets: {about['spearman_source_mean']:.3f}")
    print(f"rank correlation of all weights with the size of the co-expression: {about['spearman_coexpression']:.3f}")


def _options(config: Any, group: str, names: tuple[str, ...]) -> dict[str, Any]:
    """Options of these names of a group, those of every method, and those of the reader; lists as lists."""
    options = {name: config[name] for name in ALWAYS} | {name: config[group][name] for name in names}
    options |= {name: config.data[name] for name in READING}
    return {name: list(value) if isinstance(value, ListConfig) else value for name, value in options.items()}


def _parts(config: Any, predictor: Predictor, files: list[Path]) -> Path:
    """The folder of finished pieces, beside the first output; another for another question."""
    read_from = [*find_sources(config.data.path), *([config.data.orthologs] if config.data.orthologs else [])]
    return Ledger.of_plan(files[0], work_plan(config, predictor, read_from)).folder


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


def _outputs(config: Any, endings: tuple[str, ...]) -> list[Path]:
    """Outputs that can be written; says so and ends where one cannot."""
    paths = [Path(output) for output in ([config.output] if isinstance(config.output, str) else config.output)]
    for path in paths:
        if path.suffix not in endings:
            raise SystemExit(f"bmfm: output={path}: with method={config.method} it must end in {', '.join(endings[:-1])} or {endings[-1]}")
        if path.exists() and not config.overwrite:
            raise SystemExit(f"bmfm: {path} exists already; choose another output, or overwrite=true")
    return paths
