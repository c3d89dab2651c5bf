"""What a step of a round's pipeline is: something done to a delta on the client, or to the aggregate on the server.

Example:
    >>> import torch
    >>> from lightning_privacy.federated.contexts import ClientContext
    >>> from lightning_privacy.federated.transforms import DeltaTransform
    >>> class Halve(DeltaTransform):
    ...     def on_client(self, delta, context):
    ...         return delta / 2
    >>> context = ClientContext(seed=0, round_number=0, client=0, num_examples=1)
    >>> Halve().on_client(torch.ones(2), context)
    tensor([0.5000, 0.5000])
"""

from __future__ import annotations

from torch import Tensor

from lightning_privacy.federated.contexts import ClientContext, RoundContext

__all__ = ["DeltaTransform", "log_bytes"]


class DeltaTransform:
    """A step of the pipeline. Derive from it and override one of its methods, or both.

    A transform holds no state: what a client keeps from round to round goes in ``context.memory``, and randomness is
    keyed by seed, round and client. Steps run in the order given, on the client before the clip of client privacy.

    Example:
        >>> import torch
        >>> context = RoundContext(0, 0, cohort_size=2, expected_cohort_size=2.0, num_received=2)
        >>> DeltaTransform().on_server(torch.ones(1), context)
        tensor([1.])
    """

    def on_client(self, delta: Tensor, context: ClientContext) -> Tensor:
        """Return what the server gets of a client's delta.

        Args:
            delta: shape ``(P,)``; not changed.
            context: the client and the round; memory and log may be written to.

        Returns:
            Shape ``(P,)``, the dtype and device of ``delta``.
        """
        return delta

    def on_server(self, aggregate: Tensor, context: RoundContext) -> Tensor:
        """Return what the server optimizer gets of the aggregate.

        Args:
            aggregate: shape ``(P,)``; not changed.
            context: the round; the log may be written to.

        Returns:
            Shape ``(P,)``.
        """
        return aggregate


def log_bytes(context: ClientContext, delta: Tensor, sent: int) -> None:
    """Log the bytes a compressed delta takes, and what it would take as it is.

    After several compressions the last one's figure stands; after none the log has none.

    Args:
        context: of the client.
        delta: what is compressed.
        sent: bytes of what is sent in its place.
    """
    context.log["bytes"] = float(sent)
    context.log["dense_bytes"] = float(delta.numel() * delta.element_size())
