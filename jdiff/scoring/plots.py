"""The curves of a sweep as PNG, told apart by dashes and markers, so that they read in black and white."""

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # no display

import numpy as np
from matplotlib import pyplot as plt

from jdiff.metrics.calibration import Calibration
from jdiff.scoring.sweep import Row

STYLES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "x")
GREYS = ("0.0", "0.35", "0.6")


def draw(out: Path, rows: Sequence[Row]) -> list[Path]:
    """The files written: quality against NFE, against guidance and against the average's width, where these vary;
    precision against recall, where these are known.
    """
    first = rows[0][1].numbers[0]
    written = []
    if len({_calls(row) for row in rows} - {None}) > 1:
        written.append(_curves(out / "quality_nfe.png", rows, _calls, "steps", "NFE", first.name, first.title))
    if len({row[0].get("guidance_scale") for row in rows}) > 1:
        scale = "guidance_scale"
        written.append(
            _curves(
                out / "quality_guidance.png",
                rows,
                lambda row: row[0][scale],
                scale,
                "guidance scale",
                first.name,
                first.title,
            )
        )
    if len({row[0].get("ema") or None for row in rows}) > 1:
        name, title = "quality_ema.png", "relative width of the weights' average"
        written.append(
            _curves(out / name, rows, lambda row: row[0]["ema"] or None, "ema", title, first.name, first.title)
        )
    if all({"precision", "recall"} <= {one.name for one in result.numbers} for _, result in rows):
        varies = "guidance_scale" if "guidance_scale" in rows[0][0] else "steps"
        written.append(
            _curves(
                out / "precision_recall.png",
                rows,
                lambda row: row[1]["recall"],
                varies,
                "recall",
                "precision",
                "precision",
            )
        )
    return written


def _calls(row: Row) -> Any:
    return row[1].facts["sampling"]["nfe"]


def _curves(path: Path, rows: Sequence[Row], x: Any, along: str, x_label: str, number: str, y_label: str) -> Path:
    """A curve for each choice of the settings but `along`."""
    lines: dict[str, list[Row]] = {}
    for row in rows:
        rest = ", ".join(f"{name} {value}" for name, value in row[0].items() if name != along)
        lines.setdefault(rest, []).append(row)
    figure, axes = plt.subplots(figsize=(6.4, 4.4), layout="constrained")
    looks = zip(cycle(STYLES), cycle(MARKERS), cycle(GREYS), strict=False)
    for (label, points), (style, marker, grey) in zip(lines.items(), looks, strict=False):
        known = [point for point in points if x(point) is not None]
        known = known if x_label == "recall" else sorted(known, key=x)
        values = [next(one for one in point[1].numbers if one.name == number) for point in known]
        axes.errorbar(
            [x(point) for point in known],
            [one.value for one in values],
            yerr=[one.error or 0.0 for one in values],
            linestyle=style,
            marker=marker,
            color=grey,
            markersize=5,
            capsize=2,
            label=label or None,
        )
    if x_label == "NFE":
        axes.set_xscale("log", base=2)
        ticks = sorted({x(row) for row in rows if x(row) is not None})
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.minorticks_off()
    facts = rows[0][1].facts
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.set_title(
        f"{facts['data']['name']}, protocol {facts['protocol']['name']}, {facts['count']:,} images", fontsize=9
    )
    axes.grid(visible=True, color="0.9")
    if len(lines) > 1:
        axes.legend(fontsize=8, frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return path


def reliability(path: Path, found: Calibration) -> None:
    """How often what is told with a probability comes true, a point a bin; its size tells how many pixels."""
    curve = found.curve
    figure, axes = plt.subplots(figsize=(4.4, 4.4), layout="constrained")
    axes.plot([0, 1], [0, 1], linestyle=":", color="0.6")
    known = curve.pixels > 0
    sizes = 10 + 90 * np.sqrt(curve.pixels[known] / curve.pixels.max())
    axes.plot(curve.confidence[known], curve.accuracy[known], color="0.0")
    axes.scatter(curve.confidence[known], curve.accuracy[known], s=sizes, color="0.0")
    axes.set(xlabel="probability", ylabel="share that comes true", xlim=(0, 1), ylim=(0, 1))
    axes.set_title(f"ECE {found.error:.4f}")
    figure.savefig(path, dpi=150)
    plt.close(figure)
