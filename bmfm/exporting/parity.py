"""How far an exported model is from the one that it was made of, on real examples."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from bmfm.exporting.network import EMBEDDING, STATES, network_inputs, output_of
from bmfm.files import ASSETS, open_whole, require_file
from bmfm.genome.fasta import fasta_pieces, read_records
from bmfm.inference.inputs import Inputs
from bmfm.inference.predictor import Predictor
from bmfm.models.heads import predicts_tokens

N_EXAMPLES = 16
LEAST_COSINE = {"fp32": 0.9999, "int8": 0.995}
LEAST_AGREEMENT = 0.99

Run = Callable[[list[torch.Tensor]], Mapping[str, torch.Tensor]]
"""Inputs of a network, in their order, to its outputs by their names."""


@dataclass
class Parity:
    """Agreement of two networks.

    Attributes
    ----------
    cosine
        The least cosine over embeddings and over states of tokens.
    max_abs_diff
        {output: the largest difference of a number}.
    top1_agreement
        {head that has classes, or predicts tokens: share of its answers whose likeliest class is the same}.
    n_examples, n_tokens
        That were compared.
    """

    cosine: float = 1.0
    max_abs_diff: dict[str, float] = field(default_factory=dict)
    top1_agreement: dict[str, float] = field(default_factory=dict)
    n_examples: int = 0
    n_tokens: int = 0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def check(self, precision: str) -> None:
        """Raise a ValueError if the agreement is too small for the precision."""
        least = LEAST_COSINE[precision]
        if not self.cosine >= least:
            raise ValueError(
                f"the exported model differs from the model: the least cosine of embeddings and states is {self.cosine:.6f}, at least {least} is "
                f"asked for ({precision}), and nothing is written" + (": choose precision=fp32" if precision == "int8" else "")
            )
        for head, share in self.top1_agreement.items():
            if not share >= LEAST_AGREEMENT:
                raise ValueError(
                    f"the exported model differs from the model: the head {head!r} gives the same likeliest class in {share:.1%} of the answers, at least "
                    f"{LEAST_AGREEMENT:.0%} are asked for, and nothing is written"
                    + (": choose precision=fp32" if precision == "int8" else "")
                )


def real_examples(predictor: Predictor, file: str | Path | None = None) -> Any:
    """Examples of the omics of a model: those of a file, or some that ship, of different lengths."""
    if file is not None:
        if predictor.tokenizer.omics == "dna":
            return windows_of(file, max(2, predictor.max_tokens - 2))
        from anndata import read_h5ad

        return read_h5ad(file, backed="r")[:N_EXAMPLES].to_memory()
    if predictor.tokenizer.omics == "dna":
        text = next(text for _, text in read_records(ASSETS / "genome" / "chr20_slice.fa.gz")).upper()
        start = next(i for i in range(0, len(text), 1000) if "N" not in text[i : i + 50_000])
        room = max(2, min(predictor.max_tokens - 2, 400))
        lengths = [max(1, room * (i + 1) // N_EXAMPLES) for i in range(N_EXAMPLES)]
        return [text[start + 1000 * i : start + 1000 * i + n] for i, n in enumerate(lengths)]
    from anndata import read_h5ad

    return read_h5ad(ASSETS / "rna" / "pbmc3k.h5ad")[:N_EXAMPLES].copy()


def windows_of(file: str | Path, room: int) -> list[str]:
    """Up to `N_EXAMPLES` stretches of the sequences of a FASTA or FASTQ file, each at most `room` bases long: short sequences whole, and evenly spaced
    windows of long ones, none of N alone. No more of the file is read than that takes.

    Raises
    ------
    ValueError
        If there is none.
    """
    path = require_file(file, "FASTA file of examples")
    with open_whole(path) as source:
        is_fastq = source.read(1) == b"@"
    pieces = (
        (text for _, text in read_records(path))
        if is_fastq
        else (piece.decode("latin-1") for name, piece in fasta_pieces(path) if name is None)
    )
    windows: list[str] = []
    for piece in pieces:
        text = "".join(piece.split())
        n = min(N_EXAMPLES - len(windows), 1 + 3 * (len(text) > room))
        starts = [max(0, len(text) - room) * i // max(1, n - 1) for i in range(n)]
        windows += [window for window in (text[start : start + room] for start in starts) if window.strip("Nn")]
        if len(windows) >= N_EXAMPLES:
            break
    if not windows:
        raise ValueError(f"{file} holds no bases but N (examples): name a file with sequences")
    return windows


def compare(predictor: Predictor, run: Run, inputs: list[str], examples: Inputs) -> Parity:
    """Compare what `run` makes of examples with what the model makes of them, in batches of other sizes than the network was traced with."""
    parity = Parity()
    n_same: dict[str, list[int]] = {}
    for size in (1, 5):
        for _, batch in islice(predictor.batches(examples, size), N_EXAMPLES):
            with torch.inference_mode():
                expected = _outputs(predictor, batch)
            found = run(network_inputs(batch, inputs))
            tokens = batch["sequence_ids"] > 0
            for name, values in expected.items():
                theirs = found[name]
                if values.ndim == 3:
                    values, theirs = values[tokens], theirs[tokens]
                if name in (STATES, EMBEDDING):
                    cosine = torch.nn.functional.cosine_similarity(values.double(), theirs.double(), dim=-1).min().item()
                    parity.cosine = min(parity.cosine, cosine)
                difference = (values - theirs).abs().max().item()
                parity.max_abs_diff[name] = max(parity.max_abs_diff.get(name, 0.0), difference)
                if _has_classes(predictor, name):
                    count = n_same.setdefault(name, [0, 0])
                    count[0] += int((values.argmax(-1) == theirs.argmax(-1)).sum())
                    count[1] += len(values)
            if size == 1:  # the other batches hold the same
                parity.n_examples += len(batch["cls_index"])
                parity.n_tokens += int(tokens.sum())
    parity.top1_agreement = {name.partition(".")[2]: same / n for name, (same, n) in n_same.items()}
    return parity


def _outputs(predictor: Predictor, batch: Any) -> dict[str, torch.Tensor]:
    """Outputs of the model itself, by the names that they have in the network."""
    outputs, model = predictor.forward(batch), predictor.model
    result = {STATES: outputs.states(), EMBEDDING: outputs.pool()}
    for name, head in model.config.heads.items():
        pooling = head.get("pooling", head.get("cls", "token"))
        result[output_of(name)] = outputs.logits(name) if pooling != "token" else _of_tokens(predictor, name, outputs.states())
    return result


def _of_tokens(predictor: Predictor, name: str, states_BLH: torch.Tensor) -> torch.Tensor:
    return predictor.model.head(name, states_BLH.flatten(0, 1)).unflatten(0, states_BLH.shape[:2])


def _has_classes(predictor: Predictor, output: str) -> bool:
    head = predictor.model.config.heads.get(output.partition(".")[2])
    return head is not None and (predicts_tokens(head, predictor.model.n_tokens) or len(head.get("classes") or []) > 1)
