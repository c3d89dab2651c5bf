"""Fairness figures of private data: counts released with noise, or a caveat where training does not pay for them.

All figures but those of scores are functions of the counts of group, label and prediction. Each person is in one cell,
so the whole table of counts is a histogram, released at once with Laplace noise; what is computed from it is
post-processing and costs nothing more, whatever the number of figures and of attributes.

Example:
    >>> import torch
    >>> from lightning_privacy.accounting import PrivacyLedger
    >>> from lightning_privacy.callbacks._processes import Processes
    >>> ledger = PrivacyLedger(delta=1e-6)
    >>> counts = torch.tensor([[[400, 100], [100, 400]]])
    >>> noisy = noisy_counts(counts, epsilon=1.0, ledger=ledger, noise=None, processes=Processes(count=1, rank=0))
    >>> noisy.shape, round(ledger.epsilon(exact=True), 3)
    (torch.Size([1, 2, 2]), 1.0)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_privacy._lightning import Trainer
from lightning_privacy.accounting import PrivacyLedger
from lightning_privacy.callbacks._processes import Processes
from lightning_privacy.callbacks._training_rows import gives_training_rows
from lightning_privacy.callbacks.run_privacy import privacy_of
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.fairness.sample import GroupSample
from lightning_privacy.mechanisms import NoiseSource, private_histogram

__all__ = ["ledger_for", "noisy_counts", "noisy_views", "note_training_rows"]


def ledger_for(trainer: Trainer, ledger: PrivacyLedger | None) -> PrivacyLedger:
    """The ledger a release is charged to.

    Args:
        trainer: Whose private training has one.
        ledger: What the user gave.

    Raises:
        ConfigurationError: There is none.
    """
    if ledger is not None:
        return ledger
    privacy = privacy_of(trainer)
    if privacy is not None:
        return privacy.ledger
    raise ConfigurationError(
        "private_epsilon needs a ledger to charge, and there is no DifferentialPrivacy whose ledger to take: pass "
        "ledger=PrivacyLedger(delta=...)"
    )


def noisy_counts(
    counts: Tensor, *, epsilon: float, ledger: PrivacyLedger, noise: NoiseSource | None, processes: Processes
) -> Tensor:
    """The counts with noise, charged before; the same in all processes.

    Args:
        counts: Exact counts over all processes, any shape; their number and shape are public.
        epsilon: What the release costs.
        ledger: Charged once in each process, whose ledgers are equal.
        noise: Where noise comes from; None for the operating system.
        processes: Each of them must call this.

    Returns:
        Whole numbers of the shape of ``counts``, int64, on the CPU; small ones may come out negative.

    Raises:
        PrivacyBudgetExceeded: The ledger can't pay; nothing is released.
    """
    flat = counts.flatten().cpu()
    cells = torch.repeat_interleave(torch.arange(flat.numel()), flat)
    # Every process draws, and the draws of all but the first are thrown away unseen.
    noisy = private_histogram(cells, num_classes=flat.numel(), epsilon=epsilon, ledger=ledger, noise=noise)
    return torch.as_tensor(processes.same(noisy)).view(counts.shape)


def noisy_views(counts: Tensor, sizes: Sequence[int], names: Sequence[str]) -> dict[str, GroupSample]:
    """By attribute, and by their intersections, what noisy counts say; negative ones are taken as 0 last.

    Args:
        counts: With noise, shape ``(I, C, C)``.
        sizes: Number of groups of each attribute.
        names: Of the attributes.
    """
    whole = GroupSample(counts)
    views = {name: whole.attribute(sizes, position) for position, name in enumerate(names)}
    if len(names) > 1:
        views[" x ".join(names)] = whole
    return {name: GroupSample(view.counts.clamp(min=0)) for name, view in views.items()}


def note_training_rows(trainer: Trainer, loader: Any, paying: PrivacyLedger | None = None) -> None:
    """Add a caveat to the ledger of private training where figures of its own rows are not charged to it.

    Args:
        trainer: The trainer.
        loader: Of what was validated.
        paying: What figures with noise are charged to, which gets the caveat too; None for exact figures.
    """
    privacy = privacy_of(trainer)
    if privacy is None or privacy.ledger is paying:
        return
    if not gives_training_rows(loader, trainer.train_dataloader):
        return
    if paying is None:
        privacy.ledger.add_caveat(
            "GroupFairness reported figures of rows that are trained on, without noise: epsilon does not cover "
            "publishing them."
        )
    else:
        privacy.ledger.add_caveat(
            "GroupFairness released figures of rows that are trained on, and charged another ledger: this epsilon "
            "does not cover them, and the two add up."
        )
        paying.add_caveat(
            "GroupFairness released figures of rows that a model was trained on, whose training was charged to "
            "another ledger: this epsilon does not cover it, and the two add up."
        )
