"""jdiff: image diffusion models in JAX.

model = jdiff.load("runs/digits")
images = model.sample(labels=[3, 3, 5], steps=18, guidance_scale=2.0)
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jdiff import interop
    from jdiff.model import Model, load

__all__ = ["Model", "interop", "load"]


def __getattr__(name: str) -> Any:
    """These are fetched when first used, so that `import jdiff` stays cheap (data workers import it too)."""
    if name == "interop":
        return importlib.import_module("jdiff.interop")
    if name in __all__:
        from jdiff import model

        return getattr(model, name)
    raise AttributeError(f"module 'jdiff' has no attribute {name!r}")
