"""Random numbers for a batch in which every row has its own: functions of a key, and of nothing else.

A row's key is made of the seed, the epoch and the example, so an example is augmented the same way in any batch, in
any process and next to any others. The numbers are those of SplitMix64 (Steele, Lea and Flood, "Fast Splittable
Pseudorandom Number Generators", OOPSLA 2014, figure 17), whose state is a counter: all rows are drawn in one go. They
are computed on the CPU wherever the images are: it is a few numbers per image, and what depends on them need not wait
for a device.

Example:
    >>> import torch
    >>> keys = row_keys(torch.tensor([7, 3, 7]), seed=0, epoch=2)
    >>> angles = Draws(keys).uniform(-15.0, 15.0)
    >>> angles.shape, bool(angles[0] == angles[2]), bool(angles[0] == angles[1])
    (torch.Size([3]), True, False)
"""

from __future__ import annotations

from math import pi, prod

import torch
from torch import Tensor

from lightning_privacy._validate import positive_int

__all__ = ["Draws", "mixed_key", "row_keys"]

_MASK = 2**64 - 1
_STEP = 0x9E3779B97F4A7C15
_FIRST = 0xBF58476D1CE4E5B9
_SECOND = 0x94D049BB133111EB
_FLOAT_BITS = 24
"""Bits of a uniform number: as many as a float32 has, so that 1 is never reached by rounding."""


def _signed(value: int) -> int:
    value &= _MASK
    return value - 2**64 if value >= 2**63 else value


def _shifted(values: Tensor, bits: int) -> Tensor:
    # torch shifts in copies of the sign, which don't belong to an unsigned number.
    return (values >> bits).bitwise_and_(2 ** (64 - bits) - 1)


def _mix(values: Tensor) -> Tensor:
    """Scramble 64-bit numbers; a new tensor."""
    values = values ^ _shifted(values, 30)
    values.mul_(_signed(_FIRST))
    values.bitwise_xor_(_shifted(values, 27)).mul_(_signed(_SECOND))
    return values.bitwise_xor_(_shifted(values, 31))


def mixed_key(*parts: int) -> int:
    """One 64-bit number out of several whole numbers, whose order matters."""
    state = 0
    for part in parts:
        state = (state + (part + 1) * _STEP) & _MASK
        state = ((state ^ (state >> 30)) * _FIRST) & _MASK
        state = ((state ^ (state >> 27)) * _SECOND) & _MASK
        state ^= state >> 31
    return _signed(state)


def row_keys(index: Tensor, *, seed: int, epoch: int, draw: int = 0, copy: Tensor | None = None) -> Tensor:
    """The keys of the rows of a batch.

    Args:
        index: number of each row's example in the data set, int64 on the CPU, ``(B,)``.
        seed: of the whole run.
        epoch: the epoch.
        draw: which draw of the epoch it is, where examples may come several times.
        copy: which copy of its example each row is, int64, ``(B,)``; 0 where not given.

    Returns:
        int64, ``(B,)``.
    """
    keys = index * _signed(_STEP) + mixed_key(seed, epoch, draw)
    return _mix(keys if copy is None else keys.add_(copy * _signed(_SECOND)))


class Draws:
    """Draws numbers for each row from its key; what is drawn next depends only on how much was drawn before.

    Args:
        keys: int64 on the CPU, ``(B,)``.
        views: how many rows, next to each other, are views of one example.
        shared: a number for draws that are the same for all rows.

    Example:
        >>> draws = Draws(torch.arange(4))
        >>> bool((draws.uniform() == Draws(torch.arange(4)).uniform()).all()), draws.integers(10, 2).shape
        (True, torch.Size([4, 2]))
    """

    def __init__(self, keys: Tensor, *, views: int = 1, shared: int = 0) -> None:
        self.keys = keys
        self.views = positive_int(views=views)
        self.shared = shared
        self._used = 0

    @classmethod
    def from_generator(cls, rows: int, generator: torch.Generator | None = None) -> Draws:
        """Draws with keys from a generator (torch's own where none is given), for use outside of a data module."""
        return cls(torch.randint(-(2**63), 2**63 - 1, (rows,), generator=generator))

    def __len__(self) -> int:
        return len(self.keys)

    def child(self, number: int) -> Draws:
        """Independent draws for the same rows, such as those of transform ``number`` of a pipeline."""
        key = mixed_key(number)
        return Draws(_mix(self.keys ^ key), views=self.views, shared=mixed_key(self.shared, number))

    def of(self, rows: Tensor) -> Draws:
        """Draws of some of the rows; what was drawn for the others doesn't matter to them."""
        some = Draws(self.keys[rows], shared=self.shared)
        some._used = self._used
        return some

    def of_examples(self) -> Draws:
        """Draws with one row for each example, in place of one for each view."""
        return Draws(_mix(self.keys[:: self.views] ^ mixed_key(-1)), shared=self.shared)

    def of_batch(self) -> Draws:
        """Draws with a single row, the same whichever examples the batch has."""
        return Draws(torch.tensor([mixed_key(self.shared, self._used)]))

    def _bits(self, *shape: int) -> Tensor:
        count = prod(shape)
        counters = torch.arange(self._used + 1, self._used + count + 1).mul_(_signed(_STEP))
        self._used += count
        return _mix(self.keys[:, None] + counters).view(len(self.keys), *shape)

    def uniform(self, low: float = 0.0, high: float = 1.0, *shape: int) -> Tensor:
        """Numbers in ``[low, high)``, float32, ``(B, *shape)``."""
        numbers = _shifted(self._bits(*shape), 64 - _FLOAT_BITS).to(torch.float32)
        return numbers.mul_((high - low) / 2**_FLOAT_BITS).add_(low)

    def integers(self, high: int, *shape: int) -> Tensor:
        """Whole numbers from 0 to ``high - 1``, int64, ``(B, *shape)``; the bias is below ``high / 2**31``."""
        return (_shifted(self._bits(*shape), 33) * high) >> 31

    def chance(self, probability: float, *shape: int) -> Tensor:
        """True with the given probability, bool, ``(B, *shape)``."""
        if probability >= 1:
            return torch.ones(len(self.keys), *shape, dtype=torch.bool)
        return self.uniform(0.0, 1.0, *shape) < probability

    def permutation(self, count: int) -> Tensor:
        """A random order of ``0 .. count - 1`` for each row, int64, ``(B, count)``."""
        return self.uniform(0.0, 1.0, count).argsort(dim=1)

    def field(self, shape: tuple[int, ...], device: torch.device, *, normal: bool = False) -> Tensor:
        """As many random numbers as an image has, float32 on ``device``, ``(B, *shape)``: uniform or standard normal.

        On the CPU they come from a generator for each row, which is faster; so they are not those of a GPU.
        """
        keys = self._bits()
        if device.type != "cpu":
            return _hashed(keys.to(device), shape, normal=normal)
        out = torch.empty(len(keys), *shape)
        generator = torch.Generator()
        for row, key in zip(out, keys.tolist(), strict=True):
            generator.manual_seed(key)
            if normal:
                row.normal_(generator=generator)
            else:
                row.uniform_(generator=generator)
        return out


def _hashed(keys: Tensor, shape: tuple[int, ...], *, normal: bool) -> Tensor:
    """Many numbers for each key, computed where the keys are, float32, ``(B, *shape)``."""
    counters = torch.arange(1, prod(shape) + 1, device=keys.device).mul_(_signed(_STEP))
    bits = _mix(keys[:, None] + counters).view(len(keys), *shape)
    first = _shifted(bits, 64 - _FLOAT_BITS).to(torch.float32).mul_(2.0**-_FLOAT_BITS)
    if not normal:
        return first
    # Box and Muller (1958), with the other bits of the same number for the angle.
    second = bits.bitwise_and_(2**_FLOAT_BITS - 1).to(torch.float32).mul_(2 * pi / 2**_FLOAT_BITS)
    return first.neg_().log1p_().mul_(-2).sqrt_().mul_(second.cos_())
