"""From the rows of a validation to its tables, and from these to what is logged.

Example:
    >>> import torch
    >>> from lightning_privacy.callbacks._fairness_rows import Gathered
    >>> from lightning_privacy.fairness import GroupSample
    >>> counts = torch.tensor([[[4, 1], [1, 4]], [[2, 3], [1, 4]]])
    >>> gathered = Gathered(names=(("f", "m"),), views={"sex": GroupSample(counts)}, sizes=(2,))
    >>> tables = tables_of(gathered, names=["sex"], options={})
    >>> scalars_of(tables, "fairness", several=False)["fairness/tpr/m"]
    0.8
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from lightning_privacy.accounting import PrivacyLedger
from lightning_privacy.callbacks._fairness_release import noisy_counts, noisy_views
from lightning_privacy.callbacks._fairness_rows import Gathered
from lightning_privacy.callbacks._processes import Processes
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.fairness.table import FairnessTable
from lightning_privacy.mechanisms import NoiseSource

__all__ = ["released", "scalars_of", "tables_of"]


def tables_of(gathered: Gathered, *, names: Sequence[str], options: Mapping[str, Any]) -> list[FairnessTable]:
    """A table for each attribute, and with several for their intersections, which comes last.

    Args:
        gathered: The rows of all processes.
        names: Of the attributes.
        options: Of :meth:`FairnessTable.of`.
    """
    groups = dict(zip(names, gathered.names, strict=True))
    intersections = tuple(" & ".join(each) for each in itertools.product(*gathered.names))
    return [
        FairnessTable.of(view, attribute=name, group_names=groups.get(name, intersections), **options)
        for name, view in gathered.views.items()
    ]


def released(
    gathered: Gathered,
    *,
    names: Sequence[str],
    epsilon: float,
    ledger: PrivacyLedger,
    noise: NoiseSource | None,
    processes: Processes,
    num_classes: int | None,
) -> Gathered:
    """The same with noisy counts in place of exact ones, and without what needs rows.

    Args:
        gathered: The rows of all processes.
        names: Of the attributes.
        epsilon: What the release costs.
        ledger: What it is charged to.
        noise: Where noise comes from.
        processes: Each of them must call this.
        num_classes: As the user gave it.

    Raises:
        ConfigurationError: The number of classes would have to be read from the data.
        PrivacyBudgetExceeded: The ledger can't pay; nothing is released.
    """
    whole = list(gathered.views.values())[-1]  # of the intersections, or of the one attribute
    if num_classes is None and whole.probs is None:
        raise ConfigurationError(
            "private_epsilon needs num_classes where predictions are classes: which classes there are in private data "
            "is not to be read from them"
        )
    noisy = noisy_counts(whole.counts, epsilon=epsilon, ledger=ledger, noise=noise, processes=processes)
    return Gathered(gathered.names, noisy_views(noisy, gathered.sizes, names), gathered.sizes)


def scalars_of(tables: Sequence[FairnessTable], base: str, *, several: bool) -> dict[str, float]:
    """What is logged of the tables of one loader, by name.

    Args:
        tables: Of the attributes.
        base: What the names begin with.
        several: Whether there are several attributes; the groups of their intersections are many, and not logged.
    """
    found: dict[str, float] = {}
    for table in tables:
        prefix = f"{base}/{table.attribute}" if several else base
        scalars = table.disparities if several and table is tables[-1] else table.scalars()
        found |= {f"{prefix}/{figure}": value for figure, value in scalars.items()}
    return found
