"""Fashion-MNIST in one or two calls of the network: consistency tuning (ECT, arXiv 2406.14548) of a run of
fashion_mnist.py, with its network.

    python -m jdiff.main --config=configs/fashion_mnist_ect.py --config.train.initial=runs/fashion_mnist
"""

from ml_collections import ConfigDict

from configs import fashion_mnist


def get_config() -> ConfigDict:
    config = fashion_mnist.get_config()
    config.task = "flow_map"
    config.flow_map.loss = "consistency"
    config.flow_map.q = 256.0
    config.flow_map.c = 0.06
    config.objective.mean = -0.8
    config.objective.std = 2.0
    config.train.initial = "runs/fashion_mnist"
    config.train.images = 1_000_000
    config.train.batch_size = 128
    config.train.optimizer = "radam"
    config.train.learning_rate = 2e-4
    config.train.schedule = "cosine"
    config.train.warmup_images = 0
    config.train.ema_halflife_images = 100_000
    config.train.trajectory_every = 0
    config.sample.sampler = "consistency"
    config.sample.steps = 2
    config.sample.guidance_scale = None
    return config
