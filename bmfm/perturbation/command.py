"""Responses and screens as the command line asks for them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from bmfm.cells.formats import find_sources
from bmfm.files import require_file
from bmfm.inference.annotate import write_anndata
from bmfm.inference.loading import load
from bmfm.inference.shared_run import SharedRun
from bmfm.inference.tables import write_rows
from bmfm.ledger import Ledger
from bmfm.perturbation.picture import plot_ranks
from bmfm.perturbation.responses import predict_responses
from bmfm.perturbation.screen import screen
from bmfm.places import Place, check_outputs, place, with_local_inputs
from bmfm.storage.folders import on_disk

CELLS = (".h5ad", ".zarr")
TABLES = (".csv", ".tsv", ".parquet")
PICTURES = (".png", ".svg", ".pdf")
READING = ("counts", "expects", "gene_column", "orthologs", "min_matched")
RUNNING = ("batch_size", "max_tokens", "precision", "progress")


def run_responses(config: Any, ledger: Ledger | None = None) -> None:
    """Predict the cells of ``perturbations`` and write them as an AnnData.

    Parameters
    ----------
    ledger
        Of a worker, which adds to it and writes nothing else.
    """
    output = _free(config.output, config.overwrite or ledger is not None, CELLS)
    asked_config, config = config, with_local_inputs(config)
    if config.data.path is None:
        raise SystemExit("bmfm: data.path=... is needed, a file of control cells")
    predictor = load(config.checkpoint, config.attention, config.device, config.revision, config.remote_code)
    options = dict(config.responses) | {name: config.data[name] for name in READING} | {name: config[name] for name in RUNNING}
    asked = config.perturbations if isinstance(config.perturbations, str) else list(config.perturbations)
    read_from = [*find_sources(config.data.path), *([require_file(asked, "list of perturbations")] if isinstance(asked, str) else [])]
    read_from += [config.data.orthologs] if config.data.orthologs else []

    def write(result: Any, files: list[Path]) -> None:
        write_anndata(result, files[0])
        _say_responses(result, options)
        print(f"written to {output}")

    SharedRun(config, predictor, run_responses, ledger, asked_config)(
        [output], read_from, lambda kept: predict_responses(predictor, config.data.path, asked, ledger=kept, **_plain(options)), write
    )


def _say_responses(result: Any, options: dict[str, Any]) -> None:
    """Say what was predicted, and of what the model knows little."""
    about = result.uns["bmfm_perturbation"]
    predicted = result.obs[result.obs["condition"] != "control"]
    print(
        f"{predicted['condition'].nunique():,} perturbations in {predicted['context'].nunique():,} contexts, {len(predicted):,} predicted {options['rows']} "
        f"({about['unit']})"
    )
    if n := about["genes_as_in_controls"]:
        print(f"{n:,} of {result.n_vars:,} genes are not in the model's vocabulary, and are as in the control cells")
    few = {c: n for c, n in about["contexts"]["used"].items() if options["n_cells"] and n < options["n_cells"]}
    if few:
        print(f"fewer control cells than responses.n_cells={options['n_cells']}: {', '.join(f'{n} in {c}' for c, n in few.items())}")
    if untrained := about["kinds_not_trained"]:
        print(f"the model was not trained with {', '.join(untrained)}: it takes such a perturbation for one that it knows nothing of")
    if absent := about["not_perturbed_in_training"]:
        print(f"{len(absent):,} targets were never perturbed in training, so that the model extrapolates: {', '.join(absent[:10])}")


def run_screen(config: Any, ledger: Ledger | None = None) -> None:
    """Rank genes by their predicted effect on a readout, and write each output by the end of its name.

    Parameters
    ----------
    ledger
        Of a worker, which adds to it and writes nothing else.
    """
    outputs = [config.output] if isinstance(config.output, str) else list(config.output)
    files = [_free(output, config.overwrite or ledger is not None, TABLES + PICTURES) for output in outputs]
    asked_config, config = config, with_local_inputs(config)
    predictor = load(config.checkpoint, config.attention, config.device, config.revision, config.remote_code)
    genes = config.genes
    if isinstance(genes, str):
        genes = require_file(genes, "list of genes (genes)").read_text().split()
    names = ("condition", "control", "context", *READING)
    options = {name: config.data[name] for name in names} | {name: config[name] for name in ("kind", "n_cells", "seed", *RUNNING)}
    asked = predictor, config.data.path, config.readout, genes, config.min_expressed, config.n_matched
    read_from = [*find_sources(config.data.path), *([config.data.orthologs] if config.data.orthologs else [])]
    read_from += [config.genes] if isinstance(config.genes, str) else []
    read_from += [on_disk(config.readout.checkpoint)] if config.readout.checkpoint else []
    SharedRun(config, predictor, run_screen, ledger, asked_config)(
        files,
        read_from,
        lambda kept: screen(*asked, ledger=kept, **_plain(options)),
        lambda table, paths: _say_screen(table, paths, files),
    )


def _say_screen(table: pd.DataFrame, paths: Sequence[Path], outputs: Sequence[Place]) -> None:
    """Write a screen, and say what came out first."""
    for path, output in zip(paths, outputs, strict=True):
        _write(table, path)
        print(f"written to {output}")
    n_untrained = int((~table["perturbed_in_training"]).sum())
    print(
        f"{table.attrs['readout']}: {len(table):,} genes, {int((table['fdr'] < 0.1).sum()):,} with an FDR below .1; {n_untrained:,} were never perturbed in training"
    )
    print(
        table.head(10)[["gene", "context", "effect", "z", "p", "fdr", "in_readout"]].to_string(
            index=False, float_format=lambda x: f"{x:.4g}"
        )
    )


def _write(table: pd.DataFrame, file: Path) -> None:
    if file.suffix in PICTURES:
        plot_ranks(table, file)
    else:
        write_rows(table, file)


def _free(output: str, overwrite: bool, endings: tuple[str, ...]) -> Place:
    """An output that can be written; says so and ends where it cannot."""
    path = place(output)
    check_outputs([path])
    if path.suffix not in endings:
        raise SystemExit(f"bmfm: output={output}: it must end in {', '.join(endings[:-1])} or {endings[-1]}")
    if not overwrite and path.exists():
        raise SystemExit(f"bmfm: {path} exists already; choose another output, or overwrite=true")
    return path


def _plain(options: dict[str, Any]) -> dict[str, Any]:
    """Lists of a configuration as lists."""
    from omegaconf import ListConfig

    return {name: list(value) if isinstance(value, ListConfig) else value for name, value in options.items()}
