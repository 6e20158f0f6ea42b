"""Texts as a condition."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jdiff.common.errors import UserError, writing_to
from jdiff.common.files import replace_file
from jdiff.common.paths import expanded
from jdiff.conditions import Condition, Values
from jdiff.data import frozen_text, tokenizer
from jdiff.data.frozen_text import FrozenEncoder, Padding
from jdiff.data.sources import Source
from jdiff.data.sources.captioned import Tags, encode, lines_of
from jdiff.data.tokenizer import BytePairEncoder, OnLong

TOKENIZER = "tokenizer.json"  # in a run's folder
Null = Literal["learned", "empty"]

CACHE = ".jdiff"  # features of a frozen encoder: beside the data, or else in the run's folder


@dataclass(frozen=True, kw_only=True)
class Text(Condition):
    """A caption: token ids int32 [n, length] for a transformer trained along with the network, or a frozen encoder's
    features, {"features": float32 [n, length, frozen_width], "mask": bool [n, length]}.

    frozen_width: 0 for token ids. path: the frozen encoder's folder. projected: frozen features go through a layer.
    padding, clip_skip: see FrozenEncoder. null: in place of a dropped text, "learned" or of the "empty" text.
    width, vocabulary, depth, heads: of the transformer; width also of projected features. shuffle_tags, drop_tags: how
    captions that are lists of tags vary in training. folder: the run's, where its tokenizer lies.
    """

    name = "text"
    argument = "texts"
    words = "texts"
    length: int
    on_long: OnLong = "truncate"
    frozen_width: int = 0
    path: str = ""
    projected: bool = True
    padding: Padding = "masked"
    clip_skip: int = 0
    null: Null = "learned"
    vocabulary: int = 2048
    width: int = 128
    depth: int = 2
    heads: int = 4
    shuffle_tags: bool = False
    drop_tags: float = 0.0
    folder: Path | None = None
    drop_rate: float = 0.0

    @property
    def token_width(self) -> int:
        return self.frozen_width if self._as_they_are else self.width

    @property
    def only_tokens(self) -> str:
        return "condition.text.projected=False" if self._as_they_are else ""

    @property
    def _as_they_are(self) -> bool:
        return self.frozen_width > 0 and not self.projected

    def in_folder(self, workdir: Path | None) -> "Text":
        return replace(self, folder=workdir)

    def of_record(self, record: Mapping[str, Any], pictures: Mapping[str, np.ndarray]) -> Values:
        return record["text"]  # encoded already: see `encoded`

    def of_caller(self, values: Any) -> Values:
        if isinstance(values, str) or not all(isinstance(text, str) for text in values):
            raise UserError('texts must be strings, one an image or fewer, as in texts=["a red heart"]')
        return self.encoder(list(values))

    def example(self, rows: int, sides: tuple[int, int]) -> Values:
        ids = np.ones((rows, self.length), np.int32)
        features = np.zeros((rows, self.length, self.frozen_width), np.float32)
        return {"features": features, "mask": ids > 0} if self.frozen_width else ids

    def embedder(self, vector_features: int, dtype: Any) -> Any:
        from jdiff.networks import conditioning

        if self._as_they_are:
            return conditioning.TextTokens(self.frozen_width, null_tokens=self.length if self.null == "empty" else 0)
        if self.frozen_width:
            return conditioning.TextFeatures(self.width, vector_features, dtype)
        return conditioning.TextTransformer(self.vocabulary, self.width, vector_features, self.depth, self.heads, dtype)

    @cached_property
    def encoder(self) -> Callable[[Sequence[str]], Values]:
        """Texts -> values. Raises UserError where the run has lost its tokenizer."""
        if self.frozen_width:
            return self.frozen.features
        file = (self.folder or Path()) / TOKENIZER
        try:
            text = file.read_text("utf-8")
            json.loads(text)
        except OSError as error:
            raise UserError(f"cannot read {file}, the tokenizer of this run's texts: {error.strerror}") from error
        except ValueError as error:
            raise UserError(
                f"{file}, the tokenizer of this run's texts, is damaged: copy it again, or delete it and train on: the "
                "same captions make the same one"
            ) from error
        return BytePairEncoder(text, self.length, self.on_long)

    @property
    def frozen(self) -> FrozenEncoder:
        return FrozenEncoder(self.path, self.length, self.on_long, self.padding, self.clip_skip)


def fit_tokenizer(text: Text, captions: Sequence[str], workdir: Path, fitted: Path | None) -> None:
    """Write the run's tokenizer, unless it has one: a copy of the file `fitted`, or one fitted to `captions`, of which
    an image may have several, one a line.
    """
    file = workdir / TOKENIZER
    if text.frozen_width:
        return
    if not file.is_file():
        made = fitted.read_text("utf-8") if fitted else tokenizer.fit(lines_of(captions), text.vocabulary)
        with writing_to(workdir):
            workdir.mkdir(parents=True, exist_ok=True)
            replace_file(file, made)


def encoded(
    text: Text,
    sources: Sequence[Source],
    *,
    data_dir: str,
    workdir: Path,
    progress: Callable[[Iterable, int], Iterable],
) -> list[Source]:
    """The sources with their captions as values; a frozen encoder's features are computed once, and kept in files."""
    encoder: Callable[[Sequence[str]], Values] = text.encoder
    if text.frozen_width:
        own = workdir / "text"
        folder = expanded(data_dir) / CACHE if data_dir and expanded(data_dir).is_dir() else own
        encoder = partial(frozen_text.cached, text.frozen, folder=folder, otherwise=own, progress=progress)
    varied = text.shuffle_tags or text.drop_tags
    tags = Tags(text.encoder, text.shuffle_tags, text.drop_tags) if varied else None
    return list(encode(sources, encoder, tags))
