"""What a model says of the masks of images: the mean over its members, and how far they agree."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8


@dataclass(frozen=True, kw_only=True, eq=False)
class Segmentation:
    """probabilities: of each class, the mean over members. variance: over members, of the probability of a class,
    summed over classes and halved, which is that of the foreground where there are two. members: the number of the
    likeliest class in each. classes: the masks' values.
    """

    probabilities: Float[np.ndarray, "n h w classes"]
    variance: Float[np.ndarray, "n h w"]
    members: UInt8[np.ndarray, "n m h w"]
    classes: tuple[int, ...]

    @property
    def numbers(self) -> UInt8[np.ndarray, "n h w"]:
        """The number of the likeliest class of each pixel; where several are, the lowest."""
        return self.probabilities.argmax(axis=-1).astype(np.uint8)

    @property
    def masks(self) -> UInt8[np.ndarray, "n h w"]:
        """The likeliest masks, of the data's values."""
        return np.asarray(self.classes, np.uint8)[self.numbers]

    @property
    def foreground(self) -> Float[np.ndarray, "n h w"]:
        """The probability that a pixel is not of the first class."""
        return 1 - self.probabilities[..., 0]

    @property
    def entropy(self) -> Float[np.ndarray, "n h w"]:
        """Of the mean over members, in nats."""
        return entropy(self.probabilities)


def entropy(p: Float[np.ndarray, "*b classes"]) -> Float[np.ndarray, "*b"]:
    """-sum over classes of p ln p, in nats."""
    return -(p * np.log(np.maximum(p, np.finfo(p.dtype).tiny))).sum(axis=-1)


def gathered(
    parts: Iterable[Float[np.ndarray, "b h w classes"]], members: int, classes: tuple[int, ...]
) -> Segmentation:
    """Of each image's members' probabilities, the members of an image one after the other, in batches of any size."""
    means, variances, likeliest = [], [], []
    held = np.zeros((0,))
    for part in parts:
        held = np.concatenate([held, part]) if len(held) else part
        whole = len(held) // members
        of_image = held[: whole * members].reshape(whole, members, *held.shape[1:])
        held = held[whole * members :]
        means.append(of_image.mean(axis=1))
        variances.append(of_image.var(axis=1).sum(axis=-1) / 2)
        likeliest.append(of_image.argmax(axis=-1).astype(np.uint8))
    return Segmentation(
        probabilities=np.concatenate(means),
        variance=np.concatenate(variances),
        members=np.concatenate(likeliest),
        classes=classes,
    )
