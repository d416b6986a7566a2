"""k-mers of sequences in the components that they have in the pretraining genome."""

from pathlib import Path
from typing import Any

import numba
import numpy as np

from bmfm.evaluation.baselines.pretrained import PretrainedEmbeddings
from bmfm.evaluation.baselines.projection import standardised
from bmfm.evaluation.examples.base import Examples
from bmfm.evaluation.examples.sequences import SequenceExamples
from bmfm.files import cached_folder
from bmfm.genome.alphabet import N, base_table

_CHUNK = 4096


class PretrainedKmers(PretrainedEmbeddings):
    """Principal components of k-mer frequencies in windows of the pretraining genome, onto which the task's sequences are projected.

    Windows are as long as the task's training sequences are in the median, from the training part of the genome and on either strand.
    Frequencies are standardised by those of the windows. Of pairs of sequences the components of both are joined.

    Parameters
    ----------
    k
        Bases of a k-mer.
    n_windows, n_components
        Windows that are drawn, and components that are kept.
    """

    omics = ("dna",)

    def __init__(
        self, name: str, checkpoint: str, pretraining: Any = None, remote_code: bool = False,
        k: int = 6, n_windows: int = 10_000, n_components: int = 256,
    ):  # fmt: skip
        super().__init__(name, checkpoint, pretraining, remote_code)
        self.k, self.n_windows, self.n_components = k, n_windows, n_components

    @property
    def settings(self) -> dict[str, Any]:
        return {"k": self.k, "n_windows": self.n_windows, "n_components": self.n_components}

    def embed(self, examples: Examples, seed: int = 0, learn_from: np.ndarray | None = None) -> np.ndarray:
        assert isinstance(examples, SequenceExamples)
        learn_from = examples.parts["train"] if learn_from is None else learn_from
        columns = [examples.inputs[c] for c in examples.inputs] if examples.are_pairs else [examples.inputs]
        return np.concatenate([self._components([str(t) for t in column], learn_from) for column in columns], 1)

    def _components(self, texts: list[str], learn_from: np.ndarray) -> np.ndarray:
        """Components [n, C] of texts [n]."""
        length = max(self.k, int(np.median([len(texts[i]) for i in learn_from])))

        def build(folder: Path) -> None:
            from sklearn.decomposition import PCA

            frequencies = kmer_frequencies(self.pretraining.windows(length, self.n_windows), self.k)
            center, spread = frequencies.mean(0), frequencies.std(0)
            pca = PCA(min(self.n_components, len(frequencies) - 1, len(center)), svd_solver="randomized", random_state=0)
            pca.fit(standardised(frequencies, center, spread))
            np.savez(folder / "kmers.npz", center=center, spread=spread, mean=pca.mean_, components=pca.components_)

        fitted = np.load(cached_folder("kmers", {"version": 1, "length": length} | self.settings | self.fitted_to, build) / "kmers.npz")
        center, spread, mean, components = (fitted[name] for name in ("center", "spread", "mean", "components"))
        chunks = (kmer_frequencies(_codes(texts[start : start + _CHUNK]), self.k) for start in range(0, len(texts), _CHUNK))
        return np.concatenate([(standardised(rows, center, spread) - mean) @ components.T for rows in chunks]).astype(np.float32)


def _codes(texts: list[str]) -> np.ndarray:
    """Codes of bases [n, longest]; N is all else, and what is beyond the end."""
    table = base_table()
    codes = np.full((len(texts), max(map(len, texts))), N, np.uint8)
    for row, text in zip(codes, texts, strict=True):
        row[: len(text)] = np.minimum(table[np.frombuffer(text.encode("ascii", "replace"), np.uint8)] & 0x7F, N)
    return codes


@numba.njit(cache=True)
def kmer_frequencies(codes, k):
    """Share of each k-mer among those of a sequence that have no N, ``float32`` [n, 4^k], from codes [n, L].

    The column of a k-mer is its codes (A, G, T, C = 0 to 3) as digits of base four, the first base first.
    """
    out = np.zeros((len(codes), 4**k), np.float32)
    for row in range(len(codes)):
        word, known, total = 0, 0, 0
        for code in codes[row]:
            word = (word * 4 + min(code, 3)) % 4**k
            known = known + 1 if code < 4 else 0
            if known >= k:
                out[row, word] += 1
                total += 1
        if total:
            out[row] /= total
    return out
