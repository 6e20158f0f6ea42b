"""What both reports say of the numbers: rows of (what, how)."""

from jdiff.doctor.findings import Findings, PictureNumbers, Spread
from jdiff.doctor.words import listed, many, number, share

SHOWN_SIZES = 3
SHOWN_CLASSES = 6


def verdict(findings: Findings) -> str:
    """One line over everything."""
    counts = {severity: sum(one.severity == severity for one in findings.findings) for severity in ("refuse", "look")}
    if counts["refuse"]:
        also = f", and {many(counts['look'], 'thing')} to look at" if counts["look"] else ""
        return f"Mend {many(counts['refuse'], 'thing')} before training{also}."
    return f"{many(counts['look'], 'thing')} to look at." if counts["look"] else "Nothing seems wrong."


def rows(findings: Findings) -> list[tuple[str, str]]:
    """The numbers in words, a row each."""
    found = [("records", ", ".join(f"{count:,} {split}" for split, count in findings.counts.items()))]
    if findings.folder:
        found.append(("files below", findings.folder))
    for picture in findings.pictures.values():
        found += _picture(picture, several=len(findings.pictures) > 1)
    if findings.modes:
        found.append(("files", listed([f"{mode} {share(part)}" for mode, part in _shares(findings.modes)], 4)))
    if findings.classes:
        found.append(("classes", _classes(findings.classes)))
    if findings.captions:
        captions = findings.captions
        tokens = f"; {_spread(captions.tokens)} tokens" if captions.tokens else ""
        lengths = f"{_spread(captions.words)} words, {_spread(captions.characters)} characters{tokens}"
        found.append(("captions", f"{captions.different:,} different; {lengths}"))
    found += [(f"scalar {name}", f"{_spread(spread)}") for name, spread in findings.scalars.items()]
    if findings.mirror:
        mirror = findings.mirror
        told = f"{share(mirror.farther)} of {many(mirror.images, 'image')} are then farther from the others"
        found.append(("mirrored", f"{told}, {mirror.ratio:.2f} times as far (50 % and 1.00 times: no difference)"))
    if findings.farthest:
        told = listed([f"{one.places[0]} ({one.why})" for one in findings.farthest])
        found.append(("farthest", f"from the rest are {told}"))
    found += [("source says", note) for note in findings.notes]
    return found


def _picture(picture: PictureNumbers, *, several: bool) -> list[tuple[str, str]]:
    of = f"{picture.name} " if several else ""
    if not picture.sizes:
        return [(f"{of}size", "none could be read")]
    (height, width), *others = picture.sizes
    if others:
        heights, widths = zip(*picture.sizes, strict=True)
        size = (
            f"{len(picture.sizes):,} sizes, {min(heights)} .. {max(heights)} high and {min(widths)} .. {max(widths)} "
            f"wide; width / height {number(picture.aspects.min())} .. {number(picture.aspects.max())}; most often "
            + listed([f"{h} x {w} ({share(part)})" for (h, w), part in _shares(picture.sizes)], SHOWN_SIZES)
        )
    else:
        size = f"all {height} x {width} (height x width)"
    channels = ", ".join(map(str, picture.channels))
    form = f"{channels} {'channel' if channels == '1' else 'channels'}, {', '.join(picture.dtypes)}"
    values = (
        f"{number(picture.lowest)} .. {number(picture.highest)} of {number(picture.low)} .. {number(picture.high)}; "
        f"{share(picture.at_low)} at the low end, {share(picture.at_high)} at the high end"
    )
    moments = f"{_numbers(picture.mean)} +- {_numbers(picture.std)} a channel, in [-1, 1]; "
    moments += f"sigma_data {picture.sigma_data:.3f}"
    kind = "" if picture.kind == "image" else f", a {picture.kind}"
    return [(f"{of}size", size), (f"{of}form", form + kind), (f"{of}values", values), (f"{of}mean, std", moments)]


def _classes(classes: dict[str, int]) -> str:
    counts = sorted(classes.items(), key=lambda item: -item[1])
    if counts[0][1] == counts[-1][1]:
        return f"{len(counts)} of {many(counts[0][1], 'image')} each"
    ratio = counts[0][1] / max(counts[-1][1], 1)
    shown = counts if len(counts) <= SHOWN_CLASSES else [*counts[:2], *counts[-2:]]
    each = ", ".join(f"{name} {count:,}" for name, count in shown)
    between = "" if len(counts) <= SHOWN_CLASSES else " (two largest, two smallest)"
    return f"{len(counts)}, {ratio:.1f} to 1: {each}{between}"


def _shares(counts: dict) -> list[tuple]:
    total = sum(counts.values())
    return [(key, count / total) for key, count in counts.items()]


def _numbers(values: tuple[float, ...]) -> str:
    shown = ", ".join(f"{value:.2f}" for value in values[:4])
    return shown if len(values) <= 4 else f"{shown}, ..."


def _spread(spread: Spread) -> str:
    low, median, high = (number(value) for value in (spread.lowest, spread.median, spread.highest))
    return low if low == high else f"{low} .. {high} (median {median})"
