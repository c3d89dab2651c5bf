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

from lightning_privacy.data.idx import read_idx
from lightning_privacy.data.persona.columns import IMAGE_SIZE
from lightning_privacy.data.persona.generator import PersonaData
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.preparation.read import read_table

__all__ = ["PersonaTable"]


class PersonaTable:
    """Reads a table of people, one row per image, and their images.

    Columns are found by their names: ``image`` (position in the images, from 0) and ``label`` (0 to 9) must be there;
    ``gender``, ``age``, ``location`` and ``public`` are used if they are; any other column is for the preparation.

    Args:
        path: CSV, Parquet or Arrow, as ``read_table`` takes it.
        images: ``.npy`` or idx (also ``.gz``), uint8, shape ``(num_images, 28, 28)``.
        **options: Further arguments of :func:`~lightning_privacy.preparation.read.read_table`.

    Raises:
        ConfigurationError: A file is missing or broken, or images have another shape or type.
    """

    def __init__(self, path: str | Path, images: str | Path, **options: Any) -> None:
        self._path, self._images, self._options = Path(path), Path(images), options
        for argument, file in (("path", self._path), ("images", self._images)):
            if not file.is_file():
                raise ConfigurationError(f"{argument} must be a file, and there is none at {str(file)!r}")

    def generate(self) -> PersonaData:
        """Read both files."""
        return PersonaData(read_table(self._path, **self._options), _read_images(self._images))

    def __repr__(self) -> str:
        """Names the content of the files, so that a store of other people is not taken for one of these."""
        digests = [_digest(file) for file in (self._path, self._images)]
        options = ", ".join(f"{name}={value!r}" for name, value in sorted(self._options.items()))
        return f"PersonaTable({', '.join(digests)}, {options})"


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
