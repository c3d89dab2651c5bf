"""Any ``torch.optim`` optimizer, made to step on private gradients only.

For training loops outside Lightning. Wrap the optimizer, then train as before:

Example:
    >>> import torch
    >>> from torch import nn
    >>> from lightning_privacy.accounting import PrivacyLedger
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    >>> ledger = PrivacyLedger(delta=1e-5)
    >>> optimizer = DPOptimizer(
    ...     torch.optim.Adam(model.parameters()),
    ...     model,
    ...     noise_multiplier=1.0,
    ...     max_grad_norm=1.0,
    ...     expected_batch_size=10,
    ...     ledger=ledger,
    ...     sample_rate=0.01,
    ... )
    >>> x, y = torch.randn(12, 4), torch.zeros(12, dtype=torch.long)  # a Poisson sample: 12 where 10 are expected
    >>> optimizer.zero_grad()
    >>> nn.functional.cross_entropy(model(x), y).backward()
    >>> optimizer.step()
    >>> 0 < ledger.epsilon() < 1
    True
    >>> optimizer.detach()
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, overload

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from typing_extensions import override

from lightning_privacy._validate import positive, probability
from lightning_privacy.accounting import PrivacyLedger
from lightning_privacy.errors import ConfigurationError, PrivacyViolation, UnsupportedError
from lightning_privacy.gradients.clipping import ClippingPolicy, clipping_policy
from lightning_privacy.gradients.engine import PrivateGradients
from lightning_privacy.gradients.inspection import refuse_optimizer
from lightning_privacy.mechanisms.noise import NoiseSource

__all__ = ["DPOptimizer"]


class DPOptimizer(Optimizer):
    """Steps ``optimizer`` with clipped, summed and noised gradients of ``module``.

    Each batch must be a Poisson sample at rate ``sample_rate`` (:class:`~lightning_privacy.sampling.PoissonSampler`)
    for the ledger to be right, and the loss a mean (or sum) of per-example losses. Call the module itself, then
    ``backward`` once, then ``step``. A batch that doesn't fit in memory goes through :meth:`accumulate`, an empty one
    through :meth:`empty_step`: a Poisson sample has any size, 0 included. A ``DataLoader`` whose ``batch_sampler`` is a
    ``PoissonSampler`` needs a ``collate_fn`` that knows it (see the example), as torch's own fails on an empty list.

    Args:
        optimizer: any optimizer that needs one gradient per step.
        module: the network whose parameters it holds.
        noise_multiplier: noise standard deviation on the clipped sum, in units of ``max_grad_norm``.
        max_grad_norm: clipping norm of a whole per-example gradient; with ``clipping="per_layer"`` also one for each
            layer.
        expected_batch_size: sample rate times number of examples; the noisy sum is divided by it.
        clipping: ``"flat"``, ``"per_layer"``, ``"automatic"``, ``"adaptive"`` or a
            :class:`~lightning_privacy.gradients.clipping.ClippingPolicy`.
        views: rows of a batch that are views of one example (augmentation multiplicity: De et al. 2022, "Unlocking
            High-Accuracy Differentially Private Image Classification through Scale", section 3.2), next to each
            other; their gradients are averaged before clipping.
        loss_reduction: ``"mean"`` or ``"sum"``, how the loss combines the examples of a batch.
        noise: where noise comes from; default: a source seeded by the operating system.
        ledger: where releases are charged, before they happen.
        sample_rate: inclusion probability of each example; needed with a ledger.

    Raises:
        ConfigurationError: a number out of range, a ledger without a sample rate, parameters foreign to the module.
        UnsupportedError: a layer or an optimizer that would void the guarantee, or several processes.

    Example:
        >>> from torch.utils.data import DataLoader, TensorDataset, default_collate
        >>> data, model = TensorDataset(torch.randn(4, 2)), nn.Linear(2, 1)
        >>> batches = [[0, 2], [], [1]]  # or PoissonSampler(len(data), sample_rate=0.25, steps=3)
        >>> def collate(examples):
        ...     return default_collate(examples) if examples else None
        >>> optimizer = DPOptimizer(
        ...     torch.optim.SGD(model.parameters(), lr=0.1),
        ...     model,
        ...     noise_multiplier=1.0,
        ...     max_grad_norm=1.0,
        ...     expected_batch_size=1.0,
        ... )
        >>> for batch in DataLoader(data, batch_sampler=batches, collate_fn=collate):
        ...     if batch is None:
        ...         optimizer.empty_step()  # noise alone: skipping would tell that the batch was empty
        ...         continue
        ...     optimizer.zero_grad()
        ...     model(batch[0]).mean().backward()
        ...     optimizer.step()
        >>> optimizer.state_dict()["private_steps"]
        3
        >>> optimizer.detach()
    """

    def __init__(
        self,
        optimizer: Optimizer,
        module: nn.Module,
        *,
        noise_multiplier: float,
        max_grad_norm: float | Sequence[float] | Mapping[str, float],
        expected_batch_size: float,
        clipping: str | ClippingPolicy = "flat",
        views: int = 1,
        loss_reduction: str = "mean",
        noise: NoiseSource | None = None,
        ledger: PrivacyLedger | None = None,
        sample_rate: float | None = None,
    ) -> None:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            processes = torch.distributed.get_world_size()
            if processes > 1:
                raise UnsupportedError(
                    f"DPOptimizer in a group of {processes} processes would clip and noise in each of them by itself, "
                    "for batches that may overlap; train with the DifferentialPrivacy callback and strategy='ddp', "
                    "which shares out one draw and adds noise once"
                )
        # Not Optimizer.__init__: groups, state and hooks are the wrapped optimizer's.
        refuse_optimizer(optimizer, module)
        if (ledger is None) != (sample_rate is None):
            raise ConfigurationError(
                f"ledger and sample_rate belong together, got ledger={ledger!r} and sample_rate={sample_rate!r}; "
                "pass both to have releases charged, or neither to account for them yourself"
            )
        self._optimizer = optimizer
        self._steps = 0
        noise = NoiseSource() if noise is None else noise
        policy = clipping_policy(clipping, max_grad_norm)
        policy.prepare(positive(expected_batch_size=expected_batch_size))
        charge: Callable[[], None] | None = None
        if ledger is not None and sample_rate is not None:
            release = policy.release(noise_multiplier, probability(sample_rate=sample_rate))
            if noise.caveat is not None:
                ledger.add_caveat(noise.caveat)

            def charge() -> None:
                ledger.charge(release)

        self._engine = PrivateGradients(
            module,
            max_grad_norm=max_grad_norm,
            noise_multiplier=noise_multiplier,
            expected_batch_size=expected_batch_size,
            clipping=policy,
            views=views,
            loss_reduction=loss_reduction,
            noise=noise,
            charge=charge,
        )
        self._engine.attach()
        self._arm()

    @property
    def optimizer(self) -> Optimizer:
        """The wrapped optimizer."""
        return self._optimizer

    @property
    @override
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The wrapped optimizer's groups, so schedulers work on either."""
        return self._optimizer.param_groups

    @property
    @override
    def state(self) -> defaultdict[Tensor, Any]:  # type: ignore[override]
        """The wrapped optimizer's state."""
        return self._optimizer.state

    @property
    @override
    def defaults(self) -> dict[str, Any]:  # type: ignore[override]
        """The wrapped optimizer's defaults."""
        return self._optimizer.defaults

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "_optimizer" not in vars(self):
            raise AttributeError(name)
        return getattr(self._optimizer, name)

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @override
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Step with the private gradient of the backward before, or of ``closure``.

        Args:
            closure: recomputes the loss, calls ``backward`` once and returns the loss.

        Raises:
            PrivacyViolation: there is no private gradient, or ``grad`` was replaced by another tensor.
        """
        loss: float | None = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if not self._engine.is_private():
            raise PrivacyViolation(
                "step() found no private gradient: call backward once on a loss of the wrapped module before each "
                "step, and change p.grad in place only (p.grad.mul_(2), not p.grad = p.grad * 2)"
            )
        self._optimizer.step()
        self._next()
        return loss

    def empty_step(self) -> None:
        """Step for a batch that came out empty: noise alone. Leaving it out would reveal that it was empty."""
        self._engine.release_noise(step=self._steps)
        self._optimizer.step()
        self._next()

    @contextmanager
    def accumulate(self) -> Iterator[None]:
        """Make the backward inside add a micro-batch to the step without finishing it.

        Open it before the forward; the step's last micro-batch goes outside.
        """
        self._engine.arm(batch_size=None, step=self._steps, closes_step=False)
        yield
        self._arm()

    @override
    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients, and what :meth:`accumulate` collected; what was released stays charged."""
        self._optimizer.zero_grad(set_to_none)
        if self._engine.accumulating:
            self._engine.discard()
            self._arm()
        elif not self._engine.pending:
            self._next()

    @override
    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group whose parameters belong to the module."""
        self._optimizer.add_param_group(param_group)
        refuse_optimizer(self._optimizer, self._engine.module)

    @override
    def state_dict(self) -> dict[str, Any]:
        """Return the wrapped optimizer's state and the number of steps, which a seeded noise source needs."""
        return {**self._optimizer.state_dict(), "private_steps": self._steps}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` or the plain optimizer's returned."""
        state = dict(state_dict)
        self._steps = int(state.pop("private_steps", self._steps))
        self._optimizer.load_state_dict(state)
        self._engine.discard()
        self._arm()

    def detach(self) -> None:
        """Leave the module as it was; the optimizer can't step after that."""
        self._engine.detach()

    @override
    def __getstate__(self) -> dict[str, Any]:
        raise TypeError(
            "a DPOptimizer can't be copied or pickled, as two would share the gradients of one module; save its "
            "state_dict() and load it into one made for the copied module"
        )

    def __repr__(self) -> str:
        engine = self._engine
        return (
            f"DPOptimizer({type(self._optimizer).__name__}, noise_multiplier={engine.noise_multiplier}, "
            f"clipping={engine.policy!r}, expected_batch_size={engine.expected_batch_size})"
        )

    def _next(self) -> None:
        self._engine.consume()
        self._steps += 1
        self._arm()

    def _arm(self) -> None:
        self._engine.arm(batch_size=None, step=self._steps)
