"""Small charts as SVG: lines of histograms, and bars."""

from collections.abc import Sequence
from html import escape

from jdiff.doctor.findings import PictureNumbers
from jdiff.doctor.words import number

WIDTH, HEIGHT, EDGE = 360, 120, 18
COLOURS = {1: ("#555",), 3: ("#c33", "#292", "#36c"), 4: ("#c33", "#292", "#36c", "#888")}
MOST_LINES = 4


def values(picture: PictureNumbers) -> str:
    """How often values are met, a line a channel; heights as square roots, so that rare ones are seen."""
    rows = picture.histogram[:MOST_LINES]
    colours = COLOURS.get(len(picture.histogram), COLOURS[4])
    most = max((max(row) for row in rows), default=0) or 1
    lines = []
    for row, colour in zip(rows, colours, strict=False):
        step = WIDTH / len(row)
        points = " ".join(
            f"{(i + 0.5) * step:.1f},{HEIGHT - (value / most) ** 0.5 * (HEIGHT - 4):.1f}" for i, value in enumerate(row)
        )
        lines.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
    return _svg(f"values of {picture.name}", "".join(lines), number(picture.low), number(picture.high))


def bars(title: str, counts: Sequence[float], low: str, high: str, names: Sequence[str] = ()) -> str:
    """A bar a count. low, high: what the first and the last bar stand for; names: what each does, shown on pointing."""
    most = max(counts, default=0) or 1
    step = WIDTH / max(len(counts), 1)
    drawn = []
    for i, count in enumerate(counts):
        height = count / most * (HEIGHT - 4)
        about = f"<title>{escape(names[i])}: {count:,.0f}</title>" if names else ""
        drawn.append(
            f'<rect x="{i * step + 0.1 * step:.2f}" y="{HEIGHT - height:.1f}" width="{0.8 * step:.2f}" '
            f'height="{height:.1f}" fill="#58a">{about}</rect>'
        )
    return _svg(title, "".join(drawn), low, high)


def _svg(title: str, drawn: str, low: str, high: str) -> str:
    base = HEIGHT + EDGE - 4
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT + EDGE}" role="img" aria-label="{escape(title)}">{drawn}'
        f'<line x1="0" y1="{HEIGHT}" x2="{WIDTH}" y2="{HEIGHT}" stroke="#999"/>'
        f'<text x="0" y="{base}">{escape(low)}</text>'
        f'<text x="{WIDTH}" y="{base}" text-anchor="end">{escape(high)}</text></svg>'
    )
