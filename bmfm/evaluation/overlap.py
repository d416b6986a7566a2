"""Whether test examples were seen in training: the same inputs, nearly the same sequences, one input with two labels.

What the same input is, the examples say (`Examples.input_hashes`); sequences are nearly the same above 95% identity, as `sketch`
estimates it.
"""

import hashlib
import json
from pathlib import Path

import numpy as np

from bmfm.evaluation.examples.base import Examples
from bmfm.evaluation.sketch import near
from bmfm.files import cached_folder

IDENTITY = 0.95


def overlap(examples: Examples) -> dict[str, int]:
    """Counts of a task, kept in the cache for the next method.

    Returns
    -------
    dict
        ``test``: examples of the test part; ``exact``: those whose input is in the training part too; ``near``: others, with a
        sequence of the training part of 95% identity or more; ``contradicting``: examples of any part whose input stands
        elsewhere with another class (of labels that are numbers none are counted). Empty of tasks without a test part.
    """
    if "test" not in examples.parts or "train" not in examples.parts:
        return {}
    parts = hashlib.sha256(b"".join(p.encode() + n.astype(np.int64).tobytes() for p, n in sorted(examples.parts.items()))).hexdigest()
    reading = {k: examples.task.config.data.get(k) for k in examples.read_by}
    key = {"data": examples.hash, "parts": parts, "reading": reading, "task": examples.task.name, "version": 2}

    def build(folder: Path) -> None:
        (folder / "overlap.json").write_text(json.dumps(count_overlap(examples)))

    return json.loads((cached_folder("overlap", json.loads(json.dumps(key, default=str)), build) / "overlap.json").read_text())


def count_overlap(examples: Examples) -> dict[str, int]:
    """What `overlap` keeps."""
    train, test = examples.parts["train"], examples.parts["test"]
    hashes = examples.input_hashes()
    trained_on = {hashes[i] for i in train} - {b""}
    exact = np.array([hashes[i] in trained_on for i in test])
    counts = {"test": len(test), "exact": int(exact.sum()), "near": 0, "contradicting": _contradicting(examples, hashes)}
    if (texts := examples.texts) is not None:
        counts["near"] = int(near([texts[i] for i in test[~exact]], [texts[i] for i in train], IDENTITY).sum())
    return counts


def _contradicting(examples: Examples, hashes: list[bytes]) -> int:
    """Examples that share their input with one of another label."""
    labels: dict[bytes, set] = {}
    n_examples: dict[bytes, int] = {}
    of_classes = [name for name, kind in examples.kinds.items() if kind.simple_as in ("classification", "multilabel")]
    values = {name: examples.labels_of_all(name) for name in of_classes}
    is_labelled = {name: examples.kinds[name].has_label(v) | (v.ndim > 1) for name, v in values.items()}
    for number in np.concatenate(list(examples.parts.values())) if of_classes else ():
        if all(is_labelled[name][number] for name in of_classes):
            labels.setdefault(hashes[number], set()).add(tuple(values[name][number].tobytes() for name in of_classes))
            n_examples[hashes[number]] = n_examples.get(hashes[number], 0) + 1
    return sum(n for input_hash, n in n_examples.items() if input_hash and len(labels[input_hash]) > 1)


def sentences(task: str, counts: dict[str, int]) -> list[str]:
    """What a reader must know of a task's data, one sentence a fault."""
    n = counts.get("test", 0)
    faults = (
        ("exact", f"{{}} of {n:,} test examples of {task} are in its training part, too"),
        ("near", f"{{}} of {n:,} test examples of {task} have a training sequence of {IDENTITY:.0%} identity or more"),
        ("contradicting", f"{{}} examples of {task} share their input with one of another label"),
    )
    return [words.format(f"{counts[key]:,}") for key, words in faults if counts.get(key)]
