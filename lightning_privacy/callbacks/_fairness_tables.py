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

from torch import Tensor

from lightning_privacy.accounting import PrivacyLedger
from lightning_privacy.callbacks._fairness_attributes import Attribute
from lightning_privacy.callbacks._fairness_release import noisy_counts, noisy_views
from lightning_privacy.callbacks._fairness_rows import Gathered
from lightning_privacy.callbacks._processes import Processes
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.fairness.sample import GroupSample
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
    attributes: Sequence[Attribute],
    epsilon: float,
    ledger: PrivacyLedger,
    noise: NoiseSource | None,
    processes: Processes,
    num_classes: int | None,
    min_group_size: int,
) -> Gathered:
    """The same with noisy counts in place of exact ones, and without what needs rows.

    Args:
        gathered: The rows of all processes.
        attributes: Whose groups.
        epsilon: What the release costs.
        ledger: What it is charged to.
        noise: Where noise comes from.
        processes: Each of them must call this.
        num_classes: As the user gave it.
        min_group_size: Rows a group needs to be judged.

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
    kept, left_out = _known(noisy, gathered, attributes, min_group_size)
    if not kept:
        return Gathered((), {}, (), left_out)
    sizes = tuple(gathered.sizes[at] for at in kept)
    table = noisy.view(*gathered.sizes, *noisy.shape[1:])
    dropped = [at for at in range(len(gathered.sizes)) if at not in kept]
    counts = (table.sum(dim=dropped) if dropped else table).reshape(-1, *noisy.shape[1:])
    views = noisy_views(counts, sizes, [attributes[at].name for at in kept])
    return Gathered(tuple(gathered.names[at] for at in kept), views, sizes, left_out)


def _known(
    noisy: Tensor, gathered: Gathered, attributes: Sequence[Attribute], min_group_size: int
) -> tuple[list[int], dict[str, str]]:
    """The attributes that released counts know something of: a group other than the missing one can be judged."""
    whole, kept, left_out = GroupSample(noisy), [], {}
    for at, attribute in enumerate(attributes):
        judged = GroupSample(whole.attribute(gathered.sizes, at).counts.clamp(min=0)).judged(max(1, min_group_size))
        others = [name for name, large in zip(gathered.names[at], judged.tolist(), strict=True) if large]
        if attribute.missing is not None and others == [attribute.missing]:
            left_out[attribute.name] = attribute.missing
        else:
            kept.append(at)
    return kept, left_out


def scalars_of(tables: Sequence[FairnessTable], base: str, *, several: bool) -> dict[str, float]:
    """What is logged of the tables of one loader, by name.

    Args:
        tables: Of the attributes.
        base: What the names begin with.
        several: Whether there are several attributes, some of which may have been left out; the groups of their
            intersections are many, and not logged.
    """
    found: dict[str, float] = {}
    for table in tables:
        prefix = f"{base}/{table.attribute}" if several else base
        crossed = len(tables) > 1 and table is tables[-1]
        scalars = table.disparities if crossed else table.scalars()
        found |= {f"{prefix}/{figure}": value for figure, value in scalars.items()}
    return found
