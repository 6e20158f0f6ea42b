"""jdiff: image diffusion models in JAX.

model = jdiff.load("runs/digits")
images = model.sample(labels=[3, 3, 5], steps=18, guidance_scale=2.0)
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jdiff.model import Model, load

__all__ = ["Model", "load"]


def __getattr__(name: str) -> Any:
    """`load` and `Model` are fetched when first used, so that `import jdiff` stays cheap (data workers import it
    too).
    """
    if name in __all__:
        from jdiff import model

        return getattr(model, name)
    raise AttributeError(f"module 'jdiff' has no attribute {name!r}")
