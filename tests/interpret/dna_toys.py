"""Models of single bases that are made by hand, so that everything about them is known."""

import torch
from torch import nn

from bmfm.inference.predictor import Predictor
from bmfm.models.backbones.base import Backbone, Capabilities, HiddenStates
from bmfm.models.model import build
from bmfm.tokenizers import dna

MOTIF = "GATTACA"
SITE = 12
"""Where `TEXT` holds the motif, and nowhere else more than four letters of it."""
TEXT = "CCGGCTCCGGCC" + MOTIF + "GGCCGGCTCCGG"
COUPLED = (6, 21)
"""What stands at the first place is expected at the second, with a logit of 3."""


class Toy(Backbone):
    """Embeddings are one-hot in the first four places (all 0 for what is no base).

    States: the four of the base two places before, a tenth; at the second place of `COUPLED` three times those of the base at the first;
    in the fifth place how many letters of the motif, beyond six, begin here; and in the sixth the same without a limit, for six letters less.
    """

    own_embeddings = True
    hidden_size = 6

    def __init__(self, bases: list[int], hidden_size: int = 6):
        super().__init__()
        self.layers = nn.ModuleList()
        self.bases = list(bases)

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities()

    def embed(self, batch):
        ids = batch["input_ids"]
        one_hot = torch.stack([ids == i for i in self.bases], -1).float()
        return nn.functional.pad(one_hot, (0, 2))

    def run(self, embeddings_BLH, batch, all_layers=False):
        one_hot = embeddings_BLH[..., :4]
        states = torch.zeros_like(embeddings_BLH)
        states[:, 3:, :4] = 0.1 * one_hot[:, 1:-2]
        first, second = (place + 1 for place in COUPLED)  # after [CLS]
        if one_hot.shape[1] > second:
            states[:, second, :4] = states[:, second, :4] + 3 * one_hot[:, first]
        weights = torch.stack([nn.functional.one_hot(torch.tensor("ACGT".index(c)), 4).float() for c in MOTIF])
        matches = (one_hot.unfold(1, len(MOTIF), 1) * weights.T).sum((2, 3))
        fifth = nn.functional.pad((matches - 6).relu(), (0, len(MOTIF) - 1))
        sixth = nn.functional.pad(matches, (0, len(MOTIF) - 1))
        return HiddenStates(torch.cat([states[..., :4], fifth[..., None], sixth[..., None]], -1))


def toy_predictor() -> Predictor:
    """Its heads: ``mlm``; ``site``, the mean of the fifth place over tokens; ``letters``, that of the sixth."""
    tokenizer = dna.single_base()
    bases = [tokenizer.names.index(base) for base in "ACGT"]
    label = {"size": 1, "kind": "bmfm.label_kinds.Regression", "pooling": "mean", "classes": [], "center": 0.0, "scale": 1.0}
    heads = {"mlm": {"size": len(tokenizer)}, "site": label, "letters": dict(label)}
    model = build(tokenizer.fields, heads, "tests.interpret.dna_toys.Toy", bases=bases)
    with torch.no_grad():
        for name in heads:
            model.heads.decoder(name).weight.zero_()
            model.heads.decoder(name).bias.zero_()
        model.heads.decoder("mlm").weight[bases, range(4)] = 1.0
        model.heads.decoder("site").weight[0, 4] = 1.0
        model.heads.decoder("letters").weight[0, 5] = 1.0
    return Predictor(model, tokenizer, "cpu")
