"""What a partition is: a pure function from (labels, number of examples, seed) to the indices of each client.

A partition says for every example whose it is, so clients are disjoint and every example has an owner by
construction. Nothing is drawn from a global generator, and nothing depends on the machine: the same arguments give
the same clients in every process of a run and in the run that resumes it. :func:`fingerprint` tells two assignments
apart, whatever made them.

Example:
    >>> import numpy as np
    >>> from lightning_privacy.federated.partitions import IIDPartition, fingerprint
    >>> parts = IIDPartition(3).split(None, 10, seed=0)
    >>> [len(part) for part in parts], sorted(np.concatenate(parts).tolist()) == list(range(10))
    ([4, 3, 3], True)
    >>> fingerprint(parts) == fingerprint(IIDPartition(3).split(None, 10, seed=1))
    False
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import pairwise
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from typing_extensions import override

from lightning_privacy._validate import non_negative_int, positive_int
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.federated.labels import values_of
from lightning_privacy.sampling.labels import label_array

__all__ = ["LabelPartition", "Partition", "fingerprint"]

_FINGERPRINT_BYTES = 16


class Partition(ABC):
    """Base of all partitions; a sub-class is a frozen dataclass and says in :meth:`owners` whose each example is.

    Attributes:
        num_clients: How many clients there are.
    """

    num_clients: int

    @property
    def needs_labels(self) -> bool:
        """Whether :meth:`split` must be given labels."""
        return False

    @abstractmethod
    def owners(self, labels: npt.NDArray[Any] | None, num_examples: int, seed: int) -> npt.NDArray[np.int64]:
        """The client of each example, shape ``(num_examples,)``, -1 for an example that is nobody's.

        Arguments are those of :meth:`split`, checked already.
        """

    def describe(self) -> dict[str, Any]:
        """Kind and parameters as plain types: what a checkpoint keeps, and what a resumed run is compared with."""
        parameters = {field.name: getattr(self, field.name) for field in fields(self) if field.compare}  # type: ignore[arg-type]
        plain = {name: value.item() if isinstance(value, np.generic) else value for name, value in parameters.items()}
        return {"kind": type(self).__name__, **plain}

    def bind(self, dataset: Any) -> Self:
        """The same partition, with what it has to read from the data set itself (ids in a column) read.

        Args:
            dataset: A map-style data set: it has a length and items by number.
        """
        return self

    def check(self, num_examples: int) -> None:
        """Raise where the partition can't be made of so many examples.

        Raises:
            ConfigurationError: There are more clients than examples.
        """
        if self.num_clients > num_examples:
            raise ConfigurationError(
                f"num_clients must be at most the number of examples, {num_examples}, got {self.num_clients}: a client "
                "without examples can't train"
            )

    def split(self, labels: object, num_examples: int, seed: int) -> list[npt.NDArray[np.int64]]:
        """The indices of each client's examples.

        Args:
            labels: Class of each example, shape ``(num_examples,)``: whole numbers, booleans or texts, as an array,
                tensor, list or pandas column; None where they are not needed.
            num_examples: Size of the data set, >= 1.
            seed: Of everything that is drawn, a whole number >= 0.

        Returns:
            One int64 array per client, in increasing order; no two share an index, and none is empty.

        Raises:
            ConfigurationError: There are more clients than examples, a client would be empty, labels are missing or
                of another length, or an argument is out of range.
        """
        positive_int(num_examples=num_examples)
        non_negative_int(seed=seed)
        self.check(num_examples)
        owners = self.owners(self.labels_for(labels, num_examples), num_examples, seed)
        return _by_client(owners, self.num_clients, type(self).__name__)

    def labels_for(self, labels: object, num_examples: int) -> npt.NDArray[Any] | None:
        """The labels :meth:`owners` is given: None, unless a sub-class uses them."""
        return None


@dataclass(frozen=True)
class LabelPartition(Partition):
    """Base of the partitions that go by labels.

    Args:
        labels: Label of each example: an array, tensor, list or pandas column; or the name of a column, or a function
            of an item, read when :meth:`bind` is given the data set. None: those that :meth:`split` is given, or that
            a data set has (:func:`~lightning_privacy.federated.labels_of`).
    """

    # Not part of what is compared: equal partitions of other labels have other fingerprints.
    labels: Any = field(default=None, kw_only=True, repr=False, compare=False)

    @property
    @override
    def needs_labels(self) -> bool:
        return self.labels is None

    @override
    def bind(self, dataset: Any) -> Self:
        if self.labels is None:
            return self
        return replace(self, labels=values_of(dataset, self.labels, argument="labels"))

    @override
    def labels_for(self, labels: object, num_examples: int) -> npt.NDArray[Any]:
        source = self.labels if labels is None else labels
        if source is None:
            raise ConfigurationError(
                f"labels must be given for {type(self).__name__}, got None: pass the label of each example as labels=, "
                "or use a partition that needs none, such as IIDPartition"
            )
        if isinstance(source, str) or callable(source):
            raise ConfigurationError(
                f"labels={source!r} must be read from a data set before it is split: call bind(dataset), and use what "
                "it returns"
            )
        checked = label_array(source)
        if checked.shape != (num_examples,):
            raise ConfigurationError(
                f"labels must be one per example, shape ({num_examples},), got shape {checked.shape}"
            )
        return checked


def _by_client(owners: npt.NDArray[np.int64], num_clients: int, kind: str) -> list[npt.NDArray[np.int64]]:
    # A stable sort by client leaves the indices of each client in increasing order.
    order = np.argsort(owners, kind="stable")
    bounds = np.searchsorted(owners[order], np.arange(num_clients + 1))
    empty = np.flatnonzero(np.diff(bounds) == 0)
    if len(empty):
        raise ConfigurationError(
            f"every client must have an example, got {len(empty)} without any from {kind} (the first is client "
            f"{empty[0]}): ask for fewer clients, or raise min_examples where the partition has it"
        )
    return [order[start:end] for start, end in pairwise(bounds)]


def fingerprint(parts: Sequence[npt.NDArray[np.int64]]) -> str:
    """A hash (BLAKE2b) of who holds what: equal for equal lists of indices, on every machine.

    A checkpoint keeps it, so that a run is not resumed with other clients, also when it is the data or the labels
    that changed and not the partition's parameters.

    Args:
        parts: Indices of each client, as :meth:`Partition.split` returns them.

    Example:
        >>> fingerprint([np.array([0, 2]), np.array([1])]) == fingerprint([np.array([0]), np.array([2, 1])])
        False
    """
    digest = hashlib.blake2b(digest_size=_FINGERPRINT_BYTES)
    sizes = np.array([len(part) for part in parts], dtype="<i8")
    digest.update(len(sizes).to_bytes(8, "little"))
    digest.update(sizes.tobytes())
    for part in parts:
        digest.update(np.ascontiguousarray(part, dtype="<i8").data)
    return digest.hexdigest()
