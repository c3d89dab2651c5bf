"""Code that draws random tensors for a batch, with each row drawn from that row's key in place of torch's generator.

Whatever draws a tensor whose first dimension is the batch gets numbers that depend on the example of each row and on
nothing else, without knowing of it. A draw without such a dimension is the same for all examples (of an epoch).

Example:
    >>> import torch
    >>> from lightning_privacy.data.augmentation.draws import Draws
    >>> with KeyedRandom(Draws(torch.tensor([5, 6, 5]))):
    ...     values = torch.rand(3)
    >>> bool(values[0] == values[2]), bool(values[0] == values[1])
    (True, False)
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_privacy.data.augmentation.draws import Draws
from lightning_privacy.errors import UnsupportedError

__all__ = ["KeyedRandom"]

_aten = torch.ops.aten


class KeyedRandom(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While it is entered, random tensors are made from the rows' keys.

    Args:
        draws: of the rows of the batch.

    Raises:
        UnsupportedError: On a random operation that can't be drawn row by row.
    """

    def __init__(self, draws: Draws) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._draws = draws

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **given)
        make = _MAKERS.get(str(func.overloadpacket).removeprefix("aten."))
        if make is None:
            raise UnsupportedError(
                f"the transform draws random numbers with torch's {func.overloadpacket}, which can't be done for each "
                "example by itself: use a transform of lightning_privacy.data.augmentation or where='workers'"
            )
        return make(self, *args, **given)

    def unit(self, shape: tuple[int, ...], *, normal: bool = False) -> Tensor:
        """Numbers of the given shape on the CPU, float32: uniform in [0, 1) or standard normal."""
        rows = len(self._draws)
        draws, inner = self._draws, shape[1:]
        if not shape or shape[0] != rows:
            draws, inner = self._draws.of_batch(), shape
            self._draws.uniform()  # moves on
        if normal or prod(inner) > 64:
            values = draws.field(tuple(inner), torch.device("cpu"), normal=normal)
            draws.uniform()
        else:
            values = draws.uniform(0.0, 1.0, *inner)
        return values.view(shape)


def _options(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {name: kwargs[name] for name in ("dtype", "device") if kwargs.get(name) is not None}


def _rand(mode: KeyedRandom, size: Any, **kwargs: Any) -> Tensor:
    return mode.unit(tuple(size)).to(**_options(kwargs) or {"dtype": torch.get_default_dtype()})


def _randn(mode: KeyedRandom, size: Any, **kwargs: Any) -> Tensor:
    return mode.unit(tuple(size), normal=True).to(**_options(kwargs) or {"dtype": torch.get_default_dtype()})


def _rand_like(mode: KeyedRandom, like: Tensor, **kwargs: Any) -> Tensor:
    return mode.unit(tuple(like.shape)).to(**{"dtype": like.dtype, "device": like.device, **_options(kwargs)})


def _randn_like(mode: KeyedRandom, like: Tensor, **kwargs: Any) -> Tensor:
    values = mode.unit(tuple(like.shape), normal=True)
    return values.to(**{"dtype": like.dtype, "device": like.device, **_options(kwargs)})


def _uniform_(mode: KeyedRandom, out: Tensor, low: float = 0.0, high: float = 1.0, **_: Any) -> Tensor:
    return out.copy_(mode.unit(tuple(out.shape)) * (high - low) + low)


def _normal_(mode: KeyedRandom, out: Tensor, mean: float = 0.0, std: float = 1.0, **_: Any) -> Tensor:
    return out.copy_(mode.unit(tuple(out.shape), normal=True) * std + mean)


def _normal(mode: KeyedRandom, mean: Any, std: Any = 1.0, *_args: Any, **_: Any) -> Tensor:
    like: Tensor = std * 0 + mean
    values: Tensor = mode.unit(tuple(like.shape), normal=True).to(like.device) * std + mean
    return values


def _bernoulli(mode: KeyedRandom, probabilities: Tensor, share: float | None = None, **_: Any) -> Tensor:
    level = probabilities if share is None else share
    return (mode.unit(tuple(probabilities.shape)).to(probabilities.device) < level).to(probabilities.dtype)


def _bernoulli_(mode: KeyedRandom, out: Tensor, share: Any = 0.5, **_: Any) -> Tensor:
    return out.copy_(mode.unit(tuple(out.shape)).to(out.device) < share)


def _whole(mode: KeyedRandom, low: int, high: int, size: Any, kwargs: dict[str, Any]) -> Tensor:
    numbers = (mode.unit(tuple(size)).double() * (high - low)).floor() + low
    return numbers.to(**{"dtype": torch.int64, **_options(kwargs)})


def _randint(mode: KeyedRandom, *args: Any, **kwargs: Any) -> Tensor:
    low, high, size = (0, *args) if len(args) == 2 else args
    return _whole(mode, low, high, size, kwargs)


def _random_(mode: KeyedRandom, out: Tensor, low: int = 0, high: int | None = None, **_: Any) -> Tensor:
    low, high = (0, low) if high is None and low else (low, 2**24 if high is None else high)
    return out.copy_(_whole(mode, low, high, out.shape, {}))


def _randperm(mode: KeyedRandom, count: int, **kwargs: Any) -> Tensor:
    order = mode._draws.of_batch().permutation(count)[0]
    mode._draws.uniform()
    return order.to(**{"dtype": torch.int64, **_options(kwargs)})


_MAKERS: dict[str, Callable[..., Tensor]] = {
    "bernoulli": _bernoulli,
    "bernoulli_": _bernoulli_,
    "normal": _normal,
    "normal_": _normal_,
    "rand": _rand,
    "rand_like": _rand_like,
    "randint": _randint,
    "randn": _randn,
    "randn_like": _randn_like,
    "random_": _random_,
    "randperm": _randperm,
    "uniform_": _uniform_,
}
