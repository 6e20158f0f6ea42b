"""Picking from a family by name."""

from collections.abc import Mapping
from typing import TypeVar

from jdiff.config import one_of

Made = TypeVar("Made")


def pick(name: str, value: str, family: Mapping[str, Made]) -> Made:
    """The member of `family` that the config key `name` asks for."""
    return family[one_of(name, value, list(family))]
