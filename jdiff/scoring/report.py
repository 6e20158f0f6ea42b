"""Results in words: a table for a terminal, JSON, and a card for whoever finds the model."""

import json
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jdiff.common.errors import UserError
from jdiff.common.files import replace_file
from jdiff.evaluation.numbers import HIGHER, LOWER, Number
from jdiff.scoring.pictures import GRID_FILE, PAIRS_FILE
from jdiff.scoring.result import Result, of_plain

FILE, CARD = "evaluation.json", "card.md"
BETTER = {LOWER: "lower is better", HIGHER: "higher is better", "": ""}
WORST = 3  # classes named in a card


def table(result: Result) -> str:
    """The numbers, a line each with what it is and which way is better; then all that they mean nothing without."""
    given = lines(result.numbers, result.left_out)
    return "\n".join([*given, "", *(_wrapped(line, 4) for line in context(result.facts))])


def lines(numbers: Sequence[Number], left_out: Sequence[str]) -> list[str]:
    """The numbers, a line each with what it is and which way is better."""
    widths = [max(len(one.title) for one in numbers), max(len(valued(one)) for one in numbers)]
    made = []
    for one in numbers:
        head = f"{one.title:<{widths[0]}}  {valued(one):>{widths[1]}}  {BETTER[one.better]:<16}  "
        made.append(_wrapped(f"{head}{one.about}{f' ({one.note})' if one.note else ''}", len(head)))
    return [*made, *(_wrapped(f"left out: {reason}", 4) for reason in left_out)]


def _wrapped(line: str, indent: int) -> str:
    """A line as several of the terminal's width, the later ones indented."""
    width = max(80, min(120, shutil.get_terminal_size((110, 24)).columns))
    return textwrap.fill(line, width, subsequent_indent=" " * indent, drop_whitespace=True, break_on_hyphens=False)


def valued(number: Number) -> str:
    """A value with its error, to two digits of it."""
    value, error = number.value, number.error
    if error is None or not error > 0:
        return f"{value:.4g}"
    digits = max(0, min(8, 1 - _exponent(error)))
    return f"{value:.{digits}f} ± {error:.{digits}f}"


def _exponent(value: float) -> int:
    return int(f"{value:e}".partition("e")[2])


def context(facts: Mapping[str, Any]) -> list[str]:
    """The protocol, and what was measured of what, a line each."""
    protocol, reference = facts["protocol"], facts["reference"]
    accuracy = protocol.get("classifier_accuracy")
    departs = f"; but here {protocol['departs']}: published numbers do not compare" if protocol["departs"] else ""
    against = f"{reference['count']:,} images" if reference["count"] else "an unknown number of images"
    lines = [
        f"protocol: {protocol['name']}: {protocol['about']}{departs}",
        f"reference: {against} of {reference['place']}",
        *([f"classifier: it reads {accuracy:.1%} of the held-out images right"] if accuracy is not None else []),
    ]
    if "images" in facts:
        return [f"images: {facts['count']:,} of {facts['images']['place']}", *lines]
    sampling = facts["sampling"]
    calls = f"NFE {sampling['nfe']}, {sampling['passes']} network passes" if sampling["nfe"] else "adaptive steps"
    mixed = f", conditions {sampling['class_mix']}" if sampling["class_mix"] else ""
    seeds = ", ".join(map(str, facts["seeds"]))
    scale = sampling["guidance_scale"] if sampling["guided"] else "none"
    scale = "a scale an image" if isinstance(scale, list) else scale
    count, members = f"{facts['count']:,}", facts.get("members")
    what = f"masks of {count} held-out images, {members} members of each" if members else f"images: {count}"
    return [
        f"{what} drawn by {sampling['sampler']}, {sampling['steps']} steps, {calls}, guidance "
        f"{scale}{mixed}, seed {seeds}, step {facts['checkpoint']['step']:,}{_average(facts)}",
        *lines,
        f"±: how sure a number is ({FILE} says of what kind); numbers of other features or counts do not compare",
    ]


def _average(facts: Mapping[str, Any]) -> str:
    """The width of the weights' average, where it is not the ordinary one."""
    width = facts["checkpoint"].get("ema")
    return f", average of width {width:g}" if width else ""


def write(out: Path, result: Result, identity: Mapping[str, Any], config: Mapping[str, Any], command: str) -> None:
    """evaluation.json and card.md. identity: all that decides the numbers, by which the same request is known."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        held = {**result.plain(), "identity": dict(identity)}
        replace_file(out / FILE, json.dumps(held, indent=1, default=float) + "\n")
        replace_file(out / CARD, card(result, config, command))
    except OSError as error:
        raise UserError(f"cannot write to {out}: {error.strerror}; give another folder with --out") from error


def read(out: Path, identity: Mapping[str, Any]) -> Result | None:
    """The result that is there already, where it is of this very request."""
    try:
        held = json.loads((out / FILE).read_text("utf-8"))
        if held.pop("identity") != json.loads(json.dumps(identity)):
            return None
        return of_plain(held)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def card(result: Result, config: Mapping[str, Any], command: str) -> str:
    """A model card in Markdown. config: the run's; empty where there is no run."""
    facts = result.facts
    data = config.get("data", {})
    what = "A model of the masks" if "members" in facts else "A diffusion model"
    title = f"{what} of {data.get('name', facts['data']['name'])}" if "sampling" in facts else "A set of images"
    parts = [f"# {title}", *_recipe(facts, config)]
    parts += [
        "## Numbers",
        "| number | value | | what it is |\n| --- | --- | --- | --- |\n"
        + "\n".join(
            f"| {one.title} | {valued(one)} | {BETTER[one.better]} | {one.about}{'; ' + one.note if one.note else ''} |"
            for one in result.numbers
        ),
        "\n".join(f"- {line}" for line in [*context(facts), *(f"left out: {why}" for why in result.left_out)]),
        f"![images]({facts.get('picture', GRID_FILE)})",
        "## What it is not good at",
        "\n".join(f"- {line}" for line in weaknesses(result)),
        "## The command that repeats it",
        f"```bash\n{command}\n```",
        f"Made with {', '.join(f'{name} {version}' for name, version in facts['versions'].items())}.",
    ]
    return "\n\n".join(parts) + "\n"


def _recipe(facts: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    if "sampling" not in facts:
        return [f"{facts['count']:,} images of {facts['images']['place']}."]
    data, train, model = config["data"], config["train"], config["model"]
    height, width, channels = data["shape"]
    given = ", ".join(model["conditions"]) or "nothing"
    averaged = _average(facts).removeprefix(", average ") or f"half-life {train['ema_halflife_images']:,} images"
    return [
        "## What was trained on what",
        f"- data: {data['name']}{' in ' + data['dir'] if data['dir'] else ''}, {data['num_images']:,} training "
        f"images of {height}x{width}x{channels}"
        + (f", {len(data['class_names'])} classes" if data["class_names"] else "")
        + f" (fingerprint {data['fingerprint']})\n"
        f"- conditioned on: {given}\n"
        f"- network: {config['network']['name']}; prediction {model['prediction']}, schedule {model['schedule']}\n"
        f"- training: {facts['checkpoint']['step']:,} steps of {train['batch_size']} images, {train['optimizer']} at "
        f"{train['learning_rate']:g}, averaged weights ({averaged}), seed {config['seed']}",
    ]


def weaknesses(result: Result) -> list[str]:
    """What the numbers say against the model."""
    numbers = {one.name: one for one in result.numbers}
    lines = []
    if copies := numbers.get("memorised"):
        expected = copies.by_chance or 0.0
        many, guided = copies.value > expected + 3 * (copies.error or 0), result.facts.get("sampling", {}).get("guided")
        lines.append(
            f"Copies: {copies.value:.1%} of its images lie as near to a training image as {expected:.1%} of unseen "
            "images do"
            + (f", more than chance gives: look at {PAIRS_FILE} before you publish any." if many else ".")
            + (" Guidance alone can do that: compare with guidance_scale=1." if many and guided else "")
        )
    if result.by_class:
        worst = sorted(result.by_class.items(), key=lambda one: -one[1])[:WORST]
        named = ", ".join(f"{name} ({value:.3g})" for name, value in worst)
        lines.append(f"Worst classes by their own distance: {named}.")
    if accuracy := numbers.get("accuracy"):
        lines.append(f"{1 - accuracy.value:.1%} of its images are read as another class than was asked for.")
    if recall := numbers.get("recall"):
        lines.append(f"Variety: {1 - recall.value:.1%} of the reference lies outside what it draws (recall).")
    if precision := numbers.get("precision"):
        lines.append(f"Quality: {1 - precision.value:.1%} of its images lie outside the reference (precision).")
    lines.append("Whatever is not in its training images; and these numbers say nothing of biases that are.")
    return lines
