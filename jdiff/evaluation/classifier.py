"""The features of a small classifier that is trained on the data itself, for where no pretrained weights are at hand.

It learns the data's classes, or, where images have none, which of the eight turns and reflections of the square was
applied (after Gidaris et al., arXiv 1803.07728, who take four rotations). Distances between its features are called
FD-classifier, and never FID: they compare only where the weights are the same, of which statistics carry a digest.
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float, Int, PyTree
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from jdiff.common.errors import UserError
from jdiff.common.files import write_whole
from jdiff.common.keys import named, root_key
from jdiff.common.paths import expanded
from jdiff.common.processes import first_process_first, is_first_process
from jdiff.common.progress import Progress
from jdiff.data.verdicts import cache_folder
from jdiff.evaluation.gather import Images, Pictures
from jdiff.interop.features.rows import sha256
from jdiff.networks.classifier import Classifier
from jdiff.networks.features.space import Extractor, FeatureSpace, Plain
from jdiff.spaces import Pixels
from jdiff.tasks.classifier import ClassifierTask
from jdiff.training import sharding
from jdiff.training.ema import Ema
from jdiff.training.optimizer import learning_rate, make_optimizer
from jdiff.training.step import init_state, train_step

# Few images at a time, and few channels where there are many pixels: most accurate for its time on a CPU.
STEPS, BATCH, RATE = 2400, 32, 1e-2
PASSES, FEWEST_STEPS = 30, 300  # small data need no more passes; very small ones take some steps all the same
LARGEST_SIDE = 64  # pixels
CHANNELS, MULTS = 8, (1, 4, 8)
DIMENSION = CHANNELS * MULTS[-1]
TURNS = 8
VERSION = 3  # of the recipe: another one trains anew


def load(
    shape: tuple[int, int, int],
    classes: int,
    fingerprint: str,
    path: str,
    pictures: Callable[[], Pictures],
    progress: Progress,
) -> Extractor:
    """The extractor ("features", and "logits" [n, classes], or of TURNS where `classes` is 0) for images of `shape`.

    fingerprint: of the data. path: a file of weights; "": the one kept for these data, which is trained on `pictures`
    where there is none. Raises UserError where the file holds others.
    """
    height, width, channels = shape
    side = min(LARGEST_SIDE, max(8, round(min(height, width) / 4) * 4))
    seen, outputs = Plain(sides=(side, side), channels=channels), classes or TURNS
    network = Classifier(outputs, CHANNELS, MULTS)
    if path:
        params = _read(expanded(path), network, seen)
    else:
        recipe = (VERSION, fingerprint, seen, classes, STEPS, BATCH, CHANNELS, MULTS)
        name = hashlib.sha256(repr(recipe).encode()).hexdigest()[:16]
        kept = cache_folder() / "classifiers" / f"{name}.safetensors"
        with first_process_first():  # the others find its file
            there = kept.is_file()
            params = _read(kept, network, seen) if there else train(network, seen, pictures(), not classes, progress)
            if not there:
                _keep(kept, params)
    return _extractor(network, seen, sharding.of_first_process(params))


def _extractor(network: Classifier, seen: Plain, params: PyTree) -> Extractor:
    weights = sha256(params)
    dimensions = {"features": DIMENSION, "logits": network.num_classes}

    def apply(params: PyTree, x: Array) -> dict[str, Array]:
        logits, features = network.apply({"params": params}, x)
        return {"features": features, "logits": logits}

    spaces = {
        name: FeatureSpace(name=f"classifier/{name}", dimension=dimension, input=seen, weights=weights)
        for name, dimension in dimensions.items()
    }
    return Extractor(spaces=spaces, input=seen, params=params, apply=apply)


def train(network: Classifier, seen: Plain, pictures: Pictures, turned: bool, progress: Progress) -> PyTree:
    """The parameters after PASSES passes, at most STEPS steps, of AdamW from a fixed seed. turned: whether it learns
    turns, not classes.
    """
    steps = min(STEPS, max(FEWEST_STEPS, PASSES * len(pictures) // BATCH))
    task = ClassifierTask(network=network, space=Pixels((*seen.sides, seen.channels)))
    rate = learning_rate("cosine", peak=RATE, warmup_steps=steps // 10, total_steps=steps, decay_steps=1.0)
    optimizer = make_optimizer("adamw", rate=rate, b1=0.9, b2=0.999, eps=1e-8, weight_decay=0.1, clip_norm=1.0)
    look = jax.jit(lambda images, labels: _turned(seen(images), labels) if turned else seen(images))
    step = jax.jit(
        partial(train_step, loss=task.loss, optimizer=optimizer, ema=Ema(halflife_images=0), batch_size=BATCH),
        donate_argnums=0,
    )
    state = None
    for images, labels in progress(_examples(pictures, steps, turned=turned), steps):
        batch = {"x0": look(images, labels), "cond": {"label": labels}}
        if state is None:
            key = root_key(0)
            params, task_state = jax.jit(task.init)(named(key, "init"), batch)
            state = init_state(params, task_state, optimizer, key)
        state, _ = step(state, batch)
    assert state is not None
    return state.params


def _examples(pictures: Pictures, steps: int, *, turned: bool) -> Iterator[Images]:
    rng = np.random.default_rng(0)
    for _ in range(steps):
        images, labels = pictures.of(rng.integers(len(pictures), size=BATCH))
        yield images, rng.integers(TURNS, size=BATCH, dtype=np.int32) if turned else labels


def _turned(x: Float[Array, "b s s c"], turns: Int[Array, " b"]) -> Float[Array, "b s s c"]:
    """Each image turned by (k mod 4) quarters, and mirrored where k > 3."""
    kinds = jnp.stack([jnp.rot90(m, k, (1, 2)) for m in (x, x[:, :, ::-1]) for k in range(4)])
    return kinds[turns, jnp.arange(len(x))]


def _keep(file: Path, params: PyTree) -> None:
    """Write the parameters; where that fails, they are trained again next time."""
    if not is_first_process():
        return
    flat = {"/".join(path): np.asarray(array) for path, array in flatten_dict(params).items()}
    with suppress(OSError, SafetensorError):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, lambda fresh: save_file(flat, fresh))


def _read(file: Path, network: Classifier, seen: Plain) -> PyTree:
    shape = (1, *seen.sides, seen.channels)
    wanted = flatten_dict(jax.eval_shape(network.init, root_key(0), jnp.zeros(shape))["params"])
    try:
        held = load_file(file)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{file} holds no classifier ({' '.join(str(error).split())}); without eval.weights one is trained"
        ) from error
    for path, leaf in wanted.items():
        found = held.get("/".join(path))
        if found is None or found.shape != leaf.shape:
            there = "not there" if found is None else f"{list(found.shape)}"
            raise UserError(
                f"{file} holds another classifier: its tensor {'/'.join(path)} is {there}; it must be "
                f"{list(leaf.shape)}. Without eval.weights one is trained on these data"
            )
    return unflatten_dict({path: jnp.asarray(held["/".join(path)]) for path in wanted})
