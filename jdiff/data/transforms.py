"""What happens to one record on its way into a batch. Picklable, and free of JAX: worker processes run it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

CHANNEL_CHANGES = ((1, 3), (3, 1))  # (channels that images have, channels wanted)


@dataclass(frozen=True)
class Thumbnail:
    """The image in pixels `factor` times as large, the mean of what they cover: what super-resolution starts from."""

    factor: int

    def __call__(self, image: UInt8[np.ndarray, "h w c"]) -> UInt8[np.ndarray, "h w c"]:
        height, width, channels = image.shape
        rows, columns = -(-height // self.factor), -(-width // self.factor)
        edges = ((0, rows * self.factor - height), (0, columns * self.factor - width), (0, 0))
        whole = np.pad(image, edges, mode="edge").reshape(rows, self.factor, columns, self.factor, channels)
        coarse = np.round(whole.mean(axis=(1, 3))).astype(np.uint8)
        return coarse.repeat(self.factor, axis=0).repeat(self.factor, axis=1)[:height, :width]

    def channels(self, of_image: int) -> int:
        return of_image


@dataclass(frozen=True)
class Grey:
    """The image without its colours: what colourisation starts from."""

    def __call__(self, image: UInt8[np.ndarray, "h w c"]) -> UInt8[np.ndarray, "h w 1"]:
        return image if image.shape[-1] == 1 else to_channels(image[..., :3], 1)

    def channels(self, of_image: int) -> int:
        return 1


@dataclass(frozen=True, kw_only=True)
class ImageView:
    """record -> {"x0": uint8 [h, w, c], "cond": {...}}: the image is what is modelled, the rest conditions it.

    shape: (h, w, c) of x0. flip: mirror left and right with probability 1/2. labels: how many a record has; 0: none.
    image: makes cond["image"] of x0. text: (tokens, features of each; 0: they are numbers) of record["text"], which
    sources.captioned.Encoded gives. scalars: fields of a record, cond["scalars"] [k].
    """

    shape: tuple[int, int, int]
    flip: bool
    labels: int = 0
    image: Thumbnail | Grey | None = None
    text: tuple[int, int] | None = None
    scalars: tuple[str, ...] = ()

    def __call__(self, record: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        height, width, channels = self.shape
        image = resize_and_crop(to_channels(record["image"], channels), height, width)
        if self.flip and rng.random() < 0.5:
            image = image[:, ::-1]
        cond: dict[str, Any] = {}
        if self.labels:
            cond["label"] = np.asarray(record["label"], np.int32)
        if self.image:
            cond["image"] = self.image(image)
        if self.text:
            cond["text"] = record["text"]
        if self.scalars:
            cond["scalars"] = np.array([record[name] for name in self.scalars], np.float32)
        return {"x0": image, "cond": cond}

    def example(self, rows: int) -> dict[str, Any]:
        """A batch of zeros of the form that this view gives."""
        height, width, channels = self.shape
        cond: dict[str, Any] = {}
        if self.labels:
            cond["label"] = np.zeros((rows, self.labels) if self.labels > 1 else rows, np.int32)
        if self.image:
            cond["image"] = np.zeros((rows, height, width, self.image.channels(channels)), np.uint8)
        if self.text:
            length, features = self.text
            ids = np.ones((rows, length), np.int32)
            values = {"features": np.zeros((rows, length, features), np.float32), "mask": ids > 0}
            cond["text"] = values if features else ids
        if self.scalars:
            cond["scalars"] = np.zeros((rows, len(self.scalars)), np.float32)
        return {"x0": np.zeros((rows, *self.shape), np.uint8), "cond": cond}


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
