"""Readouts of a screen: what is read off the change that a perturbation makes, one number a control cell."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

from bmfm.cells.formats import AnnDataView, find_sources
from bmfm.cells.genes import read_orthologs
from bmfm.cells.sources import open_source
from bmfm.inference.frames import label_kinds
from bmfm.inference.predictor import Predictor
from bmfm.perturbation.controls import Controls
from bmfm.perturbation.options import ResponseOptions
from bmfm.perturbation.responses import Change, predicted_cells
from bmfm.tokenizers.rna import CellTokenizer

LEAST = 1e-12
"""Of probabilities whose log-odds are taken."""


class Readout(ABC):
    """The contract of readouts.

    Attributes
    ----------
    words
        What it is, for tables and pictures.
    own
        Names of genes that are read themselves: what a screen says of perturbing one of them is no discovery, and is marked.
    """

    words: str
    own: frozenset[str] = frozenset()

    @abstractmethod
    def __call__(self, change: Change, controls: Controls) -> np.ndarray:
        """One number for each control cell [m]."""


class Markers(Readout):
    """Mean change of some genes, log-normalised.

    Raises
    ------
    ValueError
        Naming genes that the model or the file does not know.
    """

    def __init__(self, genes: Sequence[str], tokenizer: CellTokenizer, controls: Controls):
        assert tokenizer.vocabulary is not None
        ids = [tokenizer.vocabulary.find(name)[0] for name in genes]
        measured = set(controls.gene_ids.tolist())
        if absent := [name for name, i in zip(genes, ids, strict=True) if i < 0 or i not in measured]:
            raise ValueError(f"readout.genes: {', '.join(absent)} is not among the genes that the model knows and the file measures")
        self.ids, self.own = np.array(ids), frozenset(genes)
        self.words = f"mean change of {', '.join(genes)}" if len(genes) < 4 else f"mean change of {len(genes)} genes"

    def __call__(self, change: Change, controls: Controls) -> np.ndarray:
        return change.values[:, self.ids].mean(1)


class Direction(Readout):
    """How far the change leads from one state of cells to another: 0 not at all, 1 all the way.

    With d the difference of the mean profiles of the two states, it is the projection <change, d> / <d, d>.

    Parameters
    ----------
    data
        The AnnData, or the path, that the control cells come from.
    column, start, end
        ``.obs`` column of states, and the values of the two.

    Raises
    ------
    KeyError, ValueError
        Naming the column or the value that is not there.
    """

    def __init__(self, data: Any, column: str, start: str, end: str, tokenizer: CellTokenizer, options: ResponseOptions):
        (source_data,) = find_sources(data)
        view = AnnDataView(source_data)
        if column not in view.obs:
            raise KeyError(f"{view.name} has no .obs column {column!r} (readout.column); it has {', '.join(map(str, view.obs.columns))}")
        states = view.obs[column].astype(str).to_numpy()
        for key, value in (("start", start), ("end", end)):
            if value not in states:
                raise ValueError(
                    f"{view.name}: no cell has {value!r} in .obs[{column!r}] (readout.{key}); it holds {sorted(set(states))[:20]}"
                )
        tokenizer = tokenizer.for_inference()
        assert tokenizer.vocabulary is not None
        expects = tokenizer.resolve_expects(options.expects)
        orthologs = read_orthologs(options.orthologs) if options.orthologs is not None else tokenizer.orthologs
        reading = (options.counts, options.gene_column, orthologs, expects, options.min_matched)
        source = open_source(source_data, tokenizer.vocabulary, *reading)
        codes = np.where(states == start, 0, np.where(states == end, 1, -1))
        sums = np.zeros((2, len(tokenizer)))
        for first in range(0, len(source), 8192):
            counts, of_block = source.read(first, min(first + 8192, len(source))), codes[first : first + 8192]
            values = csr_matrix((tokenizer.full_profile(counts), counts.ids, counts.offsets), (len(counts), len(tokenizer)))
            for state in (0, 1):
                sums[state] += np.asarray(values[of_block == state].sum(0)).ravel()
        means = sums / np.array([(codes == 0).sum(), (codes == 1).sum()])[:, None]
        difference = means[1] - means[0]
        if not (length := difference @ difference) > 0:
            raise ValueError(f"{view.name}: cells of {start!r} and {end!r} have the same mean profile: there is no direction between them")
        self.direction = (difference / length).astype(np.float32)
        self.words = f"share of the way from {start} to {end} ({column})"

    def __call__(self, change: Change, controls: Controls) -> np.ndarray:
        return change.values @ self.direction


class LogOdds(Readout):
    """Change of a class's log-odds, as a model with a label head sees the control cell and the predicted cell.

    Parameters
    ----------
    model
        The model of labels.
    label, name
        Its head, and the class.

    Raises
    ------
    ValueError
        If there is no such head or class.
    """

    def __init__(self, model: Predictor, label: str, name: str, seed: int = 0):
        heads = model.labels
        if label not in heads:
            raise ValueError(f"readout.label={label!r}: the model of labels has no such head, it has {', '.join(heads) or 'none'}")
        classes = [str(c) for c in heads[label].get("classes") or []]
        if name not in classes:
            raise ValueError(f"readout.class={name!r}: the head {label!r} has no such class, it has {', '.join(classes) or 'none'}")
        self.model, self.label, self.place, self.seed = model, label, classes.index(name), seed
        self.kind = label_kinds(heads, model.folder)[label]
        self.words = f"change of the log-odds of {name} ({label})"
        self._of_controls: np.ndarray | None = None

    def _log_odds(self, matrix: csr_matrix, controls: Controls) -> np.ndarray:
        """Log-odds of the class [m] for cells [m, G], counts where the file has such."""
        import anndata

        adata = anndata.AnnData(matrix.astype(np.float32), var=controls.var)
        adata.obs_names = [str(i) for i in range(matrix.shape[0])]
        logits = self.model.logits(adata, [self.label], progress=False)[self.label].astype(np.float64)
        p = self.kind.scores(logits)[:, self.place].clip(LEAST, 1 - LEAST)
        return np.log(p) - np.log1p(-p)

    def __call__(self, change: Change, controls: Controls) -> np.ndarray:
        if self._of_controls is None:
            self._of_controls = self._log_odds(controls.values if controls.counts is None else controls.counts, controls)
        unit = "lognorm" if controls.counts is None else "counts"
        return self._log_odds(predicted_cells(controls, change, unit, self.seed), controls) - self._of_controls[change.cells]


def make_readout(readout: Mapping[str, Any], predictor: Predictor, data: Any, controls: Controls, options: ResponseOptions) -> Readout:
    """The readout of a configuration: ``{genes: [...]}``, ``{column, start, end}``, or ``{checkpoint, label, class}``.

    Raises
    ------
    ValueError
        If it is none of these.
    """
    tokenizer = predictor.tokenizer
    assert isinstance(tokenizer, CellTokenizer)
    given = {name for name, value in readout.items() if value is not None}
    if given == {"genes"}:
        genes = [readout["genes"]] if isinstance(readout["genes"], str) else list(readout["genes"])
        return Markers(genes, tokenizer, controls)
    if given == {"column", "start", "end"}:
        return Direction(data, str(readout["column"]), str(readout["start"]), str(readout["end"]), tokenizer, options)
    if given == {"checkpoint", "label", "class"}:
        from bmfm.inference.loading import load

        return LogOdds(
            load(readout["checkpoint"], device=str(predictor.device)), str(readout["label"]), str(readout["class"]), options.seed
        )
    raise ValueError(
        f"readout has {', '.join(sorted(given)) or 'nothing'}: give genes (markers), or column, start and end (two states of cells), or checkpoint, "
        "label and class (a class that a fine-tuned model predicts)"
    )
