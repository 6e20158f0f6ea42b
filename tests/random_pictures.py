"""Pictures of noise for tests, of any dtype that data may have."""

import numpy as np


def rng(seed=0):
    return np.random.default_rng(seed)


def noise(h, w, c, dtype="uint8"):
    if dtype == "float32":
        return rng(h * w).normal(100, 1000, (h, w, c)).astype(np.float32)
    return rng(h * w).integers(np.iinfo(dtype).max, endpoint=True, size=(h, w, c), dtype=dtype)
