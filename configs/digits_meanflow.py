"""Digits in one call of the network, from scratch: a mean flow (arXiv 2505.13447).

    python -m jdiff.main --config=configs/digits_meanflow.py

The noise is embedded as ln(sigma) / 4: sinusoids of 1000 t, as of model.schedule="flow", are too rough for the forward
derivative. --config.train.initial=RUN starts from a trained model of model.prediction=flow instead.
"""

from ml_collections import ConfigDict

from configs import digits


def get_config() -> ConfigDict:
    config = digits.get_config()
    config.task = "flow_map"
    config.flow_map.loss = "mean_flow"
    config.flow_map.instants = 0.5
    config.flow_map.p = 1.0
    config.model.prediction = "flow"
    config.objective.mean = -0.4  # of logit t = ln sigma
    config.objective.std = 1.0
    config.train.steps = 1600
    config.train.trajectory_every = 0
    config.sample.sampler = "flow_map"
    config.sample.steps = 1
    config.sample.sigma_max = 10.0  # training draws hardly a sigma above, and a call from 80 draws digits too alike
    config.sample.guidance_scale = None
    return config
