"""How well an autoencoder gives images back."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Num, UInt8
from PIL import Image

from jdiff.common.progress import Progress
from jdiff.evaluation.gather import BATCH, Gathered, Pictures, Read
from jdiff.evaluation.numbers import HIGHER, LOWER, OVER_IMAGES, Number
from jdiff.metrics import image as scores
from jdiff.metrics import moments
from jdiff.metrics.frechet import frechet_of_moments, standard_error
from jdiff.scoring.latent_use import LatentUse

KEPT = 10_000  # images whose features are kept, for the distance's error
ABOUT = {
    "psnr": ("PSNR", HIGHER, "dB, of each image against what comes back of it"),
    "ssim": ("SSIM", HIGHER, "likeness of structure, 1 for equal images"),
    "lpips": ("LPIPS", LOWER, "distance as people see it, by a trained network"),
    "bicubic": ("PSNR of bicubic", "", "dB, of images made {0} times smaller and large again, for comparison"),
}
Images = Num[np.ndarray, "b h w c"]


@dataclass(frozen=True, kw_only=True)
class Features:
    """What a Frechet distance is of. read: images as they are on a screen -> their features [b, dimension]."""

    name: str
    title: str
    read: Read
    dimension: int


@dataclass(frozen=True, kw_only=True)
class Scores:
    """numbers: of all images. psnr: of each. faults: of the latents, a line each."""

    numbers: list[Number]
    psnr: Float[np.ndarray, " n"]
    faults: list[str]


def score(
    images: Pictures,
    given_back: Callable[[Images], tuple[np.ndarray, Images]],
    use: LatentUse,
    *,
    stride: int,
    lpips: Callable[[UInt8[np.ndarray, "b h w c"], UInt8[np.ndarray, "b h w c"]], Float[np.ndarray, " b"]] | None,
    features: Features | None,
    progress: Progress,
) -> Scores:
    """The numbers of images and what comes back of them. given_back: images -> (what the encoder says, images)."""
    values = images.values
    by_image: dict[str, list[np.ndarray]] = {}
    dimension = features.dimension if features else 1
    sides = Gathered(moments.empty(dimension), KEPT), Gathered(moments.empty(dimension), KEPT)
    firsts = range(0, len(images), BATCH)
    for first in progress(firsts, len(firsts)):
        given, _ = images.raw(np.arange(first, min(first + BATCH, len(images))))
        given = values.from_model(values.to_model(given))  # within the window that the model sees
        said, back = given_back(given)
        use.add(said)
        for name, each in _of_images(given, back, values.high - values.low, stride).items():
            by_image.setdefault(name, []).append(each)
        shown = values.on_screen(back), values.on_screen(given)
        if lpips:
            by_image.setdefault("lpips", []).append(lpips(*shown))
        if features:
            for side, pictures in zip(sides, shown, strict=True):
                side.add(features.read(pictures))
    numbers = [_mean(name, np.concatenate(each), stride) for name, each in by_image.items()]
    if features:
        numbers.append(_distance(features, *sides))
    return Scores(numbers=[*numbers, *use.numbers()], psnr=np.concatenate(by_image["psnr"]), faults=use.faults())


def _of_images(given: Images, back: Images, extent: float, stride: int) -> dict[str, Float[np.ndarray, " b"]]:
    found = {"psnr": scores.psnr(back, given, extent)}
    if min(given.shape[1:3]) > 2 * scores.RADIUS:
        found["ssim"] = scores.ssim(back, given, extent)
    if min(given.shape[1:3]) >= stride > 1:
        found["bicubic"] = scores.psnr(_bicubic(given, stride), given, extent)
    return found


def _bicubic(images: Images, factor: int) -> Float[np.ndarray, "b h w c"]:
    """Images made `factor` times smaller and large again by Pillow's antialiased bicubic filter."""
    height, width = images.shape[1:3]

    def back(channel: np.ndarray) -> np.ndarray:
        small = Image.fromarray(channel.astype(np.float32)).resize(
            (width // factor, height // factor), Image.Resampling.BICUBIC
        )
        return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))

    made = [np.stack([back(image[..., c]) for c in range(image.shape[-1])], axis=-1) for image in images]
    return np.clip(np.stack(made), images.min(), images.max())


def _mean(name: str, values: Float[np.ndarray, " n"], stride: int) -> Number:
    title, better, about = ABOUT[name]
    finite = values[np.isfinite(values)]  # equal images have no finite PSNR
    equal = len(values) - len(finite)
    error = float(finite.std(ddof=1) / np.sqrt(len(finite))) if len(finite) > 1 else None
    return Number(
        name=name,
        title=title,
        value=float(finite.mean()) if len(finite) else float("inf"),
        error=error,
        spread=OVER_IMAGES,
        better=better,
        about=about.format(stride),
        count=len(values),
        note=f"{equal} images come back equal, and are left out" if equal else "",
    )


def _distance(features: Features, back: Gathered, given: Gathered) -> Number:
    found = frechet_of_moments(back.moments, given.moments)
    few = back.count <= found.dimensions
    return Number(
        name=features.name,
        title=features.title,
        value=found.distance,
        error=standard_error(back.features, back.moments, given.moments),
        spread=OVER_IMAGES,
        better=LOWER,
        about="distance of what comes back from these images, by their features",
        count=back.count,
        of=given.count,
        note=f"{back.count} images are too few for features of {found.dimensions} dimensions" if few else "",
    )
