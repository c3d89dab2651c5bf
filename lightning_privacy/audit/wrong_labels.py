"""Labels that an example does not have, drawn from what is declared: they depend on no other example.

Example:
    >>> import numpy as np
    >>> generator = np.random.default_rng(0)
    >>> other_class(1, 2, generator), other_class(0, 2, generator)
    (0, 1)
    >>> -1.0 <= label_between(0.25, -1.0, 1.0, generator) <= 1.0
    True
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_privacy.errors import ConfigurationError

__all__ = ["label_between", "other_class"]


def other_class(label: Any, num_classes: int, generator: np.random.Generator) -> Any:
    """One of the other classes, each as likely.

    Args:
        label: A class; classes of any shape, where negative entries are none and stay; or probabilities of shape
            ``(num_classes,)``, which become a probability of 1 for another class than the likeliest.
        num_classes: How many there can be.
        generator: Draws it; as often for every label of the same shape.

    Returns:
        Of the type of ``label``.

    Raises:
        ConfigurationError: The label is no class of these, or its type can't hold all of them.
    """
    values = _numbers(label)
    if values.is_floating_point() and values.shape == (num_classes,):
        drawn = (int(values.argmax()) + int(generator.integers(1, num_classes))) % num_classes
        wrong = torch.zeros_like(values)
        wrong[drawn] = 1.0
        return _of_type(label, wrong)
    largest = _largest_class(values.dtype)
    if num_classes - 1 > largest:
        raise ConfigurationError(
            f"labels of {values.dtype} can't hold the classes 0 to {num_classes - 1} that num_classes={num_classes} "
            f"declares, as the largest is {largest}: give the number of classes there can be, or make the labels "
            "int64 in the data set"
        )
    # Not in the label's own type, in which num_classes may be another number and some types can't be compared.
    wide = values.double() if values.is_floating_point() else values.long()
    classes = wide.long()
    too_small = wide.dim() == 0 and int(classes) < 0
    if too_small or bool((wide >= num_classes).any()) or not torch.equal(classes.to(wide.dtype), wide):
        raise ConfigurationError(
            f"a label is none of the classes 0 to {num_classes - 1} that num_classes={num_classes} declares: give the "
            "number of all classes there can be, or, for labels of real numbers, "
            "canaries=MislabelledCanaries(label_range=(smallest, largest))"
        )
    steps = torch.as_tensor(generator.integers(1, num_classes, size=tuple(values.shape)), device=values.device)
    moved = torch.where(classes < 0, classes, (classes + steps) % num_classes)
    return _of_type(label, moved.to(values.dtype))


def label_between(label: Any, smallest: float, largest: float, generator: np.random.Generator) -> Any:
    """Real numbers between two others, each as likely.

    Args:
        label: A number, or numbers of any shape.
        smallest: From where.
        largest: To where.
        generator: Draws them; as often for every label of the same shape.

    Returns:
        Of the type and shape of ``label``.

    Raises:
        ConfigurationError: The label is no real number.
    """
    values = _numbers(label)
    if not values.is_floating_point():
        raise ConfigurationError(
            f"label_range is for labels of floating-point numbers, got {values.dtype}: for classes give num_classes"
        )
    drawn = torch.as_tensor(generator.uniform(smallest, largest, size=tuple(values.shape)), device=values.device)
    return _of_type(label, drawn.to(values.dtype))


def _largest_class(dtype: torch.dtype) -> int:
    """Up to which number a type holds every class."""
    if dtype == torch.bool:
        return 1
    return int(2 / torch.finfo(dtype).eps) if dtype.is_floating_point else torch.iinfo(dtype).max


def _numbers(label: Any) -> Tensor:
    plain = label
    try:
        if isinstance(label, np.ndarray | np.generic):
            # torch takes no reversed arrays, nor those of another byte order, and warns of those that are read-only.
            plain = np.array(label, dtype=label.dtype.newbyteorder("="), order="C")
        values = torch.as_tensor(plain)
    except (TypeError, ValueError, RuntimeError) as error:
        raise _no_numbers(label) from error
    if values.is_complex():
        raise _no_numbers(label)
    return values


def _no_numbers(label: Any) -> ConfigurationError:
    return ConfigurationError(
        f"no wrong label can be drawn for one of type {type(label).__name__}, which is neither a class number nor "
        "numbers: make it one in the data set, choose canaries='noise', or say where the label is with "
        "MislabelledCanaries(label=...)"
    )


def _of_type(label: Any, values: Tensor) -> Any:
    if isinstance(label, Tensor):
        return values
    if isinstance(label, np.ndarray):
        return values.numpy().astype(label.dtype)
    return type(label)(values.tolist())
