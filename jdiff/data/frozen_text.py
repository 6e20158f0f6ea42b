"""Features of captions from a frozen pretrained text encoder of the transformers library.

The encoder runs once, on the CPU; `cached` keeps the features in files, and reading those needs neither torch nor
transformers.
"""

import contextlib
import filecmp
import functools
import hashlib
import json
import os
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.lib import format as npy

from jdiff.common.errors import UserError, first_line, install
from jdiff.common.paths import expanded
from jdiff.data.sources.files import Progress, no_progress
from jdiff.data.tokenizer import OnLong, check_lengths, check_unicode

BATCH = 64
WIDTHS = ("hidden_size", "d_model", "dim", "n_embd")  # config.json's keys for the width of hidden states
MODEL_FILES = {".json", ".txt", ".model", ".safetensors", ".bin"}
CACHE_FORMAT = 2

TOKENIZER = "tokenizer"  # the folder beside an encoder's
# Any of them makes a folder a tokenizer's.
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "vocab.txt", "spiece.model")

Features = dict[str, np.ndarray]
Padding = Literal["masked", "read"]


@dataclass(frozen=True)
class FrozenEncoder:
    """The pretrained text encoder in the local folder `path`; of T5 the encoder, of CLIP the text model.

    length: tokens per text. on_long: "truncate" cuts a longer text by the model's own tokenizer, with one warning per
    call; "error" raises UserError. padding: of a shorter text, with the tokenizer's token for it, "masked" (zeros), or
    "read" by the encoder and by what takes the features, as in Stable Diffusion. clip_skip: the last layers of CLIP
    that are left out, but for its final norm. The tokenizer is the folder's own or, as in diffusers' pipelines, lies in
    the folder "tokenizer" beside it. Raises UserError for length < 3 and for a folder without a readable config.json;
    `features` also if the weights are incomplete or the extra `text` is not installed.
    """

    path: str
    length: int
    on_long: OnLong = "truncate"
    padding: Padding = "masked"
    clip_skip: int = 0

    def __post_init__(self) -> None:
        if self.length < 3:
            raise UserError(f"condition.text.length={self.length} must be at least 3: a start, a token and an end")
        if not self.path or not self._folder.is_dir():
            raise UserError(f"condition.text.path={self.path!r} is not a folder; give a pretrained encoder's folder")
        if not (self._folder / "config.json").is_file():
            raise UserError(f"{self.path} holds no config.json: it is not a model of the transformers library")
        _ = self.width

    @property
    def width(self) -> int:
        """Features per token."""
        try:
            config = json.loads((self._folder / "config.json").read_text("utf-8"))
            text = config.get("text_config") or config
            return int(next((text[name] for name in WIDTHS if name in text), None) or _default_width(self._folder))
        except UserError:
            raise
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise UserError(f"{self._folder / 'config.json'} cannot be read: {first_line(error)}") from error

    def features(self, texts: Sequence[str], progress: Progress = no_progress) -> Features:
        """{"features": float32 [n, length, width], "mask": bool [n, length]}: the last hidden state, zero at masked
        padding, and the tokens that are not masked. progress: wraps the iterable of batches to show a bar.
        """
        features = np.zeros((len(texts), self.length, self.width), np.float32)
        mask = np.zeros((len(texts), self.length), bool)
        first = 0
        for hidden, real in self._batches(texts, progress):
            features[first : first + len(hidden)] = hidden
            mask[first : first + len(hidden)] = real
            first += len(hidden)
        return {"features": features, "mask": mask}

    def _batches(self, texts: Sequence[str], progress: Progress) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(features, mask) of `features`, one batch at a time."""
        check_unicode(texts)
        tokenizer, model, limit = _load(str(self._folder), str(_tokenizer_of(self._folder)))
        import torch

        if self.length > limit:
            raise UserError(
                f"condition.text.length={self.length} is more than the {limit} tokens that {self.path} reads"
            )
        starts = range(0, len(texts), BATCH)
        batches = [list(texts[start : start + BATCH]) for start in starts]
        counts = [len(ids) for batch in batches for ids in tokenizer(batch, verbose=False)["input_ids"]]
        check_lengths(texts, counts, self.length, self.on_long)
        for batch in progress(batches, len(batches)):
            padding = "longest" if self.padding == "masked" else "max_length"
            tokens = tokenizer(batch, padding=padding, truncation=True, max_length=self.length, return_tensors="pt")
            ids, real = tokens["input_ids"], tokens["attention_mask"]
            if self.padding == "read":
                real = torch.ones_like(real)
            with torch.no_grad():
                hidden = self._hidden(model, ids, real if self.padding == "masked" else None)
            used = real.shape[1]
            features = np.zeros((len(batch), self.length, hidden.shape[-1]), np.float32)
            features[:, :used] = (hidden * real[..., None]).numpy()
            mask = np.zeros((len(batch), self.length), bool)
            mask[:, :used] = real.numpy() > 0
            yield features, mask

    def _hidden(self, model: Any, ids: Any, mask: Any) -> Any:
        """The hidden state of the last layer that is not left out, through the final norm."""
        if not self.clip_skip:
            return model(input_ids=ids, attention_mask=mask).last_hidden_state
        norm = getattr(model, "final_layer_norm", None)
        layers = model(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
        if norm is None or self.clip_skip >= len(layers):
            what = f"it has {len(layers) - 1} layers" if norm is not None else "it is not CLIP's"
            raise UserError(f"condition.text.clip_skip={self.clip_skip} leaves nothing of {self.path}: {what}")
        return norm(layers[-1 - self.clip_skip])

    @property
    def _folder(self) -> Path:
        return expanded(self.path)


def model_files(folder: Path) -> list[Path]:
    """The files of the encoder in a folder, then those of its tokenizer where that lies beside it."""
    found = [file for place in dict.fromkeys((folder, _tokenizer_of(folder))) for file in sorted(place.iterdir())]
    return [file for file in found if file.suffix in MODEL_FILES and file.is_file()]


def same_model(one: Path, other: Path) -> bool:
    """Whether the encoders in two folders, and their tokenizers, are the same."""
    ours, theirs = model_files(one), model_files(other)
    if [file.name for file in ours] != [file.name for file in theirs]:
        return False
    return all(filecmp.cmp(*pair, shallow=False) for pair in zip(ours, theirs, strict=True))


def cached(
    encoder: FrozenEncoder,
    texts: Sequence[str],
    folder: str | Path,
    otherwise: str | Path,
    progress: Progress = no_progress,
) -> Features:
    """`encoder.features(texts)` from a cache of two .npy files, memory-mapped, with float16 features.

    The first call computes them (and warns about long texts) and writes them to `folder`, or to `otherwise` if `folder`
    is not writable. The files' name is a hash of the model, the length and the texts. Raises UserError if neither
    folder is writable, or if features overflow float16.
    """
    key = _key(encoder, texts)
    for place in (Path(folder), Path(otherwise)):
        found = _open(place, key)
        if found:
            return found
    faults = []
    for place in (Path(folder), Path(otherwise)):
        try:
            place.mkdir(parents=True, exist_ok=True)
            with _new_file(place / f"{key}.features.npy") as features, _new_file(place / f"{key}.mask.npy") as mask:
                _write(encoder, texts, progress, features, mask)
        except OSError as error:
            faults.append(f"{place}: {error.strerror or error}")
            continue
        _load.cache_clear()  # training wants the memory
        made = _open(place, key)
        if made:
            return made
    raise UserError(f"the text features can be kept nowhere ({'; '.join(faults)}); make one of these folders writable")


def _tokenizer_of(folder: Path) -> Path:
    own, beside = (
        any((place / name).is_file() for name in TOKENIZER_FILES) for place in (folder, folder.parent / TOKENIZER)
    )
    return folder.parent / TOKENIZER if beside and not own else folder


def _open(folder: Path, key: str) -> Features | None:
    files = {name: folder / f"{key}.{name}.npy" for name in ("features", "mask")}
    if not all(file.is_file() for file in files.values()):
        return None
    return {name: np.load(file, mmap_mode="r") for name, file in files.items()}


def _write(encoder: FrozenEncoder, texts: Sequence[str], progress: Progress, features: Any, mask: Any) -> None:
    """Write both arrays to open files, one batch at a time, as all of them may exceed memory. A memory map would do,
    but on a full disk it kills the process instead of raising an error.
    """
    shape = (len(texts), encoder.length, encoder.width)
    for file, dtype, form in ((features, np.float16, shape), (mask, np.bool_, shape[:2])):
        header = {"descr": npy.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": form}
        npy.write_array_header_1_0(file, header)
    for hidden, real in encoder._batches(texts, progress):
        half = hidden.astype(np.float16)
        if not np.isfinite(half).all():
            raise UserError(f"{encoder.path} gives features that are not finite in float16")
        features.write(half.tobytes())
        mask.write(real.tobytes())


@contextlib.contextmanager
def _new_file(path: Path) -> Iterator[Any]:
    """A file open for writing, which appears at `path` only when complete."""
    new = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with open(new, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)
    finally:
        new.unlink(missing_ok=True)


def _key(encoder: FrozenEncoder, texts: Sequence[str]) -> str:
    """A hash of the model (the contents of its files), the number of tokens and the texts in order."""
    check_unicode(texts)
    head: list[Any] = [CACHE_FORMAT, encoder.length, encoder.on_long, len(texts)]
    if encoder.padding != "masked" or encoder.clip_skip:
        head += [encoder.padding, encoder.clip_skip]
    digest = hashlib.sha256(json.dumps(head).encode())
    for file in model_files(encoder._folder):
        with open(file, "rb") as stream:
            content = hashlib.file_digest(stream, "blake2b").hexdigest()
        digest.update(json.dumps([file.name, content]).encode())
    for text in texts:
        digest.update(json.dumps(text).encode() + b"\n")
    return f"text-{digest.hexdigest()[:24]}"


@functools.lru_cache(maxsize=1)
def _load(folder: str, words: str) -> tuple[Any, Any, int]:
    """(the tokenizer in `words`, text encoder in float32, its largest number of tokens)."""
    transformers = _library()
    options = {"local_files_only": True, "trust_remote_code": False}
    try:
        with _quiet(transformers):
            tokenizer = transformers.AutoTokenizer.from_pretrained(words, padding_side="right", **options)
            whole, report = transformers.AutoModel.from_pretrained(folder, output_loading_info=True, **options)
    except Exception as error:  # the library has no common base class for its errors
        raise UserError(f"{folder} cannot be loaded as a text encoder: {first_line(error)}") from error
    if tokenizer.pad_token_id is None:
        raise UserError(f"{folder} has a tokenizer without a padding token, so it is not a text encoder")
    encoder = whole.get_encoder() if whole.config.is_encoder_decoder else getattr(whole, "text_model", whole)
    # The library draws missing weights at random. Those of the pooler, a single vector per text, are not used here.
    used = {id(weight) for weight in encoder.parameters()}
    lost = [
        name
        for name, weight in whole.named_parameters(remove_duplicate=False)
        if name in report["missing_keys"] and id(weight) in used and "pooler" not in name
    ]
    if lost:
        raise UserError(f"{folder} lacks {len(lost)} of its encoder's weights (first: {lost[0]}); download it anew")
    positions = getattr(encoder.config, "max_position_embeddings", None)  # T5 has none: any length
    limit = min(positions, tokenizer.model_max_length) if positions else 2**31
    return tokenizer, encoder.float().eval(), limit


def _default_width(folder: Path) -> int:
    """The width of a model whose config.json omits it because it is the library's default."""
    config = _library().AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    return config.get_text_config().hidden_size


@contextlib.contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Without the library's progress bar and its table of unused weights."""
    logging = transformers.utils.logging
    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()


def _library() -> Any:
    try:
        import torch  # noqa: F401
        import transformers
    except ImportError as error:
        raise UserError(f"a pretrained text encoder needs more libraries ({error}): {install('text')}") from error
    return transformers
