"""Contenders that take rounds in turn, each in a thread of its own of which one runs at a time.

What slows the machine down for a second then slows all of them, and not the one whose rounds came just then.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

__all__ = ["Clock", "Clocks", "take_turns"]

Clocks = list[tuple[float, float]]
"""Of each round, seconds on the clock and of the processor."""


class Clock:
    """Times the rounds of one contender; it has the machine from one :meth:`start` to the next.

    Args:
        turns: Shared by those that take turns; None for one that runs alone.
    """

    def __init__(self, turns: _Turns | None = None) -> None:
        self.found: Clocks = []
        self._turns = turns
        self._last = (0.0, 0.0)

    def start(self) -> None:
        """Let the others have their rounds, and begin one."""
        if self._turns is not None:
            self._turns.wait()
        self._last = (time.perf_counter(), time.process_time())

    def stop(self) -> None:
        """The round is over."""
        now = (time.perf_counter(), time.process_time())
        self.found.append((now[0] - self._last[0], now[1] - self._last[1]))
        self._last = now


class _Turns:
    """Whose turn it is among threads; nobody's, before all have come to their first round.

    Args:
        number: Of threads.
    """

    def __init__(self, number: int) -> None:
        self._change = threading.Condition()
        self._missing = number
        self._order: list[int] = []

    def wait(self) -> None:
        """Give up the turn, if it is this thread's, and wait for the next one."""
        me = threading.get_ident()
        with self._change:
            if me not in self._order:
                self._missing -= 1
            else:
                self._order.remove(me)
            self._order.append(me)
            self._change.notify_all()
            self._change.wait_for(lambda: self._missing == 0 and self._order[0] == me)

    def leave(self) -> None:
        """No more rounds."""
        me = threading.get_ident()
        with self._change:
            if me in self._order:
                self._order.remove(me)
            else:
                self._missing -= 1
            self._change.notify_all()


def take_turns(contenders: Mapping[str, Callable[[Clock], None]]) -> tuple[dict[str, Clocks], dict[str, ImportError]]:
    """Run contenders, a round of each at a time.

    Args:
        contenders: By name, what calls ``start`` before and ``stop`` after each of its rounds.

    Returns:
        The rounds of each, and what is not installed of others.

    Raises:
        Exception: What a contender raised.
    """
    turns = _Turns(len(contenders))
    clocks = {name: Clock(turns) for name in contenders}
    errors: dict[str, Exception] = {}

    def run(name: str) -> None:
        try:
            contenders[name](clocks[name])
        except Exception as error:  # noqa: BLE001 - raised again below, in the thread that asked
            errors[name] = error
        finally:
            turns.leave()

    threads = [threading.Thread(target=run, args=(name,)) for name in contenders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    absent = {name: error for name, error in errors.items() if isinstance(error, ImportError)}
    for name, error in errors.items():
        if name not in absent:
            raise error
    return {name: clock.found for name, clock in clocks.items() if name not in absent}, absent
