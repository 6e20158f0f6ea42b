"""Kinds of conditions, one a file. Free of JAX until an embedder is asked for: data workers read records by them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeAlias, runtime_checkable

import numpy as np

from jdiff.data.sources import Picture

Values: TypeAlias = Any  # arrays [n, ...], or a dict of them


@runtime_checkable
class Condition(Protocol):
    """A kind of condition: where its values come from, and what the network makes of them.

    name: in a batch's "cond" and in model.conditions. argument: a caller's keyword for its values. words: its values in
    a sentence. drop_rate: the share of training examples that have its learned null instead. token_width: features of
    the tokens that it gives attention to look at; 0 for none. only_tokens: the setting by which it gives nothing else.
    """

    name: ClassVar[str]
    argument: ClassVar[str]
    words: ClassVar[str]
    drop_rate: float

    @property
    def token_width(self) -> int:
        return 0

    @property
    def only_tokens(self) -> str:
        return ""

    @property
    def pictures(self) -> Mapping[str, Picture]:
        """The pictures of a record that it is made from, by name, with the channels that it takes them in."""
        return {}

    def in_folder(self, workdir: Path | None) -> "Condition":
        """The condition with what it keeps in a run's folder."""
        return self

    def of_record(self, record: Mapping[str, Any], pictures: Mapping[str, np.ndarray]) -> Values:
        """The values of one record, its pictures being resized and turned as the target is."""
        ...

    def of_caller(self, values: Any) -> Values:
        """Rows of values from what a caller gives; UserError where that is wrong."""
        ...

    def of_shape(self, sides: tuple[int, int]) -> Values | None:
        """A row of values where the images' height and width say it; None where a caller must."""
        return None

    def example(self, rows: int, sides: tuple[int, int]) -> Values:
        """Zeros in the form of a batch; sides: of the target."""
        ...

    def encode(self, values: Values) -> Values:
        """In a program: the values as its embedder takes them."""
        return values

    def embedder(self, vector_features: int, dtype: Any) -> Any:
        """The Flax module that tells a network of the values (networks/conditioning.py)."""
        ...


__all__ = ["Condition", "Values"]
