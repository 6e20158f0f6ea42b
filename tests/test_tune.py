"""--mode=tune as a user runs it, and what sample.preset makes of what it found."""

import json
import shutil
import signal
import time
from unittest import mock

import numpy as np
import pytest

import jdiff
from jdiff.common.errors import UserError
from jdiff.diffusion import free_ladder
from jdiff.evaluation import classifier
from jdiff.from_config import presets
from jdiff.modes.tune import check_model
from jdiff.tuning import choices, search
from tests.conftest import TINY_DIT, config, refusal, run_here, start_command, trained_for_ten_steps

SETTINGS = (
    "--config.tune.nfe=(2,3)",
    "--config.tune.images=48",
    "--config.tune.finalists=1",
    "--config.tune.samplers=('dpmpp_2m','ddim')",
    "--config.sample.batch_size=24",
    "--config.sample.guidance_scale=1.5",
    "--config.eval.features=pixels",
)


@pytest.fixture(autouse=True, scope="module")
def quick():
    """Few guidances, grids and calls, as each is another program or many calls of a network that nothing optimised."""
    with (
        mock.patch.object(classifier, "STEPS", 50),
        mock.patch.object(choices, "SCALES", (1.0, 2.0)),
        mock.patch.object(choices, "INTERVALS", ()),
        mock.patch.object(search, "FINE", 6),
        mock.patch.object(free_ladder, "GRID", 8),
        mock.patch.object(free_ladder.reference, "__kwdefaults__", {"grid": 8}),
    ):
        yield


def tuned(run, *arguments):
    result = run_here("--mode=tune", f"--workdir={run}", *SETTINGS, *arguments, cwd=run)
    assert result.status == 0, result.err
    return result


def held(run):
    return json.loads((run / "tune" / "tuned.json").read_text())


@pytest.fixture(scope="module")
def run(dit_run, tmp_path_factory):
    """The tiny digits run, tuned."""
    folder = tmp_path_factory.mktemp("tuned") / "run"
    shutil.copytree(dit_run.workdir, folder)
    result = tuned(folder)
    (folder / "said.txt").write_text(result.out)
    return folder


def test_tune_writes_what_it_found_and_tells_it(run):
    said, found = (run / "said.txt").read_text(), held(run)
    assert sorted(found["budgets"]) == ["2", "3"]
    assert found["step"] == 10
    for calls in ("2", "3"):
        budget = found["budgets"][calls]
        assert set(budget["settings"]) == set(presets.KEYS)
        low, high = budget["distance"]["interval"]
        assert low < budget["distance"]["value"] < high
        assert budget["distance"]["value"] == min(one["value"] for one in budget["finals"])
        assert budget["default"]["settings"]["sample.sampler"] == "dpmpp_2m"
        assert budget["default"]["settings"]["sample.ladder"] == "auto"
        assert budget["default"]["calls"] == int(calls)
        assert all(one["calls"] <= int(calls) for one in budget["tried"])
        finals, tried = ({one["seed"] for one in budget[name]} for name in ("finals", "tried"))
        assert not finals & tried  # fresh
        assert {one["count"] for one in budget["finals"]} == {48}
        ladders = {one["settings"]["sample.ladder"] for one in budget["tried"]}
        assert ladders == {"auto", "karras", "by_hand"}
        own = [one for one in budget["finals"] if one["settings"]["sample.sampler"] == "heun"]
        assert own  # the config's sampler, in so many calls
        assert {one["settings"]["sample.guidance_scale"] for one in budget["tried"]} == {1.5, 1.0, 2.0}
        assert choices.in_words(budget["settings"]) in said
        assert budget["fine"]["calls"] == 6
    for part in ("settings", "24 images each", "finals, of a fresh seed", "| NFE |", "tuned.json"):
        assert part in said
    assert (run / "tune" / "table.md").read_text() in said
    assert (run / "tune" / "tuned.png").is_file()
    assert not (run / "tune" / "features").exists()


def test_the_same_command_measures_nothing_again(run):
    before = held(run)
    with mock.patch("jdiff.scoring.judge.Judge.gather", side_effect=AssertionError):
        tuned(run)
    assert held(run) == before


@pytest.mark.slow
def test_another_budget_joins_those_there(run):
    """Though it was judged by fewer images, which its entry says."""
    before = held(run)["budgets"]
    tuned(run, "--config.tune.nfe=(1,)", "--config.tune.images=36")
    after = held(run)["budgets"]
    assert sorted(after) == ["1", "2", "3"]
    assert {name: after[name] for name in before} == before
    assert {name: one["images"] for name, one in after.items()} == {"1": 36, "2": 48, "3": 48}


def test_a_preset_draws_by_the_tuned_settings(run):
    model, settings = jdiff.load(run), held(run)["budgets"]["3"]["settings"]
    given = {name.partition(".")[2]: value for name, value in settings.items() if value is not None}
    expected = model.sample(4, **{**given, "sigmas": tuple(settings["sample.sigmas"])})
    np.testing.assert_array_equal(model.sample(4, preset=3), expected)
    assert model.nfe(preset=3)[0] == held(run)["budgets"]["3"]["calls"]


def test_the_evaluation_of_a_preset_is_the_tuned_figure(run):
    result = run_here(
        *("--mode=evaluate", f"--workdir={run}", "--config.sample.preset=3", "--config.eval.num_images=48"),
        *("--config.eval.features=pixels", "--out=evaluated"),
        cwd=run,
    )
    assert result.status == 0, result.err
    told = json.loads((run / "evaluated" / "evaluation.json").read_text())
    distance = held(run)["budgets"]["3"]["distance"]
    assert told["numbers"][distance["name"]]["value"] == pytest.approx(distance["value"], rel=1e-5)
    assert told["sampling"]["preset"] == 3
    assert told["sampling"]["nfe"] <= 3


def test_settings_given_besides_go_before_the_presets(run):
    model = jdiff.load(run)
    asked = model.request(4, preset=2, sampler="lms", ladder="logsnr", steps=5)
    assert (asked.config.sample.sampler, len(asked.sigmas)) == ("lms", 6)
    result = run_here(
        *("--mode=sample", f"--workdir={run}", "--config.sample.preset=2", "--config.sample.guidance_scale=1.0"),
        *("--config.sample.sampler=heun", "--config.sample.ladder=karras", "--config.sample.steps=3", "--out=given"),
        *("--config.sample.num_images=4",),
        cwd=run,
    )
    assert result.status == 0, result.err
    assert "heun, NFE 5, 5 network passes" in result.out


def test_the_budget_of_a_sweep_may_vary(run):
    result = run_here(
        *("--mode=evaluate", f"--workdir={run}", "--config.sample.preset=(2,3)", "--config.eval.num_images=24"),
        *("--config.eval.features=pixels", "--out=swept"),
        cwd=run,
    )
    assert result.status == 0, result.err
    assert "| preset |" in result.out


def test_presets_that_are_not_there(run, dit_run):
    with pytest.raises(UserError, match=r"is none of the budgets tuned .*1, 2, 3|2, 3: --mode=tune .*nfe=\"\(7,\)\""):
        jdiff.load(run).sample(2, preset=7)
    line = refusal("--mode=sample", f"--workdir={dit_run.workdir}", "--config.sample.preset=7", cwd=run)
    assert f'--mode=tune --workdir={dit_run.workdir} --config.tune.nfe="(7,)" writes' in line
    with pytest.raises(UserError, match="must be a number of denoiser calls"):
        jdiff.load(run).sample(2, preset=-1)
    (run.parent / "torn" / "tune").mkdir(parents=True)
    (run.parent / "torn" / "tune" / "tuned.json").write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        presets.read(run.parent / "torn", 4)


def test_steps_do_not_change_a_free_ladder(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    found = held(run)
    settings = found["budgets"]["2"]["settings"]
    settings.update({"sample.ladder": "by_hand", "sample.sigmas": [40.0, 1.0]})
    (tmp_path / "run" / "tune" / "tuned.json").write_text(json.dumps(found))
    model = jdiff.load(tmp_path / "run")
    with pytest.raises(UserError, match=r"leave sample\.steps out, or give sample\.ladder too"):
        model.sample(2, preset=2, steps=4)
    assert len(model.request(2, preset=2, steps=4, ladder="karras").sigmas) == 5
    assert model.request(2, preset=2).sigmas.tolist() == [40.0, 1.0, 0.0]


def test_presets_of_other_weights_are_told_and_used(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    found = held(run)
    (tmp_path / "run" / "tune" / "tuned.json").write_text(json.dumps({**found, "weights": "00000000", "step": 5}))
    with pytest.warns(UserWarning, match="was tuned for other weights, of step 5"):
        images = jdiff.load(tmp_path / "run").sample(2, preset=2)
    np.testing.assert_array_equal(images, jdiff.load(run).sample(2, preset=2))


@pytest.mark.slow
def test_killed_it_goes_on(dit_run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(dit_run.workdir, folder)
    for kill, status in ((signal.SIGTERM, 128 + signal.SIGTERM), (signal.SIGKILL, -signal.SIGKILL)):
        before = scores(folder)
        process = start_command("--mode=tune", f"--workdir={folder}", *SETTINGS, cwd=tmp_path)
        while len(scores(folder)) <= len(before) + 1 and process.poll() is None:
            time.sleep(0.1)
        process.send_signal(kill)
        out, err = process.communicate(timeout=120)
        assert process.returncode == status, err
        if kill == signal.SIGTERM:
            assert "the same command goes on" in out
        assert not (folder / "tune" / "tuned.json").exists()
        assert len(scores(folder)) > len(before)
        assert before.items() <= scores(folder).items()  # nothing is measured again


def scores(folder):
    file = folder / "tune" / "scores.json"
    return json.loads(file.read_text()) if file.is_file() else {}


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (["tune.nfe=()"], "tune.nfe=() asks for nothing"),
        (["tune.nfe=(0,)"], "tune.nfe=(0,) must hold numbers in [1, 1024]"),
        (["tune.nfe=(4,-2)"], "must hold numbers in [1, 1024]"),
        (["tune.samplers=()"], "tune.samplers=() leaves none to try"),
        (["tune.samplers=('huen',)"], "did you mean 'heun'?"),
        (["tune.samplers=('ode',)"], "chooses its number of calls itself"),
        (["sample.preset=2"], "sample.preset=2 is what tuning finds: leave it out"),
        (["eval.features=inception"], "need eval.weights=FILE"),
        (["tune.images=1"], "tune.images=1 must be at least 2"),
    ],
)
def test_what_cannot_be_tuned_is_told_in_a_line(run, asked, says):
    assert says in refusal("--mode=tune", f"--workdir={run}", *SETTINGS, *(f"--config.{one}" for one in asked), cwd=run)


def test_what_does_not_walk_the_flow_is_told_in_a_line(run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    asked = ["--mode=tune", f"--workdir={folder}", *SETTINGS]
    line = refusal(*asked, "--config.guidance.method=cfg_plus_plus", "--config.sample.sampler=ddim", cwd=run)
    assert "set guidance.method=classifier_free" in line
    model = jdiff.load(run)
    assert model.config.guidance.method == "classifier_free"
    check_model(model)
    config = model.config.copy_and_resolve_references()
    config.task = "flow_map"
    with pytest.raises(UserError, match=r"learned jumps alone.*flow_map\.instants=0\.25"):
        check_model(model.with_config(config))


def test_a_preset_keeps_the_guidance_that_its_scale_is_of(run):
    """Of autoguidance tuned, not classifier-free guidance at its scale."""
    settings = held(run)["budgets"]["2"]["settings"]
    assert {"guidance.method", "guidance.weak_workdir", "guidance.rescale", "sample.variance"} <= settings.keys()


def test_a_sweep_of_presets_takes_what_is_given_besides(run):
    result = run_here(
        "--mode=evaluate",
        f"--workdir={run}",
        "--config.sample.preset=(0,2)",
        "--config.sample.sampler=euler",
        "--config.sample.batch_size=24",
        "--config.eval.num_images=48",
        "--config.eval.features=pixels",
        "--out=swept",
        cwd=run,
    )
    assert result.status == 0, result.err
    swept = json.loads(next((run / "swept").rglob("evaluation.json")).read_text())
    assert "euler" in json.dumps(swept)


def test_what_draws_no_images_is_told_in_a_line(tmp_path):
    classifies = trained_for_ten_steps(tmp_path, *TINY_DIT, "--config.task=classifier", "--config.network.name=convnet")
    line = refusal("--mode=tune", f"--workdir={classifies.workdir}", cwd=tmp_path)
    assert "task='classifier' draws no images by a sampler" in line


def test_a_model_without_conditions_has_no_guidance_to_tune(dit_run):
    of_run = jdiff.load(dit_run.workdir).config.copy_and_resolve_references()
    assert len(choices.guidances(of_run, 0.75)) == 2
    of_run.model.conditions = ()
    (alone,) = choices.guidances(of_run, 0.75)
    assert alone["sample.guidance_scale"] == of_run.sample.guidance_scale


def test_a_free_ladder_starts_no_higher_than_the_model_knows(run):
    """Rounding to fewer digits must not lift it above."""
    found = [budget["settings"]["sample.sigmas"] for budget in held(run)["budgets"].values()]
    found += [one["settings"]["sample.sigmas"] for one in held(run)["budgets"]["3"]["tried"]]
    assert any(found)
    assert all(sigmas[0] <= jdiff.load(run).schedule.sigma_max for sigmas in found if sigmas)


def test_a_preset_is_refused_where_a_run_begins(tmp_path):
    asked = [config("digits"), *TINY_DIT, "--config.train.steps=1", "--config.sample.preset=4", "--workdir=run"]
    assert "sample.preset=4 is for a trained run" in refusal(*asked, cwd=tmp_path)


def test_steps_are_as_many_as_the_calls_allow(dit_run):
    of_run = jdiff.load(dit_run.workdir).config
    for calls in range(1, 9):
        for name, calls_of in (("heun", lambda n: 2 * n - 1), ("dpmpp_2m", lambda n: n), ("dpm2", lambda n: 2 * n - 1)):
            steps = choices.steps_for(of_run, name, calls)
            assert calls_of(steps) <= calls < calls_of(steps + 1)
    assert choices.steps_for(of_run, "ode", 8) == 0
