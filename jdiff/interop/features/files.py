"""Files of pretrained weights: where people get them, and reading whatever of the usual formats they are in."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from jdiff.common.errors import UserError
from jdiff.common.paths import expanded
from jdiff.interop import tensors
from jdiff.interop.features import graphs, torch_files
from jdiff.interop.tensors import Tensors

IN_FOLDERS = ("model.safetensors", "pytorch_model.bin")  # transformers' names


@dataclass(frozen=True)
class Source:
    """A published file of weights. sha256: of the file, or its beginning; empty: not known."""

    what: str
    file: str
    url: str
    sha256: str = ""

    @property
    def hint(self) -> str:
        digest = {0: "", 64: f", sha256 {self.sha256}"}.get(
            len(self.sha256), f", whose sha256 begins with {self.sha256}"
        )
        return f"{self.what} is in the file {self.file}{digest}, from {self.url}"


def read(path: str | Path, source: Source) -> Tensors:
    """The tensors of a safetensors file, of torch's, or of transformers' folder, as float32.

    Raises UserError where there is none, it is damaged, or it has the published name and other contents.
    """
    file = expanded(path)
    if file.is_dir():
        inside = [file / name for name in IN_FOLDERS if (file / name).is_file()]
        if not inside:
            raise UserError(f"{file} holds neither {' nor '.join(IN_FOLDERS)}; {source.hint}")
        file = inside[0]
    try:
        with file.open("rb") as opened:
            start = opened.read(9)
            opened.seek(0)
            digest = hashlib.file_digest(opened, "sha256").hexdigest() if file.name == source.file else ""
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}); {source.hint}") from error
    if digest and not digest.startswith(source.sha256):
        raise UserError(f"{file} is damaged or another file: its sha256 begins with {digest[:8]}; {source.hint}")
    if file.suffix == ".pb":
        return graphs.read(file)
    return tensors.read_file(file)[0] if start[8:] == b"{" else torch_files.read(file)
