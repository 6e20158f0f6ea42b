"""Equivariance regularisation (EQ-VAE, Kouzelis et al., arXiv 2502.09509): decode(T z) is compared with T x.

T is a quarter turn or a bilinear scale by 8/32 to 31/32. Row i of a batch has the transform of place i modulo a period:
shapes are static, and every device that holds consecutive rows has some of each transform.
"""

import math
from dataclasses import dataclass
from itertools import cycle, islice

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

PERIODS = range(4, 13)
LEAST_SIDE = 4  # of latents that are scaled
SMALLEST, LARGEST = 8 / 32, 31 / 32
MOST_SIDES = 3  # each is decoded by itself
TURNS = (1, 3, 2)


@dataclass(frozen=True)
class Transform:
    """turns: by 90 degrees. sides: of the latent once scaled; None: as they are."""

    turns: int = 0
    sides: tuple[int, int] | None = None

    def out(self, sides: tuple[int, int]) -> tuple[int, int]:
        """The sides of a transformed latent."""
        return self.sides or (sides[::-1] if self.turns % 2 else sides)

    def __call__(self, x: Float[Array, "b h w c"], stride: int = 1) -> Float[Array, "b h2 w2 c"]:
        """T x, of latents, or of images whose sides are `stride` times theirs."""
        if self.sides is not None:
            shape = (len(x), *(stride * side for side in self.sides), x.shape[-1])
            return jax.image.resize(x, shape, "linear", antialias=True)
        return jnp.rot90(x, self.turns, axes=(1, 2))


UNCHANGED = Transform()


def transforms(rows: int, share: float, sides: tuple[int, int]) -> tuple[Transform, ...]:
    """The transform of each place of the period, the unchanged ones first. sides: of the latents.

    The period is a divisor of `rows`, from 4 to 12 where there is one. Where share > 0, at least one place of several
    is transformed and one is not. Half of the transformed are turned, half are scaled, to at most three sizes; latents
    with a side below 4 are only turned.
    """
    divisors = [number for number in range(1, rows + 1) if rows % number == 0]
    period = max((number for number in divisors if number in PERIODS), default=0)
    period = period or min((number for number in divisors if number >= PERIODS[0]), default=rows)
    count = min(max(round(share * period), 1), period - 1) if share else 0
    scales = _scales(min((count + 1) // 2, MOST_SIDES), sides)
    turned = count // 2 if scales else count
    chosen = [*islice(cycle(Transform(turns) for turns in TURNS), turned), *islice(cycle(scales), count - turned)]
    return (UNCHANGED,) * (period - count) + tuple(chosen)


@dataclass(frozen=True)
class Group:
    """Rows of a batch whose latents have the same sides once transformed. places: of the period, with their transforms;
    the unchanged ones come first.
    """

    places: tuple[tuple[int, Transform], ...]
    period: int

    def take(self, x: Float[Array, "b h w c"], stride: int = 1) -> Float[Array, "b2 h2 w2 c"]:
        """The group's rows of the batch, transformed: latents, or images whose sides are `stride` times theirs."""
        by_place = x.reshape(-1, self.period, *x.shape[1:])
        changed = jnp.stack([transform(by_place[:, place], stride) for place, transform in self.places], axis=1)
        return changed.reshape(-1, *changed.shape[2:])

    def unchanged(self, rows: Shaped[Array, "b ..."]) -> Shaped[Array, "b2 ..."]:
        """Of the group's rows, those that are not transformed."""
        return self._between(rows, 0, self._count)

    def changed(self, rows: Shaped[Array, "b ..."]) -> Shaped[Array, "b2 ..."]:
        """Of the group's rows, those that are transformed."""
        return self._between(rows, self._count, len(self.places))

    @property
    def _count(self) -> int:
        return sum(transform == UNCHANGED for _, transform in self.places)

    def _between(self, rows: Array, first: int, end: int) -> Array:
        by_place = rows.reshape(-1, len(self.places), *rows.shape[1:])[:, first:end]
        return by_place.reshape(-1, *rows.shape[1:])


def groups(rows: int, share: float, sides: tuple[int, int]) -> list[Group]:
    """Groups that hold every row once, so that each is decoded once; the first has the unchanged ones."""
    by_sides: dict[tuple[int, int], list[tuple[int, Transform]]] = {}
    places = transforms(rows, share, sides)
    for place, transform in enumerate(places):
        by_sides.setdefault(transform.out(sides), []).append((place, transform))
    return [Group(tuple(members), len(places)) for members in by_sides.values()]


def _scales(count: int, sides: tuple[int, int]) -> list[Transform]:
    """At most `count` scales, spread evenly over those that give different sides of at least 2."""
    height, width = sides
    if min(sides) < LEAST_SIDE:
        return []
    least, most = max(2, math.ceil(height * SMALLEST)), math.floor(height * LARGEST)
    heights = sorted({round(least + (most - least) * (index + 0.5) / count) for index in range(count)})
    return [Transform(sides=(side, max(2, round(width * side / height)))) for side in heights]
