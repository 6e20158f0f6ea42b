"""DICOM and NIfTI files -> arrays in the files' units."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from io import BufferedIOBase

import numpy as np
from jaxtyping import Float32, Float64, UInt8

from jdiff.common.errors import UserError, install
from jdiff.data import dicom, nifti
from jdiff.data.decode import Facts
from jdiff.data.sources import Picture
from jdiff.data.volumes import check_finite, quietly

ENDINGS = (".dcm", ".dicom", ".ima", ".nii", ".nii.gz")
TITLES = {"dicom": ("DICOM", "pydicom"), "nifti": ("NIfTI", "nibabel")}
DIRECTORY = b"1.2.840.10008.1.3.10"


def kind_of(name: str) -> str:
    """ "dicom", "nifti" or "", by a file's name: DICOM's may have no ending, or be an identifier such as 1.2.840.5."""
    low = name.lower()
    if low.endswith((".nii", ".nii.gz")):
        return "nifti"
    bare = low.rpartition("/")[2]
    return "dicom" if low.endswith(ENDINGS) or "." not in bare or bare.rpartition(".")[2].isdigit() else ""


def is_dicom(stream: BufferedIOBase) -> bool:
    """Whether a stream begins as DICOM does: 128 bytes, then "DICM". A DICOMDIR, which lists other files, is none."""
    head = stream.read(512)
    return head[128:132] == b"DICM" and DIRECTORY not in head


@dataclass(frozen=True)
class MedicalReader:
    """DICOM or NIfTI files -> float32 [h, w, 1] in the file's units, or uint8 [h, w, 3] RGB of DICOM in colour.

    DICOM: RescaleSlope stored + RescaleIntercept, or the Modality LUT. MONOCHROME1, where large is dark, is turned
    over, and its window with it: v -> v(lowest) + v(highest) - v, of the lowest and highest value that BitsStored can
    hold. Palettes and YBR become RGB. Not applied: VOI LUT sequences, presentation states, overlays.

    NIfTI: scl_slope stored + scl_inter, the slices data[:, :, k] of axis 2 (data[k], data[:, k] of 0, 1), not turned.
    Page k + slices t is slice k of volume t; axes after the fourth follow in Fortran's order.

    kind: "dicom" or "nifti". axis: 0, 1 or 2, of NIfTI. The others are set by `agreed`. low, high: the values of -1 and
    1 of a model. colour: whether the files are in colour. origin: where low and high come from. files, pages: how many.
    """

    kind: str
    axis: int = 2
    low: float | None = None
    high: float | None = None
    colour: bool = False
    origin: str = ""
    files: int = 0
    pages: int = 0

    @property
    def finds(self) -> str:
        """What decides of `look` beside the file."""
        return f"{self.kind}, axis {self.axis}"

    def __call__(
        self, stream: BufferedIOBase, page: int = 0
    ) -> Float32[np.ndarray, "h w 1"] | UInt8[np.ndarray, "h w 3"]:
        """A page. Raises ValueError if it cannot be read."""
        if self.kind == "dicom":
            return dicom.frame(dicom.opened(stream), page)
        values = nifti.slice_of(stream, self.axis, page)
        check_finite(values)
        return values[..., None]

    def look(self, stream: BufferedIOBase) -> Facts:
        """What there is to know of a file, which is read to its end. Its window is that of DICOM's attributes:

            LINEAR              (center - 0.5 - (width - 1) / 2, center - 0.5 + (width - 1) / 2)
            LINEAR_EXACT        (center - width / 2, center + width / 2)
            SIGMOID             the same: where the tangent at the center ends

        (PS3.3 C.11.2.1.2 and C.11.2.1.3), the first where there are several; None where frames differ in it, and of a
        VOI LUT sequence alone. Raises ValueError in one line for what cannot be read.
        """
        return dicom.look(stream) if self.kind == "dicom" else nifti.look(stream, self.axis)

    def picture(self, size: tuple[int | None, int | None]) -> Picture:
        """The description of the pages, of height and width `size` (None where they vary)."""
        if self.colour:
            return Picture((*size, 3))
        low, high = (0.0, 1.0) if self.low is None or self.high is None else (self.low, self.high)
        return Picture((*size, 1), "float32", low=low, high=high)

    def note(self) -> str:
        """One line on how the files are read; "" of none."""
        title = TITLES[self.kind][0]
        if self.colour:
            return f"{title}: {self.pages} images in colour, of {self.files} files, read as RGB of 8 bits"
        if self.low is None or self.high is None:
            return ""
        what = f"{self.pages} images of {self.files} files"
        if self.kind == "nifti":
            what = f"{self.pages} slices along axis {self.axis} of {self.files} files"
        return (
            f"{title}: {what}, in the files' units; {self.low:g} and {self.high:g} ({self.origin}) are a model's -1 "
            "and 1, and data.low and data.high choose others"
        )


def reader(kind: str, axis: int) -> MedicalReader:
    """The reader of "dicom" or "nifti" files. Raises UserError where its library is not installed, or for an axis that
    is not 0, 1 or 2.
    """
    title, library = TITLES[kind]
    try:
        quietly(library)
    except ImportError as error:
        raise UserError(f"{title} files need {library}: {install('medical')}") from error
    if axis not in (0, 1, 2):
        raise UserError(f"axis {axis}: a volume is cut into slices along 0, 1 or 2")
    return MedicalReader(kind, axis)


def agreed(
    facts: Mapping[str, Facts], read: MedicalReader, low: float | None = None, high: float | None = None
) -> tuple[MedicalReader, dict[str, str]]:
    """(the reader with what the files have in common, {name: its fault}).

    Files in colour among more grey ones are faults, and grey ones among more in colour. Without low and high, these are
    the window that all grey files have, else the extremes of all. Raises UserError where low is not below high.
    """
    colour = 2 * sum(one.colour for one in facts.values()) > len(facts)
    kept = {name: one for name, one in facts.items() if one.colour == colour}
    fault = "is grey, and most files are in colour" if colour else "is in colour, and most files are grey"
    faults = {name: fault for name in facts if name not in kept}
    read = replace(read, colour=colour, files=len(kept), pages=sum(one.pages for one in kept.values()))
    if colour or not kept:
        return read, faults
    windows = {one.window for one in kept.values()}
    first = next(iter(windows))
    if len(windows) == 1 and first is not None:
        (bottom, top), origin = first, "the window of all files"
    else:
        bottom, top = min(one.low for one in kept.values()), max(one.high for one in kept.values())
        origin = "the extremes of all files" + (", whose windows differ" if windows != {None} else "")
        top = top if bottom < top else bottom + 1  # one value is no range
    given = " and ".join(key for key, value in (("data.low", low), ("data.high", high)) if value is not None)
    bottom, top = bottom if low is None else float(low), top if high is None else float(high)
    if given:
        origin = given if low is not None and high is not None else f"{given}; {origin}"
    if not bottom < top:
        raise UserError(f"low {bottom:g} is not below high {top:g} ({origin}): give both data.low and data.high")
    return replace(read, low=bottom, high=top, origin=origin), faults


def affine(stream: BufferedIOBase) -> Float64[np.ndarray, "4 4"] | None:
    """The matrix from (row, column, page, 1) of a file's pages along axis 2 to (x, y, z, 1) in mm, x to the right, y to
    the front, z up, as NIfTI has it (DICOM's own x and y change their sign); None of a DICOM file without a place.
    Raises ValueError if the file cannot be read.
    """
    head = stream.read(132)
    if head[128:] == b"DICM" or head.startswith(dicom.BARE):
        return dicom.place(dicom.opened(stream))
    return np.asarray(nifti.described(nifti.uncompressed(stream)).affine, np.float64)
