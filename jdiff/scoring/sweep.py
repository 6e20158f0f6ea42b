"""Many evaluations as one table, and as the curves that people look at."""

import csv
import io
import itertools
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from jdiff.common.errors import install
from jdiff.common.files import replace_file
from jdiff.common.processes import is_first_process
from jdiff.common.progress import say
from jdiff.evaluation.numbers import HIGHER, LOWER
from jdiff.scoring.report import valued
from jdiff.scoring.result import Result

Settings = Mapping[str, Any]
Row = tuple[Settings, Result]  # the settings that vary, and what they gave
TABLE = "sweep"
OF_WEIGHTS = {"checkpoint": 0, "ema": 1}  # keys of `sample` that say which weights, in the order of a sweep


def combinations(several: Sequence[tuple[str, Sequence[Any]]]) -> Iterator[dict[str, Any]]:
    """Each choice of a value for each key, as settings of a call, the first key's values changing last. What says which
    weights comes first of all, so that each are read once.
    """
    last = len(OF_WEIGHTS)
    ordered = sorted(several, key=lambda one: OF_WEIGHTS.get(one[0].removeprefix("sample."), last))
    names = [name.rpartition(".")[2] for name, _ in ordered]
    for values in itertools.product(*(values for _, values in ordered)):
        yield dict(zip(names, values, strict=True))


def name_of(settings: Settings) -> str:
    """A folder's name for these settings."""
    return ",".join(f"{name}={value}" for name, value in settings.items())


def write(out: Path, rows: Sequence[Row]) -> int:
    """sweep.csv, sweep.md and the plots; prints the table."""
    markdown = as_markdown(rows)
    say(f"\n{markdown}")
    if not is_first_process():
        return 0
    replace_file(out / f"{TABLE}.csv", as_csv(rows))
    replace_file(out / f"{TABLE}.md", markdown)
    written = [out / f"{TABLE}.csv", out / f"{TABLE}.md"]
    if find_spec("matplotlib") is None:
        say(f"no plots without matplotlib: {install('plot')}, and the same command draws them")
    else:
        from jdiff.scoring import plots

        written += plots.draw(out, rows)
    say("\n".join(f"sweep: {file}" for file in written))
    return 0


def as_csv(rows: Sequence[Row]) -> str:
    """A line a combination: settings, calls, then each number with its error, to all digits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names, numbers = list(rows[0][0]), _numbers(rows)
    writer.writerow([*names, "nfe", "passes", *(column for name in numbers for column in (name, f"{name}_error"))])
    for settings, result in rows:
        known = {one.name: (one.value, "" if one.error is None else one.error) for one in result.numbers}
        sampling = result.facts["sampling"]
        values = itertools.chain.from_iterable(known.get(name, ("", "")) for name in numbers)
        writer.writerow([*settings.values(), sampling["nfe"], sampling["passes"], *values])
    return text.getvalue()


def as_markdown(rows: Sequence[Row]) -> str:
    """A row a combination, and under it the protocol."""
    names, numbers = list(rows[0][0]), _numbers(rows)
    titles = {one.name: one.title for _, result in rows for one in result.numbers}
    head = [*names, "NFE", *(titles[name] for name in numbers)]
    lines = [f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    for settings, result in rows:
        known = {one.name: valued(one) for one in result.numbers}
        calls = result.facts["sampling"]["nfe"] or "adaptive"
        cells = [*map(str, settings.values()), str(calls), *(known.get(name, "") for name in numbers)]
        lines.append(f"| {' | '.join(cells)} |")
    facts = rows[0][1].facts
    better = {one.name: one.better for _, result in rows for one in result.numbers}
    ways = [
        f"{way} is better: {', '.join(titles[name] for name in numbers if better[name] == way)}"
        for way in (LOWER, HIGHER)
        if way in better.values()
    ]
    lines += ["", "; ".join(ways)] if ways else []
    lines += [
        "",
        f"protocol: {facts['protocol']['name']}: {facts['protocol']['about']}; {facts['count']:,} images each",
    ]
    return "\n".join(lines) + "\n"


def _numbers(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(one.name for _, result in rows for one in result.numbers))
