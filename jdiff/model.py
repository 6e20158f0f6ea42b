"""A trained model as one object: what notebooks hold, and what the command's modes use."""

import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from functools import cached_property, partial, wraps
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Num, PyTree, UInt8
from ml_collections import ConfigDict

import jdiff.config
from jdiff import compiled, from_config, request, scoring
from jdiff.common.arrays import fingerprint, slerp
from jdiff.common.errors import DrawingError, UserError
from jdiff.common.keys import image_keys
from jdiff.common.paths import expanded
from jdiff.common.pictures import checked
from jdiff.conditions import Condition
from jdiff.conditions.label import AS_IN_DATA
from jdiff.diffusion import drivers
from jdiff.diffusion.denoiser import Denoised
from jdiff.diffusion.ladders import Ladder
from jdiff.diffusion.samplers.sampler import Conditioned, Sampler
from jdiff.diffusion.schedules import Schedule
from jdiff.diffusion.tables import DDPMTable
from jdiff.evaluation.segmentation import Segmentation, gathered
from jdiff.from_config import presets
from jdiff.interop import pipelines
from jdiff.networks.bottlenecks import Gaussian
from jdiff.request import Request
from jdiff.scoring import Result
from jdiff.spaces import AUTOENCODER, Latents, Masks, meaning
from jdiff.tasks import Task, Weights
from jdiff.tasks.autoencoder import AutoencoderTask
from jdiff.tasks.classifier import ClassifierTask, ClassProbability
from jdiff.tasks.diffusion import DiffusionTask
from jdiff.tasks.segmentation import SegmentationTask
from jdiff.training import sharding
from jdiff.weights.export import export
from jdiff.weights.read import names_another_autoencoder, of_run

Images = Num[np.ndarray, "n h w c"]  # of the data's dtype and range, most often uint8

# How the probability flow is followed where the way back matters, unless another sampler is asked for.
PRECISE = {"sampler": "ode", "rtol": 1e-4, "atol": 1e-4}
MEMBER_STRIDE = 2**20  # between the numbers of an image's members, so that images up to there have their own
EVAL_SETTINGS = ("protocol", "features", "weights", "reference", "seeds", "likelihood_images")
UNGUIDED = {"method": "classifier_free", "guidance_scale": 1.0}


Method = TypeVar("Method", bound=Callable[..., Any])


def _of_shape(method: Method) -> Method:
    """A method of the model of the shape asked for: by the setting `shape`, or else by images given, or else by the
    config's sample.shape.
    """

    @wraps(method)
    def of_that_shape(self: "Model", *given: Any, **settings: Any) -> Any:
        size = settings.get("size") or self.config.sample.size
        if size:
            return method(self.in_size(tuple(size)), *given, **settings)
        shape = self._asked_shape(given, settings)
        if settings.get("shape") is not None:
            settings["shape"] = shape
        return method(self.in_shape(shape), *given, **settings)

    return of_that_shape  # type: ignore[return-value]


def load(workdir: str | Path, checkpoint: str | int | None = None, *, ema: float | None = None) -> "Model":
    """The model that was trained in `workdir`, with its averaged (EMA) weights; or that of a pipeline of diffusers in
    this folder (StableDiffusionPipeline, LDMPipeline, DiTPipeline), which draws as the pipeline does.

    checkpoint: "latest", "best" (by checkpoint.best_by) or a step; by default what the run's config says. ema: the
    relative width of the average, of a run with train.ema_widths; 0: its ordinary average.
    Raises UserError where `workdir` holds no run, not that checkpoint or no such average.
    """
    workdir = expanded(workdir)
    if pipelines.is_pipeline(workdir):
        if ema:
            raise UserError(f"ema={ema}: {workdir} holds a pipeline of diffusers, of one average: leave ema out")
        return _of_pipeline(workdir.resolve())
    config = jdiff.config.of_run(workdir)
    return restore(config if ema is None else request.overridden(config, {"ema": ema}), workdir, checkpoint)


def restore(config: ConfigDict, workdir: Path, checkpoint: str | int | None = None) -> "Model":
    """As `load`, with the run's config given, overridden perhaps."""
    wanted, mesh = str(config.sample.checkpoint if checkpoint is None else checkpoint), sharding.make_mesh()
    task, weights, step = of_run(config, workdir, wanted, mesh)
    if names_another_autoencoder(config, workdir):
        from jdiff.weights.autoencoder import with_decoder

        weights = with_decoder(config, weights, workdir, mesh)
    model = Model(config, task, mesh, weights, step=step, workdir=workdir)
    size = tuple(config.sample.size)
    return model.in_size(size) if size else model.in_shape(tuple(config.sample.shape))


def _of_pipeline(folder: Path) -> "Model":
    from jdiff.weights.pipelines import load as of_pipeline  # with libraries that a run does without

    mesh, found = sharding.make_mesh(), pipelines.read(folder)
    for note in found.notes:
        warnings.warn(note, stacklevel=3)
    config, task, weights = of_pipeline(found, mesh)
    return Model(config, task, mesh, weights, step=0)


class Batch(NamedTuple):
    """Some images of a request. indices: their numbers. images: in the data's dtype and range. labels, texts: what each
    was asked to be; None where nothing was asked. calls: of the denoiser, for an image.
    """

    indices: Int[np.ndarray, " n"]
    images: Images
    labels: Int[np.ndarray, "n ..."] | None
    texts: list[str] | None
    calls: int


class Model:
    """config: the run's, resolved. weights: the averaged parameters and the task's state. step: the step they are of.

    The methods' keyword `settings` are keys of the config's groups `sample` and `guidance` (sampler, steps, seed, eta,
    ladder, guidance_scale, rescale, ...); what is not given is as in the config. shape=(height, width): of a model
    trained in several (data.buckets), else the usual one, or that of images given. The conditions are given as labels
    (numbers or names of classes), texts, cond_images [n, h, w, c] and scalars [n, k] (as the data have them): one an
    image, or fewer, taken in turn; those left out where others are given are dropped. condition_dir=FOLDER gives
    condition images in files, as photos where the model is given sketches of them (see configs/base.py).
    preset=8: the settings that --mode=tune found for 8 denoiser calls an image, but for those given besides.
    guidance_scale: w in w D_cond + (1 - w) D_uncond, a number or one an image; 1 is no guidance. Image i depends on its
    conditions, the seed and i alone. Images are given as uint8, or as floats in [-1, 1]; where the data's values are
    others (16 bits, floats), as the data have them, and so are samples. workdir: the run's folder, where its tokenizer
    and examples are.
    """

    def __init__(
        self, config: ConfigDict, task: Task, mesh: Mesh, weights: Weights, *, step: int, workdir: Path | None = None
    ):
        self.config, self.task, self.mesh, self.weights, self.step = config, task, mesh, weights, step
        self.workdir = workdir
        self._compiled = compiled.Compiled(task, mesh)
        self._helpers: dict[tuple[str, str], Model] = {}
        self._programs: dict[tuple[int, int], tuple[ConfigDict, Task, compiled.Compiled]] = {}
        self._judges: dict[str, scoring.Judge] = {}
        self._told_of_preset = False

    @property
    def params(self) -> PyTree:
        """The averaged parameters."""
        return self.weights.params

    @property
    def schedule(self) -> Schedule:
        """The schedule of the diffusion process."""
        return self._diffusion.parameterization.schedule

    def in_shape(self, shape: tuple[int, ...]) -> "Model":
        """The same model for images of (height, width) `shape`, one of those it was trained in; (): of this one's."""
        own = tuple(self.config.data.shape[:2])
        return self._in_sides(request.in_shapes(self.config, shape) if shape else own)

    def in_size(self, size: tuple[int, ...]) -> "Model":
        """The same model for images of any (height, width) `size` that its network allows, trained in it or not."""
        sides, own = request.in_size(self.config, size), tuple(self.config.data.shape[:2])
        if sides != own and sides not in self._programs:
            (height, width), (trained_height, trained_width) = sides, own
            warnings.warn(
                f"images of {height}x{width} by a model that was trained on {trained_height}x{trained_width}",
                stacklevel=3,
            )
        return self._in_sides(sides)

    def _in_sides(self, sides: tuple[int, int]) -> "Model":
        own = tuple(self.config.data.shape[:2])
        if sides == own:
            return self
        self._programs.setdefault(own, (self.config, self.task, self._compiled))
        if sides not in self._programs:
            config = self.config.copy_and_resolve_references()
            config.data.shape, config.sample.shape = (*sides, config.data.shape[2]), sides
            config.sample.size = ()
            task = from_config.task(config, train=False).sampling_task
            self._programs[sides] = config, task, compiled.Compiled(task, self.mesh)
        config, task, programs = self._programs[sides]
        return self._like(config, task, programs, self.weights, self.step)

    def _asked_shape(self, given: Sequence[Any], settings: Mapping[str, Any]) -> tuple[int, ...]:
        """The shape that a call asks for; () where it does not say."""
        if settings.get("shape") is not None:
            shape = settings["shape"]
            return tuple(shape) if isinstance(shape, (tuple, list)) else (shape,)
        for images in (*given, *(settings.get(name) for name in ("images", "noise", "cond_images"))):
            sides = tuple(getattr(images, "shape", ()))[-3:-1]
            if sides in self.config.data.shapes:
                return sides
        return tuple(self.config.sample.shape)

    # Images

    @_of_shape
    def sample(
        self,
        num_images: int | None = None,
        *,
        noise: Float[np.ndarray, "n xh xw xc"] | None = None,
        progress: bool = False,
        **settings: Any,
    ) -> Images:
        """New images. noise: what they start from, of unit variance, such as `invert` and `noise` give.

        Where memory runs out, batch_size is halved and a warning says so. Raises DrawingError where that does not help,
        and where images are not finite. A VAE's are drawn from its prior (see `prior`), by seed alone.

        Of digits:

        >>> images = model.sample(labels=[3, 5], sampler="ddim", steps=4, seed=7)
        >>> images.shape, images.dtype
        ((2, 8, 8, 1), dtype('uint8'))
        >>> alone = model.sample(labels=[3], sampler="ddim", steps=4, seed=7)  # its neighbours do not change an image
        >>> int(abs(alone[0].astype(int) - images[0]).max()) <= 1
        True
        """
        if isinstance(self.task, AutoencoderTask):
            if others := sorted(settings.keys() - {"seed"}) or noise is not None:
                named = others[0] if isinstance(others, list) else "noise"
                raise UserError(
                    f"{named} is for diffusion models: an autoencoder samples by its decoder and a seed alone"
                )
            return self.prior(num_images or self.config.sample.num_images, seed=settings.get("seed"))
        return _images_of(self.stream(num_images, noise=noise, progress=progress, **settings))

    @_of_shape
    def stream(
        self,
        num_images: int | None = None,
        *,
        noise: Float[np.ndarray, "n xh xw xc"] | None = None,
        progress: bool = False,
        **settings: Any,
    ) -> Iterator[Batch]:
        """The images of `sample`, a batch at a time with their labels and texts, in the memory of one batch."""
        if num_images is None:
            known = [settings.get(name) for name in self._arguments]
            given = [values for values in known if isinstance(values, Sized) and not isinstance(values, str)]
            num_images = max(map(len, [noise] if noise is not None else given), default=None)
        asked = self.request(num_images, **settings)
        if noise is None:
            return self.draw(asked, progress=progress)
        noise, expected = np.asarray(noise, np.float32), (asked.count, *self.task.space.shape)
        if noise.shape != expected:
            raise UserError(f"noise is {list(noise.shape)}; for these images it must be {list(expected)}")
        return self.draw(asked, {"noise": noise}, progress=progress)

    @_of_shape
    def trajectory(self, num_images: int = 8, **settings: Any) -> UInt8[np.ndarray, "rungs n h w c"]:
        """x at every rung of the ladder on the way to `num_images` images, scaled by 1/sqrt(1 + sigma^2) to be seen."""
        asked = self.request(num_images, **{"batch_size": num_images, **settings})
        walked = self._walk(asked, range(asked.count), asked.sigmas, {}, keep_trajectory=True)
        return np.concatenate([frames for _, _, frames, _ in walked], axis=1)

    @_of_shape
    def watch(self, num_images: int = 8, **settings: Any) -> Iterator[UInt8[np.ndarray, "n h w c"]]:
        """The frames of `trajectory` one by one, from the first rung's end on, each as soon as it is drawn; the last
        holds the images. All are drawn in one batch. One program draws a rung, so another number of steps compiles
        nothing, but for Heun's sampler, whose churn depends on it. Raises DrawingError where values are not finite.
        """
        return self.frames(self.request(num_images, **settings))

    def frames(self, asked: Request) -> Iterator[UInt8[np.ndarray, "n h w c"]]:
        """As `watch`, of a request."""
        seed, sigmas = np.uint32(asked.config.sample.seed), asked.sigmas.astype(np.float32)
        numbers = np.arange(asked.count + -asked.count % self.mesh.size, dtype=np.uint32)
        rows = compiled.batch_of({"cond": asked.in_turn, "scale": asked.scale}, numbers, self.mesh)
        guidances = asked.guidances(rows.pop("scale"), self._guiding(asked))
        state = self._compiled.begin(seed, sigmas[0], rows, sampler=asked.sampler)
        for index, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
            state, frame, finite = self._compiled.step(
                *(self.weights, guidances, seed, np.int32(index), sigma, sigma_next, state, rows), sampler=asked.sampler
            )
            if not (well := np.asarray(finite)[: asked.count]).all():
                raise self._not_finite(asked.count - int(well.sum()), asked.count)
            yield np.asarray(frame)[: asked.count]

    @_of_shape
    def compare_steps(
        self, steps: Sequence[int] = (5, 10, 20, 50), num_images: int = 8, **settings: Any
    ) -> Num[np.ndarray, "counts n h w c"]:
        """The same images, from the same noise, in several numbers of steps."""
        return np.stack([self.sample(num_images, **{**settings, "steps": count}) for count in steps])

    @_of_shape
    def reconstruct(self, images: Any, **settings: Any) -> Images:
        """Images inverted into noise and sampled back from it; of an autoencoder, encoded and decoded."""
        if isinstance(self.task, AutoencoderTask):
            return self.given_back(self._images(images))[1]
        settings = {**PRECISE, **settings}
        return self.sample(noise=self.invert(images, **settings), **settings)

    @_of_shape
    def interpolate(
        self, first: Any, last: Any, frames: int = 8, *, label: int | None = None, **settings: Any
    ) -> Num[np.ndarray, "frames h w c"]:
        """From one image to another through the noise, along a great circle (slerp); of an autoencoder, through its
        latents, along a line.

        first, last: numbers of images of this seed, or images [h, w, c], which are inverted. label: of all frames,
        where the model has labels (default: the config's first, unless other conditions are given).
        """
        if isinstance(self.task, AutoencoderTask):
            ends = self.encode(np.stack([np.asarray(first), np.asarray(last)]))
            share = np.linspace(0, 1, frames, dtype=np.float32)[:, None, None, None]
            return self.decode((1 - share) * ends[:1] + share * ends[1:])
        if "label" in self.config.model.conditions and not self._arguments & settings.keys():
            listed = [known for known in self.config.sample.labels if known != AS_IN_DATA]
            settings["labels"] = (label if label is not None else (listed or [0])[0],)

        def start(end: Any) -> np.ndarray:
            if np.ndim(end) == 0:
                return self.noise([end], settings.get("seed"))[0]
            return self.invert(np.asarray(end)[None], **settings)[0]

        path = slerp(jnp.asarray(start(first)), jnp.asarray(start(last)), jnp.linspace(0, 1, frames))
        return self.sample(noise=np.asarray(path), **{**PRECISE, **settings})

    @_of_shape
    def img2img(self, images: Any, *, sigma: float, **settings: Any) -> Images:
        """New images that keep what noise of `sigma` leaves of these: noised to there, then walked down the rungs
        below (SDEdit, arXiv 2108.01073). About 1 keeps the layout; 0 would keep all.
        """
        image = self._images(images)
        asked = self.request(len(image), **settings)
        rungs = asked.sigmas
        if not 0 < sigma <= rungs[0]:
            raise UserError(f"sigma={sigma} must lie above 0 and not above the ladder's first rung, {rungs[0]:g}")
        below = np.append(sigma, rungs[rungs < sigma * (1 - 1e-4)])
        return _images_of(self.draw(asked, {"image": image}, sigmas=below))

    @_of_shape
    def inpaint(self, images: Any, masks: Any, *, repeats: int = 5, **settings: Any) -> Images:
        """The images with what lies under `masks` (true) painted anew, the rest kept (RePaint, arXiv 2201.09865).

        masks: bool [n, h, w], [n, h, w, 1], or one [h, w] for all. repeats: how often every step is made, so that new
        and old come to agree.
        """
        image = self._images(images)
        mask = _mask(masks, image.shape[:3])
        asked = self.request(len(image), **settings)
        if not repaints(asked.sampler):
            raise UserError(
                f"sample.sampler={asked.config.sample.sampler!r} remembers other rungs or chooses its own; inpainting "
                f"takes {from_config.sampling.names(repaints, asked.config.sample)}"
            )
        if repeats < 1:
            raise UserError(f"repeats={repeats} must be at least 1")
        return _images_of(self.draw(asked, {"image": image, "mask": mask}, repeats=repeats))

    def draw(
        self,
        asked: Request,
        given: Mapping[str, np.ndarray] | None = None,
        *,
        first: int = 0,
        sigmas: Ladder | None = None,
        repeats: int = 1,
        progress: bool = False,
    ) -> Iterator[Batch]:
        """The images of a request, from number `first` on, a batch at a time. given: "noise", "image" or "mask" that
        they start from. sigmas: in place of its.
        """
        sides = tuple(asked.config.data.shape[:2])
        if sides != tuple(self.config.data.shape[:2]):
            shaped = self._in_sides((sides[0], sides[1]))
            yield from shaped.draw(asked, given, first=first, sigmas=sigmas, repeats=repeats, progress=progress)
            return
        ladder = asked.sigmas if sigmas is None else sigmas
        known = asked.sampler.nfe(len(ladder) - 1)
        numbers = range(first, asked.count)
        shown = f"sampling, a batch in {asked.calls_told()}" if progress else ""
        for indices, images, _, counted in self._walk(
            asked, numbers, ladder, given or {}, repeats=repeats, progress=shown
        ):
            calls = repeats * (int(known or 0) if counted is None else int(counted))
            yield Batch(indices, images, asked.labels_of(indices), asked.texts_of(indices), calls)

    @_of_shape
    def evaluate(self, num_images: int | None = None, *, progress: bool = False, **settings: Any) -> Result:
        """Numbers of images drawn from the model, each with its protocol: result["fd_classifier"], result.numbers.

        settings: as of `sample`, and of the group `eval` protocol, features, weights, reference, seeds and
        likelihood_images. labels: "data" (the default where its counts are known), "uniform", or classes in turn. By
        default the features are of a small classifier, trained once on the data, which are read from where the config
        says. Raises UserError where these, weights or a reference are missing.
        """
        of_eval = {name: settings.pop(name) for name in EVAL_SETTINGS if name in settings}
        config = request.overridden(self.config, of_eval, ("eval",))
        model = self.with_config(config)
        asked = scoring.key_of(config)
        if asked not in self._judges:
            self._judges[asked] = scoring.judge(config, self.mesh, progress=progress)
        judge = self._judges[asked]
        result = scoring.evaluate(model, judge, scoring.plan(model, judge, num_images, **settings), progress=progress)
        assert result is not None  # nothing stops it
        return result

    # Latents

    @_of_shape
    def encode(self, images: Any) -> Float[np.ndarray, "n h w c"]:
        """The latents of images, [n, h, w, c]: an autoencoder's, their means where it draws them; of a latent diffusion
        model x, which has mean 0 and deviation 1 a channel.
        """
        return self._in_batches(self._latent.encode, {"image": self._images(images)})

    def given_back(self, images: Images) -> tuple[Float[np.ndarray, "n lh lw lf"], Images]:
        """(what an autoencoder's encoder says of images, what its decoder makes of their latents)."""
        said = self._in_batches(self._latent.features, {"image": images})
        return said, self.decode(self.encode(images))

    def elbo(self, images: Any, *, samples: int = 1, seed: int | None = None) -> Float[np.ndarray, " n"]:
        """A bound, from above, on how many bits a pixel value a VAE needs to tell each image of whole numbers (see
        tasks/elbo.py); tighter with more samples of each latent.
        """
        image, task = self._images(images), self.task
        if not isinstance(task, AutoencoderTask) or not isinstance(task.first_stage.bottleneck, Gaussian):
            raise UserError(f"elbo is of a VAE (autoencoder.bottleneck='gaussian'); this is task={self.config.task!r}")
        if not task.space.values.has_levels:
            raise UserError(
                f"elbo counts the bits of whole numbers, and this model's data are {self.config.data.dtype}"
            )
        keys = image_keys(self.config.sample.seed if seed is None else seed, jnp.arange(len(image), dtype=jnp.uint32))
        rows = {"image": image, "key": np.asarray(jax.random.key_data(keys))}
        return self._in_batches(partial(self._compiled.elbo, samples=samples), rows)

    def prior(self, num_images: int, *, first: int = 0, seed: int | None = None) -> Images:
        """Images of latents drawn from a VAE's prior N(0, 1), from number `first` on; each depends on its number and
        the seed alone. Raises UserError where the autoencoder has no prior.
        """
        task = self.task
        if not isinstance(task, AutoencoderTask) or not isinstance(task.first_stage.bottleneck, Gaussian):
            what = f"autoencoder.bottleneck={self.config.autoencoder.bottleneck!r}"
            raise UserError(
                f"{what} has no prior to sample from: train a diffusion model of its latents, with "
                f"model.space='latents' and space.autoencoder={self.workdir}"
            )
        numbers = np.arange(first, first + num_images, dtype=np.uint32)
        return self.decode(self._noise_of(numbers, task.first_stage.shape, seed))

    def decode(self, latents: Float[np.ndarray, "n lh lw lc"]) -> Images:
        """The images of latents, as `encode` gives them."""
        z, (*_, channels) = np.asarray(latents, np.float32), self._latent.shape
        if z.ndim != 4 or z.shape[3] != channels:
            raise UserError(f"latents are {list(z.shape)}; they must be [n, h, w, {channels}]")
        return self._in_batches(self._latent.decode, {"latent": z})

    # Noise and likelihood

    def noise(self, indices: Sequence[int], seed: int | None = None) -> Float[np.ndarray, "n h w c"]:
        """The noise of unit variance that the images of these numbers start from."""
        return self._noise_of(indices, self.task.space.shape, seed)

    @_of_shape
    def forward(self, images: Any, *, frames: int = 10, **settings: Any) -> UInt8[np.ndarray, "frames n h w c"]:
        """The forward process: images with the noise of `frames` rungs of the ladder, from none to the most."""
        image = self._images(images)
        asked = request.read(
            self.config, self.schedule, settings, conditions=None, workdir=self.workdir, num_images=len(image)
        )
        rungs = asked.sigmas[::-1]
        rungs = rungs[np.unique(np.round(np.linspace(0, len(rungs) - 1, frames)).astype(int))].astype(np.float32)
        x0 = self._compiled.encode(self.weights, image)
        noisy = x0 + rungs[:, None, None, None, None] * self.noise(range(len(image)), settings.get("seed"))
        seen = compiled.seen(jnp.asarray(noisy), jnp.asarray(rungs))
        show = partial(self._compiled.show, self.weights)
        return np.stack([np.asarray(show(frame)) for frame in seen])  # one at a time: a decoder may take much memory

    @_of_shape
    def invert(self, images: Any, **settings: Any) -> Float[np.ndarray, "n h w c"]:
        """The noise, of unit variance, that a deterministic sampler (default: ode) leads from to these images."""
        image = self._images(images)
        request.check_learned(self.config, "invert")
        asked = self.request(len(image), **{**PRECISE, **settings})
        if asked.sampler.random:
            name = asked.config.sample.sampler
            raise UserError(f"sample.sampler={name!r} adds noise: invert with ode, heun or ddim (eta 0)")
        if asked.sampler.jumps:
            raise UserError("sample.sampler='flow_map' jumps down alone: invert with ode, heun or ddim (eta 0)")
        return self._upwards(asked, image, partial(self._compiled.invert, sampler=asked.sampler))

    @_of_shape
    def denoise(
        self, noisy: Float[np.ndarray, "n xh xw xc"], sigma: Any, *, to: Any = None, **settings: Any
    ) -> Float[np.ndarray, "n xh xw xc"]:
        """D(x, sigma, to) of x = x0 + sigma eps, in the model's range: the posterior mean of x0, or, of a flow map, the
        D of x_to = D + (to / sigma) (x - D). sigma, to: a number, or one an image. settings: conditions and guidance.
        Raises UserError where `to` is above sigma, or where the model learned no jumps.
        """
        x = jnp.asarray(noisy, jnp.float32)
        if to is not None and not self._diffusion.jumps:
            raise UserError("to: this model learned D(x, sigma) alone; task=flow_map learns where the flow ends")
        at, end = (
            np.broadcast_to(np.asarray(each, np.float32), len(x)) for each in (sigma, sigma if to is None else to)
        )
        if (wrong := (at <= 0)).any():
            raise UserError(f"sigma={at[int(np.argmax(wrong))]:g} must be above 0: an image without noise is its own D")
        if (wrong := (end > at) | (end < 0)).any():
            which = int(np.argmax(wrong))
            raise UserError(f"to={end[which]:g} must lie between 0 and sigma={at[which]:g}: a jump goes down")
        request.check_learned(self.config, "denoise", to=None if to is None else not end.any())
        denoise = self.denoiser(self.request(len(x), **settings))
        return np.asarray(denoise(x, jnp.asarray(at), None if to is None else jnp.asarray(end)).x0)

    @_of_shape
    def bits_per_dim(
        self, images: Any, *, method: str = "ode", exact: bool = False, **settings: Any
    ) -> Float[np.ndarray, " n"]:
        """How many bits a pixel value the model needs to tell each image of whole numbers, an estimate: uniform noise
        of 16 bits takes 16.

        method: "ode", the density along the probability flow, with Hutchinson's estimate of the trace or the exact one
        (as many Jacobian products as pixel values); "bound", the variational bound over a table's steps, or over
        `steps` (1000) rungs of a model without a table. Unguided unless guidance_scale is given.
        """
        if self.config.model.space != "pixels":
            raise UserError(
                f"bits_per_dim counts the bits of pixel values, and this model's x is {self.config.model.space}"
            )
        request.check_learned(self.config, "bits_per_dim")
        every_step = len(self.schedule.betas) if isinstance(self.schedule, DDPMTable) else 1000
        if not self.task.space.values.has_levels:
            raise UserError(
                f"bits_per_dim counts the bits of whole numbers, and this model's data are "
                f"{self.config.data.dtype}: store them as 8-bit or 16-bit images and train on these"
            )
        if not np.issubdtype(np.asarray(images).dtype, np.integer):
            raise UserError(
                f"bits_per_dim counts the bits of whole numbers, and these images are {np.asarray(images).dtype}: give "
                f"them as {self.config.data.dtype}"
            )
        usual: dict[str, dict] = {"ode": PRECISE, "bound": {"sampler": "ddpm", "steps": every_step}}
        chosen, image = usual[jdiff.config.one_of("method", method, tuple(usual))], self._images(images)
        asked = self.request(len(image), **{**chosen, **UNGUIDED, **settings})
        if method == "bound":
            return self._upwards(asked, image, self._compiled.bound_bits)
        sample = asked.config.sample
        program = partial(self._compiled.ode_bits, exact=exact, rtol=sample.rtol, atol=sample.atol)
        return self._upwards(asked, image, program)

    @_of_shape
    def nfe(self, **settings: Any) -> tuple[int, int]:
        """(denoiser calls, network passes) for an image. The adaptive solver draws a batch of images to count them.

        >>> model.nfe(sampler="heun", steps=18, guidance_scale=2.0)
        (35, 70)
        """
        asked = request.read(self.config, self.schedule, settings, conditions=None, workdir=self.workdir)
        calls = asked.sampler.nfe(len(asked.sigmas) - 1)
        if calls is None:
            sample = asked.config.sample
            few = self.request(min(sample.num_images, sample.batch_size), **settings)
            calls = max(batch.calls for batch in self.draw(few))
        return calls, calls * asked.passes()

    # Other

    @_of_shape
    def classify(self, images: Num[Array | np.ndarray, "b h w c"]) -> np.ndarray:
        """A classifier's probabilities [B, classes] for images."""
        if not isinstance(self.task, ClassifierTask):
            raise UserError(f"task={self.config.task!r} does not classify")
        logits, _ = self._compiled.classify(self.weights, self._images(images))
        return np.asarray(jax.nn.softmax(logits))

    @_of_shape
    def segment(
        self,
        images: Num[np.ndarray, "n h w c"],
        *,
        members: int | None = None,
        numbers: Sequence[int] | Int[np.ndarray, " n"] | None = None,
        **settings: Any,
    ) -> Segmentation:
        """The masks of images, as the model's image condition takes them, with how sure they are.

        members: masks drawn for an image (default: segment.members); of a network without diffusion, as many of its
        answers with dropout on, or 1, with it off. numbers: by which members are drawn (default: 0, 1, ...): a member
        of an image depends on its condition, the seed, the image's number and its own alone. Raises UserError where
        the model knows no masks.
        """
        space, task = self.masks, self.task
        config = request.overridden(self.config, {"members": members}, ("segment",))
        members = int(config.segment.members)
        of_image = np.arange(len(images)) if numbers is None else np.asarray(numbers)
        if len(of_image) != len(images):
            raise UserError(f"numbers holds {len(of_image)} for {len(images)} images")
        number = (of_image[:, None] + MEMBER_STRIDE * np.arange(members)).reshape(-1).astype(np.uint32)
        shown = {"cond_images": np.repeat(np.asarray(images), members, axis=0)}
        if isinstance(task, SegmentationTask):
            own = {name: settings.pop(name) for name in ("seed", "batch_size", "shape", "size") if name in settings}
            if settings:
                raise UserError(f"{min(settings)} is for diffusion models: a network without diffusion takes no steps")
            if members > 1 and not config.network.dropout:
                raise UserError(
                    f"segment.members={members}: this network has no dropout (network.dropout=0), so that all its "
                    "answers are the same: set segment.members=1"
                )
            config = request.overridden(config, {name: own.get(name) for name in ("seed", "batch_size")}, ("sample",))
            told, *_ = request.rows(config, self.conditions, {"image": shown["cond_images"]}, self.workdir)
            seed, dropout = np.uint32(config.sample.seed), members > 1
            program = partial(self._compiled.segment, self.weights, seed, dropout=dropout)
            size = min(config.sample.batch_size, len(number))
            rows = {"cond": told, "number": number}
            parts = compiled.in_batches(program, rows, range(len(number)), size, self.mesh)
        else:
            asked = self.request(len(number), **shown, **settings)
            program = partial(self._compiled.segment, sampler=asked.sampler)
            parts = self._run(program, asked, range(len(number)), asked.sigmas, {"number": number})
        return gathered(self._all_finite(parts), members, space.classes)

    @property
    def masks(self) -> Masks:
        """The space of a model of masks of images. Raises UserError where the model knows none."""
        space = self.task.space
        if not isinstance(space, Masks) or "image" not in self.config.model.conditions:
            raise UserError(
                f"this model's task={self.config.task!r}, model.space={self.config.model.space!r} and "
                f"model.conditions={tuple(self.config.model.conditions)} tell no masks of images: train one with "
                "model.space='masks' and model.conditions=('image',)"
            )
        return space

    def _all_finite(self, parts: Iterator[Any]) -> Iterator[np.ndarray]:
        for indices, (values, finite) in parts:
            count = len(indices)
            if not finite[:count].all():
                raise self._not_finite(count - int(finite[:count].sum()), count)
            yield values[:count]

    def export(self, folder: str | Path, *, like: str | Path | None = None) -> None:
        """Write the weights to `folder` as safetensors: by default with the config, so that `jdiff.load(folder)` reads
        them; with `like`, the folder of a model or a pipeline of diffusers, in the form that this one has, for
        diffusers to read.

        Raises UserError where the folder cannot be written, or the model is another than that of `like`.
        """
        from jdiff.weights.autoencoder import keep_autoencoder
        from jdiff.weights.pipelines import save
        from jdiff.weights.text_encoder import keep_text_encoder

        if self.workdir and expanded(folder).resolve() == self.workdir.resolve():
            raise UserError(f"{folder} is where this model lies itself: give another folder")
        config = self.config.copy_and_resolve_references()
        if config.data.shapes:
            config.data.shape, config.sample.shape = (*config.data.shapes[0], config.data.shape[2]), ()
        if like is not None and pipelines.is_known(expanded(like)):
            save(self.weights, config, pipelines.read(expanded(like)), expanded(folder))
            return
        export(self.weights, config, expanded(folder), step=self.step, workdir=self.workdir, like=like)
        if like is None:
            keep_text_encoder(config, expanded(folder))
        if config.model.space == "latents" and like is None:
            shutil.rmtree(expanded(folder) / AUTOENCODER, ignore_errors=True)  # of an earlier export
            if self.workdir and not names_another_autoencoder(config, self.workdir):
                config.space.autoencoder = str(self.workdir / AUTOENCODER)
            keep_autoencoder(config, expanded(folder), self.mesh)

    def identity(self, asked: Request) -> dict[str, Any]:
        """All that decides the images of a request: settings, conditions, and a fingerprint of the weights of the model
        and of the runs that guide it.
        """
        weights = {"model": self.weights, **{name: jax.tree.leaves(one) for name, one in self._guiding(asked).items()}}
        prints = {f"weights.{name}": fingerprint(held) for name, held in weights.items()}
        return {"step": self.step, **prints, **asked.identity()}

    def shown(self, images: Images) -> UInt8[np.ndarray, "n h w c"]:
        """Images as they are on a screen, whatever the data's range."""
        return compiled.shown(self.task.space, images)

    def with_weights(self, weights: Weights, *, step: int) -> "Model":
        """The same model with other weights; compiled programs are shared."""
        return self._like(self.config, self.task, self._compiled, weights, step)

    def with_config(self, config: ConfigDict) -> "Model":
        """The same model with other settings of sampling and evaluation; compiled programs are shared."""
        return self._like(config, self.task, self._compiled, self.weights, self.step)

    def _like(
        self, config: ConfigDict, task: Task, programs: compiled.Compiled, weights: Weights, step: int
    ) -> "Model":
        model = Model(config, task, self.mesh, weights, step=step, workdir=self.workdir)
        model._compiled, model._helpers, model._programs = programs, self._helpers, self._programs
        model._judges, model._told_of_preset = self._judges, self._told_of_preset and weights is self.weights
        return model

    @_of_shape
    def request(self, num_images: int | None = None, **settings: Any) -> Request:
        """What a call with these settings asks for. Raises UserError for what cannot be."""
        asked = request.read(
            self.config,
            self.schedule,
            settings,
            conditions=self.conditions,
            workdir=self.workdir,
            num_images=num_images,
        )
        self._tell_of_preset(asked.config.sample.preset)
        return asked

    def denoiser(self, asked: Request) -> Conditioned:
        """D(x, sigma, to) of the images of a request, all at once, guided as it asks."""
        guidances, cond = asked.guidances(asked.scale, self._guiding(asked)), asked.cond

        def denoise(x: Array, sigma: Any, to: Any = None) -> Denoised:
            return self._compiled.denoise(self.weights, guidances, x, sigma, cond, to)

        return denoise

    def _tell_of_preset(self, calls: int) -> None:
        """Warn, once, where the tuned settings were found for other weights."""
        if not calls or self._told_of_preset:
            return
        self._told_of_preset = True
        tuned = presets.read(self.workdir, calls)
        if tuned.get("weights") != fingerprint(self.weights):
            warnings.warn(
                f"sample.preset={calls} was tuned for other weights, of step {tuned.get('step')}, and these are of "
                f"step {self.step}: it is used all the same; --mode=tune tunes for these",
                stacklevel=3,
            )

    @cached_property
    def conditions(self) -> tuple[Condition, ...]:
        """What the images are conditioned on."""
        task = self.task if isinstance(self.task, SegmentationTask) else self._diffusion
        return tuple(condition.in_folder(self.workdir) for condition in task.conditions)

    @property
    def _arguments(self) -> set[str]:
        """A caller's keywords for conditions."""
        kinds: list[Any] = [*request.KINDS, *self.conditions]
        return {kind.argument for kind in kinds}

    @property
    def _diffusion(self) -> DiffusionTask:
        if isinstance(self.task, AutoencoderTask):
            raise UserError(
                "task='autoencoder' is no diffusion model; --mode=reconstruct scores what it gives back of images"
            )
        if not isinstance(self.task, DiffusionTask):
            raise UserError(f"task={self.config.task!r} does not sample; a diffusion model does")
        return self.task

    def _noise_of(self, indices: Sequence[int] | np.ndarray, shape: tuple[int, ...], seed: int | None) -> np.ndarray:
        keys = image_keys(self.config.sample.seed if seed is None else seed, jnp.asarray(indices, jnp.uint32))
        return np.asarray(drivers.prior_noise(keys, jnp.zeros((len(indices), *shape))))

    @property
    def _latent(self) -> compiled.Coding:
        """How latents are encoded and decoded. Raises UserError where there are none."""
        if self._compiled.coding is None:
            raise UserError(
                f"model.space={self.config.model.space!r}: this model has no latents; an autoencoder has, and a "
                "diffusion model with model.space='latents'. The method invert gives the noise that leads to an image"
            )
        return self._compiled.coding

    def _in_batches(self, program: Any, rows: Mapping[str, np.ndarray]) -> np.ndarray:
        """program(weights, rows) of rows, a batch at a time."""
        (count,) = {len(values) for values in rows.values()}
        size = min(self.config.sample.batch_size, count)
        parts = compiled.in_batches(partial(program, self.weights), rows, range(count), size, self.mesh)
        return np.concatenate([values[: len(indices)] for indices, values in parts])

    def _images(self, images: Any) -> Num[np.ndarray, "n h w c"]:
        return checked(images, self.config.data.shape, values=self.task.space.values)

    def _walk(
        self,
        asked: Request,
        numbers: range,
        sigmas: Ladder,
        given: Mapping[str, np.ndarray],
        *,
        progress: str = "",
        **form: Any,
    ) -> Iterator[Any]:
        """(indices, images, trajectory or None, denoiser calls or None) of each batch. progress: the bar's name, if
        there is to be one. Raises DrawingError where images are not finite.
        """
        program = partial(self._compiled.walk, sampler=asked.sampler, **form)
        for indices, (images, frames, finite, calls) in self._run(
            program, asked, numbers, sigmas, given, progress=progress
        ):
            count = len(indices)
            if not finite[:count].all():
                raise self._not_finite(count - int(finite[:count].sum()), count)
            yield indices, images[:count], None if frames is None else frames[:, :count], calls

    def _not_finite(self, wrong: int, count: int) -> DrawingError:
        folder = (self.workdir or Path()) / "checkpoints"
        steps = sorted(int(path.name) for path in folder.glob("[0-9]*") if path.name.isdigit() and self.workdir)
        earlier = [step for step in steps if step < self.step]
        of_run = f" of {self.workdir}" if self.workdir else ""
        other = f"an earlier checkpoint, sample.checkpoint={earlier[-1]}, " if earlier else ""
        return DrawingError(
            f"{wrong} of {count} images by the weights of step {self.step}{of_run} are not finite: try {other}"
            "another sample.sampler or sample.guidance_scale=1; where none helps, training went wrong before that step"
        )

    def _upwards(self, asked: Request, image: np.ndarray, program: Any) -> np.ndarray:
        """What a program that goes up the ladder from images, its lowest sigma above 0 first, says of each."""
        rungs = asked.sigmas[asked.sigmas > 0][::-1]
        if len(rungs) < 2:
            steps = asked.config.sample.steps
            raise UserError(f"sample.steps={steps} leaves no way up from an image; take at least 2")
        parts = self._run(program, asked, range(asked.count), rungs, {"image": image})
        return np.concatenate([values[: len(indices)] for indices, values in parts])

    def _run(
        self,
        program: Any,
        asked: Request,
        numbers: range,
        sigmas: Ladder,
        given: Mapping[str, np.ndarray],
        *,
        progress: str = "",
    ) -> Iterator[Any]:
        sample, helpers = asked.config.sample, self._guiding(asked)

        def start(batch: PyTree) -> PyTree:
            guidances = asked.guidances(batch.pop("scale"), helpers)
            return program(self.weights, guidances, np.uint32(sample.seed), sigmas.astype(np.float32), batch)

        rows, size = {"cond": asked.in_turn, "scale": asked.scale, **given}, min(sample.batch_size, asked.count)
        return compiled.in_batches(start, rows, numbers, size, self.mesh, progress=progress)

    def _guiding(self, asked: Request) -> dict[str, Any]:
        """The other runs that the guidance takes, each as it takes it."""
        made = {}
        for name, place in from_config.helper_runs(asked.config).items() if asked.guided else ():
            if place not in self._helpers:
                other = load(*place)
                _check_space(name, other, self)
                self._helpers[place] = other
            made[name] = _as_helper(name, self._helpers[place], self.config, asked.sampler)
        return made


def _images_of(batches: Iterator[Batch]) -> Images:
    return np.concatenate([batch.images for batch in batches])


def _check_space(name: str, other: Model, model: Model) -> None:
    """Raises UserError where another run's x means something else than this model's, so that it cannot guide it."""
    where = f"guidance.{name}_workdir"
    if other.config.model.space != model.config.model.space:
        raise UserError(
            f"{where} holds a run in model.space={other.config.model.space!r}, and this model's x is "
            f"{model.config.model.space!r}: give one in the same space"
        )
    if _latents_of(other) != _latents_of(model):
        raise UserError(
            f"{where} holds a run in the latents of another autoencoder, or normalised otherwise, where x means "
            "something else: give one that was trained with this model's space.autoencoder"
        )


def _as_helper(name: str, other: Model, config: ConfigDict, solver: Sampler) -> Any:
    """Another run as a guidance takes it. Raises UserError where it cannot guide a model of this config."""
    where, theirs, ours = f"guidance.{name}_workdir", other.config.data, config.data
    if not isinstance(other.task, {"weak": DiffusionTask, "classifier": ClassifierTask}[name]):
        raise UserError(f"{where} holds a run of task={other.config.task!r}, which is not what it takes")
    if tuple(ours.shape[:2]) in theirs.shapes:
        other = other.in_shape(tuple(ours.shape[:2]))
        theirs = other.config.data
    if theirs.shape != ours.shape:
        raise UserError(f"{where} holds a run of images {theirs.shape}, this model's are {ours.shape}")
    if theirs.class_names != ours.class_names:
        raise UserError(f"{where} holds a run of classes {theirs.class_names}, this model's are {ours.class_names}")
    if isinstance(other.task, ClassifierTask):
        return ClassProbability(other.task, other.weights)
    if solver.jumps and other.config.task != "flow_map":
        raise UserError(
            f"{where} holds a run of task={other.config.task!r}, which does not know where a jump of this sampler "
            "ends: give a run of task='flow_map', or set sample.sampler=ddim"
        )
    request.check_learned(other.config, where, to=solver.lands if solver.jumps else None)
    return other._diffusion.denoiser(other.weights)


def _latents_of(model: Model) -> Any:
    """What decides what a latent means; None in other spaces."""
    space = model.task.space
    if not isinstance(space, Latents):
        return None
    return space.mean, space.std, fingerprint(meaning(model.weights.state))


def repaints(sampler: Any) -> bool:
    return not sampler.remembers and sampler.arrives


def _mask(masks: Any, shape: tuple[int, ...]) -> np.ndarray:
    mask = np.asarray(masks)
    mask = mask[..., 0] if mask.ndim == 4 and mask.shape[-1] == 1 else mask
    if mask.dtype != bool or mask.shape not in (shape, shape[1:]):
        raise UserError(
            f"masks are {mask.dtype} {list(mask.shape)}; they must be bool {list(shape)}, true where to paint"
        )
    return np.broadcast_to(mask, shape)[..., None]
