"""Embeddings and predictions for a file: ``python -m bmfm.predict checkpoint=... data.path=... output=...``."""

import sys
import warnings
from contextlib import contextmanager
from pathlib import Path

from bmfm.cli import main

CELLS = (".h5ad", ".zarr")
TABLES = (".csv", ".tsv", ".parquet")


def predict(config) -> None:
    """Run a composed prediction; an interrupted one goes on where it was when it is started again."""
    import shutil

    from bmfm.inference import load

    output = Path(config.output)
    if output.exists() and not config.overwrite:
        raise SystemExit(f"bmfm: {output} exists already; choose another output, or overwrite=true")
    model = load(config.checkpoint, config.attention, config.device, config.revision, config.remote_code)
    check_suffix(output, CELLS if model.is_rna else TABLES, "cells" if model.is_rna else "sequences")
    parts = output.with_name(f".{output.name}.{work_key(config, model)}")
    options = {k: config[k] for k in ("batch_size", "max_tokens", "precision", "progress")} | {"parts": parts}
    if model.is_rna:
        data: object = list(config.data.path) if not isinstance(config.data.path, str) else config.data.path
        options |= {k: config.data[k] for k in ("counts", "gene_column", "orthologs", "expects", "min_matched", "depth_target", "order")}
    else:
        data = read_inputs(config.data)
        options["alphabet"] = config.data.alphabet
    asked = config.predictions if config.predictions != "auto" else bool(model.labels)
    if model.is_rna:
        from bmfm.cells.formats import find_sources
        from bmfm.inference.annotate import check_joined, write_annotated

        check_joined(find_sources(data))
    with _plain_warnings():
        embedded, said = model.embed_and_predict(data, bool(config.embeddings), bool(asked), config.pooling, config.layer, **options)
    if model.is_rna:
        with _plain_warnings():
            written = write_annotated(find_sources(data), output, embedded, said)
        for file, match in (model.match if isinstance(model.match, dict) else {"genes": model.match}).items():
            print(f"{file}: {match}")
        for name, where in written.items():
            if "/" in name:
                print(f"{name} is written to {where}: names in files of AnnData have no slash")
            elif where not in ("obsm/X_bmfm", f"obs/{name}"):
                print(f"{name} is written to {where}: {'obsm/X_bmfm' if name == 'embedding' else f'obs/{name}'} was there already")
    else:
        write_table(output, model.inputs.names, embedded, said)
    shutil.rmtree(parts, ignore_errors=True)
    print("; ".join(f"{name.replace('_', ' ')} {n:,}" for name, n in model.counts.items()))
    print(f"written to {output}")


def work_key(config, predictor) -> str:
    """What finished parts depend on, as 12 hexadecimal digits: model and data by content, options, version.

    A model is known by the hash of its files, wherever it lies; so are data, see `digest`.
    """
    import hashlib
    import json

    from omegaconf import OmegaConf

    from bmfm import __version__
    from bmfm.cells.formats import find_sources
    from bmfm.checkpoints.load import adapter_base
    from bmfm.evaluation.checksums import content_hash
    from bmfm.storage.folders import find_folder

    checkpoint = Path(config.checkpoint).expanduser()
    folders = (
        [predictor.folder] if predictor.folder else [checkpoint, find_folder(adapter_base(checkpoint))]
    )  # of an adapter, its model too
    model = content_hash(sorted(p for f in folders for p in f.iterdir() if p.is_file() and not p.name.startswith(".")))
    settings: dict = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    aside = ("checkpoint", "revision", "output", "progress", "overwrite", "device", "hydra")
    paths = config.data.path if isinstance(config.data.path, str) else list(config.data.path)
    files = find_sources(paths) if predictor.is_rna else [paths] if isinstance(paths, str) else paths
    data = [digest_tree(Path(p).expanduser()) for p in (*files, config.data.bed, config.data.orthologs) if p]
    key = [__version__, model, data, {k: v for k, v in settings.items() if k not in aside}]
    return hashlib.sha256(json.dumps(key, sort_keys=True, default=str).encode()).hexdigest()[:12]


WHOLE = 1 << 30


def digest(path: Path) -> str:
    """SHA-256 of a file; of one above 1 GiB, of its size, its time, and 16 MiB at 16 places from its beginning to its end."""
    import hashlib

    stat, block = path.stat(), 1 << 24
    if stat.st_size <= WHOLE:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    found = hashlib.sha256(f"{stat.st_size} {stat.st_mtime_ns}".encode())
    with path.open("rb") as file:
        for i in range(16):
            file.seek((stat.st_size - block) * i // 15)
            found.update(file.read(block))
    return found.hexdigest()


def digest_tree(path: Path) -> list[tuple[str, str]]:
    """Name and digest of a file, or of every file of a folder."""
    inside = sorted(q for q in path.rglob("*") if q.is_file()) if path.is_dir() else [path]
    return [(str(p.resolve()), digest(p)) for p in inside]


@contextmanager
def _plain_warnings():
    """Warnings as lines for people, without the place in the code."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: print(f"bmfm: {message}", file=sys.stderr)  # type: ignore[assignment]
        yield


def check_suffix(output: Path, suffixes: tuple[str, ...], what: str) -> None:
    if output.suffix not in suffixes:
        raise SystemExit(f"bmfm: output={output}: for {what} it must end in {' or '.join(suffixes)}")


def read_inputs(data):
    """FASTA records, regions of a FASTA, or a table's sequences, of each file of a list after the other.

    Returns
    -------
    pandas.Series of sequences, or a frame of the columns ``sequence`` and ``second`` for pairs, by their names: those of
    records or regions, those of the table's column `data.id` to the letter, or numbers from 0 on.
    """
    import pandas as pd

    paths = [data.path] if isinstance(data.path, str | Path) else list(data.path)
    if not paths:
        raise ValueError("data.path is an empty list: name a FASTA file or a table")
    read = [_read_file(Path(str(path)).expanduser(), data) for path in paths]
    if len({r.ndim for r in read}) > 1:
        raise ValueError("data.path: pairs and single sequences are mixed; predict them one after the other")
    return read[0] if len(read) == 1 else pd.concat(read, ignore_index=all(isinstance(r.index, pd.RangeIndex) for r in read))


def _read_file(path: Path, data):
    import pandas as pd

    from bmfm.data.table import is_table, read_table
    from bmfm.inference.sequences import read_regions_of_fasta, read_sequences

    if data.bed:
        return read_regions_of_fasta(path, data.bed)
    if not is_table(path):
        names, texts, _ = read_sequences(path)
        return pd.Series(texts, index=names)
    # names are text, of columns that are named by figures too; without one, the first column, as in training
    sequence, second, name = (None if c in (None, "") else str(c) for c in (data.sequence, data.second, data.id))
    table = read_table(path, sequences=[0 if sequence is None else sequence, *([second] if second else [])], ids=[name] if name else [])
    if name:
        table = table.set_index(name, drop=False)
    first = table[sequence] if sequence else table.iloc[:, 0]
    return pd.DataFrame({"sequence": first, "second": table[second]}) if second else first


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
