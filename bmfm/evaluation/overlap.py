"""Whether test examples were seen in training: the same inputs, nearly the same sequences, one input with two labels.

Sequences are the same if they, or one and the reverse complement of the other, agree base by base; they are nearly the same
above 95% identity, as `sketch` estimates it. Cells are the same if they have the same counts of the same genes.
"""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bmfm.files import cached_folder
from bmfm.special import IGNORE

if TYPE_CHECKING:
    from bmfm.evaluation.examples import Examples

IDENTITY = 0.95
COMPLEMENT = str.maketrans("ACGTUacgtu", "TGCAAtgcaa")


def overlap(examples: "Examples") -> dict[str, int]:
    """Counts of a task, kept in the cache for the next entrant.

    Returns
    -------
    dict
        ``test``: examples of the test part; ``exact``: those whose input is in the training part too; ``near``: others, with a
        sequence of the training part of 95% identity or more; ``contradicting``: examples of any part whose input stands
        elsewhere with another class (of labels that are numbers none are counted). Empty of tasks without a test part.
    """
    if examples.card.protocol != "labels" or "test" not in examples.parts or "train" not in examples.parts:
        return {}
    parts = hashlib.sha256(b"".join(p.encode() + n.astype(np.int64).tobytes() for p, n in sorted(examples.parts.items()))).hexdigest()
    columns = {k: examples.card.config.data.get(k) for k in ("sequence", "second", "counts", "gene_column")}
    key = {"data": examples.hash, "parts": parts, "columns": columns, "task": examples.card.name, "version": 1}

    def count(folder: Path) -> None:
        (folder / "overlap.json").write_text(json.dumps(_count(examples)))

    return json.loads((cached_folder("overlap", json.loads(json.dumps(key, default=str)), count) / "overlap.json").read_text())


def _count(examples: "Examples") -> dict[str, int]:
    from bmfm.evaluation.sketch import near

    train, test = examples.parts["train"], examples.parts["test"]
    names = _cells(examples) if examples.card.omics == "rna" else _sequences(examples)
    known = {names[i] for i in train} - {b""}
    exact = np.array([names[i] in known for i in test])
    found = {"test": len(test), "exact": int(exact.sum()), "near": 0, "contradicting": _contradicting(examples, names)}
    if examples.card.omics == "dna":
        texts = examples.inputs if examples.inputs.ndim == 1 else examples.inputs.agg("N".join, axis=1)
        others = test[~exact]
        found["near"] = int(near(texts.iloc[others].tolist(), texts.iloc[train].tolist(), IDENTITY).sum())
    return found


def _sequences(examples: "Examples") -> list[bytes]:
    """A name of each input: of a sequence that of its lesser strand, of pairs that of both as they stand."""
    if examples.inputs.ndim == 2:
        return ["|".join(map(str, row)).upper().encode() for row in examples.inputs.itertuples(index=False)]
    texts = (str(text).upper().replace("U", "T") for text in examples.inputs)
    return [min(text, text.translate(COMPLEMENT)[::-1]).encode() for text in texts]


def _cells(examples: "Examples") -> list[bytes]:
    """A hash of each cell's genes and counts; of an empty cell nothing, as it is like no other."""
    names = []
    for first in range(0, len(examples.data.cells), 4096):
        block = examples.data.cells.take(np.arange(first, min(first + 4096, len(examples.data.cells))))
        for start, end in zip(block.offsets, block.offsets[1:], strict=False):
            order = np.argsort(block.ids[start:end], kind="stable")
            content = block.ids[start:end][order].tobytes() + block.counts[start:end][order].astype(np.float64).tobytes()
            names.append(hashlib.blake2b(content, digest_size=16).digest() if end > start else b"")
    return names


def _contradicting(examples: "Examples", names: list[bytes]) -> int:
    """Examples that share their input with one of another label."""
    labels: dict[bytes, set] = {}
    places: dict[bytes, int] = {}
    kinds = [(name, kind) for name, (kind, _) in examples.kinds.items() if kind in ("classification", "multilabel")]
    for number in np.concatenate(list(examples.parts.values())) if kinds else ():
        values = [examples._labels[name].values[number] for name, _ in kinds]
        if any(np.ndim(v) == 0 and v == IGNORE for v in values):
            continue
        label = tuple(v.tobytes() for v in values)
        labels.setdefault(names[number], set()).add(label)
        places[names[number]] = places.get(names[number], 0) + 1
    return sum(n for name, n in places.items() if name and len(labels[name]) > 1)


def sentences(task: str, counts: dict[str, int]) -> list[str]:
    """What a reader must know of a task's data, one sentence a fault."""
    n = counts.get("test", 0)
    said = (
        ("exact", f"{{}} of {n:,} test examples of {task} are in its training part, too"),
        ("near", f"{{}} of {n:,} test examples of {task} have a training sequence of {IDENTITY:.0%} identity or more"),
        ("contradicting", f"{{}} examples of {task} share their input with one of another label"),
    )
    return [words.format(f"{counts[key]:,}") for key, words in said if counts.get(key)]
