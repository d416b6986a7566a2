"""Convert a published BMFM checkpoint to a model folder: ``python -m bmfm.convert SOURCE TARGET``.

SOURCE is a folder with a Lightning ``.ckpt`` and ``tokenizers/`` (as ``ibm-research/biomed.*`` on the Hub), a ``.ckpt`` in such a
folder, or a Hub id. Nothing in it is executed. What a checkpoint does not hold (how long its inputs were, how values were cut
into bins) is known for the published models by their names, and asked for otherwise.
"""

import argparse
import math
import sys
from pathlib import Path
from typing import Any

from bmfm.cli import exit_status


def convert(
    source: str,
    target: str,
    depth: str = "none",
    local_rope_theta: float | None = None,
    revision: str | None = None,
    max_tokens: int | None = None,
    values_kind: str | None = None,
    pooling: str | int | None = None,
    depth_target: float | None = None,
) -> None:
    """Write the model of a published checkpoint, and its tokenizer, into a folder.

    Parameters
    ----------
    depth, depth_target
        Read-depth tokens of an RDA model, and the total that they align to, see `CellTokenizer`.
    local_rope_theta
        Rotary base of ModernBERT's local layers, if other than the configuration says.
    max_tokens
        Longest input in training, where the checkpoint or its name does not tell.
    values_kind
        How counts become values, see `cells.values.transform`; needed for models of binned values.
    pooling
        See `BmfmModel.pool`; None is what the model's makers use.

    Raises
    ------
    FileNotFoundError, ValueError
        Naming the file, what is wrong with it, or the flag that is needed.
    """
    from bmfm.checkpoints.load import save_together
    from bmfm.checkpoints.published import KNOWN, read_published
    from bmfm.storage.folders import on_disk

    out = Path(target)
    if file := next((p for p in (out, *out.parents) if p.is_file()), None):
        raise ValueError(f"TARGET {out}: {file} is a file: name a folder, which is made if it is not there")
    if local_rope_theta is not None and not 0 < local_rope_theta < math.inf:
        raise ValueError(f"--local-rope-theta {local_rope_theta} must be a finite number above 0")
    if depth_target is not None and not 0 < depth_target < math.inf:
        raise ValueError(f"--depth-target {depth_target} must be a total of counts, above 0")
    downloaded = on_disk(source, revision, ("*.ckpt", "tokenizers/*", "*.json"))
    model, folder = read_published(downloaded, local_rope_theta)
    config = model.config
    config.max_tokens = max_tokens or config.max_tokens
    if not config.max_tokens:
        lengths = ", ".join(f"{name} {length:,}" for name, (length, _) in KNOWN.items())
        raise ValueError(f"{source} does not say how long its inputs were: add --max-tokens N (published models: {lengths})")
    if config.max_tokens < 3:
        raise ValueError(f"--max-tokens {config.max_tokens}: at least 3 are needed, for [CLS], one token and [SEP]")
    if depth == "none" and any(".rda" in part for part in (str(source), folder.name)):
        raise ValueError(f"{source} was trained with read-depth tokens: add --depth auto, or --depth align --depth-target TOTAL")
    if "values" not in config.fields:
        for flag, value in (
            ("--depth", None if depth == "none" else depth),
            ("--depth-target", depth_target),
            ("--values-kind", values_kind),
        ):
            if value is not None:
                raise ValueError(f"{flag} {value}: this is a model of DNA, which has no counts: leave it out")
    settings = {"mode": depth} | ({"target": depth_target} if depth_target else {})
    config.pooling = model.check_pooling(pooling if pooling is not None else config.pooling)
    tokenizer = _cell_tokenizer(model, folder, settings, values_kind) if "values" in config.fields else _dna_tokenizer(folder)
    if "values" in config.fields:
        config.positions = tokenizer.positions
    else:
        tokenizer.tokenizer.model_max_length = config.max_tokens
    save_together(model, tokenizer, out)
    n = sum(p.numel() for p in model.parameters())
    print(f"{n / 1e6:,.1f} M parameters, heads {', '.join(config.heads) or 'none'}, inputs of up to {config.max_tokens:,} tokens, "
          f"pooling {config.pooling}, written to {out}")  # fmt: skip


def _dna_tokenizer(folder: Path) -> Any:
    from bmfm.tokenizers import dna

    files = sorted((folder / "tokenizers").glob("*/tokenizer.json"))
    chunks = [f for f in files if f.parent.name == "dna_chunks"] or files
    if not chunks:
        raise FileNotFoundError(f"{folder / 'tokenizers'} holds no tokenizer.json")
    return dna.DnaTokenizer.from_pretrained(chunks[0])


def _cell_tokenizer(model: Any, folder: Path, depth: dict, values_kind: str | None) -> Any:
    """The tokenizer of a model of cells: its genes, its CLS tokens, and what its values and positions are."""
    from bmfm.cells.genes import GeneVocabulary
    from bmfm.checkpoints.published import gene_names
    from bmfm.models.backbones.modernbert import ModernBert
    from bmfm.tokenizers.rna import CellTokenizer

    config, values = model.config, {}
    encoder = config.fields["values"]
    if "n_bins" in encoder:
        if values_kind not in ("bins", "percentile_bins"):
            raise ValueError(
                f"{folder}: this model reads {encoder['n_bins']} bins of expression, and its checkpoint does not say how they were cut: "
                "add --values-kind bins (equal widths of log-normalised counts) or --values-kind percentile_bins (ranks within the cell)"
            )
        _check_bins(folder, encoder)
        values = {"kind": values_kind, "n_bins": encoder["n_bins"]}
    elif values_kind is not None:
        if values_kind in ("bins", "percentile_bins"):
            raise ValueError(
                f"--values-kind {values_kind}: this model reads numbers (by its {encoder['_target_'].rpartition('.')[2]}), not bins"
            )
        values = {"kind": values_kind}
    poolings = [config.pooling, *(h.get("pooling") for h in config.heads.values())]
    n_cls = 1 + max((p for p in poolings if isinstance(p, int)), default=0)
    positions = isinstance(model.backbone, ModernBert)  # whose rotary embeddings turn by them; the others have none
    tokenizer = CellTokenizer("from_data", read_depth=depth, n_cls=n_cls, values=values, positions=positions)
    tokenizer.bind_vocabulary(GeneVocabulary(gene_names(folder)))
    if len(tokenizer) != config.fields["input_ids"]["size"]:
        raise ValueError(
            f"{folder / 'tokenizers' / 'genes'} has {len(tokenizer):,} tokens, the model {config.fields['input_ids']['size']:,}"
        )
    if encoder.get("special", True) and max(tokenizer.prefix[:n_cls]) >= encoder["n_special"]:
        raise ValueError(
            f"{folder / 'tokenizers' / 'genes'}: the last of {n_cls} CLS tokens is number {max(tokenizer.prefix[:n_cls])}, "
            f"the model's values know {encoder['n_special']} special tokens"
        )
    return tokenizer


def _check_bins(folder: Path, encoder: dict) -> None:
    """Bins must stand behind the special tokens, in their order; how many special tokens there are is known from there."""
    from bmfm.storage.folders import read_json

    file = folder / "tokenizers" / "expressions" / "vocab.json"
    if not file.is_file():
        return
    vocab = read_json(file)
    rows = encoder["n_special"] + encoder["n_bins"]
    numbers = {int(token): row for token, row in vocab.items() if token.isdecimal()}
    first = min(numbers.values(), default=0)
    if sorted(numbers) != list(range(len(numbers))) or any(row != first + n for n, row in numbers.items()) or first + len(numbers) != rows:
        raise ValueError(f"{file}: bins 0 to {len(numbers) - 1} in their order, behind the special tokens, are expected for {rows} rows")
    if first != encoder["n_special"]:
        raise ValueError(f"{file}: its bins begin at {first}, the model's at {encoder['n_special']}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bmfm.convert", description=__doc__)
    parser.add_argument("source")
    parser.add_argument("target")
    parser.add_argument("--depth", default="none", help="read-depth tokens of an RDA model: equal, downsample, align, auto")
    parser.add_argument("--depth-target", type=float, help="total of counts that an RDA model's input is taken to have, for --depth align")
    parser.add_argument("--local-rope-theta", type=float, help="rotary base of local layers, if other than the configuration says")
    parser.add_argument("--revision", help="of a Hub repository")
    parser.add_argument("--max-tokens", type=int, help="longest input in training, where neither the checkpoint nor its name tells")
    parser.add_argument("--values-kind", help="how counts became values; for binned models bins or percentile_bins")
    parser.add_argument("--pooling", help="number of a CLS token, mean, mean_all or pooler; by default what the model's makers use")
    args = vars(parser.parse_args())
    if args["pooling"] is not None and args["pooling"].lstrip("-").isdecimal():
        args["pooling"] = int(args["pooling"])
    if status := exit_status(lambda: convert(**args)):
        sys.exit(status)


if __name__ == "__main__":
    main()
