"""Texts as Stable Diffusion's pipelines read them: the same tokens and features as transformers' and diffusers'."""

import json
import shutil

import numpy as np
import pytest

from jdiff.common.errors import UserError
from jdiff.data import frozen_text
from jdiff.data.frozen_text import FrozenEncoder
from tests import pipelines
from tests.pipelines import TEXTS, torch

LENGTH = 77


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return pipelines.stable_diffusion(tmp_path_factory.mktemp("text") / "pipeline")


@pytest.fixture(scope="module")
def theirs(folder):
    return pipelines.opened(folder)


def read(folder, **settings):
    return FrozenEncoder(str(folder / "text_encoder"), LENGTH, padding="read", **settings)


def embedded(pipeline, texts):
    """Features as the pipeline makes them."""
    with torch.no_grad():
        return pipeline.encode_prompt(list(texts), "cpu", 1, False)[0].numpy()


LONG = "a red " * 60


def test_features_are_those_of_the_pipeline(folder, theirs):
    """With padding read like the rest, a text that is too long cut, and the empty text."""
    with pytest.warns(UserWarning, match="1 of 4 texts are longer than"):
        mine = read(folder).features([*TEXTS, LONG, ""])
    expected = embedded(theirs, [*TEXTS, LONG, ""])
    assert mine["features"].shape == expected.shape == (4, LENGTH, 12)
    np.testing.assert_allclose(mine["features"], expected, atol=1e-5)
    assert mine["mask"].all()
    assert np.abs(expected[0, 10:] - expected[1, 10:]).max() > 0.1  # padding has seen the text


def test_layers_left_out_are_those_of_an_encoder_without_them(folder):
    """Their own clip_skip fails with transformers 5."""
    pipeline = pipelines.opened(folder)
    model = getattr(pipeline.text_encoder, "text_model", pipeline.text_encoder)
    whole = embedded(pipeline, TEXTS)
    del model.encoder.layers[-1]
    expected = embedded(pipeline, TEXTS)
    np.testing.assert_allclose(read(folder, clip_skip=1).features(TEXTS)["features"], expected, atol=1e-5)
    assert np.abs(whole - expected).max() > 0.1


def test_the_tokenizer_s_own_token_pads(folder, theirs, tmp_path):
    """Stable Diffusion 2 pads with "!"."""
    other = shutil.copytree(folder, tmp_path / "other")
    pipeline = pipelines.opened(folder)
    pipeline.tokenizer.pad_token = "!"
    shutil.rmtree(other / "tokenizer")
    pipeline.tokenizer.save_pretrained(other / "tokenizer")
    mine = read(other).features(TEXTS)["features"]
    np.testing.assert_allclose(mine, embedded(pipeline, TEXTS), atol=1e-5)
    assert np.abs(mine - embedded(theirs, TEXTS)).max() > 0.1


def test_masked_padding_is_zero_and_not_seen(folder):
    """As other frozen encoders have it: a text's features do not depend on the length."""
    long, short = (FrozenEncoder(str(folder / "text_encoder"), length).features(TEXTS[:1]) for length in (LENGTH, 12))
    assert long["mask"].sum() == short["mask"].sum() == 5
    np.testing.assert_allclose(long["features"][:, :12], short["features"], atol=1e-6)
    assert not long["features"][~long["mask"]].any()


def test_what_is_kept_is_of_this_padding_and_these_layers(folder, tmp_path):
    """Features that are kept in files are not mistaken for those made otherwise."""
    for encoder in (read(folder), read(folder, clip_skip=1), FrozenEncoder(str(folder / "text_encoder"), LENGTH)):
        kept = frozen_text.cached(encoder, TEXTS, tmp_path, tmp_path)
        np.testing.assert_allclose(kept["features"], encoder.features(TEXTS)["features"], atol=2e-3)
    assert len(list(tmp_path.glob("*.features.npy"))) == 3


def test_another_tokenizer_is_another_encoder(folder, tmp_path):
    other = shutil.copytree(folder, tmp_path / "other")
    file = other / "tokenizer" / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"pad_token": "!"}))
    assert frozen_text._key(read(other), TEXTS) != frozen_text._key(read(folder), TEXTS)


def test_more_layers_left_out_than_there_are(folder):
    with pytest.raises(UserError, match=r"condition\.text\.clip_skip=3 leaves nothing of .*: it has 2 layers"):
        read(folder, clip_skip=3).features(TEXTS)
