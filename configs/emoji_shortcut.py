"""Emoji from their names in a few calls of the network: a shortcut model (arXiv 2410.12557), from a run of emoji.py,
with its guidance trained in, so that a guided image costs one call a step. Not run here yet.

    python -m jdiff.main --config=configs/emoji.py --config.data.dir=PATH
    python -m jdiff.main --config=configs/emoji_shortcut.py --config.data.dir=PATH --config.train.initial=runs/emoji
"""

from ml_collections import ConfigDict

from configs import emoji


def get_config() -> ConfigDict:
    config = emoji.get_config()
    config.task = "flow_map"
    config.flow_map.loss = "shortcut"
    config.flow_map.scales = (1.0, 4.0)
    config.train.initial = "runs/emoji"
    config.train.steps = 1600
    config.train.learning_rate = 5e-4
    config.train.trajectory_every = 0
    config.sample.sampler = "flow_map"
    config.sample.ladder = "flow"  # equal steps in t, as half steps are learned
    config.sample.steps = 4
    config.guidance.method = "trained_in"
    return config
