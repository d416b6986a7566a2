"""Embeddings and predictions for a file: ``python -m bmfm.predict checkpoint=... data.path=... output=...``."""

from pathlib import Path

from bmfm.cli import main

TABLES = (".csv", ".tsv", ".parquet")


def predict(config) -> None:
    """Run a composed prediction; an interrupted one goes on where it was when it is started again."""
    import hashlib
    import json
    import shutil

    from omegaconf import OmegaConf

    from bmfm.files import fingerprint
    from bmfm.inference import load

    output = Path(config.output)
    if output.exists() and not config.overwrite:
        raise SystemExit(f"bmfm: {output} exists already; choose another output, or overwrite=true")
    model = load(config.checkpoint, config.attention, config.device, config.revision, config.remote_code)
    settings = {k: v for k, v in OmegaConf.to_container(config, resolve=True).items() if k not in ("progress", "overwrite", "device")}  # type: ignore[union-attr]
    key = json.dumps([settings, fingerprint(Path(config.data.path))], sort_keys=True, default=str)
    parts = output.with_name(f".{output.name}.{hashlib.sha256(key.encode()).hexdigest()[:12]}")
    options = {k: config[k] for k in ("batch_size", "max_tokens", "precision", "progress")} | {"parts": parts}
    if model.is_rna:
        check_suffix(output, (".h5ad", ".zarr"), "cells")
        data: object = config.data.path
        options |= {k: config.data[k] for k in ("counts", "gene_column", "expects")}
    else:
        check_suffix(output, TABLES, "sequences")
        data = read_inputs(config.data)
    asked = config.predictions if config.predictions != "auto" else bool(model.labels)
    embedded, said = model.embed_and_predict(data, bool(config.embeddings), bool(asked), config.pooling, config.layer, **options)
    if model.is_rna:
        write_cells(Path(config.data.path), output, embedded, said)
        print(f"genes: {model.match}")
    else:
        write_table(output, model.inputs.names, embedded, said)
    shutil.rmtree(parts, ignore_errors=True)
    print("; ".join(f"{name.replace('_', ' ')} {n:,}" for name, n in model.counts.items()))
    print(f"written to {output}")


def check_suffix(output: Path, suffixes: tuple[str, ...], what: str) -> None:
    if output.suffix not in suffixes:
        raise SystemExit(f"bmfm: output={output}: for {what} it must end in {' or '.join(suffixes)}")


def read_inputs(data):
    """FASTA records, regions of a FASTA, or a table's sequences, as {name: sequence}."""
    path = Path(data.path)
    if data.bed:
        from bmfm.inference.sequences import read_regions_of_fasta

        return read_regions_of_fasta(path, data.bed)
    if not any(path.name.endswith((s, s + ".gz")) for s in TABLES):
        return str(path)
    from bmfm.data.table import read_table

    table = read_table(path, sequences=[c for c in (data.sequence, data.second) if c])
    if data.id and data.id not in table:
        raise KeyError(f"{path} has no column {data.id!r} for data.id; it has {', '.join(map(str, table.columns))}")
    return (table.set_index(data.id) if data.id else table)[[data.sequence, data.second] if data.second else data.sequence]


def write_cells(source: Path, output: Path, embedded, said) -> None:
    """A copy of the AnnData with ``.obsm["X_bmfm"]`` and the predictions in ``.obs``, made without reading its matrix."""
    import shutil

    import h5py
    import zarr
    from anndata.io import read_elem, write_elem

    partial = output.with_name(f".{output.name}.partial")
    if source.is_dir():
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(source, partial)
        group = zarr.open_group(partial, mode="r+", use_consolidated=False)
    else:
        shutil.copyfile(source, partial)
        partial.chmod(0o644)
        group = h5py.File(partial, "r+")
    if embedded is not None:
        if "obsm" not in group:
            write_elem(group, "obsm", {})
        write_elem(group, "obsm/X_bmfm", embedded)
    if said is not None:
        obs = read_elem(group["obs"])
        write_elem(group, "obs", obs.drop(columns=[c for c in said if c in obs]).join(said))
    if isinstance(group, h5py.File):
        group.close()
    else:
        zarr.consolidate_metadata(group.store)
    if output.is_dir():
        shutil.rmtree(output)
    partial.rename(output)


def write_table(output: Path, names, embedded, said) -> None:
    """A table keyed by the sequences' names: predictions, then the embedding as columns ``e0``, ``e1``, ..."""
    import pandas as pd

    parts = [] if said is None else [said]
    if embedded is not None:
        parts.append(pd.DataFrame(embedded, index=names, columns=[f"e{i}" for i in range(embedded.shape[1])]))
    table = pd.concat(parts, axis=1).rename_axis(names.name or "id").reset_index()
    if output.suffix == ".parquet":
        table.to_parquet(output, index=False)
    else:
        table.to_csv(output, index=False, sep="\t" if output.suffix == ".tsv" else ",")


if __name__ == "__main__":
    main(predict, "predict")
