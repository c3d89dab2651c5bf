"""What objects keep beside their tensors: numbers, texts, tensors and containers of them in ordinary attributes.

Example:
    >>> class Counter:
    ...     seen, names = 0, []
    >>> counter = Counter()
    >>> counter.seen, counter.names = 1, ["a"]
    >>> state = PlainState([counter])
    >>> counter.seen, counter.extra = 5, 2.0
    >>> counter.names.append("b")
    >>> state.restore()
    >>> counter.seen, counter.names, hasattr(counter, "extra")
    (1, ['a'], False)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable
from typing import Any

from torch import Tensor

__all__ = ["PlainState"]

_SIMPLE = (bool, int, float, complex, str, bytes, type(None))
_CONTAINERS = (list, tuple, set, frozenset, deque)
_MISSING = object()


class PlainState:
    """A copy of the plain attributes of some objects. What is neither simple nor a container of simple things is left.

    Args:
        owners: Objects with a ``__dict__``.
        leave: Names of attributes that are not looked at.
    """

    def __init__(self, owners: Iterable[Any], leave: Collection[str] = ()) -> None:
        self._leave = frozenset(leave)
        self._kept = [(owner, frozenset(vars(owner)), self._plain(owner)) for owner in owners]

    def _plain(self, owner: Any) -> dict[str, Any]:
        copies = {name: _copied(value) for name, value in vars(owner).items() if name not in self._leave}
        return {name: value for name, value in copies.items() if value is not _MISSING}

    def restore(self) -> None:
        """Set the attributes to what they were, and take away plain ones that were added."""
        for owner, present, kept in self._kept:
            added = [
                name
                for name, value in vars(owner).items()
                if name not in present and name not in self._leave and _copied(value) is not _MISSING
            ]
            for name in added:
                del vars(owner)[name]
            vars(owner).update({name: _copied(value) for name, value in kept.items()})


def _copied(value: Any) -> Any:
    """A copy of a plain value; ``_MISSING`` where it is not one."""
    if isinstance(value, Tensor):
        return value.detach().clone() if type(value) is Tensor else _MISSING
    if type(value) in _SIMPLE:
        return value
    if type(value) is dict:
        copies = {key: _copied(entry) for key, entry in value.items()}
        return _MISSING if any(entry is _MISSING for entry in copies.values()) else copies
    if type(value) in _CONTAINERS:
        parts = [_copied(entry) for entry in value]
        return _MISSING if any(part is _MISSING for part in parts) else type(value)(parts)
    return _MISSING
