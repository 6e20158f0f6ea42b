"""What tuning found: tuned.json, a table and a plot."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from jdiff.common.errors import install
from jdiff.common.files import replace_file
from jdiff.common.progress import say
from jdiff.from_config.presets import FILE
from jdiff.tuning import choices
from jdiff.tuning.search import Found, told
from jdiff.tuning.trials import Score

TABLE, PLOT = "table.md", "tuned.png"


def plain(found: Found, reference: Score | None) -> dict[str, Any]:
    """A budget's entry of tuned.json. reference: of many calls; None where it is not measured yet."""
    best = found.best
    return {
        "settings": dict(best.settings),
        "about": choices.in_words(best.settings),
        "calls": best.calls,
        "passes": best.passes,
        "distance": _distance(best),
        "default": {"settings": dict(found.usual.settings), **_distance(found.usual)},
        "own": {"settings": dict(found.own.settings), **_distance(found.own)} if found.own else None,
        "fine": reference.plain() if reference else None,
        "won_back": won_back(found, reference) if reference else None,
        "finals": [one.plain() for one in found.finals],
        "tried": [one.plain() for one in found.tried],
    }


def won_back(found: Found, reference: Score) -> float | None:
    """The share of what lies between the usual setting and the fine reference that the tuned one wins; None where
    nothing lies between.
    """
    between = found.usual.rank - reference.rank
    return (found.usual.rank - found.best.rank) / between if between > 0 else None


def tell_of_other_weights(out: Path, facts: Mapping[str, Any]) -> None:
    """Say that budgets which were tuned before will be replaced, where they are of other weights."""
    if (out / FILE).is_file() and not _before(out, facts):
        say(f"what {out / FILE} holds was tuned for other weights, and will be replaced")


def keep(
    out: Path,
    facts: Mapping[str, Any],
    told: Mapping[str, Any],
    several: Sequence[Found],
    reference: Score | None = None,
) -> None:
    """Add budgets to tuned.json. facts: of the weights; what was tuned before for the same ones stays. told: how the
    budgets were judged.
    """
    entries = {str(found.calls): {**plain(found, reference), **told} for found in several}
    budgets = {**_before(out, facts), **entries}
    ordered = {name: budgets[name] for name in sorted(budgets, key=int)}
    replace_file(out / FILE, json.dumps({**facts, "budgets": ordered}, indent=2) + "\n")


def _before(out: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
    with suppress(OSError, ValueError, TypeError, KeyError):
        held = json.loads((out / FILE).read_text("utf-8"))
        if {name: held.get(name) for name in facts} == dict(facts):
            return dict(held["budgets"])
    return {}


def write(
    out: Path, facts: Mapping[str, Any], told: Mapping[str, Any], several: Sequence[Found], reference: Score
) -> None:
    """Write all three to the folder and print the table."""
    keep(out, facts, told, several, reference)
    text = table(several, reference)
    replace_file(out / TABLE, text)
    say(f"\n{text}")
    files = [out / FILE, out / TABLE]
    if find_spec("matplotlib") is None:
        say(f"no plot without matplotlib: {install('plot')}, and the same command draws it")
    else:
        from jdiff.tuning import plots

        files.append(plots.draw(out / PLOT, several, reference))
    say("\n".join(f"tuned: {file}" for file in files))


def table(several: Sequence[Found], reference: Score) -> str:
    """A row a budget, and the fine reference under them."""
    title = several[0].best.title
    head = ["NFE", "network passes", "tuned", title, "default", f"{title} of default", "won back"]
    lines = [f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    for found in several:
        share = won_back(found, reference)
        cells = [
            str(found.best.calls),
            str(found.best.passes),
            choices.in_words(found.best.settings),
            told(found.best),
            choices.in_words(found.usual.settings),
            told(found.usual),
            "" if share is None else f"{share:.0%}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    cells = [str(reference.calls), str(reference.passes), "", "", choices.in_words(reference.settings)]
    lines.append(f"| {' | '.join([*cells, told(reference), ''])} |")
    lines += [
        "",
        f"{several[0].best.count:,} images each, of a seed that decided nothing before; ± a standard error over images",
    ]
    return "\n".join(lines) + "\n"


def _distance(score: Score) -> dict[str, Any]:
    whole = score.plain()
    return {
        name: whole[name]
        for name in ("name", "title", "value", "error", "interval", "count", "seed", "calls", "passes")
    }
