"""Heads: from hidden states at the places where they are needed, never all of [B, L], to logits."""

import torch
from torch import nn

from bmfm.special import CLS
from bmfm.tokenizers.batch import Batch


class Transform(nn.Module):
    """dense -> gelu -> LayerNorm, shared by all heads that predict tokens or genes."""

    def __init__(self, hidden_size: int, bias: bool, norm_bias: bool, eps: float):
        super().__init__()
        self.dense = nn.Linear(hidden_size, hidden_size, bias)
        self.norm = nn.LayerNorm(hidden_size, eps=eps, bias=norm_bias)

    def forward(self, hidden_MH: torch.Tensor) -> torch.Tensor:
        return self.norm(nn.functional.gelu(self.dense(hidden_MH)))


class _Reverse(torch.autograd.Function):
    @staticmethod
    def forward(context, x, coefficient):
        context.coefficient = coefficient
        return x.view_as(x)

    @staticmethod
    def backward(context, gradient):
        return -context.coefficient * gradient, None


def reverse_gradient(x: torch.Tensor, coefficient: float) -> torch.Tensor:
    """The same states; the encoder learns what hides the label rather than what tells it (Ganin et al., JMLR 2016)."""
    return _Reverse.apply(x, coefficient)


class Places(nn.Module):
    """What stands where: logits from a few channels of the states of the first places, each with weights of its own, which begin at 0.

    Pooled states say what is in a sequence; where sequences are cut out around something, a box or a splice site counts at its place alone.

    Parameters
    ----------
    length
        Places that are read, from the first token after [CLS]; what stands further on adds nothing. A window of a sequence that is too long
        for the model counts from its own beginning.
    """

    CHANNELS, DROPOUT = 8, 0.7

    def __init__(self, hidden_size: int, size: int, length: int):
        super().__init__()
        self.length = length
        self.channels = nn.Parameter(torch.empty(self.CHANNELS, hidden_size))
        self.weight = nn.Parameter(torch.empty(size, length * self.CHANNELS))
        self.dropout = nn.Dropout(self.DROPOUT)

    def initialize(self) -> None:
        nn.init.normal_(self.channels, 0.0, self.channels.shape[1] ** -0.5)
        nn.init.zeros_(self.weight)

    def forward(self, hidden_BLH: torch.Tensor, batch: Batch, is_token_BL: torch.Tensor) -> torch.Tensor:
        """Logits [N, size] of the N examples of a batch."""
        content, example, place = content_places(batch, is_token_BL)
        read = self.dropout(nn.functional.linear(hidden_BLH.flatten(0, 1)[content], self.channels))
        there = place < self.length
        laid = read.new_zeros(len(batch["cls_index"]), self.length, self.CHANNELS)
        laid = laid.index_put((example[there], place[there]), read[there])
        return nn.functional.linear(laid.flatten(1), self.weight)


def content_places(batch: Batch, is_token_BL: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of the tokens between [CLS] and the last [SEP] of each example: their numbers among those of the flattened rows, their example, and their
    place in it [M]."""
    tokens = (is_token_BL & (batch["input_ids"] != CLS)).flatten().nonzero().squeeze(1)
    example, number = batch["example_ids"].flatten()[tokens], torch.arange(len(tokens), device=tokens.device)
    nobody = example.new_full((1,), -1)
    begins = example.diff(prepend=nobody) != 0  # tokens of an example stand together, in their order
    content = example.diff(append=nobody) == 0
    place = number - torch.where(begins, number, 0).cummax(0).values
    return tokens[content], example[content], place[content]


class Decoder(nn.Module):
    """A linear map to logits. With `tied`, its matrix is the embedding of a field and only the bias is its own; with `constant` there is
    no matrix, and the logits are the bias, whatever the state. With `begins_at_bias` new weights are near 0. With `places` there is a map of so
    many places beside it, which whoever calls the head adds."""

    def __init__(
        self,
        hidden_size: int,
        size: int,
        tied: bool,
        bias: bool = True,
        dropout: float = 0.0,
        constant: bool = False,
        begins_at_bias: bool = False,
        places: int = 0,
    ):
        super().__init__()
        self.places = Places(hidden_size, size, places) if places else None
        self.begins_at_bias = begins_at_bias
        self.dropout, self.constant = nn.Dropout(dropout), constant
        self.weight = None if tied or constant else nn.Parameter(torch.empty(size, hidden_size))
        self.bias = nn.Parameter(torch.zeros(size)) if bias else None

    def forward(self, states_MH: torch.Tensor, tied_weight: torch.Tensor | None = None) -> torch.Tensor:
        if self.constant:
            assert self.bias is not None
            return self.bias.expand(len(states_MH), -1)
        weight = tied_weight if self.weight is None else self.weight
        assert weight is not None
        return nn.functional.linear(self.dropout(states_MH), weight, self.bias)


class Heads(nn.Module):
    """The named heads of a model.

    A head is described by ``{size, transform, tied, dropout, gradient_reversal, constant, begins_at_bias, places}``: the number of logits, whether the
    shared transform comes first, the field whose embedding it is tied to (or None), the coefficient of gradient reversal, whether its logits
    are numbers that are learned, but depend on nothing, whether its matrix begins near 0, and how many places `Places` reads.
    With ``own``, it is the backbone's own language-model head, and nothing of it is here. Whatever else the description holds
    (class names, for one) belongs to the objective that asked for the head.
    """

    def __init__(self, hidden_size: int, heads: dict[str, dict], bias: bool, norm_bias: bool, eps: float):
        super().__init__()
        self.described = heads
        shared = any(h.get("transform") for h in heads.values())
        self.transform = Transform(hidden_size, bias, norm_bias, eps) if shared else None
        self.decoders = nn.ModuleDict({self._key(name): _decoder(hidden_size, h) for name, h in heads.items() if not h.get("own")})

    def decoder(self, name: str) -> Decoder:
        """The linear map of a head, unless that is the backbone's own."""
        decoder = self.decoders[self._key(name)]
        assert isinstance(decoder, Decoder)
        return decoder

    def path(self, name: str) -> str:
        """Where a head's weights are in the model's state dict."""
        return f"heads.decoders.{self._key(name)}"

    @staticmethod
    def _key(name: str) -> str:
        """A head's key among the modules, where not every name may stand."""
        return "to_" + name.replace(".", "_")

    def forward(self, name: str, states_MH: torch.Tensor, tied_weight: torch.Tensor | None = None) -> torch.Tensor:
        head = self.described[name]
        if head.get("gradient_reversal"):
            states_MH = reverse_gradient(states_MH, head["gradient_reversal"])
        if head.get("transform"):
            assert self.transform is not None
            states_MH = self.transform(states_MH)
        return self.decoder(name)(states_MH, tied_weight)


def _decoder(hidden_size: int, head: dict) -> Decoder:
    """The linear map of a head, by its description."""
    return Decoder(
        hidden_size,
        head["size"],
        tied=bool(head.get("tied")),
        bias=head.get("bias", True),
        dropout=head.get("dropout", 0.0),
        constant=bool(head.get("constant")),
        begins_at_bias=bool(head.get("begins_at_bias")),
        places=head.get("places") or 0,
    )


def predicts_tokens(head: dict, n_tokens: int) -> bool:
    """Whether a head, by its description, predicts the token at each place, out of `n_tokens`."""
    return head["size"] == n_tokens and not head.keys() & {"pooling", "outputs", "classes", "cls"}
