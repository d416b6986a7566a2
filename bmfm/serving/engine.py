"""What the endpoints ask of a model: functions that the model's thread runs, without anything of HTTP."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from bmfm import __version__
from bmfm.exporting.onnx import OnnxPredictor
from bmfm.genome.alphabet import N, decode, read_text
from bmfm.genome.reference import Reference
from bmfm.inference.inputs import Inputs
from bmfm.inference.predictor import Predictor
from bmfm.inference.runner import RunOptions
from bmfm.interpret.dna_explain import explain_sequences
from bmfm.interpret.explain import explain
from bmfm.serving.batching import Limits
from bmfm.serving.bodies import ExplainBody, Pair, Variant, cells_of
from bmfm.serving.errors import Refusal
from bmfm.serving.pieces import Piece, merge
from bmfm.variants.scoring import score_variants


class Key(NamedTuple):
    """What is computed: examples of one key go through the model together."""

    what: str
    pooling: str | int | None
    strands: str | None


class Engine:
    """A model, and maybe a genome, as a server uses them.

    Parameters
    ----------
    reference
        Of variants that are given by their coordinates.
    precision
        See `inference.runner.RunOptions`.
    reading
        How cells are read, as ``min_matched``.
    """

    def __init__(
        self,
        predictor: Predictor,
        limits: Limits,
        reference: Reference | None = None,
        precision: str | None = None,
        reading: Mapping[str, Any] | None = None,
    ):
        self.predictor, self.limits, self.reference, self.precision = (
            predictor,
            limits,
            reference,
            RunOptions(precision=precision).precision,
        )
        self.reading = dict(reading or {}) if predictor.tokenizer.omics == "rna" else {}

    def key(self, what: str, pooling: str | int | None, strands: str | None) -> Key:
        """What is computed, with nothing left open."""
        if self.predictor.tokenizer.omics != "dna" and strands is not None:
            raise Refusal(422, "strands: cells have no strands; leave it out")
        pooling = self.predictor.check_pooling(pooling) if what == "embed" else None
        return Key(what, pooling, strands or self.predictor.model.config.strands)

    def run(self, key: Key, pieces: Sequence[Piece]) -> list[Any]:
        """Embeddings, or predictions, of each piece, from one pass."""
        inputs = merge(pieces)
        longest = max(piece.longest for piece in pieces)
        size = max(1, min(self.limits.max_batch, self.limits.max_tokens // (longest + 8)))
        options: dict[str, Any] = {"batch_size": size, "precision": self.precision, "progress": False, "strands": key.strands}
        ends = np.cumsum([0, *(piece.n_examples for piece in pieces)])
        parts = [slice(begin, end) for begin, end in pairwise(ends)]
        if key.what == "embed":
            embeddings = self.predictor.embed(inputs, key.pooling, **options)
            return [embeddings[part] for part in parts]
        table = self.predictor.predict(inputs, **options)
        return [table.iloc[part] for part in parts]

    def warm_up(self) -> None:
        """Run everything once that is compiled or allocated the first time."""
        tokenizer = self.predictor.tokenizer
        data: Any = ["ACGTTAGC" * 8, "GATTACA"]
        if tokenizer.omics == "rna":
            from anndata import AnnData

            first, end = tokenizer.plain_ids
            genes = tokenizer.names[first : min(end, first + 64)]
            data = AnnData(np.ones((2, len(genes)), np.float32), var=pd.DataFrame(index=genes))
        self.predictor.embed(data, progress=False, precision=self.precision)

    def score(self, variants: Sequence[Variant], scores: Sequence[str]) -> pd.DataFrame:
        """Scores of variants of the genome."""
        if self.reference is None:
            raise Refusal(
                422, 'this server has no genome: give {"pairs": [{"ref": SEQUENCE, "alt": SEQUENCE}]}, or start it with fasta=FILE'
            )
        if wrong := [
            (i, f"REF {v.ref[:20]!r} or ALT {v.alt[:20]!r} is empty or several alleles") for i, v in enumerate(variants) if not _is_one(v)
        ]:
            raise Refusal(422, f"{len(wrong):,} of {len(variants):,} variants are not one allele each", wrong)
        table = pd.DataFrame([v.model_dump() for v in variants])
        return score_variants(self.predictor, table, self.reference, progress=False, scores=list(scores), **self._options())

    def score_pairs(self, pairs: Sequence[Pair], scores: Sequence[str]) -> pd.DataFrame:
        """Scores of pairs of sequences, each as a variant of its own small genome, which is its first sequence."""
        codes = [_codes_of_pair(pair) for pair in pairs]
        if wrong := [(i, of) for i, of in enumerate(codes) if isinstance(of, str)]:
            raise Refusal(422, f"{len(wrong):,} of {len(pairs):,} pairs cannot be scored: pair {wrong[0][0]}: {wrong[0][1]}", wrong)
        both = [of for of in codes if not isinstance(of, str)]
        table = pd.DataFrame([_change(f"pair{i}", ref, alt) for i, (ref, alt) in enumerate(both)])
        genome = _genome([ref for ref, _ in both])
        # rules that count in a genome (pll_cal) have none here
        is_plain = (table["ref"].str.len() == 1) & (table["alt"].str.len() == 1)
        causal = self.predictor.model.backbone.capabilities.causal
        rules = np.where(is_plain | causal, "auto", "pll")
        parts = []
        for rule in np.unique(rules):
            options = self._options() | {"allele_model": str(rule), "scores": list(scores)}
            part = score_variants(self.predictor, table[rules == rule], genome, progress=False, **options)
            parts.append(part.set_index(table.index[rules == rule]))
        return pd.concat(parts).sort_index().drop(columns=["id"])

    def _options(self) -> dict[str, Any]:
        return {"batch_size": self.limits.max_batch, "precision": self.precision}

    def explain(self, body: ExplainBody) -> list[dict[str, Any]]:
        """Contributions of the bases or genes of each example."""
        if isinstance(self.predictor, OnnxPredictor) and (body.sequences is None or body.method not in (None, "mlm")):
            raise Refusal(
                422,
                "this server runs an exported model, which explains DNA by method=mlm alone: ask one that runs the model itself (backend=torch)",
            )
        options: dict[str, Any] = {"method": body.method} if body.method is not None else {}
        if body.sequences is not None:
            results = []
            for sequence in body.sequences:
                of = explain_sequences(
                    self.predictor, [sequence], target=body.target, progress=False, batch_size=self.limits.max_batch, **options
                )
                result = {"contributions": of.contributions.attribution()[0].tolist(), "score": of.contributions.score}
                results.append(result | ({"target": str(of.report["target"].iloc[0])} if "target" in of.report else {}))
            return results
        if body.target is None:
            raise Refusal(422, "target is needed, as head:NAME")
        adata = explain(self.predictor, cells_of(body), body.target, progress=False, **options, **self.reading)
        key = next(name for name in adata.layers if name is not None and not name.endswith("_seen"))
        rows = [adata.layers[key][i] for i in range(adata.n_obs)]
        return [
            {"indices": row.indices.tolist(), "values": row.data.tolist(), "target": None if pd.isna(of) else str(of)}
            for row, of in zip(rows, adata.obs[f"{key}_class"], strict=True)
        ]

    def info(self) -> dict[str, Any]:
        """What a client may ask before it sends anything."""
        predictor, config = self.predictor, self.predictor.model.config
        first, end = predictor.tokenizer.plain_ids
        return {
            "model": predictor.folder.name if predictor.folder else None,
            "card": _card(predictor.folder),
            "version": __version__,
            "omics": predictor.tokenizer.omics,
            "backbone": predictor.model.backbone.name,
            "parameters": sum(p.numel() for p in predictor.model.parameters()),
            "max_tokens": predictor.max_tokens,
            "vocabulary": end - first,
            "pooling": config.pooling,
            "strands": config.strands,
            "labels": {name: list(map(str, head.get("classes") or [])) for name, head in predictor.labels.items()},
            "genome": None if self.reference is None else [c["name"] for c in self.reference.contigs],
            "precision": self.precision or "fp32",
            "limits": dict(self.limits.__dict__),
        }


def reply_counts(inputs: Inputs) -> dict[str, int]:
    """What was seen of a request; of what was lost or unknown there is a number in any case: ``truncated`` cells, and ``unknown_genes`` of the request
    or ``unknown_tokens`` of its sequences."""
    counts = {str(name): int(n) for name, n in inputs.counts.items()}
    if inputs.match is None:
        return {"unknown_tokens": 0, "truncated": 0} | counts
    return {"unknown_genes": int((inputs.match.ids < 0).sum()), "truncated": counts.get("truncated_cells", 0)} | counts


def _card(folder: Path | None) -> dict[str, Any]:
    """The metadata at the head of a model's card; empty where there are none."""
    import yaml

    file = folder / "README.md" if folder else None
    if file is None or not file.is_file():
        return {}
    head = file.read_text(encoding="utf-8").split("---\n")
    try:
        card = yaml.safe_load(head[1]) if len(head) > 2 and not head[0].strip() else {}
    except yaml.YAMLError:
        return {}
    return {str(k): v for k, v in card.items() if isinstance(v, str | list)} if isinstance(card, dict) else {}


def _is_one(variant: Variant) -> bool:
    return bool(variant.chrom) and all(allele and "," not in allele for allele in (variant.ref, variant.alt))


def _codes_of_pair(pair: Pair) -> tuple[np.ndarray, np.ndarray] | str:
    """Codes of two sequences of A, C, G, T and N, or what is wrong with them."""
    if not all(text.isascii() and text.isalpha() for text in (pair.ref, pair.alt)):
        return "a sequence is empty, or holds what is no letter"
    (ref, n_ref), (alt, n_alt) = (read_text(text, "plain") for text in (pair.ref, pair.alt))
    if n_ref + n_alt:
        return f"{n_ref + n_alt:,} characters are not A, C, G, T or N"
    return "ref and alt are the same" if np.array_equal(ref, alt) else (ref, alt)


def _change(name: str, ref: np.ndarray, alt: np.ndarray) -> dict[str, Any]:
    """The one change between two sequences, as a VCF writes it: what both begin and end with is left out, but for a base before an indel."""
    shorter = min(len(ref), len(alt))
    differs = np.flatnonzero(ref[:shorter] != alt[:shorter])
    begin = int(differs[0]) if len(differs) else shorter
    backwards = np.flatnonzero(ref[::-1][: shorter - begin] != alt[::-1][: shorter - begin])
    same = int(backwards[0]) if len(backwards) else shorter - begin
    if begin and (begin == len(ref) - same or begin == len(alt) - same):
        begin -= 1
    return {"chrom": name, "pos": begin + 1, "ref": decode(ref[begin : len(ref) - same]), "alt": decode(alt[begin : len(alt) - same])}


def _genome(sequences: Sequence[np.ndarray]) -> Reference:
    """Sequences as the contigs pair0, pair1, ... of a genome in memory."""
    codes = np.concatenate([np.append(s, np.uint8(N)) for s in sequences]).astype(np.uint8)
    lengths = np.array([len(s) for s in sequences], np.int64)
    ends = np.cumsum(lengths + 1) - 1
    contigs = tuple({"name": f"pair{i}", "length": int(n)} for i, n in enumerate(lengths))
    return Reference(Path("pairs"), Path("pairs"), codes, ends - lengths, ends, contigs)
