"""Gradient inversion: what a client's update gives away of the examples it was trained on.

Whoever sees what a client sends in a round of federated training can look for inputs on which local training would have
changed the weights in the same way (Zhu, Liu and Han, "Deep Leakage from Gradients", NeurIPS 2019). The mismatch is the
angle between the two changes, as in Geiping et al., "Inverting Gradients: How Easy Is It to Break Privacy in Federated
Learning?", NeurIPS 2020, with their penalty on the total variation of images; several local steps are gone through one
by one with the graph kept. Labels are found first, where the network ends in a dense layer with a bias: the gradient of
that bias is negative only for classes that are there (Zhao, Mopuri and Bilen, "iDLG", 2020).

The attacker knows the network, the weights before the round, the learning rate and how many examples there are.

Example:
    >>> import torch
    >>> from torch import nn
    >>> _ = torch.manual_seed(0)
    >>> network, secret = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)), torch.randn(1, 6)
    >>> loss = nn.functional.cross_entropy(network(secret), torch.tensor([2]))
    >>> delta = torch.cat([-0.1 * g.flatten() for g in torch.autograd.grad(loss, network.parameters())])
    >>> found = invert_update(network, delta, learning_rate=0.1, input_shape=(6,), seed=0)
    >>> found.labels.tolist(), bool((found.inputs - secret).abs().max() < 0.05)
    ([2], True)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lightning_privacy._validate import non_negative, positive, positive_int
from lightning_privacy.errors import ConfigurationError

__all__ = ["Inversion", "Likeness", "infer_labels", "invert_dense_layer", "invert_update", "likeness"]

_LEAST_NORM = 1e-20
_DECAYS_AT = (0.375, 0.625, 0.875)
_DECAY = 0.1


@dataclass(frozen=True)
class Inversion:
    """What an attacker reconstructed.

    Attributes:
        inputs: Shape ``(B, *input_shape)``.
        labels: The labels they were sought for, shape ``(B,)``.
        mismatch: 1 less the cosine of the update that these inputs cause and the one that was seen: from 0 to 2.
    """

    inputs: Tensor
    labels: Tensor
    mismatch: float


@dataclass(frozen=True)
class Likeness:
    """How like its original a reconstruction is.

    Attributes:
        psnr: Peak signal-to-noise ratio in decibels: above 20 an image is recognised, below 10 hardly.
        correlation: Of the pixels with the original's, from -1 to 1.
        rank: How many images of a gallery correlate better with the reconstruction than its original does; 0 when the
            attacker would pick the right one.
    """

    psnr: float
    correlation: float
    rank: int


def infer_labels(bias_update: Tensor, num_examples: int, *, scale: float = 1.0) -> Tensor:
    """Labels of a client's examples, from what its training did to the last layer's bias.

    Of cross-entropy's mean the gradient for class c is the mean confidence in c less the share of examples of class c.
    The largest entry is the next label, and its share is taken off. With one example it is surely right; with several,
    the confidences are taken for equal, as they are before training.

    Args:
        bias_update: The gradient with its sign turned, or a delta of one step or few, shape ``(C,)``.
        num_examples: How many labels to find.
        scale: How much of the gradient the update has: the learning rate times the steps. With one example any will do.

    Returns:
        Shape ``(num_examples,)``, sorted.

    Example:
        >>> infer_labels(torch.tensor([-0.2, 0.9, -0.7]), 1)
        tensor([1])
    """
    share = positive(scale=scale) / positive_int(num_examples=num_examples)
    left, labels = bias_update.clone(), []
    for _ in range(num_examples):
        label = int(left.argmax())
        labels.append(label)
        left[label] -= share
    return torch.tensor(sorted(labels), device=bias_update.device)


def invert_dense_layer(weight_update: Tensor, bias_update: Tensor) -> Tensor:
    """The input of a network whose first layer is dense with a bias, from the update of that layer by one example.

    Each row of the weight's gradient is the input times the same row of the bias's (Phong et al., "Privacy-Preserving
    Deep Learning via Additively Homomorphic Encryption", 2018). The rows are combined so that noise, equal in all
    entries, disturbs least.

    Args:
        weight_update: Shape ``(out, in)``.
        bias_update: Shape ``(out,)``.

    Returns:
        Shape ``(in,)``; zeros where nothing can be told.

    Example:
        >>> invert_dense_layer(torch.tensor([[2.0, 4.0], [1.0, 2.0]]), torch.tensor([2.0, 1.0]))
        tensor([1., 2.])
    """
    strength = bias_update.square().sum()
    if strength <= _LEAST_NORM:
        return torch.zeros_like(weight_update[0])
    return bias_update @ weight_update / strength


def invert_update(
    model: nn.Module,
    update: Tensor,
    *,
    learning_rate: float,
    input_shape: Sequence[int],
    num_examples: int = 1,
    local_steps: int = 1,
    labels: Tensor | None = None,
    bounds: tuple[float, float] | None = None,
    total_variation: float = 0.0,
    iterations: int = 400,
    step_size: float = 0.1,
    restarts: int = 1,
    loss: Callable[[Tensor, Tensor], Tensor] = nn.functional.cross_entropy,
    seed: int | None = None,
) -> Inversion:
    """Reconstruct the examples behind a client's update.

    The client is taken to have done ``local_steps`` steps of SGD on all of its examples at once. The search is by Adam
    on the signs of the gradients.

    Args:
        model: The network with the weights before the round; left as it is, and run in its present mode.
        update: What the client sent: weights after less weights before, in the order of ``model.parameters()`` that are
            trained, in one vector; what follows them (buffers) is not looked at.
        learning_rate: The client's; with one step any will do.
        input_shape: Of one example.
        num_examples: How many examples to look for.
        local_steps: SGD steps of the client.
        labels: Where the attacker knows them, shape ``(num_examples,)``; None infers them from the last parameter.
        bounds: Least and largest value of an input; None for no bounds.
        total_variation: Weight of the penalty on differences of neighbouring pixels; for inputs with two dimensions
            at their end.
        iterations: Steps of the search.
        step_size: How far an input moves in the first of them, in the units of the inputs.
        restarts: Searches from other random inputs; the one with the least mismatch is returned.
        loss: Maps outputs and labels to the mean loss.
        seed: Of the inputs the search starts from; None draws them anew.

    Raises:
        ConfigurationError: A number is out of range, or the update doesn't fit the network.
    """
    positive(learning_rate=learning_rate)
    non_negative(total_variation=total_variation)
    positive(step_size=step_size)
    for name, value in (("local_steps", local_steps), ("iterations", iterations), ("restarts", restarts)):
        positive_int(**{name: value})
    weights = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    size = sum(p.numel() for p in weights.values())
    if update.dim() != 1 or update.numel() < size or not size:
        raise ConfigurationError(
            f"update must be a vector of at least {size} numbers, one for each that the model trains, got shape "
            f"{tuple(update.shape)}"
        )
    if total_variation and len(input_shape) < 2:
        raise ConfigurationError(f"total_variation is for images, got input_shape={tuple(input_shape)}")
    first = next(iter(weights.values()))
    seen = update[:size].detach().to(first)
    if labels is None:
        last = list(weights.values())[-1]
        if last.dim() != 1:
            raise ConfigurationError(
                "labels must be given: they can only be inferred where the last trained parameter is a bias, and here "
                f"it is of shape {tuple(last.shape)}"
            )
        labels = infer_labels(seen[-last.numel() :], num_examples, scale=learning_rate * local_steps)
    if labels.shape != (positive_int(num_examples=num_examples),):
        raise ConfigurationError(f"labels must be {num_examples} numbers, got shape {tuple(labels.shape)}")
    generator = torch.Generator().manual_seed(torch.seed() if seed is None else seed)
    client = _Client(model, weights, labels.to(first.device), loss, float(learning_rate), local_steps)
    starts = [torch.randn((num_examples, *input_shape), generator=generator).to(first) for _ in range(restarts)]
    found = [
        _search(client, seen, start, bounds, float(total_variation), iterations, float(step_size)) for start in starts
    ]
    return min(found, key=lambda inversion: inversion.mismatch)


class _Client:
    """Local training as a function of the inputs, with its graph kept."""

    def __init__(
        self,
        model: nn.Module,
        weights: dict[str, Tensor],
        labels: Tensor,
        loss: Callable[[Tensor, Tensor], Tensor],
        learning_rate: float,
        steps: int,
    ) -> None:
        self.model, self.weights, self.labels = model, weights, labels
        self.loss, self.learning_rate, self.steps = loss, learning_rate, steps

    def update(self, inputs: Tensor) -> Tensor:
        """The update these inputs would cause, shape ``(P,)``."""
        present = {name: p.clone().requires_grad_() for name, p in self.weights.items()}
        for _ in range(self.steps):
            value = self.loss(functional_call(self.model, present, (inputs,)), self.labels)
            gradients = torch.autograd.grad(value, list(present.values()), create_graph=True)
            present = {
                name: p - self.learning_rate * gradient
                for (name, p), gradient in zip(present.items(), gradients, strict=True)
            }
        return torch.cat([(present[name] - p).flatten() for name, p in self.weights.items()])


def _search(
    client: _Client,
    seen: Tensor,
    start: Tensor,
    bounds: tuple[float, float] | None,
    total_variation: float,
    iterations: int,
    step_size: float,
) -> Inversion:
    inputs = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([inputs], lr=step_size)
    milestones = [math.ceil(share * iterations) for share in _DECAYS_AT]
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, gamma=_DECAY)
    kept, least, least_mismatch = start, math.inf, math.inf
    for _ in range(iterations):
        mismatch = _mismatch(client.update(inputs), seen)
        objective = mismatch + total_variation * _variation(inputs) if total_variation else mismatch
        if float(objective.detach()) < least:
            kept, least = inputs.detach().clone(), float(objective.detach())
            least_mismatch = float(mismatch.detach())
        (gradient,) = torch.autograd.grad(objective, inputs)
        inputs.grad = gradient.sign()
        optimizer.step()
        schedule.step()
        if bounds is not None:
            with torch.no_grad():
                inputs.clamp_(*bounds)
    return Inversion(kept, client.labels, least_mismatch)


def _mismatch(update: Tensor, seen: Tensor) -> Tensor:
    cosine: Tensor = torch.dot(update, seen) / (update.norm() * seen.norm()).clamp(min=_LEAST_NORM)
    return 1 - cosine


def _variation(inputs: Tensor) -> Tensor:
    across: Tensor = inputs.diff(dim=-1).abs().mean()
    down: Tensor = inputs.diff(dim=-2).abs().mean()
    return across + down


def likeness(
    found: Tensor, original: Tensor, gallery: Tensor | None = None, *, bounds: tuple[float, float] = (-1.0, 1.0)
) -> Likeness:
    """Compare a reconstruction with its original.

    Args:
        found: One reconstructed input, any shape.
        original: Of the same shape.
        gallery: Other inputs it could have been, shape ``(G, *shape)``; the original may be among them.
        bounds: Least and largest value of an input, between which the peak of the PSNR is.

    Raises:
        ConfigurationError: Shapes differ.

    Example:
        >>> likeness(torch.tensor([1.0, -1.0]), torch.tensor([0.8, -0.8]), torch.tensor([[-1.0, 1.0]])).rank
        0
    """
    if found.shape != original.shape or (gallery is not None and gallery.shape[1:] != found.shape):
        raise ConfigurationError(
            f"found, original and each of gallery must be of one shape, got {tuple(found.shape)} and "
            f"{tuple(original.shape)}"
        )
    error = float((found.double() - original.double()).square().mean())
    peak = bounds[1] - bounds[0]
    psnr = math.inf if error == 0 else 10 * math.log10(peak**2 / error)
    own = _correlations(found, original[None])[0]
    rank = 0 if gallery is None else int((_correlations(found, gallery) > own + 1e-9).sum())
    return Likeness(psnr, float(own), rank)


def _correlations(found: Tensor, others: Tensor) -> Tensor:
    first = found.double().flatten() - found.double().mean()
    second = others.double().flatten(1)
    second = second - second.mean(dim=1, keepdim=True)
    found_alike: Tensor = second @ first / (first.norm() * second.norm(dim=1)).clamp(min=_LEAST_NORM)
    return found_alike
