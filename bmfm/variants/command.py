"""Scoring as the command line asks for it: shards that an interrupted one left are used again, workers share them, and the output is the same to the byte."""

import hashlib
import json
import os
import socket
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from omegaconf import OmegaConf

from bmfm import __version__
from bmfm.files import cache_root, require_file
from bmfm.genome.reference import Reference
from bmfm.inference.loading import load
from bmfm.inference.predictor import Predictor
from bmfm.inference.shared_run import SharedRun
from bmfm.inference.work_plan import digest
from bmfm.ledger import Ledger, Shard
from bmfm.places import Place, check_outputs, place, with_local_inputs
from bmfm.variants.alleles import Alleles
from bmfm.variants.options import ScoreOptions
from bmfm.variants.outputs import Output, TableOutput, VcfOutput
from bmfm.variants.picture import PictureOutput
from bmfm.variants.reading import Records, VcfFile, is_table, read_variants
from bmfm.variants.scoring import Scorer, check_assembly, frame


def run(config: Any, ledger: Ledger | None = None) -> None:
    """Score the variants of a composed configuration.

    Parameters
    ----------
    ledger
        Of a worker, which adds to it and writes nothing else.
    """
    outputs = [place(o) for o in ([config.output] if isinstance(config.output, str) else config.output)]
    check_outputs(outputs)
    asked, config = config, with_local_inputs(config)
    if there := [o for o in outputs if not config.overwrite and ledger is None and o.exists()]:
        raise SystemExit(f"bmfm: {there[0]} exists already; choose another output, or overwrite=true")
    predictor = load(config.checkpoint, config.attention, config.device, config.revision, config.remote_code)
    reference = Reference.from_fasta(config.fasta)
    if config.sample is not None and config.sample_vcf is None:
        config.sample_vcf = None if is_table(Path(config.variants)) or config.variants == "-" else config.variants
    names = (
        "sample",
        "sample_vcf",
        "window",
        "strands",
        "allele_model",
        "radius",
        "layer",
        "max_indel",
        "background",
        "batch_size",
        "precision",
    )
    scorer = Scorer(predictor, reference, ScoreOptions(scores=tuple(config.scores), **{name: config[name] for name in names}))
    path = _variants(config.variants, outputs)
    about = facts(asked, predictor, scorer)

    def compute(kept: Ledger) -> Ledger:
        if kept.is_worker:
            _score_all(path, scorer, [], kept, config)
        return kept

    def write(kept: Ledger, paths: list[Path]) -> None:
        header = None if is_table(path) else VcfFile(path).header
        files = [_open(p, header, reference, config, about) for p in paths]
        counts = _score_all(path, scorer, files, kept, config)
        for file in files:
            file.close()
        summary = {"counts": counts, "settings": about}
        paths[0].with_name(f"{paths[0].name}.summary.json").write_text(json.dumps(summary, indent=1) + "\n")
        print("; ".join(f"{name} {n:,}" for name, n in counts.items()))

    read_from = [path, reference.source, *([config.sample_vcf] if config.sample else [])]
    if isinstance(config.background, str) and config.background != "auto":
        read_from.append(config.background)
    if config.variants == "-":
        asked = OmegaConf.merge(asked, {"variants": str(path)})
    SharedRun(config, predictor, run, ledger, asked)(outputs, read_from, compute, write)
    if ledger is not None:
        return
    if config.variants == "-":
        path.unlink(missing_ok=True)
    for output in outputs:
        if output.exists():
            print(f"written to {output}")


def _open(path: Path, header: list[str] | None, reference: Reference, config: Any, about: dict[str, Any]) -> Output:
    """The output that the end of a file's name asks for."""
    if path.name.endswith(VcfOutput.endings):
        contigs = [(c["name"], c["length"]) for c in reference.contigs]
        return VcfOutput(path, header and list(header), config.info_prefix, about, contigs)
    if path.name.endswith(PictureOutput.endings):
        return PictureOutput(path, str(config.checkpoint))
    if path.name.endswith(TableOutput.endings):
        return TableOutput(path, config.layout)
    raise ValueError(
        f"output={path}: it must end in one of {', '.join((*VcfOutput.endings, *TableOutput.endings, *PictureOutput.endings))}"
    )


def _variants(variants: str, outputs: list[Place]) -> Path:
    """The file of variants; what comes through a pipe (``-``) is kept beside the output (of one in a store, in the cache) until all is written, under
    a name that says what is in it and what is written: several commands may read from pipes at the same time."""
    if variants != "-":
        return require_file(variants, "file of variants")
    output = outputs[0]
    folder = output.parent if isinstance(output, Path) else cache_root() / "pipes"
    folder.mkdir(parents=True, exist_ok=True)
    read, digest_of = (
        folder / f".{output.name}.stdin.{socket.gethostname()}-{os.getpid()}.vcf",
        hashlib.sha256("\n".join(map(str, outputs)).encode()),
    )
    with read.open("wb") as file:
        while data := sys.stdin.buffer.read(1 << 20):
            digest_of.update(data)
            file.write(data)
    return read.replace(folder / f".{output.name}.stdin.{digest_of.hexdigest()[:12]}.vcf")


def facts(config: Any, predictor: Predictor, scorer: Scorer) -> dict[str, Any]:
    """What scores depend on, for the header and the summary."""
    weights = sorted(predictor.folder.glob("*.safetensors")) if predictor.folder else []
    return {
        "Model": str(config.checkpoint),
        "Revision": "+".join(digest(file)[:12] for file in weights),
        "Fasta": scorer.reference.source.name,
        "Window": scorer.window,
        "Strands": scorer.options.strands,
        "Method": scorer.options.allele_model,
        "Version": __version__,
    }


def _score_all(path: Path, scorer: Scorer, files: list[Output], ledger: Ledger, config: Any) -> dict[str, int]:
    """Every shard scored, or read where it was before, and written; of a worker, those that are open. Returns the counts of what there was."""
    from tqdm.auto import tqdm

    counts: Counter[str] = Counter()
    with tqdm(total=100, unit="%", disable=not config.progress, delay=1, bar_format="{l_bar}{bar}| {elapsed}<{remaining}{postfix}") as bar:
        for number, records in enumerate(read_variants(path, config.shard_size)):
            if ledger.is_worker and not ledger.is_open(number):
                continue
            alleles = scorer.prepare(records)
            begun, part = bar.n, 100 * (records.end - records.begin)
            scores = _shard(ledger, number, alleles, scorer, lambda done, s=part: bar.update(s * done))  # type: ignore[misc]
            if scores is None:
                continue  # another worker has it
            table = frame(records, alleles, pd.DataFrame(scores))
            bar.update(begun + part - bar.n)
            _count(counts, records, alleles, table)
            check_assembly(counts, scorer.reference, str(path), config.max_ref_mismatch)
            first = np.searchsorted(alleles.record, np.arange(len(records) + 1))
            for file in files:
                file.write(records, first, table)
            bar.set_postfix_str(f"{counts['alleles']:,} alleles")
    if not counts["records"] and not ledger.is_worker:
        raise ValueError(f"{path}: it holds no records")
    return dict(counts)


def _shard(ledger: Ledger, number: int, alleles: Alleles, scorer: Scorer, done: Any) -> Shard | None:
    """The scores of one shard, {column: [A]}, from the ledger where it has them."""

    def compute() -> Shard:
        scores = scorer.score(alleles, done)
        return {column: scores[column].to_numpy(str if column == "method" else None) for column in scores}

    return ledger.get(number, compute)


def _count(counts: Counter[str], records: Records, alleles: Alleles, table: pd.DataFrame) -> None:
    counts["records"] += len(records)
    counts["alleles"] += len(alleles)
    counts["records_without_ALT"] += len(records) - len(np.unique(alleles.record))
    counts.update({str(k): int(v) for k, v in table["status"].value_counts().items()})
    counts["left_aligned"] += int((alleles.shifted > 0).sum())
