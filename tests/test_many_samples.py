"""Many samples: a stream, shards that outlive a kill, the mix of classes, images that are not finite."""

import json
import time
import tracemalloc
from pathlib import Path
from unittest import mock

import jax
import numpy as np
import pytest

import jdiff
from jdiff.common.errors import DrawingError
from jdiff.common.shards import Shards
from jdiff.tasks import Weights
from tests.conftest import CACHE, TINY, Run, config, refusal, run_command, run_here, start_command

pytestmark = pytest.mark.usefixtures("compile_fast")

QUICK = ("--config.sample.sampler=ddim", "--config.sample.steps=2", "--config.sample.guidance_scale=1")
MANY = ("--config.sample.num_images=50", "--config.sample.batch_size=8", "--config.sample.seed=3", *QUICK)


def drawn(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "samples.npz") as arrays:
        return dict(arrays)


def sampled(run: Run, *arguments: str) -> str:
    result = run_here("--mode=sample", f"--workdir={run.workdir}", *arguments, cwd=run.workdir)
    assert result.status == 0, result.err
    return result.out


@pytest.fixture(scope="module")
def model(tiny_run: Run) -> jdiff.Model:
    return jdiff.load(tiny_run.workdir)


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A tiny model of two classes, 90 % and 10 % of the images."""
    folder = tmp_path_factory.mktemp("uneven")
    images = np.random.default_rng(0).integers(0, 256, (200, 8, 8, 1)).astype(np.uint8)
    names = {"labels": np.arange(200) % 10 == 0, "class_names": np.array(["ship", "buoy"])}
    np.savez(folder / "data.npz", images=images, **{**names, "labels": names["labels"].astype(int)})
    data = ["--config.data.name=arrays", f"--config.data.dir={folder / 'data.npz'}", "--config.data.holdout=0"]
    result = run_here(config("digits"), *TINY, *data, "--config.train.steps=2", "--workdir=run", cwd=folder)
    assert result.status == 0, result.err
    return Run(folder / "run", result)


@pytest.fixture(scope="module")
def fresh(tiny_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of samples that were drawn at once."""
    folder = tmp_path_factory.mktemp("fresh")
    sampled(tiny_run, *MANY, f"--out={folder}")
    return folder


def test_a_stream_gives_the_samples_a_batch_at_a_time(model):
    settings = {"labels": [7, "2", 4], "batch_size": 4, "sampler": "ddim", "seed": 5}
    batches = list(model.stream(10, **settings))
    assert [list(batch.indices) for batch in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert np.concatenate([batch.labels for batch in batches]).tolist() == [7, 2, 4] * 3 + [7]
    np.testing.assert_array_equal(np.concatenate([batch.images for batch in batches]), model.sample(10, **settings))
    noise = model.noise(range(10), seed=5)
    again = np.concatenate([batch.images for batch in model.stream(noise=noise, **settings)])
    np.testing.assert_array_equal(again, model.sample(10, **settings))


def test_a_stream_takes_the_memory_of_a_batch(model):
    """Two million images would be 128 MB, and their conditions more."""
    stream = model.stream(2_000_000, batch_size=10, sampler="ddim", steps=1)
    next(stream)
    tracemalloc.start()
    try:
        for _ in range(20):
            next(stream)
        assert tracemalloc.get_traced_memory()[1] < 2e6
    finally:
        tracemalloc.stop()


def test_what_was_drawn_when_the_process_is_killed_is_drawn_once(tiny_run, tmp_path):
    """The files are those of one run without a kill, to the bit."""
    command = ["--mode=sample", f"--workdir={tiny_run.workdir}", *MANY, "--config.sample.steps=100"]
    process = start_command(*command, "--out=killed", cwd=tmp_path)
    while len(list((tmp_path / "killed" / "shards").glob("*.npz"))) < 2:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert not (tmp_path / "killed" / "samples.npz").exists()
    rest = run_command(*command, "--out=killed", cwd=tmp_path)
    assert rest.status == 0, rest.err
    there = int(rest.out.split(" of 50 images are there already")[0].split()[-1])
    assert 16 <= there < 50
    assert run_command(*command, "--out=whole", cwd=tmp_path).status == 0
    whole, killed = drawn(tmp_path / "whole"), drawn(tmp_path / "killed")
    assert whole.keys() == killed.keys() == {"images", "labels"}
    for name, array in whole.items():
        np.testing.assert_array_equal(killed[name], array)
    assert (tmp_path / "whole" / "grid.png").read_bytes() == (tmp_path / "killed" / "grid.png").read_bytes()


class Killed(BaseException):
    """In place of a kill within this process."""


def stopped_after(shards: int, run: Run, *arguments: str) -> None:
    """A command that ends, as by a kill, before it writes one more shard."""
    write, written = Shards.write, []

    def killed(self, first, arrays):
        if len(written) == shards:
            raise Killed
        written.append(first)
        write(self, first, arrays)

    with mock.patch.object(Shards, "write", killed), pytest.raises(Killed):
        run_here("--mode=sample", f"--workdir={run.workdir}", *arguments, cwd=run.workdir)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("--config.sample.seed=4", "sample.seed"),
        ("--config.sample.labels=(3,)", "sample.labels"),
        ("--config.guidance.rescale=0.5", "guidance.rescale"),
    ],
)
def test_another_request_is_drawn_anew(tiny_run, tmp_path, change, named):
    stopped_after(2, tiny_run, *MANY, f"--out={tmp_path / 'out'}")
    said = sampled(tiny_run, *MANY, change, f"--out={tmp_path / 'out'}")
    assert f"held images of another request ({named}" in said
    assert "there already" not in said
    assert len(drawn(tmp_path / "out")["images"]) == 50


def test_other_weights_of_the_same_step_are_another_request(model):
    asked = model.request(3)
    leaves, form = jax.tree.flatten(model.weights)
    for k in (0, len(leaves) // 2, len(leaves) - 1):
        one_bit = [leaf.at[(0,) * leaf.ndim].multiply(1 + 2**-23) if i == k else leaf for i, leaf in enumerate(leaves)]
        other = model.with_weights(jax.tree.unflatten(form, one_bit), step=model.step)
        if (one_bit[k] != leaves[k]).any():
            assert other.fingerprints(asked) != model.fingerprints(asked)
    assert model.with_weights(model.weights, step=3).fingerprints(asked) == model.fingerprints(asked)


@pytest.mark.parametrize("damage", ["cut short", "a bit", "missing"])
def test_a_damaged_shard_is_drawn_again(tiny_run, tmp_path, fresh, damage):
    out = f"--out={tmp_path / 'out'}"
    stopped_after(4, tiny_run, *MANY, out)
    shard = sorted((tmp_path / "out" / "shards").glob("*.npz"))[1]
    whole = bytearray(shard.read_bytes())
    whole[len(whole) // 2] ^= 1
    shard.unlink() if damage == "missing" else shard.write_bytes(whole[:300] if damage == "cut short" else whole)
    said = sampled(tiny_run, *MANY, out)
    assert "8 of 50 images are there already" in said
    np.testing.assert_array_equal(drawn(tmp_path / "out")["images"], drawn(fresh)["images"])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["grid.png", "samples.json", "samples.npz"]
    assert json.loads((tmp_path / "out" / "samples.json").read_text())["sample.seed"] == 3


def test_a_folder_that_cannot_be_written_is_told_before_anything_is_drawn(tiny_run, tmp_path):
    (tmp_path / "file").write_text("")
    with mock.patch("jdiff.modes.sample.draw", side_effect=AssertionError("drawn before --out is tried")):
        line = refusal("--mode=sample", f"--workdir={tiny_run.workdir}", "--out=file/out", cwd=tmp_path)
    assert "cannot write the samples to file/out" in line
    assert "give another folder with --out" in line


def test_what_is_to_come_is_said_before_it_is_drawn(tiny_run, tmp_path):
    with mock.patch("jdiff.modes.sample.draw", side_effect=Killed), pytest.raises(Killed):
        run_here("--mode=sample", f"--workdir={tiny_run.workdir}", f"--out={tmp_path}", cwd=tmp_path)
    few = sampled(tiny_run, *MANY, f"--out={tmp_path}").splitlines()
    assert few[1] == "drawing 50 images, 8 at a time: 2 network calls for each 8"
    assert few[2].startswith("50 images from step 10: ddim, NFE 2, 2 network passes")


def test_the_mix_of_classes_is_said_and_may_be_the_datas(uneven, tmp_path):
    out = f"--out={tmp_path}"
    said = sampled(uneven, "--config.sample.num_images=20", *QUICK, out)
    assert "classes: 10 each of ship, buoy; the data: 90.0% ship, 10.0% buoy (as there with sample.labels=data)" in said
    assert np.bincount(drawn(tmp_path)["labels"]).tolist() == [10, 10]
    as_advised = sampled(uneven, "--config.sample.num_images=200", *QUICK, "--config.sample.labels=data", out)
    assert "classes: 180 ship, 20 buoy\n" in as_advised
    assert np.bincount(drawn(tmp_path)["labels"]).tolist() == [180, 20]
    asked = sampled(uneven, "--config.sample.num_images=6", *QUICK, "--config.sample.labels=('buoy',)", out)
    assert "classes: 6 each of buoy\n" in asked
    model = jdiff.load(uneven.workdir)
    labels = np.concatenate([batch.labels for batch in model.stream(1000, labels="data", steps=1, sampler="ddim")])
    for count in (10, 100, 1000):
        assert np.bincount(labels[:count])[1] == pytest.approx(count / 10, abs=1)


def test_a_run_that_does_not_know_its_classes_says_so(uneven, tmp_path):
    model = jdiff.load(uneven.workdir)
    model.config.data.class_counts = ()
    unknown = jdiff.Model(model.config, jdiff.from_config.task(model.config), model.mesh, model.weights, step=2)
    with pytest.raises(ValueError, match=r"labels='data': how many images each class has is not known .* give a seq"):
        unknown.sample(4, labels="data")


def test_every_source_counts_its_classes(tmp_path):
    from jdiff.data.sources.digits import Digits
    from jdiff.data.sources.packed import Packed, pack

    digits = Digits("train")
    counts = np.bincount([record["label"] for record in digits.__getitems__(range(len(digits)))])
    assert digits.class_counts == tuple(counts)
    pack({"train": digits}, tmp_path / "packed")
    assert Packed(str(tmp_path / "packed"), "train").class_counts == digits.class_counts


def spoilt(model: jdiff.Model) -> jdiff.Model:
    params = jax.tree.map(lambda leaf: leaf * 1e30, model.weights.params)
    return model.with_weights(Weights(params, model.weights.state), step=model.step)


def test_images_that_are_not_finite_are_no_images(model, tiny_run):
    says = rf"3 of 3 images by the weights of step 10 of {tiny_run.workdir} are not finite: try another sample\.sampler"
    digits, quick = np.zeros((3, 8, 8, 1), np.uint8), {"sampler": "ddim", "steps": 2, "guidance_scale": 1.0}
    for draw in (
        lambda: spoilt(model).sample(3, **quick),
        lambda: spoilt(model).trajectory(3, **quick),
        lambda: spoilt(model).img2img(digits, sigma=1.0, **quick),
    ):
        with pytest.raises(DrawingError, match=says):
            draw()


def test_a_run_whose_weights_are_spoilt(tmp_path):
    """Its pictures are left out, and sampling says from which checkpoint to draw."""
    run = [config("digits"), *TINY, "--workdir=run", f"--config.machine.compilation_cache={CACHE}"]
    often = ["--config.train.steps=2", "--config.train.warmup_images=0", "--config.train.clip_norm=0"]
    assert run_here(*run, *often, cwd=tmp_path).status == 0
    wild = ["--config.train.steps=3", "--config.train.learning_rate=1e30", "--config.train.sample_every=3"]
    result = run_here(*run, *often, *wild, cwd=tmp_path)
    assert result.status == 0, result.err
    assert "left out at step 3: 10 of 10 images by the weights of step 3 of run are not finite" in result.out
    line = refusal("--mode=sample", "--workdir=run", "--config.log.progress=false", cwd=tmp_path)
    assert "of step 3 of run are not finite: try an earlier checkpoint, sample.checkpoint=2" in line
    followed = run_here("--mode=sample", "--workdir=run", "--config.sample.checkpoint=2", cwd=tmp_path)
    assert followed.status == 0, followed.err
