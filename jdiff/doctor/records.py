"""Each record by itself: can it be read, do its pictures fit each other, are its values, label and caption sound?"""

import importlib.util
from collections import Counter
from collections.abc import Sequence

import numpy as np

from jdiff.common.words import listed, many, number, share
from jdiff.data import tokenizer
from jdiff.doctor import thresholds as th
from jdiff.doctor.findings import Captions, Finding, Spread, Suspect, judge
from jdiff.doctor.scan import Scan


def form(scan: Scan, left_out: Sequence[Suspect]) -> list[Finding]:
    """Findings "unreadable", "skipped" and "pairs" (sizes of a record's pictures). left_out: files of the sources."""
    found = []
    if scan.unreadable or not left_out:
        torn = scan.suspects(scan.unreadable, scan.unreadable.__getitem__)
        says, fine = f"{many(len(torn), 'record')} cannot be read", "every record can be read"
        do = "mend or remove the files; data.on_bad_file=skip leaves them out"
        found.append(judge("unreadable", torn, fine, "refuse", says, do))
    says, fine = f"{many(len(left_out), 'file')} cannot be used", "no file was left out"
    do = "mend or remove them: training stops at the first, unless data.on_bad_file=skip leaves them out"
    found.append(judge("skipped", left_out, fine, "refuse", says, do))
    if scan.partners:
        unfit = [one for name in scan.partners for one in _other_sizes(scan, name)]
        says, fine = f"{many(len(unfit), 'pair')} whose pictures do not fit each other", "partners fit their images"
        do = "give each picture its own partner; the two must show the same thing at the same place"
        found.append(judge("pairs", unfit, fine, "refuse", says, do))
    return found


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
    """Findings "range" (one at least) and "constant". free: whether data.low and data.high can be set."""
    told = [_declared(scan, split, own, name, free) for split, own in scan.splits for name in scan.pictures]
    constant, other_scale = _contrast(scan)
    found = [one for one in (*told, other_scale) if one and one.severity != "fine"]
    return [*(found or [Finding("range", "fine", "values use the declared range and stay in it")]), constant]


def _declared(scan: Scan, split: str, own: np.ndarray, name: str, free: bool) -> Finding | None:
    """The worst that is wrong with the values of a split's picture, if anything is."""
    kept, rows, read = scan.pictures[name], scan.pictures[name].rows, own & scan.pictures[name].rows.read
    infinite = scan.suspects(read & ~rows.finite, f"{name} holds values that are not finite")
    if infinite:
        says = f"{many(len(infinite), 'record')} with values that are not finite (NaN, infinity) in {name}"
        return judge("range", infinite, "", "refuse", says, "replace them; training would stop at the first")
    if not read.any():
        return None
    declared = f"{number(kept.picture.low)} .. {number(kept.picture.high)}"
    beyond = read & ((rows.lowest < -th.BEYOND) | (rows.highest > 1 + th.BEYOND))
    of = beyond if beyond.any() else read
    lowest, highest = float(rows.lowest[of].min()), float(rows.highest[of].max())
    low, high = number(kept.told(lowest)), number(kept.told(highest))
    if beyond.any():
        shown = scan.suspects(beyond, lambda row: f"{name} holds {_ends(scan, name, row)}")
        says = (
            f"{many(len(shown), 'record')} with values of {name} outside the declared {declared}, from {low} to {high}"
        )
        most = free and len(shown) > read.sum() / 2
        do = f"set data.low={low} and data.high={high}" if most else "bring these records to the declared range"
        return judge("range", shown, "", "refuse", says, do)
    if kept.picture.kind == "mask" or not 0 < highest - lowest < th.USED:
        return None
    says = f"{split} {name}s use {low} .. {high} alone of the declared {declared}, {share(highest - lowest)}: to the "
    do = f"set data.low={low} and data.high={high}, or " if free else ""
    do += f"save the images on the whole scale, {declared}"
    return Finding("range", "look", f"{says}model they are faint", do, int(read.sum()))


def _contrast(scan: Scan) -> tuple[Finding, Finding]:
    """("constant", "range"): images of one colour, or nearly; images on another scale than the rest, such as those of
    0 .. 1 among those of 0 .. 255 or the other way round.
    """
    rows = scan.image.rows
    flat, scale = np.zeros((2, len(rows)), bool)
    for _, own in scan.splits:
        read = own & rows.read
        usual = float(np.median(rows.contrast[read])) if read.any() else 0.0
        low = read & (rows.contrast <= min(th.CONSTANT, usual / th.SCALE_TIMES))
        unit = low & (rows.contrast > 0) & (rows.lowest == 0) & (rows.highest <= th.UNIT) & (usual >= th.UNIT_USUAL)
        larger = read & (rows.contrast > th.SCALE_TIMES * usual) & (usual > 0)
        flat, scale = flat | (low & ~unit), scale | unit | larger
    faint = scan.plain & ~flat & ~scale
    few = faint.sum() <= th.MOST_PLAIN * scan.readable.sum()  # else it is the data's way

    def why(row: int) -> str:
        return f"all its values are {_ends(scan, 'image', row)}"

    constant = scan.suspects(flat, why) + (scan.suspects(faint, "hardly anything to see") if few else [])
    says = f"{many(len(constant), 'image')} of one colour throughout, or nearly"
    do, fine = "remove them, if they are not meant", "no image is of one colour throughout"
    plain = judge("constant", constant, fine, "look", says, do)
    train = rows[rows.read & ~scan.held_out]
    ends = [number(scan.image.told(float(np.median(values)))) for values in (train.lowest, train.highest)]
    says = f"{many(int(scale.sum()), 'image')} on another scale than the rest"
    do = f"save them again on the scale of the others ({' .. '.join(ends)})"
    return plain, judge("range", scan.suspects(scale, why), "", "look", says, do)


def _ends(scan: Scan, name: str, row: int) -> str:
    """A picture's values in words, in the units of the file."""
    kept = scan.pictures[name]
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
    says = f"{many(len(odd), 'record')} with a label that is none of the {count} classes"
    fine = "every label is one of the classes"
    return [judge("labels", odd, fine, "refuse", says, "mend the labels"), _balance(class_sizes(scan))]


def _balance(sizes: dict[str, int]) -> Finding:
    """Finding "balance", or "few_images" where classes are small and alike."""
    names = sorted(sizes, key=sizes.__getitem__)
    largest, usual = names[-1], float(np.median(list(sizes.values())))
    ratio = sizes[largest] / max(sizes[names[0]], 1)
    odd = [name for name in names if sizes[name] < th.FEW_OF_CLASS]
    if ratio >= th.UNBALANCED:
        odd = [name for name in names if name in odd or sizes[name] * th.UNBALANCED <= usual]
        odd = odd or [name for name in names if sizes[name] * th.UNBALANCED <= sizes[largest]]
    if not odd:
        return Finding("balance", "fine", f"classes are of comparable size, {ratio:.1f} to 1 at the most")
    told = listed([f"{name} ({many(sizes[name], 'image')})" for name in odd])
    do = "add images to them, or leave them out; a class of few images is learnt by heart"
    if ratio < th.UNBALANCED:
        says = f"{many(len(odd), 'class', 'classes')} of {len(names)} {'has' if len(odd) == 1 else 'have'} fewer than "
        return Finding("few_images", "look", f"{says}{th.FEW_OF_CLASS} images: {told}", do, len(odd))
    says = f"classes are unbalanced, {ratio:.1f} to 1: {largest} has {many(sizes[largest], 'image')}, and few have "
    return Finding("balance", "look", says + told, do, len(odd))


def captions(scan: Scan, texts: Sequence[str], vocabulary: int) -> tuple[Captions, Finding]:
    """Lengths of the training captions, and finding "captions". vocabulary: of the tokenizer to be fitted."""
    empty = scan.suspects([row for row, text in enumerate(texts) if not text.strip()], "its caption is empty")
    told = Captions(
        characters=Spread.of([len(text) for text in texts]),
        words=Spread.of([len(text.split()) for text in texts]),
        tokens=_tokens(texts, vocabulary),
        different=len(set(texts)),
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
