"""CIFAR-10 in one or two calls of the network: the recipe of ECT (Geng et al., arXiv 2406.14548, appendix A), from an
unconditional EDM model: 100,000 steps of 128, q = 2, doubled every 3.2 million images; by the paper an FID of 4.54 in
one call and 2.20 in two. Not run here: it takes a GPU.

    python -m jdiff.main --config=configs/cifar10.py --config.model.conditions="()"
    python -m jdiff.main --config=configs/cifar10_ect.py --config.train.initial=runs/cifar10
"""

from ml_collections import ConfigDict

from configs import cifar10, flow_maps


def get_config() -> ConfigDict:
    config = cifar10.get_config()
    flow_maps.consistency_tuning(config, "runs/cifar10")
    config.flow_map.q = 2.0
    config.flow_map.stage_images = 3_200_000
    config.data.augment = 0.0
    config.model.conditions = ()
    config.objective.mean = -1.1
    config.network.dropout = 0.2
    config.train.images = 12_800_000
    config.train.learning_rate = 1e-4
    config.train.ema_halflife_images = 886_000  # 0.9999 a step of 128
    config.train.ema_rampup = 0.0
    config.sample.ladder = "by_hand"
    config.sample.sigmas = (80.0, 0.821)
    return config
