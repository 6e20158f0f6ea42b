"""Fashion-MNIST in one or two calls of the network: consistency tuning (ECT, arXiv 2406.14548) of a run of
fashion_mnist.py, with its network. Not run here yet.

    python -m jdiff.main --config=configs/fashion_mnist_ect.py --config.train.initial=runs/fashion_mnist
"""

from ml_collections import ConfigDict

from configs import fashion_mnist, flow_maps


def get_config() -> ConfigDict:
    config = fashion_mnist.get_config()
    flow_maps.consistency_tuning(config, "runs/fashion_mnist")
    config.flow_map.q = 256.0
    config.flow_map.c = 0.06
    config.objective.mean = -0.8
    config.train.images = 1_000_000
    config.train.learning_rate = 2e-4
    config.train.schedule = "cosine"
    config.train.ema_halflife_images = 100_000
    return config
