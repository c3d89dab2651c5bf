"""Group DRO: the loss of the worst group in place of the mean loss.

Sagawa et al., "Distributionally Robust Neural Networks for Group Shifts: On the Importance of Regularization for
Worst-Case Generalization", ICLR 2020, Algorithm 1. The weights q of the groups grow with their losses, and the model
descends on the losses under these weights.

A network that can fit every training example has no worst group there, and gains nothing: it takes strong weight
decay or few epochs (section 3.2 there), and groups that are all in most batches, as a sampler balanced over the
groups draws them.

Example:
    >>> import torch
    >>> objective = GroupDROLoss(num_groups=2, step_size=1.0)
    >>> losses, groups = torch.tensor([0.1, 0.3, 2.0]), torch.tensor([0, 0, 1])
    >>> loss = objective(losses, groups)
    >>> [round(weight, 3) for weight in objective.weights]
    [0.142, 0.858]
    >>> round(float(loss), 3)  # 0.142 * 0.2 + 0.858 * 2.0
    1.745
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_privacy._validate import non_negative, positive, positive_int
from lightning_privacy.errors import CheckpointError, ConfigurationError

__all__ = ["GroupDROLoss"]


class GroupDROLoss:
    """Reduces the losses of a batch to ``sum_g q_g L_g``, and moves the weights q before.

    With L_g the mean loss of the examples of group g in the batch, ``q_g <- q_g exp(step_size (L_g + a_g))`` for the
    groups that are in it, then q is divided by its sum. ``a_g = adjustment / sqrt(group_sizes[g])`` (section 3.3
    there) asks for a lower training loss of small groups, which generalise less.

    Not private: q is a function of the losses without noise, and an example's share is divided by the number of its
    group in the batch.

    Args:
        num_groups: how many groups there are.
        step_size: eta_q, above 0; the paper uses 0.01.
        adjustment: C of the paper, tried from 0 to 5 there; above 0 it needs ``group_sizes``.
        group_sizes: number of training examples of each group.

    Raises:
        ConfigurationError: a number out of its range, or sizes that don't match.

    Example:
        >>> GroupDROLoss(num_groups=4).weights
        (0.25, 0.25, 0.25, 0.25)
    """

    def __init__(
        self,
        num_groups: int,
        *,
        step_size: float = 0.01,
        adjustment: float = 0.0,
        group_sizes: Sequence[int] | None = None,
    ) -> None:
        self.num_groups = positive_int(num_groups=num_groups)
        self.step_size = positive(step_size=step_size)
        self.adjustment = non_negative(adjustment=adjustment)
        self._logarithms = torch.full((num_groups,), -math.log(num_groups), dtype=torch.float64)
        self._raised = torch.zeros(num_groups, dtype=torch.float64)
        if self.adjustment:
            if group_sizes is None or len(group_sizes) != num_groups:
                raise ConfigurationError(
                    f"adjustment={adjustment} needs group_sizes, the number of training examples of each of the "
                    f"{num_groups} groups, got {group_sizes!r}"
                )
            sizes = [positive(group_sizes=size) for size in group_sizes]
            self._raised = self.adjustment / torch.tensor(sizes, dtype=torch.float64).sqrt()

    @property
    def weights(self) -> tuple[float, ...]:
        """q: one weight per group, with sum 1."""
        return tuple(self._logarithms.exp().tolist())

    def __call__(
        self,
        losses: Tensor,
        groups: Tensor,
        *,
        add_up: Callable[[Tensor], Tensor] | None = None,
        processes: int = 1,
    ) -> Tensor:
        """Move the weights by the losses of a batch, and return the loss under the new ones.

        Args:
            losses: loss of each example, shape ``(B,)``, with a graph.
            groups: group of each, shape ``(B,)``, int64, from 0 to ``num_groups - 1``.
            add_up: returns the sum over the processes of a tensor that each has; all of them call it.
            processes: how many share the batch. The result is that many times this process's part of the loss, as
                the gradients are averaged over them.

        Returns:
            The loss, a scalar with a graph.
        """
        precise = torch.promote_types(losses.dtype, torch.float32)
        sums = torch.zeros(2, self.num_groups, dtype=precise, device=losses.device)
        sums[0].index_add_(0, groups, losses.detach().to(precise))
        sums[1].index_add_(0, groups, torch.ones_like(losses, dtype=precise))
        if add_up is not None:
            sums = add_up(sums)
        totals, counts = sums
        means = totals / counts.clamp_min(1)
        # A group that is not in the batch says nothing; one whose loss is not a number must not take all weight.
        heard = (counts > 0) & means.isfinite()
        step = self.step_size * torch.where(heard, means + self._raised.to(means), torch.zeros_like(means))
        moved = self._logarithms.to(step) + step
        self._logarithms = moved - moved.logsumexp(0)
        shares = (self._logarithms.exp() / counts.clamp_min(1)).to(losses.dtype)
        loss: Tensor = processes * (shares[groups] * losses).sum()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Return the weights as plain values."""
        return {"logarithms": self._logarithms.tolist()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with saved weights.

        Args:
            state: what :meth:`state_dict` returned.

        Raises:
            CheckpointError: it is damaged, or of another number of groups.
        """
        saved = state.get("logarithms")
        if not isinstance(saved, list) or len(saved) != self.num_groups or not all(map(math.isfinite, saved)):
            raise CheckpointError(
                f"the checkpoint holds no weights of {self.num_groups} groups, got {saved!r}: resume with the "
                "num_groups the run was started with"
            )
        self._logarithms = torch.tensor(saved, dtype=torch.float64)
