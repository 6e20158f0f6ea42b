"""A trained model as one object: what notebooks hold, and what the command's modes use."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Num, PyTree, UInt8
from ml_collections import ConfigDict
from tqdm import tqdm

import jdiff.config
from jdiff import build
from jdiff.common.errors import UserError
from jdiff.common.keys import image_keys
from jdiff.common.pictures import to_uint8
from jdiff.diffusion import drivers, guidance
from jdiff.diffusion.samplers import Sampler
from jdiff.tasks import Task
from jdiff.tasks.classifier import ClassifierTask
from jdiff.tasks.diffusion import DiffusionTask
from jdiff.training import sharding
from jdiff.training.checkpoints import Checkpoints


def load(workdir: str | Path, checkpoint: str | int | None = None) -> "Model":
    """The model that was trained in `workdir`, with its averaged (EMA) weights.

    checkpoint: "latest", "best" (lowest held-out loss) or a step; by default what the run's config says.
    Raises UserError where `workdir` holds no run or not that checkpoint.
    """
    workdir = Path(workdir)
    return restore(jdiff.config.of_run(workdir), workdir, checkpoint)


def restore(config: ConfigDict, workdir: Path, checkpoint: str | int | None = None) -> "Model":
    """As `load`, with the run's config given, overridden perhaps."""
    wanted = str(config.sample.checkpoint if checkpoint is None else checkpoint)
    folder = workdir / "checkpoints"
    if not folder.is_dir():
        raise UserError(f"{workdir} holds no checkpoint yet; train it first: --config=FILE --workdir={workdir}")
    task, mesh = build.task(config), sharding.make_mesh()
    with Checkpoints(folder, read_only=True) as checkpoints:
        step = checkpoints.find(wanted)
        if step is None:
            raise UserError(f"{workdir} holds no checkpoint yet; train it first: --config=FILE --workdir={workdir}")
        params, task_state = jax.eval_shape(lambda: task.init(jax.random.key(0), build.example(config)))
        abstract = sharding.abstract(mesh, {"ema": params, "task_state": task_state})
        weights = checkpoints.restore_weights(step, abstract)
    return Model(config, task, mesh, weights["ema"], step=step)


class Model:
    """config: the run's, resolved. params: the averaged weights. step: the step that they are of."""

    def __init__(self, config: ConfigDict, task: Task, mesh: Mesh, params: PyTree, *, step: int):
        self.config, self.task, self.mesh, self.params, self.step = config, task, mesh, params, step
        self._programs: dict[Any, Callable] = {}

    def sample(
        self,
        num_images: int | None = None,
        *,
        labels: Sequence[int] | None = None,
        sampler: str | None = None,
        steps: int | None = None,
        guidance_scale: float | Sequence[float] | None = None,
        seed: int | None = None,
        batch_size: int | None = None,
        progress: bool = False,
        **settings: Any,
    ) -> UInt8[np.ndarray, "n h w c"]:
        """New images, uint8.

        What is not given is as in the config's `sample` group; `settings` are further keys of that group (eta, ladder,
        s_churn, ...). labels: one an image, or fewer, taken in turn; image i depends on its label, the seed and i
        alone. guidance_scale: w in w D_cond + (1 - w) D_uncond, a number or one an image; 1 is no guidance.
        """
        scales = None if np.ndim(guidance_scale) == 0 else np.asarray(guidance_scale)  # type: ignore[arg-type]
        sample = build.settings(
            self.config,
            num_images=num_images if num_images is not None or labels is None else len(labels),
            labels=labels if labels is None else tuple(int(label) for label in labels),
            sampler=sampler,
            steps=steps,
            guidance_scale=guidance_scale if scales is None else None,
            seed=seed,
            batch_size=batch_size,
            **settings,
        )
        parts = [images for images, _ in self._batches(sample, scales=scales, progress=progress)]
        return np.concatenate(parts)[: sample.num_images]

    def trajectory(self, num_images: int = 8, **settings: Any) -> UInt8[np.ndarray, "rungs n h w c"]:
        """x at every rung of the ladder on the way to `num_images` images, scaled by 1/sqrt(1 + sigma^2) to be seen."""
        sample = build.settings(self.config, num_images=num_images, batch_size=num_images, **settings)
        ((_, frames),) = self._batches(sample, keep_trajectory=True)
        assert frames is not None
        return frames[:, :num_images]

    def labels(self) -> np.ndarray | None:
        """The label of each image that the config's `sample` group asks for; None from a model without labels."""
        return build.conditions(self.config, self.config.sample).get("label")

    def nfe(self) -> tuple[int, int]:
        """(denoiser calls, network passes) for an image, as the config's `sample` group says."""
        sample = self.config.sample
        calls = build.sampler(sample).nfe(sample.steps)
        return calls, calls * (2 if _guided(sample) else 1)

    def classify(self, images: Num[Array | np.ndarray, "b h w c"]) -> np.ndarray:
        """A classifier's probabilities [B, classes] for images, uint8 or float32 in [-1, 1]."""
        if not isinstance(self.task, ClassifierTask):
            raise UserError(f"task={self.config.task!r} does not classify")
        task = self.task
        logits, _ = self._program("classify", lambda: jax.jit(task.classify))(self.params, images)
        return np.asarray(jax.nn.softmax(logits))

    def with_params(self, params: PyTree, *, step: int) -> "Model":
        """The same model with other weights; compiled programs are shared."""
        model = Model(self.config, self.task, self.mesh, params, step=step)
        model._programs = self._programs
        return model

    def _program(self, key: Any, make: Callable[[], Callable]) -> Callable:
        if key not in self._programs:
            self._programs[key] = make()
        return self._programs[key]

    def _batches(
        self,
        sample: ConfigDict,
        *,
        scales: np.ndarray | None = None,
        keep_trajectory: bool = False,
        progress: bool = False,
    ) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        """(images, trajectory) a batch; the last one is filled up, and images beyond the number asked for are spare.

        scales: guidance scales [num_images] in place of the settings' one.
        """
        if not isinstance(self.task, DiffusionTask):
            raise UserError(f"task={self.config.task!r} does not sample; a diffusion model does")
        solver, task = build.sampler(sample), self.task
        sigmas = build.ladder(sample, task.parameterization.schedule)
        guided = scales is not None or _guided(sample)
        if guided and not task.conditions:
            raise UserError("guidance_scale: an unconditional model has nothing to guide; leave it out")
        if scales is None:
            scales = np.full(sample.num_images, sample.guidance_scale if guided else 1.0)
        if len(scales) != sample.num_images:
            raise UserError(f"guidance_scale holds {len(scales)} numbers for {sample.num_images} images")
        per_image = {"cond": build.conditions(self.config, sample), "scale": scales.astype(np.float32)}

        size = min(sample.batch_size, sample.num_images)
        size += -size % self.mesh.size  # every device holds as many images
        run = self._program(
            (solver, guided, keep_trajectory),
            lambda: _sampling_program(task, solver, self.config.data.shape, self.mesh, guided, keep_trajectory),
        )

        def start(first: int) -> Any:
            indices = np.arange(first, first + size, dtype=np.uint32)
            rows = jax.tree.map(lambda values: values[indices % len(values)], per_image) | {"indices": indices}
            rows = jax.device_put(rows, sharding.of_batch(self.mesh))
            return run(self.params, np.uint32(sample.seed), sigmas.astype(np.float32), **rows)

        # One batch ahead: the device works while the host fetches.
        firsts = list(range(0, sample.num_images, size))
        ahead = start(firsts[0])
        for following in tqdm([*firsts[1:], None], desc="sampling", unit="batch", disable=not progress, leave=False):
            now, ahead = ahead, None if following is None else start(following)
            yield jax.tree.map(_whole, now)


def _guided(sample: ConfigDict) -> bool:
    return sample.guidance_scale is not None and sample.guidance_scale != 1


def _whole(array: Array) -> np.ndarray:
    """All rows, on every process."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        array = multihost_utils.process_allgather(array, tiled=True)
    return np.asarray(array)


def _sampling_program(
    task: DiffusionTask,
    solver: Sampler,
    shape: tuple[int, int, int],
    mesh: Mesh,
    guided: bool,
    keep_trajectory: bool,
) -> Callable:
    """(params, seed, sigmas, indices, cond, scale) -> (images, trajectory or None), compiled once a batch size and
    ladder length: seed, conditions and scale are traced.
    """
    schedule = task.parameterization.schedule

    @jax.jit
    def program(params, seed, sigmas, indices, cond, scale):
        denoise = task.denoiser(params)
        if guided:
            denoise = guidance.classifier_free(denoise, scale)
        keys = image_keys(seed, indices)
        like = jax.lax.with_sharding_constraint(
            jnp.zeros((len(indices), *shape)), sharding.of_batch(mesh, len(indices))
        )
        x = drivers.prior(keys, like, sigmas[0], schedule)
        walk = drivers.scan(solver, denoise, x, sigmas, cond, keys, keep_trajectory=keep_trajectory)
        if walk.trajectory is None:
            return to_uint8(walk.x0), None
        to_be_seen = 1 / jnp.sqrt(1 + sigmas**2)
        return to_uint8(walk.x0), to_uint8(walk.trajectory * to_be_seen[:, None, None, None, None])

    return program
