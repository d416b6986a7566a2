"""Results beside the cells they belong to: row by row, in an AnnData or in a copy of its file, over nothing that is there."""

import shutil
import warnings
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bmfm.cells.formats import AnnDataView
from bmfm.cells.obs import read_quietly
from bmfm.cells.soma import Experiment
from bmfm.cells.stores import FileStore

KEY = "X_bmfm"
FORMATS = (".h5ad", ".zarr")


@dataclass
class Results:
    """Embeddings and predictions under names that are free.

    Attributes
    ----------
    obsm, obs
        Arrays [n, H] and columns [n] by their new names; classes are categorical.
    written
        {result: where it goes}, as ``{"cell_type": "obs/cell_type_predicted"}``.
    """

    obsm: dict[str, np.ndarray] = field(default_factory=dict)
    obs: dict[str, Any] = field(default_factory=dict)
    written: dict[str, str] = field(default_factory=dict)


def free_name(name: str, taken: Container) -> str:
    """The name, or the first of NAME_2, NAME_3, ... that is not taken."""
    return next(n for n in chain([name], (f"{name}_{i}" for i in count(2))) if n not in taken)


def name_results(
    embeddings: np.ndarray | None, predictions: pd.DataFrame | None, obs: pd.DataFrame, obsm: Container, overwrite: bool = False
) -> Results:
    """Names for results beside the columns of ``.obs``, its index and the keys of ``.obsm`` that are there, and beside one
    another; see `annotate`."""
    results = Results()
    if embeddings is not None:
        key = KEY if overwrite else free_name(KEY, obsm)
        results.obsm[key] = embeddings
        results.written["embedding"] = f"obsm/{key}"
    names = [] if predictions is None else list(map(str, predictions.columns))
    reserved = {obs.index.name} if overwrite else {*obs.columns, obs.index.name}
    for place, name in enumerate(names):
        plain = name.replace("/", "_")
        column = plain
        if plain in reserved or plain in results.obs:
            # a name that is free may be that of a result yet to come
            column = free_name(f"{plain}_predicted", {*reserved, *results.obs, *names})
        values = predictions.iloc[:, place].to_numpy()  # type: ignore[union-attr]
        results.obs[column] = pd.Categorical(values) if values.dtype == object else values
        results.written[name] = f"obs/{column}"
    return results


def annotate(adata: Any, embeddings: np.ndarray | None, predictions: pd.DataFrame | None, overwrite: bool = False) -> dict[str, str]:
    """Write results into an AnnData, row by row whatever its cells are called; what is there is kept.

    An embedding goes to ``.obsm["X_bmfm"]`` (``X_bmfm_2``, ... where that exists), a prediction NAME to ``.obs[NAME]``, or
    to ``NAME_predicted`` (``NAME_predicted_2``, ...) where such a column, or an index of that name, exists. A slash, which
    files of AnnData take for a group, becomes ``_``: ``cell_type_p_NK_T``.

    Parameters
    ----------
    overwrite
        Replace what has the name.

    Returns
    -------
    dict
        {result: where it was written}.
    """
    check_annotated(adata)
    results = name_results(embeddings, predictions, adata.obs, adata.obsm, overwrite)
    for key, values in results.obsm.items():
        adata.obsm[key] = values
    for column, values in results.obs.items():
        adata.obs[column] = values
    return results.written


def check_annotated(adata: Any) -> None:
    """Raise a ValueError if nothing can be written into it; before the work."""
    import anndata

    if not isinstance(adata, anndata.AnnData):
        raise ValueError(f"annotate writes into an AnnData, not into {type(adata).__name__}: read the file first, or use embed and predict")
    if adata.isbacked and adata.is_view:
        raise ValueError(
            "annotate cannot write into a view of a backed AnnData: give view.to_memory(), or the AnnData that it is a view of"
        )


def check_joined(sources: Sequence[Any]) -> None:
    """Raise a ValueError if several sources cannot be joined into one file; before the work."""
    bare = [view.name for view in map(AnnDataView, sources if len(sources) > 1 else []) if "X" not in view.keys()]  # noqa: SIM118
    if 0 < len(bare) < len(sources):
        raise ValueError(f"{bare[0]} has no X and others have: they cannot be joined into one output; predict for each, or set its X")


def write_annotated(
    sources: Sequence[Any], output: Path, embeddings: np.ndarray | None, predictions: pd.DataFrame | None
) -> dict[str, str]:
    """A copy of the cells' file with the results in it, in the format that the suffix of `output` names.

    A file of the same format is copied and added to, so that its matrices are never read. Any other is read and written by
    anndata; several are joined (all genes, absent ones 0; ``.obs["file"]`` says which file a cell is of, if there is no
    such column). Of one SOMA experiment, which may be larger than memory, the table of cells is written with the results, and no counts.

    Returns
    -------
    dict
        {result: where it was written}, see `annotate`.
    """
    view = AnnDataView(sources[0])
    source = Path(str(sources[0])).expanduser()
    same = ".zarr" if source.is_dir() else ".h5ad"
    with _written_whole(output) as partial:
        if len(sources) == 1 and isinstance(view.store, FileStore) and not view.store.is_part and same == output.suffix:
            written = _add_to_copy(source, partial, embeddings, predictions)
        else:
            adata = _joined(sources) if len(sources) > 1 else _cells_alone(view) if isinstance(view.store, Experiment) else view.whole()
            written = annotate(adata, embeddings, predictions)
            _write(adata, partial)
    return written


def write_anndata(adata: Any, output: Path) -> None:
    """Write an AnnData in the format that the suffix of `output` names; what is there is replaced once all is written."""
    with _written_whole(output) as partial:
        _write(adata, partial)


def _write(adata: Any, path: Path) -> None:
    adata.write_zarr(path) if path.suffix == ".zarr" else adata.write_h5ad(path)


@contextmanager
def _written_whole(output: Path) -> Iterator[Path]:
    """A file or folder beside the output, which takes its place at the end."""
    partial = output.with_name(f".{output.name}.partial{output.suffix}")
    _remove(partial)
    try:
        yield partial
        _remove(output)
        partial.rename(output)
    finally:
        _remove(partial)


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _cells_alone(view: AnnDataView) -> Any:
    import anndata

    return anndata.AnnData(obs=view.obs)


def _joined(sources: Sequence[Any]) -> Any:
    import anndata

    read = [AnnDataView(s).whole() for s in sources]
    label = "file" if all("file" not in a.obs for a in read) else None
    for a in read:
        if not a.var_names.is_unique:
            a.var_names_make_unique()
    joined = anndata.concat(read, join="outer", merge="first", fill_value=0)
    kept = _parts(joined)
    if lost := sorted({part for a in read for part in _parts(a)} - kept):
        warnings.warn(f"the output joins {len(read)} files, without {', '.join(lost)}", stacklevel=2)
    for column in joined.obs.select_dtypes(object):  # of several types, or with values missing, which files do not hold
        there = joined.obs[column].notna()
        if not all(isinstance(value, str) for value in joined.obs[column][there]):
            joined.obs[column] = joined.obs[column].astype(str).where(there, None)
    if label:
        joined.obs[label] = pd.Categorical(np.repeat([Path(str(s)).name for s in sources], [a.n_obs for a in read]))
    return joined


def _parts(adata: Any) -> set[str]:
    """What an AnnData holds beside X, obs and var, as ``obsp/connectivities``."""
    parts = {f"{name}/{key}" for name in ("uns", "obsm", "varm", "obsp", "varp", "layers") for key in getattr(adata, name)}
    return parts | ({"raw"} if adata.raw is not None else set())


def _add_to_copy(source: Path, partial: Path, embeddings: np.ndarray | None, predictions: pd.DataFrame | None) -> dict[str, str]:
    import h5py
    import zarr
    from anndata.io import write_elem

    group: Any
    if source.is_dir():
        shutil.copytree(source, partial)
        group = zarr.open_group(partial, mode="r+", use_consolidated=False)
    else:
        shutil.copyfile(source, partial)
        partial.chmod(0o644)
        group = h5py.File(partial, "r+")
    obs = read_quietly(group["obs"])
    results = name_results(embeddings, predictions, obs, set(group["obsm"]) if "obsm" in group else set())
    if results.obsm and "obsm" not in group:
        write_elem(group, "obsm", {})
    for key, values in results.obsm.items():
        write_elem(group, f"obsm/{key}", values)
    if results.obs:
        for column, values in results.obs.items():
            obs[column] = values
        write_elem(group, "obs", obs)
    if isinstance(group, h5py.File):
        group.close()
    else:
        zarr.consolidate_metadata(group.store)
    return results.written
