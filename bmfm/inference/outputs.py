"""What a model makes of one batch, computed as far as it is asked for."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from bmfm.models.backbones.base import HiddenStates
from bmfm.models.model import BmfmModel
from bmfm.tokenizers.batch import Batch


@dataclass
class Outputs:
    """Hidden states of a batch, and what heads make of them; a head runs when it is asked.

    With gradients, `embeddings` is what `gradient` derives by:

    >>> for rows, batch in model.batches(sequences):
    ...     out = model.forward(batch, grad=True)
    ...     gradient = out.gradient(out.logits("label")[:, 0].sum())  # [R, L, H]

    Attributes
    ----------
    embeddings
        [R, L, H], what the backbone ran on.
    hidden
        States after the last layer, and after each where all were asked for.
    grad
        Whether the pass kept what gradients need.
    autocast
        Type that it computed in, where not in float32.
    """

    model: BmfmModel
    batch: Batch
    embeddings: torch.Tensor
    hidden: HiddenStates
    grad: bool = False
    autocast: torch.dtype | None = None

    @contextmanager
    def _as_the_pass(self) -> Iterator[None]:
        kind = self.autocast
        with torch.set_grad_enabled(self.grad), torch.autocast(self.embeddings.device.type, kind, enabled=kind is not None):
            yield

    def states(self, layer: int | None = None) -> torch.Tensor:
        """[R, L, H] after one layer (0 is the first, -1 the last), or, for None, after the last layer and its norm."""
        return self.hidden.last if layer is None else self.hidden.layers[layer]

    def tokens(self, layer: int | None = None) -> torch.Tensor:
        """[M, H] states of the content tokens, example by example, without special tokens around them and padding."""
        with self._as_the_pass():
            return self.states(layer).flatten(0, 1)[self.batch["content_index"]]

    def pool(self, pooling: str | int | None = None, layer: int | None = None) -> torch.Tensor:
        """One state an example [N, H], see `BmfmModel.pool`."""
        with self._as_the_pass():
            return self.model.pool(self.states(layer), self.batch, pooling)

    def logits(self, head: str) -> torch.Tensor:
        """Logits of a label head, or of one that decodes a [CLS] token: [N, size], or [M, size] at the M content tokens of the batch where
        it labels tokens."""
        description = self.model.config.heads[head]
        if description.get("pooling") == "token":
            states = self.tokens()
            with self._as_the_pass():
                return self.model.head(head, states)
        with self._as_the_pass():
            return self.model.label(head, self.states(), self.batch)

    def log_probs(self, places: torch.Tensor) -> torch.Tensor:
        """[m, V] float32: log-probabilities of all tokens at places [m] of the flattened rows, by the language-model head.

        A masked model says what stands at the place itself, a causal one what stands at the next.
        """
        with self._as_the_pass():
            return self.model.lm_logits(self.hidden.last.flatten(0, 1)[places]).float().log_softmax(-1)

    def gradient(self, scalar: torch.Tensor) -> torch.Tensor:
        """[R, L, H]: the gradient of a number that was computed from these outputs, by the embeddings.

        Raises
        ------
        ValueError
            If the pass was made without gradients.
        """
        if not self.grad:
            raise ValueError("these outputs have no gradients: call forward(batch, grad=True)")
        return torch.autograd.grad(scalar, self.embeddings, retain_graph=True)[0]
