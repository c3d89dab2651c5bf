"""The group of each example of a batch: under a key, at a place, or by a function.

Example:
    >>> import torch
    >>> batch = {"x": torch.zeros(3, 2), "sex": torch.tensor([0, 1, 1])}
    >>> groups_of(batch, "sex")
    tensor([0, 1, 1])
    >>> groups_of(batch, lambda batch: batch["x"][:, 0] > 0)
    tensor([0, 0, 0])
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_privacy.errors import ConfigurationError

__all__ = ["Groups", "column_of", "groups_of"]

Groups = str | int | Callable[[Any], Any]
"""Where in a batch the groups are: a key (or the name of a field of a named tuple), a place, or a function of it."""


def groups_of(batch: Any, groups: Groups, *, num_groups: int | None = None, argument: str = "groups") -> Tensor:
    """Return the group of each example of a batch.

    Args:
        batch: a mapping, a sequence or a named tuple; anything for a function.
        groups: where the groups are.
        num_groups: how many groups there are; a number at or above it is refused. None takes any.
        argument: what the caller's own argument is called, for messages.

    Returns:
        Group numbers from 0, shape ``(B,)``, int64, on the device they were found on.

    Raises:
        ConfigurationError: the groups are not there, are not whole numbers, or one is out of range.

    Example:
        >>> groups_of([torch.zeros(2, 4), torch.tensor([[1], [0]])], 1)
        tensor([1, 0])
    """
    found = column_of(batch, groups, argument=argument)
    where = repr(groups) if isinstance(groups, str | int) else "the function"
    try:
        numbers = found if isinstance(found, Tensor) else torch.as_tensor(found)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigurationError(
            f"{argument}: {where} gave {type(found).__name__}, which is no tensor of numbers: number the groups from 0"
        ) from error
    if numbers.dim() == 2 and numbers.shape[1] == 1:
        numbers = numbers.squeeze(1)
    if numbers.dim() != 1 or numbers.is_floating_point() or numbers.is_complex():
        raise ConfigurationError(
            f"{argument}: {where} gave a tensor of shape {tuple(numbers.shape)} and type {numbers.dtype}; one whole "
            "number per example is needed: number the groups from 0 (for intersections, such as sex * num_races + race)"
        )
    numbers = numbers.long()
    if numbers.numel():
        least, most = (int(bound) for bound in torch.aminmax(numbers))
        if least < 0 or (num_groups is not None and most >= num_groups):
            limit = "from 0" if num_groups is None else f"from 0 to {num_groups - 1}, as num_groups={num_groups}"
            raise ConfigurationError(
                f"{argument}: {where} gave group {least if least < 0 else most}; groups are numbered {limit}. Give a "
                "value that is missing or new a number of its own, or raise num_groups"
            )
    return numbers


def column_of(batch: Any, where: Groups, *, argument: str = "groups") -> Any:
    """Return the part of a batch that a key, a place or a function names.

    Args:
        batch: a mapping, a sequence or a named tuple; anything for a function.
        where: which part.
        argument: what the caller's own argument is called, for messages.

    Returns:
        The part as it is.

    Raises:
        ConfigurationError: there is no such part; the message says what there is.
    """
    if callable(where):
        return where(batch)
    if isinstance(where, str):
        if isinstance(batch, Mapping):
            if where in batch:
                return batch[where]
            there = f"its keys are {', '.join(map(repr, batch))}"
        else:
            fields = getattr(batch, "_fields", ())
            if where in fields:
                return getattr(batch, where)
            there = f"its fields are {', '.join(map(repr, fields))}" if fields else f"it is a {type(batch).__name__}"
        raise ConfigurationError(
            f"{argument}={where!r} is not in the batch; {there}. Give another key, a place (a number), or a function "
            "of the batch"
        )
    if isinstance(where, bool) or not isinstance(where, int):
        raise ConfigurationError(f"{argument} must be a key, a place or a function of the batch, got {where!r}")
    if isinstance(batch, Mapping) and where in batch:
        return batch[where]
    if not isinstance(batch, Sequence) or isinstance(batch, str | bytes):
        raise ConfigurationError(
            f"{argument}={where} is a place in a sequence, but the batch is a {type(batch).__name__}; give a key or a "
            "function of the batch"
        )
    if not -len(batch) <= where < len(batch):
        raise ConfigurationError(
            f"{argument}={where} is not in the batch, which has {len(batch)} parts; have the data set return the group "
            "of each example too, and give its place or its key, not how many groups there are"
        )
    return batch[where]
