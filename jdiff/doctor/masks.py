"""Masks: neither empty nor full, of the few values that stand for classes, and each with its own photo."""

from collections import Counter, defaultdict
from collections.abc import Collection, Sequence

import numpy as np

from jdiff.doctor.findings import Finding, Place, Suspect
from jdiff.doctor.fit import FEWEST, Fit, fit
from jdiff.doctor.reading import PictureScan, Scan
from jdiff.doctor.words import MOST_SUSPECTS, listed, many, number, share, suspects

USUAL = 0.2  # share of masks that may be empty before that seems meant
COMMON = 0.05  # share of masks that a value must be in to stand for a class
MOST_CLASSES = 32
DRAWN = 100  # pixels of one value, and of others, of a mask that nobody draws twice alike
ALIKE = 0.95  # of the masks, beyond which the sense of the others is odd
DARKER = 0.2  # correlation of photo and mask that tells whether masks mark what is darker


def masks(scans: Sequence[Scan]) -> list[Finding]:
    """Findings "mask_empty", "mask_full" and "mask_values" of every picture that is a mask."""
    names = [name for name, kept in scans[0].pictures.items() if kept.picture.kind == "mask"]
    return [finding for name in names for finding in (*_filled(scans, name), *_values(scans, name))]


def partners(scans: Sequence[Scan], near: Collection[frozenset[Place]]) -> list[Finding]:
    """Findings "mask_copies", "mask_fit" and "mask_inverted", of every picture beside the images, be it a mask or not.
    near: places of images that are near copies of each other.
    """
    found: list[Finding | None] = []
    for name, kept in scans[0].pictures.items():
        if name != "image":
            found += [_copies(scans, name, near), _fit(scans, name)]
            found.append(_inverted(scans, name) if kept.picture.kind == "mask" else None)
    return [finding for finding in found if finding]


def _copies(scans: Sequence[Scan], name: str, near: Collection[frozenset[Place]]) -> Finding:
    """The same mask with different photos."""
    code = "mask_copies"
    groups: dict[bytes, list[tuple[Scan, int]]] = defaultdict(list)
    of = 0
    for scan in scans:
        kept = scan.pictures[name]
        pixels = kept.height * kept.width
        drawn = kept.read & scan.readable & (kept.contrast > 0)
        if kept.picture.kind == "mask":
            drawn &= (kept.share * pixels >= DRAWN) & ((1 - kept.share) * pixels >= DRAWN)
        of += int(kept.read.sum())
        for row in np.flatnonzero(drawn).tolist():
            groups[kept.hashes[row].tobytes()].append((scan, row))
    copied = []
    for group in groups.values():
        different = {scan.pictures["image"].hashes[row].tobytes(): scan.place(row) for scan, row in group}
        places = tuple(different.values())
        if len(places) > 1 and not all(frozenset((places[0], place)) in near for place in places[1:]):
            copied.append(places)
    count = sum(map(len, copied))
    if not copied:
        return Finding(code, "fine", f"no two images have the same {name}")
    says = f"{many(count, 'image')} of {of:,} share their {name} with another"
    if count > USUAL * of:
        return Finding(code, "fine", f"{says}; so many seem to be meant")
    shown = tuple(Suspect(places, f"one {name} for different images") for places in copied[:MOST_SUSPECTS])
    first = listed([" = ".join(map(str, places[:3])) for places in copied], 2)
    return Finding(code, "look", f"{says}: {first}", f"look which of them the {name} belongs to", count, shown)


def _fit(scans: Sequence[Scan], name: str) -> Finding | None:
    """Whether photos fit their own masks better than those of others."""
    fits = [(scan, found) for scan in scans if (found := fit(scan, name))]
    told = [_all_wrong(scan, found, name) for scan, found in fits]
    wrong = [one for one in told if one]
    if wrong:
        sure = any(sure for sure, _ in wrong)
        do = f"look whether each {name} belongs to its image: names that are sorted in another way do this"
        count = sum(len(found.rows) for (_, found), one in zip(fits, told, strict=True) if one)
        return Finding("mask_fit", "refuse" if sure else "look", "; ".join(says for _, says in wrong), do, count)
    shown = [suspect for scan, found in fits for suspect in _single(scan, found, name)]
    if shown:
        return Finding(
            "mask_fit",
            "look",
            f"{many(len(shown), 'image')} may have the {name} of another, or a wrong one: "
            f"{listed([f'{one.places[0]} ({one.why})' for one in shown])}",
            f"look whether these {name}s belong to their images",
            len(shown),
            tuple(shown[:MOST_SUSPECTS]),
        )
    ranks = [found.rank for _, found in fits if not found.by_chance]
    if not ranks:
        return None
    mean = float(np.concatenate(ranks).mean())
    return Finding("mask_fit", "fine", f"an image fits its {name} better than {share(mean)} of the {name}s of others")


def _all_wrong(scan: Scan, found: Fit, name: str) -> tuple[bool, str] | None:
    """(whether that is sure, what is wrong with all of a split)."""
    if found.shift:
        offset = f"{many(abs(found.shift), 'record')} {'later' if found.shift > 0 else 'earlier'}"
        return True, f"the {scan.split} images fit the {name} that is {offset} and not their own"
    if found.way:
        return True, f"the {scan.split} {name}s fit their images better {found.way}"
    if found.by_chance and scan.pictures[name].picture.kind == "mask":
        says = f"the {scan.split} images fit their {name}s no better than those of others, as far as colours tell"
        return False, says
    return None


def _single(scan: Scan, found: Fit, name: str) -> list[Suspect]:
    whys = {row: f"fits the {name} of {scan.place(other)} better" for row, other in found.moved.items()}
    whys |= {row: f"its {name} fits better {way}" for row, way in found.ways.items()}
    for row in found.low.tolist():
        whys.setdefault(row, f"fits the {name}s of most others better")
    return [Suspect((scan.place(row),), why) for row, why in whys.items()]


def _inverted(scans: Sequence[Scan], name: str) -> Finding | None:
    """Masks of what the others leave out: the border of the picture, and the light where others mark the dark."""
    code = "mask_inverted"
    found: list[Suspect] = []
    judged = False
    for scan in scans:
        kept = scan.pictures[name]
        rows = np.flatnonzero(scan.readable & kept.read & (kept.contrast > 0))
        if len(rows) < FEWEST:
            continue
        judged = True
        masks = kept.fine[rows, ..., 0] / 255.0
        photos = scan.pictures["image"].fine[rows].mean(axis=-1)
        inside = masks[:, 1:-1, 1:-1].sum(axis=(1, 2))
        border = (masks.sum(axis=(1, 2)) - inside) / (4 * masks.shape[1] - 4) > 0.5
        masks, photos = (one - one.mean(axis=(1, 2), keepdims=True) for one in (masks, photos))
        norms = np.linalg.norm(masks, axis=(1, 2)) * np.linalg.norm(photos, axis=(1, 2))
        correlation = (masks * photos).sum(axis=(1, 2)) / np.maximum(norms, 1e-9)
        usual = np.sign(np.median(correlation))
        odd = (border != (border.mean() > 0.5)) & (usual * correlation < -DARKER)
        if (usual * correlation > 0).mean() >= ALIKE - odd.mean() and odd.mean() <= USUAL:
            found += suspects(scan, rows[odd].tolist(), f"its {name} seems inverted")
    if not judged:
        return None
    if not found:
        return Finding(code, "fine", f"no {name} seems inverted")
    return Finding(
        code,
        "look",
        f"{many(len(found), name)} seem inverted beside the others: {listed([str(one.places[0]) for one in found])}",
        "look at them; if so exchange their values",
        len(found),
        tuple(found),
    )


def _filled(scans: Sequence[Scan], name: str) -> list[Finding]:
    found = []
    for code, what, whole in (("mask_empty", "empty", 0.0), ("mask_full", "full", 1.0)):
        rows = [(scan, np.flatnonzero(_plain(scan.pictures[name], whole)).tolist()) for scan in scans]
        count = sum(len(own) for _, own in rows)
        of = sum(int(scan.pictures[name].read.sum()) for scan in scans)
        if not count:
            found.append(Finding(code, "fine", f"no {name} is {what}"))
            continue
        shown = tuple(one for scan, own in rows for one in suspects(scan, own, f"its {name} is {what}"))
        names = listed([str(one.places[0]) for one in shown])
        says = f"{many(count, name)} of {of:,} ({share(count / of)}) {'is' if count == 1 else 'are'} {what}: {names}"
        if count == of:
            found.append(Finding(code, "refuse", says, f"there is nothing to learn from a {name} that is always {what}",
                                 count, shown))  # fmt: skip
        elif count > USUAL * of:
            found.append(Finding(code, "fine", f"{says}; so many seem to be meant"))
        else:
            do = f"look whether these images show nothing, or their {name}s are lost"
            found.append(Finding(code, "look", says, do, count, shown))
    return found


def _plain(kept: PictureScan, whole: float) -> np.ndarray:
    one_value = np.array([len(values) == 1 for values in kept.values], bool)
    return kept.read & one_value & (kept.share == whole)


def _values(scans: Sequence[Scan], name: str) -> list[Finding]:
    code = "mask_values"
    kept = [scan.pictures[name] for scan in scans]
    picture = kept[0].picture
    counts = Counter(value for one in kept for values in one.values for value in values)
    of = sum(int(one.read.sum()) for one in kept)
    if not counts:
        return []
    common = sorted(value for value, count in counts.items() if count > max(1, COMMON * of) or count == of)
    if len(counts) > MOST_CLASSES and len(common) > MOST_CLASSES:
        return [
            Finding(
                code,
                "refuse",
                f"{name}s hold {len(counts)} or more values, {number(min(counts))} .. {number(max(counts))}: these are "
                "no masks of classes, or they were saved as JPEG or resized with smoothing",
                "save masks as PNG with one value a class, or read them as pictures",
                of,
            )
        ]
    odd = set(counts) - set(common)
    rows = [
        (scan, {row: f"values {listed([number(v) for v in values if v in odd], 4)}" for row, values in
                enumerate(scan.pictures[name].values) if odd & set(values)})
        for scan in scans
    ]  # fmt: skip
    found = [one for scan, whys in rows for one in suspects(scan, whys, whys)]
    count = sum(len(whys) for _, whys in rows)
    values = listed([number(value) for value in common], 8)
    result = []
    if count:
        result.append(
            Finding(
                code,
                "look",
                f"{many(count, name)} with values that hardly any other has (usual: {values}): "
                f"{listed([f'{one.places[0]} ({one.why})' for one in found], 2)}",
                "save these masks again, as PNG and without smoothing",
                count,
                tuple(found),
            )
        )
    if len(common) > 1 and max(common) < USUAL * picture.high:
        result.append(
            Finding(
                code,
                "look",
                f"{name}s hold {values} of the declared {number(picture.low)} .. {number(picture.high)}: to the model "
                "they are all but black",
                f"save them with {number(picture.high)} as the highest value, or declare {number(max(common))}",
                of,
            )
        )
    classes = "two values" if len(common) == 2 else many(len(common), "value")
    return result or [Finding(code, "fine", f"{name}s hold {classes}: {values}")]
