"""What a run must be like to be audited, and what it promises."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from lightning_privacy.accounting import PrivacyLedger
from lightning_privacy.audit.canaries import CanaryMaker, MislabelledCanaries
from lightning_privacy.audit.trade_off import PrivacyProfile, TradeOffCurve
from lightning_privacy.callbacks import _trainer as internals
from lightning_privacy.callbacks.run_privacy import federation_of, ledger_of, privacy_of, protects
from lightning_privacy.errors import ConfigurationError, UnsupportedError

__all__ = ["Promise", "check_audit", "declared_maker", "promise_of"]

_DELTA = 1e-5


@dataclass(frozen=True)
class Promise:
    """What a run promises.

    Args:
        delta: At which.
        epsilon: None where nothing is promised.
        curve: All that is promised.
        ledger: Who says so.
    """

    delta: float
    epsilon: float | None = None
    curve: TradeOffCurve | None = None
    ledger: PrivacyLedger | None = None


def declared_maker(trainer: Any, module: Any, maker: CanaryMaker) -> CanaryMaker:
    """The maker for this run: one of wrong labels must not learn from the data of a private run which labels there are.

    Args:
        trainer: The trainer, in ``setup``.
        module: Where its ``num_classes``, or that of the data module, is one, that is how many classes there are.
        maker: As it was given.

    Raises:
        ConfigurationError: Nothing says which labels there are.
    """
    if not protects(trainer) or not isinstance(maker, MislabelledCanaries):
        return maker
    if maker.num_classes is not None or maker.label_range is not None:
        return maker
    for declares in (module, getattr(trainer, "datamodule", None)):
        found = getattr(declares, "num_classes", None)
        if isinstance(found, int) and not isinstance(found, bool) and found > 1:
            return replace(maker, num_classes=found)
    raise ConfigurationError(
        "mislabelled canaries of a private run need num_classes, the number of all classes there can be: a wrong label "
        "that is taken from the data would give one person's rare label to many canaries, and the run would be less "
        "private than it says. Give PrivacyAudit(num_classes=...), or an attribute num_classes to the module; for "
        "labels of real numbers, canaries=MislabelledCanaries(label_range=(smallest, largest))"
    )


def check_audit(trainer: Any, audit: object, *, gradients: bool) -> None:
    """Refuse a run whose audit would say nothing, or something false.

    Args:
        trainer: The trainer, in ``setup``.
        audit: The callback.
        gradients: Whether canaries are gradients.

    Raises:
        UnsupportedError: Naming the cause and the way out.
        ConfigurationError: As above.
    """
    if any(type(other) is type(audit) and other is not audit for other in trainer.callbacks):
        raise UnsupportedError(
            "there are two PrivacyAudits: the canaries of one would be training examples of the other. Use one in a run"
        )
    if trainer.world_size > 1 or internals.launches_elsewhere(trainer):
        raise UnsupportedError(
            f"PrivacyAudit is for one process that trains by itself, got {trainer.world_size} of "
            f"{type(trainer.strategy).__name__}: every process would throw coins of its own, and one that is started "
            "anew would keep the result. Audit a run with devices=1 and strategy='auto'; with DifferentialPrivacy the "
            "number of processes changes neither noise nor sampling"
        )
    if trainer.overfit_batches:
        raise UnsupportedError(
            f"Trainer(overfit_batches={trainer.overfit_batches}) trains on some batches only, and perhaps on no "
            "canary: remove it"
        )
    if gradients and privacy_of(trainer) is None:
        raise ConfigurationError(
            "canaries='gradients' are entries of a private gradient and need the DifferentialPrivacy callback: without "
            "it, use canaries='mislabelled', 'blank' or 'noise'"
        )
    federation = federation_of(trainer)
    if federation is not None and federation.example_privacy is not None:
        raise UnsupportedError(
            "FederatedStrategy(example_privacy=...) promises every client something else, and PrivacyAudit compares "
            "with one ledger: audit a client's training by itself, with DifferentialPrivacy, or use client_privacy"
        )


def promise_of(trainer: Any, delta: float | None) -> Promise:
    """What was charged so far.

    Args:
        trainer: The trainer.
        delta: At which epsilon is asked for; None for the ledger's.
    """
    ledger = ledger_of(trainer)
    if ledger is None:
        return Promise(_DELTA if delta is None else delta)
    delta = ledger.delta if delta is None else delta
    epsilon = ledger.epsilon(exact=True) if delta == ledger.delta else ledger.epsilon(delta)
    if not math.isfinite(epsilon):
        return Promise(delta, ledger=ledger)
    return Promise(delta, epsilon, PrivacyProfile.of_ledger(ledger), ledger)
