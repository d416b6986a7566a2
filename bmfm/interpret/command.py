"""Explanations as the command line asks for them: files in, files out, batches that an interrupted run finished are used again."""

import shutil
from pathlib import Path
from typing import Any

from omegaconf import ListConfig, OmegaConf

from bmfm.cells.formats import find_sources
from bmfm.inference.annotate import write_anndata
from bmfm.inference.loading import load
from bmfm.inference.predictor import Predictor
from bmfm.inference.work_key import work_key
from bmfm.interpret.dna_command import explain_dna
from bmfm.interpret.explain import explain, key_of
from bmfm.interpret.pictures import plot_table
from bmfm.interpret.targets import read_target

CELLS = (".h5ad", ".zarr")
TABLES = (".csv", ".tsv", ".parquet")
PICTURES = (".png", ".svg", ".pdf")
READING = ("counts", "expects", "gene_column", "orthologs", "min_matched", "depth_target", "order")
OPTIONS = (
    "method", "baseline", "n_steps", "contrast", "classes", "groupby", "alpha", "top", "max_cells", "seed", "batch_size", "max_tokens", "precision", "progress",
)  # fmt: skip


def run_explain(config: Any) -> None:
    """Explain what the omics of the model has."""
    predictor = load(config.checkpoint, config.attention, config.device, config.revision, config.remote_code)
    run, other, needed = (
        (explain_cells, "fasta", "data.path") if predictor.tokenizer.omics == "rna" else (explain_dna, "data.path", "fasta")
    )
    if OmegaConf.select(config, other) is not None or OmegaConf.select(config, needed) is None:
        raise SystemExit(f"bmfm: {config.checkpoint} is a model of {predictor.reader.title}: give {needed}=..., and no {other}")
    run(config, predictor)


def explain_cells(config: Any, predictor: Predictor) -> None:
    """Attributions of genes: an AnnData, a table, a picture, by the end of each output's name."""
    outputs = [config.output] if isinstance(config.output, str) else list(config.output)
    files = [_free(output, config.overwrite) for output in outputs]
    options = {name: config[name] for name in OPTIONS} | {name: config.data[name] for name in READING}
    if config.target is None:
        raise SystemExit("bmfm: target=... is needed, as head:NAME")
    options |= {"method": config.method or "ig", "baseline": config.baseline or "zero_value"}
    options = {name: list(value) if isinstance(value, ListConfig) else value for name, value in options.items()}
    data = find_sources(config.data.path)
    read_from = [*data, *([config.data.orthologs] if config.data.orthologs else [])]
    parts = files[0].with_name(f".{files[0].name}.{work_key(config, predictor, read_from)}")
    adata = explain(predictor, data, config.target, parts=parts, **options)
    key = key_of(read_target(predictor, config.target, config.contrast), options["method"])
    about = adata.uns[key]
    for file in files:
        if file.suffix in CELLS:
            write_anndata(adata, file)
        elif file.suffix in PICTURES:
            plot_table(adata, key, file)
        elif file.suffix == ".parquet":
            about["table"].to_parquet(file, index=False)
        else:
            about["table"].to_csv(file, index=False, sep="\t" if file.suffix == ".tsv" else ",")
        print(f"written to {file}")
    shutil.rmtree(parts, ignore_errors=True)
    _say(adata, key)


def _say(adata: Any, key: str) -> None:
    about = adata.uns[key]
    print(f"{about['target']} by {about['method']}: {about['n_cells']:,} cells, in layers[{key!r}], varm and uns (unit: {about['unit']})")
    for name, words in (
        ("n_empty_cells", "cells show no gene that the model knows, and have no attributions"),
        ("n_doubled_cells", "cells were done with twice the steps"),
        ("n_incomplete_cells", "cells have attributions that do not add up within 5%"),
        ("n_genes_the_model_does_not_know", "genes of the file are not in the model's vocabulary"),
        ("n_genes_never_shown", "genes were never part of an input"),
        ("n_genes_that_share_a_gene_with_one_before", "genes of the file are the same gene of the model as one before them, which has the attribution"),
    ):  # fmt: skip
        if about[name]:
            print(f"{about[name]:,} {words}")
    for name, of_class in about["table"].groupby("class", sort=False):
        print(f"{name}: {', '.join(of_class[of_class['direction'] == 'for']['gene'].head(10))}")


def _free(output: str, overwrite: bool) -> Path:
    """An output that can be written; says so and ends where it cannot."""
    path, endings = Path(output), CELLS + TABLES + PICTURES
    if path.suffix not in endings:
        raise SystemExit(f"bmfm: output={output}: it must end in {', '.join(endings[:-1])} or {endings[-1]}")
    if path.exists() and not overwrite:
        raise SystemExit(f"bmfm: {path} exists already; choose another output, or overwrite=true")
    return path
