"""What a sampler is."""

from typing import Any, Protocol, TypeAlias, runtime_checkable

from jaxtyping import Array, Float, Key

from jdiff.diffusion.denoiser import Denoised, Sigma

Carry: TypeAlias = Any  # a pytree


@runtime_checkable
class Conditioned(Protocol):
    """A denoiser with its condition bound: D(x, sigma, to)."""

    def __call__(self, x: Float[Array, "b ..."], sigma: Sigma, to: Sigma | None = None) -> Denoised: ...


@runtime_checkable
class Sampler(Protocol):
    """One step down a ladder of sigmas, s -> s', as a frozen dataclass; samplers inherit the facts by subclassing it.

    init(x, keys) -> carry: what it remembers between steps, a pytree; keys [B] are the images' own.
    step(denoise, carry, x, s, s', keys) -> (x, carry): s > s' >= 0 are scalars (a deterministic sampler also goes
    upwards); keys [B] are that step's.
    nfe(steps) -> denoiser calls over a ladder of `steps` rungs; None where the carry counts them.
    """

    @property
    def order(self) -> int:
        """The order of its convergence on the probability-flow ODE; 0 where it does not integrate the flow."""
        ...

    @property
    def remembers(self) -> bool:
        """Its carry ties steps together: a multistep history, a Brownian path, a count of calls."""
        return False

    @property
    def random(self) -> bool:
        """It adds noise."""
        return False

    @property
    def jumps(self) -> bool:
        """It asks for D(x, s, s'), which a flow-map model has, in place of the posterior mean."""
        return False

    @property
    def lands(self) -> bool:
        """All its jumps lead to 0, which is all that a consistency model knows."""
        return False

    @property
    def arrives(self) -> bool:
        """After a step x has the noise of s'; False where it still has that of s."""
        return True

    def init(self, x: Float[Array, "b ..."], keys: Key[Array, " b"]) -> Carry: ...

    def step(
        self,
        denoise: Conditioned,
        carry: Carry,
        x: Float[Array, "b ..."],
        sigma: Float[Array, ""],
        sigma_next: Float[Array, ""],
        keys: Key[Array, " b"],
    ) -> tuple[Float[Array, "b ..."], Carry]: ...

    def nfe(self, steps: int) -> int | None: ...
