"""What a module keeps that no gradient trains, each part as something small that differs where its content does.

A version counts in-place changes of a tensor, but none through ``tensor.data`` or a NumPy view, and some entries of a
checkpoint (states of metrics, extra states) are no buffers at all. Here it is the content that is compared.

Example:
    >>> import torch
    >>> module = torch.nn.Linear(2, 2)
    >>> module.register_buffer("mean", torch.zeros(2))
    >>> before = state_values(module)
    >>> module.mean.data += 1
    >>> sorted(before), state_values(module) == before
    (['mean'], False)
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

__all__ = ["checksum", "holds_more_than_a_count", "state_values", "untrained_entries"]

_CHUNK_OF_CACHE, _CHUNK_OF_DEVICE = 2**16, 2**22
_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
# Odd factors without a pattern, as 64-bit numbers with a sign.
_PLACE, _FIRST, _SECOND = 0x1E3779B97F4A7C15, 0x3F58476D1CE4E5B9, 0x14D049BB133111EB


def untrained_entries(module: nn.Module) -> dict[str, Any]:
    """Entries of ``state_dict()`` that are no parameters, nor parameters under another name.

    Args:
        module: The module.
    """
    parameters = dict(module.named_parameters(remove_duplicate=False))
    places = {_place(parameter) for parameter in parameters.values()} - {0}
    return {
        name: value
        for name, value in module.state_dict().items()
        if name not in parameters and not (isinstance(value, Tensor) and _place(value) in places)
    }


def state_values(module: nn.Module) -> dict[str, Any]:
    """Buffers, frozen parameters and what else is in ``state_dict()``, by name, each as a value to compare.

    A buffer that is one whole number counts steps or the like and is left out.

    Args:
        module: The module; buffers that a checkpoint leaves out are looked at too.
    """
    buffers = dict(module.named_buffers(remove_duplicate=False))
    frozen = {name: each for name, each in module.named_parameters() if not each.requires_grad}
    kept = frozen | untrained_entries(module) | buffers
    return {name: _value(each) for name, each in kept.items() if name not in buffers or holds_more_than_a_count(each)}


def holds_more_than_a_count(buffer: Tensor) -> bool:
    """Whether a buffer is more than one whole number.

    Args:
        buffer: Of any shape and dtype.
    """
    return buffer.is_floating_point() or buffer.numel() > 1


def checksum(tensor: Tensor) -> int:
    """A number of 64 bits made of every bit of a tensor and its place, computed where the tensor is.

    It finds changes that happen, not those of somebody who looks for two tensors with one checksum.

    Args:
        tensor: Of any shape and dtype.
    """
    data = tensor.detach()
    if data.is_quantized:
        data = data.dequantize()
    if data.layout is not torch.strided:
        data = data.to_dense()
    if data.is_complex():
        data = torch.view_as_real(data.resolve_conj())
    words = data.resolve_neg().contiguous().reshape(-1).view(_WORDS[data.element_size()])
    chunk = _CHUNK_OF_CACHE if words.device.type == "cpu" else _CHUNK_OF_DEVICE
    places = torch.arange(min(chunk, len(words)), device=words.device) * _PLACE
    total = torch.zeros((), dtype=torch.int64, device=words.device)
    for start in range(0, len(words), chunk):  # what is needed besides does not grow with the tensor
        part = words[start : start + chunk].to(torch.int64, copy=True)
        part ^= places[: len(part)] + _signed(start * _PLACE)
        part *= _FIRST
        part ^= part >> 31
        part *= _SECOND
        part ^= part >> 29
        total += part.sum()
    return int(total)


def _signed(number: int) -> int:
    return (number + 2**63) % 2**64 - 2**63


def _place(tensor: Tensor) -> int:
    """Where a tensor's content is in memory; 0 where that can't be said."""
    if is_lazy(tensor) or tensor.layout is not torch.strided:
        return 0
    return tensor.untyped_storage().data_ptr()


def _value(value: Any) -> Any:
    if isinstance(value, Tensor):
        if is_lazy(value) or value.is_meta:
            return None
        return str(value.dtype), tuple(value.shape), checksum(value)
    if value is None or isinstance(value, (int, str, bytes)):
        return None if isinstance(value, int) else value  # a whole number counts steps or the like
    if isinstance(value, Mapping):
        return tuple((repr(key), _value(each)) for key, each in value.items())
    if isinstance(value, (list, tuple)):
        return tuple(_value(each) for each in value)
    try:
        return hashlib.sha256(pickle.dumps(value)).hexdigest()
    except (pickle.PicklingError, AttributeError, TypeError):
        return type(value).__name__  # no checkpoint can contain it either
