"""Drawings of a report, as SVG."""

import math
from html import escape
from typing import NamedTuple

from bmfm.evaluation.report.comparison import (
    COLOURS,
    GREY,
    MODE_COLOURS,
    ComparedMethod,
    Comparison,
    Score,
    TaskScores,
    score_matrix,
)
from bmfm.evaluation.report.tables import (
    mean_of,
    peak_memory,
    scroll,
)


def svg(width: float, height: float, label: str, inner: str, wide: bool = False) -> str:
    """A drawing that grows with its box, up to its own size; a `wide` one keeps its size, in a box that scrolls."""
    size = f'style="max-width:{width:.0f}px' + (f";min-width:{width:.0f}px" if wide else "") + '"'
    return f'<svg viewBox="0 0 {width:.0f} {height:.0f}" {size} role="img" aria-label="{escape(label)}">{inner}</svg>'


def text(x: float, y: float, content: str, anchor: str = "start", limit: int = 44) -> str:
    """A line of text, cut at `limit` characters."""
    short = content if len(content) <= limit else content[: limit - 1] + "…"
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(short)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, kind: str = "ink") -> str:
    return f'<path class="{kind}" d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}"/>'


class Bar(NamedTuple):
    """A bar of a drawing: what it is of, its length with an interval, its colour."""

    name: str
    score: Score
    colour: str


def bars(task: TaskScores, methods: list[ComparedMethod]) -> str:
    """A bar a method with the whisker of its interval, on an axis that begins at zero."""
    shown = [Bar(str(m), task.scores[m], MODE_COLOURS.get(m.mode, GREY)) for m in methods if m in task.scores]
    metric = task.description
    return bar_panel(shown, metric.low, metric.high, f"{task.name}: {task.words} of {len(shown)} methods")


def bar_panel(shown: list[Bar], lowest: float, highest: float, label: str, mark: float | None = None) -> str:
    """Bars with whiskers on an axis that begins at zero, or at the least value where values are negative.

    Parameters
    ----------
    lowest, highest
        The range of what is drawn; an end that is infinite is that of the values.
    mark
        Where a line crosses all bars, as at what is possible at most.
    """
    ends = [v for bar in shown for v in (bar.score.mean, bar.score.low, bar.score.high) if math.isfinite(v)]
    ends += [] if mark is None else [mark]
    low, high = max(min(0.0, *ends), lowest), highest if math.isfinite(highest) else max(*ends, 1e-9)

    def at(value: float) -> float:
        return 4 + 332 * (min(max(value, low), high) - low) / (high - low or 1.0)

    parts = []
    for i, (name, score, colour) in enumerate(shown):
        y = 12 + 34 * i
        x, width = min(at(0), at(score.mean)), abs(at(score.mean) - at(0))
        parts.append(text(4, y, name, limit=36) + text(336, y, f"{score.mean:.3f}" + "†" * bool(score.n_failed), "end"))
        parts.append(f'<rect x="{x:.1f}" y="{y + 5}" width="{width:.1f}" height="10" fill="{colour}"/>')
        if math.isfinite(score.low):
            a, b = at(score.low), at(score.high)
            parts.append(line(a, y + 10, b, y + 10) + line(a, y + 6, a, y + 14) + line(b, y + 6, b, y + 14))
    end = 34 * len(shown) + 2
    parts.append(line(at(0), 16, at(0), end, "axis"))
    parts += [] if mark is None else [line(at(mark), 8, at(mark), end)]
    parts += [text(at(v), end + 12, f"{v:.3g}", anchor) for v, anchor in {low: "start", high: "end"}.items()]
    return svg(340, end + 16, label, "".join(parts))


class RankTest(NamedTuple):
    """Friedman's p, and the difference of mean ranks that Nemenyi's test asks for at 5%."""

    p: float
    critical_difference: float


def rank_test(c: Comparison) -> RankTest | None:
    """None with fewer than five tasks or three methods that have them all."""
    from scipy.stats import friedmanchisquare, studentized_range

    n, k = len(c.tasks), len(c.ranks)
    if n < 5 or k < 3:
        return None
    by_method = list(zip(*score_matrix(c.tasks, list(c.ranks)), strict=True))
    p = math.nan if len(set(by_method)) == 1 else float(friedmanchisquare(*by_method).pvalue)
    return RankTest(p, float(studentized_range.ppf(0.95, k, math.inf)) * math.sqrt(k * (k + 1) / (12 * n)))


def rank_sentence(c: Comparison, test: RankTest | None) -> str:
    n, k = len(c.tasks), len(c.ranks)
    if test is None:
        return (
            f"Mean ranks of the {k} methods with all {n} tasks, without a test: Friedman's and Nemenyi's want at least 5 tasks "
            "and 3 methods."
        )
    differ = "the methods are not all alike" if test.p < 0.05 else "no difference between methods is shown"
    return (
        f"Critical-difference diagram of the {k} methods with all {n} tasks. Friedman's test: p = {test.p:.3g}, {differ}. "
        f"Methods joined by a bar are not told apart: their mean ranks are closer than {test.critical_difference:.2f} (Nemenyi, 5%)."
    )


def rank_plot(c: Comparison, test: RankTest | None) -> str:
    """Mean ranks, best first; with a test as a critical-difference diagram."""
    ranked = sorted(c.ranks.items(), key=lambda item: item[1])
    return _critical_difference_diagram(ranked, test.critical_difference) if test else _rank_dots(ranked)


def _rank_dots(ranked: list[tuple[ComparedMethod, float]]) -> str:
    k = len(ranked)
    parts = [line(4, 34 * k + 4, 336, 34 * k + 4, "axis")]
    for i, (e, rank) in enumerate(ranked):
        x, y = 10 + 320 * (rank - 1) / (k - 1), 14 + 34 * i
        parts += [text(4, y, str(e), limit=40), text(336, y, f"{rank:.2f}", "end"), line(4, y + 10, 336, y + 10, "grid")]
        parts.append(f'<circle cx="{x:.1f}" cy="{y + 10}" r="5" fill="{MODE_COLOURS.get(e.mode, GREY)}"/>')
    parts += [text(10 + 320 * i / (k - 1), 34 * k + 18, str(i + 1), "middle") for i in range(k)]
    return svg(340, 34 * k + 24, "mean ranks", "".join(parts))


def _critical_difference_diagram(ranked: list[tuple[ComparedMethod, float]], difference: float) -> str:
    """After Demšar 2006: the better half is named at the left, the other at the right; bars join those not told apart."""
    k, half = len(ranked), (len(ranked) + 1) // 2
    groups = _level_groups([rank for _, rank in ranked], difference)
    left, right, axis = 250.0, 510.0, 50.0
    top = axis + 14 + 9 * len(groups)

    def at(rank: float) -> float:
        return left + (right - left) * (rank - 1) / (k - 1)

    end = min(at(1 + difference), right)
    parts = [text(left, 13, f"critical difference {difference:.2f}"), line(left, axis, right, axis, "axis")]
    parts += [line(left, 22, end, 22), line(left, 18, left, 26), line(end, 18, end, 26)]
    parts += [line(at(i), axis - 5, at(i), axis, "axis") + text(at(i), axis - 9, str(i), "middle") for i in range(1, k + 1)]
    parts += [line(at(a) - 3, axis + 10 + 9 * i, at(b) + 3, axis + 10 + 9 * i, "thick") for i, (a, b) in enumerate(groups)]
    for i, (e, rank) in enumerate(ranked):
        row, edge, anchor, name = (i, 4, "start", f"{rank:.2f}  {e}") if i < half else (k - 1 - i, 756, "end", f"{e}  {rank:.2f}")
        y = top + 24 * row + 16
        parts += [line(at(rank), axis, at(rank), y), line(at(rank), y, edge, y), text(edge, y - 4, name, anchor, 38)]
    label = "critical-difference diagram"
    return scroll(svg(760, top + 24 * half + 8, label, "".join(parts), wide=True), label)


def _level_groups(ranks: list[float], difference: float) -> list[tuple[float, float]]:
    """Longest runs of sorted ranks within the difference, of two or more."""
    groups: list[tuple[int, int]] = []
    for i in range(len(ranks)):
        j = max(j for j in range(i, len(ranks)) if ranks[j] - ranks[i] <= difference)
        if j > i and (not groups or j > groups[-1][1]):
            groups.append((i, j))
    return [(ranks[i], ranks[j]) for i, j in groups]


def cost_plots(c: Comparison) -> list[str]:
    """Mean of each metric against seconds and memory, on logarithmic axes; numbers are those of the table."""
    plots = []
    for metric, means in c.means.items():
        for what, cost in (("seconds a run", lambda rs: mean_of(rs, "seconds")), ("peak memory, GiB", peak_memory)):
            points = [(i, e, cost(c.records[e]), means[e].mean) for i, e in enumerate(c.methods, 1) if e in means]
            drawn = [(i, e, math.log10(x), y) for i, e, x, y in points if x]
            if len(drawn) > 1:
                plots.append(_scatter(drawn, what, f"{c.in_words(metric)}, mean"))
    return plots


def _scatter(points: list[tuple[int, ComparedMethod, float, float]], across: str, up: str) -> str:
    x0 = math.floor(min(p[2] for p in points))
    x1 = max(math.ceil(max(p[2] for p in points)), x0 + 1)
    ys = [p[3] for p in points]
    margin = 0.12 * (max(ys) - min(ys)) or 0.05
    y0, y1 = min(ys) - margin, max(ys) + margin
    parts = [line(46, 26, 46, 212, "axis"), line(46, 212, 330, 212, "axis"), text(4, 14, up), text(330, 246, across, "end")]
    for power in range(x0, x1 + 1):
        x = 46 + 284 * (power - x0) / (x1 - x0)
        parts += [line(x, 212, x, 26, "grid"), text(x, 228, f"{10.0**power:g}", "middle")]
    parts += [text(42, 216, f"{y0:.3f}", "end"), text(42, 34, f"{y1:.3f}", "end")]
    for number, e, cost, quality in points:
        x, y = 46 + 284 * (cost - x0) / (x1 - x0), 212 - 182 * (quality - y0) / (y1 - y0)
        dot = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{MODE_COLOURS.get(e.mode, GREY)}"/>'
        parts.append(f"<g><title>{escape(str(e))}</title>{dot}{text(x + 8, y - 5, str(number))}</g>")
    return svg(340, 252, f"{up} against {across}", "".join(parts))


def umap_panel(points: dict, by: str) -> str:
    """Points of an embedding, coloured by `by`: six colours, round then square; what is left is grey."""
    groups: dict[str, list[str]] = {}
    span = [(min(points[a]), (max(points[a]) - min(points[a])) or 1) for a in ("x", "y")]
    for x, y, name in zip(points["x"], points["y"], points[by], strict=True):
        place = f"M{6 + 328 * (x - span[0][0]) / span[0][1]:.1f} {294 - 288 * (y - span[1][0]) / span[1][1]:.1f}h0"
        groups.setdefault(str(name), []).append(place)
    names = sorted(groups, key=lambda n: -len(groups[n]))
    styles = {n: (COLOURS[i % 6], "round" if i < 6 else "square") for i, n in enumerate(names[:12])}
    drawn, legend = "", ""
    for name in reversed(names):
        colour, cap = styles.get(name, (GREY, "round"))
        drawn += f'<path d="{"".join(groups[name])}" stroke="{colour}" stroke-linecap="{cap}" class="points {cap}"/>'
    for name in names[:12]:
        colour, cap = styles[name]
        legend += f'<span class="key"><i class="{cap}" style="background:{colour}"></i>{escape(name)}</span>'
    if len(names) > 12:
        legend += f'<span class="key"><i class="round" style="background:{GREY}"></i>{len(names) - 12} others</span>'
    return f"{svg(340, 300, f'UMAP by {by}', drawn)}<p class=legend>{legend}</p>"
