"""The page's fields for pictures, which refuse those of too many pixels before they are decoded: Gradio's own limit is
on the file, and a small file may hold a picture that fills the memory.

Methods of the fields are replaced, because Gradio writes a .pyi file beside the module of each subclass.
"""

from io import BytesIO
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

MOST_PIXELS = 25_000_000  # of a picture: decoded, 100 MB


def photo(label: str) -> gr.Image:
    """A picture to drop, [h, w, 3]."""
    field = gr.Image(label=label, type="numpy", image_mode="RGB")
    decode = field.preprocess

    def preprocess(payload: Any) -> Any:
        if payload and payload.path:
            refuse_large(payload.path)
        return decode(payload)

    field.preprocess = preprocess  # type: ignore[method-assign]
    return field


def canvas(label: str, brush: gr.Brush | None = None) -> gr.ImageEditor:
    """A picture to drop and to draw on, in layers of [h, w, 4]."""
    field = gr.ImageEditor(label=label, type="numpy", image_mode="RGBA", format="png", brush=brush)
    decode = field.convert_and_format_image

    def convert(file: Any, flatten_on_white: bool = False) -> Any:
        if file:
            refuse_large(BytesIO(file) if isinstance(file, bytes) else file.path)
        return decode(file, flatten_on_white)

    field.convert_and_format_image = convert  # type: ignore[method-assign]
    return field


def refuse_large(file: str | Path | BytesIO) -> None:
    """Raises gr.Error where the picture has more pixels than the page takes."""
    try:
        with Image.open(file) as picture:  # its header alone is read
            too_large = picture.width * picture.height > MOST_PIXELS
    except Image.DecompressionBombError:
        too_large = True
    if too_large:
        told = f"the picture has more than {MOST_PIXELS:,} pixels, which this page does not take: make it smaller"
        raise gr.Error(told, duration=10, print_exception=False)
