"""An adversary that tries to tell the group from the prediction, and the gradient of a predictor that fools it.

Zhang, Lemoine and Mitchell, "Mitigating Unwanted Biases with Adversarial Learning", AIES 2018. Where the adversary
sees the prediction alone, fooling it means demographic parity; where it sees the label too, equalised odds (section 4
there).

Example:
    >>> import torch
    >>> along, across = debiased_gradient([torch.tensor([3.0]), torch.tensor([4.0])],
    ...                                   [torch.tensor([2.0]), torch.tensor([0.0])], alpha=0.5)
    >>> along, across  # what lies along the adversary's gradient (2, 0) is gone, and half of that taken off
    (tensor([-1.]), tensor([4.]))
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_privacy._validate import positive_int
from lightning_privacy.errors import ConfigurationError

__all__ = ["Adversary", "debiased_gradient", "reverse_gradient"]


class Adversary(nn.Module):
    """Guesses the group of each example from its predicted probabilities, and its label where it is told.

    Args:
        num_classes: how many classes are predicted.
        num_groups: how many groups there are.
        hidden: widths of hidden layers; empty for a linear adversary, as in the paper.
        sees_labels: whether it is told the label.

    Raises:
        ConfigurationError: a number is out of range.

    Example:
        >>> Adversary(num_classes=2, num_groups=2)(torch.zeros(4, 2)).shape
        torch.Size([4, 2])
    """

    def __init__(
        self, *, num_classes: int, num_groups: int, hidden: Sequence[int] = (), sees_labels: bool = False
    ) -> None:
        super().__init__()
        self.num_classes = positive_int(num_classes=num_classes)
        self.sees_labels = sees_labels
        # With the label: the probabilities, the label, and their products, so that a linear one can tell apart what a
        # probability means for each label.
        width = num_classes * (num_classes + 2) if sees_labels else num_classes
        layers: list[nn.Module] = []
        for next_width in hidden:
            layers += [nn.Linear(width, positive_int(hidden=next_width)), nn.ReLU()]
            width = next_width
        self.layers = nn.Sequential(*layers, nn.Linear(width, positive_int(num_groups=num_groups)))

    @override
    def forward(self, logits: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return scores of the groups.

        Args:
            logits: of the prediction, shape ``(B, num_classes)``; ``(B,)`` or ``(B, 1)`` for two classes.
            labels: from 0, shape ``(B,)``; where the adversary sees them.

        Returns:
            Shape ``(B, num_groups)``.

        Raises:
            ConfigurationError: the logits have another shape, or the labels are missing.
        """
        if logits.dim() == 1 or logits.shape[1:] == (1,):
            flat = logits.reshape(-1, 1)
            logits = torch.cat([torch.zeros_like(flat), flat], 1)
        if logits.dim() != 2 or logits.shape[1] != self.num_classes:
            raise ConfigurationError(
                f"logits must have shape (B, num_classes={self.num_classes}), got {tuple(logits.shape)}"
            )
        seen = logits.softmax(1)
        if self.sees_labels:
            if labels is None:
                raise ConfigurationError("this adversary sees labels: pass labels of the examples")
            told = nn.functional.one_hot(labels, self.num_classes).to(seen.dtype)
            seen = torch.cat([seen, told, (seen[:, :, None] * told[:, None]).flatten(1)], 1)
        scores: Tensor = self.layers(seen)
        return scores


class _Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, alpha: float) -> Tensor:
        ctx.alpha = alpha
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None]:
        return -ctx.alpha * gradients[0], None


def reverse_gradient(values: Tensor, alpha: float) -> Tensor:
    """Return the values as they are; their gradient comes back times ``-alpha``.

    Ganin and Lempitsky, "Unsupervised Domain Adaptation by Backpropagation", ICML 2015. What the adversary descends
    on, the predictor behind the values ascends on, in one backward and for each example by itself.

    Args:
        values: any tensor with a graph.
        alpha: how much.
    """
    reversed_values: Tensor = _Reverse.apply(values, alpha)
    return reversed_values


def debiased_gradient(prediction: Sequence[Tensor], adversary: Sequence[Tensor], *, alpha: float) -> tuple[Tensor, ...]:
    """Return the predictor's gradient: ``g_P - proj_{g_A} g_P - alpha g_A`` (equation 1 there).

    Without the projection, the predictor could still move in a direction that helps the adversary.

    Args:
        prediction: g_P, the gradient of the prediction's loss, a tensor per parameter.
        adversary: g_A, the gradient of the adversary's loss by the same parameters.
        alpha: how much the adversary counts.

    Returns:
        A tensor per parameter. The projection is over all parameters together, as one vector.
    """
    dot = torch.stack([(p * a).sum() for p, a in zip(prediction, adversary, strict=True)]).sum()
    square = torch.stack([a.square().sum() for a in adversary]).sum()
    along = dot / square.clamp_min(torch.finfo(square.dtype).tiny)
    return tuple(p - (along + alpha) * a for p, a in zip(prediction, adversary, strict=True))
