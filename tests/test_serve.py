"""--mode=serve: what a visitor of the page gets, and what they must not. In a real browser where there is one:
pip install playwright, and Chromium at /usr/bin/chromium or where JDIFF_CHROMIUM says.
"""

import contextlib
import io
import json
import os
import re
import shlex
import signal
import socket
import sys
import time
import urllib.request
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import jdiff
import jdiff.config
from jdiff import from_config
from jdiff.common.errors import UserError
from jdiff.common.keys import root_key
from jdiff.demo import work
from jdiff.demo.asked import Asked, Limits, without_paths
from jdiff.demo.origin import Origin
from jdiff.demo.progress import METRICS, duration, progress_of
from jdiff.tasks import Weights
from jdiff.training import sharding
from tests.conftest import refusal, run_here, start_command

CHROMIUM = Path(os.environ.get("JDIFF_CHROMIUM", "/usr/bin/chromium"))
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--no-first-run"),
)
LIMITS = Limits(images=16, steps=250)
RUN = Origin(workdir="my run", step=5)
ASKED = Asked(num_images=3, seed=7, sampler="dpmpp_2m", steps=5, guidance_scale=2.0, conditions={"labels": ("3",)})


@pytest.fixture(scope="module")
def model(tiny_run) -> jdiff.Model:
    return jdiff.load(tiny_run.workdir)


# What a visitor asks for


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (Asked(num_images=10_000), "10000 images: this page takes 1 to 16 (serve.most_images); the command takes more"),
        (Asked(num_images=0), "0 images: this page takes 1 to 16"),
        (Asked(steps=251), "251 steps: this page takes 1 to 250 (serve.most_steps)"),
        (Asked(seed=-1), "seed -1 must be a whole number from 0 to 4,294,967,295"),
        (Asked(seed=2**32), "seed 4294967296 must be"),
    ],
)
def test_more_than_the_page_does_is_refused(asked, told):
    with pytest.raises(UserError, match=re.escape(told)):
        asked.within(LIMITS)


def test_the_command_and_the_python_beside_draw_the_same(tiny_run, model, tmp_path):
    overrides = {"sample.rho": 3.0, "sample.ema": None, "guidance.rescale": 0.7, "sample.batch_size": 2}
    changed = model.config.copy_and_resolve_references()
    changed.sample.rho, changed.guidance.rescale = 3.0, 0.7
    *_, as_in_run = work.drawn(model, ASKED)
    *_, last = work.drawn(model.with_config(changed), ASKED)
    assert (last.images != as_in_run.images).any()
    here, origin = tiny_run.workdir.parent, Origin(workdir=tiny_run.workdir.name, step=10, overrides=overrides)
    arguments = shlex.split(origin.command(ASKED))
    assert arguments[:3] == ["python", "-m", "jdiff.main"]
    assert run_here(*arguments[3:], f"--out={tmp_path / 'out'}", cwd=here).status == 0
    by_command = np.load(tmp_path / "out" / "samples.npz")["images"]
    names: dict = {}
    with contextlib.chdir(here):
        exec(origin.python(ASKED), names)
    for images in (by_command, names["images"]):
        assert np.abs(images.astype(int) - last.images.astype(int)).max() <= 1  # two programs round differently


def test_a_preset_leaves_the_rest_to_what_was_tuned():
    asked = Asked(preset=8, seed=3, sampler="ddim", guidance_scale=4.0)
    assert asked.settings == {"seed": 3, "preset": 8}
    assert "sampler" not in RUN.command(asked)


def test_texts_are_quoted_in_the_command():
    asked = Asked(conditions={"texts": ('it\'s a "red" heart; rm -rf',)})
    [given] = [word for word in shlex.split(RUN.command(asked)) if "texts" in word]
    assert given.endswith(repr(asked.conditions["texts"]))


def test_messages_name_no_path():
    told = without_paths(
        "/home/ann/secret/runs/digits/config.json is damaged; see ~/work/x.py, or 1/2 of https://a.org/b"
    )
    assert "ann" not in told
    assert "secret" not in told
    assert "work" not in told
    assert told.startswith("config.json is damaged; see x.py, or 1/2 of https://a.org/b")


def test_a_picture_and_numbers_are_told_beside():
    asked = Asked(view="as_is", conditions={"labels": ("a",)})
    assert "--config.sample.condition_dir=PICTURES --config.sample.condition_view=as_is" in RUN.command(asked)
    assert "condition_dir='PICTURES', condition_view='as_is'" in RUN.python(asked)
    numbers = Asked(conditions={"scalars": ((0.5,),)})
    assert RUN.command(numbers).startswith("# the command takes no numbers")
    assert "scalars=((0.5,),)" in RUN.python(numbers)


def test_a_picture_is_drawn_of_as_often_as_on_the_page():
    asked = Asked(num_images=3, view="as_is")
    assert "--config.sample.images_per_condition=3 " in RUN.command(asked)  # one picture decides how many images
    assert "num_images" not in RUN.command(asked)


def test_overrides_are_told_beside():
    origin = Origin(
        workdir="run",
        overrides={
            **{"sample.sampler": "ddim", "sample.eta": 0.5, "sample.ema": 0.1, "sample.size": (16, 16)},
            **{"guidance.rescale": 0.7, "guidance.weak_workdir": "/home/ann/my runs/weak/"},
            **{"guidance.sigma_high": None, "network.dtype": "bfloat16", "serve.port": 0, "sample.name": "mine"},
        },
    )
    asked = Asked(num_images=1)
    told = [word.removeprefix("--config.") for word in shlex.split(origin.command(asked)) if "config" in word]
    by_visitor = ["num_images=1", "seed=0", "sampler=heun", "ladder=auto", "steps=18"]
    by_run = ["sample.eta=0.5", "sample.ema=0.1", "sample.size=(16, 16)", "guidance.rescale=0.7"]
    others = ["guidance.weak_workdir=weak", "guidance.sigma_high=None", "network.dtype=bfloat16"]
    assert told == [*(f"sample.{one}" for one in by_visitor), *by_run, *others]
    python = origin.python(asked)
    assert "jdiff.load('run', ema=0.1)" in python
    assert "steps=18, eta=0.5, size=(16, 16), rescale=0.7, weak_workdir='weak')" in python
    assert "\n# the command alone takes guidance.sigma_high=None, network.dtype=bfloat16\n" in python


def test_a_preset_goes_before_overrides_that_came_without_one():
    overrides = {"sample.eta": 0.5, "sample.adapter_scale": 2.0}
    with_preset = {**overrides, "sample.preset": 8, "sample.given": ("sample.preset", "sample.eta")}
    asked = Asked(preset=4)
    for given, of_preset in ((overrides, False), (with_preset, True)):
        told = Origin(workdir="run", overrides=given).command(asked)
        assert ("sample.eta=0.5" in told) == of_preset
        assert "sample.adapter_scale=2.0" in told
        assert "sample.preset=4" in told
        assert "given" not in told


def test_what_was_overridden_is_known(tiny_run, monkeypatch):
    pytest.importorskip("gradio")

    def page(model, workdir, limits, overrides):
        raise UserError(f"the page is told of {overrides}")

    monkeypatch.setattr("jdiff.demo.page.page", page)
    flags = ("--config.sample.eta=0.5", "--config.serve.port=0", "--config.sample.steps=4")  # 4 as in the run
    told = refusal("--mode=serve", f"--workdir={tiny_run.workdir}", *flags, cwd=tiny_run.workdir)
    assert "the page is told of {'sample.eta': 0.5, 'serve.port': 0}" in told


# What the page asks for


def untrained(run, changes: dict) -> jdiff.Model:
    """A model of a run's config with other values of these keys, with the weights that training would begin with."""
    config = jdiff.config.of_run(run.workdir)
    with config.ignore_type():
        config.update_from_flattened_dict(changes)
    task = from_config.task(config, train=False).sampling_task
    weights = jax.jit(lambda: Weights(*task.init(root_key(0), from_config.example(config))))()
    return jdiff.Model(config, task, sharding.make_mesh(), weights, step=0, workdir=run.workdir)


def asked(model: jdiff.Model, view: str = "", **chosen: object) -> Asked:
    """What the page asks a model for, with these of its fields, by their labels, changed."""
    gr = pytest.importorskip("gradio")
    from jdiff.demo.controls import Controls

    with gr.Blocks():
        controls = Controls(model, LIMITS)
    fields = {field.label: field.value for field in controls.widgets}
    assert chosen.keys() <= fields.keys()
    return controls.read(tuple((fields | chosen).values()), view)


UNCONDITIONAL = {"model.conditions": (), "sample.guidance_scale": None}
OF_NUMBERS = {
    "condition.scalars.names": ("age", "dose"),
    "condition.scalars.mean": (61.23456, -0.0312345),
    "condition.scalars.std": (11.0, 0.004),
}


def test_numbers_begin_at_their_mean_and_may_be_left_out(tiny_run):
    model = untrained(tiny_run, {"model.conditions": ("scalars",), **OF_NUMBERS})
    assert asked(model).conditions == {"scalars": ((61.2, -0.03123),)}
    assert asked(model, age=None, dose=None).conditions == {}
    with pytest.raises(UserError, match="dose: give a number, or none at all"):
        asked(model, dose=None)
    unknown = untrained(tiny_run, {"model.conditions": ("scalars",), "condition.scalars.names": ("age",)})
    assert asked(unknown).conditions == {"scalars": ((0,),)}


def test_each_class_in_turn_beside_another_condition(tiny_run):
    model = untrained(tiny_run, {"model.conditions": ("label", "scalars"), **OF_NUMBERS})
    for page in (asked(model), asked(model, age=None, dose=None, view="as_is")):
        assert page.conditions["labels"] == ("0", "1", "2", "3")
        request = model.request(page.num_images, **{"scalars": [[60.0, 0.0]], **page.settings})
        assert request.labels.tolist() == [0, 1, 2, 3]
    assert asked(model, **{"images (1 to 16)": 12}).conditions["labels"] == tuple("0123456789")
    assert "labels" not in asked(model, **{"class": "not given"}).conditions
    assert "labels" not in asked(model, age=None, dose=None).conditions  # the run's examples, with their classes
    assert asked(model, **{"class": "3"}).conditions["labels"] == ("3",)


def test_classes_begin_as_the_run_is_overridden(tiny_run, model):
    assert asked(model).conditions == {}
    listed = untrained(tiny_run, {"sample.labels": ("7",)})
    assert asked(listed).conditions == {}
    assert listed.request(2, **asked(listed).settings).labels.tolist() == [7, 7]
    assert asked(listed, **{"class": "each in turn"}).conditions == {"labels": ("0", "1", "2", "3")}


def test_a_classifier_guides_a_model_without_classes_to_one(tiny_run):
    by_classifier = {"guidance.method": "classifier", "guidance.classifier_workdir": "reader"}
    model = untrained(tiny_run, {**UNCONDITIONAL, **by_classifier})
    by_class = {"class, by guidance": "3"}
    for page in (asked(model), asked(model, **by_class)):  # scale 0 guides to nothing
        assert not model.request(2, **page.settings).guided
    page = asked(model, **by_class, **{"guidance (0: none)": 2.0})
    request = model.request(2, **page.settings)
    assert request.guided
    assert request.labels.tolist() == [3, 3]


def tabs(model: jdiff.Model) -> list[str]:
    """The page's."""
    gr = pytest.importorskip("gradio")
    from jdiff.demo.page import page

    blocks = page(model, model.workdir, LIMITS, {}).blocks.values()
    return [block.label for block in blocks if isinstance(block, gr.Tab)]


@pytest.mark.parametrize(("side", "taken"), [(5_000, True), (5_001, False), (14_000, False)])
def test_a_picture_of_many_pixels_is_not_decoded(side, taken, tmp_path):
    gr = pytest.importorskip("gradio")
    from jdiff.demo.photos import refuse_large

    (tmp_path / "large.ppm").write_text(f"P6 {side} {side} 255\n")  # without what follows
    with contextlib.nullcontext() if taken else pytest.raises(gr.Error, match="more than 25,000,000 pixels"):
        refuse_large(tmp_path / "large.ppm")


def test_the_fields_for_pictures_refuse_many_pixels(tmp_path, monkeypatch):
    gr = pytest.importorskip("gradio")
    from gradio.components.image_editor import EditorData
    from gradio.data_classes import FileData, ImageData

    from jdiff.demo import photos

    file = str(tmp_path / "a.png")
    Image.new("RGB", (20, 20)).save(file)
    given = (
        (photos.photo("photo"), ImageData(path=file)),
        (photos.canvas("sketch"), EditorData(background=FileData(path=file))),
    )
    for field, payload in given:
        assert field.preprocess(payload) is not None
    monkeypatch.setattr(photos, "MOST_PIXELS", 399)
    for field, payload in given:
        with pytest.raises(gr.Error, match="more than 399 pixels"):
            field.preprocess(payload)


# What is drawn


def test_images_appear_as_they_are_denoised(model):
    frames = list(work.drawn(model, ASKED))
    assert [frame.told for frame in frames[:-1]] == [f"step {rung} of 5" for rung in range(1, 5)]
    assert frames[-1].told == "5 network calls an image, 10 passes with guidance"
    assert [frame.images is None for frame in frames] == [True] * 4 + [False]
    assert min(frames[-1].picture.shape[:2]) >= work.LEAST_SIDE / 2
    assert (frames[0].picture != frames[-1].picture).any()


def test_another_seed_is_another_image_and_the_same_is_the_same(model):
    images = [list(work.drawn(model, Asked(steps=3, seed=seed)))[-1].images for seed in (1, 1, 2)]
    assert (images[0] == images[1]).all()
    assert (images[0] != images[2]).any()


def test_a_way_begins_and_ends_at_its_seeds(model):
    asked = Asked(steps=4, seed=1, sampler="ddim", conditions={"labels": ("3",)})
    way = work.path_between(model, asked, 2, 5)
    assert len(way) == 5
    for seed, picture in ((1, way[0]), (2, way[-1])):
        alone = work.on_page(model.sample(1, **{**asked.settings, "seed": seed}))
        assert np.abs(alone.astype(int) - picture.astype(int)).max() <= 2
    in_turn = work.path_between(model, Asked(steps=4, seed=1, sampler="ddim"), 1, 3)
    assert (in_turn[0] == in_turn[2]).all()  # of one class, not of each in turn


def test_what_the_brush_leaves_stays(model):
    picture = np.arange(64, dtype=np.uint8).reshape(8, 8, 1).repeat(48, 0).repeat(48, 1).repeat(3, 2)
    brush = np.zeros((384, 384), np.float32)
    brush[:192] = 1.0
    painted = work.painted_anew(model, Asked(steps=3, sampler="ddim"), picture, brush)
    side = painted.shape[0] // 8
    of_image = painted[side // 2 :: side, side // 2 :: side, 0]
    known = picture[24::48, 24::48, 0]
    assert (of_image[4:] == known[4:]).all()
    assert (of_image[:4] != known[:4]).any()
    with pytest.raises(UserError, match="nothing is painted over"):
        work.painted_anew(model, Asked(steps=3, sampler="ddim"), picture, np.zeros((384, 384), np.float32))


@pytest.mark.parametrize("classes", [(0, 255), (0, 1, 2)])
def test_masks_without_a_photo_are_drawn_as_pictures(tiny_run, classes):
    pytest.importorskip("gradio")
    of_masks = {"data.masks": ("image",), "data.classes_of_masks": classes, "model.space": "masks"}
    model = untrained(tiny_run, {**UNCONDITIONAL, **of_masks})
    assert tabs(model) == ["Draw", "Between two seeds", "Training"]
    *_, last = work.drawn(model, Asked(num_images=1, steps=2))
    assert set(np.unique(last.picture)) <= {*np.linspace(0, 255, len(classes)).round()}
    assert len(np.unique(last.picture)) == len(classes)


# The run


def test_progress_is_told_of_what_is_written(tiny_run, tmp_path):
    workdir = tmp_path / "run"
    workdir.mkdir()
    config = json.loads((tiny_run.workdir / "config.json").read_text())
    config["train"]["steps"] = 1000
    (workdir / "config.json").write_text(json.dumps(config))
    assert progress_of(workdir).told == "nothing is logged yet"
    rows = [{"step": 100 * k, "loss": 1 / k, "images_per_s": 32.0} for k in range(1, 5)]
    rows += [{"step": 400, "holdout_loss": None}, {"step": 400, "holdout_loss": 0.5}]
    lines = "\n".join(map(json.dumps, rows)) + '\n{"step": 50'  # a line that is being written
    (workdir / METRICS).write_text(lines)
    found = progress_of(workdir)
    assert found.told == "step 400 of 1,000 (40 %), 32 images/s, 5 min left while it trains"
    assert found.points[-1] == {"step": 400, "name": "holdout_loss", "value": 0.5}
    assert len(found.points) == 5
    many = "\n".join(json.dumps({"step": k, "loss": 1.0}) for k in range(1, 9_001))
    (workdir / METRICS).write_text(many)
    points = progress_of(workdir).points
    assert len(points) <= 2_000
    assert points[-1]["step"] == 9_000


def test_durations_are_in_hours_and_minutes():
    assert [duration(seconds) for seconds in (0.5, 60, 3599, 5400)] == ["1 min", "1 min", "1 h 0 min", "1 h 30 min"]


# The mode


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


@contextlib.contextmanager
def served(workdir: Path):
    """The address of the page that the command serves."""
    port = free_port()
    process = start_command(
        *("--mode=serve", f"--workdir={workdir.name}", f"--config.serve.port={port}"), cwd=workdir.parent
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert f"http://127.0.0.1:{port}" in line, line + process.communicate(timeout=30)[1]
        yield f"http://127.0.0.1:{port}/"
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
        assert "Traceback" not in said, said
    finally:
        process.kill()


def test_it_needs_gradio(tiny_run, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "jdiff.demo.page", raising=False)
    told = refusal("--mode=serve", f"--workdir={tiny_run.workdir}", cwd=tmp_path)
    assert "pip install 'jdiff-diffusion[demo]'" in told


def test_it_writes_nothing(tiny_run, tmp_path):
    assert "writes nothing" in refusal(
        "--mode=serve", f"--workdir={tiny_run.workdir}", f"--out={tmp_path / 'x'}", cwd=tmp_path
    )


def test_a_port_that_is_taken_is_told(tiny_run, tmp_path):
    pytest.importorskip("gradio")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        told = refusal("--mode=serve", f"--workdir={tiny_run.workdir}", f"--config.serve.port={port}", cwd=tmp_path)
    assert f"serve.port={port} at 127.0.0.1 cannot be had" in told
    assert "--config.serve.port=0" in told


def test_the_page_tells_no_path_and_asks_the_web_for_nothing(tiny_run):
    pytest.importorskip("gradio")
    with served(tiny_run.workdir) as address:
        text = urllib.request.urlopen(address, timeout=30).read().decode()
        assert f"# {tiny_run.workdir.name}" in text
        assert str(tiny_run.workdir.parent) not in text
        loaded = re.findall(r"<(?:script|link)[^>]*(?:src|href)=\"(https?://[^\"]+)", text)
        assert not [url for url in loaded if not url.startswith(address)]


@pytest.fixture
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    if not CHROMIUM.is_file():
        pytest.skip(f"no Chromium at {CHROMIUM}")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield browser
        browser.close()


class Visitor:
    """A visitor's browser window at the page."""

    def __init__(self, browser, address: str, width: int = 1280):
        self.page = browser.new_context(viewport={"width": width, "height": 900}).new_page()
        self.faults: list[str] = []
        self.page.on("console", lambda said: self.faults.append(said.text) if said.type == "error" else None)
        self.page.on("request", lambda asked: None if asked.url.startswith(address) else self._outside(asked.url))
        self.page.goto(address)
        self.page.get_by_label("sampler").first.wait_for()

    def _outside(self, url: str) -> None:
        if url.startswith("http"):
            self.faults.append(url)

    def set(self, label: str, value: object) -> None:
        self.page.get_by_label(label).first.fill(str(value))

    def press(self, button: str) -> None:
        self.page.get_by_role("button", name=button, exact=True).click()

    def draw(self) -> bytes:
        """The picture that is drawn once the button is pressed."""
        self.press("Draw")
        return self.drawn()

    def drawn(self) -> bytes:
        self.page.get_by_text(re.compile(r"step \d+ of")).wait_for(timeout=60_000)
        self.page.get_by_text("network calls an image").wait_for(timeout=60_000)
        time.sleep(1)
        return self.page.request.get(self.page.locator(".image-container img").first.get_attribute("src")).body()


@pytest.mark.slow
def test_in_a_browser(tiny_run, browser):
    pytest.importorskip("gradio")
    with served(tiny_run.workdir) as address:
        ann = Visitor(browser, address)
        ann.page.get_by_label("class").click()
        ann.page.get_by_role("option", name="3", exact=True).click()
        ann.set("images (1 to 16)", 1)
        ann.set("steps (1 to 250)", 250)
        first = ann.draw()  # it shows how far it is, and then what was drawn
        assert "labels=('3',)" in ann.page.locator(".cm-content").nth(1).inner_text()
        assert ann.draw() == first
        ann.set("seed", 5)
        assert ann.draw() != first

        ann.set("images (1 to 16)", 10_000)
        ann.press("Draw")
        ann.page.get_by_text("10000 images: this page takes 1 to 16").wait_for()
        assert ann.page.get_by_role("button", name="Draw", exact=True).is_enabled()

        bob = Visitor(browser, address, width=390)  # at once, on a telephone
        bob.set("steps (1 to 250)", 250)
        ann.set("images (1 to 16)", 2)
        ann.press("Draw")
        of_bob = bob.draw()
        ann.page.get_by_text("network calls an image").wait_for(timeout=60_000)
        assert of_bob
        bob.page.reload()
        bob.page.get_by_label("sampler").first.wait_for()
        bob.set("steps (1 to 250)", 250)
        for _ in range(60):  # by keys alone: to the button, which draws
            bob.page.keyboard.press("Tab")
            if bob.page.evaluate("document.activeElement.matches('button.primary')"):
                break
        bob.page.keyboard.press("Enter")
        assert bob.drawn()
        assert bob.page.evaluate("document.documentElement.scrollWidth") <= 390

        ann.page.get_by_role("tab", name="Training").click()
        ann.page.get_by_text("step 10 of 10 (100 %)").wait_for()
        assert not ann.faults
        assert not bob.faults


@pytest.mark.slow
def test_paint_in_a_browser(tiny_run, browser):
    pytest.importorskip("gradio")
    with served(tiny_run.workdir) as address:
        ann = Visitor(browser, address)
        ann.page.get_by_role("tab", name="Paint over").click()
        ann.set("images (1 to 16)", 1)
        ann.press("Begin with a new image")
        canvas = ann.page.locator("canvas").first
        canvas.wait_for(timeout=60_000)
        time.sleep(3)
        box = canvas.bounding_box()
        ann.page.mouse.move(box["x"] + box["width"] * 0.45, box["y"] + box["height"] * 0.4)
        ann.page.mouse.down()
        for k in range(20):
            ann.page.mouse.move(
                box["x"] + box["width"] * (0.45 + 0.005 * k), box["y"] + box["height"] * (0.4 + 0.01 * k)
            )
        ann.page.mouse.up()
        time.sleep(1)
        ann.press("Paint")
        painted = ann.page.locator("img[src*='image.png']").last
        painted.wait_for(timeout=60_000)
        content = ann.page.request.get(painted.get_attribute("src")).body()
        assert Image.open(io.BytesIO(content)).size == (384, 384)
        assert not ann.faults
