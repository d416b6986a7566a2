"""Regions as one HTML page: genes, variants, scores and logos above one another, drawn as SVG; it needs no network."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

import numpy as np
import pandas as pd

from bmfm.genome.contigs import ContigNames
from bmfm.interpret.dna_annotation import Transcript, Variant, Window, read_transcripts, read_variants_in
from bmfm.interpret.dna_logos import glyph_symbols, logo_group
from bmfm.variants.contributions import Contributions
from bmfm.variants.sequence_sets import LETTERS

LEFT, ROW, LOGO = 110, 16, 90
"""Pixels: width of the words on the left, height of a row of boxes, height of a logo."""
STYLE = """
body{font:14px/1.45 system-ui,sans-serif;margin:2em;color:#222;background:#fff;max-width:none}
.wide{overflow-x:auto;border:1px solid #ddd;padding:6px 0}
table{border-collapse:collapse;margin:.6em 0}td,th{padding:2px 10px;text-align:left;border-bottom:1px solid #eee}
td.number{text-align:right;font-variant-numeric:tabular-nums}svg text{font:11px system-ui,sans-serif;fill:#333}
.zero,.axis{stroke:#999;stroke-width:.6}.exon{fill:#9bb4d4}.coding{fill:#33598f}.intron{stroke:#33598f;stroke-width:1}
.variant{stroke:#7a3b8f;stroke-width:1.2;fill:#7a3b8f}.positive{fill:#2a8c4a;opacity:.55}.negative{fill:#c8322b;opacity:.55}
"""


@dataclass
class Annotation:
    """What is shown beside contributions, of each sequence: its genes and variants; None where no file of them was given."""

    transcripts: list[list[Transcript]] | None = None
    variants: list[list[Variant]] | None = None


def annotate(contributions: Contributions, genes: str | Path | None, variants: str | Path | None) -> Annotation:
    """Genes of a GTF file and variants of a VCF in the regions of some contributions."""
    if genes is None and variants is None:
        return Annotation()
    of = contributions.sequences
    chrom, start = of.places(Path(str(genes or variants)))
    windows = [Window(c, int(s), int(s) + of.length) for c, s in zip(chrom, start, strict=True)]
    contigs = ContigNames(of.contigs)
    return Annotation(
        None if genes is None else read_transcripts(genes, windows, contigs),
        None if variants is None else read_variants_in(variants, windows, contigs),
    )


def write_report(
    path: str | Path,
    contributions: Contributions,
    about: str,
    seqlets: pd.DataFrame,
    annotation: Annotation,
    logos: Sequence[tuple[str, np.ndarray]] = (),
) -> None:
    """Write the page.

    Parameters
    ----------
    about
        A sentence on the model and the method.
    seqlets
        See `dna_seqlets.find_seqlets`.
    annotation
        See `annotate`.
    logos
        More logos above that of the contributions: words, and heights [n, 4, L].
    """
    sections = [
        _section(number, contributions, seqlets[seqlets["row"] == number], annotation, logos)
        for number in range(len(contributions.sequences))
    ]
    title = "Contributions of bases"
    Path(path).write_text(
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n'
        f"{glyph_symbols()}\n<h1>{title}</h1>\n<p>{escape(about)}</p>\n{''.join(sections)}</body>\n</html>\n"
    )


def _section(
    number: int, contributions: Contributions, seqlets: pd.DataFrame, annotation: Annotation, logos: Sequence[tuple[str, np.ndarray]]
) -> str:
    of = contributions.sequences
    first = 0 if of.start is None else int(of.start[number])
    drawing = _Tracks(of.length, first)
    drawing.axis(of.names[number] if of.chrom is None else of.chrom[number])
    if annotation.transcripts is not None:
        for transcript in annotation.transcripts[number]:
            drawing.transcript(transcript)
        if not annotation.transcripts[number]:
            drawing.words("no gene here")
    scored = []
    if annotation.variants is not None:
        scored = [(v, *score_of(contributions, number, v)) for v in annotation.variants[number]]
        drawing.variants([(v, score) for v, score, _ in scored])
    for words, heights in logos:
        drawing.logo(words, heights[number])
    drawing.logo(contributions.score, contributions.projected()[number])
    drawing.boxes("seqlets", seqlets)
    tables = _seqlet_table(seqlets, contributions, number, first)
    if annotation.variants is not None:
        tables += _variant_table(scored)
    return f'<h2>{escape(of.names[number])}</h2>\n<div class="wide">{drawing.svg()}</div>\n{tables}'


def score_of(contributions: Contributions, number: int, variant: Variant) -> tuple[float, str]:
    """How much more ALT contributes than REF, and a word where that is not known (NaN)."""
    of = contributions.sequences
    at = variant.position - (0 if of.start is None else int(of.start[number]))
    ref, alt = variant.ref.upper(), variant.alt.upper()
    if len(ref) != 1 or len(alt) != 1 or ref not in LETTERS or alt not in LETTERS:
        return np.nan, "no SNV"
    if of.bases[number, at] != LETTERS.index(ref):
        return np.nan, "REF is not what the genome has here"
    if contributions.resolution == "token":
        return np.nan, "tokens are longer than a base"
    of_base = contributions.hypothetical[number, :, at]
    return float(of_base[LETTERS.index(alt)] - of_base[LETTERS.index(ref)]), ""


def _variant_table(scored: list[tuple[Variant, float, str]]) -> str:
    rows = "".join(
        f'<tr><td class="number">{v.position + 1:,}</td><td>{escape(v.name)}</td><td>{escape(v.ref)}</td><td>{escape(v.alt)}</td>'
        f'<td class="number">{escape(word) if word else f"{score:.4g}"}</td></tr>'
        for v, score, word in scored
    )
    return f"<p>{len(scored):,} alleles</p>\n" + (
        f"<table><tr><th>position</th><th>id</th><th>REF</th><th>ALT</th><th>ALT less REF</th></tr>{rows}</table>\n" if rows else ""
    )


def _seqlet_table(seqlets: pd.DataFrame, contributions: Contributions, number: int, first: int) -> str:
    if seqlets.empty:
        return "<p>no seqlets</p>\n"
    bases = contributions.sequences.bases[number]
    rows = "".join(
        f'<tr><td class="number">{first + s.start + 1:,}-{first + s.end:,}</td><td>{"".join((LETTERS + "N")[b] for b in bases[s.start : s.end])}</td>'
        f'<td class="number">{s.contribution:.4g}</td></tr>'
        for s in seqlets.itertuples(index=False)
    )
    return f"<table><tr><th>seqlet</th><th>bases</th><th>contribution</th></tr>{rows}</table>\n"


@dataclass
class _Tracks:
    """A drawing that grows downwards; bases are `base_width` pixels wide."""

    length: int
    first: int
    parts: list[str] = field(default_factory=list)
    y: float = 0.0

    @property
    def base_width(self) -> float:
        return min(14.0, max(8.0, 1100 / self.length))

    def x(self, position: float) -> float:
        """Of a place in the genome, no further than the edges."""
        return LEFT + min(max(position - self.first, 0), self.length) * self.base_width

    def svg(self) -> str:
        width = LEFT + self.length * self.base_width + 10
        return f'<svg width="{width:g}" height="{self.y + 4:g}">{"".join(self.parts)}</svg>'

    def label(self, words: str, y: float) -> None:
        self.parts.append(f'<text x="{LEFT - 6}" y="{y:g}" text-anchor="end">{escape(words[:18])}<title>{escape(words)}</title></text>')

    def words(self, text: str) -> None:
        self.parts.append(f'<text x="{LEFT}" y="{self.y + 11:g}">{escape(text)}</text>')
        self.y += ROW

    def axis(self, name: str) -> None:
        """Positions from 1."""
        self.label(name, self.y + 12)
        step = next(s for s in (10, 20, 50, 100, 200, 500, 1000, 10**9) if s * self.base_width >= 90)
        for position in range(-(-(self.first + 1) // step) * step, self.first + self.length + 1, step):
            x = self.x(position - 0.5)
            self.parts.append(f'<line x1="{x:g}" x2="{x:g}" y1="{self.y + 15:g}" y2="{self.y + 20:g}" class="axis"/>')
            self.parts.append(f'<text x="{x:g}" y="{self.y + 12:g}" text-anchor="middle">{position:,}</text>')
        self.y += 24

    def transcript(self, transcript: Transcript) -> None:
        middle = self.y + ROW / 2
        arrow = {"+": " →", "-": " ←"}.get(transcript.strand, "")
        self.label(transcript.gene + arrow, middle + 4)
        title = f"<title>{escape(transcript.gene)} {escape(transcript.name)} ({escape(transcript.strand)})</title>"
        line = f'<line x1="{self.x(transcript.start):g}" x2="{self.x(transcript.end):g}" y1="{middle:g}" y2="{middle:g}" class="intron"/>'
        self.parts.append(f"<g>{title}{line}")
        for kind, intervals, height in (("exon", transcript.exons, 6), ("coding", transcript.coding, 11)):
            for start, end in intervals:
                width = self.x(end) - self.x(start)
                self.parts.append(
                    f'<rect x="{self.x(start):g}" y="{middle - height / 2:g}" width="{width:g}" height="{height}" class="{kind}"/>'
                )
        self.parts.append("</g>")
        self.y += ROW

    def variants(self, scored: list[tuple[Variant, float]]) -> None:
        """Pins whose height is the size of the score."""
        largest = max((abs(s) for _, s in scored if np.isfinite(s)), default=0.0) or 1.0
        self.label("variants", self.y + 24)
        for variant, score in scored:
            x, size = self.x(variant.position + 0.5), 4 + 22 * (abs(score) / largest if np.isfinite(score) else 0)
            words = f"{variant.position + 1:,} {variant.name} {variant.ref[:20]}>{variant.alt[:20]} {score:.4g}"
            self.parts.append(
                f'<g class="variant"><title>{escape(words)}</title><line x1="{x:g}" x2="{x:g}" y1="{self.y + 34:g}" y2="{self.y + 34 - size:g}"/>'
                f'<circle cx="{x:g}" cy="{self.y + 34 - size:g}" r="2.5"/></g>'
            )
        self.y += 40

    def logo(self, words: str, heights: np.ndarray) -> None:
        self.label(words, self.y + LOGO / 2)
        self.parts.append(f'<g transform="translate({LEFT},{self.y:g})">{logo_group(heights, self.base_width, LOGO)}</g>')
        self.y += LOGO + 8

    def boxes(self, words: str, seqlets: pd.DataFrame) -> None:
        self.label(words, self.y + 11)
        for s in seqlets.itertuples(index=False):
            x, end = self.x(self.first + s.start), self.x(self.first + s.end)
            kind = "positive" if s.contribution > 0 else "negative"
            self.parts.append(
                f'<rect x="{x:g}" y="{self.y + 2:g}" width="{end - x:g}" height="10" class="{kind}"><title>{s.contribution:.4g}</title></rect>'
            )
        self.y += ROW
