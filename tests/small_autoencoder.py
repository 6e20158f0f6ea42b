"""An autoencoder task of few layers, which compiles soon."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from jdiff.common.keys import root_key
from jdiff.networks.autoencoder import Layout
from jdiff.networks.layers import Conv, Style
from jdiff.networks.resample import resample
from jdiff.spaces.first_stage import FirstStage
from jdiff.spaces.pixels import Pixels
from jdiff.tasks.adversary import Adversary
from jdiff.tasks.autoencoder import AutoencoderTask
from jdiff.tasks.reconstruction import Term, l1, l2

KEY = root_key(0)
LAYOUT = Layout(channels=8, channel_mults=(1, 1), blocks_per_level=1, middle_attention=False, style=Style())


class Upwards(nn.Module):
    @nn.compact
    def __call__(self, z):
        return Conv(1, name="last")(jnp.tanh(Conv(4, name="first")(resample(z, "up"))))


class Small(nn.Module):
    """What `Autoencoder` is, of three layers, which compile soon."""

    features: int
    latent_channels: int
    layout: Layout = LAYOUT

    def setup(self):
        self.encoder, self.decoder = Conv(self.features, stride=2), Upwards()

    def encode(self, x, *, train=False):
        return self.encoder(x)

    def decode(self, z, *, train=False):
        return self.decoder(z)

    def __call__(self, x):
        return self.decode(self.encode(x)[..., : self.latent_channels])


class Logits(nn.Module):
    @nn.compact
    def __call__(self, x):
        return Conv(1, name="last")(jnp.tanh(Conv(4, stride=2, name="first")(x)))


PLAYER = Adversary(network=Logits(), start_step=3)
TERMS = (Term("l1", l1), Term("l2", l2, 0.5))


def make_task(bottleneck, **fields) -> AutoencoderTask:
    stage = FirstStage(Small(bottleneck.features, bottleneck.channels), bottleneck, Pixels((8, 8, 1)))
    return AutoencoderTask(first_stage=stage, reconstruction=TERMS, **fields)


def make_batch(rows: int = 8) -> dict:
    images = np.random.default_rng(0).integers(0, 256, size=(rows, 8, 8, 1), dtype=np.uint8)
    return {"x0": jnp.asarray(images), "cond": {}}
