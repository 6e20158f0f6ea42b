"""Names in a config -> objects: the one place that knows names.

A later sampler, network, source or task is a file of its own and a line here.
"""

from jdiff.from_config.conditions import drop_rates, label_rows
from jdiff.from_config.data import example, given, resolve, sources, view
from jdiff.from_config.guidance import changes, check_sampling, guidance_numbers, guidance_runs, guide, is_guided
from jdiff.from_config.progress import progress_bar
from jdiff.from_config.sampling import MEMORYLESS, is_noiseless, ladder, sampler, settings
from jdiff.from_config.tasks import diffusion, task
from jdiff.from_config.texts import TOKENIZER, encoded, text_encoder
from jdiff.from_config.training import ema, optimizer, total_steps

__all__ = [
    "MEMORYLESS",
    "TOKENIZER",
    "changes",
    "check_sampling",
    "diffusion",
    "drop_rates",
    "ema",
    "encoded",
    "example",
    "given",
    "guidance_numbers",
    "guidance_runs",
    "guide",
    "is_guided",
    "is_noiseless",
    "label_rows",
    "ladder",
    "optimizer",
    "progress_bar",
    "resolve",
    "sampler",
    "settings",
    "sources",
    "task",
    "text_encoder",
    "total_steps",
    "view",
]
