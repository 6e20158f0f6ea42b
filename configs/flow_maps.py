"""What configs that learn flow maps share."""

from ml_collections import ConfigDict


def consistency_tuning(config: ConfigDict, initial: str) -> None:
    """Change the config of a diffusion model to "easy consistency tuning" (ECT; Geng et al., arXiv 2406.14548) of its
    run `initial`: RAdam without a warm-up, sampled in two calls.
    """
    config.task = "flow_map"
    config.flow_map.loss = "consistency"
    config.objective.std = 2.0
    config.train.initial = initial
    config.train.batch_size = 128
    config.train.optimizer = "radam"
    config.train.warmup_images = 0
    config.train.trajectory_every = 0
    config.sample.sampler = "consistency"
    config.sample.steps = 2
    config.sample.guidance_scale = None
