"""The number that is explained: one for each example, read off a head of the model."""

from dataclasses import dataclass

import torch

from bmfm.inference.outputs import Outputs
from bmfm.inference.predictor import Predictor
from bmfm.label_kinds import MultiLabel, kind_of

CONTRASTS = ("mean", "log_odds", "none")
PREDICTED = "predicted"


@dataclass(frozen=True)
class Target:
    """A number for each example: one of the K numbers that a head gives, which may be another for each example.

    Attributes
    ----------
    name
        As it was asked for, ``head:cell_type:B cell``.
    head
        The head of the model.
    classes
        Names of the K numbers.
    column
        Which of them; None is the largest of each example, its predicted class.
    contrast
        ``mean``: a class's logit less the mean of the logits of all others, so that what raises all of them alike counts nothing. ``log_odds``:
        less the logarithm of the sum of their exponentials, the log-odds of its probability. ``none``: the logit.
    places
        [K] where the K numbers stand among the outputs of the head; None takes all of these.
    is_share
        Whether the head gives the logarithms of shares of molecules, up to a number that is the same for all genes of a cell and means nothing.
    scale, offset
        The numbers are ``offset + scale * output``, in the unit of the label.
    reversal
        By what the head multiplies gradients on their way to the model, which is undone here: 1, or minus the coefficient of gradient reversal.
    """

    name: str
    head: str
    classes: tuple[str, ...]
    column: int | None = None
    contrast: str = "none"
    places: tuple[int, ...] | None = None
    is_share: bool = False
    scale: float = 1.0
    offset: float = 0.0
    reversal: float = 1.0

    @property
    def unit(self) -> str:
        """Of the numbers, and so of what is attributed to genes and bases."""
        return "log share of molecules" if self.is_share else "logits" if len(self.classes) > 1 else "numbers of the head"

    def values(self, outputs: Outputs) -> torch.Tensor:
        """All K numbers of the examples of a batch [N, K], float32."""
        logits = outputs.logits(self.head)
        with torch.set_grad_enabled(outputs.grad):
            if self.is_share:
                logits = logits.float().log_softmax(1)
            if self.places is not None:
                logits = logits[:, list(self.places)]
            values = logits.float() * self.scale + self.offset
            n = values.shape[1]
            if self.contrast == "none" or n == 1:
                return values
            if self.contrast == "mean":
                return (n * values - values.sum(1, keepdim=True)) / (n - 1)
            of_others = values[:, None].expand(-1, n, -1).masked_fill(torch.eye(n, dtype=torch.bool, device=values.device), -torch.inf)
            return values - of_others.logsumexp(2)

    def columns(self, values: torch.Tensor) -> torch.Tensor:
        """Which of the numbers [N, K] is explained of each example [N]."""
        return values.argmax(1) if self.column is None else torch.full((len(values),), self.column, device=values.device)

    def gradient(self, outputs: Outputs, columns: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Gradients by the embeddings [R, L, H], float32, of the numbers in these columns [N] times weights [N]."""
        values = self.values(outputs).gather(1, columns[:, None])[:, 0]
        return outputs.gradient((values * (weights / self.reversal)).sum()).float()


def read_target(predictor: Predictor, target: str, contrast: str = "mean") -> Target:
    """The target of a text.

    Parameters
    ----------
    target
        ``head:NAME``, a label head: of classes the predicted one of each example (``head:NAME:predicted`` says the same), of a
        regression its number; ``head:NAME:CLASS``, one class for all; ``head:NAME:GENE``, what a head decodes of one gene from [CLS]: its value, its
        change, or the logarithm of its share of the molecules.
    contrast
        See `Target`; heads whose classes exclude each other alone have one.

    Raises
    ------
    ValueError
        Naming what there is.
    """
    if contrast not in CONTRASTS:
        raise ValueError(f"contrast={contrast!r} is unknown; choose from {', '.join(CONTRASTS)}")
    heads = predictor.model.config.heads
    usable = {n: h for n, h in heads.items() if (h.get("pooling", "token") != "token" or "cls" in h) and not h.get("constant")}
    word, _, rest = target.partition(":")
    # names of heads may hold a colon themselves: the longest that fits
    name = max((n for n in usable if rest == n or rest.startswith(f"{n}:")), key=len, default=None)
    if word != "head" or name is None:
        there = ", ".join(f"head:{n}" for n in usable) or "no head of whole examples"
        raise ValueError(f"target={target!r}: give head:NAME, or head:NAME:CLASS; this model has {there}")
    chosen, head = rest[len(name) + 1 :], usable[name]
    reversal = -float(head["gradient_reversal"]) if head.get("gradient_reversal") else 1.0
    if "pooling" not in head:
        return _of_gene(predictor, target, name, chosen, reversal)
    kind = kind_of(head, f"heads.{name}", predictor.folder)
    if not kind.classes:
        if chosen or head["size"] != 1:
            raise ValueError(
                f"target={target!r}: the head {name!r} gives {head['size']:,} numbers without names: give head:{name} of one number"
            )
        scale, offset = float(head.get("scale", 1.0)), float(head.get("center", 0.0))
        return Target(target, name, (name,), 0, places=None, scale=scale, offset=offset, reversal=reversal)
    if chosen not in ("", PREDICTED, *kind.classes):
        raise ValueError(f"target={target!r}: the head {name!r} has no class {chosen!r}, it has {', '.join(kind.classes)}")
    column = kind.classes.index(chosen) if chosen in kind.classes else None
    if isinstance(kind, MultiLabel):
        contrast = "none"
    return Target(target, name, tuple(kind.classes), column, contrast, reversal=reversal)


def _of_gene(predictor: Predictor, target: str, name: str, gene: str, reversal: float) -> Target:
    """What a head says of one gene; of heads that say several things of each, the first (the value, or the change); of counts the log share."""
    head, names = predictor.model.config.heads[name], predictor.tokenizer.names
    first, end = predictor.tokenizer.plain_ids
    genes = {names[i]: i for i in range(first, end)}
    if gene not in genes:
        said = f"does not know {gene!r}" if gene else "gives a number for each gene"
        raise ValueError(f"target={target!r}: the head {name!r} {said}; give head:{name}:GENE, as head:{name}:{names[first]}")
    n_outputs = head["size"] // len(names)
    return Target(target, name, (gene,), 0, places=(genes[gene] * n_outputs,), is_share="outputs" not in head, reversal=reversal)
