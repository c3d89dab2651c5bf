"""How the columns of invented people hang together: age with country and gender, time with age, class with town.

Each is a draw given what is drawn already, in the order of a life: where somebody lives, who they are, how old, when
they come, what their image shows.

Example:
    >>> import numpy as np
    >>> generator = np.random.default_rng(0)
    >>> young, old = np.full(1000, 20), np.full(1000, 80)
    >>> hours = [(draw_minutes(age, generator) // 60 % 24).mean() for age in (young, old)]
    >>> bool(hours[0] > hours[1] + 5)
    True
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lightning_privacy.data.persona.columns import AGE_RANGE, FIRST_TIME, LAST_TIME, NUM_CLASSES
from lightning_privacy.data.persona.places import PLACES

__all__ = ["class_probabilities", "draw_ages", "draw_classes", "draw_genders", "draw_minutes", "draw_places"]

_GENDER_SHARES = (0.50, 0.48, 0.02)
# Younger and older people; their mix differs between countries, and women live longer.
_YOUNG, _OLD = (34.0, 11.0), (62.0, 13.0)  # mean and standard deviation in years
_SHARE_OF_OLD = (0.45, 0.55, 0.40, 0.60, 0.35, 0.50)
_OLDER_WOMEN = 0.06
# Hours people come at: late when young, in the morning when old.
_HOUR_AT_YOUNGEST, _HOUR_AT_OLDEST, _HOURS_SPREAD = 19.5, 9.5, 2.2
_OPEN = (6.0, 23.5)
# Who works comes at the weekend.
_WEEKEND_OF_WORKERS, _WEEKEND_OF_RETIRED, _RETIREMENT = 0.45, 0.12, 65
_DAY = 24 * 60
# Which classes are frequent where is part of the world the people live in, not of a run.
_WORLD_SEED = 6

_Ints = npt.NDArray[np.int64]


def draw_places(count: int, generator: np.random.Generator) -> _Ints:
    """Towns, as numbers of :data:`~lightning_privacy.data.persona.places.PLACES`, large ones more often."""
    sizes = np.array([place.size for place in PLACES])
    return generator.choice(len(PLACES), size=count, p=sizes / sizes.sum())


def draw_genders(count: int, generator: np.random.Generator) -> _Ints:
    """Genders, as numbers of :data:`~lightning_privacy.data.persona.columns.GENDERS`."""
    return generator.choice(len(_GENDER_SHARES), size=count, p=_GENDER_SHARES)


def draw_ages(region: _Ints, gender: _Ints, generator: np.random.Generator) -> _Ints:
    """Ages in years, given country and gender."""
    old = generator.random(len(region)) < np.array(_SHARE_OF_OLD)[region] + np.where(gender == 0, _OLDER_WOMEN, 0.0)
    mean, deviation = (np.where(old, late, early) for late, early in zip(_OLD, _YOUNG, strict=True))
    low, high = AGE_RANGE
    ages = generator.normal(mean, deviation)
    # Drawn anew and not cut off, which would pile people up at the limits.
    outside = np.flatnonzero((ages < low) | (ages >= high + 1))
    while len(outside):
        ages[outside] = generator.normal(mean[outside], deviation[outside])
        outside = outside[(ages[outside] < low) | (ages[outside] >= high + 1)]
    return np.floor(ages).astype(np.int64)


def draw_minutes(age: _Ints, generator: np.random.Generator) -> _Ints:
    """Minutes since the first of January 2024 at which people come, given their age."""
    low, high = AGE_RANGE
    hour = _HOUR_AT_YOUNGEST + (age - low) / (high - low) * (_HOUR_AT_OLDEST - _HOUR_AT_YOUNGEST)
    hour = np.clip(hour + generator.normal(0.0, _HOURS_SPREAD, len(age)), *_OPEN)
    weekend = generator.random(len(age)) < np.where(age < _RETIREMENT, _WEEKEND_OF_WORKERS, _WEEKEND_OF_RETIRED)
    # The first of January 2024 is a Monday; the last week is cut, so that every week is whole.
    weeks = (LAST_TIME - FIRST_TIME).days // 7
    weekday = np.where(weekend, generator.integers(5, 7, len(age)), generator.integers(0, 5, len(age)))
    day = generator.integers(0, weeks, len(age)) * 7 + weekday
    minutes: _Ints = (day * _DAY + np.floor(hour * 60)).astype(np.int64)
    return minutes


def class_probabilities(label_shift: float) -> npt.NDArray[np.float64]:
    """How frequent the classes are in each town.

    Args:
        label_shift: Standard deviation of the logarithm of the frequencies; with 0 all towns have all classes alike.

    Returns:
        Shape ``(towns, classes)``; rows sum to 1.
    """
    logs = np.random.default_rng(_WORLD_SEED).normal(0.0, 1.0, (len(PLACES), NUM_CLASSES)) * label_shift
    weights = np.exp(logs)
    probabilities: npt.NDArray[np.float64] = weights / weights.sum(axis=1, keepdims=True)
    return probabilities


def draw_classes(place: _Ints, label_shift: float, generator: np.random.Generator) -> _Ints:
    """Classes, given the town."""
    limits = class_probabilities(label_shift).cumsum(axis=1)[:, :-1]
    classes: _Ints = (generator.random(len(place))[:, None] > limits[place]).sum(axis=1).astype(np.int64)
    return classes
