"""Stand-ins for the forward of modules that are not listened to themselves.

Example:
    >>> import torch
    >>> first_batch_size(({"x": torch.zeros(5, 2)}, 3))
    5
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from torch import nn

from lightning_privacy.errors import ConfigurationError, UnsupportedError
from lightning_privacy.gradients.functional import FollowedParameters
from lightning_privacy.gradients.interception import Handler
from lightning_privacy.gradients.nested import tensors_in
from lightning_privacy.gradients.recorder import Recorder, Watch

__all__ = ["CalledPlainly", "LossSite", "PublicSite", "RootSite", "WatchedSite", "first_batch_size"]


class WatchedSite:
    """A module with parameters of its own next to children: what it computes with them is followed."""

    served_by = "followed functions"

    def __init__(self, watch: Watch) -> None:
        self.watch = watch

    def __call__(self, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """See :data:`~lightning_privacy.gradients.interception.Handler`."""
        with self.watch.watching((args, kwargs)):
            return original(*args, **kwargs)


class LossSite:
    """A loss that divides by a count of the batch: nothing is wrong with it until it is trained on."""

    def __init__(self, name: str, layer: nn.Module, recorder: Recorder, problem: str) -> None:
        self.name, self.layer, self.recorder, self.problem = name, layer, recorder, problem

    def __call__(self, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """See :data:`~lightning_privacy.gradients.interception.Handler`."""
        if self.recorder.armed and self.recorder.listening():
            raise UnsupportedError(f"layer '{self.name}' ({type(self.layer).__name__}): {self.problem}")
        return original(*args, **kwargs)


class CalledPlainly:
    """A compiled module: what it was made from has sites, which a compiled graph would not come by."""

    def __init__(self, plain: Callable[..., Any]) -> None:
        self.plain = plain

    def __call__(self, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """See :data:`~lightning_privacy.gradients.interception.Handler`."""
        return self.plain(*args, **kwargs)


class RootSite:
    """The network itself, where its own input tells the batch size when nobody else does."""

    def __init__(self, network: nn.Module, recorder: Recorder, inner: Handler | None, method: str) -> None:
        self.network = network
        self.recorder = recorder
        self.inner = inner
        self.method = method

    def __call__(self, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """See :data:`~lightning_privacy.gradients.interception.Handler`."""
        recorder = self.recorder
        listening = recorder.armed and recorder.listening()
        if listening and self._renewed():
            return getattr(self.network, self.method)(*args, **kwargs)
        if listening and recorder.examples is None:
            recorder.take_examples(first_batch_size((args, kwargs)))
        watching = nullcontext() if recorder.watch is None else recorder.watch.watching((args, kwargs))
        with watching:
            if self.inner is not None:
                return self.inner(original, args, kwargs)
            return original(*args, **kwargs)

    def _renewed(self) -> bool:
        """Whether the layers are listened to anew; the many looks at parameters for that need not be watched."""
        watch = self.recorder.watch
        if watch is None or not watch.rest():
            return self.recorder.collector.renew()
        try:
            return self.recorder.collector.renew()
        finally:
            watch.wake()


def first_batch_size(arguments: object) -> int:
    """Return the first dimension of the first tensor found in ``arguments``.

    Args:
        arguments: nested arguments of the network's forward.

    Raises:
        ConfigurationError: there is no tensor with a batch dimension.
    """
    for tensor in tensors_in(arguments):
        if tensor.dim() > 0:
            return int(tensor.shape[0])
    raise ConfigurationError("the network was called without a tensor that has a batch dimension; pass one first")


class PublicSite:
    """A layer whose parameters see no private data; what it makes goes through the rest like a batch."""

    def __init__(self, recorder: Recorder, watch: FollowedParameters) -> None:
        self.recorder = recorder
        self.watch = watch

    def __call__(self, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """See :data:`~lightning_privacy.gradients.interception.Handler`."""
        output = original(*args, **kwargs)
        if self.recorder.armed and self.recorder.listening():
            self.watch.note_output(output)
        return output
