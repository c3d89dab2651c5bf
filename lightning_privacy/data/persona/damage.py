"""How often what goes wrong with a table of people; :mod:`~lightning_privacy.data.persona.damaging` does it.

Example:
    >>> Damage(typing_errors=0.1).typing_errors
    0.1
    >>> Damage.none().wrong_labels
    0.0
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Self

from lightning_privacy.errors import ConfigurationError

__all__ = ["Damage"]


@dataclass(frozen=True, kw_only=True)
class Damage:
    """Rates of what is wrong with a table. Every rate is a share between 0 and 1; shares are reached on average.

    Attributes:
        exact_duplicates: Records that come once more, equal in all but their number; of all records.
        near_duplicates: Records that come once more as somebody else would have entered them: later, with typing
            errors, often under another customer number; of all records. The image is the same.
        typing_errors: Of each of names and email addresses.
        swapped_fields: Records in which given name and surname have changed places.
        inconsistent_codes: Of each of gender, location and time: written in another way.
        missing_at_random: Of each of email, gender, location and time. Email is missing more often for the old.
        missing_not_at_random: Ages; the older the person is, the more often.
        age_outliers: Ages that can't be.
        time_outliers: Times that can't be, though the date exists.
        impossible_dates: Times with a date that doesn't exist.
        wrong_labels: Labels replaced by one of the other nine, all equally likely. Only those of records that are not
            public: who measures how good a model is has looked at the labels twice.

    Raises:
        ConfigurationError: A rate is not a number from 0 to 1.

    Example:
        >>> Damage(wrong_labels=1.5)
        Traceback (most recent call last):
            ...
        lightning_privacy.errors.ConfigurationError: wrong_labels must be a number from 0 to 1, got 1.5
    """

    exact_duplicates: float = 0.03
    near_duplicates: float = 0.06
    typing_errors: float = 0.02
    swapped_fields: float = 0.01
    inconsistent_codes: float = 0.15
    missing_at_random: float = 0.03
    missing_not_at_random: float = 0.06
    age_outliers: float = 0.005
    time_outliers: float = 0.005
    impossible_dates: float = 0.003
    wrong_labels: float = 0.04

    def __post_init__(self) -> None:
        for field in fields(self):
            rate = getattr(self, field.name)
            if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate <= 1:
                raise ConfigurationError(f"{field.name} must be a number from 0 to 1, got {rate!r}")

    @classmethod
    def none(cls) -> Self:
        """No damage at all."""
        return cls(**dict.fromkeys((field.name for field in fields(cls)), 0.0))

    @classmethod
    def of(cls, rates: Mapping[str, float]) -> Self:
        """Damage at these rates, and at the usual ones otherwise.

        Args:
            rates: By name.

        Raises:
            ConfigurationError: There is no such rate, or it is not a number from 0 to 1.
        """
        names = [field.name for field in fields(cls)]
        for name in rates:
            if name not in names:
                raise ConfigurationError(f"damage has no rate {name!r}; there are {', '.join(names)}")
        return cls(**rates)
