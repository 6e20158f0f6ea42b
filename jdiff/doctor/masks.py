"""Masks: neither empty nor full, of the few values that stand for classes, none shared, none inverted."""

from collections import Counter, defaultdict
from collections.abc import Collection

import numpy as np

from jdiff.common.words import listed, many, number, share
from jdiff.doctor import thresholds as th
from jdiff.doctor.copies import directions
from jdiff.doctor.findings import Finding, Suspect, judge
from jdiff.doctor.scan import Scan


def masks(scan: Scan, near: Collection[frozenset[int]]) -> list[Finding]:
    """Findings "mask_empty", "mask_full", "mask_values" and "mask_inverted" of every picture that is a mask, and
    "mask_copies" of every picture beside the images. near: rows of images that are near copies of each other.
    """
    found = [_copies(scan, name, near) for name in scan.partners]
    for name, kept in scan.pictures.items():
        if kept.picture.kind == "mask":
            found += [_filled(scan, name, "empty", 0.0), _filled(scan, name, "full", 1.0), *_values(scan, name)]
            found += _inverted(scan, name) if name != "image" else []
    return found


def _filled(scan: Scan, name: str, what: str, whole: float) -> Finding:
    """Masks of which a share `whole` is inside: refused where all are, meant where many are."""
    code, kept = f"mask_{what}", scan.pictures[name]
    one_value = kept.rows.read & (np.array(list(map(len, kept.values))) == 1)
    shown = scan.suspects(one_value & (kept.rows.share == whole), f"its {name} is {what}")
    count, of = len(shown), int(kept.rows.read.sum())
    says = f"{many(count, name)} of {of:,} ({share(count / max(of, 1))}) {'is' if count == 1 else 'are'} {what}"
    if 0 < count == of:
        return judge(code, shown, "", "refuse", says, f"there is nothing to learn from a {name} that is always {what}")
    do = f"look whether these images show nothing, or their {name}s are lost"
    finding = judge(code, shown, f"no {name} is {what}", "look", says, do)
    meant = Finding(code, "fine", f"{finding.says}; so many seem to be meant")
    return meant if count > th.MEANT * of else finding


def _values(scan: Scan, name: str) -> list[Finding]:
    code, kept = "mask_values", scan.pictures[name]
    of = int(kept.rows.read.sum())
    counts = Counter(value for values in kept.values for value in values)
    if not counts:
        return []
    common = sorted(value for value, count in counts.items() if count > max(1, th.COMMON * of) or count == of)
    if len(common) > th.MASK_CLASSES:
        says = f"{name}s hold {len(counts)} or more values, {number(min(counts))} .. {number(max(counts))}: these are "
        says += "no masks of classes, or they were saved as JPEG or resized with smoothing"
        return [Finding(code, "refuse", says, "save masks as PNG with one value a class, or read them as pictures", of)]
    odd, values = set(counts) - set(common), listed([number(value) for value in common], 8)
    shown = scan.suspects(
        [row for row, own in enumerate(kept.values) if odd & set(own)],
        lambda row: f"values {listed([number(value) for value in kept.values[row] if value in odd], 4)}",
    )
    fine = f"{name}s hold {'two values' if len(common) == 2 else many(len(common), 'value')}: {values}"
    says = f"{many(len(shown), name)} with values that hardly any other has (usual: {values})"
    do = "save these masks again, as PNG and without smoothing"
    stray = judge(code, shown, fine, "look", says, do)
    low, high = number(kept.picture.low), number(kept.picture.high)
    if len(common) < 2 or max(common) >= th.FAINT_MASK * kept.picture.high:
        return [stray]
    says = f"{name}s hold {values} of the declared {low} .. {high}: to the model they are all but black"
    do = f"save them with {high} as the highest value, or declare {number(max(common))}"
    return [*([stray] if shown else []), Finding(code, "look", says, do, of)]


def _copies(scan: Scan, name: str, near: Collection[frozenset[int]]) -> Finding:
    """The same mask with different photos."""
    kept, rows = scan.pictures[name], scan.pictures[name].rows
    drawn = rows.read & scan.readable & (rows.contrast > 0)
    if kept.picture.kind == "mask":
        drawn &= np.minimum(rows.share, 1 - rows.share) * rows.height * rows.width >= th.DRAWN
    groups: dict[bytes, dict[bytes, int]] = defaultdict(dict)  # mask -> photo -> row
    for row in np.flatnonzero(drawn).tolist():
        groups[rows.digest[row].tobytes()][scan.image.rows.digest[row].tobytes()] = row
    shared = [list(group.values()) for group in groups.values() if len(group) > 1]
    shared = [one for one in shared if not all(frozenset((one[0], row)) in near for row in one[1:])]
    count, of = sum(map(len, shared)), int(rows.read.sum())
    says, fine = f"{many(count, 'image')} of {of:,} share their {name} with another", f"no two images share a {name}"
    if count > th.MEANT * of:
        return Finding("mask_copies", "fine", f"{says}; so many seem to be meant")
    shown = [Suspect(tuple(map(scan.place, group)), f"one {name} for different images") for group in shared]
    do = f"look which of them the {name} belongs to"
    return judge("mask_copies", shown, fine, "look", says, do, count=count)


def _inverted(scan: Scan, name: str) -> list[Finding]:
    """Masks of what the others leave out: the border of the picture, and the light where others mark the dark."""
    kept = scan.pictures[name]
    seen = scan.readable & kept.rows.read & (kept.rows.contrast > 0)
    splits = [rows for _, own in scan.splits if len(rows := np.flatnonzero(own & seen)) >= th.INVERTED_FEWEST]
    found, edge = [], np.pad(np.zeros((th.DETAIL - 2, th.DETAIL - 2), bool), 1, constant_values=True)
    for rows in splits:
        masks = kept.thumb[rows].astype(np.float32).mean(axis=-1)
        border = masks[:, edge].mean(axis=1) > masks.max(axis=(1, 2)) / 2
        correlation = (directions(masks) * directions(scan.grey(rows))).sum(axis=1)
        correlation *= np.sign(np.median(correlation))
        odd = (border != (border.mean() > 0.5)) & (correlation < -th.DARKER)
        if (correlation > 0).mean() >= th.SENSE - odd.mean() and odd.mean() <= th.MEANT:
            found += scan.suspects(rows[odd], f"its {name} seems inverted")
    says = f"{many(len(found), name)} {'seems' if len(found) == 1 else 'seem'} inverted beside the others"
    do = "look at them; if so exchange their values"
    return [judge("mask_inverted", found, f"no {name} seems inverted", "look", says, do)] if splits else []
