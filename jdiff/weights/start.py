"""Where training starts: anew, from a checkpoint, or from weights that there are (train.initial)."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import PyTree
from ml_collections import ConfigDict

import jdiff.config
from jdiff import from_config
from jdiff.common.errors import UserError
from jdiff.common.keys import named, root_key
from jdiff.common.paths import expanded
from jdiff.common.progress import say
from jdiff.conditions.text import TOKENIZER
from jdiff.interop import pipelines
from jdiff.interop.schedulers import SCHEDULER, process_of
from jdiff.tasks import Task, Weights
from jdiff.tasks.frozen import FrozenTask
from jdiff.training import sharding
from jdiff.training.checkpoints import Checkpoints
from jdiff.training.ema import groups
from jdiff.training.optimizer import carried_over
from jdiff.training.step import FROZEN, TrainState, init_state
from jdiff.weights.autoencoder import initial_autoencoder, with_initial_autoencoder, with_latents_of
from jdiff.weights.empty_text import empty_text, with_null
from jdiff.weights.pipelines import same_value, with_own, with_pipeline
from jdiff.weights.read import OWN_CHOICE, other_conditions, pretrained_weights, read_pretrained

# Keys of the group `model` that say what weights mean: what the network predicts, and at which noise.
PROCESS = (
    *("space", "prediction", "sigma_data", "learned_variance", "flow_shift"),
    *("schedule", "schedule_steps", "beta_start", "beta_end", "zero_terminal_snr"),
)


def with_pretrained_network(config: ConfigDict, workdir: Path) -> ConfigDict:
    """The config with the network that the weights of train.initial are of. A run that has begun keeps its own.

    Raises UserError where what the network predicts, and at which noise, is not what these weights learned.
    """
    if not config.train.initial:
        if jdiff.config.denoises(config) and jdiff.config.adapts(config):
            raise UserError(
                "condition.image.into='adapter' stands beside a trained model, which stays frozen: set "
                "train.initial to its run"
            )
        return config
    if config.task == "autoencoder":
        return with_initial_autoencoder(config, workdir)
    config = config.copy_and_resolve_references()
    config.train.initial = str(expanded(config.train.initial).resolve())  # read again from other folders
    if (workdir / jdiff.config.FILE).is_file():
        own = jdiff.config.of_run(workdir)
        if own.train.initial == config.train.initial or (
            jdiff.config.stands_beside(own) and jdiff.config.stands_beside(config)
        ):
            config = with_own(config, own)
            for name in set(own.network) - set(OWN_CHOICE):
                config.network[name] = own.network[name]
            if config.train.initial_checkpoint == "latest":
                config.train.initial_checkpoint = own.train.initial_checkpoint
            return config
    start = read_pretrained(config.train.initial, config.train.initial_checkpoint)
    config.train.initial_checkpoint = str(start.step)  # where low-rank parts stand, whatever that run does later
    if not start.pipeline and pipelines.is_pipeline(Path(config.train.initial)):
        say(f"train.initial={config.train.initial}: of this pipeline the network alone, {start.path.name}, is taken")
    if start.pipeline:
        config = with_pipeline(config, start.pipeline)
        say(
            f"train.initial={start.pipeline.folder} is a {start.pipeline.kind}: the process, the latents and the "
            "conditions are its own"
        )
        for note in start.pipeline.notes:
            say(note)
    for name, value in start.network.items():
        config.network[name] = value
    if start.config is None:
        say(checked_process(config, start.path))
    else:
        _take_scale(config.condition.scalars, start.config.condition.scalars)
    for name in PROCESS:
        if start.config is not None and config.model[name] != start.config.model[name]:
            raise UserError(
                f"model.{name} is {start.config.model[name]!r} in train.initial={start.path} and "
                f"{config.model[name]!r} here; start from weights of the same kind, or set it alike"
            )
    if start.config is not None and config.model.space == "latents":
        config = with_latents_of(config, start.config, start.path)
    return config


def checked_process(config: ConfigDict, network: Path) -> str:
    """A line that says whether another library's weights were trained under this config's process. Raises UserError
    with the keys to set where they were not.
    """
    ours = f"model.schedule={config.model.schedule!r} and model.prediction={config.model.prediction!r}"
    process = process_of(network)
    if process is None:
        return (
            f"train.initial={network}: no {SCHEDULER} lies beside these weights, so it could not be checked that they "
            f"were trained for {ours}"
        )
    if process.why_not:
        return (
            f"train.initial={network}: it could not be checked that these weights were trained for {ours}: "
            f"{process.why_not} ({process.file})"
        )
    theirs = {f"model.{name}": value for name, value in process.keys.items()}
    if config.objective.draw == "steps" and "model.schedule_steps" not in theirs:
        theirs["objective.draw"] = "lognormal" if process.keys["schedule"] == "edm" else "uniform"
    unlike = {
        name: value for name, value in theirs.items() if not same_value(jdiff.config.config_value(config, name), value)
    }
    if unlike:
        here = ", ".join(f"{name} is {jdiff.config.config_value(config, name)!r} here" for name in unlike)
        keys = " ".join(f"--config.{name}={value}" for name, value in unlike.items())
        raise UserError(
            f"train.initial={network} was trained under another process, says {process.file}: set {keys} ({here})"
        )
    return f"train.initial={network} was trained for {ours}, says {process.file}"


def _take_scale(ours: ConfigDict, theirs: ConfigDict) -> None:
    """The weights know the same numbers by the mean and deviation that they were trained with."""
    if theirs.names == ours.names and not (ours.mean or ours.std):
        ours.mean, ours.std = theirs.mean, theirs.std


def pretrained_tokenizer(config: ConfigDict) -> Path | None:
    """The tokenizer of the run that training starts from, where texts mean here what they mean there."""
    file = expanded(config.train.initial) / TOKENIZER
    if not config.train.initial or not file.is_file():
        return None
    return None if "text" in other_conditions(config, jdiff.config.of_run(file.parent)) else file


def begin(config: ConfigDict, task: Task, mesh: Mesh, checkpoints: Checkpoints | None, step: int) -> TrainState:
    """The state of `step`: restored, or new where that is 0; born with its shards on their devices."""
    if step and checkpoints:
        state = restored(config, task, mesh, checkpoints, step)
    else:
        initial = partial(initial_state, config, task)
        abstract = sharding.abstract(mesh, jax.eval_shape(initial))
        state = jax.jit(initial, out_shardings=jax.tree.map(lambda leaf: leaf.sharding, abstract))()
    if step and not isinstance(task, FrozenTask):
        return state
    if not config.train.initial:
        return _with_empty_text(config, state)
    found, notes = (initial_autoencoder if config.task == "autoencoder" else pretrained_weights)(config, mesh)
    if step and isinstance(task, FrozenTask):
        return replace(state, task_state={**state.task_state, FROZEN: task.frozen(found.params)})
    for note in notes:
        say(note)
    weights = task.init_from(Weights(state.params, state.task_state), found)
    # Copies: the state is donated, and no buffer can be given away twice.
    params, average = _copied(weights.params), _copied(groups(weights.params, task.averaged))
    return _with_empty_text(config, replace(state, params=params, ema=average, task_state=weights.state))


def _with_empty_text(config: ConfigDict, state: TrainState) -> TrainState:
    """The state of step 0 with the features of the empty text where they stand in for a dropped one."""
    features = empty_text(config)
    return replace(state, params=with_null(state.params, features), ema=with_null(state.ema, features))


def restored(config: ConfigDict, task: Task, mesh: Mesh, checkpoints: Checkpoints, step: int) -> TrainState:
    """The state of the checkpoint of `step`; the optimizer's is brought to the form that `config` gives it."""
    then = config.copy_and_resolve_references()
    then.train = jdiff.config.read(checkpoints.config(step)).train
    state = checkpoints.restore(step, sharding.abstract(mesh, jax.eval_shape(partial(initial_state, then, task))))
    return replace(state, opt_state=carried_over(state.opt_state, from_config.optimizer(config), state.params))


def initial_state(config: ConfigDict, task: Task) -> TrainState:
    """The state of step 0, of random weights."""
    key = root_key(config.seed)
    params, task_state = task.init(named(key, "init"), from_config.example(config))
    return init_state(
        params,
        task_state,
        from_config.optimizer(config),
        named(key, "train"),
        task.averaged,
        from_config.profiles(config),
    )


def _copied(params: PyTree) -> PyTree:
    return jax.tree.map(jnp.copy, params)
