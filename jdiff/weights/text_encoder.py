"""The frozen text encoder of a model, kept in the model's own folder, with its tokenizer."""

import shutil
import tempfile
from pathlib import Path

from ml_collections import ConfigDict

import jdiff.config
from jdiff.common.errors import UserError, writing_to
from jdiff.common.paths import expanded
from jdiff.common.processes import is_first_process, wait_for_all_processes
from jdiff.common.progress import say
from jdiff.config import TEXT_ENCODER
from jdiff.data.frozen_text import TOKENIZER, model_files, same_model
from jdiff.from_config.conditions import frozen_text


def with_text_encoder(config: ConfigDict, workdir: Path) -> ConfigDict:
    """The config with the text encoder that the run keeps, once it has begun.

    Raises UserError where condition.text.path holds another.
    """
    if not _is_read(config) or not (workdir / jdiff.config.FILE).is_file() or not (workdir / TEXT_ENCODER).is_dir():
        return config
    given, kept = config.condition.text.path, workdir / TEXT_ENCODER
    if given and expanded(given).is_dir() and not same_model(expanded(given), kept):
        raise UserError(
            f"condition.text.path={given} holds another text encoder than {kept}, by which this model has learned "
            "texts: leave condition.text.path out, or train in another --workdir"
        )
    config = config.copy_and_resolve_references()
    config.condition.text.path = str(kept)
    return config


def keep_text_encoder(config: ConfigDict, workdir: Path) -> None:
    """Copy the frozen text encoder of condition.text.path, and its tokenizer, into the run's folder, once.

    Raises UserError where there is none.
    """
    encoder, kept = expanded(config.condition.text.path), workdir / TEXT_ENCODER
    if not _is_read(config) or encoder.resolve() == kept.resolve():
        return
    frozen_text(config)  # says what is wrong with the folder
    if is_first_process():
        files = model_files(encoder)
        with writing_to(workdir), tempfile.TemporaryDirectory(dir=workdir, prefix=".text_encoder") as copies:
            for file in files:
                place = Path(copies) / (TEXT_ENCODER if file.parent == encoder else TOKENIZER)
                place.mkdir(exist_ok=True)
                shutil.copy(file, place)
            for name in (TOKENIZER, TEXT_ENCODER):  # the encoder last: where it is there, all is, and whole
                shutil.rmtree(workdir / name, ignore_errors=True)  # of an earlier export
                if (Path(copies) / name).is_dir():
                    (Path(copies) / name).rename(workdir / name)
        size = sum(file.stat().st_size for file in files)
        say(f"the text encoder of {encoder} ({size / 1e6:,.1f} MB with its tokenizer) is kept in {kept}")
    wait_for_all_processes("the text encoder is kept")


def _is_read(config: ConfigDict) -> bool:
    return "text" in config.model.conditions and config.condition.text.encoder == "frozen"
