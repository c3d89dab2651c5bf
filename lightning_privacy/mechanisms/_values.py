"""What a mechanism is given to release, as numbers to compute with, and back in the form it came in.

Example:
    >>> numbers, back = float_values(2.5)
    >>> numbers, back(numbers + 1)
    (array([2.5]), 3.5)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_privacy._validate import finite
from lightning_privacy.errors import ConfigurationError

__all__ = ["class_labels", "column_values", "float_values", "public_bounds", "refuse_rounding", "score_rows"]

# Whole numbers up to here are floating-point numbers; beyond, rounding could move two that differ by 1 by hundreds, and
# so pass any sensitivity.
_LARGEST_WHOLE = 2**53

# Widest bounds: steps between them can be multiplied by their number without overflow.
_WIDEST = 1e300


def float_values(value: object) -> tuple[NDArray[np.float64], Callable[[NDArray[np.float64]], Any]]:
    """Return a copy of the numbers, one-dimensional in float64, and what turns such numbers into the form of ``value``.

    Args:
        value: a number, or a floating-point tensor or array of any shape.

    Raises:
        ConfigurationError: it is something else, not all of it is finite, or a number would be rounded.
    """
    back: Callable[[NDArray[np.float64]], Any]
    refuse_rounding("value", value)
    if isinstance(value, Tensor) and value.is_floating_point():
        tensor = value
        numbers = tensor.detach().to("cpu", torch.float64).reshape(-1).numpy().copy()

        def back(result: NDArray[np.float64]) -> Any:
            return torch.from_numpy(result).reshape(tensor.shape).to(tensor.device, tensor.dtype)

    elif isinstance(value, np.ndarray) and np.issubdtype(value.dtype, np.floating):
        array = value
        numbers = array.astype(np.float64).reshape(-1)

        def back(result: NDArray[np.float64]) -> Any:
            return result.reshape(array.shape).astype(array.dtype)

    elif isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool):
        numbers = np.array([float(value)])

        def back(result: NDArray[np.float64]) -> Any:
            return float(result[0])

    else:
        raise ConfigurationError(
            f"value must be a number or a floating-point tensor or array, got {type(value).__name__}; for whole "
            "numbers in a tensor convert it with .double()"
        )
    if not np.isfinite(numbers).all():
        raise ConfigurationError(
            "value must be finite: no noise hides an infinite or missing number; clip or fill the data before"
        )
    return numbers, back


def column_values(values: object, *, exact: bool = False) -> NDArray[np.float64]:
    """Return one number of each record as a one-dimensional array of float64.

    Args:
        values: tensor, array, series or sequence of numbers, shape (N,).
        exact: refuse numbers that would be rounded: where a sensitivity is promised for them as they are.

    Raises:
        ConfigurationError: they have another shape or type, there are none, or not all are finite.
    """
    if exact:
        refuse_rounding("values", values)
    array = np.asarray(values.detach().cpu().numpy() if isinstance(values, Tensor) else values)
    if array.ndim != 1:
        raise ConfigurationError(f"values must be one-dimensional, one for each record, got shape {array.shape}")
    if len(array) == 0:
        raise ConfigurationError("values must not be empty: there is nothing to release a statistic of")
    if array.dtype.kind not in "buif":
        raise ConfigurationError(f"values must be numbers, got {array.dtype}")
    numbers = array.astype(np.float64)
    if not np.isfinite(numbers).all():
        raise ConfigurationError("values must be finite: drop or fill missing and infinite ones before")
    return numbers


def score_rows(scores: object) -> tuple[NDArray[np.float64], bool]:
    """Return scores as rows of candidates in float64, and whether it was one row without a dimension for rows.

    Args:
        scores: tensor, array or sequence of numbers, shape (candidates,) or (rows, candidates).

    Raises:
        ConfigurationError: they have another shape or type, there are none, not all are finite, or one would be
            rounded.
    """
    refuse_rounding("scores", scores)
    if isinstance(scores, Tensor):
        scores = scores.detach().to("cpu", torch.float64).numpy()
    array = np.asarray(scores)
    if array.dtype.kind not in "uif" and array.size:
        raise ConfigurationError(f"scores must be numbers, got {array.dtype}")
    if array.ndim not in (1, 2) or array.size == 0:
        raise ConfigurationError(
            f"scores must be of shape (candidates,) or (rows, candidates) and not empty, got shape {array.shape}"
        )
    numbers = array.astype(np.float64)
    if not np.isfinite(numbers).all():
        raise ConfigurationError("scores must be finite: leave out a candidate that must not be chosen")
    return numbers.reshape(-1, array.shape[-1]), array.ndim == 1


def public_bounds(lower: object, upper: object) -> tuple[float, float]:
    """Return both bounds of a column as numbers, or refuse them."""
    low, high = finite(lower=lower), finite(upper=upper)
    if not 0 < high - low < _WIDEST:
        raise ConfigurationError(
            f"lower must be below upper, got {lower!r} and {upper!r}: bounds are what a value can be, known without "
            "looking at the data, and less than 1e300 apart"
        )
    return low, high


def class_labels(labels: object, num_classes: int) -> NDArray[np.int64]:
    """Return labels as a one-dimensional array of whole numbers.

    Args:
        labels: tensor, array or sequence of whole numbers, shape (N,); booleans too where there are two classes.
        num_classes: they are in [0, num_classes).

    Raises:
        ConfigurationError: they have another shape or type, or one is out of range. The label itself is not shown.
    """
    array = np.asarray(labels.detach().cpu() if isinstance(labels, Tensor) else labels)
    if isinstance(labels, Sequence) and len(labels) == 0:
        array = np.empty(0, np.int64)
    if array.ndim != 1:
        raise ConfigurationError(f"labels must be one-dimensional, one for each example, got shape {array.shape}")
    if not np.issubdtype(array.dtype, np.integer) and not (array.dtype == np.bool_ and num_classes == 2):
        raise ConfigurationError(
            f"labels must be whole numbers, got {array.dtype}: number the classes from 0 to {num_classes - 1}"
        )
    array = array.astype(np.int64)
    if len(array) and not (int(array.min()) >= 0 and int(array.max()) < num_classes):
        raise ConfigurationError(
            f"labels must be whole numbers in [0, {num_classes}), and some are not: num_classes must count all classes "
            "there can be, known without looking at the data"
        )
    return array


def refuse_rounding(argument: str, values: object) -> None:
    """Refuse numbers that float64 does not have.

    Args:
        argument: what they were passed as, for the message.
        values: a number, array, tensor, or nested lists of numbers; what is none of these is left to others.

    Raises:
        ConfigurationError: a whole number is beyond 2**53, or a floating-point number has more than 64 bits.
    """
    if isinstance(values, list | tuple):  # in an array a number with a fraction would make all of them float64
        for value in values:
            refuse_rounding(argument, value)
        return
    if isinstance(values, bool) or (isinstance(values, Tensor) and values.is_floating_point()):
        return
    if isinstance(values, int):
        largest = abs(values)
    else:
        array = np.asarray(values.detach().cpu().numpy() if isinstance(values, Tensor) else values)
        if array.dtype.kind == "f" and array.dtype.itemsize > np.dtype(np.float64).itemsize:
            raise ConfigurationError(f"{argument} must have numbers of at most 64 bits, got {array.dtype}: round them")
        if array.dtype.kind not in "iu" or not array.size:
            return
        largest = max(int(array.max()), -int(array.min()))
    if largest > _LARGEST_WHOLE:
        raise ConfigurationError(
            f"{argument} must be whole numbers of at most 2**53 in size, up to which floating-point numbers are exact, "
            "and some are larger: subtract a public constant, or take a larger unit, for sensitivity too"
        )
