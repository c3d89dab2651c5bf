"""Training on randomised labels as if they were true: the forward correction of the loss.

A network that learns from labels of which many are random learns to be unsure. Patrini et al., "Making Deep Neural
Networks Robust to Label Noise: a Loss Correction Approach", 2017, section 4.2, put the known noise behind the network:
the loss compares the noisy label with the network's probabilities *after* the noise, ``T' softmax(logits)``. By their
Theorem 2 the network that minimises this on noisy labels is the one that would minimise the loss on true ones.

For randomised response T has one number on its diagonal and another everywhere else, so no matrix is needed: class j
comes out with probability ``gain * p_j + wrong``. It is post-processing of the labels, and costs no privacy.

**One line.** Put it behind the network of any classifier that is trained with cross-entropy, and change nothing else::

    model = Classifier(nn.Sequential(network, ForwardCorrection(num_classes=10, epsilon=2.0)), ...)

or, in a ``training_step`` of your own, ``F.cross_entropy(correction(logits), labels)``. In ``eval()`` it does nothing,
so validation and prediction see the network's own logits, which are for true labels.

Example:
    >>> correction = ForwardCorrection(num_classes=3, epsilon=1.0)
    >>> sure = torch.tensor([[20.0, 0.0, 0.0]])
    >>> correction(sure).exp().round(decimals=3)  # a label it is sure of is still answered at random sometimes
    tensor([[0.5760, 0.2120, 0.2120]])
    >>> correction.eval()(sure) is sure
    True
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_privacy.accounting import RandomizedResponseRelease
from lightning_privacy.errors import ConfigurationError

__all__ = ["ForwardCorrection"]


class ForwardCorrection(nn.Module):
    """Turns logits for true labels into log-probabilities of labels after randomised response, in training.

    Log-probabilities are logits too: a softmax leaves them as they are, so cross-entropy takes them as it takes others.

    Args:
        num_classes: as the labels were randomised, at least 2.
        epsilon: as the labels were randomised, > 0.

    Shape:
        Input and output ``(batch, num_classes, ...)`` or ``(num_classes,)``, as for cross-entropy.

    Raises:
        ConfigurationError: a number is out of its range, or logits are not of ``num_classes`` classes.
    """

    def __init__(self, num_classes: int, epsilon: float) -> None:
        super().__init__()
        release = RandomizedResponseRelease(epsilon, num_classes)
        self.num_classes, self.epsilon = release.num_classes, release.epsilon
        self._log_gain = math.log(release.truth_gain)
        wrong = release.noise_parameter / release.num_classes
        # Noise too rare for floating point has a logarithm all the same, and a mistake a finite loss.
        self._log_wrong = math.log(wrong) if wrong > 0 else -release.epsilon

    @override
    def forward(self, logits: Tensor) -> Tensor:
        """Return log-probabilities of the noisy labels in training, the logits themselves otherwise."""
        classes = min(1, logits.ndim - 1)
        if logits.ndim == 0 or logits.shape[classes] != self.num_classes:
            raise ConfigurationError(
                f"logits must be of shape (batch, {self.num_classes}, ...), got {tuple(logits.shape)}: num_classes is "
                "the number the labels were randomised with"
            )
        if not self.training:
            return logits
        # In float32 at least: half precision would round the small probability of a wrong answer away.
        precise = logits if logits.dtype in (torch.float32, torch.float64) else logits.float()
        clean = torch.log_softmax(precise, dim=classes) + self._log_gain
        return torch.logaddexp(clean, torch.full_like(clean, self._log_wrong))

    @override
    def extra_repr(self) -> str:
        return f"num_classes={self.num_classes}, epsilon={self.epsilon:g}"
