"""A byte-pair tokenizer, fitted to the captions of a data set.

Ids: 0 pads, 1 starts and 2 ends a text, 3 .. 258 are the 256 bytes (so any text can be encoded), the rest are frequent
pairs. Texts are normalised to Unicode's NFKC form, lower case, without surrounding white space.
"""

import functools
import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Int32

from jdiff.common.errors import UserError, install

PAD, START, END = 0, 1, 2
SPECIAL = ("<pad>", "<start>", "<end>")
SMALLEST = 256 + len(SPECIAL)

OnLong = Literal["truncate", "error"]


def fit(captions: Sequence[str], vocabulary: int) -> str:
    """A byte-pair tokenizer for `captions` as JSON text, independent of their order.

    vocabulary: the largest number of ids; a few captions give fewer. Raises UserError if there are no captions, if
    `vocabulary` is below SMALLEST, or if the library tokenizers (extra `text`) is not installed.
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
    # A space in front gives a word the same token at the start of a text as within it.
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=2,  # a pair that occurs once does not generalise
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sorted(captions), trainer)
    # The marks keep their ids but are not parsed in texts: "<end>" in a caption is five characters.
    return json.dumps({**json.loads(tokenizer.to_str()), "added_tokens": []}, ensure_ascii=False)


@dataclass(frozen=True)
class BytePairEncoder:
    """texts -> ids int32 [n, length]: start mark, the text's ids, end mark, padded with 0.

    json: the result of `fit`. on_long: "truncate" cuts a longer text before its end mark, with one warning per call;
    "error" raises UserError. Raises UserError for length < 3 and for invalid Unicode.
    """

    json: str
    length: int
    on_long: OnLong = "truncate"

    def __post_init__(self) -> None:
        if self.length < 3:
            raise UserError(f"condition.text.length={self.length} must be at least 3: a start, a token and an end")

    @property
    def vocabulary(self) -> int:
        """The number of ids."""
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
        """The normalised texts; a character cut between its bytes becomes U+FFFD."""
        ids = [[int(token) for token in row if token >= len(SPECIAL)] for row in tokens]
        return [text.removeprefix(" ") for text in _load(self.json).decode_batch(ids)]


def check_unicode(texts: Sequence[str]) -> None:
    """Raises UserError for a text with a lone surrogate, as damaged files have."""
    for text in texts:
        if not is_unicode(text):
            raise UserError(f"the text {quoted(text)} is not valid Unicode: it holds half of a character")


def is_unicode(text: str) -> bool:
    """Whether `text` can be encoded: it has no lone surrogate."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_lengths(texts: Sequence[str], counts: Sequence[int], length: int, on_long: OnLong) -> None:
    """Warns once about all texts of more than `length` tokens; with on_long="error", raises UserError for the first.

    counts: tokens of each text.
    """
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
    """repr of `text`, shortened to `width` characters."""
    return repr(text if len(text) <= width else text[: width - 3] + "...")


@functools.lru_cache(maxsize=4)
def _load(text: str) -> Any:
    return _library().Tokenizer.from_str(text)


def _library() -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise UserError(f"text needs the library tokenizers ({error}): {install('text')}") from error
    return tokenizers
