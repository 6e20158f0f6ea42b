"""Published networks have their published numbers of parameters (configs/networks.py)."""

import jax
import jax.numpy as jnp
import pytest

from configs import networks
from jdiff import build, config

# name, image, classes, millions published, tolerance in millions (the last digit given, or half a per cent for DiT)
PUBLISHED = [
    ("DDPM", (32, 32, 3), 0, 35.7, 0.05),  # Ho et al., 2006.11239, appendix B
    ("DDPMPP", (32, 32, 3), 0, 55.73, 0.005),  # as EDM's code prints it
    ("NCSNPP", (32, 32, 3), 0, 56.4, 0.05),  # Karras et al., 2206.00364, table 7
    ("ADM_64", (64, 64, 3), 1000, 295.9, 0.05),  # likewise
    ("DIT_S", (32, 32, 4), 1000, 33.0, 0.165),  # Peebles & Xie, 2212.09748, table 1
    ("DIT_B", (32, 32, 4), 1000, 130.5, 0.65),
    ("DIT_L", (32, 32, 4), 1000, 458.1, 2.3),
    ("DIT_XL", (32, 32, 4), 1000, 675.1, 3.4),
]


@pytest.mark.parametrize(("name", "shape", "classes", "millions", "tolerance"), PUBLISHED)
def test_presets_have_the_published_sizes(name, shape, classes, millions, tolerance):
    settings = config.defaults()
    with settings.unlocked():
        settings.network.update(getattr(networks, name))
        settings.data.shape, settings.data.class_names = shape, tuple(map(str, range(classes)))
        settings.model.conditions = ("label",) if classes else ()
        if name.startswith("DIT"):
            settings.model.update(schedule="linear", prediction="eps", learned_variance=True)
            settings.objective.draw = "steps"
    network = build.task(settings).network
    cond = {"label": jnp.zeros(1, int)} if classes else {}
    inputs = (jnp.zeros((1, *shape)), jnp.zeros(1), cond)
    params = jax.eval_shape(lambda: network.init(jax.random.key(0), *inputs))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) / 1e6 == pytest.approx(millions, abs=tolerance)
