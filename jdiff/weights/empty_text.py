"""What stands in for a dropped text where that is the empty text, as in Stable Diffusion: its features, not trained."""

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Float, PyTree
from ml_collections import ConfigDict

from jdiff.from_config.conditions import frozen_text
from jdiff.weights.read import NULL

Features = Float[np.ndarray, "tokens width"]


def empty_text(config: ConfigDict) -> Features | None:
    """The features of the empty text, where the config says that they stand in for a dropped one; else None."""
    if "text" not in config.model.conditions or config.condition.text.null != "empty":
        return None
    return frozen_text(config).features([""])["features"][0]


def with_null(params: PyTree, features: Features | None) -> PyTree:
    """The parameters, whatever holds them, with these features in place of a dropped text; as they are for None."""
    if features is None:
        return params
    flat = flatten_dict(params)
    null = {
        path: jax.device_put(jnp.array(features), leaf.sharding) for path, leaf in flat.items() if path[-2:] == NULL
    }
    return unflatten_dict(flat | null)
