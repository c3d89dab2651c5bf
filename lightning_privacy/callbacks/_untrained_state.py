"""Tells the ledger, and whoever trains, of what changed in a module although no gradient trains it.

Example:
    >>> import torch, warnings
    >>> from lightning_privacy.accounting import PrivacyLedger
    >>> module, ledger = torch.nn.Linear(2, 2), PrivacyLedger(delta=1e-5)
    >>> module.register_buffer("mean", torch.zeros(2))
    >>> state = UntrainedState(module, ledger)
    >>> module.mean.data += 1
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always")
    ...     state.look()
    ...     state.compare()
    >>> len(caught), ledger.caveats[0][:40]
    (1, "'mean', which no gradient trains, change")
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from torch import nn

from lightning_privacy.accounting import PrivacyLedger
from lightning_privacy.gradients.buffer_watch import BufferWatch

__all__ = ["UntrainedState"]


class UntrainedState:
    """Adds a caveat for each buffer, frozen parameter or other entry of ``state_dict()`` that training changes.

    Args:
        module: The module, before training.
        ledger: Where caveats are added.
    """

    def __init__(self, module: nn.Module, ledger: PrivacyLedger) -> None:
        self._watch = BufferWatch(module, values=True)
        self._ledger = ledger

    def look(self) -> None:
        """Tell of tensors that were written to or replaced; cheap enough for every step."""
        self._tell(self._watch.changed())

    def compare(self) -> None:
        """Tell of what holds something else than before training, however that got there; reads every value."""
        self._tell(self._watch.differing())

    def _tell(self, names: Sequence[str]) -> None:
        caveats = [
            f"'{name}', which no gradient trains, changed during training. What it takes from the examples is "
            "neither bounded nor noised, so the guarantee does not cover it."
            for name in names
        ]
        for caveat in caveats:  # all of them before the first warning, which may be an error
            self._ledger.add_caveat(caveat)
        for caveat in caveats:
            warnings.warn(f"{caveat} Keep data out of it, or compute it from public data.", UserWarning, stacklevel=3)
