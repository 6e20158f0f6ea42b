"""Keys to set, from what the data are like."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from jdiff.common.words import many, number, share
from jdiff.data import buckets
from jdiff.data.resize import Rule
from jdiff.doctor import thresholds as th
from jdiff.doctor.findings import Advice, Captions, PictureNumbers, Sure


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the config says now.

    image_size: data.image_size, 0 for the images' own. multiple: what the network needs sides to be a multiple of.
    target: the modelled picture. sigma_data: None where it is not used. mean: objective.mean; None for another draw
    than lognormal. images: those that training shows in all, or else epochs; 0: not said. text_length: None without
    text as a condition. ranges_are_free: whether data.low and data.high can be set. square: whether images must be
    (data.quarter_turns). buckets, balance: data.buckets and data.balance.
    """

    image_size: int = 0
    resize: Rule = "centre"
    multiple: int = 8
    target: str = "image"
    channels: int = 0
    sigma_data: float | None = th.USUAL_SIGMA_DATA
    mean: float | None = th.USUAL_MEAN
    dropout: float = 0.0
    batch_size: int = 128
    images: int = 0
    epochs: float = 0.0
    text_length: int | None = None
    vocabulary: int = 2048
    ranges_are_free: bool = False
    square: bool = False
    buckets: int = 0
    balance: str = ""


def advise(
    count: int,
    target: PictureNumbers,
    settings: Settings,
    *,
    captions: Captions | None,
    all_grey: bool,
    classes: Mapping[str, int],
    sizes_told: bool,
) -> tuple[Advice, ...]:
    """count: training images. target: the modelled picture. all_grey: images have three equal channels. classes: how
    many images each class has, where an image is of one. sizes_told: whether the source tells sizes without reading.
    """
    found = [image_size(target, settings)] if target.sizes else []
    found += shapes(target, settings) if target.sizes and sizes_told else []
    found += balance(classes, settings)
    if all_grey and target.name == "image":
        why = "all images are grey: three equal channels teach the network nothing that one does not"
        found.append(Advice("data.channels", "1", why, "sure", settings.channels != 1))
    found += [*sigma_data(target, settings), dropout(count, settings), length(count, settings)]
    if captions and captions.tokens and settings.text_length is not None:
        most, now = math.ceil(captions.tokens.high), settings.text_length
        wanted = math.ceil(most / 4) * 4
        why = f"99 % of the captions have at most {most} tokens, the longest {captions.tokens.highest:.0f}"
        found.append(Advice("condition.text.length", str(wanted), why, "likely", not wanted <= now <= 2 * wanted))
    return tuple(found)


def image_size(target: PictureNumbers, settings: Settings) -> Advice:
    """The side that images are brought to: one that the network can work with, and to which few images must be
    enlarged. The config's is left alone where it is such a side.
    """
    sides = target.short_sides
    (height, width), *others = target.sizes
    square = not others and height == width
    low, middle, high = np.percentile(sides, (0, 50, 100)).astype(int)
    between = str(low) if low == high else f"{low} .. {high} (half of them at least {middle})"
    size, sure, why = _side(sides, settings, square=square)
    why = (f"all images are {height} x {width}" if square else f"shorter sides are {between} pixels") + why
    lost = float(np.median(1 - np.minimum(target.aspects, 1 / target.aspects)))
    if lost > 0.1 and settings.resize in ("centre", "adm", "random_crop"):
        why += f". A square leaves out {share(lost)} of the usual image"
    if not others and max(height, width) == 2 * min(height, width):
        halves = "left,right" if width > height else "top,bottom"
        why += f". If each is two pictures in one: data.name=pairs and data.halves={halves}"
    change = (settings.image_size or (height if square else 0)) != size
    return Advice("data.image_size", str(size), why, sure, change)


def _side(sides: Int[np.ndarray, " n"], settings: Settings, *, square: bool) -> tuple[int, Sure, str]:
    """(side, how sure, what to say of it) for images of these shorter sides."""
    factor, base, side = settings.multiple, float(np.percentile(sides, 10)), settings.image_size
    named = side > 0 and side % factor == 0
    if named and side <= base:
        return side, "sure", f", which is enough for {side}" if side < base else ""
    if base < factor:
        why = f": smaller than {factor}, the least that the network can work with, so they are enlarged"
        return factor, "a guess", why
    if square and base <= th.LARGEST_SIDE:
        own = int(base)
        below = own - own % factor
        why = f", which is {'a' if below == own else 'no'} multiple of {factor}, as the network needs"
        return below if below >= 0.9 * own else below + factor, "likely" if named else "sure", why
    size = min(th.LARGEST_SIDE, 2 ** math.floor(math.log2(base)))
    size = max(factor, size - size % factor)
    small = float((sides < size).mean())
    why = f"; {share(small)} are smaller than {size} and are enlarged" if small else ""
    why += f". Every doubling costs four times the time: begin with {size}" if base >= 2 * size else ""
    return size, "likely", why


def shapes(target: PictureNumbers, settings: Settings) -> list[Advice]:
    """Several shapes, where images are of so many that one crops much of them."""
    side = settings.image_size
    if not isinstance(side, int) or settings.square or settings.resize not in ("centre", "adm"):
        return []
    sizes = np.repeat(np.array(list(target.sizes)), list(target.sizes.values()), axis=0)
    side = side or _side(target.short_sides, settings, square=False)[0]
    chosen = [
        buckets.choose(sizes, side=side, most=most, multiple=settings.multiple)
        for most in (1, settings.buckets or th.BUCKETS)
    ]
    one, several = (buckets.kept(sizes, some) for some in chosen)
    if several - one < th.SAVED:
        return []
    square = buckets.kept(sizes, ((side, side),))
    why = f"a square crops {share(1 - square)} of the pixels, {len(chosen[1])} shapes of about as many crop "
    why += share(1 - several)
    return [Advice("data.buckets", str(settings.buckets or th.BUCKETS), why, "likely", not settings.buckets)]


def balance(classes: Mapping[str, int], settings: Settings) -> list[Advice]:
    """Classes drawn as often as each other, where some are much rarer."""
    sizes = sorted((count, name) for name, count in classes.items() if count)
    if len(sizes) < 2 or sizes[-1][0] < th.UNEVEN * sizes[0][0]:
        return []
    (least, rare), (most, usual) = sizes[0], sizes[-1]
    why = f"{rare} has {many(least, 'image')} and {usual} {most:,}: drawn as they come, the rare are hardly learnt. "
    why += "data.balance_power=0.5 goes half way"
    return [Advice("data.balance", "class", why, "likely", not settings.balance)]


def sigma_data(target: PictureNumbers, settings: Settings) -> list[Advice]:
    """The data's standard deviation, and EDM's noise levels moved along with it: mean = -1.2 + ln(sigma_data / 0.5).

    That mean is of small pictures. In larger ones, and in masks, neighbouring pixels average the noise out: more of it
    is wanted, and the numbers do not say how much more, so nothing is said of it.
    """
    as_trained, found = target.trained_sigma is not None, []
    measured = round(target.sigma_data if target.trained_sigma is None else target.trained_sigma, 2)
    if measured <= 0:
        return []
    size = settings.image_size or int(target.short_sides.max(initial=0))
    if settings.sigma_data is not None:
        own = len(target.sizes) == 1 and not settings.image_size
        why = f"the standard deviation of {target.name}s in [-1, 1], over all pixels and channels"
        why += f", at {size} x {size}" if as_trained else "" if own else ", at the files' own sizes: less when shrunk"
        sure: Sure = "sure" if as_trained or own else "likely"
        change = abs(settings.sigma_data / measured - 1) > 0.1
        found.append(Advice("model.sigma_data", f"{measured:.2f}", why, sure, change))
    mean = round(th.USUAL_MEAN + math.log(measured / th.USUAL_SIGMA_DATA), 1)
    small = size <= th.SMALL_SIDE and target.kind != "mask"
    if settings.mean is not None and small and abs(mean - settings.mean) > 0.15:
        why = f"EDM's {th.USUAL_MEAN} belongs to sigma_data {th.USUAL_SIGMA_DATA}; noise levels move with the spread"
        found.append(Advice("objective.mean", f"{mean:.1f}", why, "likely"))
    return found


def dropout(count: int, settings: Settings) -> Advice:
    """EDM's rates by the number of images."""
    rate = next((rate for most, rate in th.DROPOUT if count <= most), 0.0)
    why = f"{many(count, 'training image')}; against learning by heart EDM takes 0.25 for 15,000, 0.13 for 50,000 and "
    why += "0.05 for 70,000, in long trainings"
    return Advice("network.dropout", number(rate), why, "likely", abs(settings.dropout - rate) > 0.06)


def length(count: int, settings: Settings) -> Advice:
    """How long to train: long enough to see what comes, far from what papers spend."""
    images = int(min(max(200 * count, 500_000), 50_000_000))
    images = round(images, -len(str(images)) + 2)
    why = f"{-(-images // settings.batch_size):,} steps of {settings.batch_size}"
    if count < th.FEW_IMAGES:
        why += f". {many(count, 'image')} can only be learnt by heart: enough to see that training runs, no more"
    else:
        why += f", {images / count:,.0f} times each image"
        few = ". Of so few images a long training gives copies: watch the held-out loss, and sample.checkpoint=best"
        why += few if count < th.COPIED_IMAGES else "; papers take up to 4,000 times"
    now = settings.images or settings.epochs * count
    near = bool(now) and images / 4 <= now <= 20 * images
    return Advice("train.images", str(images), why, "a guess", not near)
