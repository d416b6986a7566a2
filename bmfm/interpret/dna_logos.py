"""Logos as SVG, small enough to stand in a page."""

import numpy as np

from bmfm.variants.sequence_sets import LETTERS

COLOURS = {"A": "#2a8c4a", "C": "#2b5fa8", "G": "#d98b0b", "T": "#c8322b"}
_ROUND = "M1,.34C.95,.12 .75,0 .52,0C.2,0 0,.2 0,.5C0,.8 .2,1 .52,1"
_INSIDE = "C.33,.82 .22,.7 .22,.5C.22,.3 .33,.18 .52,.18C.65,.18 .74,.25 .78,.38Z"
GLYPHS = {
    "A": "M0,1L.4,0H.6L1,1H.79L.71,.77H.29L.21,1ZM.35,.6H.65L.5,.18Z",
    "C": f"{_ROUND}C.75,1 .95,.88 1,.66L.78,.62C.74,.75 .65,.82 .52,.82{_INSIDE}",
    "G": f"{_ROUND}C.72,1 .9,.92 1,.78V.46H.54V.63H.79V.7C.73,.78 .63,.82 .52,.82{_INSIDE}",
    "T": "M0,0H1V.19H.61V1H.39V.19H0Z",
}
"""Outlines of the letters in a square of 1, the y axis pointing down."""


def glyph_symbols() -> str:
    """Definitions of the letters, which every SVG of the same page may use."""
    symbols = "".join(
        f'<symbol id="base-{letter}" viewBox="0 0 1 1" preserveAspectRatio="none"><path d="{path}" fill="{COLOURS[letter]}" fill-rule="evenodd"/></symbol>'
        for letter, path in GLYPHS.items()
    )
    return f'<svg width="0" height="0" style="position:absolute" aria-hidden="true"><defs>{symbols}</defs></svg>'


def logo_group(heights: np.ndarray, base_width: float, height: float) -> str:
    """A ``<g>`` of letters at heights [4, L] in a box of ``L * base_width`` by `height` pixels, the zero line where it falls.

    Letters of positive height are stacked upwards from zero, the smallest first, those of negative height downwards.
    """
    above = float(np.maximum(heights, 0).sum(0).max(initial=0))
    below = float(np.minimum(heights, 0).sum(0).min(initial=0))
    scale = height / ((above - below) or 1.0)
    zero = above * scale
    parts = [f'<line x1="0" x2="{heights.shape[1] * base_width:g}" y1="{zero:.2f}" y2="{zero:.2f}" class="zero"/>']
    for at in np.flatnonzero(np.abs(heights).max(0, initial=0) * scale >= 0.05):
        top, bottom = zero, zero
        for channel in np.argsort(np.abs(heights[:, at]), kind="stable"):
            size = float(heights[channel, at]) * scale
            if abs(size) < 0.05:
                continue
            top -= max(size, 0)
            y = top if size > 0 else bottom
            bottom += max(-size, 0)
            parts.append(
                f'<use href="#base-{LETTERS[channel]}" x="{at * base_width:g}" y="{y:.2f}" width="{base_width:g}" height="{abs(size):.2f}"/>'
            )
    return f"<g>{''.join(parts)}</g>"
