"""What reads texts: the tokenizer of a trained encoder, or a frozen encoder."""

import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from jdiff.common.errors import UserError, writing_to
from jdiff.config import one_of
from jdiff.data import frozen_text, tokenizer
from jdiff.data.frozen_text import FrozenEncoder
from jdiff.data.sources import Source
from jdiff.data.sources.captioned import encode
from jdiff.data.tokenizer import BytePairEncoder
from jdiff.from_config.progress import progress_bar

TOKENIZER = "tokenizer.json"  # in a run's folder
CACHE = ".jdiff"  # features of a frozen encoder: beside the data, or else in the run's folder


def text_encoder(config: ConfigDict, workdir: Path) -> Callable[[Sequence[str]], Any]:
    """Texts -> what the model takes of them. Raises UserError where the run has lost its tokenizer."""
    if one_of("condition.text.encoder", config.condition.text.encoder, ("transformer", "frozen")) == "frozen":
        return frozen(config).features
    text, file = config.condition.text, workdir / TOKENIZER
    try:
        return BytePairEncoder(file.read_text("utf-8"), text.length, _on_long(config))
    except OSError as error:
        raise UserError(f"cannot read {file}, the tokenizer of this run's texts: {error.strerror}") from error


def frozen(config: ConfigDict) -> FrozenEncoder:
    text = config.condition.text
    return FrozenEncoder(text.path, text.length, _on_long(config))


def _on_long(config: ConfigDict) -> Any:
    return one_of("condition.text.on_long", config.condition.text.on_long, ("truncate", "error"))


def encoded(
    config: ConfigDict, workdir: Path, train: Source, held_out: Source | None, fitted: Path | None = None
) -> tuple[Source, Source | None]:
    """Sources with their captions encoded, where the model is given texts.

    A tokenizer is fitted to the training captions, unless the run has one or `fitted` is the file of one; a frozen
    encoder's features are computed once and kept.
    """
    if "text" not in config.model.conditions:
        return train, held_out
    file = workdir / TOKENIZER
    if config.condition.text.encoder == "transformer" and not file.is_file():
        with writing_to(workdir):
            workdir.mkdir(parents=True, exist_ok=True)
            if fitted:
                shutil.copy(fitted, file)
            else:
                file.write_text(tokenizer.fit(train.captions, config.condition.text.vocabulary), "utf-8")
    texts: Callable[[Sequence[str]], Any] = text_encoder(config, workdir)
    if config.condition.text.encoder == "frozen":
        own = workdir / "text"
        texts = partial(
            frozen_text.cached,
            frozen(config),
            folder=Path(config.data.dir).expanduser() / CACHE if config.data.dir else own,
            otherwise=own,
            progress=progress_bar(config, "reading captions"),
        )
    sources = encode([train] if held_out is None else [train, held_out], texts)
    return sources[0], None if held_out is None else sources[1]
