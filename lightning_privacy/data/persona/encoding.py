"""From a prepared table to tensors, by public lists and constants alone.

Nothing is learned here: genders and countries are numbered by their place in a public list, ages fall into public
bands, and pixels are divided by 255, the format's own constant. Each cell is read by itself, whatever the type of its
column, which may have been found by looking at all rows.

Example:
    >>> import numpy as np
    >>> import polars as pl
    >>> table = pl.DataFrame({"image": [1, 0], "label": [7, None], "gender": ["male", None], "location": ["Lyon", "?"]})
    >>> dataset = encode(table, np.zeros((2, 28, 28), np.uint8), person=None, client="location")
    >>> len(dataset), dataset.labels.tolist(), dataset.gender.tolist(), dataset.location.tolist()
    (1, [7], [1], [0])
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import polars as pl
import torch

from lightning_privacy.data.persona.batch import PersonaBatch, PersonaDataset
from lightning_privacy.data.persona.columns import AGE_BANDS, GENDERS, NUM_CLASSES, UNKNOWN, age_bands
from lightning_privacy.data.persona.places import REGION_OF, REGIONS
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.preparation._cells import as_numbers

__all__ = ["UNKNOWN_REGION", "encode", "labelled"]

#: The number of places that are in none of the countries, or missing.
UNKNOWN_REGION = len(REGIONS)
_HALF_OF_LARGEST = 255 / 2


def labelled(table: pl.DataFrame, label: str = "label") -> pl.DataFrame:
    """The rows that have a label and an image.

    Args:
        table: Has the column ``image``.
        label: The column of the class.

    Raises:
        ConfigurationError: A column is missing, or no row is left.
    """
    missing = [name for name in ("image", label) if name not in table.columns]
    if missing:
        raise ConfigurationError(
            f"the prepared table lacks {' and '.join(missing)}, and has {', '.join(table.columns)}: leave them in "
            "the preparation"
        )
    kept = table.drop_nulls(["image", label])
    if not len(kept):
        raise ConfigurationError("no row of the prepared table has both an image and a label: nothing to train on")
    return kept


def encode(
    table: pl.DataFrame,
    images: npt.NDArray[np.uint8],
    *,
    person: str | None,
    client: str | None,
    label: str = "label",
) -> PersonaDataset:
    """Tensors of the rows that have a label.

    Args:
        table: Has the columns ``image`` (position in ``images``) and ``label``, and should have ``gender``, ``age`` (in
            years, or a band's name) or ``age_band``, and ``location`` (a town or a country); where these are missing
            or not in the public lists, the number is that of "unknown".
        images: Pixels from 0 to 255, shape ``(num_images, height, width)``.
        person: The column that says who a row is about; None when each row is somebody else.
        client: The column that says whose data a row is in a federation; None for one client.
        label: The column of the class, where it is called otherwise.

    Raises:
        ConfigurationError: A column is missing, labels are no classes, or rows point at images that aren't there.
    """
    table = labelled(table, label)
    for argument, name in (("person", person), ("client", client)):
        if name is not None and name not in table.columns:
            raise ConfigurationError(f"{argument} must be a column of the prepared table, got {name!r}")
    labels = _whole(table, label, NUM_CLASSES, "a class from 0 to 9")
    image = _whole(table, "image", len(images), f"a position among the {len(images)} images")
    pixels = torch.from_numpy(images[image]).unsqueeze(1)
    batch = PersonaBatch(
        pixels.to(torch.float32).div_(_HALF_OF_LARGEST).sub_(1),
        torch.from_numpy(labels),
        torch.from_numpy(_numbers(table, "gender", GENDERS, len(GENDERS) - 1)),
        torch.from_numpy(_age_bands(table)),
        torch.from_numpy(_regions(table)),
    )
    return PersonaDataset(batch, _texts(table, client), _texts(table, person))


def _whole(table: pl.DataFrame, name: str, limit: int, what: str) -> npt.NDArray[np.int64]:
    column = table[name]
    values = as_numbers(column)
    right = (values.is_between(0, limit - 1) & (values == values.floor())).fill_null(value=False)
    if not right.all():
        raise ConfigurationError(f"column {name!r} must hold {what}, got values such as {column.filter(~right)[0]!r}")
    return values.to_numpy().astype(np.int64)


def _numbers(table: pl.DataFrame, name: str, known: Sequence[str], otherwise: int) -> npt.NDArray[np.int64]:
    """The place of each text in a public list."""
    if name not in table.columns:
        return np.full(len(table), otherwise, dtype=np.int64)
    places = {text: number for number, text in enumerate(known)}
    column = table[name].cast(pl.String)
    return (
        column.replace_strict(places, default=otherwise, return_dtype=pl.Int64).fill_null(otherwise).to_numpy().copy()
    )


def _regions(table: pl.DataFrame) -> npt.NDArray[np.int64]:
    towns = {town: REGIONS.index(region) for town, region in REGION_OF.items()}
    known = towns | {region: number for number, region in enumerate(REGIONS)}
    if "location" not in table.columns:
        return np.full(len(table), UNKNOWN_REGION, dtype=np.int64)
    column = table["location"].cast(pl.String)
    numbers = column.replace_strict(known, default=UNKNOWN_REGION, return_dtype=pl.Int64).fill_null(UNKNOWN_REGION)
    return numbers.to_numpy().copy()


def _age_bands(table: pl.DataFrame) -> npt.NDArray[np.int64]:
    if "age_band" in table.columns:
        return _numbers(table, "age_band", AGE_BANDS, len(AGE_BANDS) - 1)
    if "age" not in table.columns:
        return np.full(len(table), len(AGE_BANDS) - 1, dtype=np.int64)
    ages = as_numbers(table["age"])
    named = _numbers(table, "age", AGE_BANDS, len(AGE_BANDS) - 1)
    return np.where(ages.is_null().to_numpy(), named, age_bands(ages.fill_null(float("nan")).to_numpy()))


def _texts(table: pl.DataFrame, name: str | None) -> list[str]:
    if name is None:
        return [str(row) for row in range(len(table))]
    return table[name].cast(pl.String).fill_null(UNKNOWN).to_list()
