"""What a visitor of the page asks for: within its limits, and as settings."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jdiff.common.errors import UserError

LARGEST_SEED = 2**32 - 1
PATH = re.compile(r"(?P<web>https?://\S+)|(?<![\w.])~?(?:/[^\s/:;,'\"()]+){2,}/?")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The most that one request may ask for (the config's group serve)."""

    images: int
    steps: int


@dataclass(frozen=True, kw_only=True)
class Asked:
    """num_images: at once. preset: denoiser calls of a tuned setting, 0 for none; with one, sampler, ladder, steps and
    guidance are its own. ladder: "" for the run's own, with its steps. guidance_scale: None for the run's own.
    conditions: a caller's keyword -> its values, one for all images. view: how a picture that is given besides is made
    the image condition (sample.condition_view); "" without a picture.
    """

    num_images: int = 1
    seed: int = 0
    sampler: str = "heun"
    ladder: str = "auto"
    steps: int = 18
    preset: int = 0
    guidance_scale: float | None = None
    conditions: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    view: str = ""

    def within(self, limits: Limits) -> "Asked":
        """This, unless it is more than the page does at once. Raises UserError that names the limit."""
        for what, value, most in (("images", self.num_images, limits.images), ("steps", self.steps, limits.steps)):
            if not 1 <= value <= most:
                raise UserError(
                    f"{value} {what}: this page takes 1 to {most:,} (serve.most_{what}); the command takes more"
                )
        if not 0 <= self.seed <= LARGEST_SEED:
            raise UserError(f"seed {self.seed} must be a whole number from 0 to {LARGEST_SEED:,}")
        return self

    @property
    def settings(self) -> dict[str, Any]:
        """Keywords of `Model.sample`, but num_images and the picture."""
        by_hand: dict[str, Any] = {"sampler": self.sampler}
        if self.ladder:
            by_hand |= {"ladder": self.ladder, "steps": self.steps}
        if self.guidance_scale is not None:
            by_hand["guidance_scale"] = self.guidance_scale
        chosen = {"preset": self.preset} if self.preset else by_hand
        return {"seed": self.seed, **chosen, **self.conditions}


def without_paths(text: str) -> str:
    """A message for visitors: of each path of this machine, its last part alone."""
    return PATH.sub(lambda found: found["web"] or found[0].rstrip("/").rpartition("/")[2], text)
