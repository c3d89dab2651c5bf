"""The columns of a table of people, their public categories and bounds.

All of them were known before anybody's data was looked at, so that numbering, banding and scaling by them costs no
privacy.

Example:
    >>> import numpy as np
    >>> from lightning_privacy.data.persona.columns import age_bands
    >>> age_bands(np.array([18.0, 44.0, 90.0, np.nan])).tolist()
    [0, 1, 4, 5]
"""

from __future__ import annotations

from datetime import datetime

import numpy as np
import numpy.typing as npt

__all__ = [
    "AGE_BANDS",
    "AGE_EDGES",
    "AGE_RANGE",
    "CODES_OF_GENDER",
    "COLUMNS",
    "FIRST_TIME",
    "GENDERS",
    "IMAGE_SIZE",
    "LAST_TIME",
    "NUM_CLASSES",
    "TIME_FORMAT",
    "UNKNOWN",
    "age_bands",
    "gender_codes",
]

#: Height and width of an image in pixels.
IMAGE_SIZE = 28

#: Classes of the images.
NUM_CLASSES = 10

#: Columns in the order of the table, with what they are in the data of :class:`PersonaGenerator`.
COLUMNS: dict[str, str] = {
    "record": "number of the record, unique",
    "customer": "number under which the person is known; someone who registered twice has two",
    "given_name": "",
    "surname": "",
    "email": "",
    "gender": "",
    "age": "in years",
    "location": "town",
    "time": "when the image was taken",
    "label": "class of the image, 0 to 9",
    "image": "position of the image in the stack of images",
    "public": "whether the person agreed that the record is used openly, to measure how good a model is",
}

#: Genders, in the order of their numbers; whatever is not among the first two has the number of the last.
GENDERS: tuple[str, ...] = ("female", "male", "other")

#: Other ways to write them.
CODES_OF_GENDER: dict[str, tuple[str, ...]] = {
    "female": ("F", "f", "Female", "FEMALE", "woman", "w"),
    "male": ("M", "m", "Male", "MALE", "man"),
    "other": ("X", "x", "Other", "diverse", "nonbinary"),
}

#: What stands for a value that is not known.
UNKNOWN = "unknown"

#: Years an age may have.
AGE_RANGE: tuple[int, int] = (18, 95)

#: The first age of every band.
AGE_EDGES: tuple[int, ...] = (18, 30, 45, 60, 75)

#: Bands of age, in the order of their numbers; a missing age, or one below the first band, has that of the last.
AGE_BANDS: tuple[str, ...] = ("18-29", "30-44", "45-59", "60-74", "75+", UNKNOWN)

#: When the images were taken: the year 2024.
FIRST_TIME, LAST_TIME = datetime(2024, 1, 1), datetime(2025, 1, 1)  # noqa: DTZ001 - local times, as people tell them

#: How a time should be written.
TIME_FORMAT = "%Y-%m-%d %H:%M"


def age_bands(ages: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """The band of each age, a number of :data:`AGE_BANDS`.

    Args:
        ages: Years, NaN where missing, shape ``(num_persons,)``.

    Returns:
        Of the same shape.
    """
    bands = np.searchsorted(np.asarray(AGE_EDGES, np.float64), ages, side="right") - 1
    known = np.isfinite(ages) & (bands >= 0)
    return np.where(known, bands, len(AGE_BANDS) - 1).astype(np.int64)


def gender_codes() -> dict[str, tuple[str, ...]]:
    """The ways each gender is written, as ``NormaliseCodes`` takes them."""
    return dict(CODES_OF_GENDER)
