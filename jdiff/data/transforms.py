"""What happens to one record on its way into a batch. Picklable, and free of JAX: worker processes run it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

CHANNEL_CHANGES = ((1, 3), (3, 1))  # (channels that images have, channels wanted)


@dataclass(frozen=True, kw_only=True)
class ImageView:
    """record -> {"x0": uint8 [h, w, c], "cond": {"label": int32}}: the image is what is modelled, the label
    conditions it.

    shape: (h, w, c) of x0. flip: mirror left and right with probability 1/2. labelled: whether records have a label.
    """

    shape: tuple[int, int, int]
    flip: bool
    labelled: bool

    def __call__(self, record: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        height, width, channels = self.shape
        image = resize_and_crop(to_channels(record["image"], channels), height, width)
        if self.flip and rng.random() < 0.5:
            image = image[:, ::-1]
        return {"x0": image, "cond": {"label": np.int32(record["label"])} if self.labelled else {}}

    def example(self, rows: int) -> dict[str, Any]:
        """A batch of zeros of the form that this view gives."""
        labels = {"label": np.zeros(rows, np.int32)} if self.labelled else {}
        return {"x0": np.zeros((rows, *self.shape), np.uint8), "cond": labels}


def resize_and_crop(image: UInt8[np.ndarray, "h w c"], height: int, width: int) -> UInt8[np.ndarray, "h2 w2 c"]:
    """The largest central box of height : width, scaled to height x width (bicubic, antialiased)."""
    h, w, channels = image.shape
    if (h, w) == (height, width):
        return image
    scale = max(height / h, width / w)
    box_h, box_w = min(h, height / scale), min(w, width / scale)
    box = ((w - box_w) / 2, (h - box_h) / 2, (w + box_w) / 2, (h + box_h) / 2)
    picture = Image.fromarray(image[..., 0] if channels == 1 else image)
    resized = picture.resize((width, height), Image.Resampling.BICUBIC, box)
    return np.asarray(resized).reshape(height, width, channels)


def to_channels(image: UInt8[np.ndarray, "h w c"], channels: int) -> UInt8[np.ndarray, "h w c2"]:
    """Grey to colour and back (ITU-R 601 luma): see CHANNEL_CHANGES."""
    change = (image.shape[-1], channels)
    if change == (1, 3):
        return np.repeat(image, 3, axis=-1)
    if change == (3, 1):
        return np.asarray(Image.fromarray(image).convert("L"))[..., None]
    return image
