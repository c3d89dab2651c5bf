"""The sum of one step: opened with its noise, added to by micro-batches, charged and released.

Example:
    >>> import torch
    >>> from torch import nn
    >>> from lightning_privacy.gradients.clipping import FlatClipping
    >>> from lightning_privacy.gradients.contributions import Dense
    >>> weight = nn.Parameter(torch.zeros(2))
    >>> total = StepSum(FlatClipping(1.0), NoiseSource())
    >>> total.hold([weight], {id(weight): 0})
    >>> findings = Findings({id(weight): 0})
    >>> findings.add(weight, Dense(torch.tensor([[3.0, 4.0], [0.0, 0.5]]) / 2), only_use=True)  # of a mean over two
    >>> due = Announcement(step=0, noise_multiplier=0.0, expected_batch_size=2.0)
    >>> total.add(findings, due)
    >>> weight.grad is None
    True
    >>> total.release(due)
    >>> weight.grad
    tensor([0.3000, 0.6500])
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from lightning_privacy.errors import PrivacyViolation
from lightning_privacy.gradients.announcement import Announcement
from lightning_privacy.gradients.buffers import GradientBuffers
from lightning_privacy.gradients.clipping import ClippingPolicy
from lightning_privacy.gradients.contributions import has_cheap_sync
from lightning_privacy.gradients.findings import Findings
from lightning_privacy.gradients.single_entries import add_single_entries, entries_at
from lightning_privacy.mechanisms.noise import NoiseSource

__all__ = ["StepSum"]

# Streams of noise that one release may use: one for each precision and device, and one for counts.
_STREAMS = 64


class StepSum:
    """Sums up the clipped gradients of a step, on top of its noise.

    Args:
        policy: clips, and counts what it wants to know.
        noise: where noise comes from.
        views: rows of a batch that belong to one example.
        mean: whether losses average over the rows of a micro-batch.
        charge: called before each release; what it raises keeps the release from happening.
        reduce: called with each flat sum, to add up in place what several processes have.
        leader: whether this process is the one that adds the noise.
    """

    def __init__(
        self,
        policy: ClippingPolicy,
        noise: NoiseSource,
        *,
        views: int = 1,
        mean: bool = True,
        charge: Callable[[], None] | None = None,
        reduce: Callable[[Tensor], None] | None = None,
        leader: bool = True,
    ) -> None:
        self.released = 0
        """Number of sums released so far."""
        self.published = False
        """Whether the parameters hold the last one; not so any more once a step was opened or its owner used it up."""
        self.open_step: int | None = None
        """Number of the step that has micro-batches and was not released."""
        self._policy = policy
        self._noise = noise
        self._views = views
        self._mean = mean
        self._charge = charge
        self._reduce = reduce
        self._leader = leader
        self._parameters: Sequence[nn.Parameter] = []
        self._groups: Mapping[int, int] = {}
        self._counts: Tensor | None = None
        self._noise_std = 0.0
        self._open_bound = 0.0
        self.buffers = GradientBuffers([])
        """Where the sum is."""

    def hold(self, parameters: Sequence[nn.Parameter], groups: Mapping[int, int]) -> None:
        """Make room for the gradient of other parameters.

        Args:
            parameters: those that train privately, in an order that fixes which noise goes where.
            groups: number of the group of each for the policy, by its ``id``.
        """
        self._parameters, self._groups = parameters, groups
        self.buffers = GradientBuffers(parameters)

    def entries(self, positions: Tensor) -> Tensor:
        """Return some entries of the sum that was released last, float64, shape ``(K,)``, on the CPU.

        Args:
            positions: int64, shape ``(K,)``, counted over all parameters one after the other.

        Raises:
            PrivacyViolation: none was released, or an unfinished step has taken its place.
            ConfigurationError: a position that there is not.
        """
        if not self.published:
            raise PrivacyViolation("there is no private gradient to look at: none was released since the last step")
        return entries_at(positions, self._parameters, self.buffers)

    def add(self, findings: Findings, due: Announcement) -> None:
        """Add what a backward found, clipped; the first of a step opens it.

        Args:
            findings: of the layers, all in.
            due: what was announced of the backward.

        Raises:
            PrivacyViolation: findings changed since they were measured, the bound changed within the step, or there
                are weights for other examples.
        """
        norms = findings.squared_norms()
        if self.open_step is None:
            self._open(due)
        self._check_bound()
        if due.entries is not None:
            self._add_entries(due.entries, due)
        if norms is None or due.empty:
            return
        scale = due.scale(examples=norms.shape[0], views=self._views, mean=self._mean)
        norms = norms * scale**2
        example_weights = _example_weights(due, norms)
        if example_weights is not None:
            norms = norms * example_weights.square().unsqueeze(1)
        factors = self._policy.bounded_factors(norms)
        rejected = ~norms.isfinite().all(1)
        # Where a look would wait for the device, they are always masked: that costs a copy of each layer's input.
        if not has_cheap_sync(rejected.device) or bool(rejected.any()):
            findings.reject(rejected)
        factors = factors * (due.gradient_scale * scale / due.expected_batch_size)
        if example_weights is not None:
            factors = factors * example_weights.unsqueeze(1)
        weights = factors.unbind(1)
        for parameter in self._parameters:
            group = self._groups[id(parameter)]
            findings.add_weighted_sum(parameter, self.buffers.view(parameter), weights[group])
        self._add_counts(self._policy.counts(norms))

    def release(self, due: Announcement) -> None:
        """Charge the sum and make it the gradient of the parameters; nothing is released that can't be charged.

        Args:
            due: what was announced of the backward that closes the step.
        """
        if self._charge is not None:
            self._charge()
        for number, flat in enumerate(self.buffers.flat):
            if self._reduce is not None:
                self._reduce(flat)
            if self._noise.secure and self._noise_std > 0:
                # The sum itself is rounded to a grid, so noise is added to what all processes have together.
                self._add_securely(flat, due, std=self._noise_std, stream=number)
        self.buffers.publish()
        self.published = True
        self.open_step = None
        self.released += 1
        self._release_counts(due)

    def discard(self) -> None:
        """Forget an unfinished step; what it had collected is overwritten."""
        if self.open_step is not None:
            self.buffers.clear()
            self._counts = None
        self.open_step = None

    def _open(self, due: Announcement) -> None:
        self.buffers.withdraw()
        self.published = False
        share = self._policy.gradient_noise_multiplier(due.noise_multiplier)
        self._open_bound = self._policy.norm_bound
        self._noise_std = share * self._open_bound / due.expected_batch_size * due.gradient_scale
        begins = self._leader and not self._noise.secure
        self.buffers.begin(
            self._noise, std=self._noise_std if begins else 0.0, step=due.step, stream=due.release * _STREAMS
        )
        self.open_step = due.step

    def _check_bound(self) -> None:
        if self._policy.norm_bound != self._open_bound:
            raise PrivacyViolation(
                f"the bound of {self._policy!r} changed from {self._open_bound:g} to {self._policy.norm_bound:g} "
                "within a step, whose noise is for the first; give every DPOptimizer a policy of its own"
            )

    def _add_entries(self, entries: Tensor, due: Announcement) -> None:
        scale = due.gradient_scale / due.expected_batch_size
        counts = add_single_entries(entries, self._parameters, self._groups, self.buffers, self._policy, scale=scale)
        self._add_counts(counts)

    def _add_counts(self, counts: Tensor | None) -> None:
        if counts is not None:
            self._counts = counts.float() if self._counts is None else self._counts + counts.to(self._counts.device)

    def _release_counts(self, due: Announcement) -> None:
        nothing = self._policy.counts(torch.zeros(0, max(self._groups.values()) + 1))
        if nothing is None:
            return
        counts = (nothing.float() if self._counts is None else self._counts).to(self._parameters[0].device)
        self._counts = None
        std = self._policy.count_std if due.noise_multiplier > 0 else 0.0
        stream = due.release * _STREAMS + _STREAMS - 1
        if self._leader and not self._noise.secure:
            counts += self._noise.normals(counts.numel(), std=std, step=due.step, stream=stream).to(counts.device)
        if self._reduce is not None:
            self._reduce(counts)
        if self._noise.secure and std > 0:
            self._add_securely(counts, due, std=std, stream=_STREAMS - 1)
        self._policy.observe(counts.cpu(), due.expected_batch_size)

    def _add_securely(self, total: Tensor, due: Announcement, *, std: float, stream: int) -> None:
        """Add noise to a sum that all processes have, by the leader alone, and give every process the result."""
        if self._leader:
            self._noise.add_(total, std=std, step=due.step, stream=due.release * _STREAMS + stream)
        else:
            total.zero_()
        if self._reduce is not None:
            self._reduce(total)


def _example_weights(due: Announcement, norms: Tensor) -> Tensor | None:
    """Return the factors on the examples' losses, where the norms are; None where all are 1."""
    given = due.example_weights
    if given is None:
        return None
    if given.shape != norms.shape[:1]:
        raise PrivacyViolation(
            f"there are weights for {tuple(given.shape)} examples and gradients of {norms.shape[0]}: the batch "
            "does not hold the examples that were drawn, so weights would go to others; let collate_fn and "
            "training_step keep every example in its place"
        )
    return given.to(norms.device, norms.dtype)
