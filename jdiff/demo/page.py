"""The page itself, by Gradio: one request at a time, the others wait."""

import math
import socket
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
import numpy as np
import pandas as pd
from PIL import Image as Pillow

from jdiff import from_config
from jdiff.common.errors import UserError, is_out_of_memory
from jdiff.demo import work
from jdiff.demo.asked import Asked, Limits, without_paths
from jdiff.demo.controls import Controls, whole
from jdiff.demo.origin import Origin
from jdiff.demo.photos import canvas, photo
from jdiff.demo.progress import Progress, progress_of
from jdiff.model import Model, repaints
from jdiff.tasks.diffusion import DiffusionTask
from jdiff.weights.export import is_exported

FONT = ("system-ui", "sans-serif")  # a font of the web would be asked for at every visit
MOST_WAITING = 20  # visitors
LARGEST_FILE = "20mb"
REFRESHED_EVERY = 5.0  # seconds
FRAMES = 9  # between two seeds
KEPT = (600, 3600)  # seconds: every so often, pictures are deleted that are older than so much
LEAST_BETWEEN = 0.2  # seconds, of frames: each is a file that the browser loads
# Of events. Names of functions are no business of visitors, whose programs are to use jdiff itself.
BY_THE_MODEL: dict[str, Any] = {"concurrency_id": "model", "show_progress": "minimal", "api_visibility": "private"}
AT_ONCE: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}


def page(model: Model | None, workdir: Path, limits: Limits, overrides: Mapping[str, Any]) -> gr.Blocks:
    """A tab for each thing that the model can do, and one to watch the run. model: None where it has no checkpoint.
    overrides: see Origin.
    """
    name = workdir.resolve().name
    with gr.Blocks(title=f"jdiff: {name}", analytics_enabled=False, delete_cache=KEPT) as blocks:
        at = f"step {model.step:,}" if model else "it has no checkpoint yet"
        gr.Markdown(f"# {name}\n{at}")
        if model and isinstance(model.task, DiffusionTask) and not work.can_segment(model):
            controls = Controls(model, limits)
            with gr.Tab("Draw"):
                told = name if workdir.is_absolute() else str(workdir)
                step = None if is_exported(workdir) else model.step
                _draw(model, Origin(workdir=told, step=step, overrides=overrides), controls)
            with gr.Tab("Between two seeds"):
                _between(model, controls)
            if work.can_inpaint(model):
                with gr.Tab("Paint over"):
                    _paint_over(model, controls)
        if model and work.can_segment(model):
            with gr.Tab("Segment"):
                _segment(model, limits)
        with gr.Tab("Training"):
            _training(workdir, blocks)
    blocks.queue(max_size=MOST_WAITING, default_concurrency_limit=1, api_open=False)
    return blocks


def launch(blocks: gr.Blocks, host: str, port: int) -> str:
    """Start to serve; the page's address. Raises UserError where the port is taken."""
    try:
        if not port:
            with socket.create_server((host, 0)) as free:
                port = free.getsockname()[1]
        _, address, _ = blocks.launch(
            server_name=host,
            server_port=port,
            prevent_thread_lock=True,
            quiet=True,
            show_error=False,
            share=False,
            max_file_size=LARGEST_FILE,
            ssr_mode=False,
            footer_links=[],
            theme=gr.themes.Default(font=FONT, font_mono=("ui-monospace", "monospace")),
        )
    except (OSError, ValueError) as error:
        raise UserError(
            f"serve.port={port} at {host} cannot be had ({error}): --config.serve.port=0 takes a free one"
        ) from error
    return str(address)


def _answered(answer: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
    """A user's mistake, and whatever a model cannot do, as one line on the page that names no path of this machine."""

    @wraps(answer)
    def answered(*given: Any) -> Iterator[Any]:
        try:
            yield from answer(*given)
        except UserError as error:
            raise gr.Error(without_paths(str(error)), duration=10, print_exception=False) from error
        except Exception as error:
            told = "too little memory: ask for fewer images or members"
            if not is_out_of_memory(error):
                traceback.print_exc()
                told = "this failed; who serves the page sees why"
            raise gr.Error(told, duration=10, print_exception=False) from error

    return answered


class _Result(NamedTuple):
    picture: Any
    told: Any
    command: Any
    python: Any


def _draw(model: Model, origin: Origin, controls: Controls) -> None:
    takes_image = any(condition.name == "image" for condition in model.conditions)
    with gr.Row():
        with gr.Column():
            editor = view = None
            if takes_image:
                editor = canvas("photo or sketch")
                view = gr.Radio(
                    [("made of it, as in training", work.AS_IN_TRAINING), ("the picture itself", work.AS_IT_IS)],
                    value=work.AS_IN_TRAINING,
                    label="the condition",
                )
            button = gr.Button("Draw", variant="primary")
            told = gr.Markdown()
            shown = gr.Image(label="images", interactive=False, format="png", buttons=["download", "fullscreen"])
        with gr.Column():
            command = gr.Code(label="command", language="shell", interactive=False, wrap_lines=True)
            python = gr.Code(label="Python", language="python", interactive=False, wrap_lines=True)

    @_answered
    def draw(*given: Any) -> Iterator[_Result]:
        picture, view = None, ""
        if takes_image:
            *given, edited, view = given  # type: ignore[assignment]
            picture = _flat(edited)
        asked = controls.read(tuple(given), view="" if picture is None else view)
        frames = work.drawn(model, asked, picture)
        texts = origin.command(asked), origin.python(asked)
        yield _Result(gr.skip(), "compiling, at first", *texts)
        shown_at = -math.inf
        for frame in frames:
            done, now = frame.images is not None, time.monotonic()
            if done or now - shown_at >= LEAST_BETWEEN:
                yield _Result(frame.picture, frame.told, *texts)
                shown_at = now

    inputs = [*controls.widgets, *([editor, view] if takes_image else [])]
    button.click(draw, inputs, [shown, told, command, python], **BY_THE_MODEL)


def _between(model: Model, controls: Controls) -> None:
    with gr.Row():
        last = gr.Number(1, label="the other seed", precision=0)
        button = gr.Button("Draw the way", variant="primary")
    share = gr.Slider(0, FRAMES - 1, value=0, step=1, label="from the seed to the other", interactive=True)
    shown = gr.Image(label="image", interactive=False, format="png")
    frames = gr.State([])

    @_answered
    def way(*given: Any) -> Iterator[Any]:
        *values, end = given
        asked = controls.read(tuple(values))
        end = replace(asked, seed=whole(end, "the other seed")).within(controls.limits).seed
        drawn = work.path_between(model, asked, end, FRAMES)
        yield drawn, drawn[0], gr.update(value=0)

    button.click(way, [*controls.widgets, last], [frames, shown, share], **BY_THE_MODEL)
    share.change(lambda drawn, at: drawn[int(at)] if drawn else None, [frames, share], shown, **AT_ONCE)


def _paint_over(model: Model, controls: Controls) -> None:
    able = from_config.sampling.names(repaints, model.config.sample).split(", ")
    gr.Markdown("What the brush covers is drawn anew, the rest stays (RePaint).")
    with gr.Row():
        brush = gr.Brush(default_size=48, colors=["#ff3366"], color_mode="fixed")
        editor = canvas("picture and brush", brush)
        shown = gr.Image(label="painted anew", interactive=False, format="png")
    with gr.Row():
        usual = model.config.sample.sampler
        sampler = gr.Dropdown(able, value=usual if usual in able else able[0], label="sampler of the painting")
        fresh = gr.Button("Begin with a new image")
        button = gr.Button("Paint", variant="primary")

    @_answered
    def begin(*given: Any) -> Iterator[Any]:
        asked = controls.read(given)
        *_, last = work.drawn(model, replace(asked, num_images=1))
        yield last.picture

    @_answered
    def paint(*given: Any) -> Iterator[Any]:
        *values, solver, edited = given
        asked = replace(controls.read(tuple(values)), sampler=solver, preset=0)
        picture = edited and edited["background"]
        if picture is None:
            raise UserError("there is no picture: begin with a new image, or drop a picture of yours")
        opacity = [layer[..., 3] / 255 for layer in edited["layers"]] or [np.zeros(picture.shape[:2])]
        yield work.painted_anew(model, asked, _on_white(picture), np.max(opacity, axis=0))

    fresh.click(begin, controls.widgets, editor, **BY_THE_MODEL)
    button.click(paint, [*controls.widgets, sampler, editor], shown, **BY_THE_MODEL)


def _segment(model: Model, limits: Limits) -> None:
    members = limits.images if model.config.network.dropout or isinstance(model.task, DiffusionTask) else 1
    with gr.Row():
        dropped = photo("photo")
        overlaid = gr.Image(label="its masks", interactive=False, format="png")
        unsure = gr.Image(label="how unsure (white: most)", interactive=False, format="png")
    with gr.Row():
        count = gr.Slider(1, members, value=min(5, members), step=1, label="members", visible=members > 1)
        seed = gr.Number(0, label="seed", precision=0)
        button = gr.Button("Segment", variant="primary")
    told = gr.Markdown()

    @_answered
    def segment(picture: Any, several: Any, seed: Any) -> Iterator[Any]:
        if picture is None:
            raise UserError("there is no photo: drop one on the left")
        asked = Asked(num_images=whole(several, "members"), seed=whole(seed, "seed"), steps=1).within(limits)
        yield work.segmented(model, picture, asked.num_images, asked.seed)

    button.click(segment, [dropped, count, seed], [overlaid, unsure, told], **BY_THE_MODEL)


def _training(workdir: Path, blocks: gr.Blocks) -> None:
    told = gr.Markdown()
    curve = gr.LinePlot(x="step", y="value", color="name", title="loss", height=320)
    latest = gr.Gallery(label="latest pictures", columns=2, object_fit="contain", interactive=False, format="png")

    def look() -> tuple[str, pd.DataFrame, list[tuple[Pillow.Image, str]]]:
        try:
            found = progress_of(workdir)
        except UserError as error:
            return without_paths(str(error)), _table(Progress(0, 0, 0)), []
        pictures = []
        for path in found.pictures:
            try:
                pictures.append((Pillow.open(path).convert("RGB"), path.stem))
            except OSError:  # it is being written
                continue
        return found.told, _table(found), pictures

    gr.Timer(REFRESHED_EVERY).tick(look, None, [told, curve, latest], **AT_ONCE)
    blocks.load(look, None, [told, curve, latest], **AT_ONCE)


def _table(found: Progress) -> pd.DataFrame:
    return pd.DataFrame(found.points, columns=["step", "name", "value"])


def _flat(edited: Any) -> work.Picture | None:
    """What was dropped and drawn, on white; None for an empty canvas."""
    if not edited or edited["composite"] is None:
        return None
    empty = edited["background"] is None and not any(layer[..., 3].any() for layer in edited["layers"])
    return None if empty else _on_white(edited["composite"])


def _on_white(picture: np.ndarray) -> work.Picture:
    if picture.ndim == 2:
        picture = picture[..., None]
    return work.pictures.coloured(picture)
