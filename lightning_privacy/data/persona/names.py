"""Names that go with a country and a gender, drawn from the lists of mimesis.

mimesis (MIT licence) holds lists of given names and surnames of many countries. They are drawn once with a seed of
their own; which of them a person has depends on the seed of the data alone. Some names are far more frequent than
others, as in life: the frequency falls like a power of the rank.

Example:
    >>> import numpy as np
    >>> from lightning_privacy.data.persona.names import draw_names
    >>> region, gender = np.array([3, 3, 5]), np.array([0, 1, 1])
    >>> given, surname = draw_names(region, gender, np.random.default_rng(0))
    >>> len(given), len(surname), all(given)
    (3, 3, True)
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from lightning_privacy.data.persona.columns import GENDERS
from lightning_privacy.data.persona.places import LOCALES, REGIONS
from lightning_privacy.errors import ConfigurationError

__all__ = ["as_ascii", "draw_emails", "draw_names"]

# Draws per list; the longest lists of mimesis have a few thousand names.
_DRAWS = 2500
# Part of what the lists are, not of a run.
_LIST_SEED = 20
# The frequency of the name of rank r goes with (r + 10) ** -0.9: the most frequent surname has about 2% of the people.
_RANK_OFFSET, _RANK_POWER = 10, -0.9
_MAIL_DOMAINS = ("example.com", "example.org", "example.net", "mail.example", "post.example")
# Letters that don't come apart into a letter and an accent.
_LETTERS = str.maketrans({"ß": "ss", "ł": "l", "Ł": "L", "ø": "o", "Ø": "O", "æ": "ae", "Æ": "Ae", "đ": "d"})

_Names = npt.NDArray[np.object_]


def draw_names(
    region: npt.NDArray[np.int64], gender: npt.NDArray[np.int64], generator: np.random.Generator
) -> tuple[_Names, _Names]:
    """A given name and a surname for each person.

    Args:
        region: Number of each person's country in :data:`~lightning_privacy.data.persona.places.REGIONS`.
        gender: Number of each person's gender; who is neither female nor male has a name of either list.
        generator: Of the draws.

    Returns:
        Given names and surnames, one per person.

    Raises:
        ConfigurationError: mimesis is not installed.
    """
    # Who is "other" has a name of one of the two lists.
    listed = np.where(gender < 2, gender, generator.integers(0, 2, len(gender)))
    given = np.empty(len(region), dtype=object)
    surname = np.empty(len(region), dtype=object)
    for number, name in enumerate(REGIONS):
        for which in range(2):
            members = np.flatnonzero((region == number) & (listed == which))
            for target, names in zip((given, surname), _lists(LOCALES[name], GENDERS[which]), strict=True):
                frequency = (np.arange(len(names)) + _RANK_OFFSET) ** _RANK_POWER
                target[members] = generator.choice(names, size=len(members), p=frequency / frequency.sum())
    return given, surname


def draw_emails(given: _Names, surname: _Names, generator: np.random.Generator) -> _Names:
    """An address made of each person's name, a number and a domain that belongs to nobody (RFC 2606)."""
    domains = generator.integers(0, len(_MAIL_DOMAINS), len(given)).tolist()
    numbers = generator.integers(1, 1000, len(given)).tolist()
    short = (generator.random(len(given)) < 0.3).tolist()
    emails = np.empty(len(given), dtype=object)
    for row, (first, last) in enumerate(zip(given, surname, strict=True)):
        first, last = as_ascii(first), as_ascii(last)
        name = f"{first[:1]}{last}" if short[row] else f"{first}.{last}"
        emails[row] = f"{name.replace(' ', '')}{numbers[row]}@{_MAIL_DOMAINS[domains[row]]}".lower()
    return emails


@lru_cache(maxsize=4096)
def as_ascii(text: str) -> str:
    """The text without accents."""
    decomposed = unicodedata.normalize("NFKD", text.translate(_LETTERS))
    return decomposed.encode("ascii", "ignore").decode()


@lru_cache
def _lists(locale: str, gender: str) -> tuple[_Names, _Names]:
    """Given names and surnames of a country and a gender, each once, the most frequent first."""
    try:
        from mimesis import Locale, Person
        from mimesis.enums import Gender
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            "persona data needs mimesis, which is not installed: pip install 'lightning-privacy[persona]'"
        ) from error
    person = Person(Locale(locale), seed=_LIST_SEED)
    of_gender = Gender(gender)
    given = dict.fromkeys(person.first_name(gender=of_gender) for _ in range(_DRAWS))
    surname = dict.fromkeys(person.last_name(gender=of_gender) for _ in range(_DRAWS))
    return np.array(list(given), dtype=object), np.array(list(surname), dtype=object)
