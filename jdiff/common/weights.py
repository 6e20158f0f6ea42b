"""What a model is made of."""

from typing import Any

from flax import struct


@struct.dataclass
class Weights:
    """What a run loads, a Model holds, a program takes and an export writes.

    params: the parameters that gradients train. state: what a task keeps beside them ({} for most).
    """

    params: Any
    state: Any
