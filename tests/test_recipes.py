"""Configs that name a paper say its recipe, key by key."""

import pytest

from jdiff import config

# Karras et al., arXiv 2206.00364: tables 1 and 7, appendix F, and the defaults of its train.py and generate.py.
EDM = {
    "data.flip": False,
    "data.flip_vertical": False,
    "data.quarter_turns": False,
    "model.schedule": "edm",
    "model.prediction": "edm",
    "model.sigma_data": 0.5,
    "model.drop_rate": 0.0,
    "objective.draw": "lognormal",
    "objective.mean": -1.2,
    "objective.std": 1.2,
    "objective.weight": "simple",  # of F, which is EDM's lambda(sigma) of D
    "objective.loss": "l2",
    "train.images": 200_000_000,
    "train.steps": 0,
    "train.optimizer": "adam",
    "train.schedule": "constant",
    "train.warmup_images": 10_000_000,
    "train.b1": 0.9,
    "train.b2": 0.999,
    "train.eps": 1e-8,
    "train.clip_norm": 0.0,
    "train.ema_halflife_images": 500_000,
    "train.ema_rampup": 0.05,
    "sample.sampler": "heun",
    "sample.s_churn": 0.0,
    "sample.rho": 7.0,
}
EDM_CIFAR10 = {
    **EDM,
    "model.conditions": ("label",),
    "data.augment": 0.12,
    "network.channel_mults": (2, 2, 2),
    "network.dropout": 0.13,
    "train.batch_size": 512,
    "train.learning_rate": 1e-3,
    "sample.steps": 18,
}
EDM_FFHQ = {
    **EDM,
    "model.conditions": (),
    "data.augment": 0.15,
    "network.channel_mults": (1, 2, 2, 2),
    "network.dropout": 0.05,
    "train.batch_size": 256,
    "train.learning_rate": 2e-4,
    "sample.steps": 40,
}
UNCONDITIONAL = {"model.drop_rate": 0.1}  # nothing to drop

# Ho et al., arXiv 2006.11239: section 4, appendix B, and its scripts for either data set.
DDPM_TRAINING = {
    "data.flip": True,
    "data.augment": 0.0,
    "model.conditions": (),
    "train.optimizer": "adam",
    "train.schedule": "constant",
    "train.clip_norm": 1.0,
    "train.ema_rampup": 0.0,
}
DDPM_CIFAR10 = {
    **DDPM_TRAINING,
    "model.schedule": "linear",
    "model.schedule_steps": 1000,
    "model.beta_start": 1e-4,
    "model.beta_end": 0.02,
    "model.prediction": "eps",
    "objective.draw": "steps",
    "objective.weight": "simple",
    "network.dropout": 0.1,
    "network.channel_mults": (1, 2, 2, 2),
    "network.attention_levels": (1,),
    "train.steps": 800_000,
    "train.batch_size": 128,
    "train.learning_rate": 2e-4,
    "train.warmup_images": 5_000 * 128,
    "sample.sampler": "ddpm",
    "sample.steps": 1000,
    "sample.variance": "large",
    "guidance.threshold": "static",
}
DDPM_CELEBA_HQ = {
    **DDPM_TRAINING,
    "network.dropout": 0.0,
    "network.channel_mults": (1, 1, 2, 2, 4, 4),
    "network.attention_levels": (4,),
    "train.steps": 500_000,
    "train.batch_size": 64,
    "train.learning_rate": 2e-5,
    "train.warmup_images": 5_000 * 64,
}
RECIPES = {
    "cifar10": EDM_CIFAR10,
    "cifar10_guided": {**EDM_CIFAR10, "model.drop_rate": 0.1},
    "cifar10_64": {**EDM_FFHQ, **{key: EDM_CIFAR10[key] for key in ("data.augment", "network.dropout")}}
    | {"model.conditions": ("label",)},
    "ffhq": EDM_FFHQ | UNCONDITIONAL,
    "celeb_a": EDM_FFHQ | UNCONDITIONAL,
    "afhq": {**EDM_FFHQ, "model.conditions": ("label",), "model.drop_rate": 0.1, "network.dropout": 0.25},
    "cifar10_ddpm": DDPM_CIFAR10,
    "celeb_a_hq": DDPM_CELEBA_HQ,
}
BY_DEFAULT = {"objective.mean": -1.2, "objective.std": 1.2}  # of None


@pytest.mark.parametrize("name", RECIPES)
def test_a_config_says_the_recipe_that_it_names(name):
    settings = config.load(name)
    said = {key: config.config_value(settings, key) for key in RECIPES[name]}
    said |= {key: value for key, value in BY_DEFAULT.items() if key in said and said[key] is None}
    assert said == RECIPES[name]


def test_a_model_by_edms_recipe_is_not_guided():
    assert config.load("cifar10").sample.guidance_scale is None
    assert config.load("cifar10_guided").sample.guidance_scale == 1.5
