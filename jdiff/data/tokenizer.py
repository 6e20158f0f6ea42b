"""Captions -> numbers: a byte-pair tokenizer fitted to the captions themselves.

It works on bytes, so that any text can be written with it: id 0 pads, 1 starts and 2 ends a text, 3 .. 258 are the 256
bytes, and the rest are the pairs that the captions repeat. Texts are brought to Unicode's NFKC form, in lower case and
without white space around them.
"""

import functools
import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Int32

from jdiff.common.errors import UserError

PAD, START, END = 0, 1, 2
SPECIAL = ("<pad>", "<start>", "<end>")
SMALLEST = 256 + len(SPECIAL)

OnLong = Literal["truncate", "error"]


def fit(captions: Sequence[str], vocabulary: int) -> str:
    """A tokenizer for `captions`, in whatever order they come, as JSON text.

    vocabulary: the most ids it may have; few captions fill fewer. Raises UserError where there are no captions, or
    `vocabulary` has no room for every byte.
    """
    if not captions:
        raise UserError("there are no captions to fit a tokenizer to")
    if vocabulary < SMALLEST:
        raise UserError(
            f"condition.text.vocabulary={vocabulary} is too small: give {SMALLEST} or more, for the 256 bytes "
            f"and {len(SPECIAL)} marks"
        )
    check_unicode(captions)
    tokenizers = _library()
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    normalizers = tokenizers.normalizers
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase(), normalizers.Strip()])
    # The space put in front makes a word the same token at the start of a text as within it.
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=2,  # a pair seen once is no pattern
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sorted(captions), trainer)
    # The marks keep their ids, but are not looked for in texts: a caption that says "<end>" is seven characters.
    return json.dumps({**json.loads(tokenizer.to_str()), "added_tokens": []}, ensure_ascii=False)


@dataclass(frozen=True)
class BytePairEncoder:
    """texts -> int32 [n, length]: start, the text's ids, end, padded with 0.

    json: what `fit` gave. on_long: a text that does not fit is cut before its end mark ("truncate", with one warning
    for all of a call's texts) or refused by UserError ("error").
    """

    json: str
    length: int
    on_long: OnLong = "truncate"

    def __post_init__(self) -> None:
        if self.length < 3:
            raise UserError(f"condition.text.length={self.length} must be at least 3: a start, a token and an end")

    @property
    def vocabulary(self) -> int:
        """How many ids there are."""
        return _load(self.json).get_vocab_size()

    def __call__(self, texts: Sequence[str]) -> Int32[np.ndarray, "n length"]:
        check_unicode(texts)
        found = [encoding.ids for encoding in _load(self.json).encode_batch(list(texts))]
        check_lengths(texts, [len(ids) + 2 for ids in found], self.length, self.on_long)
        tokens = np.full((len(found), self.length), PAD, np.int32)
        for row, ids in zip(tokens, found, strict=True):
            whole = [START, *ids[: self.length - 2], END]
            row[: len(whole)] = whole
        return tokens

    def decode(self, tokens: Int32[np.ndarray, "n length"]) -> list[str]:
        """The texts again, as they were normalised; a character that was cut within shows as U+FFFD."""
        ids = [[int(token) for token in row if token >= len(SPECIAL)] for row in tokens]
        return [text.removeprefix(" ") for text in _load(self.json).decode_batch(ids)]


def check_unicode(texts: Sequence[str]) -> None:
    """Raises UserError for a text that holds half of a character (a lone surrogate), as damaged files do."""
    for text in texts:
        if not is_unicode(text):
            raise UserError(f"the text {quoted(text)} is no valid Unicode: it holds half of a character")


def is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_lengths(texts: Sequence[str], counts: Sequence[int], length: int, on_long: OnLong) -> None:
    """Warns of texts of more than `length` tokens, in one warning, or refuses the first by UserError."""
    long = [(text, count) for text, count in zip(texts, counts, strict=True) if count > length]
    if not long:
        return
    (text, count), *others = long
    if on_long == "error":
        more = f" ({len(others)} more like it)" if others else ""
        raise UserError(
            f"the text {quoted(text)} is {count} tokens long{more}: raise condition.text.length={length}, shorten the "
            "text, or set condition.text.on_long=truncate"
        )
    warnings.warn(
        f"{len(long)} of {len(texts)} texts are longer than condition.text.length={length} tokens and are cut, the "
        f"first: {quoted(text)} ({count} tokens)",
        stacklevel=3,
    )


def quoted(text: str, width: int = 60) -> str:
    """`text` on one line, shortened."""
    return repr(text if len(text) <= width else text[: width - 3] + "...")


@functools.lru_cache(maxsize=4)
def _load(text: str) -> Any:
    return _library().Tokenizer.from_str(text)


def _library() -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise UserError(f'text needs the library tokenizers ({error}): pip install "jdiff[text]"') from error
    return tokenizers
