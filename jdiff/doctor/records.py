"""Each record by itself: can it be read, do its pictures fit each other, are its values, label and caption sound?"""

import importlib.util
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from jdiff.data import tokenizer
from jdiff.data.sources.files import one_line
from jdiff.doctor import thresholds as th
from jdiff.doctor.findings import Captions, Finding, Place, Spread, Suspect, judge
from jdiff.doctor.scan import Kept, Scan
from jdiff.doctor.words import listed, many, number, share

LeftOut = tuple[str, str, str]  # (split, file, why), of a file that a source leaves out


def skips(notes: Iterable[str]) -> list[str]:
    """The notes of sources that tell of what they left out."""
    return [note for note in notes if note.startswith("skipped ")]


def form(scan: Scan, left_out: Sequence[LeftOut], notes: Sequence[str]) -> list[Finding]:
    """Findings "unreadable", "skipped", "form" (channels) and "pairs" (sizes of a record's pictures)."""
    found = []
    if scan.unreadable or not (left_out or skips(notes)):
        torn = scan.suspects(scan.unreadable, scan.unreadable.__getitem__)
        says, fine = f"{many(len(torn), 'record')} cannot be read", "every record can be read"
        do = "mend or remove the files; data.on_bad_file=skip leaves them out"
        found.append(judge("unreadable", torn, fine, "refuse", says, do, named=2, why=True))
    if skips(notes) and not left_out:
        told = skips(notes)
        found.append(Finding("skipped", "look", "; ".join(told), "mend or remove these files", len(told)))
    else:
        out = [Suspect((Place(split, -1, file),), why) for split, file, why in left_out]
        do = "mend or remove them: training stops at the first, unless data.on_bad_file=skip leaves them out"
        says = f"{many(len(out), 'file')} cannot be used"
        found.append(judge("skipped", out, "no file was left out", "refuse", says, do, named=2, why=True))

    odd = [one for name in scan.pictures for one in _other_channels(scan, name)]
    fine = "every picture has the channels that the source declares"
    says = f"{many(len(odd), 'record')} of another form than the rest"
    do = "bring all pictures to one number of channels"
    found.append(judge("form", odd, fine, "refuse", says, do, named=2, why=True))

    if scan.partners:
        unfit = [one for name in scan.partners for one in _other_sizes(scan, name)]
        fine, says = "the pictures of every record are of one size", f"{many(len(unfit), 'pair')} whose pictures do not"
        do = "give each picture its own partner; the two must show the same thing at the same place"
        found.append(judge("pairs", unfit, fine, "refuse", f"{says} fit each other", do, named=2, why=True))
    return found


def _other_channels(scan: Scan, name: str) -> list[Suspect]:
    wanted, rows = scan.pictures[name].picture.channels, scan.pictures[name].rows
    return scan.suspects(
        rows.read & (rows.channels != wanted),
        lambda row: f"{name} of {many(int(rows.channels[row]), 'channel')}, not {wanted}",
    )


def _other_sizes(scan: Scan, name: str) -> list[Suspect]:
    """Sides that are not in proportion, up to rounding to whole pixels, or differ where most of a split are equal."""
    one, two = scan.image.rows, scan.pictures[name].rows
    longest = np.maximum.reduce([one.height, one.width, two.height, two.width])
    misfit = np.abs(one.width * two.height - two.width * one.height) > longest
    same, both = (one.height == two.height) & (one.width == two.width), one.read & two.read
    for _, own in scan.splits:
        if (own & both).any() and same[own & both].mean() > 0.5:
            misfit |= own & ~same
    return scan.suspects(
        both & misfit,
        lambda row: f"image {one.width[row]} x {one.height[row]}, {name} {two.width[row]} x {two.height[row]}",
    )


def ranges(scan: Scan, *, free: bool) -> list[Finding]:
    """Findings "range" (one at least), and "constant". free: whether data.low and data.high can be set."""
    found = []
    for split, own in scan.splits:
        told = [one for name in scan.pictures for one in _declared(scan, split, own, name, free)]
        found += sorted(told, key=lambda one: one.severity == "look")[:1]
    constant, other_scale = _without_contrast(scan)
    found += [other_scale] if other_scale.suspects else []
    return [*(found or [Finding("range", "fine", "values use the declared range and stay in it")]), constant]


def _declared(scan: Scan, split: str, own: np.ndarray, name: str, free: bool) -> list[Finding]:
    """The worst that is wrong with the values of a split's picture, if anything is."""
    kept = scan.pictures[name]
    rows, read = kept.rows, own & kept.rows.read
    low, high = number(kept.picture.low), number(kept.picture.high)
    infinite = scan.suspects(read & ~rows.finite, f"{name} holds values that are not finite")
    if infinite:
        says = f"{many(len(infinite), 'record')} with values that are not finite (NaN, infinity) in {name}"
        return [judge("range", infinite, "", "refuse", says, "replace them; training would stop at the first")]
    beyond = read & ((rows.lowest < -th.BEYOND) | (rows.highest > 1 + th.BEYOND))
    if beyond.any():
        shown = scan.suspects(beyond, lambda row: f"{name} holds {_ends(kept, row)}")
        ends = [number(kept.told(end)) for end in (rows.lowest[beyond].min(), rows.highest[beyond].max())]
        says = f"{many(len(shown), 'record')} with values of {name} outside the declared {low} .. {high}, "
        do = "bring these records to the declared range"
        if free and len(shown) > read.sum() / 2:
            do = f"set data.low={ends[0]} and data.high={ends[1]}"
        return [judge("range", shown, "", "refuse", f"{says}from {ends[0]} to {ends[1]}", do)]
    if kept.picture.kind == "mask" or not read.any():
        return []
    lowest, highest = float(rows.lowest[read].min()), float(rows.highest[read].max())
    if not 0 < highest - lowest < th.USED:
        return []
    ends = [number(kept.told(end)) for end in (lowest, highest)]
    says = f"{split} {name}s use {ends[0]} .. {ends[1]} alone of the declared {low} .. {high}, "
    says += f"{share(highest - lowest)}: to the model they are faint"
    do = f"save the images on the whole scale, {low} .. {high}"
    if free:
        do = f"set data.low={ends[0]} and data.high={ends[1]}, or save the images on the whole scale"
    return [Finding("range", "look", says, do, int(read.sum()))]


def _without_contrast(scan: Scan) -> tuple[Finding, Finding]:
    """("constant", "range"): images of one colour; images on another scale than the rest, such as those of 0 .. 1 among
    those of 0 .. 255 or the other way round.
    """
    kept, rows = scan.image, scan.image.rows
    constant, scale = [], []

    def why(row: int) -> str:
        return f"all its values are {_ends(kept, row)}"

    for _, own in scan.splits:
        read = own & rows.read
        usual = float(np.median(rows.contrast[read])) if read.any() else 0.0
        flat = read & (rows.contrast <= min(th.CONSTANT, usual / th.SCALE_TIMES))
        unit = flat & (rows.contrast > 0) & (rows.lowest == 0) & (rows.highest <= th.UNIT) & (usual >= th.UNIT_USUAL)
        larger = read & (rows.contrast > th.SCALE_TIMES * usual) & (usual > 0)
        constant += scan.suspects(flat & ~unit, why)
        scale += scan.suspects(unit | larger, why)
    train = rows[rows.read & ~scan.held_out]
    ends = [number(kept.told(float(np.median(values)))) for values in (train.lowest, train.highest)]
    fine, do = "no image is of one colour throughout", "remove them, if they are not meant"
    says = f"{many(len(constant), 'image')} of one colour throughout"
    plain = judge("constant", constant, fine, "look", says, do, named=2, why=True)
    says = f"{many(len(scale), 'image')} on another scale than the rest"
    do = f"save them again on the scale of the others ({' .. '.join(ends)})"
    return plain, judge("range", scale, "", "look", says, do, named=2, why=True)


def _ends(kept: Kept, row: int) -> str:
    """An image's values in words, in the units of the file."""
    ends = [number(kept.told(end)) for end in (kept.rows.lowest[row], kept.rows.highest[row])]
    return ends[0] if ends[0] == ends[1] else " .. ".join(ends)


def class_sizes(scan: Scan) -> dict[str, int]:
    """Name of a class -> how many training images; of several labels each counts."""
    labels, count = scan.labels[scan.readable & ~scan.held_out], len(scan.class_names)
    counts = np.bincount(labels[(labels >= 0) & (labels < count)], minlength=count)
    return dict(zip(scan.class_names, counts.tolist(), strict=True))


def classes(scan: Scan) -> list[Finding]:
    """Findings "labels", and "balance" or "few_images"; none where there are no classes."""
    if not scan.class_names:
        return []
    labels, count = scan.labels, len(scan.class_names)
    missing = (labels == -1).all(axis=1) & (labels.shape[1] == 1)
    wrong = scan.readable & (((labels >= count) | (labels < -1)).any(axis=1) | missing)
    odd = scan.suspects(wrong, lambda row: f"label {labels[row, 0]}")
    fine = "every label is one of the classes"
    says = f"{many(len(odd), 'record')} with a label that is none of the {count} classes"
    found = [judge("labels", odd, fine, "refuse", says, "mend the labels", why=True)]

    sizes = class_sizes(scan)
    names = sorted(sizes, key=sizes.__getitem__)
    largest = max(sizes, key=sizes.__getitem__)
    ratio = sizes[largest] / max(sizes[names[0]], 1)
    few = [name for name in names if sizes[name] < th.FEW_OF_CLASS]
    if ratio < th.UNBALANCED and not few:
        says = f"classes are of comparable size, {ratio:.1f} to 1 at the most"
        return [*found, Finding("balance", "fine", says)]
    told = {name: f"{name} ({many(sizes[name], 'image')})" for name in names}
    if ratio < th.UNBALANCED:
        says = f"{many(len(few), 'class', 'classes')} of {count} {'has' if len(few) == 1 else 'have'} fewer than "
        says += f"{th.FEW_OF_CLASS} images: {listed([told[name] for name in few])}"
        do = "add images; a class of few images is learnt by heart"
        return [*found, Finding("few_images", "look", says, do, len(few))]
    usual = float(np.median(list(sizes.values())))
    small = [name for name in names if sizes[name] * th.UNBALANCED <= usual or name in few]
    small = small or [name for name in names if sizes[name] * th.UNBALANCED <= sizes[largest]]
    says = f"classes are unbalanced, {ratio:.1f} to 1: {largest} has {many(sizes[largest], 'image')}, and few have "
    says += listed([told[name] for name in small])
    do = "add images to them, or leave them out; a class of few images is learnt by heart"
    return [*found, Finding("balance", "look", says, do, len(small))]


def captions(scan: Scan, texts: Sequence[str], vocabulary: int) -> tuple[Captions, Finding]:
    """Lengths of the training captions, and finding "captions". vocabulary: of the tokenizer to be fitted."""
    empty = scan.suspects([row for row, text in enumerate(texts) if not text.strip()], "its caption is empty")
    told = Captions(
        characters=Spread.of([len(text) for text in texts]),
        words=Spread.of([len(text.split()) for text in texts]),
        tokens=_tokens(texts, vocabulary),
        empty=len(empty),
        different=len(set(texts)),
        longest=one_line(max(texts, key=len)),
    )
    text, count = Counter(texts).most_common(1)[0]
    if not empty and count > th.SAME_CAPTION * len(texts) and len(texts) > 1:
        says = f"{share(count / len(texts))} of the captions are the same: {tokenizer.quoted(text)}"
        do = "a caption must tell its image from others to be of use"
        return told, Finding("captions", "look", says, do, count)
    fine = f"{many(told.different, 'different caption')} of {len(texts):,}, none empty"
    says = f"{many(len(empty), 'caption')} of {len(texts):,} {'says' if len(empty) == 1 else 'say'} nothing"
    return told, judge("captions", empty, fine, "look", says, "write them, or leave these images out")


def _tokens(texts: Sequence[str], vocabulary: int) -> Spread | None:
    """Tokens of a caption, with the marks of start and end; None where the library is not installed."""
    chosen = np.random.default_rng(0).permutation(len(texts))[: th.CAPTIONS_TOKENIZED]
    some = [text for text in (texts[i] for i in chosen) if tokenizer.is_unicode(text)]
    if not some or not importlib.util.find_spec("tokenizers"):
        return None
    fitted = tokenizer.fit(some, max(vocabulary, tokenizer.SMALLEST))
    # No text has more tokens than bytes; NFKC may lengthen it.
    rooms = [4 * len(text.encode()) + 8 for text in some]
    ids = (tokenizer.BytePairEncoder(fitted, room)([text]) for room, text in zip(rooms, some, strict=True))
    return Spread.of([int((one != tokenizer.PAD).sum()) for one in ids])
