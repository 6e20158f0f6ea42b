"""Many samples: a stream, shards that outlive a kill, the mix of classes, images that are not finite."""

import json
import random
import re
import signal
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import jax
import numpy as np
import pytest

import jdiff
from jdiff.common.errors import DrawingError, UserError
from jdiff.common.shards import Shards
from jdiff.tasks import Weights
from tests.conftest import CACHE, TINY, TINY_DIT, Run, config, refusal, run_here
from tests.forked import Server, server
from tests.test_resume import wait_for

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
def model(dit_run: Run) -> jdiff.Model:
    return jdiff.load(dit_run.workdir)


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A tiny model of two classes, 90 % and 10 % of the images."""
    folder = tmp_path_factory.mktemp("uneven")
    images = np.random.default_rng(0).integers(0, 256, (200, 8, 8, 1)).astype(np.uint8)
    names = {"labels": np.arange(200) % 10 == 0, "class_names": np.array(["ship", "buoy"])}
    np.savez(folder / "data.npz", images=images, **{**names, "labels": names["labels"].astype(int)})
    data = ["--config.data.name=arrays", f"--config.data.dir={folder / 'data.npz'}", "--config.data.holdout=0"]
    result = run_here(config("digits"), *TINY_DIT, *data, "--config.train.steps=2", "--workdir=run", cwd=folder)
    assert result.status == 0, result.err
    return Run(folder / "run", result)


@pytest.fixture(scope="module")
def fresh(dit_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of samples that were drawn at once."""
    folder = tmp_path_factory.mktemp("fresh")
    sampled(dit_run, *MANY, f"--out={folder}")
    return folder


@pytest.fixture(scope="module")
def commands() -> Iterator[Server]:
    with server() as commands:
        yield commands


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


def shards_in(folder: Path) -> list[Path]:
    return sorted((folder / "shards").glob("*.npz"))


ENDS = (signal.SIGTERM, signal.SIGKILL, signal.SIGINT, signal.SIGUSR1)


@pytest.mark.slow
@pytest.mark.parametrize("ends", [3, 20])
def test_samples_that_were_ended_come_to_those_of_one_run(dit_run, tmp_path, commands, ends):
    """To the bit. Ctrl-C comes twice. No second command writes there meanwhile."""
    out, chance = tmp_path / "out", random.Random(0)
    sizes = (f"--config.sample.num_images={60 * ends}", "--config.sample.batch_size=8")
    command = ("--mode=sample", f"--workdir={dit_run.workdir}", *QUICK, "--config.sample.steps=50", *sizes)
    for number in (ENDS * ends)[:ends]:
        before = len(shards_in(out))
        process = commands.start(*command, "--out=out", cwd=tmp_path)
        wait_for(lambda before=before: len(shards_in(out)) > before)
        if not before:
            process.send(signal.SIGSTOP)
            told = refusal(*command, "--out=out", cwd=tmp_path)
            process.send(signal.SIGCONT)
            assert told.startswith(f"jdiff: out is in use: process {process.pid} on ")
            assert "writes there; wait for it, stop it, or give another --out" in told
        time.sleep(chance.uniform(0, 0.05))
        process.send(number)
        if number == signal.SIGINT:
            time.sleep(0.11)
            if "images are in" not in process.out.read_text():
                process.send(number)
        status, err = process.wait(), process.err.read_text()
        if number == signal.SIGKILL:
            assert status == -number, err
            continue
        assert status == 128 + number, err
        name = "Ctrl-C" if number == signal.SIGINT else number.name
        assert f"jdiff: {name}: finishing this batch, then stopping; a second {name} stops without\n" in err
        said = re.search(
            r"(\d+) of \d+ images are in out/shards; the same command draws", process.out.read_text() + err
        )
        assert 8 * len(shards_in(out)) - int(said[1]) in (0, 8)  # ended at once, it may not have counted the last
    for folder in ("out", "whole"):
        process = commands.start(*command, f"--out={folder}", cwd=tmp_path)
        assert process.wait() == 0, process.err.read_text()
    whole, ended = drawn(tmp_path / "whole"), drawn(out)
    assert whole.keys() == ended.keys() == {"images", "labels"}
    for key, array in whole.items():
        np.testing.assert_array_equal(ended[key], array)
    assert (tmp_path / "whole" / "grid.png").read_bytes() == (out / "grid.png").read_bytes()


@pytest.mark.slow
def test_a_signal_in_a_long_batch_is_answered_at_once(dit_run, tmp_path, commands):
    """The batch would take minutes."""
    command = ("--mode=sample", f"--workdir={dit_run.workdir}", *QUICK, "--config.sample.steps=100000", "--out=out")
    process = commands.start(*command, cwd=tmp_path)
    wait_for(lambda: process.out.exists() and "100,000 network calls for each" in process.out.read_text())
    time.sleep(1)
    began = time.monotonic()
    process.send(signal.SIGINT)
    wait_for(lambda: "Ctrl-C: finishing this batch, then stopping; a second Ctrl-C" in process.err.read_text())
    time.sleep(0.15)
    process.send(signal.SIGINT)
    assert process.wait() == 130
    assert time.monotonic() - began < 3
    assert process.err.read_text().endswith(
        "jdiff: Ctrl-C: stopped; the batch under way is lost; 0 of 10 images are in out/shards; the same command "
        "draws the rest\n"
    )


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


def test_another_request_is_drawn_anew(dit_run, tmp_path):
    stopped_after(2, dit_run, *MANY, f"--out={tmp_path / 'out'}")
    said = sampled(dit_run, *MANY, "--config.sample.labels=(3,)", f"--out={tmp_path / 'out'}")
    assert "held images of another request (sample.labels" in said
    assert "there already" not in said
    assert len(drawn(tmp_path / "out")["images"]) == 50


@pytest.mark.parametrize(
    ("change", "named"),
    [({"seed": 4}, "sample.seed"), ({"labels": (3,)}, "conditions"), ({"rescale": 0.5}, "guidance.rescale")],
)
def test_what_makes_another_request(model, change, named):
    before, after = (model.identity(model.request(3, **settings)) for settings in ({}, change))
    assert [key for key in before if before[key] != after[key]] == [named]


def test_other_weights_of_the_same_step_are_another_request(model):
    asked = model.request(3)
    leaves, form = jax.tree.flatten(model.weights)
    for k in (0, len(leaves) // 2, len(leaves) - 1):
        one_bit = [leaf.at[(0,) * leaf.ndim].multiply(1 + 2**-23) if i == k else leaf for i, leaf in enumerate(leaves)]
        other = model.with_weights(jax.tree.unflatten(form, one_bit), step=model.step)
        if (one_bit[k] != leaves[k]).any():
            assert other.identity(asked) != model.identity(asked)
    assert model.with_weights(model.weights, step=model.step).identity(asked) == model.identity(asked)


def test_a_request_that_is_finished_is_not_drawn_again(dit_run, tmp_path):
    """But for a picture that is missing, of all that was drawn."""
    out = tmp_path / "out"
    command = (*MANY, f"--out={out}", "--config.sample.save_images=true")
    sampled(dit_run, *command)
    files = {path.name: path.read_bytes() for path in (out / "images").iterdir()}
    grid, index = (out / "grid.png").read_bytes(), (out / "samples.json").read_text()
    stopped_after(1, dit_run, *command, "--config.sample.seed=4")  # another request is under way
    with mock.patch("jdiff.modes.sample.draw", side_effect=AssertionError("drawn again")):
        with mock.patch("jdiff.modes.sample.write_pictures", side_effect=AssertionError("written again")):
            assert "all 50 images of this request are there already" in sampled(dit_run, *command)
        (out / "grid.png").unlink()
        (out / "images" / "000049.png").unlink()
        sampled(dit_run, *command)
    assert (out / "grid.png").read_bytes() == grid
    assert {path.name: path.read_bytes() for path in (out / "images").iterdir()} == files
    assert (out / "samples.json").read_text() == index
    assert "8 of 50 images are there already" in sampled(dit_run, *command, "--config.sample.seed=4")
    assert json.loads((out / "samples.json").read_text())["sample.seed"] == 4


@pytest.mark.parametrize("written", ["samples.npz", "samples.json"])
def test_a_kill_between_the_last_files(tmp_path, written):
    """samples.json is never beside another request's samples.npz, and the same request mends."""
    shards = Shards(tmp_path, "samples")
    for seed in (1, 2):
        shards.begin({"seed": seed})
        for first in (0, 3):
            shards.write(first, {"images": np.full((3, 2), seed)})
        if seed == 1:
            shards.finish({"seed": 1}, 6)
    killed = "write_whole" if written == "samples.npz" else "replace_file"
    with mock.patch(f"jdiff.common.shards.{killed}", side_effect=Killed), pytest.raises(Killed):
        shards.finish({"seed": 2}, 6)
    assert not shards.finished({"seed": 1}, 6)
    assert not shards.finished({"seed": 2}, 6)
    assert shards.begin({"seed": 2}) == (6, [])
    shards.finish({"seed": 2}, 6)
    assert shards.finished({"seed": 2}, 6)
    assert (np.concatenate(list(shards.blocks("images"))) == 2).all()


def test_shards_that_are_not_all_rows_are_no_file(tmp_path):
    shards = Shards(tmp_path, "samples")
    shards.begin({})
    for first in (0, 3):
        shards.write(first, {"images": np.zeros((3, 2))})
    (tmp_path / "shards" / "000000000.npz").unlink()
    with pytest.raises(UserError, match=r"shards holds 3 rows instead of 6: .* the same command draws what is missing"):
        shards.finish({}, 6)
    assert not shards.file.exists()
    assert shards.begin({}) == (0, [])


def test_progress_says_how_often_the_network_is_called(model, capfd):
    model.sample(2, progress=True, sampler="ddim", steps=3, guidance_scale=2.0)
    assert "sampling, a batch in 6 network calls:   0%" in capfd.readouterr().err


@pytest.mark.parametrize("damage", ["cut short", "a bit", "missing"])
def test_a_damaged_shard_is_asked_for_again(tmp_path, damage):
    shards = Shards(tmp_path, "samples")
    shards.begin({})
    for first in (0, 3, 6):
        shards.write(first, {"images": np.full((3, 50, 50), first)})
    shard = shards_in(tmp_path)[1]
    whole = bytearray(shard.read_bytes())
    whole[len(whole) // 2] ^= 1
    shard.unlink() if damage == "missing" else shard.write_bytes(whole[:300] if damage == "cut short" else whole)
    assert shards.begin({}) == (3, [])
    assert len(shards_in(tmp_path)) == 1


def test_samples_with_a_shard_that_was_lost(dit_run, tmp_path, fresh):
    out = tmp_path / "out"
    stopped_after(4, dit_run, *MANY, f"--out={out}")
    shards_in(out)[1].unlink()
    assert "8 of 50 images are there already" in sampled(dit_run, *MANY, f"--out={out}")
    np.testing.assert_array_equal(drawn(out)["images"], drawn(fresh)["images"])
    assert sorted(path.name for path in out.glob("[!.]*")) == ["grid.png", "samples.json", "samples.npz"]
    assert json.loads((out / "samples.json").read_text())["sample.seed"] == 3


def test_a_folder_that_cannot_be_written_is_told_before_anything_is_drawn(dit_run, tmp_path):
    (tmp_path / "file").write_text("")
    with mock.patch("jdiff.modes.sample.draw", side_effect=AssertionError("drawn before --out is tried")):
        line = refusal("--mode=sample", f"--workdir={dit_run.workdir}", "--out=file/out", cwd=tmp_path)
    assert "cannot write the samples to file/out" in line
    assert "give another folder with --out" in line


def test_what_is_to_come_is_said_before_it_is_drawn(dit_run, tmp_path):
    with mock.patch("jdiff.modes.sample.draw", side_effect=Killed), pytest.raises(Killed):
        run_here("--mode=sample", f"--workdir={dit_run.workdir}", f"--out={tmp_path}", cwd=tmp_path)
    few = sampled(dit_run, *MANY, f"--out={tmp_path}").splitlines()
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


def test_images_that_are_not_finite_are_no_images(model, dit_run):
    says = rf"3 of 3 images by the weights of step 10 of {dit_run.workdir} are not finite: try another sample\.sampler"
    digits, quick = np.zeros((3, 8, 8, 1), np.uint8), {"sampler": "ddim", "steps": 2, "guidance_scale": 1.0}
    for draw in (
        lambda: spoilt(model).sample(3, **quick),
        lambda: spoilt(model).trajectory(3, **quick),
        lambda: spoilt(model).img2img(digits, sigma=1.0, **quick),
    ):
        with pytest.raises(DrawingError, match=says):
            draw()


@pytest.mark.slow
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
