"""What happens to one record on its way into a batch. Picklable, and free of JAX: worker processes run it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image


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


def resize_and_crop(image: UInt8[np.ndarray, "h w c"], height: int, width: int) -> UInt8[np.ndarray, "h2 w2 c"]:
    """Scale (bicubic, antialiased) until the image just covers height x width, then cut the centre out."""
    h, w, channels = image.shape
    if (h, w) == (height, width):
        return image
    scale = max(height / h, width / w)
    new_h, new_w = max(height, round(h * scale)), max(width, round(w * scale))
    picture = Image.fromarray(image[..., 0] if channels == 1 else image)
    resized = np.asarray(picture.resize((new_w, new_h), Image.Resampling.BICUBIC)).reshape(new_h, new_w, channels)
    top, left = (new_h - height) // 2, (new_w - width) // 2
    return resized[top : top + height, left : left + width]


def to_channels(image: UInt8[np.ndarray, "h w c"], channels: int) -> UInt8[np.ndarray, "h w c2"]:
    """Grey to colour and back (ITU-R 601 luma); raises ValueError for any other change of the channel count."""
    have = image.shape[-1]
    if have == channels:
        return image
    if (have, channels) == (1, 3):
        return np.repeat(image, 3, axis=-1)
    if (have, channels) == (3, 1):
        return np.asarray(Image.fromarray(image).convert("L"))[..., None]
    raise ValueError(f"images of {have} channels cannot become images of {channels}")
