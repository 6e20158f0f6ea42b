"""What may change where a run goes on: its length, its data's place, the told keys; and what is refused."""

import json
import shutil

import jax
import numpy as np
import pytest
from optax import constant_schedule
from PIL import Image

import jdiff
from jdiff.data.fingerprint import fingerprint
from jdiff.data.sources.folder import Folder
from jdiff.training import history
from jdiff.training.checkpoints import Checkpoints
from jdiff.training.optimizer import carried_over, make_optimizer
from jdiff.training.writers import Jsonl
from jdiff.weights.resume import last_good
from tests.conftest import TINY_DIT, config, refusal, run_here
from tests.test_resume import final_state

QUIET = ("--config.log.tensorboard=false", "--config.log.pictures=false", "--config.log.progress=false")
DIGITS = (config("digits"), *TINY_DIT, *QUIET, "--workdir=run")
FOLDER = (config("folder"), *TINY_DIT, *QUIET, "--config.data.image_size=8", "--workdir=run")
DURATIONS = {  # of 10 and of 20 steps of 16 of the 1,500 digits
    "steps": ("--config.train.steps=10", "--config.train.steps=20"),
    "images": ("--config.train.images=160", "--config.train.images=320"),
    "epochs": (f"--config.train.epochs={160 / 1500}", f"--config.train.epochs={320 / 1500}"),
}


def trained(*arguments, cwd, status=0):
    result = run_here(*arguments, cwd=cwd)
    assert result.status == status, result.err
    return result.out


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A run of 20 steps, never interrupted."""
    folder = tmp_path_factory.mktemp("straight")
    trained(*DIGITS, DURATIONS["steps"][1], cwd=folder)
    return final_state(folder / "run", 20)


@pytest.fixture
def run(short_run, tmp_path):
    """A copy of a run of 10 steps with checkpoints at 5 and 10; its folder's parent."""
    shutil.copytree(short_run, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture(scope="module")
def short_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("short")
    trained(*DIGITS, "--config.train.steps=10", "--config.checkpoint.every=5", cwd=folder)
    return folder


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ("steps", "images"),
        *(pytest.param(*pair, marks=pytest.mark.slow) for pair in (("images", "epochs"), ("epochs", "steps"))),
    ],
)
def test_a_run_is_made_longer(first, then, straight, tmp_path):
    trained(*DIGITS, DURATIONS[first][0], cwd=tmp_path)
    said = trained(*DIGITS, DURATIONS[first][0], cwd=tmp_path)
    assert f"already trained to step 10; a larger train.{first} goes on from here" in said
    assert "steps 10 to 20" in trained(*DIGITS, DURATIONS[then][1], cwd=tmp_path)
    same(final_state(tmp_path / "run", 20), straight)


@pytest.mark.parametrize("duration", ["steps", "images", "epochs"])
def test_a_shorter_duration_changes_nothing(duration, run):
    before = (run / "run" / "config.json").read_text()
    short = {"steps": "train.steps=5", "images": "train.images=80", "epochs": "train.epochs=0.05"}[duration]
    said = trained(*DIGITS, f"--config.{short}", cwd=run)
    assert f"already trained to step 10, and {short} ends at step 5; a larger train.{duration}" in said
    assert (run / "run" / "config.json").read_text() == before


def test_what_changes_the_training_is_told_and_kept(run):
    """All at once; tests/test_config.py goes through every key."""
    changes = {
        "train.learning_rate": "1e-3",
        "train.clip_norm": "0.0",
        "train.warmup_images": "0",
        "train.optimizer": "adamw",
        "train.accumulate": "2",
        "train.batch_size": "8",
        "network.remat": "True",
        "objective.loss": "huber",
        "model.drop_rate": "0.3",
        "seed": "4",
    }
    given = [f"--config.{name}={value}" for name, value in changes.items()]
    said = trained(*DIGITS, "--config.train.steps=12", *given, cwd=run)
    assert "steps 10 to 12" in said
    kept = (run / "run" / history.FILE).read_text().splitlines()
    assert sum("step 10: resumes on" in line for line in kept) == 1
    for name in changes:
        assert f"from step 10 on, {name} is " in said
        assert sum(f"step 10: {name} is " in line for line in kept) == 1
    assert "train.learning_rate is 0.001, 0.01 before" in said
    assert "from step" not in trained(*DIGITS, "--config.train.steps=13", *given, cwd=run)
    state = final_state(run / "run", 13)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))


@pytest.mark.slow
def test_images_are_counted_over_a_change_of_the_batch_size(run):
    smaller = (*DIGITS, "--config.train.batch_size=8")
    assert "steps 10 to 12 of 8 images (0.1 epochs, 176 images)" in trained(
        *smaller, "--config.train.images=176", cwd=run
    )
    assert jdiff.config.of_run(run / "run").train.since == (10, 160)
    assert "steps 12 to 13" in trained(*smaller, "--config.train.images=184", cwd=run)


def test_checkpoints_without_their_config(run):
    (run / "run" / "config.json").rename(run / "away.json")
    line = refusal(*DIGITS, "--config.train.steps=12", cwd=run)
    assert "holds checkpoints without their config.json: copy it again, or put there what" in line
    meta = json.loads((run / "run" / "checkpoints" / "10" / "meta" / "metadata").read_text())
    (run / "run" / "config.json").write_text(json.dumps(meta["config"]))
    assert "already trained to step 10" in trained(*DIGITS, "--config.train.steps=10", cwd=run)


@pytest.mark.parametrize(("good", "found", "left"), [({0, 5}, 5, {5}), ({0}, 0, set()), (set(), -1, {5, 10})])
def test_only_weights_at_fault_are_set_aside(run, good, found, left):
    with Checkpoints(run / "run" / "checkpoints") as checkpoints:
        assert last_good(checkpoints, good.__contains__, run / "run") == found
        assert set(checkpoints.steps()) == left


KINDS = [
    {"name": name, "clip_norm": clip, "rate": rate}
    for name in ("adam", "adamw")
    for clip in (0.0, 1.0)
    for rate in (0.1, constant_schedule(0.1))
]


@pytest.mark.parametrize("before", KINDS, ids=range(len(KINDS)))
@pytest.mark.parametrize("after", KINDS, ids=range(len(KINDS)))
def test_moments_and_count_go_from_any_optimizer_to_any_other(before, after):
    rest = {"b1": 0.9, "b2": 0.99, "eps": 1e-8, "weight_decay": 0.1}
    one, other = make_optimizer(**before, **rest), make_optimizer(**after, **rest)
    params = {"a": np.ones(3, np.float32), "b": {"c": np.zeros((2, 2), np.float32)}}
    grads = jax.tree.map(lambda leaf: leaf + 0.5, params)
    _, state = one.update(grads, one.init(params), params)
    _, wanted = other.update(grads, other.init(params), params)
    if before["clip_norm"] == after["clip_norm"]:  # else the moments themselves differ
        same(carried_over(state, other, params), wanted)
    assert jax.tree.structure(carried_over(state, other, params)) == jax.tree.structure(wanted)


def test_what_does_not_change_the_weights_gives_the_same_ones(run, straight):
    silent = ("train.max_skipped_in_row=9", "machine.prefetch=2", "train.holdout_images=16", "checkpoint.every=7")
    trained(*DIGITS, "--config.train.steps=20", *(f"--config.{change}" for change in silent), cwd=run)
    same(final_state(run / "run", 20), straight)


@pytest.mark.parametrize(
    "change",
    ["network.channels=16", "model.prediction=v", "model.conditions=()", "data.augment=0.12"],
)
def test_another_model_is_refused_by_name(change, run):
    before = {path: path.read_bytes() for path in (run / "run").iterdir() if path.is_file()}
    line = refusal(*DIGITS, "--config.train.steps=20", f"--config.{change}", cwd=run)
    assert f"{change.split('=')[0]} is " in line
    assert before == {path: path.read_bytes() for path in (run / "run").iterdir() if path.is_file()}


@pytest.mark.slow
def test_going_back_gives_the_run_that_was_never_longer(run, straight):
    trained(*DIGITS, "--config.train.steps=14", "--config.train.learning_rate=1.0", cwd=run)
    back = (*DIGITS, "--config.train.steps=20", "--config.checkpoint.resume_from=5", "--config.checkpoint.every=5")
    said = trained(*back, cwd=run)
    assert "goes back to step 5; the checkpoints of 10, 14 lie in" in said
    assert "steps 5 to 20" in said
    same(final_state(run / "run", 20), straight)
    rows = [json.loads(line) for line in (run / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == [5, 10, 15, 20]
    assert sorted(path.name for path in (run / "run" / "set_aside" / "after_step_5").iterdir()) == [
        "10",
        "14",
        "metrics.jsonl",
    ]
    assert "goes back to step 5" in (run / "run" / history.FILE).read_text()
    said = trained(*back, "--config.train.steps=22", cwd=run)  # the same command goes on where it is
    assert "steps 20 to 22" in said
    said = trained(*back, "--config.train.steps=6", "--config.train.learning_rate=0.001", cwd=run)
    assert "goes back to step 5" in said  # once more, to try something else
    assert "steps 5 to 6" in said
    line = refusal(*DIGITS, "--config.checkpoint.resume_from=7", cwd=run)
    assert "checkpoint.resume_from=7: there are checkpoints of 5, 6" in line


def test_damaged_lines_of_the_metrics_are_counted(tmp_path, capsys):
    lines = [b'{"step": 1, "loss": 0.5}', b'{"step": 2, "lo', b'{"step": 3, "loss": 0.\xff}', b'{"step": "4"}', b"[5]"]
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join([*lines, b'{"step": 6}', b'{"step": 7}']))
    writer = Jsonl(tmp_path / "metrics.jsonl", start=6)
    writer.scalars(7, {"loss": 0.25})
    writer.close()
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows == [{"step": 1, "loss": 0.5}, {"step": 6}, {"step": 7, "loss": 0.25}]
    assert "metrics.jsonl: left out 4 damaged lines" in capsys.readouterr().out


def images(folder, seed=0, count=40):
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for i in range(count):
        Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8)).save(folder / f"{i:02}.png")


def test_data_are_known_wherever_they_lie(tmp_path, monkeypatch):
    images(tmp_path / "d")
    arguments = (*FOLDER, "--config.log.every=1")
    trained(*arguments, "--config.data.dir=d", "--config.train.steps=2", cwd=tmp_path)
    said = trained(*arguments, f"--config.data.dir={tmp_path}/./d/", "--config.train.steps=3", cwd=tmp_path)
    assert "steps 2 to 3" in said
    assert "from step" not in said
    (tmp_path / "d").rename(tmp_path / "moved")
    (tmp_path / "elsewhere").mkdir()
    other = [argument for argument in arguments if "workdir" not in argument]
    said = trained(
        *other, "--workdir=../run", "--config.data.dir=../moved", "--config.train.steps=4", cwd=tmp_path / "elsewhere"
    )
    assert "from step" not in said


def test_other_data_are_told(tmp_path):
    images(tmp_path / "d")
    trained(*FOLDER, "--config.data.dir=d", "--config.train.steps=2", cwd=tmp_path)
    shutil.rmtree(tmp_path / "d")
    images(tmp_path / "d", seed=1)
    said = trained(*FOLDER, "--config.data.dir=d", "--config.train.steps=3", cwd=tmp_path)
    assert "from step 2 on, the data are others than before" in said
    assert "the data are others" in (tmp_path / "run" / history.FILE).read_text()


@pytest.mark.parametrize("change", ["moved", "pixels", "fewer", "more", "renamed", "another class"])
def test_a_fingerprint_is_of_names_sizes_and_contents(change, tmp_path):
    images(tmp_path / "d" / "a")
    images(tmp_path / "d" / "b", seed=1)
    before = fingerprint(Folder(str(tmp_path / "d"), "train", holdout=0.0))
    if change == "moved":
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "d").rename(tmp_path / "elsewhere" / "e")
    elif change == "pixels":
        shutil.rmtree(tmp_path / "d" / "a")
        images(tmp_path / "d" / "a", seed=2)
    elif change == "fewer":
        (tmp_path / "d" / "a" / "07.png").unlink()
    elif change == "more":
        shutil.copy(tmp_path / "d" / "a" / "00.png", tmp_path / "d" / "b" / "99.png")
    elif change == "renamed":
        (tmp_path / "d" / "a" / "00.png").rename(tmp_path / "d" / "a" / "97.png")
    else:
        (tmp_path / "d" / "a").rename(tmp_path / "d" / "c")
    now = tmp_path / ("elsewhere/e" if change == "moved" else "d")
    after = fingerprint(Folder(str(now), "train", holdout=0.0))
    assert (after == before) == (change == "moved")


def test_all_held_out_images_left_out_are_told(tmp_path):
    images(tmp_path / "d" / "train")
    (tmp_path / "d" / "val").mkdir()
    for i in range(4):
        (tmp_path / "d" / "val" / f"{i}.png").write_bytes(b"not an image")
    arguments = (*FOLDER, "--config.data.dir=d", "--config.data.on_bad_file=skip", "--config.train.steps=2")
    result = run_here(*arguments, cwd=tmp_path)
    assert "4 unreadable of 4" in result.out + result.err
