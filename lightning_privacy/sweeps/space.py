"""What a search chooses from: the overrides of a command line of which some have several values.

Hydra's grammar: ``a=1,2`` and ``a=choice(1,2)`` and ``a=range(1,5)`` are lists, ``a=interval(0.1,1)`` is all numbers
between, ``a=tag(log,interval(0.001,1))`` the same by orders of magnitude, ``a=int(interval(1,9))`` whole numbers.

Example:
    >>> fixed, choices = parse_space(["seed=1", "model.optimizer.lr=tag(log, interval(0.01, 1))", "data=digits,mnist"])
    >>> fixed, choices["data"], choices["model.optimizer.lr"].log
    (['seed=1'], OneOf(values=('digits', 'mnist')), True)
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Quote, QuotedString

from lightning_privacy.errors import ConfigurationError

__all__ = ["Between", "OneOf", "parse_space", "quoted"]


@dataclass(frozen=True)
class OneOf:
    """A list.

    Args:
        values: As they stand in an override.
    """

    values: tuple[str, ...]

    def draw(self, source: random.Random) -> str:
        """One of them, each as likely as another."""
        return source.choice(self.values)


@dataclass(frozen=True)
class Between:
    """Numbers from ``low`` to ``high``.

    Args:
        low: The least.
        high: The greatest.
        log: Whether orders of magnitude are as likely as each other, and not numbers.
        whole: Whether they are whole numbers.
    """

    low: float
    high: float
    log: bool = False
    whole: bool = False

    def draw(self, source: random.Random) -> str:
        """One of them."""
        if self.whole and not self.log:
            return str(source.randint(int(self.low), int(self.high)))
        if not self.log:
            return repr(source.uniform(self.low, self.high))
        value = math.exp(source.uniform(math.log(self.low), math.log(self.high)))
        return str(round(value)) if self.whole else repr(value)


def parse_space(arguments: Sequence[str]) -> tuple[list[str], dict[str, OneOf | Between]]:
    """Sort the overrides of a command line.

    Args:
        arguments: As they were typed.

    Returns:
        Those with one value, and by key what is chosen from.

    Raises:
        ConfigurationError: An interval is empty, or logarithmic and not above 0.
        HydraException: An override can't be read.
    """
    fixed: list[str] = []
    choices: dict[str, OneOf | Between] = {}
    for override in OverridesParser.create().parse_overrides(list(arguments)):
        key = override.get_key_element()
        if not override.is_sweep_override():
            fixed.append(f"{key}={override.get_value_element_as_str()}" if not override.is_delete() else key)
        elif override.is_interval_sweep():
            interval = override.value()
            if not isinstance(interval, IntervalSweep):
                raise ConfigurationError(f"{override.input_line} is no interval")
            choices[key] = _between(interval, str(override.input_line))
        else:
            choices[key] = OneOf(tuple(override.sweep_string_iterator()))
    return fixed, choices


def _between(interval: IntervalSweep, text: str) -> Between:
    low, high, log = interval.start, interval.end, "log" in interval.tags
    if low is None or high is None or not low < high or (log and low <= 0):
        raise ConfigurationError(
            f"{text}: an interval goes from a smaller to a larger number, and from above 0 with tag(log, ...)"
        )
    whole = isinstance(low, int) and isinstance(high, int)
    return Between(float(low), float(high), log=log, whole=whole)


def quoted(text: str) -> str:
    """A text as a value of an override, whatever is in it.

    Example:
        >>> quoted("a, b")
        "'a, b'"
    """
    return QuotedString(text=text, quote=Quote.single).with_quotes()
