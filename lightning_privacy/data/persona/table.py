"""People who are real: a table in a file, and a file with their images, in place of the generator.

Example:
    >>> import tempfile
    >>> import numpy as np
    >>> import polars as pl
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     pl.DataFrame({"image": [1, 0], "label": [3, 7]}).write_csv(f"{folder}/people.csv")
    ...     np.save(f"{folder}/images.npy", np.zeros((2, 28, 28), np.uint8))
    ...     PersonaTable(f"{folder}/people.csv", f"{folder}/images.npy").generate().records.rows()
    [(1, 3), (0, 7)]
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from lightning_privacy.data.idx import read_idx
from lightning_privacy.data.persona.columns import IMAGE_SIZE
from lightning_privacy.data.persona.generator import PersonaData
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.preparation.read import guessed_columns, is_text, read_table

__all__ = ["KINDS", "PersonaTable"]

#: Columns whose meaning is known, to what their cells are read as from text.
KINDS: dict[str, str] = {
    **dict.fromkeys(("record", "customer", "given_name", "surname", "email", "gender", "location", "time"), "text"),
    "age": "number",
    "age_band": "text",
    "image": "whole number",
    "label": "whole number",
    "public": "boolean",
}

_AGE = "age"
_SHOWN = 5


class PersonaTable:
    """Reads a table of people, one row per image, and their images.

    Columns are found by their names: ``image`` (position in the images, from 0) and ``label`` (0 to 9), or the column
    of the role ``label``, must be there; ``gender``, ``age`` or ``age_band``, ``location`` and ``public`` are used if
    they are; any other column is for the preparation.

    Columns of a CSV file whose meaning is known have a declared type (:data:`KINDS`), and a cell that is none of it is
    missing: an age of "forty" is no number, and changes nobody else's. Ages are whole years, rounded down; a table with
    bands has them in ``age_band``. The types of other columns are found by looking at all rows, which is a caveat in a
    ledger, unless ``schema`` or ``kinds`` declares them. Parquet and Arrow declare the types of all.

    Args:
        path: CSV, Parquet or Arrow, as ``read_table`` takes it.
        images: ``.npy`` or idx (also ``.gz``), uint8, shape ``(num_images, 28, 28)``.
        **options: Further arguments of :func:`~lightning_privacy.preparation.read.read_table`; what ``schema`` and
            ``kinds`` say of a column goes before what is known of it.

    Attributes:
        caveats: What the reading does to a guarantee for one person, in sentences for a ledger; known after
            :meth:`generate`.

    Raises:
        ConfigurationError: A file is missing or broken, or images have another shape or type.
    """

    def __init__(self, path: str | Path, images: str | Path, **options: Any) -> None:
        self._path, self._images, self._options = Path(path), Path(images), options
        self.caveats: tuple[str, ...] = ()
        for argument, file in (("path", self._path), ("images", self._images)):
            if not file.is_file():
                raise ConfigurationError(f"{argument} must be a file, and there is none at {str(file)!r}")

    def generate(self) -> PersonaData:
        """Read both files."""
        options = {**self._options, "kinds": {**KINDS, **(self._options.get("kinds") or {})}}
        table = read_table(self._path, **options)
        declared = {name: options.get(name) for name in ("schema", "kinds")}
        guessed = guessed_columns(self._path, table.columns, **declared)
        self.caveats = (_caveat(guessed),) if guessed else ()
        return PersonaData(self._in_years(table), _read_images(self._images))

    def _in_years(self, table: pl.DataFrame) -> pl.DataFrame:
        """The ages of a CSV file in whole years, as a step may take whole numbers and others for different things."""
        schema = self._options.get("schema")
        own = {*(self._options.get("kinds") or {}), *({} if schema is None else schema.kinds)}
        if _AGE in own or _AGE not in table.columns or not is_text(self._path):
            return table
        return table.with_columns(pl.col(_AGE).floor().cast(pl.Int64, strict=False))

    def __repr__(self) -> str:
        """Names the content of the files, so that a store of other people is not taken for one of these."""
        digests = [_digest(file) for file in (self._path, self._images)]
        options = ", ".join(f"{name}={value!r}" for name, value in sorted(self._options.items()))
        return f"PersonaTable({', '.join(digests)}, {options}, {KINDS})"


def _caveat(columns: tuple[str, ...]) -> str:
    named = ", ".join(map(repr, columns[:_SHOWN]))
    named += f" and {len(columns) - _SHOWN} more" if len(columns) > _SHOWN else ""
    return (
        f"Of the table in a CSV file, the types of the columns {named} were found by looking at all rows: one person's "
        "cell can turn a column of numbers into text for everybody, and epsilon does not count that. Declare them, as "
        f"by schema=TableSchema({{{columns[0]!r}: Column('text')}}), or keep the table in Parquet."
    )


def _read_images(path: Path) -> npt.NDArray[np.uint8]:
    if path.suffix == ".npy":
        try:
            images = np.load(path, allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise ConfigurationError(f"images={str(path)!r} is no file of np.save with numbers ({error})") from error
    else:
        images = read_idx(path).numpy()
    if images.ndim != 3 or images.shape[1:] != (IMAGE_SIZE, IMAGE_SIZE) or images.dtype != np.uint8:
        raise ConfigurationError(
            f"images={str(path)!r} must hold uint8 of shape (num_images, {IMAGE_SIZE}, {IMAGE_SIZE}), got "
            f"{images.dtype} of shape {images.shape}: scale or pad them before"
        )
    checked: npt.NDArray[np.uint8] = images
    return checked


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()[:32]
