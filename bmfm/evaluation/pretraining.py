"""What a checkpoint was pretrained on, from the recipe in its folder: yardsticks are fitted to the same cells and sequences."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from bmfm.cells.counts import Counts
from bmfm.cells.formats import find_sources
from bmfm.cells.genes import GeneVocabulary
from bmfm.cells.sources import Cells, open_source
from bmfm.checkpoints.load import tokenizer_of
from bmfm.cli import instantiate, register_resolvers
from bmfm.data.dna import DnaDataModule
from bmfm.data.rna import RnaDataModule
from bmfm.evaluation.checksums import content_hash
from bmfm.files import require_file
from bmfm.genome.regions import regions_file
from bmfm.storage.folders import find_folder, read_json

PATH_OF = {"rna": "path", "dna": "fasta"}
"""The setting of ``data`` that names the files, by omics."""

REMEDY = "name the files by pretraining=PATH, or leave the yardsticks of pretraining out (baseline=[...])"


class Pretraining:
    """The training part of the data that a checkpoint was pretrained on.

    Parameters
    ----------
    checkpoint
        Model folder, name of a model that ships, or Hub id. Its ``recipe.json`` holds the settings of its training; what a fine-tuned
        model has there is what it was fine-tuned on.
    files
        Where the data lie here, if not where the recipe says: files of cells, or a FASTA; or a mapping with settings of ``data`` in
        place of the recipe's, as ``{fasta: genome.fa, regions: allowed.bed}``.

    Raises
    ------
    ValueError, FileNotFoundError
        When data are asked for: where the folder has no recipe, the recipe is of another kind of data, or its files are not on this
        machine. The message says what to do.
    """

    def __init__(self, checkpoint: str, files: str | Sequence[str] | Mapping[str, Any] | None = None, remote_code: bool = False):
        self.checkpoint, self.files, self.remote_code = checkpoint, files, remote_code

    @cached_property
    def folder(self) -> Path:
        return find_folder(self.checkpoint)

    @cached_property
    def tokenizer(self) -> Any:
        return tokenizer_of(str(self.folder), remote_code=self.remote_code)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The ``data`` of the recipe, with the files of this machine."""
        from omegaconf import OmegaConf

        register_resolvers()
        file = self.folder / "recipe.json"
        if not file.is_file():
            raise FileNotFoundError(f"{self.checkpoint} has no recipe.json, which would say what it was pretrained on")
        recipe: Any = OmegaConf.to_container(OmegaConf.create({"data": read_json(file).get("data") or {}}), resolve=True)
        settings, key = recipe["data"], PATH_OF[self.tokenizer.omics]
        if self.files is not None:
            settings |= self.files if isinstance(self.files, Mapping) else {key: self.files}
        if not isinstance(settings, Mapping) or not settings.get(key) or settings.get("census"):
            raise ValueError(f"{file}: its data are no files (data.{key}): the yardsticks are fitted to files alone")
        for path in self._paths(settings):
            try:
                require_file(path, f"pretraining data of {self.checkpoint},", folder=True)
            except FileNotFoundError as error:
                raise FileNotFoundError(f"{error}; {REMEDY}") from None
        return dict(settings)

    def _paths(self, settings: Mapping[str, Any]) -> list[str]:
        """All files that settings name, patterns written out."""
        named = [settings.get(key) for key in ("path", "fasta")]
        paths = [path for value in named if value for path in (value.values() if isinstance(value, Mapping) else [value])]
        bed = regions_file(settings.get("regions"))
        return [str(path) for path in find_sources([*paths, *([str(bed)] if bed else [])])]

    @cached_property
    def paths(self) -> list[str]:
        return self._paths(self.settings)

    @cached_property
    def key(self) -> dict[str, Any]:
        """What the training part depends on: contents of the files, how they are read and split, the tokenizer's genes."""
        read_by = ("split", "regions", "leave_out", "max_n_run", "counts", "expects", "gene_column", "min_matched")
        settings = {name: self.settings.get(name) for name in read_by}
        return {"files": content_hash(self.paths), "settings": settings, "tokenizer": self.tokenizer.description()}

    def cells(self, most: int, seed: int = 0) -> Counts:
        """Counts of training cells, in the genes of the checkpoint's tokenizer: all, or `most` that are drawn.

        They are sorted by number; of files on disk only these are read.
        """
        data: RnaDataModule = instantiate(self.settings | {"num_workers": 0, "packing": False}, _convert_="all")
        data.connect(self.tokenizer)
        return data.cells.take(drawn(data.numbers["train"], most, seed))

    def windows(self, length: int, n: int, seed: int = 0) -> np.ndarray:
        """Codes of bases ``uint8`` [n, length] of windows of the training part of the genome, on either strand.

        0 to 4 are A, G, T, C and N, as in `genome.alphabet`.
        """
        from bmfm.genome.windows import WindowSampler

        data: DnaDataModule = instantiate(self.settings | {"num_workers": 0, "packing": False, "variants": None}, _convert_="all")
        windows = WindowSampler(data.intervals["train"], length, length, seed=seed).draw(0, np.arange(n))
        codes = data.reference.codes[windows.start[:, None] + np.arange(length)] & 0x7F
        turned = np.where(codes < 4, codes ^ 2, codes)[:, ::-1]
        return np.where(windows.reverse[:, None], turned, codes).astype(np.uint8)


def drawn(numbers: np.ndarray, most: int, seed: int = 0) -> np.ndarray:
    """At most so many of some numbers, drawn without replacement and sorted."""
    return np.sort(np.random.default_rng(seed).permutation(numbers)[:most])


def cells_in_vocabulary(data: RnaDataModule, vocabulary: GeneVocabulary) -> Counts:
    """Counts of all cells of a connected data module, in the genes of another vocabulary; genes that a file lacks are 0."""
    reading = (data.counts, data.gene_column, data.tokenizer.orthologs, data.expects or "counts", data.min_matched)
    sources = [open_source(path, vocabulary, *reading) for path in find_sources(data.path)]
    for source in sources:
        source.load()
    cells = Cells(sources)
    return cells.take(np.arange(len(cells)))
