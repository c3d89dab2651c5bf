"""What objects keep beside their tensors: numbers, texts, arrays and containers of them in ordinary attributes.

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

from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterable
from enum import Enum
from functools import partial
from numbers import Number
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["PlainState"]

# Whatever is derived from them, too: numpy's float64 is a float. Only a numpy record can be written to.
_SIMPLE = (Number, str, bytes, type(None), Enum, np.generic, torch.dtype, torch.device, torch.Size)
_IN_PLACE = (dict, list, set, deque, bytearray, np.ndarray)


class PlainState:
    """A copy of the plain attributes of some objects. What is neither simple nor a container is left.

    Containers and arrays are filled again in place: they stay the objects they are, of their own kind (``OrderedDict``,
    ``defaultdict``, a ``deque`` with its length). What is not plain inside a container is put back into it, and not
    looked into.

    Args:
        owners: Objects with a ``__dict__``.
        leave: Names of attributes that are not looked at.
    """

    def __init__(self, owners: Iterable[Any], leave: Collection[str] = ()) -> None:
        self._leave = frozenset(leave)
        self._containers = _Containers()
        self._kept: list[tuple[Any, _Entries, dict[str, Any]]] = []
        for owner in owners:
            seen = {name: value for name, value in vars(owner).items() if name not in self._leave}
            plain = {name: self._containers.keep(value) for name, value in seen.items() if _is_plain(value)}
            other = {name: value for name, value in seen.items() if name not in plain}
            self._kept.append((owner, _Entries(plain), other))

    def restore(self) -> None:
        """Set the attributes to what they were, and take away plain ones that were added."""
        self._containers.fill()
        for owner, plain, other in self._kept:
            now = vars(owner)
            added = now.keys() - plain.values.keys() - self._leave
            for name in [name for name in added if _is_plain(now[name])]:
                if name in other:  # an object was there, which is left, and is no more
                    now[name] = other[name]
                else:
                    del now[name]
            now.update(plain.now())


class _Fresh:
    """Something that is made anew whenever it is put back."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self.make = make


class _Entries:
    """What is in a container or an object, by key."""

    def __init__(self, values: dict[Any, Any]) -> None:
        self.values = values
        self._fresh = [key for key, value in values.items() if type(value) is _Fresh]

    def now(self) -> dict[Any, Any]:
        """To be put back; not to be written to."""
        if not self._fresh:
            return self.values
        return self.values | {key: self.values[key].make() for key in self._fresh}


class _Containers:
    """The containers that were met, once each: several attributes may share one, and one may hold itself."""

    def __init__(self) -> None:
        self._met: dict[int, Any] = {}
        self._fills: list[Callable[[], None]] = []

    def fill(self) -> None:
        """Put into each what was in it."""
        for fill in self._fills:
            fill()

    def keep(self, value: Any) -> Any:
        """The value to be put back, or a :class:`_Fresh`."""
        if type(value) is Tensor:
            return _Fresh(value.detach().clone().clone)
        if isinstance(value, np.void):
            return _Fresh(value.copy().copy)
        if not _is_plain(value) or _is_simple(value) or id(value) in self._met:
            return value
        self._met[id(value)] = value
        if isinstance(value, tuple | frozenset):
            return self._keep_fixed(value)
        self._fills.append(self._filling(value))
        if hasattr(value, "__dict__"):
            self.keep(vars(value))
        return value

    def _keep_fixed(self, value: Any) -> Any:
        parts = _Entries(dict(enumerate(map(self.keep, value))))
        if parts.now() is parts.values:
            return value
        base = tuple if isinstance(value, tuple) else frozenset
        return _Fresh(lambda: base.__new__(type(value), parts.now().values()))

    def _filling(self, value: Any) -> Callable[[], None]:
        """What puts the present contents back; past what a class of the user's does on writing."""
        if isinstance(value, np.ndarray):
            return self._filling_array(value)
        if isinstance(value, bytearray):
            return partial(value.__setitem__, slice(None), bytes(value))
        if isinstance(value, dict):
            base = OrderedDict if isinstance(value, OrderedDict) else dict
            entries = _Entries({key: self.keep(entry) for key, entry in value.items()})

            def fill() -> None:
                base.clear(value)
                for key, entry in entries.now().items():
                    base.__setitem__(value, key, entry)

            return fill
        parts = _Entries(dict(enumerate(map(self.keep, value))))
        kind: Any = next(each for each in (list, set, deque) if isinstance(value, each))
        add = kind.update if kind is set else kind.extend

        def refill() -> None:
            kind.clear(value)
            add(value, parts.now().values())

        return refill

    def _filling_array(self, value: Any) -> Callable[[], None]:
        copy = value.copy()
        entries = _Entries(dict(enumerate(map(self.keep, value.flat))) if value.dtype == object else {})

        def fill() -> None:
            if value.shape != copy.shape:
                value.resize(copy.shape, refcheck=False)
            np.copyto(value, copy)
            for place, entry in entries.now().items():
                value.flat[place] = entry

        return fill


def _is_simple(value: Any) -> bool:
    return isinstance(value, _SIMPLE) and not isinstance(value, np.void)


def _is_plain(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        # A file is none, and what can't be written to needs nobody to put it back.
        return value.flags.writeable and not isinstance(value, np.memmap)
    return type(value) is Tensor or isinstance(value, (*_SIMPLE, *_IN_PLACE, tuple, frozenset))
