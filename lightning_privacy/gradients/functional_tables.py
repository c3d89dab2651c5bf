"""Which functions of torch do what with their tensors, as far as it matters to who owns which rows of the result.

Example:
    >>> import torch
    >>> torch.add in BROADCASTING, torch.Tensor.__rsub__ in BROADCASTING, torch.Tensor.add_ in IN_PLACE
    (True, True, True)
    >>> torch.Tensor.shape.__get__ in PLAIN, torch.Tensor.T.__get__ in PLAIN
    (True, False)
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["BATCHED", "BROADCASTING", "IN_PLACE", "LIKE_OTHER", "PLAIN", "named"]

_OWNERS: tuple[Any, ...] = (torch, Tensor, F, torch._C._nn, torch.special, torch.linalg)


def named(*names: str, variants: bool = True) -> frozenset[Callable[..., Any]]:
    """Return the functions of these names, wherever torch has one.

    Args:
        *names: such as ``"add"``.
        variants: whether the in-place function and the operators of Python count as well.
    """
    found: set[Callable[..., Any]] = set()
    for name in names:
        spellings = (name, f"{name}_", f"__{name}__", f"__r{name}__", f"__i{name}__") if variants else (name,)
        for owner in _OWNERS:
            found.update(getattr(owner, spelling) for spelling in spellings if hasattr(owner, spelling))
    return frozenset(function for function in found if callable(function))


def _accessors(excluded: Iterable[str]) -> frozenset[Any]:
    """Return how attributes of tensors are read and written, but for those that are views."""
    found: set[Any] = set()
    for owner in Tensor.__mro__[:-1]:
        for name, attribute in vars(owner).items():
            if name in excluded or not isinstance(attribute, types.GetSetDescriptorType | property):
                continue
            found.update((attribute.__get__, attribute.__set__))
    return frozenset(found)


BROADCASTING = named(
    *("add", "sub", "subtract", "rsub", "mul", "multiply", "div", "divide", "true_divide", "truediv", "floor_divide"),
    *("floordiv", "pow", "float_power", "remainder", "mod", "fmod", "maximum", "minimum", "fmax", "fmin", "max", "min"),
    *("where", "lerp", "addcmul", "addcdiv", "atan2", "arctan2", "hypot", "xlogy", "logaddexp", "logaddexp2"),
    *("copysign", "clamp", "clip", "clamp_min", "clamp_max", "eq", "ne", "lt", "le", "gt", "ge", "greater", "less"),
    *("greater_equal", "less_equal", "not_equal", "heaviside", "dist_"),
)
"""Element by element over operands of which the shapes are broadcast."""

BATCHED = named("matmul", "bmm", "baddbmm", "scaled_dot_product_attention")
"""Products over the last two dimensions, those before being broadcast."""

LIKE_OTHER = named("type_as", "view_as", "reshape_as", "expand_as", "to", variants=False)
"""What the first operand becomes depends on the shape or dtype of the second, not on its values."""

IN_PLACE = frozenset(
    getattr(owner, name)
    for owner in (torch, Tensor, F)
    for name in dir(owner)
    if (name.endswith("_") and not name.endswith("__")) or (name.startswith("__i") and hasattr(Tensor, name[3:-2]))
)
"""Changes its first operand."""

PLAIN = (
    _accessors({"T", "mT", "H", "mH", "real", "imag"})
    | named(
        *(
            "size",
            "dim",
            "ndimension",
            "numel",
            "nelement",
            "stride",
            "storage_offset",
            "is_contiguous",
            "element_size",
        ),
        *(
            "is_floating_point",
            "is_complex",
            "is_signed",
            "is_tensor",
            "is_nonzero",
            "is_pinned",
            "is_shared",
            "is_set_to",
        ),
        *(
            "is_same_size",
            "data_ptr",
            "untyped_storage",
            "storage",
            "get_device",
            "detach",
            "detach_",
            "requires_grad_",
        ),
        *("register_hook", "register_post_accumulate_grad_hook", "retain_grad", "backward", "item", "tolist", "numpy"),
        *("__len__", "__hash__", "__repr__", "__str__", "__format__", "__bool__", "__float__", "__int__", "__array__"),
        *("__reduce_ex__", "__deepcopy__", "__contains__", "equal", "allclose", "isclose", "result_type", "can_cast"),
        *("zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like", "randint_like", "new_zeros"),
        *("new_ones", "new_empty", "new_full", "new_tensor", "new", "isnan", "isinf", "isfinite", "broadcast_shapes"),
        variants=False,
    )
    | frozenset({torch.autograd.grad, torch.autograd.backward})
)
"""Nothing that comes out of these has a gradient, or gradients are what they are about."""
