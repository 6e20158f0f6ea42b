"""Captions: their lengths, and whether they say anything."""

import importlib.util
from collections import Counter
from collections.abc import Sequence

import numpy as np

from jdiff.data import tokenizer
from jdiff.data.sources.files import one_line
from jdiff.doctor.findings import Captions, Finding, Spread, Suspect
from jdiff.doctor.reading import Scan
from jdiff.doctor.words import MOST_SUSPECTS, listed, many, share

MOST_TOKENIZED = 20_000  # captions that a tokenizer is fitted to, and whose tokens are counted
REPEATED = 0.5  # share of images that may have the same caption


def measure(texts: Sequence[str], vocabulary: int) -> Captions:
    return Captions(
        characters=Spread.of([len(text) for text in texts]),
        words=Spread.of([len(text.split()) for text in texts]),
        tokens=_tokens(texts, vocabulary),
        empty=sum(not text.strip() for text in texts),
        different=len(set(texts)),
        longest=one_line(max(texts, key=len)),
    )


def _tokens(texts: Sequence[str], vocabulary: int) -> Spread | None:
    """Tokens of a caption, with the marks of start and end; None where the library is not installed."""
    if not importlib.util.find_spec("tokenizers"):
        return None
    chosen = np.random.default_rng(0).permutation(len(texts))[:MOST_TOKENIZED]
    some = [text for text in (texts[i] for i in chosen) if tokenizer.is_unicode(text)]
    if not some:
        return None
    fitted = tokenizer.fit(some, max(vocabulary, tokenizer.SMALLEST))
    counts = []
    for text in some:
        room = 4 * len(text.encode()) + 8  # no text has more tokens than bytes; NFKC may lengthen it
        ids = tokenizer.BytePairEncoder(fitted, room)([text])
        counts.append(int((ids != tokenizer.PAD).sum()))
    return Spread.of(counts)


def captions(scan: Scan, texts: Sequence[str], found: Captions) -> Finding:
    """Finding "captions"."""
    code = "captions"
    empty = [row for row, text in enumerate(texts) if not text.strip()]
    if empty:
        shown = tuple(Suspect((scan.place(row),), "its caption is empty") for row in empty[:MOST_SUSPECTS])
        names = listed([str(one.places[0]) for one in shown])
        does = "says" if len(empty) == 1 else "say"
        says = f"{many(len(empty), 'caption')} of {len(texts):,} {does} nothing: {names}"
        return Finding(code, "look", says, "write them, or leave these images out", len(empty), shown)
    text, count = Counter(texts).most_common(1)[0]
    if count > REPEATED * len(texts) and len(texts) > 1:
        says = f"{share(count / len(texts))} of the captions are the same: {tokenizer.quoted(text)}"
        return Finding(code, "look", says, "a caption must tell its image from others to be of use", count)
    return Finding(code, "fine", f"{many(found.different, 'different caption')} of {len(texts):,}, none empty")
