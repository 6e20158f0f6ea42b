"""Quality against denoiser calls as PNG, told apart by dashes and markers, so that it reads in black and white."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # no display

from matplotlib import pyplot as plt

from jdiff.tuning import choices
from jdiff.tuning.search import Found
from jdiff.tuning.trials import Score


def draw(path: Path, several: Sequence[Found], reference: Score) -> Path:
    """The tuned settings, the usual ones and the config's own, against calls; the fine reference across."""
    figure, axes = plt.subplots(figsize=(6.4, 4.4), layout="constrained")
    curves = [
        ("dpmpp_2m, ladder auto", "--", "s", "0.35", [found.usual for found in several]),
        ("the run's own sampler", ":", "^", "0.6", [found.own for found in several if found.own]),
        ("tuned", "-", "o", "0.0", [found.best for found in several]),
    ]
    for label, style, marker, grey, scores in curves:
        if scores:
            errors = [one.error or 0.0 for one in scores]
            look: dict[str, Any] = {"linestyle": style, "marker": marker, "color": grey, "label": label}
            axes.errorbar(
                [one.calls for one in scores],
                [one.value for one in scores],
                yerr=errors,
                markersize=5,
                capsize=2,
                **look,
            )
    label = f"{reference.calls} calls, {choices.guidance_in_words(reference.settings)}"
    axes.axhline(reference.value, linestyle=(0, (1, 3)), color="0.5", linewidth=1, label=label)
    axes.set_xscale("log", base=2)
    ticks = sorted({found.calls for found in several})
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("NFE")
    axes.set_ylabel(several[0].best.title)
    axes.set_title(f"{several[0].best.count:,} images each", fontsize=9)
    axes.grid(visible=True, color="0.9")
    axes.legend(fontsize=8, frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return path
