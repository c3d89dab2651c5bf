"""Where an example has its input and its label, and how to put something else there.

Example:
    >>> example = {"image": [0.5], "label": 3}
    >>> key = labels_key(example)
    >>> key, field_of(example, key), with_field(example, key, 7)
    ('label', 3, {'image': [0.5], 'label': 7})
    >>> labels_key(([0.5], 3))
    1
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from lightning_privacy.errors import ConfigurationError

__all__ = ["field_of", "inputs_key", "labels_key", "with_field"]

_INPUTS = ("inputs", "input", "images", "image", "features", "tokens", "input_ids", "x")
_LABELS = ("labels", "label", "targets", "target", "y")


def inputs_key(example: Any, given: int | str | None = None) -> int | str:
    """Where the input is: a position or a name.

    Args:
        example: As the data set gives it.
        given: Where the user says that it is.

    Raises:
        ConfigurationError: It is not there, or at none of the usual places.
    """
    return _key(example, given, _INPUTS, 0, "inputs")


def labels_key(example: Any, given: int | str | None = None) -> int | str:
    """Where the label is: a position or a name.

    Args:
        example: As the data set gives it.
        given: Where the user says that it is.

    Raises:
        ConfigurationError: It is not there, or at none of the usual places.
    """
    return _key(example, given, _LABELS, 1, "label")


def field_of(example: Any, key: int | str) -> Any:
    """What is there."""
    if isinstance(example, Mapping) or _is_sequence(example):
        return example[key] if isinstance(example, Mapping) or isinstance(key, int) else getattr(example, key)
    return getattr(example, str(key))


def with_field(example: Any, key: int | str, value: Any) -> Any:
    """A copy of the example with something else there, of the type of what was there."""
    value = _like(field_of(example, key), value)
    if isinstance(example, Mapping):
        changed = dict(example)
        changed[key] = value
        return changed if type(example) is dict else type(example)(changed)  # type: ignore[call-arg] # a dict's own
    if isinstance(example, tuple) and hasattr(example, "_fields"):
        name = example._fields[key] if isinstance(key, int) else key
        replaced: Any = example._replace(**{name: value})  # type: ignore[attr-defined] # a named tuple has it
        return replaced
    if _is_sequence(example):
        items = list(example)
        items[int(key)] = value
        return tuple(items) if isinstance(example, tuple) else items
    if dataclasses.is_dataclass(example) and not isinstance(example, type):
        return dataclasses.replace(example, **{str(key): value})
    changed = copy.copy(example)
    setattr(changed, str(key), value)
    return changed


def _key(example: Any, given: int | str | None, names: tuple[str, ...], place: int, argument: str) -> int | str:
    if given is not None:
        if not _has(example, given):
            raise ConfigurationError(f"{argument}={given!r} is not to be found in an example of type {_kind(example)}")
        return given
    if _is_sequence(example) and len(example) > place:
        return place
    for name in names:
        if _has(example, name):
            return name
    raise ConfigurationError(
        f"an example of type {_kind(example)} has nothing at the usual places ({', '.join(names)}, or place {place} of "
        f"a tuple): give a maker of canaries that is told where, such as canaries=MislabelledCanaries(num_classes=..., "
        f"{argument}=...) of lightning_privacy.audit"
    )


def _has(example: Any, key: int | str) -> bool:
    if isinstance(example, Mapping):
        return key in example
    if isinstance(key, int):
        return _is_sequence(example) and -len(example) <= key < len(example)
    value = getattr(example, key, None)
    return value is not None and not callable(value)


def _is_sequence(example: Any) -> bool:
    return isinstance(example, Sequence) and not isinstance(example, str | bytes)


def _like(before: Any, value: Any) -> Any:
    """The value as what was there: a number stays a number, a tensor a tensor."""
    if isinstance(before, Tensor) or not isinstance(value, Tensor):
        return value
    return value.item() if value.dim() == 0 else value


def _kind(example: Any) -> str:
    keys = f" with the keys {', '.join(map(repr, example))}" if isinstance(example, Mapping) else ""
    return f"{type(example).__name__}{keys}"
