"""--mode=evaluate and --mode=stats as a user runs them, and model.evaluate."""

import csv
import json
import shutil
import signal
import time
from unittest import mock

import numpy as np
import pytest
from PIL import Image

import jdiff
import jdiff.config
from jdiff.evaluation import classifier
from jdiff.scoring import report
from jdiff.scoring.data import open_files
from tests.conftest import TINY_DIT, run_here, start_command

FEW = ("--config.eval.num_images=24", "--config.sample.batch_size=8", "--config.sample.steps=3")


@pytest.fixture(autouse=True, scope="module")
def short_classifier():
    """A classifier that is trained for long enough to tell some digits apart."""
    with mock.patch.object(classifier, "STEPS", 150):
        yield


@pytest.fixture(scope="module")
def run(dit_run, tmp_path_factory):
    """The tiny digits run in a folder of its own."""
    folder = tmp_path_factory.mktemp("evaluated") / "run"
    shutil.copytree(dit_run.workdir, folder)
    return folder


def evaluated(run, *arguments):
    result = run_here("--mode=evaluate", f"--workdir={run}", *FEW, *arguments, cwd=run)
    assert result.status == 0, result.err
    return result


def numbers(folder):
    return {name: one["value"] for name, one in json.loads((folder / "evaluation.json").read_text())["numbers"].items()}


def refused(run, *arguments):
    result = run_here("--mode=evaluate", f"--workdir={run}", *FEW, *arguments, cwd=run)
    assert result.status == 1
    assert result.err.startswith("jdiff: ")
    assert result.err.count("\n") == 1
    return result.err


def test_evaluate_prints_numbers_with_their_protocol_and_writes_them(run):
    result = evaluated(run)
    held = json.loads((run / "evaluation" / "evaluation.json").read_text())
    for one in held["numbers"].values():
        assert one["title"] in result.out
        assert one["about"]
        assert one["protocol"] == "jdiff"
    assert "FD-classifier" in result.out
    assert "FID" not in result.out.replace("no FID", "")
    assert "lower is better" in result.out
    assert held["count"] == 24
    assert held["seeds"] == [0]
    assert held["sampling"]["sampler"] == "heun"
    assert held["sampling"]["nfe"] == 5
    assert len(held["sampling"]["ladder"]) == 4
    assert held["sampling"]["class_mix"] == "as in the data"
    assert sum(held["sampling"]["classes"].values()) == 24
    assert held["data"]["fingerprint"]
    assert held["versions"]["jax"]
    assert len(held["protocol"]["space"]["weights"]) == 64
    card = (run / "evaluation" / "card.md").read_text()
    for part in ("What was trained on what", "Numbers", "not good at", "--mode=evaluate", "grid.png"):
        assert part in card
    assert (run / "evaluation" / "grid.png").is_file()
    assert (run / "evaluation" / "nearest.png").is_file()
    assert not list((run / "evaluation").glob("seed_*"))  # features have become numbers
    again = evaluated(run)
    assert "already" in again.out
    assert "FD-classifier" in again.out


def test_the_api_gives_the_numbers_of_the_command(run):
    evaluated(run)
    model = jdiff.load(run)
    result = model.evaluate(24, batch_size=8, steps=3)
    for name, value in numbers(run / "evaluation").items():
        assert result[name] == pytest.approx(value, rel=1e-4)  # the command's programs are compiled in haste here
    uniform = model.evaluate(24, batch_size=8, steps=3, labels="uniform")
    assert uniform.facts["sampling"]["class_mix"] == "uniform"
    with pytest.raises(KeyError, match="fd_classifier"):
        uniform["fid"]


@pytest.mark.slow
@pytest.mark.parametrize("kills", [1, 3])
def test_a_killed_evaluation_goes_on_and_gives_the_same_numbers(run, tmp_path, kills):
    many = (
        "--config.eval.features=pixels",
        "--config.eval.num_images=80",
        "--config.sample.sampler=ddim",
        "--config.sample.steps=50",
    )
    evaluated(run, *many, f"--out={tmp_path / 'whole'}")
    out = tmp_path / "killed"
    for k in range(kills):
        process = start_command("--mode=evaluate", f"--workdir={run}", *FEW, *many, f"--out={out}", cwd=run)
        until = time.monotonic() + 120
        while len(list(out.glob("seed_0/shards/0*.npz"))) < 2 * (k + 1) and time.monotonic() < until:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert not (out / "evaluation.json").exists()
    assert 2 * kills <= len(list(out.glob("seed_0/shards/0*.npz"))) < 10
    evaluated(run, *many, f"--out={out}")
    assert numbers(out) == numbers(tmp_path / "whole")
    assert json.loads((out / "evaluation.json").read_text())["resumed_at"] > 0


def test_images_that_exist_are_scored(run, tmp_path):
    """A folder and an .npz of any tool; a set against its own statistics has distance 0."""
    from sklearn.datasets import load_digits

    images = np.round(load_digits().images[:, :, :, None] * 255 / 16).astype(np.uint8)
    np.savez(tmp_path / "some.npz", images=images[:300])
    folder = tmp_path / "folder"
    folder.mkdir()
    for number, image in enumerate(images[:300]):
        Image.fromarray(image[..., 0]).save(folder / f"{number:04d}.png")
    evaluated(run, f"--config.eval.images={tmp_path / 'some.npz'}", f"--out={tmp_path / 'a'}")
    evaluated(run, f"--config.eval.images={folder}", f"--out={tmp_path / 'b'}")
    assert numbers(tmp_path / "a") == numbers(tmp_path / "b")
    assert numbers(tmp_path / "a")["fd_classifier"] > 0
    assert "accuracy" not in numbers(tmp_path / "a")
    noise = np.random.default_rng(0).integers(0, 256, images[:300].shape, np.uint8)
    np.save(tmp_path / "noise.npy", noise)
    evaluated(run, f"--config.eval.images={tmp_path / 'noise.npy'}", f"--out={tmp_path / 'c'}")
    assert numbers(tmp_path / "c")["fd_classifier"] > numbers(tmp_path / "a")["fd_classifier"]
    assert numbers(tmp_path / "a")["coverage"] > 3 * numbers(tmp_path / "c")["coverage"]


def test_images_of_another_size_are_refused_with_what_the_protocol_would_do(run, tmp_path):
    np.savez(tmp_path / "large.npz", images=np.zeros((20, 16, 16, 1), np.uint8))
    said = refused(run, f"--config.eval.images={tmp_path / 'large.npz'}")
    assert "16x16x1" in said
    assert "8x8x1" in said
    assert "bring each image to one size" in said
    assert "does not exist" in refused(run, f"--config.eval.images={tmp_path / 'none'}")
    for side in (6, 12):
        (tmp_path / "mixed").mkdir(exist_ok=True)
        Image.new("L", (side, side + 1)).save(tmp_path / "mixed" / f"{side}.png")
    said = refused(run, f"--config.eval.images={tmp_path / 'mixed'}")
    assert "many sizes, 7x6 to 13x12: these features would bring each image to one size" in said


PIXELS = "--config.eval.features=pixels"


def test_floats_are_taken_in_the_usual_range_that_holds_them(run, tmp_path):
    """Dark images stay dark: their own extremes would not tell them from bright ones."""
    from sklearn.datasets import load_digits

    images = np.round(load_digits().images[:200, :, :, None] * 127 / 16).astype(np.uint8)
    np.savez(tmp_path / "whole.npz", images=images)
    evaluated(run, f"--config.eval.images={tmp_path / 'whole.npz'}", PIXELS, f"--out={tmp_path / 'whole'}")
    wanted = numbers(tmp_path / "whole")["fd_pixels"]
    for name, values, told in (
        ("unit", images / 255, "black at 0 and white at 1"),
        ("signed", images / 127.5 - 1, "black at -1 and white at 1"),
        ("bytes", images.astype(np.float32), "black at 0 and white at 255"),
    ):
        file = tmp_path / f"{name}.npz"
        np.savez(file, images=values.astype(np.float32))
        assert told in evaluated(run, f"--config.eval.images={file}", PIXELS, f"--out={tmp_path / name}").out
        assert numbers(tmp_path / name)["fd_pixels"] == pytest.approx(wanted, rel=1e-3)
    np.savez(tmp_path / "odd.npz", images=4 * values.astype(np.float32))
    assert "in none of the usual ranges" in refused(run, f"--config.eval.images={tmp_path / 'odd.npz'}", PIXELS)
    wide = jdiff.config.load("digits")
    wide.eval.images, wide.data.low, wide.data.high = str(tmp_path / "odd.npz"), 0.0, 1020.0
    pictures, _ = open_files(wide)
    assert (pictures.values.low, pictures.values.high) == (0.0, 1020.0)


def test_arrays_without_names_are_images_and_their_classes(run, tmp_path):
    """np.savez(file, images, labels), as ADM's scripts write."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    np.savez(tmp_path / "a.npz", np.uint8(digits.images[:200, :, :, None] * 15), digits.target[:200])
    evaluated(run, f"--config.eval.images={tmp_path / 'a.npz'}", f"--out={tmp_path / 'a'}")
    assert numbers(tmp_path / "a")["accuracy"] > 0.3


def test_a_reference_that_is_no_covariance_is_refused(run, tmp_path):
    np.savez(tmp_path / "broken.npz", mu=np.zeros(64), sigma=-np.eye(64))
    said = refused(run, f"--config.eval.reference={tmp_path / 'broken.npz'}", PIXELS)
    assert "broken.npz: sigma is no covariance: it has the eigenvalue -1" in said
    np.savez(tmp_path / "skewed.npz", mu=np.zeros(64), sigma=np.triu(np.ones((64, 64))) + 64 * np.eye(64))
    assert "not symmetric" in refused(run, f"--config.eval.reference={tmp_path / 'skewed.npz'}", PIXELS)


def test_images_are_scored_without_a_run(run, tmp_path):
    from sklearn.datasets import load_digits

    images = np.round(load_digits().images[:100, :, :, None] * 255 / 16).astype(np.uint8)
    np.save(tmp_path / "some.npy", images)
    result = run_here(
        "--mode=evaluate",
        "--config=digits",
        f"--config.eval.images={tmp_path / 'some.npy'}",
        "--config.eval.features=pixels",
        f"--workdir={tmp_path / 'none'}",
        f"--out={tmp_path / 'out'}",
        cwd=tmp_path,
    )
    assert result.status == 0, result.err
    assert "fd_pixels" in numbers(tmp_path / "out")


@pytest.mark.slow
def test_statistics_are_written_and_taken(run, tmp_path):
    result = run_here("--mode=stats", f"--workdir={run}", f"--out={tmp_path}", cwd=run)
    assert result.status == 0, result.err
    file = tmp_path / "jdiff_classifier.npz"
    assert f"--config.eval.reference={file}" in result.out
    with np.load(file) as held:
        assert held["mu"].shape == (64,)
        assert held["sigma"].shape == (64, 64)
        assert int(held["num"]) == 1500
    evaluated(run, f"--out={tmp_path / 'own'}")
    evaluated(run, f"--config.eval.reference={file}", f"--out={tmp_path / 'given'}")
    assert numbers(tmp_path / "own") == numbers(tmp_path / "given")
    with np.load(file) as held:
        np.savez(tmp_path / "pytorch_fid.npz", mu=held["mu"], sigma=held["sigma"])
        np.savez(tmp_path / "other.npz", mu=held["mu"][:10], sigma=held["sigma"][:10, :10])
        np.savez(tmp_path / "no.npz", features=held["features"])
    evaluated(run, f"--config.eval.reference={tmp_path / 'pytorch_fid.npz'}", f"--out={tmp_path / 'theirs'}")
    assert numbers(tmp_path / "theirs")["fd_classifier"] == pytest.approx(numbers(tmp_path / "own")["fd_classifier"])
    assert "precision" not in numbers(tmp_path / "theirs")
    assert "10 dimensions" in refused(run, f"--config.eval.reference={tmp_path / 'other.npz'}")
    assert "mu and sigma" in refused(run, f"--config.eval.reference={tmp_path / 'no.npz'}")
    said = refused(run, f"--config.eval.reference={file}", "--config.eval.features=pixels")
    assert "classifier/features" in said
    assert "pixels" in said


@pytest.mark.slow
def test_a_sweep_is_one_table_and_plots_and_goes_on(run, tmp_path):
    pytest.importorskip("matplotlib")
    swept = (
        "--config.sample.sampler=('ddim', 'heun')",
        "--config.sample.steps=(2, 3)",
        "--config.sample.guidance_scale=(1.0, 2.0)",
        f"--out={tmp_path}",
    )
    evaluated(run, *swept)
    with (tmp_path / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["sampler"], row["steps"], row["guidance_scale"], row["nfe"]) for row in rows[:3]] == [
        ("ddim", "2", "1.0", "2"),
        ("ddim", "2", "2.0", "2"),
        ("ddim", "3", "1.0", "3"),
    ]
    assert len(rows) == 8
    assert all(float(row["fd_classifier"]) > 0 for row in rows)
    assert "| ddim | 2 | 1.0 |" in (tmp_path / "sweep.md").read_text()
    for plot in ("quality_nfe", "quality_guidance", "precision_recall"):
        assert Image.open(tmp_path / f"{plot}.png").size[0] > 600
    (tmp_path / "sampler=heun,steps=3,guidance_scale=2.0" / "evaluation.json").unlink()
    again = evaluated(run, *swept)
    assert again.out.count("already") == 7
    single = numbers(tmp_path / "sampler=ddim,steps=2,guidance_scale=2.0")
    evaluated(run, "--config.sample.sampler=ddim", "--config.sample.steps=2", "--config.sample.guidance_scale=2.0")
    assert numbers(run / "evaluation") == single


def test_a_sweep_of_checkpoints_reads_each(run, tmp_path):
    steps = sorted(int(path.name) for path in (run / "checkpoints").glob("[0-9]*"))
    result = evaluated(
        run,
        f"--config.sample.checkpoint=('latest', '{steps[0]}')",
        "--config.eval.features=pixels",
        f"--out={tmp_path}",
    )
    found = {
        name: json.loads((tmp_path / f"checkpoint={name}" / "evaluation.json").read_text())["checkpoint"]["step"]
        for name in ("latest", str(steps[0]))
    }
    assert found == {"latest": steps[-1], str(steps[0]): steps[0]}
    assert "| checkpoint |" in result.out


def test_what_is_said_of_a_set_is_what_was_drawn(run):
    model = jdiff.load(run)
    drawn = {"features": "pixels", "batch_size": 8, "steps": 2}
    facts = model.evaluate(8, guidance_scale=3.0, labels=[1, 2], **drawn).facts["sampling"]
    assert facts["guidance_scale"] == 3.0
    assert facts["class_mix"] == "as asked"
    assert facts["classes"] == {"1": 4, "2": 4}
    facts = model.evaluate(8, seeds=2, **drawn).facts
    assert facts["seeds"] == [0, 1]
    assert facts["protocol"]["departs"] == "2 seeds, not 1"


def test_without_the_data_a_reference_will_do(run, tmp_path):
    """And what needs the data is left out, with the reason."""
    result = run_here("--mode=stats", f"--workdir={run}", f"--out={tmp_path}", "--config.eval.features=pixels", cwd=run)
    assert result.status == 0, result.err
    moved = tmp_path / "moved"
    shutil.copytree(run, moved)
    config = json.loads((moved / "config.json").read_text())
    config["data"] |= {"name": "folder", "dir": str(tmp_path / "nowhere")}
    (moved / "config.json").write_text(json.dumps(config))
    result = evaluated(
        moved, "--config.eval.features=pixels", f"--config.eval.reference={tmp_path / 'jdiff_pixels.npz'}"
    )
    assert "the data are not read" in result.out
    assert "nowhere" in result.out
    assert {"fd_pixels", "precision"} <= set(numbers(moved / "evaluation"))
    assert "memorised" not in numbers(moved / "evaluation")


def test_fewer_of_the_images_that_exist_are_scored_where_asked(run, tmp_path):
    np.save(tmp_path / "some.npy", np.random.default_rng(0).integers(0, 256, (40, 8, 8, 1), np.uint8))
    arguments = (f"--config.eval.images={tmp_path / 'some.npy'}", "--config.eval.features=pixels")
    evaluated(run, *arguments)
    held = json.loads((run / "evaluation_images" / "evaluation.json").read_text())
    assert held["count"] == 24
    assert "nothing is drawn" in refused(run, *arguments, "--config.sample.steps=(2, 3)")


def test_colour_is_not_compared_with_grey(run, tmp_path):
    folder = tmp_path / "colour"
    folder.mkdir()
    for number in range(4):
        values = np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(values).save(folder / f"{number}.png")
    said = refused(run, f"--config.eval.images={folder}", "--config.eval.features=pixels")
    assert "3 channels" in said


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--config.sample.steps=()"], "empty sweep"),
        (["--config.sample.steps=(5, 0)"], "sample.steps=0"),
        (["--config.sample.sampler=('ddim',"], "no list of values"),
        (["--config.eval.protocol=emd"], "'edm'"),
        (["--config.eval.protocol=edm"], "pt_inception-2015-12-05-6726825d.pth"),
        (["--config.eval.protocol=edm", "--config.eval.features=classifier"], "inception"),
        (["--config.eval.features=dinov2_vits14"], "dinov2_vits14_pretrain.pth"),
        (["--config.eval.labels=all"], "eval.labels"),
        (["--config.eval.num_images=1"], "needs at least 2"),
        (["--config.eval.reference=/nowhere.npz"], "--mode=stats"),
        (["--config.eval.features=pixels", "--config.eval.weights=a"], "no weights"),
        (["--config.eval.weights=/nowhere.safetensors"], "holds no classifier"),
    ],
)
def test_what_cannot_be_is_told_in_a_line(run, arguments, told):
    assert told in refused(run, *arguments)


def test_numbers_during_training_choose_the_best_checkpoint(tmp_path):
    arguments = (
        "--config=digits",
        *TINY_DIT,
        "--config.train.steps=6",
        "--config.checkpoint.every=2",
        "--config.eval.every=2",
        "--config.eval.num_images=16",
        "--config.checkpoint.best_by=fd_classifier",
        "--config.checkpoint.keep=1",
        f"--workdir={tmp_path / 'run'}",
    )
    result = run_here(*arguments, cwd=tmp_path)
    assert result.status == 0, result.err
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    scores = {line["step"]: line["fd_classifier"] for line in lines if "fd_classifier" in line}
    assert set(scores) == {2, 4, 6}
    best = min(scores, key=scores.get)
    assert jdiff.load(tmp_path / "run", "best").step == best
    assert {int(path.name) for path in (tmp_path / "run" / "checkpoints").glob("[0-9]*")} == {best, 6}
    assert "precision" in lines[-1] or any("precision" in line for line in lines)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--config.checkpoint.best_by=fd_classifier"], "eval.every=1000"),
        (["--config.checkpoint.best_by=fd_clasifier", "--config.eval.every=100"], "'fd_classifier'"),
        (["--config.eval.every=5", "--config.eval.num_images=1"], "needs at least 2"),
    ],
)
def test_a_best_checkpoint_that_nothing_tells_is_refused_at_the_start(tmp_path, arguments, told):
    result = run_here("--config=digits", *TINY_DIT, "--config.checkpoint.every=1000", *arguments, cwd=tmp_path)
    assert result.status == 1
    assert told in result.err


def test_bits_per_dim_beside_the_numbers(run, tmp_path):
    evaluated(run, "--config.eval.likelihood_images=4", f"--out={tmp_path}")
    assert 0 < numbers(tmp_path)["bits_per_dim"] < 20


@pytest.mark.parametrize(
    ("value", "error", "told"),
    [(1.23456, 0.0123, "1.235 ± 0.012"), (123.4, 20.0, "123 ± 20"), (0.5, None, "0.5"), (0.5, 0.0, "0.5")],
)
def test_values_are_told_to_two_digits_of_their_error(value, error, told):
    from jdiff.evaluation.numbers import Number

    one = Number(name="n", title="N", value=value, error=error, better="", about="", count=1)
    assert report.valued(one) == told
