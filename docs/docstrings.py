"""The docstrings of jdiff as reStructuredText: they are plain text, with formulas indented."""

import re

WORDS = re.compile(r"`+([^`]+)`+")
SPECIAL = re.compile(r"([*|]|(?<=\w)_(?=\W|$))")


def as_rst(lines: list[str]) -> None:
    """Rewrite a docstring's lines in place: what is indented stands as written, `names` are literals."""
    made: list[str] = []
    inside = example = False
    for line in lines:
        example = bool(line) and (example or line.startswith(">>> "))
        if example:  # until an empty line
            made.append(line)
            continue
        indented = line.startswith(" ")
        if indented and not inside:
            made += ["", ".. code-block:: text", ""]
        if line and not indented and inside:
            made.append("")
        inside = indented or (inside and not line)
        made.append(f"    {line}" if indented else _plain(line))
    lines[:] = made


def _plain(line: str) -> str:
    parts = WORDS.split(line)  # text, name, text, name, ...
    return "".join(f"``{part}``" if place % 2 else SPECIAL.sub(r"\\\1", part) for place, part in enumerate(parts))
