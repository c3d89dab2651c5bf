"""Data with a word on what they are: only public or held-out data may be looked at after private training.

What is computed from private data and then released is a release. The ranges of an int8 network and an accuracy are:
they are functions of the data, without noise. So whoever passes data says whether that matters.

Example:
    >>> import torch
    >>> data = DeclaredData(torch.zeros(4, 2), labels=torch.tensor([0, 1, 1, 0]), source="held_out")
    >>> len(data)
    4
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lightning_privacy._validate import one_of
from lightning_privacy.accounting import PrivacyLedger
from lightning_privacy.errors import ConfigurationError, UnsupportedError

__all__ = ["DeclaredData"]


@dataclass(frozen=True)
class DeclaredData:
    """Examples and what they are to privacy.

    Args:
        inputs: Shape ``(N, ...)``.
        labels: Classes, shape ``(N,)``; needed for an accuracy.
        groups: For each attribute the group of each example, of length N: names, numbers or a tensor.
        source: ``"public"``: anybody has them. ``"held_out"``: people who were not trained on and whose data are
            declared not to be protected. ``"private"``: protected, so no figure of them leaves without a charge.

    Raises:
        ConfigurationError: There are no examples, lengths differ, or the source is unknown.
    """

    inputs: Tensor
    labels: Tensor | None = None
    groups: Mapping[str, Sequence[Any] | Tensor] = field(default_factory=dict)
    source: str = "private"

    def __post_init__(self) -> None:
        one_of(("public", "held_out", "private"), source=self.source)
        if not isinstance(self.inputs, Tensor) or self.inputs.dim() < 1 or len(self.inputs) == 0:
            raise ConfigurationError("inputs must be a tensor of at least one example, shape (N, ...)")
        columns = {"labels": self.labels} if self.labels is not None else {}
        for name, column in {**columns, **self.groups}.items():
            if len(column) != len(self.inputs):
                raise ConfigurationError(f"{name} must have one entry for each of {len(self.inputs)} inputs")

    def __len__(self) -> int:
        return len(self.inputs)

    def names(self, attribute: str) -> list[str]:
        """The group of each example, as text."""
        column = self.groups[attribute]
        return [str(each) for each in (column.tolist() if isinstance(column, torch.Tensor) else column)]

    def check_releasable(self, ledger: PrivacyLedger | None, *, purpose: str) -> str | None:
        """Refuse what would void the guarantee; return the caveat where there is none to void.

        Args:
            ledger: Of the private training; None without privacy.
            purpose: What the data are for.

        Raises:
            UnsupportedError: The data are private and the model is said to be, too.
        """
        if self.source != "private":
            return None
        if ledger is not None:
            raise UnsupportedError(
                f"{purpose} are private data: a figure of them without noise would leave with the model, and its "
                "epsilon would be wrong. Use public or held-out people's data and say so with "
                "DeclaredData(source='public' or 'held_out'), or do without"
            )
        return f"{purpose} were private data: figures computed from them are in the export."
