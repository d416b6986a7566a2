"""A published BMFM checkpoint to this project's format: ``python -m bmfm.convert SOURCE TARGET``.

SOURCE is a folder with a Lightning ``.ckpt`` and ``tokenizers/`` (as ``ibm-research/biomed.*`` on the Hub), a ``.ckpt`` in such a
folder, or a Hub id. Nothing in it is executed.
"""

import argparse
import sys
from pathlib import Path


def convert(source: str, target: str, depth: str = "none", local_rope_theta: float | None = None, revision: str | None = None) -> None:
    """Write the model of a published checkpoint, and its tokenizer, into a folder."""
    from bmfm.models.folders import on_disk
    from bmfm.models.modernbert import is_plain, to_transformers
    from bmfm.models.published import gene_names, read_published

    model, folder = read_published(on_disk(source, revision, ("*.ckpt", "tokenizers/*", "*.json")), local_rope_theta)
    out = Path(target)
    out.mkdir(parents=True, exist_ok=True)
    if "values" in model.config.fields:
        from bmfm.cells.genes import GeneVocabulary
        from bmfm.tokenizers.rna import CellTokenizer

        poolings = [h.get("pooling") for h in model.config.heads.values()]
        n_cls = 1 + max((p for p in poolings if isinstance(p, int)), default=0)
        tokenizer = CellTokenizer("from_data", depth={"kind": depth}, n_cls=n_cls)
        tokenizer.use(GeneVocabulary(gene_names(folder)))
        if len(tokenizer) != model.config.fields["input_ids"]["size"]:
            raise ValueError(
                f"{folder / 'tokenizers' / 'genes'} has {len(tokenizer):,} tokens, the model {model.config.fields['input_ids']['size']:,}"
            )
        tokenizer.save_pretrained(out)
    else:
        from bmfm.tokenizers import dna

        found = sorted((folder / "tokenizers").glob("*/tokenizer.json"))
        chunks = [f for f in found if f.parent.name == "dna_chunks"] or found
        if not chunks:
            raise FileNotFoundError(f"{folder / 'tokenizers'} holds no tokenizer.json")
        dna.load(chunks[0]).save_pretrained(out)
    (to_transformers(model) if is_plain(model) else model).save_pretrained(out)
    n = sum(p.numel() for p in model.parameters())
    print(f"{n / 1e6:,.1f} M parameters, heads {', '.join(model.config.heads) or 'none'}, written to {out}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bmfm.convert", description=__doc__)
    parser.add_argument("source")
    parser.add_argument("target")
    parser.add_argument("--depth", default="none", help="read-depth tokens of an RDA model: equal, downsample, align, auto")
    parser.add_argument("--local-rope-theta", type=float, help="rotary base of local layers, if other than the configuration says")
    parser.add_argument("--revision", help="of a Hub repository")
    args = parser.parse_args()
    try:
        convert(args.source, args.target, args.depth, args.local_rope_theta, args.revision)
    except (ValueError, FileNotFoundError) as error:
        print(f"bmfm: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
