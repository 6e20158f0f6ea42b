"""Published networks have their published numbers of parameters (configs/networks.py)."""

import jax
import jax.numpy as jnp
import pytest

from configs import networks
from jdiff import config, from_config, interop
from jdiff.from_config.networks import settings_of

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


def network_of(name, shape, classes):
    settings = config.defaults()
    with settings.unlocked():
        settings.network.update(getattr(networks, name))
        settings.data.shape, settings.data.class_names = shape, tuple(map(str, range(classes)))
        settings.model.conditions = ("label",) if classes else ()
        if name.startswith("DIT"):
            settings.model.update(schedule="linear", prediction="eps", learned_variance=True)
            settings.objective.draw = "steps"
    return from_config.task(settings).network


@pytest.mark.parametrize(("name", "shape", "classes", "millions", "tolerance"), PUBLISHED)
def test_presets_have_the_published_sizes(name, shape, classes, millions, tolerance):
    network = network_of(name, shape, classes)
    cond = {"label": jnp.zeros(1, int)} if classes else {}
    inputs = (jnp.zeros((1, *shape)), jnp.zeros(1), cond)
    params = jax.eval_shape(lambda: network.init(jax.random.key(0), *inputs))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) / 1e6 == pytest.approx(millions, abs=tolerance)


@pytest.mark.parametrize(("name", "shape", "classes"), [row[:3] for row in PUBLISHED])
def test_presets_say_every_key_of_their_kind(name, shape, classes):
    """So that one can follow another, in any config."""
    assert settings_of(network_of(name, shape, classes)) == getattr(networks, name)


def test_ddpm_is_what_its_published_weights_need():
    """By the config.json of google/ddpm-cifar10-32 on the Hugging Face hub."""
    theirs = interop.describe(
        {
            "_class_name": "UNet2DModel",
            "attention_head_dim": None,
            "block_out_channels": [128, 256, 256, 256],
            "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
            "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
            "downsample_padding": 0,
            "flip_sin_to_cos": False,
            "freq_shift": 1,
            "norm_eps": 1e-6,
        }
    )
    groups = {"norm_groups": 32}  # as many as ours come to; on its skip branches, a resampling convolution needs none
    assert settings_of(theirs.network) == {**networks.DDPM, **groups, "project_resampled": False}
