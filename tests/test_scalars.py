"""Numbers as a condition: the network gets them standardised, everybody else as the data have them."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

import jdiff
import jdiff.config
from benchmarks.kinds import flags
from jdiff import from_config
from jdiff.common.errors import UserError
from jdiff.conditions.examples import EXAMPLES
from jdiff.conditions.scalars import Scalars, spread
from jdiff.data.sources.cached import Cached
from jdiff.data.sources.folder import Folder
from jdiff.resolve import resolve, with_scale
from jdiff.weights.start import with_pretrained_network
from tests.conftest import SMALL_DIT, TINY, config, refusal, run_here
from tests.memory_source import Records

NAMES = ("year", "size", "kind")
YEARS = np.linspace(1990, 2020, 32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Grey pictures, brighter by the year; "kind" is the same for all."""
    folder, rng = tmp_path_factory.mktemp("years"), np.random.default_rng(0)
    with (folder / "metadata.jsonl").open("w") as lines:
        for number, year in enumerate(YEARS):
            grey = np.clip(rng.normal(40 + 6 * (year - 1990), 8, (8, 8)), 0, 255).astype(np.uint8)
            Image.fromarray(grey).save(folder / f"{number}.png")
            row = {"file_name": f"{number}.png", "year": year, "size": 1e-3 * number, "kind": 0.1}
            lines.write(json.dumps(row) + "\n")
    return folder


def columns(source):
    return np.array([[record[name] for name in source.scalar_names] for record in source], np.float64)


@pytest.mark.parametrize(
    "wrap", [lambda source: source, lambda source: Cached(source, 1e6), lambda s: Records(list(s))]
)
def test_mean_and_deviation_are_those_of_the_records(folder, wrap):
    source = Folder(str(folder), "train", scalars=NAMES, holdout=0.25)
    values, wrapped = columns(source), wrap(source)
    if isinstance(wrapped, Records):
        wrapped = Records(wrapped.records, scalar_names=NAMES)
    mean, std = spread(wrapped, ("size", "year"))
    np.testing.assert_allclose(mean, values[:, [1, 0]].mean(0), rtol=1e-6)
    np.testing.assert_allclose(std, values[:, [1, 0]].std(0), rtol=1e-5)
    assert spread(wrapped, ("kind",))[1] == (1.0,)


def test_a_hugging_face_data_set_tells_them_too(tmp_path):
    datasets = pytest.importorskip("datasets")
    from jdiff.data.sources.hf import HuggingFace

    pictures = [Image.fromarray(np.full((8, 8), number, np.uint8)) for number in range(6)]
    columns = {"image": pictures, "year": [1990.0 + i for i in range(6)], "size": [float(i * i) for i in range(6)]}
    features = datasets.Features(
        {"image": datasets.Image(), "year": datasets.Value("float64"), "size": datasets.Value("float32")}
    )
    datasets.Dataset.from_dict(columns, features=features).to_parquet(str(tmp_path / "train.parquet"))
    source = HuggingFace(str(tmp_path), "train", scalars=("size", "year"), holdout=0.0)
    mean, std = spread(source, ("year", "size"))
    np.testing.assert_allclose(mean, [1992.5, 55 / 6], rtol=1e-6)
    np.testing.assert_allclose(std, [np.std(np.arange(6)), np.std(np.arange(6.0) ** 2)], rtol=1e-6)


def test_the_network_gets_them_standardised():
    condition = Scalars(names=("year",), mean=(2005.0,), std=(10.0,))
    np.testing.assert_allclose(condition.encode(condition.of_caller([[1990], [2015]])), [[-1.5], [1.0]])
    assert condition.of_record({"year": 1990}, {}).tolist() == [1990]
    np.testing.assert_array_equal(Scalars(names=("year",)).encode(np.float32([[1990]])), [[1990]])


def keys(folder, **changed):
    return flags(
        {
            **SMALL_DIT,
            "data.dir": str(folder),
            "data.image_size": 8,
            "data.channels": 1,
            "data.flip": False,
            "train.holdout_images": 0,
            "log.tensorboard": False,
            "model.conditions": ("scalars",),
            "condition.scalars.names": ("year", "kind"),
            **changed,
        }
    )


def train(folder, workdir, steps, **changed):
    arguments = (config("folder"), *TINY, *keys(folder, **{"train.steps": steps, **changed}), f"--workdir={workdir}")
    result = run_here(*arguments, cwd=workdir.parent)
    assert result.status == 0, result.err


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("scalars") / "run"
    train(folder, workdir, 4)
    return workdir


def test_a_run_keeps_them_and_callers_give_years(run, folder):
    """Its config says how they are scaled, its examples hold years; the same model told in units of its own agrees."""
    scalars = jdiff.config.of_run(run).condition.scalars
    values = columns(Folder(str(folder), "train", scalars=("year", "kind")))
    np.testing.assert_allclose(scalars.mean, values.mean(0), rtol=1e-6)
    np.testing.assert_allclose(scalars.std, [values[:, 0].std(), 1.0], rtol=1e-6)
    with np.load(run / EXAMPLES) as examples:
        assert set(np.round(examples["scalars"][:, 0], 3)) <= set(np.round(YEARS, 3).astype(np.float32))

    model, own = jdiff.load(run), jdiff.config.of_run(run)
    own.condition.scalars.mean, own.condition.scalars.std = (0.0, 0.0), (1.0, 1.0)
    unscaled = jdiff.Model(own, from_config.task(own), model.mesh, model.weights, step=4, workdir=run)
    years = np.array([[1990, 0.1], [2020, 0.1]])
    scaled = (years - np.array(scalars.mean)) / np.array(scalars.std)
    fast = {"sampler": "ddim", "steps": 2}
    drawn, expected = model.sample(scalars=years, **fast), unscaled.sample(scalars=scaled, **fast)
    assert np.abs(drawn.astype(int) - expected).max() <= 1


def settings_of(folder, **changed):
    settings = jdiff.config.override(jdiff.config.load("folder"), keys(folder, **changed))
    source, _ = from_config.sources(settings)
    return resolve(settings, source), source


def test_a_run_keeps_its_own_whatever_is_added_to_the_data(run, folder, tmp_path):
    """And so does one that was trained before they were standardised."""
    settings, source = settings_of(folder, **{"data.holdout": 0.5})
    new = with_scale(settings, source, tmp_path).condition.scalars
    own = jdiff.config.of_run(run).condition.scalars
    assert new.mean != own.mean
    assert with_scale(settings, source, run).condition.scalars.mean == own.mean

    saved = json.loads((run / "config.json").read_text())
    del saved["condition"]["scalars"]["mean"], saved["condition"]["scalars"]["std"]
    (tmp_path / "config.json").write_text(json.dumps(saved))
    old = with_scale(settings, source, tmp_path)
    assert (old.condition.scalars.mean, old.condition.scalars.std) == ((0.0, 0.0), (1.0, 1.0))
    assert from_config.conditions(old)[0].encode(np.float32([[1990, 1]])).tolist() == [[1990, 1]]


def test_a_run_of_before_goes_on_without_a_scale(run, folder, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    saved = json.loads((run / "config.json").read_text())
    del saved["condition"]["scalars"]["mean"], saved["condition"]["scalars"]["std"]
    (tmp_path / "run" / "config.json").write_text(json.dumps(saved))
    train(folder, tmp_path / "run", 4)
    assert jdiff.config.of_run(tmp_path / "run").condition.scalars.std == (1.0, 1.0)
    train(folder, tmp_path / "run", 6)
    assert jdiff.config.of_run(tmp_path / "run").condition.scalars.std == (1.0, 1.0)


def test_fine_tuning_takes_the_scale_of_its_weights(run, folder, tmp_path):
    settings, source = settings_of(folder, **{"data.holdout": 0.5, "train.initial": str(run)})
    taken = with_scale(with_pretrained_network(settings, tmp_path / "new"), source, tmp_path / "new")
    assert taken.condition.scalars.mean == jdiff.config.of_run(run).condition.scalars.mean


def test_a_scale_may_be_given(folder, tmp_path):
    given = {"condition.scalars.mean": (2000.0, 0.0), "condition.scalars.std": (5.0, 1.0)}
    settings, source = settings_of(folder, **given)
    assert with_scale(settings, source, tmp_path).condition.scalars.std == (5.0, 1.0)
    for wrong in ({"condition.scalars.mean": (2000.0,)}, {**given, "condition.scalars.std": (5.0,)}):
        line = refusal(config("folder"), *TINY, *keys(folder, **{"train.steps": 1, **wrong}), cwd=tmp_path)
        assert "must hold a number for each of condition.scalars.names=('year', 'kind'), or nothing" in line
    with pytest.raises(UserError, match=r"condition.scalars.std=\(0.0, 1.0\) must hold numbers in \(0, inf\)"):
        jdiff.config.check(settings_of(folder, **{"condition.scalars.std": (0.0, 1.0)})[0])


@pytest.mark.slow
def test_pictures_follow_the_year_that_is_asked_for(folder, tmp_path):
    """Brightness is the year's; without the scale their correlation was 0.18."""
    long = {"train.batch_size": 32, "train.warmup_images": 0, "train.ema_halflife_images": 2_000, "log.every": 100}
    train(folder, tmp_path / "run", 1500, **long, **{"train.learning_rate": 2e-3, "network.depth": 2})
    years = np.linspace(1990, 2020, 64)
    images = jdiff.load(tmp_path / "run").sample(scalars=[[year, 0.1] for year in years])
    assert np.corrcoef(years, images.mean(axis=(1, 2, 3)))[0, 1] > 0.9
