"""How far an edit moves what a model makes of a cell: its embedding, the output of a head, or its decoded profile."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
import torch
from torch.nn import functional

from bmfm.cells.formats import AnnDataView, find_sources
from bmfm.inference.outputs import Outputs
from bmfm.inference.predictor import Predictor
from bmfm.interpret.cells import choose_cells
from bmfm.interpret.options import CellOptions
from bmfm.interpret.targets import Target, read_target
from bmfm.models.model import BmfmModel
from bmfm.models.pooling import cls_of
from bmfm.tokenizers.batch import Batch


class Shifts(ABC):
    """The contract of readouts of edits.

    Attributes
    ----------
    names
        Of the K numbers that are computed of each edited cell; genes are ranked and tested by the first.
    words
        What is read off.
    rows
        Numbers of the cells that may be edited; None may be all.
    has_profile
        Whether the outputs are a number for each of the `n_outputs` genes of the model, whose mean changes are kept.
    """

    names: tuple[str, ...]
    words: str
    rows: np.ndarray | None = None
    has_profile: ClassVar[bool] = False
    n_outputs: int = 0

    @abstractmethod
    def outputs(self, outputs: Outputs) -> torch.Tensor:
        """What is read off a batch [N, ...]."""

    @abstractmethod
    def __call__(self, before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
        """Shifts [P, K] of P pairs of what was read off a cell before and after an edit."""


class OfEmbedding(Shifts):
    """Shifts of the embedding.

    Parameters
    ----------
    of_others
        Whether it is a mean over tokens, which has a meaning without those of the edited genes, too (see `embedding_of_others`): the last two names
        are of that.
    goal
        Centroids [H] of the states that cells come from and are to go to.
    """

    def __init__(
        self, of_others: bool, goal: tuple[torch.Tensor, torch.Tensor] | None = None, words: str = "", rows: np.ndarray | None = None
    ):
        self.of_others, self.goal, self.rows = of_others, goal, rows
        others = ("cosine_shift_others", "distance_others") if of_others else ()
        self.names = (*(("goal_shift", "goal_cosine") if goal is not None else ()), "cosine_shift", "distance", *others)
        self.words = "shift of the embedding" + words

    def outputs(self, outputs: Outputs) -> torch.Tensor:
        return outputs.pool().double()

    def __call__(self, before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
        shifts = list(distances(before, after).unbind(1))
        if self.goal is not None:
            start, end = self.goal
            line = end - start
            of_goal = [functional.cosine_similarity(x, end[None]) for x in (after, before)]
            shifts = [(after - before) @ line / (line @ line), of_goal[0] - of_goal[1], *shifts]
        return torch.stack(shifts, 1)


def distances(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """1 - cosine and Euclidean distance [P, 2] of embeddings [P, H]."""
    return torch.stack([1 - functional.cosine_similarity(before, after), (after - before).norm(dim=1)], 1)


def embedding_of_others(model: BmfmModel, states: torch.Tensor, batch: Batch, genes: np.ndarray) -> torch.Tensor:
    """Embeddings [R, H], float64, of cells with hidden states [R, L, H], pooled without the places of some genes [R, K] of each (-1 is none)."""
    edited = (batch["input_ids"][:, :, None] == torch.from_numpy(genes).to(states.device)[:, None]).any(2)
    others: Any = {**batch, "example_ids": batch["example_ids"].masked_fill(edited, -1)}
    return model.pool(states.float(), others).double()


class OfHead(Shifts):
    """Changes of one number of a head: that of the class, or of the class that the unedited cell is predicted to be of."""

    def __init__(self, target: Target):
        self.target = target
        self.names = ("log_odds",) if target.contrast == "log_odds" and len(target.classes) > 1 else ("value",)
        self.words = f"change of {target.name}"

    def outputs(self, outputs: Outputs) -> torch.Tensor:
        return self.target.values(outputs)

    def __call__(self, before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
        return (after - before).gather(1, self.target.columns(before)[:, None])


class OfDecoder(Shifts):
    """Changes of the decoded profile: of values, or of the logarithms of the shares of molecules where a head says these; without special tokens.

    Parameters
    ----------
    genes
        First id and end of the genes among the tokens that the head knows.
    n_each
        Numbers that it gives for each; the first is the value.
    """

    names = ("profile_distance",)
    has_profile = True

    def __init__(self, head: str, genes: tuple[int, int], n_each: int):
        self.head, self.genes, self.n_each = head, slice(*genes), n_each
        self.n_outputs = genes[1] - genes[0]
        self.words = f"change of the profile that {head} decodes"

    def outputs(self, outputs: Outputs) -> torch.Tensor:
        logits = outputs.logits(self.head).float()
        values = logits[:, :: self.n_each] if "outputs" in self._description(outputs) else logits.log_softmax(1)
        return values[:, self.genes]

    def _description(self, outputs: Outputs) -> dict[str, Any]:
        return outputs.model.config.heads[self.head]

    def __call__(self, before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
        return (after - before).norm(dim=1, keepdim=True)


def make_shifts(predictor: Predictor, data: Any, readout: str, goal: dict[str, str] | None, options: CellOptions, room: int = 0) -> Shifts:
    """The readout of a text, see `in_silico.perturb_in_silico`.

    Raises
    ------
    KeyError, ValueError
        Naming what is not there.
    """
    if goal is not None and readout != "embedding":
        raise ValueError(f"readout={readout}: a goal is a state of cells in the space of embeddings: choose readout=embedding")
    if readout == "embedding":
        return OfEmbedding(_is_of_tokens(predictor)) if goal is None else _with_goal(predictor, data, goal, options, room)
    if readout.startswith("head:"):
        return OfHead(read_target(predictor, readout, "log_odds"))
    heads = predictor.model.config.heads
    decoders = {n: h for n, h in heads.items() if "cls" in h and "pooling" not in h and not h.get("constant")}
    word, _, name = readout.partition(":")
    name = name or (next(iter(decoders)) if len(decoders) == 1 else "")
    if word != "decoder" or name not in decoders:
        there = ", ".join(f"decoder:{n}" for n in decoders) or "no decoder"
        raise ValueError(f"readout={readout!r}: choose embedding, head:NAME or decoder; this model has {there}")
    return OfDecoder(name, predictor.tokenizer.plain_ids, decoders[name]["size"] // len(predictor.tokenizer))


def _with_goal(predictor: Predictor, data: Any, goal: dict[str, str], options: CellOptions, room: int) -> OfEmbedding:
    """Centroids of the two states, over at most `max_cells` cells of each; without those that show no gene that the model knows."""
    if set(goal) != {"column", "start", "end"}:
        raise ValueError(f"goal has {', '.join(goal) or 'nothing'}: give column, start and end")
    view = AnnDataView(find_sources(data)[0])
    column = goal["column"]
    if column not in view.obs:
        raise KeyError(f"{view.name} has no .obs column {column!r} (goal.column); it has {', '.join(map(str, view.obs.columns))}")
    states = view.obs[column].astype(str).to_numpy()
    centroids, rows = [], {}
    for key in ("start", "end"):
        rows[key] = np.flatnonzero(states == str(goal[key]))
        if not len(rows[key]):
            raise ValueError(
                f"{view.name}: no cell has {goal[key]!r} in .obs[{column!r}] (goal.{key}); it holds {sorted(set(states))[:20]}"
            )
        inputs = choose_cells(predictor, data, options, rows[key], room).inputs
        pooled = []
        with torch.inference_mode():
            for numbers, batch in predictor.batches(inputs, options.batch_size):
                shows = np.ones(len(numbers), bool) if inputs.empty is None else ~inputs.empty[numbers]
                embeddings = predictor.forward(batch, precision=options.precision).pool().double()
                pooled.append(embeddings[torch.from_numpy(shows).to(embeddings.device)])
        centroids.append(torch.cat(pooled).mean(0))
    if not (centroids[1] - centroids[0]).norm() > 0:
        raise ValueError(
            f"{view.name}: cells of {goal['start']!r} and {goal['end']!r} have the same mean embedding: there is no way between them"
        )
    words = f" on the way from {goal['start']} to {goal['end']} ({column})"
    return OfEmbedding(_is_of_tokens(predictor), (centroids[0], centroids[1]), words, rows["start"])


def _is_of_tokens(predictor: Predictor) -> bool:
    """Whether the embedding of a model is pooled from all its tokens."""
    return cls_of(predictor.model.check_pooling(None)) is None
