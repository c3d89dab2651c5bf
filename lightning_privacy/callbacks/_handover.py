"""Brings what was spent back to the program that started the training processes.

With ``ddp_spawn``, ``ddp_fork`` and ``ddp_notebook`` the processes that train are copies of the program that calls
``fit``, callbacks and all, and end with it. The ledger that the program holds would know of no step. So the first
process sends its state along with Lightning's own results, and unpickling it there is what delivers it.

Example:
    >>> import pickle
    >>> class Account:
    ...     spent = 0
    ...     def receive(self, state):
    ...         self.spent = state["spent"]
    >>> account = Account()
    >>> address = Address(account.receive)
    >>> _ = pickle.loads(pickle.dumps(Parcel(address.number, {"spent": 3})))
    >>> account.spent
    3
"""

from __future__ import annotations

import os
import uuid
import warnings
import weakref
from collections.abc import Callable
from typing import Any

__all__ = ["Address", "Parcel"]

State = dict[str, Any]

_receivers: dict[str, weakref.WeakMethod[Callable[[State], None]]] = {}


class Address:
    """Where a parcel goes to: an object of the process this was made in, as long as it lives.

    A copy of it in another process, pickled or forked, has the same number.

    Args:
        receive: A bound method that takes the state; its object is not kept alive.
    """

    def __init__(self, receive: Callable[[State], None]) -> None:
        self._open(uuid.uuid4().hex, receive)

    def moved(self, receive: Callable[[State], None]) -> None:
        """Become the address of an object that was just unpickled or copied together with this one.

        Args:
            receive: Its method.
        """
        copied = self._process == os.getpid()
        self._open(uuid.uuid4().hex if copied else self.number, receive)

    def _open(self, number: str, receive: Callable[[State], None]) -> None:
        self.number = number
        self._process = os.getpid()
        _receivers[number] = weakref.WeakMethod(receive, lambda _: _receivers.pop(number, None))


class Parcel:
    """A state on its way; it becomes ``None`` where it arrives.

    Args:
        number: Of the address.
        state: Plain Python values.
    """

    def __init__(self, number: str, state: State) -> None:
        self._number = number
        self._state = state

    def __reduce__(self) -> tuple[Callable[[str, State], None], tuple[str, State]]:
        return _deliver, (self._number, self._state)


def _deliver(number: str, state: State) -> None:
    reference = _receivers.get(number)
    receive = None if reference is None else reference()
    if receive is None:
        warnings.warn(
            "a training process sent back what it has spent or counted, and the callback it is for is gone: look the "
            "epsilon up in the last checkpoint",
            UserWarning,
            stacklevel=2,
        )
        return
    receive(state)
