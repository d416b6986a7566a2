"""Settings of the cell tokenizer: what they are where they are not given, the classes that they name, and which fit together."""

from collections.abc import Mapping
from typing import Any

from bmfm.cells.read_depth import MODES, DepthSettings, ReadDepth
from bmfm.cells.values import TRANSFORMS, ValueSettings, ValueTransform
from bmfm.targets import find_choice
from bmfm.tokenizers.cell_order import ORDERS, GeneOrder
from bmfm.tokenizers.cell_zeros import ZEROS, ZeroGenes

VALUES: dict[str, Any] = {"kind": "log_normalise", "target_sum": 1e4, "n_bins": 51, "upper": 10.0}
DEPTH: dict[str, Any] = {"mode": "none", "min_total": 1000, "rate": 0.6, "target": None, "share": [0.2, 0.8]}


class CellSettings:
    """The four choices of a cell tokenizer, and what follows from them; see `rna.CellTokenizer` for what they mean."""

    order: str
    zeros: str
    values: dict[str, Any]
    read_depth: dict[str, Any]

    @property
    def gene_order(self) -> GeneOrder:
        return find_choice(self.order, ORDERS, GeneOrder, "tokenizer.order")()

    @property
    def zero_genes(self) -> ZeroGenes:
        return find_choice(self.zeros, ZEROS, ZeroGenes, "tokenizer.zeros")()

    @property
    def value_transform(self) -> ValueTransform:
        return find_choice(self.values["kind"], TRANSFORMS, ValueTransform, "tokenizer.values.kind")()

    @property
    def depth_mode(self) -> ReadDepth:
        return find_choice(self.read_depth["mode"], MODES, ReadDepth, "tokenizer.read_depth.mode")()

    @property
    def has_depth(self) -> bool:
        """Whether tokens of read depth stand in front."""
        return self.depth_mode.has_tokens

    @property
    def lowers_depth(self) -> bool:
        """Whether cells are shown at a lower read depth than they have."""
        return self.depth_mode.is_lowered

    @property
    def reads_gene_medians(self) -> bool:
        """Whether the order of tokens, or their values, are relative to the medians of genes."""
        return self.gene_order.is_relative or self.value_transform.is_relative

    @property
    def relative_settings(self) -> str:
        """The settings by which medians of genes are read or not, for errors."""
        return f"tokenizer.order={self.order}, tokenizer.values.kind={self.values['kind']}"

    @property
    def value_settings(self) -> ValueSettings:
        return ValueSettings(float(self.values["target_sum"]), int(self.values["n_bins"]), float(self.values["upper"]))

    @property
    def depth_settings(self) -> DepthSettings:
        depth, (least, largest) = self.read_depth, self.read_depth["share"]
        share = (float(least), float(largest))
        return DepthSettings(float(depth["min_total"]), float(depth["rate"]), float(depth["target"] or 0), share)

    def check_choices(self) -> None:
        """Raise a ValueError naming a choice that is unknown or a number that is out of range, and what it may be."""
        assert self.gene_order and self.zero_genes and self.value_transform and self.depth_mode  # each is found, or an error
        _check_values(self.values)
        _check_read_depth(self.read_depth)

    def check_expects(self, expected: str, trained_on: str | None) -> None:
        """Raise a ValueError if cells of one kind cannot be read by these settings.

        Parameters
        ----------
        expected, trained_on
            What files must hold, ``counts`` or ``normalised``, and what the training files held, if that is known.
        """
        if expected not in ("counts", "normalised"):
            raise ValueError(f"expects={expected!r} (data.expects) is unknown; choose counts or normalised")
        kind, is_normalised = self.values["kind"], expected == "normalised"
        if is_normalised and kind != "log_normalise" and self.value_transform.needs_counts:
            raise ValueError(
                f"expects=normalised (data.expects): this model makes its values from counts (tokenizer.values.kind={kind}), and would "
                "normalise twice; give raw counts, or train with tokenizer.values.kind=as_is"
            )
        if is_normalised and self.depth_mode.needs_counts:
            raise ValueError(
                f"expects=normalised (data.expects): tokenizer.read_depth.mode={self.read_depth['mode']} splits the molecules of cells, and "
                "needs counts; give raw counts, or choose tokenizer.read_depth.mode=none"
            )
        if is_normalised and trained_on == "counts" and self.reads_gene_medians:
            raise ValueError(
                f"expects=normalised (data.expects): this model compares counts with medians of counts ({self.relative_settings}); give raw counts"
            )
        if trained_on and expected != trained_on and kind == "as_is":
            raise ValueError(
                f"expects={expected} (data.expects): this model takes values as they are (tokenizer.values.kind=as_is) and was trained with "
                f"expects={trained_on}; give it such values"
            )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def _check_values(settings: Mapping[str, Any]) -> None:
    """Raise a ValueError naming a setting of values that is unknown or out of range."""
    target, n_bins, upper = settings["target_sum"], settings["n_bins"], settings["upper"]
    if unknown := settings.keys() - VALUES.keys():
        raise ValueError(f"tokenizer.values.{min(map(str, unknown))} is unknown; there are {', '.join(VALUES)}")
    if target != "median" and not (_is_number(target) and target > 0):
        raise ValueError(f"tokenizer.values.target_sum={target!r} must be median or a total of counts above 0")
    if not isinstance(n_bins, int) or isinstance(n_bins, bool) or not 2 <= n_bins <= 1 << 20:
        raise ValueError(f"tokenizer.values.n_bins={n_bins!r} must be a whole number of at least 2")
    if not (_is_number(upper) and upper > 0):
        raise ValueError(f"tokenizer.values.upper={upper!r} must be a number above 0")


def _check_read_depth(settings: Mapping[str, Any]) -> None:
    """Raise a ValueError naming a number of read depth that is out of range."""
    target, share = settings["target"], settings["share"]
    if unknown := settings.keys() - DEPTH.keys():
        raise ValueError(f"tokenizer.read_depth.{min(map(str, unknown))} is unknown; there are {', '.join(DEPTH)}")
    if not (_is_number(settings["min_total"]) and settings["min_total"] >= 0):
        raise ValueError(f"tokenizer.read_depth.min_total={settings['min_total']!r} must be a total of counts")
    if not (_is_number(settings["rate"]) and 0 <= settings["rate"] <= 1):
        raise ValueError(f"tokenizer.read_depth.rate={settings['rate']!r} must be a probability, from 0 to 1")
    if settings["mode"] == "align" and not target:
        raise ValueError("tokenizer.read_depth.mode=align needs tokenizer.read_depth.target, a total of counts")
    if target is not None and not (_is_number(target) and target >= 0):
        raise ValueError(f"tokenizer.read_depth.target={target!r} must be a total of counts above 0")
    is_pair = isinstance(share, list | tuple) and len(share) == 2 and all(map(_is_number, share))
    if not is_pair or not 0 < share[0] <= share[1] < 1:
        raise ValueError(f"tokenizer.read_depth.share={share!r} must be two numbers above 0 and below 1, the lesser first, as [0.2,0.8]")
