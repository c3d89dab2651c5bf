"""UCI Adult: does a person earn more than 50,000 dollars a year, from 13 columns of the 1994 census.

32,561 rows to train on, 16,281 held out (Becker and Kohavi, UCI 1996). 76.4% of the held-out rows are of the
class "no more than 50,000", so that is what a useful model must beat.

Example:
    >>> from lightning_privacy.data import AdultDataModule
    >>> AdultDataModule(root="data/adult").num_features
    112
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from lightning_privacy.data.adult_schema import NUM_FEATURES, encode_row, groups_of_row
from lightning_privacy.data.in_memory import GatheredBatch, InMemoryDataModule, InMemoryDataset, Splits, collate
from lightning_privacy.data.splitting import stratified_split
from lightning_privacy.errors import ConfigurationError

__all__ = ["AdultBatch", "AdultDataModule"]

_SPLIT_SEED = 0
_FILES = ("adult.data", "adult.test")


class AdultBatch(NamedTuple):
    """A batch of rows. Callbacks find a group by its name (``groups="sex"``), a module by unpacking.

    Attributes:
        features: Shape ``(B, 112)``, from 0 to 1. Sex and race are among them.
        labels: Shape ``(B,)``: 1 for an income above 50,000 dollars.
        sex: Shape ``(B,)``: 0 for Female, 1 for Male.
        race: Shape ``(B,)``: 0 for White, 1 Asian-Pac-Islander, 2 Amer-Indian-Eskimo, 3 Other, 4 Black.
    """

    features: Tensor
    labels: Tensor
    sex: Tensor
    race: Tensor


def _collate(examples: GatheredBatch | list[tuple[Tensor, ...]]) -> AdultBatch:
    return AdultBatch(*collate(examples))


class AdultDataModule(InMemoryDataModule):
    """Rows of Adult as vectors of numbers in 0 to 1, labels 0 or 1, and the groups of sex and race.

    Category lists and bounds are public constants (:mod:`lightning_privacy.data.adult_schema`); a missing
    value is a category of its own. Exact duplicates (24 in the training file) are kept, as in the literature.

    Args:
        root: Folder that holds ``adult.data`` and ``adult.test``, with or without a header line.
        batch_size: Rows of a training batch.
        eval_batch_size: Rows of a validation or test batch.
        val_size: How many of the held-out rows are for validation, stratified; with 0 there is none.
        resample: Options of :func:`~lightning_privacy.sampling.resample` for the training data; its ``groups``
            may be ``"sex"`` or ``"race"``. None: as they are.

    Raises:
        ConfigurationError: A file is missing or a line can't be read; the message names file and line.

    Example:
        >>> AdultDataModule(root="data/adult", batch_size=256).batch_size
        256
    """

    num_features: int = NUM_FEATURES
    collate = staticmethod(_collate)
    fields = AdultBatch._fields

    def __init__(
        self,
        root: str | Path = "data/adult",
        batch_size: int = 1024,
        eval_batch_size: int = 4096,
        val_size: int = 2000,
        resample: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, resample)
        self.root = Path(root)
        self.val_size = val_size

    @override
    def prepare_data(self) -> None:
        missing = [name for name in _FILES if not (self.root / name).is_file()]
        if missing:
            raise ConfigurationError(
                f"data.root={self.root} lacks {' and '.join(missing)}: fetch them from "
                "https://archive.ics.uci.edu/dataset/2/adult and set data.root to their folder"
            )

    @override
    def load(self) -> Splits:
        self.prepare_data()
        train, held_out = (_read(self.root / name) for name in _FILES)
        val, test = stratified_split(held_out.tensors[1].numpy(), size=self.val_size, seed=_SPLIT_SEED)

        def part(positions: np.ndarray) -> InMemoryDataset:
            return InMemoryDataset(*(tensor[positions] for tensor in held_out.tensors))

        return Splits(train=train, val=part(val) if self.val_size else None, test=part(test))


def _read(path: Path) -> InMemoryDataset:
    features: list[list[float]] = []
    numbers: list[tuple[int, int, int]] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        # The publisher's test file opens with a remark behind a bar, some copies of both with the column
        # names.
        if not line.strip() or line.startswith(("|", "age,")):
            continue
        try:
            values = [value.strip() for value in line.split(",")]
            row, label = encode_row(values)
        except ValueError as error:
            raise ConfigurationError(f"{path}, line {number}: {error}") from error
        features.append(row)
        numbers.append((label, *groups_of_row(values)))
    if not numbers:
        raise ConfigurationError(f"{path} has no rows: fetch it again")
    return InMemoryDataset(
        torch.tensor(features, dtype=torch.float32), *torch.tensor(numbers, dtype=torch.int64).unbind(1)
    )
