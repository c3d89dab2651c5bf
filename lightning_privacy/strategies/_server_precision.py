"""The server's step is in full precision, and nothing of the clients' clipping applies to it."""

from __future__ import annotations

from typing import Any

from typing_extensions import override

from lightning_privacy._lightning import Precision

__all__ = ["ServerPrecision"]


class ServerPrecision(Precision):
    """Runs the closure and the hooks around a server step, without scaling and without gradient clipping.

    ``Trainer(gradient_clip_val=...)`` and ``configure_gradient_clipping`` speak of the gradients of a client's step.
    """

    @override
    def _clip_gradients(self, *args: Any, **kwargs: Any) -> None:
        return
