"""Digits in one or two calls of the network: "easy consistency tuning" (ECT, arXiv 2406.14548) of the run of digits.py:
9 minutes of one core in a slow hour (benchmarks/RESULTS.md).

    python -m jdiff.main --config=configs/digits.py
    python -m jdiff.main --config=configs/digits_ect.py --config.train.initial=runs/digits
"""

from ml_collections import ConfigDict

from configs import digits, flow_maps


def get_config() -> ConfigDict:
    config = digits.get_config()
    flow_maps.consistency_tuning(config, "runs/digits")
    config.flow_map.q = 256.0
    config.flow_map.c = 0.06
    config.objective.mean = -0.7
    config.train.steps = 1500
    config.train.learning_rate = 1e-3
    config.train.schedule = "cosine"
    config.sample.sigma_max = 20.0  # above, training draws hardly a sigma, and one call draws digits too alike
    return config
