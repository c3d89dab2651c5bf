"""What a sweep costs: several private trainings on the same data, of which each has an epsilon of its own.

An epsilon covers what one run releases. Who looks at the results of several runs, be it to keep the best, has seen
them all, so all of them are released together: their ledgers compose. Where only the best is ever looked at, and the
number of runs is random and secret, it costs less: see :mod:`lightning_privacy.accounting.best_of_runs`.

Example:
    >>> from lightning_privacy.accounting import PrivacyLedger, SampledGaussian
    >>> runs = [PrivacyLedger(delta=1e-5) for _ in range(4)]
    >>> for sigma, ledger in zip((1.0, 1.0, 1.5, 2.0), runs):
    ...     ledger.charge(SampledGaussian(sigma, sample_rate=0.01), count=1000)
    >>> [round(ledger.epsilon(exact=True), 2) for ledger in runs], round(sweep_epsilon(runs), 2)
    ([1.83, 1.83, 0.92, 0.62], 2.87)
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Sequence

from lightning_privacy._validate import within_open_unit
from lightning_privacy.accounting.ledger import PrivacyLedger
from lightning_privacy.accounting.pld import exact_epsilon
from lightning_privacy.accounting.releases import Release
from lightning_privacy.accounting.void import is_void
from lightning_privacy.errors import ConfigurationError

__all__ = ["RUN_VARIABLE", "SWEEP_CAVEAT", "note_sweep", "running_sweep", "sweep_epsilon"]

SWEEP_CAVEAT = (
    "This run is one of a sweep, and epsilon covers this run alone. Choosing among the runs by their results, or "
    "publishing several, costs more: what all of them released composes (lightning_privacy.accounting.sweep)."
)
"""What a run of a sweep says of its epsilon."""

RUN_VARIABLE = "LIGHTNING_PRIVACY_SWEEP_RUN"
"""Environment variable by which a process of its own knows that it is a run of a sweep."""


def sweep_epsilon(runs: Sequence[PrivacyLedger], *, delta: float | None = None) -> float:
    """Epsilon of everything that all runs released, whatever is chosen by it.

    Args:
        runs: the ledgers of all runs on the same data, those that failed or were given up included.
        delta: the delta at which it is wanted; that of the runs where not given.

    Returns:
        Epsilon: 0.0 where nothing was released, infinity where something released is not private, or a
        caveat says that nothing is.

    Raises:
        ConfigurationError: no run, runs that protect different units, or different deltas and none given.

    Example:
        >>> from lightning_privacy.accounting import LaplaceRelease
        >>> ledger = PrivacyLedger(delta=1e-6)
        >>> ledger.charge(LaplaceRelease(epsilon=0.5))
        >>> round(sweep_epsilon([ledger, ledger]), 3)
        1.0
    """
    ledgers = list(runs)
    units = sorted({ledger.unit for ledger in ledgers})
    if len(units) != 1:
        raise ConfigurationError(
            f"runs must be ledgers that protect the same unit, at least one, got the units {units}: epsilons of "
            "different units don't add up"
        )
    deltas = sorted({ledger.delta for ledger in ledgers})
    if delta is None and len(deltas) > 1:
        raise ConfigurationError(f"the runs have the deltas {deltas}: pass delta= for the epsilon of all of them")
    if any(map(is_void, ledgers)):
        return math.inf
    counts: dict[Release, int] = {}
    for ledger in ledgers:
        for release, count in ledger.groups:
            counts[release] = counts.get(release, 0) + count
    return exact_epsilon(tuple(counts.items()), delta=deltas[0] if delta is None else within_open_unit(delta=delta))


def running_sweep() -> str | None:
    """What runs this process as one of several trainings, as far as that can be seen from inside.

    Returns:
        ``"Hydra multirun"`` in a job of ``-m`` and its processes, ``"W&B sweep"`` in a run of an agent; ``None`` where
        there is no sign.
    """
    # Nobody is in a job of Hydra who has not imported it.
    module = sys.modules.get("hydra.core.hydra_config")
    if module is not None:
        config = module.HydraConfig
        if config.initialized() and getattr(config.get().mode, "name", None) == "MULTIRUN":
            return "Hydra multirun"
    if os.environ.get(RUN_VARIABLE):
        return "Hydra multirun"
    return "W&B sweep" if os.environ.get("WANDB_SWEEP_ID") else None


def note_sweep(ledger: PrivacyLedger) -> None:
    """Add :data:`SWEEP_CAVEAT` to a ledger where this run is one of a sweep.

    Args:
        ledger: of the run.
    """
    if running_sweep() is not None:
        ledger.add_caveat(SWEEP_CAVEAT)
