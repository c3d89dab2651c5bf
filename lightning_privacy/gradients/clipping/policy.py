"""What a clipping policy is: how each example's gradient is made small enough to hide under the noise.

The engine calls a policy in this order: :meth:`ClippingPolicy.prepare` and :meth:`ClippingPolicy.groups` before a step;
in each step :attr:`ClippingPolicy.norm_bound` for the noise, :meth:`ClippingPolicy.bounded_factors` and
:meth:`ClippingPolicy.counts` for each micro-batch; :meth:`ClippingPolicy.observe` once, after the release.

Example:
    >>> from lightning_privacy.gradients.clipping import ClippingPolicy
    >>> class Normalized(ClippingPolicy):
    ...     '''Every gradient gets length 1/2, and one shorter than that is kept.'''
    ...     norm_bound = 0.5
    ...     def factors(self, squared_norms):
    ...         return 0.5 / squared_norms.sqrt().clamp_min(0.5)
    >>> policy = Normalized()
    >>> policy.bounded_factors(torch.tensor([[1.0], [0.0], [float("nan")]]))
    tensor([[0.5000],
            [1.0000],
            [0.0000]])
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from lightning_privacy._validate import positive
from lightning_privacy.accounting import Release, SampledGaussian
from lightning_privacy.errors import CheckpointError, ConfigurationError

__all__ = ["ClippingPolicy", "one_bound", "zero_unless_finite"]

# Below about 1e-19 the square of a float32 loses its digits or vanishes. A gradient of a billion such entries has a
# norm of 3e-15 and may be measured as 0, which a bound of this size and more still covers with four digits.
_SMALLEST_BOUND = 1e-10

# Room for the rounding of factors and norms in float32, so that a policy's own factors pass unchanged.
_ROUNDING = 1e-5


class ClippingPolicy(ABC):
    """Decides by which factors a per-example gradient enters the sum. Derive from it to make an own one.

    The parameters are split into G groups, and the engine measures the norm of each example's gradient in each of
    them. A policy must provide :attr:`norm_bound` and :meth:`factors`; all else has a default: one group, and nothing
    released but the gradient.
    """

    def prepare(self, expected_batch_size: float) -> None:  # noqa: B027 - a hook that most policies don't need
        """Learn how many examples a step has on average; called before training, and again when that changes.

        Args:
            expected_batch_size: sample rate times number of examples: a constant, whatever was drawn.
        """

    def groups(self, names: Sequence[str]) -> list[int]:
        """Assign the parameters to groups; called at attach, and again when other parameters train.

        Args:
            names: names of the trainable parameters, in the module's order.

        Returns:
            The group of each, a number in ``0 .. G - 1``; every number occurs.
        """
        return [0] * len(names)

    @property
    @abstractmethod
    def norm_bound(self) -> float:
        """L2 bound of what one example adds to the clipped sum, over all groups; it changes in ``observe`` only."""

    @abstractmethod
    def factors(self, squared_norms: Tensor) -> Tensor:
        """Return the factor of each example's gradient in each group; a pure function.

        Args:
            squared_norms: shape ``(B, G)``, squared L2 norms in the units of the gradient of one example's loss.

        Returns:
            Shape ``(B, G)`` and the same dtype. An example that is not finite in any group gets 0 in all.
        """

    def bounded_factors(self, squared_norms: Tensor) -> Tensor:
        """Return :meth:`factors`, with the bound enforced: what the engine uses.

        A policy that keeps its bound is unaffected. An example that would pass :attr:`norm_bound` is scaled down to
        it, and one that is not finite in any group adds nothing, so that an error in ``factors`` costs accuracy and
        never privacy.

        Args:
            squared_norms: shape ``(B, G)``.

        Returns:
            Shape ``(B, G)``.

        Raises:
            ConfigurationError: ``factors`` returned another shape, or the bound is not a finite number above 0.
        """
        factors = self.factors(squared_norms)
        if factors.shape != squared_norms.shape:
            raise ConfigurationError(
                f"{type(self).__name__}.factors must return one factor for each example and group, shape "
                f"{tuple(squared_norms.shape)}, got {tuple(factors.shape)}"
            )
        factors = zero_unless_finite(factors, squared_norms)
        lengths = torch.linalg.vector_norm(factors * squared_norms.sqrt().nan_to_num(0.0, 0.0), dim=1, keepdim=True)
        bound = positive(norm_bound=self.norm_bound)
        return torch.where(lengths > bound * (1 + _ROUNDING), factors * (bound / lengths), factors)

    def gradient_noise_multiplier(self, noise_multiplier: float) -> float:
        """Return the part of the noise multiplier that the gradient gets; larger where something else is released too.

        Args:
            noise_multiplier: what the whole release is accounted with.

        Returns:
            Standard deviation of the noise on the clipped sum, in units of :attr:`norm_bound`.
        """
        return noise_multiplier

    def counts(self, squared_norms: Tensor) -> Tensor | None:
        """Return what else a step releases: sums over the examples of statistics that are bounded for each.

        Args:
            squared_norms: shape ``(B, G)``; real examples only, no padding.

        Returns:
            Shape ``(K,)``; None where nothing else is released.
        """
        return None

    @property
    def count_std(self) -> float:
        """Standard deviation of the noise on each count, in the count's own units."""
        return 0.0

    def observe(self, noisy_counts: Tensor, expected_batch_size: float) -> None:  # noqa: B027 - a hook, as prepare
        """Take in the noisy counts of a step that was released; may change the bound for the next step.

        Args:
            noisy_counts: shape ``(K,)``, summed over micro-batches and processes, with noise; equal everywhere.
            expected_batch_size: average number of examples of a step.
        """

    def release(self, noise_multiplier: float, sample_rate: float) -> Release:
        """Return what a step is charged as.

        Args:
            noise_multiplier: of the whole release.
            sample_rate: probability with which each example is in a step.

        Returns:
            The release; equal for all steps, so that the ledger can group them.
        """
        return SampledGaussian(noise_multiplier, sample_rate)

    def describe(self) -> dict[str, Any]:
        """Return class name and parameters as plain values: equal for policies that clip alike from the start.

        A resumed run compares it with what the checkpoint holds. What changes in training belongs in
        :meth:`state_dict` instead.
        """
        return {"policy": type(self).__name__}

    def state_dict(self) -> dict[str, Any]:
        """Return what changed in training, as plain values."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` returned.

        Args:
            state: the saved state.

        Raises:
            CheckpointError: it is of another policy, or damaged.
        """
        if state:
            raise CheckpointError(
                f"{type(self).__name__} has no state of its own, but the checkpoint holds {dict(state)!r}: it is of "
                "another clipping policy; resume with the one the run was started with"
            )

    def __repr__(self) -> str:
        parameters = self.describe()
        name = parameters.pop("policy", type(self).__name__)
        return f"{name}({', '.join(f'{key}={value!r}' for key, value in parameters.items())})"


class OneBound(ClippingPolicy):
    """What policies share that have one bound for the whole gradient, and keep it.

    Args:
        max_grad_norm: the bound C, in the units of the gradient of one example's loss.

    Raises:
        ConfigurationError: C is not a finite number of at least 1e-10.
    """

    def __init__(self, max_grad_norm: float = 1.0) -> None:
        self._max_grad_norm = one_bound(max_grad_norm=max_grad_norm)

    @property
    @override
    def norm_bound(self) -> float:
        return self._max_grad_norm

    @override
    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "max_grad_norm": self._max_grad_norm}


def one_bound(**argument: object) -> float:
    """Return the one keyword argument as a float, which must be usable as a norm bound.

    Raises:
        ConfigurationError: it is not a finite number of at least 1e-10.
    """
    ((name, value),) = argument.items()
    if isinstance(value, Sequence | Mapping) and not isinstance(value, str):
        raise ConfigurationError(
            f"{name} must be one number here, got {value!r}; a bound for each layer or group of parameters needs "
            "clipping='per_layer'"
        )
    bound = positive(**argument)
    if bound < _SMALLEST_BOUND:
        raise ConfigurationError(
            f"{name} must be at least {_SMALLEST_BOUND:g}, because norms much smaller can't be measured in float32, "
            f"got {value!r}; scale the loss up, or choose a larger bound and a smaller learning rate"
        )
    return bound


def zero_unless_finite(factors: Tensor, squared_norms: Tensor) -> Tensor:
    """Return the factors, with 0 in all groups for examples whose norm is not a number in any of them.

    Args:
        factors: shape ``(B, G)``.
        squared_norms: shape ``(B, G)``; a negative one is not a norm either.

    Returns:
        Shape ``(B, G)``.
    """
    usable = (squared_norms.isfinite() & (squared_norms >= 0) & factors.isfinite()).all(dim=1, keepdim=True)
    return torch.where(usable, factors, torch.zeros_like(factors))
