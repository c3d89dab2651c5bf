"""What makes the training of a trainer private, and who is charged for it: the one place that says so.

Example:
    >>> from lightning_privacy._lightning import Trainer
    >>> from lightning_privacy.callbacks import DifferentialPrivacy
    >>> privacy = DifferentialPrivacy(delta=1e-5, epsilon=3.0)
    >>> trainer = Trainer(callbacks=[privacy], logger=False, enable_checkpointing=False, accelerator="cpu")
    >>> privacy_of(trainer) is privacy, federation_of(trainer), ledger_of(trainer) is privacy.ledger
    (True, None, True)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from lightning_privacy.accounting import PrivacyLedger
from lightning_privacy.callbacks.differential_privacy import DifferentialPrivacy

if TYPE_CHECKING:
    from lightning_privacy.strategies import FederatedStrategy

__all__ = ["federation_of", "final_ledger_of", "ledger_of", "privacy_of", "protects"]


def privacy_of(trainer: Any) -> DifferentialPrivacy | None:
    """The callback that makes a trainer's steps private; None where there is none.

    Args:
        trainer: Any.
    """
    return next((callback for callback in trainer.callbacks if isinstance(callback, DifferentialPrivacy)), None)


def federation_of(trainer: Any) -> FederatedStrategy | None:
    """The strategy whose steps are rounds of clients; None where steps are steps.

    Args:
        trainer: Any.
    """
    # Strategies are built on callbacks, so the class can't be imported here: it is known by what it alone has.
    strategy = trainer.strategy
    return cast("FederatedStrategy", strategy) if hasattr(strategy, "client_privacy") else None


def ledger_of(trainer: Any) -> PrivacyLedger | None:
    """The ledger of a trainer's private training, of examples or of whole clients.

    Args:
        trainer: Any.

    Returns:
        None where training is not private, or each client has a ledger of its own for its examples.
    """
    privacy = privacy_of(trainer)
    if privacy is not None:
        return privacy.ledger
    federation = federation_of(trainer)
    clients = None if federation is None else federation.client_privacy
    return None if clients is None else clients.ledger


def final_ledger_of(trainer: Any) -> PrivacyLedger | None:
    """What training was charged to; where each client has a ledger, the one of the client for whom it cost most.

    Args:
        trainer: After its training, as that client is another one from round to round.

    Returns:
        None where training was not private.
    """
    ledger = ledger_of(trainer)
    if ledger is not None:
        return ledger
    federation = federation_of(trainer)
    inside = None if federation is None else federation.example_privacy
    return None if inside is None else inside.weakest_ledger()


def protects(trainer: Any) -> bool:
    """Whether training promises something to examples of the whole data set or to clients.

    Args:
        trainer: Any.
    """
    return ledger_of(trainer) is not None
