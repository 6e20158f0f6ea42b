"""Names in a config -> objects: the one place that knows names, and nothing else.

A sampler, network, source, condition, guidance, space or task is a file of its own, and a line in the dict of its
family here (SAMPLERS, LADDERS, GUIDANCES, NETWORKS, CONDITIONS, SOURCES, SPACES, TASKS).
"""

from jdiff.from_config.autoencoders import bottleneck, lpips, settings_of_autoencoder
from jdiff.from_config.condition_files import condition_files, files_of, image_condition
from jdiff.from_config.conditions import conditions
from jdiff.from_config.guidance import guidances, helper_runs
from jdiff.from_config.networks import multiple
from jdiff.from_config.order import order, shape_numbers
from jdiff.from_config.sampling import ladder, sampler
from jdiff.from_config.sources import prepared, sources
from jdiff.from_config.spaces import of_images, space
from jdiff.from_config.tasks import TO_ZERO, adversary, diffusion, instants, task
from jdiff.from_config.training import ema, images_seen, optimizer, profiles, rate, snapshot_every, total_steps
from jdiff.from_config.views import example, view

__all__ = [
    "TO_ZERO",
    "adversary",
    "bottleneck",
    "condition_files",
    "conditions",
    "diffusion",
    "ema",
    "example",
    "files_of",
    "guidances",
    "helper_runs",
    "image_condition",
    "images_seen",
    "instants",
    "ladder",
    "lpips",
    "multiple",
    "of_images",
    "optimizer",
    "order",
    "prepared",
    "profiles",
    "rate",
    "sampler",
    "settings_of_autoencoder",
    "shape_numbers",
    "snapshot_every",
    "sources",
    "space",
    "task",
    "total_steps",
    "view",
]
