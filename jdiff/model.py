"""A trained model as one object: what notebooks hold, and what the command's modes use."""

import shutil
from collections.abc import Callable, Iterator, Sequence, Sized
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Num, PyTree, UInt8
from ml_collections import ConfigDict

import jdiff.config
from jdiff import compiled, from_config, interop
from jdiff.common.arrays import slerp
from jdiff.common.errors import UserError
from jdiff.common.keys import image_keys
from jdiff.common.pictures import checked, to_float, to_uint8
from jdiff.common.ranges import Range
from jdiff.conditions import EXAMPLES, Conditions, Rows
from jdiff.diffusion import drivers
from jdiff.diffusion.tables import DDPMTable
from jdiff.tasks import Task
from jdiff.tasks.classifier import ClassifierTask
from jdiff.tasks.diffusion import DiffusionTask
from jdiff.training import sharding
from jdiff.weights import read
from jdiff.weights.export import export as export_weights

Images = Num[np.ndarray, "n h w c"]  # of the data's dtype and range, most often uint8

# How the probability flow is followed where the way back matters, unless another sampler is asked for.
UNGUIDED = {"method": "classifier_free", "guidance_scale": 1.0}
PRECISE = {"sampler": "ode", "rtol": 1e-4, "atol": 1e-4}
# How a caller names the conditions -> Conditions.rows' names.
CONDITIONS = {"labels": "labels", "texts": "texts", "cond_images": "images", "scalars": "scalars"}


def load(workdir: str | Path, checkpoint: str | int | None = None) -> "Model":
    """The model that was trained in `workdir`, with its averaged (EMA) weights.

    checkpoint: "latest", "best" (lowest held-out loss) or a step; by default what the run's config says.
    Raises UserError where `workdir` holds no run or not that checkpoint.
    """
    workdir = Path(workdir)
    return restore(jdiff.config.of_run(workdir), workdir, checkpoint)


def restore(config: ConfigDict, workdir: Path, checkpoint: str | int | None = None) -> "Model":
    """As `load`, with the run's config given, overridden perhaps."""
    wanted, mesh = str(config.sample.checkpoint if checkpoint is None else checkpoint), sharding.make_mesh()
    task, params, step = read.of_run(config, workdir, wanted, mesh)
    return Model(config, task, mesh, params, step=step, workdir=workdir)


class Model:
    """config: the run's, resolved. params: the averaged weights. step: the step that they are of.

    The methods' keyword `settings` are keys of the config's groups `sample` and `guidance` (sampler, steps, seed, eta,
    ladder, guidance_scale, rescale, ...); what is not given is as in the config. The conditions are given as labels
    (numbers or names of classes), texts, cond_images [n, h, w, c] and scalars [n, k]: one an image, or fewer, taken in
    turn; those left out where others are given are dropped. guidance_scale: w in w D_cond + (1 - w) D_uncond, a number
    or one an image; 1 is no guidance. Image i depends on its conditions, the seed and i alone. Images are given as
    uint8, or as floats in [-1, 1]; where the data's values are others (16 bits, floats), as the data have them, and so
    are samples. workdir: the run's folder, where its tokenizer and examples are.
    """

    def __init__(
        self, config: ConfigDict, task: Task, mesh: Mesh, params: PyTree, *, step: int, workdir: Path | None = None
    ):
        self.config, self.task, self.mesh, self.params, self.step = config, task, mesh, params, step
        self.range = Range(config.data.dtype, *config.data.range)
        self.conditions, self._workdir = Conditions(config, workdir), workdir
        self._programs: dict[Any, Callable] = {}
        self._others: dict[tuple[str, str], Model] = {}
        self._counted_calls: int | None = None

    def sample(
        self,
        num_images: int | None = None,
        *,
        noise: Float[np.ndarray, "n h w c"] | None = None,
        progress: bool = False,
        **settings: Any,
    ) -> Images:
        """New images. noise: what they start from, of unit variance, such as `encode` and `noise` give."""
        if num_images is None:
            given = [settings[name] for name in CONDITIONS if isinstance(settings.get(name), Sized)]
            num_images = max(map(len, [noise] if noise is not None else given), default=None)
        wanted, scales, cond = self._settings(num_images, settings)
        extra = {} if noise is None else {"noise": np.asarray(noise, np.float32)}
        if noise is not None and extra["noise"].shape != (wanted.sample.num_images, *self.config.data.shape):
            expected = [wanted.sample.num_images, *self.config.data.shape]
            raise UserError(f"noise is {list(extra['noise'].shape)}; for these images it must be {expected}")
        return self._walk(wanted, scales, cond, extra, progress=progress)[0]

    def trajectory(self, num_images: int = 8, **settings: Any) -> UInt8[np.ndarray, "rungs n h w c"]:
        """x at every rung of the ladder on the way to `num_images` images, scaled by 1/sqrt(1 + sigma^2) to be seen."""
        wanted, scales, cond = self._settings(num_images, {"batch_size": num_images, **settings})
        frames = self._walk(wanted, scales, cond, {}, keep_trajectory=True)[1]
        assert frames is not None
        return frames

    def compare_steps(
        self, steps: Sequence[int] = (5, 10, 20, 50), num_images: int = 8, **settings: Any
    ) -> Num[np.ndarray, "counts n h w c"]:
        """The same images, from the same noise, in several numbers of steps."""
        return np.stack([self.sample(num_images, **{**settings, "steps": count}) for count in steps])

    def noise(self, indices: Sequence[int], seed: int | None = None) -> Float[np.ndarray, "n h w c"]:
        """The noise of unit variance that the images of these numbers start from."""
        keys = image_keys(self.config.sample.seed if seed is None else seed, jnp.asarray(indices, jnp.uint32))
        return np.asarray(drivers.prior_noise(keys, jnp.zeros((len(indices), *self.config.data.shape))))

    def forward(self, images: Any, *, frames: int = 10, **settings: Any) -> UInt8[np.ndarray, "frames n h w c"]:
        """The forward process: images with the noise of `frames` rungs of the ladder, from none to the most."""
        x0 = self._images(images)
        rungs = self._ladder(self._wanted(len(x0), settings)[0])[::-1]
        rungs = rungs[np.unique(np.round(np.linspace(0, len(rungs) - 1, frames)).astype(int))].astype(np.float32)
        noisy = to_float(x0) + rungs[:, None, None, None, None] * self.noise(range(len(x0)), settings.get("seed"))
        return np.asarray(to_uint8(compiled.seen(jnp.asarray(noisy), jnp.asarray(rungs))))

    def encode(self, images: Any, **settings: Any) -> Float[np.ndarray, "n h w c"]:
        """The noise, of unit variance, that a deterministic sampler (default: ode) leads from to these images."""
        image = self._images(images)
        wanted, scales, cond = self._settings(len(image), {**PRECISE, **settings})
        if not from_config.is_noiseless(wanted.sample):
            raise UserError(
                f"sample.sampler={wanted.sample.sampler!r} adds noise: encode with ode, heun or ddim (eta 0)"
            )
        schedule, solver = self._diffusion().parameterization.schedule, from_config.sampler(wanted.sample)
        return self._upwards(
            wanted, scales, cond, image, ("encode", solver), lambda guided: compiled.encode(guided, solver, schedule)
        )

    def reconstruct(self, images: Any, **settings: Any) -> Images:
        """Images encoded into noise and sampled back from it."""
        settings = {**PRECISE, **settings}
        return self.sample(noise=self.encode(images, **settings), **settings)

    def interpolate(
        self, first: Any, last: Any, frames: int = 8, *, label: int | None = None, **settings: Any
    ) -> Num[np.ndarray, "frames h w c"]:
        """From one image to another through the noise, along a great circle (slerp).

        first, last: numbers of images of this seed, or images [h, w, c], which are encoded. label: of all frames, where
        the model has labels (default: the config's first, unless other conditions are given).
        """
        if "label" in self.config.model.conditions and not CONDITIONS.keys() & settings.keys():
            settings["labels"] = (label if label is not None else (self.config.sample.labels or (0,))[0],)

        def start(end: Any) -> np.ndarray:
            if np.ndim(end) == 0:
                return self.noise([end], settings.get("seed"))[0]
            return self.encode(np.asarray(end)[None], **settings)[0]

        path = slerp(jnp.asarray(start(first)), jnp.asarray(start(last)), jnp.linspace(0, 1, frames))
        return self.sample(noise=np.asarray(path), **{**PRECISE, **settings})

    def img2img(self, images: Any, *, sigma: float, **settings: Any) -> Images:
        """New images that keep what noise of `sigma` leaves of these: noised to there, then walked down the rungs
        below (SDEdit, arXiv 2108.01073). About 1 keeps the layout; 0 would keep all.
        """
        image = self._images(images)
        wanted, scales, cond = self._settings(len(image), settings)
        rungs = self._ladder(wanted)
        if not 0 < sigma <= rungs[0]:
            raise UserError(f"sigma={sigma} must lie above 0 and not above the ladder's first rung, {rungs[0]:g}")
        rungs = np.append(sigma, rungs[rungs < sigma * (1 - 1e-4)])
        return self._walk(wanted, scales, cond, {"image": image}, rungs=rungs)[0]

    def inpaint(self, images: Any, masks: Any, *, repeats: int = 5, **settings: Any) -> Images:
        """The images with what lies under `masks` (true) painted anew, the rest kept (RePaint, arXiv 2201.09865).

        masks: bool [n, h, w], [n, h, w, 1], or one [h, w] for all. repeats: how often every step is made, so that new
        and old come to agree.
        """
        image = self._images(images)
        mask = np.asarray(masks)
        mask = mask[..., 0] if mask.ndim == 4 and mask.shape[-1] == 1 else mask
        if mask.dtype != bool or mask.shape not in (image.shape[:3], image.shape[1:3]):
            raise UserError(
                f"masks are {mask.dtype} {list(mask.shape)}; they must be bool {list(image.shape[:3])}, "
                "true where to paint"
            )
        wanted, scales, cond = self._settings(len(image), settings)
        if wanted.sample.sampler not in from_config.MEMORYLESS:
            raise UserError(
                f"sample.sampler={wanted.sample.sampler!r} remembers other rungs or chooses its own; inpainting takes "
                f"{', '.join(from_config.MEMORYLESS)}"
            )
        if repeats < 1:
            raise UserError(f"repeats={repeats} must be at least 1")
        extra = {"image": image, "mask": np.broadcast_to(mask, image.shape[:3])[..., None]}
        return self._walk(wanted, scales, cond, extra, repeats=repeats)[0]

    def bits_per_dim(
        self, images: Any, *, method: str = "ode", exact: bool = False, **settings: Any
    ) -> Float[np.ndarray, " n"]:
        """How many bits a pixel value the model needs to tell each image, an estimate.

        method: "ode", the density along the probability flow, with Hutchinson's estimate of the trace or the exact one
        (as many Jacobian products as pixel values); "bound", the variational bound over a table's steps, or over
        `steps` (1000) rungs of a model without a table. Unguided unless guidance_scale is given.
        """
        image, schedule = self._images(images), self._diffusion().parameterization.schedule
        every_step = len(schedule.betas) if isinstance(schedule, DDPMTable) else 1000
        usual: dict[str, dict] = {"ode": PRECISE, "bound": {"sampler": "ddpm", "steps": every_step}}
        chosen = usual[jdiff.config.one_of("method", method, tuple(usual))]
        wanted, scales, cond = self._settings(len(image), {**chosen, **UNGUIDED, **settings})
        rtol, atol = wanted.sample.rtol, wanted.sample.atol
        make: dict[str, Callable[[compiled.Guided], Callable]] = {
            "ode": lambda guided: compiled.ode_bits(guided, schedule, exact=exact, rtol=rtol, atol=atol),
            "bound": lambda guided: compiled.bound_bits(guided, schedule),
        }
        return self._upwards(wanted, scales, cond, image, (method, exact, rtol, atol), make[method])

    def nfe(self, **settings: Any) -> tuple[int, int]:
        """(denoiser calls, network passes) for an image; of the adaptive solver, as counted in the last sampling."""
        wanted = self._wanted(None, settings)[0]
        calls = from_config.sampler(wanted.sample).nfe(len(self._ladder(wanted)) - 1)
        calls = self._counted_calls or 0 if calls is None else calls
        return calls, calls * (2 if from_config.is_guided(wanted) else 1)

    def classify(self, images: Num[Array | np.ndarray, "b h w c"]) -> np.ndarray:
        """A classifier's probabilities [B, classes] for images, uint8 or float32 in [-1, 1]."""
        if not isinstance(self.task, ClassifierTask):
            raise UserError(f"task={self.config.task!r} does not classify")
        task = self.task
        logits, _ = self._program("classify", lambda: jax.jit(task.classify))(self.params, images)
        return np.asarray(jax.nn.softmax(logits))

    def export(self, folder: str | Path, *, like: str | Path | None = None) -> None:
        """Write the weights to `folder` as safetensors: by default with the config, so that `jdiff.load(folder)` reads
        them; with `like`, a model's folder of diffusers, in the form that this one has, for diffusers to read.

        Raises UserError where the folder cannot be written, or the network is another than that of `like`.
        """
        folder = Path(folder)
        if (folder / "checkpoints").is_dir():
            raise UserError(f"{folder} holds a run, which weights written there would hide; give another folder")
        if like is not None:
            interop.save_like(self.params["network"], Path(like), folder)
            return
        export_weights(self.params, self.config, folder, step=self.step)
        for name in (from_config.TOKENIZER, EXAMPLES):
            if self._workdir and (self._workdir / name).is_file():
                shutil.copy(self._workdir / name, folder / name)

    def with_params(self, params: PyTree, *, step: int) -> "Model":
        """The same model with other weights; compiled programs are shared."""
        model = Model(self.config, self.task, self.mesh, params, step=step, workdir=self._workdir)
        model._programs, model._others = self._programs, self._others
        return model

    def _diffusion(self) -> DiffusionTask:
        if not isinstance(self.task, DiffusionTask):
            raise UserError(f"task={self.config.task!r} does not sample; a diffusion model does")
        return self.task

    def _settings(self, num_images: int | None, given: dict[str, Any]) -> tuple[ConfigDict, np.ndarray, Rows]:
        """(the config with what is given, checked; the guidance's scale for each image; their conditions)."""
        wanted, scales = self._wanted(num_images, given)
        asked = {name: given[key] for key, name in CONDITIONS.items() if key in given}
        return wanted, scales, self.conditions.rows(wanted, **asked)

    def _wanted(self, num_images: int | None, given: dict[str, Any]) -> tuple[ConfigDict, np.ndarray]:
        """The first two of `_settings`."""
        task = self._diffusion()
        given = {name: value for name, value in given.items() if name not in CONDITIONS}
        scale = given.pop("guidance_scale", None)
        wanted = from_config.settings(self.config, num_images=num_images, **given)
        count, sample = wanted.sample.num_images, wanted.sample
        if scale is not None:
            try:
                scales = np.asarray(scale, np.float32)
            except (TypeError, ValueError) as error:
                raise UserError(f"guidance_scale={scale!r} must be a number, or one an image") from error
            if scales.ndim and scales.shape != (count,):  # a column of scales would be laid over the pixels
                raise UserError(f"guidance_scale holds {scales.size} numbers for {count} images")
            for extreme in {float(scales.min()), float(scales.max())}:
                sample.guidance_scale = extreme
                from_config.check_sampling(wanted, task.parameterization.schedule)
            # One of them stands for all where it is asked whether there is guidance at all.
            scale = next((s for s in scales.ravel() if from_config.changes(wanted, float(s))), scales.ravel()[0])
            sample.guidance_scale = float(scale)
        else:
            from_config.check_sampling(wanted, task.parameterization.schedule)
            scales = np.array(1.0 if sample.guidance_scale is None else sample.guidance_scale, np.float32)
        return wanted, np.broadcast_to(scales, count)

    def _ladder(self, wanted: ConfigDict) -> np.ndarray:
        return from_config.ladder(wanted.sample, self._diffusion().parameterization.schedule)

    def _guided(self, wanted: ConfigDict) -> tuple[Any, compiled.Guided, PyTree]:
        """(what tells this form of guidance from others, weights and rows -> denoiser, the weights)."""
        runs = from_config.guidance_runs(wanted)
        for place in runs.values():
            if place not in self._others:
                self._others[place] = load(*place)
        others = {name: self._others[place] for name, place in runs.items()}
        for name, other in others.items():
            self._check_helper(name, other)
        helpers = {name: other.task for name, other in others.items()}
        form, guided = from_config.guide(wanted, self._diffusion(), helpers)
        theirs = {name: other.params for name, other in others.items()}
        return form, guided, {"model": self.params, "guidance": from_config.guidance_numbers(wanted), **theirs}

    def _check_helper(self, name: str, other: "Model") -> None:
        """Raises UserError where another run cannot guide this model."""
        where, theirs, ours = f"guidance.{name}_workdir", other.config.data, self.config.data
        if not isinstance(other.task, {"weak": DiffusionTask, "classifier": ClassifierTask}[name]):
            raise UserError(f"{where} holds a run of task={other.config.task!r}, which is not what it takes")
        if theirs.shape != ours.shape:
            raise UserError(f"{where} holds a run of images {theirs.shape}, this model's are {ours.shape}")
        if theirs.class_names != ours.class_names:
            raise UserError(f"{where} holds a run of classes {theirs.class_names}, this model's are {ours.class_names}")

    def shown(self, images: Images) -> UInt8[np.ndarray, "n h w c"]:
        """Images as they are on a screen, whatever the data's range."""
        return images if self.range.is_plain else np.asarray(to_uint8(jnp.asarray(self.range.to_model(images))))

    def _images(self, images: Any) -> Num[np.ndarray, "n h w c"]:
        return checked(images, self.config.data.shape, values=self.range)

    def _walk(
        self,
        wanted: ConfigDict,
        scales: np.ndarray,
        cond: Rows,
        extra: dict[str, np.ndarray],
        *,
        rungs: np.ndarray | None = None,
        repeats: int = 1,
        keep_trajectory: bool = False,
        progress: bool = False,
    ) -> tuple[Images, np.ndarray | None]:
        """(images, trajectory or None)."""
        task, solver = self._diffusion(), from_config.sampler(wanted.sample)
        form, guided, params = self._guided(wanted)
        run = self._program(
            ("walk", solver, form, repeats, keep_trajectory),  # and the data's range, which a model has one of
            lambda: compiled.walk(
                guided,
                solver,
                task.parameterization.schedule,
                self.config.data.shape,
                self.mesh,
                repeats=repeats,
                keep_trajectory=keep_trajectory,
                as_floats=not self.range.is_plain,
            ),
        )
        rungs = self._ladder(wanted) if rungs is None else rungs
        rows = {"cond": cond, "scale": scales, **extra}
        parts = list(self._run(run, params, wanted, rungs, rows, progress=progress))
        calls = [int(called) for _, _, called in parts if called is not None]
        self._counted_calls = max(calls, default=None)
        images = np.concatenate([part for part, _, _ in parts])[: len(scales)]
        images = images if self.range.is_plain else self.range.from_model(images)
        frames = np.concatenate([part for _, part, _ in parts], axis=1)[:, : len(scales)] if keep_trajectory else None
        return images, frames

    def _upwards(
        self,
        wanted: ConfigDict,
        scales: np.ndarray,
        cond: Rows,
        image: np.ndarray,
        key: tuple,
        make: Callable[[compiled.Guided], Callable],
    ) -> np.ndarray:
        """What a program that goes up the ladder from images, its lowest sigma above 0 first, says of each."""
        rungs = self._ladder(wanted)[-2::-1]
        if len(rungs) < 2:
            raise UserError(f"sample.steps={wanted.sample.steps} leaves no way up from an image; take at least 2")
        form, guided, params = self._guided(wanted)
        run = self._program((*key, form), lambda: make(guided))
        rows = {"cond": cond, "scale": scales, "image": image}
        return np.concatenate(list(self._run(run, params, wanted, rungs, rows)))[: len(image)]

    def _run(
        self,
        run: Callable,
        params: PyTree,
        wanted: ConfigDict,
        rungs: np.ndarray,
        rows: Rows,
        *,
        progress: bool = False,
    ) -> Iterator[Any]:
        sample = wanted.sample
        start = partial(run, params, np.uint32(sample.seed), rungs.astype(np.float32))
        count, size = sample.num_images, min(sample.batch_size, sample.num_images)
        return compiled.in_batches(start, rows, count, size, self.mesh, progress=progress)

    def _program(self, key: Any, make: Callable[[], Callable]) -> Callable:
        if key not in self._programs:
            self._programs[key] = make()
        return self._programs[key]
