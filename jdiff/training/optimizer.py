"""Optimizers and learning-rate schedules, from optax."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree
from optax.contrib import MuonDimensionNumbers, scale_by_muon

ADAMS, MUON = ("adam", "adamw", "radam"), "muon"  # the former keep the same of the gradients
RMS_OF_ADAM = 0.2  # root mean square of Adam's updates, about
Schedule = Literal["constant", "cosine", "linear", "inverse_sqrt"]


def learning_rate(
    name: Schedule, *, peak: float, warmup_steps: int, total_steps: int, decay_steps: float
) -> optax.ScalarOrSchedule:
    """The rate of step t = 0, 1, ...; a number where it never changes.

    It rises as peak (t + 1) / w for w = warmup_steps. Then, with u = (t - w) / (total_steps - w):

        constant       peak
        cosine         peak (1 + cos(pi u)) / 2
        linear         peak (1 - u)
        inverse_sqrt   peak / sqrt(max(t / decay_steps, 1)), during the warm-up too (Karras et al., arXiv 2312.02696)
    """
    if name == "constant" and not warmup_steps:
        return peak
    rest = max(1, total_steps - warmup_steps)
    after: dict[str, Callable[[], optax.Schedule]] = {
        "constant": lambda: optax.constant_schedule(peak),
        "cosine": lambda: optax.cosine_decay_schedule(peak, rest),
        "linear": lambda: optax.linear_schedule(peak, 0.0, rest),
        "inverse_sqrt": lambda: optax.constant_schedule(peak),
    }
    rate = after[name]()
    if warmup_steps:
        rise = optax.linear_schedule(peak / warmup_steps, peak, max(1, warmup_steps - 1))
        rate = rise if name in ("constant", "inverse_sqrt") else optax.join_schedules([rise, rate], [warmup_steps])
    if name == "inverse_sqrt":
        return lambda count: rate(count) / jnp.sqrt(jnp.maximum(count / decay_steps, 1.0))
    return rate


def rate_of(rate: optax.ScalarOrSchedule, step: int) -> float:
    """The rate of step t = `step`."""
    return float(rate(step)) if callable(rate) else float(rate)


def make_optimizer(
    name: Literal["adam", "adamw", "radam", "muon"],
    *,
    rate: optax.ScalarOrSchedule,
    b1: float,
    b2: float,
    eps: float,
    weight_decay: float,
    clip_norm: float,
    waits: bool = False,
) -> optax.GradientTransformation:
    """After clipping of the gradient's global norm to clip_norm (0: no clipping)

        adam    Kingma & Ba, arXiv 1412.6980
        adamw   Loshchilov & Hutter, 1711.05101; its weight decay spares what `is_decayed` says
        radam   Liu et al., 1908.03265: Adam's update times r(t), which grows to 1, or the mean gradient alone where the
                variance of 1/sqrt(v) is not tractable, rho(t) < 5; as Adam, it adds eps to the root
        muon    see `_muon`; Adam for all but kernels

    waits: steps, by which means are corrected, are counted from the first gradient on that is not 0.
    """
    scaled, waiting = optax.scale_by_learning_rate(rate), _waiting if waits else lambda rule: rule
    adam = waiting((optax.scale_by_radam if name == "radam" else optax.scale_by_adam)(b1=b1, b2=b2, eps=eps))
    if name == MUON:
        adam = optax.multi_transform({"kernels": _muon(waiting), "others": adam}, _kernels_or_others)
    # optax.adamw(mask=...) would do, but for its state: another tree than that of runs without a mask.
    rule = optax.chain(adam, _decay(weight_decay), scaled) if name == "adamw" else optax.chain(adam, scaled)
    return optax.chain(optax.clip_by_global_norm(clip_norm), rule) if clip_norm else rule


def _muon(waiting: Callable[[optax.GradientTransformation], optax.GradientTransformation]) -> Any:
    """Muon (Jordan et al. 2024): the mean gradient (0.95, Nesterov) as a matrix [inputs, outputs], a convolution's
    kernel [h, w, i, o] as [h w i, o], with its singular values brought near 1 by five steps of Newton and Schulz.

    It is scaled by 0.2 sqrt(max(inputs, outputs)), by which its root mean square is about that of Adam's updates, so
    that both take one learning rate (Liu et al., arXiv 2502.16982, eq. 4).
    """

    def as_matrix(kernel: Any) -> MuonDimensionNumbers:
        return MuonDimensionNumbers(reduction_axis=tuple(range(kernel.ndim - 1)), output_axis=kernel.ndim - 1)

    def scaled(update: Float[Array, "*i o"]) -> Float[Array, "*i o"]:
        outputs = update.shape[-1]
        return RMS_OF_ADAM * max(update.size // outputs, outputs) ** 0.5 * update

    orthogonal = scale_by_muon(weight_dimension_numbers=lambda kernels: jax.tree.map(as_matrix, kernels))
    return optax.chain(waiting(orthogonal), optax.stateless(lambda kernels, _: jax.tree.map(scaled, kernels)))


def _kernels_or_others(params: PyTree) -> PyTree:
    """What Muon takes: kernels and their low-rank parts; and what Adam takes."""

    def label(path: tuple[Any, ...], leaf: Any) -> str:
        return "kernels" if is_decayed(path) and leaf.ndim > 1 else "others"

    return jax.tree_util.tree_map_with_path(label, params)


def _waiting(adam: optax.GradientTransformation) -> optax.GradientTransformation:
    """Adam, or a rule like it, whose count of steps stays as it is until a gradient is not 0."""

    def update(updates: PyTree, state: Any, params: PyTree = None) -> Any:
        made, after = adam.update(updates, state, params)
        begun = (state.count > 0) | (optax.global_norm(updates) > 0)
        return made, after._replace(count=jnp.where(begun, after.count, state.count))

    return optax.GradientTransformation(adam.init, update)


def by_group(optimizers: Mapping[str, optax.GradientTransformation]) -> optax.GradientTransformation:
    """An optimizer for each top group of params; gradients are clipped by the norm of their group."""

    def labels(params: PyTree) -> PyTree:
        return {name: jax.tree.map(lambda _, name=name: name, part) for name, part in params.items()}

    return optax.multi_transform(optimizers, labels)


def carried_over(state: PyTree, optimizer: optax.GradientTransformation, params: PyTree) -> PyTree:
    """The state of another optimizer of this family, ADAMS or Muon, as one of `optimizer`: the same moments and count
    of steps, at the places that clipping, weight decay and a schedule give them here.
    """
    wanted = jax.eval_shape(optimizer.init, params)
    if str(jax.tree.structure(wanted)) == str(jax.tree.structure(state)):
        return state
    if isinstance(state, optax.MultiTransformState):
        inner = {name: _carried(part, wanted.inner_states[name]) for name, part in state.inner_states.items()}
        return optax.MultiTransformState(inner)
    return _carried(state, wanted)


def _carried(state: PyTree, wanted: PyTree) -> PyTree:
    def is_moments(part: Any) -> bool:
        return isinstance(part, (optax.ScaleByAdamState, optax.MultiTransformState))  # the latter is Muon's

    found = [part for part in jax.tree.leaves(state, is_leaf=is_moments) if is_moments(part)]
    count = optax.tree_utils.tree_get_all_with_path(found, "count")[0][1]
    made = jax.tree.map(lambda part: found[0] if is_moments(part) else count, wanted, is_leaf=is_moments)
    return jax.tree.map(jnp.copy, made)  # copies: the state is donated, and no buffer can be given away twice


def is_decayed(path: tuple[Any, ...]) -> bool:
    """Whether weight decay shrinks the parameters at this path: kernels and their low-rank parts alone, so neither
    biases, norms' scales, nulls nor tables of labels, tokens and positions.
    """
    return any(getattr(part, "key", part) == "kernel" for part in path)


def _decay(weight_decay: float) -> optax.GradientTransformation:
    """update + weight_decay * parameter where it is decayed."""

    def update(updates: PyTree, params: PyTree) -> PyTree:
        def decayed(path: tuple[Any, ...], one: Any, parameter: Any) -> Any:
            return one + weight_decay * parameter if is_decayed(path) else one

        return jax.tree_util.tree_map_with_path(decayed, updates, params)

    return optax.stateless(update)
