"""Batches of people's images with what is known of the people, and the data set they come from.

Example:
    >>> import torch
    >>> PersonaBatch(torch.zeros(2, 1, 28, 28), *torch.zeros(4, 2, dtype=torch.int64)).gender
    tensor([0, 0])
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lightning_privacy.accounting import PrivacyLedger
from lightning_privacy.data.in_memory import GatheredBatch, InMemoryDataset, collate
from lightning_privacy.data.persona.charging import Charging
from lightning_privacy.errors import ConfigurationError

__all__ = ["PersonaBatch", "PersonaDataset", "collate_persona"]


class PersonaBatch(NamedTuple):
    """A batch of records. Callbacks find a group by its name (``groups="gender"``), a module by unpacking.

    Attributes:
        images: Shape ``(B, 1, 28, 28)``, from -1 to 1.
        labels: Class of each image, shape ``(B,)``.
        gender: Numbers of :data:`~lightning_privacy.data.persona.columns.GENDERS`, shape ``(B,)``.
        age_band: Numbers of :data:`~lightning_privacy.data.persona.columns.AGE_BANDS`, shape ``(B,)``.
        location: Numbers of :data:`~lightning_privacy.data.persona.places.REGIONS`, and one more for places that are
            unknown, shape ``(B,)``.
    """

    images: Tensor
    labels: Tensor
    gender: Tensor
    age_band: Tensor
    location: Tensor


def collate_persona(examples: GatheredBatch | list[tuple[Tensor, ...]]) -> PersonaBatch:
    """Make a batch of what :class:`PersonaDataset` gave."""
    return PersonaBatch(*collate(examples))


class PersonaDataset(InMemoryDataset):
    """Records as tensors, with a column for each group, and whose they are.

    Columns are attributes: ``BalancedSampler(dataset.labels, groups=dataset.gender, balance="class*group")`` balances
    classes within genders, and ``NaturalPartition("client")`` makes every town a client.

    Args:
        batch: All records as one batch.
        client: Whose data each record is in a federation, one text per record.
        person: Who each record is about, one text per record.

    Raises:
        ConfigurationError: Lengths differ.

    Example:
        >>> columns = torch.zeros(4, 2, dtype=torch.int64)
        >>> dataset = PersonaDataset(PersonaBatch(torch.zeros(2, 1, 28, 28), *columns), ["Lyon", "Lyon"], ["a", "b"])
        >>> len(dataset), dataset.client.tolist()
        (2, ['Lyon', 'Lyon'])
    """

    def __init__(self, batch: PersonaBatch, client: Any, person: Any) -> None:
        super().__init__(*batch)
        #: What a preparation learned from the records, and charged: for a fit without the data module.
        self.charging = Charging()
        #: The most records of one person among these; None where nobody knows whose they are.
        self.max_records_per_person: int | None = None
        self.client: npt.NDArray[np.str_] = np.asarray(client, dtype=np.str_)
        self.person: npt.NDArray[np.str_] = np.asarray(person, dtype=np.str_)
        for name, values in (("client", self.client), ("person", self.person)):
            if len(values) != len(self):
                raise ConfigurationError(f"{name} must have {len(self)} entries, got {len(values)}")

    @property
    def learns_from_records(self) -> bool:
        """Whether a preparation did more than change each record by itself; then it needs the ledger of training."""
        return self.charging.learns

    @property
    def preparation_caveats(self) -> tuple[str, ...]:
        """What that preparation left that limits the guarantee, as caveats of the ledger of training."""
        return self.charging.limits

    @property
    def ledger(self) -> PrivacyLedger | None:
        """What that preparation charges, as its data module has it now."""
        return self.charging.ledger

    @property
    def labels(self) -> Tensor:
        """Class of each record."""
        return self.tensors[1]

    @property
    def gender(self) -> Tensor:
        """Gender of each record's person."""
        return self.tensors[2]

    @property
    def age_band(self) -> Tensor:
        """Age band of each record's person."""
        return self.tensors[3]

    @property
    def location(self) -> Tensor:
        """Country of each record's person."""
        return self.tensors[4]

    def take(self, positions: npt.NDArray[np.int64]) -> PersonaDataset:
        """The data set of some of the records."""
        batch = PersonaBatch(*(tensor[torch.from_numpy(positions)] for tensor in self.tensors))
        part = PersonaDataset(batch, self.client[positions], self.person[positions])
        part.charging = self.charging
        part.max_records_per_person = self.max_records_per_person
        return part
