"""Labels: within the classes there are, and classes of comparable size."""

from collections.abc import Sequence

import numpy as np

from jdiff.doctor.findings import TRAIN, Finding, Suspect
from jdiff.doctor.reading import Scan
from jdiff.doctor.words import listed, many, suspects

UNBALANCED = 3.0  # times as large as the smallest class may be
FEW = 10  # images that a class should have


def sizes(scan: Scan) -> dict[str, int]:
    """Name of a class -> how many images; of several labels each counts."""
    labels = scan.labels[scan.readable]
    counts = np.bincount(labels[(labels >= 0) & (labels < len(scan.class_names))], minlength=len(scan.class_names))
    return {name: int(count) for name, count in zip(scan.class_names, counts, strict=True)}


def classes(scans: Sequence[Scan]) -> list[Finding]:
    """Findings "labels", and "balance" or "few_images"; none where there are no classes."""
    train = next(scan for scan in scans if scan.split == TRAIN)
    return [_labels(scans), _balance(sizes(train))] if train.class_names else []


def _labels(scans: Sequence[Scan]) -> Finding:
    found: list[Suspect] = []
    count = 0
    for scan in scans:
        high = (scan.labels >= len(scan.class_names)) | (scan.labels < -1)
        missing = (scan.labels == -1).all(axis=1) & (scan.labels.shape[1] == 1)
        rows = np.flatnonzero(scan.readable & (high.any(axis=1) | missing)).tolist()
        found += suspects(scan, rows, {row: f"label {scan.labels[row, 0]}" for row in rows})
        count += len(rows)
    if not count:
        return Finding("labels", "fine", "every label is one of the classes")
    return Finding(
        "labels",
        "refuse",
        f"{many(count, 'record')} with a label that is none of the {len(scans[0].class_names)} classes: "
        f"{listed([f'{one.places[0]} ({one.why})' for one in found])}",
        "mend the labels",
        count,
        tuple(found),
    )


def _balance(counts: dict[str, int]) -> Finding:
    smallest, largest = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
    ratio = counts[largest] / max(counts[smallest], 1)
    few = sorted((name for name in counts if counts[name] < FEW), key=counts.__getitem__)
    if ratio < UNBALANCED and not few:
        return Finding("balance", "fine", f"classes are of comparable size, {ratio:.1f} to 1 at the most")
    if ratio < UNBALANCED:
        return Finding(
            "few_images",
            "look",
            f"{many(len(few), 'class', 'classes')} of {len(counts)} {'has' if len(few) == 1 else 'have'} fewer than "
            f"{FEW} images: {_shown(few, counts)}",
            "add images; a class of few images is learnt by heart",
            len(few),
        )
    usual = float(np.median(list(counts.values())))
    small = {name for name in counts if counts[name] * UNBALANCED <= usual} | set(few)
    small = small or {name for name in counts if counts[name] * UNBALANCED <= counts[largest]}
    return Finding(
        "balance",
        "look",
        f"classes are unbalanced, {ratio:.1f} to 1: {largest} has {many(counts[largest], 'image')}, and few have "
        f"{_shown(sorted(small, key=counts.__getitem__), counts)}",
        "add images to them, or leave them out; a class of few images is learnt by heart",
        len(small),
    )


def _shown(names: Sequence[str], counts: dict[str, int]) -> str:
    return listed([f"{name} ({many(counts[name], 'image')})" for name in names])
