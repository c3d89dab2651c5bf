"""Weights as the named arrays that Flower sends: no Lightning here, and Flower only where a record is made.

Everything that is sent has a name, so a server and a client that were built differently are told which tensor it is.

Example:
    >>> import torch
    >>> from torch import nn
    >>> server, client = nn.Linear(2, 1), nn.Linear(2, 1)
    >>> put_tensors(client, tensors_of(server))
    >>> torch.equal(server.weight, client.weight)
    True
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from lightning_privacy.errors import ConfigurationError, UnsupportedError

__all__ = ["array_record", "flower", "put_tensors", "tensors_in", "tensors_of"]

_TO_FLOAT32 = (torch.bfloat16,)  # NumPy has no such type; float32 holds every value of it


def flower(part: str) -> Any:
    """A module of Flower, such as ``flower("app")`` for ``flwr.app``.

    Args:
        part: its name within the package.

    Raises:
        ConfigurationError: Flower is not installed, or is a version without this part.
    """
    try:
        return import_module(f"flwr.{part}")
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "flwr":
            raise
        raise ConfigurationError(
            f"flwr.{part} is not there: Flower apps need flwr 1.41, pip install 'lightning-privacy[flower]'"
        ) from error


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name; views of the module's own memory, frozen and not persistent ones included."""
    found: dict[str, Tensor] = {name: parameter.detach() for name, parameter in module.named_parameters()}
    return found | dict(module.named_buffers())


@torch.no_grad()
def put_tensors(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy tensors into the parameters and buffers of the same name; nothing is changed when one doesn't fit.

    Args:
        module: takes them, on its device and in its types.
        tensors: one for each parameter and buffer.

    Raises:
        ConfigurationError: a name is missing or too many, or a shape differs.
    """
    own = tensors_of(module)
    if unknown := sorted(own.keys() ^ tensors.keys()):
        where = "here" if unknown[0] in own else "in what was sent"
        raise ConfigurationError(
            f"server and client have different models: {unknown[0]!r} is only {where} ({len(unknown)} such names); "
            "build both from the same code"
        )
    for name, tensor in own.items():
        if tensor.shape != tensors[name].shape:
            raise ConfigurationError(
                f"server and client have different models: {name!r} has shape {tuple(tensor.shape)} here and "
                f"{tuple(tensors[name].shape)} in what was sent; build both from the same code"
            )
    for name, tensor in own.items():
        tensor.copy_(tensors[name])


def array_record(tensors: Mapping[str, Tensor]) -> Any:
    """A Flower ``ArrayRecord`` of tensors; bfloat16 is sent as float32, which holds the same values.

    Args:
        tensors: dense, by name.

    Raises:
        ConfigurationError: Flower is not installed.
        UnsupportedError: NumPy has no such type.
    """
    app = flower("app")
    arrays = {}
    for name, tensor in tensors.items():
        plain = tensor.detach().to("cpu", torch.float32 if tensor.dtype in _TO_FLOAT32 else None)
        try:
            values = plain.numpy()
        except TypeError as error:
            raise UnsupportedError(
                f"{name!r} has type {tensor.dtype}, which NumPy and therefore Flower's arrays don't have"
            ) from error
        arrays[name] = app.Array(values)
    return app.ArrayRecord(arrays)


def tensors_in(record: Any) -> dict[str, Tensor]:
    """Tensors of a Flower ``ArrayRecord``, by name, on the CPU.

    Args:
        record: what :func:`array_record` made; no array of it may need pickle, and none is unpickled.
    """
    # A copy: what Flower unpacks is read-only memory.
    return {name: torch.from_numpy(array.numpy().copy()) for name, array in record.items()}
