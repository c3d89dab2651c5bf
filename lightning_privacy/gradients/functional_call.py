"""A function of torch called with parameters and with the batch: how it is done so that each example can be told.

In order: a rule for the function, copies of the parameter for the rows of the batch where it is broadcast over them,
the function vectorised over the rows, and in the end a refusal that says what was called.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from lightning_privacy.errors import LightningPrivacyError, UnsupportedError
from lightning_privacy.gradients.followed import Followed
from lightning_privacy.gradients.functional_operation import Operation
from lightning_privacy.gradients.functional_rules import RULES
from lightning_privacy.gradients.functional_tables import BATCHED, BROADCASTING, IN_PLACE, named
from lightning_privacy.gradients.layout import Layout

__all__ = ["MixedCall"]

_JOINING = named("cat", "concat", "concatenate", "stack", variants=False)


class MixedCall:
    """One such call.

    Args:
        operation: listens to it.
        function: what was called.
        args: positional arguments.
        kwargs: keyword arguments.
        followed: tensors made of parameters among the arguments, by ``id``.
        layouts: where the examples are in those that have any, by ``id``.
    """

    def __init__(
        self,
        operation: Operation,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        followed: Mapping[int, Followed],
        layouts: Mapping[int, Layout],
    ) -> None:
        self.operation = operation
        self.function = function
        self.args, self.kwargs = args, kwargs
        self._followed, self._layouts = followed, layouts

    def bound(self, *names: str) -> Mapping[str, Any]:
        """Return the arguments by name; those that were not passed are missing."""
        return {**dict(zip(names, self.args, strict=False)), **self.kwargs}

    def followed(self, value: Any) -> Followed | None:
        """Return what is known of an argument that was made of parameters alone."""
        return self._followed.get(id(value))

    def layout(self, value: Any) -> Layout | None:
        """Return where the examples are in an argument; None in one that has none."""
        return self._layouts.get(id(value))

    def run(self) -> Any:
        """Call the function on detached parameters."""
        return self._replaced(lambda followed: followed.graph.detach())

    def result(self) -> Any:
        """Return what the function returns, listened to.

        Raises:
            UnsupportedError: the gradient of each example can't be had.
        """
        function = self.function
        if function in IN_PLACE and self.args and self.followed(self.args[0]) is not None:
            raise self._unsupported("it would change a parameter, or what was made of parameters, by the batch")
        rule = RULES.get(function)
        if rule is not None:
            output = rule(self)
            if output is not NotImplemented:
                return output
        if function is Tensor.__setitem__:
            return self._set_item()
        if function in _MASKED_FILL:
            return self._masked_fill()
        if function in _JOINING:
            return self._join()
        if function in BROADCASTING or function in BATCHED:
            spared = 2 if function in BATCHED else 0
            output = self._broadcast(spared)
            if output is not NotImplemented:
                return output
        return self._vectorised()

    def _tensors(self) -> list[Tensor]:
        return [leaf for leaf in tree_flatten((self.args, self.kwargs))[0] if isinstance(leaf, Tensor)]

    def _replaced(self, change: Callable[[Followed], Tensor]) -> Any:
        """Call the function with other tensors in place of the parameters."""
        leaves, spec = tree_flatten((self.args, self.kwargs))
        changed = [leaf if (one := self.followed(leaf)) is None else change(one) for leaf in leaves]
        args, kwargs = tree_unflatten(changed, spec)
        return self.function(*args, **kwargs)

    def _place(self, dimensions: int) -> tuple[int, int]:
        """Return where the batch is once all operands are broadcast to so many dimensions, and its rows."""
        places, rows = set(), set()
        for tensor in self._tensors():
            layout = self.layout(tensor)
            if layout is not None and layout.dimension is not None:
                places.add(layout.dimension + dimensions - tensor.dim())
                rows.add(tensor.shape[layout.dimension])
        if len(places) != 1 or len(rows) != 1:
            raise self._unsupported("its operands have the examples of the batch in different dimensions")
        return places.pop(), rows.pop()

    def _broadcast(self, spared: int) -> Any:
        """Run with a copy of what is made of parameters for each row; ``spared`` last dimensions don't broadcast."""
        dimensions = max(tensor.dim() for tensor in self._tensors())
        place, rows = self._place(dimensions)
        if place >= dimensions - spared:
            return NotImplemented
        for tensor in self._tensors():
            own = place + tensor.dim() - dimensions
            if self.followed(tensor) is None and own >= 0 and tensor.shape[own] not in (1, rows):
                return NotImplemented
        return self._replaced(lambda followed: self.operation.in_rows(followed, dimensions, place, rows))

    def _join(self) -> Any:
        tensors = self._tensors()
        dimensions = tensors[0].dim()
        place, rows = self._place(dimensions)
        along = self.bound("tensors", "dim").get("dim", self.kwargs.get("axis", 0))
        stacks = self.function in named("stack", variants=False)
        if not stacks and along % dimensions == place:
            raise self._unsupported("it joins them in the dimension of the examples; join them in another")
        return self._replaced(lambda followed: self.operation.in_rows(followed, dimensions, place, rows))

    def _masked_fill(self) -> Any:
        arguments = self.bound("input", "mask", "value")
        x, mask, value = arguments["input"], arguments["mask"], arguments["value"]
        followed, layout = self.followed(value), self.layout(x)
        if followed is None or layout is None or layout.dimension is None or self.function in IN_PLACE:
            raise self._unsupported("only the value may be a parameter, and the result a new tensor (masked_fill)")
        rows = x.shape[layout.dimension]
        return torch.where(mask, self.operation.in_rows(followed, x.dim(), layout.dimension, rows), x)

    def _set_item(self) -> Any:
        x, index, value = self.args
        followed, layout = self.followed(value), self.layout(x)
        whole = index[0] if isinstance(index, tuple) and index else None
        if (
            followed is None
            or layout is None
            or layout.dimension != 0
            or not isinstance(index, tuple)
            or not isinstance(whole, slice)
            or whole != slice(None)
            or not all(part is None or part is ... or isinstance(part, int | slice) for part in index)
        ):
            raise self._unsupported("only x[:, ...] = parameter can be told apart by example; use torch.where or cat")
        dimensions = x.detach()[index].dim()
        x[index] = self.operation.in_rows(followed, dimensions, 0, x.shape[0])
        return None

    def _vectorised(self) -> Any:
        """Run the function row by row in one ``vmap``, each row with its own copy of what is made of parameters."""
        leaves, spec = tree_flatten((self.args, self.kwargs))
        followed = {index: one for index, leaf in enumerate(leaves) if (one := self.followed(leaf)) is not None}
        batch = {
            index: layout.dimension
            for index, leaf in enumerate(leaves)
            if (layout := self.layout(leaf)) is not None and layout.dimension is not None
        }
        if self.function in IN_PLACE or len(set(batch.values())) != 1:
            raise self._unsupported("what each row of the batch does with it can't be told")
        (place,) = set(batch.values())
        rows = {leaves[index].shape[place] for index in batch}
        if len(rows) != 1:
            raise self._unsupported("its operands have different numbers of rows")
        (size,) = rows
        with torch.no_grad():
            expected = self.run()
        if not isinstance(expected, Tensor):
            raise self._unsupported("it returns something else than a tensor")
        copies = [self.operation.in_rows(one, one.graph.dim() + 1, 0, size) for one in followed.values()]
        if size == 0:
            # Nothing to vectorise, but the backward must come by here.
            return sum((copy.sum() for copy in copies), expected)

        def single(parameters: Sequence[Tensor], tensors: Sequence[Tensor]) -> Tensor:
            filled = list(leaves)
            for index, parameter in zip(followed, parameters, strict=True):
                filled[index] = parameter
            for index, tensor in zip(batch, tensors, strict=True):
                filled[index] = tensor.unsqueeze(place)
            args, kwargs = tree_unflatten(filled, spec)
            output: Tensor = self.function(*args, **kwargs)
            return output.squeeze(place)

        try:
            output = torch.func.vmap(single, in_dims=(0, place), out_dims=place, randomness="error")(
                copies, [leaves[index] for index in batch]
            )
        except LightningPrivacyError:
            raise
        except (RuntimeError, ValueError, IndexError, NotImplementedError) as error:
            raise self._unsupported(str(error).splitlines()[0]) from error
        if output.shape != expected.shape or not torch.allclose(output, expected, 1e-2, 1e-3, equal_nan=True):
            raise self._unsupported("its result for one row depends on the other rows of the batch")
        return output

    def _unsupported(self, why: str) -> UnsupportedError:
        shapes = ", ".join(
            ("parameter " if self.followed(tensor) is not None else "") + str(tuple(tensor.shape))
            for tensor in self._tensors()
        )
        return UnsupportedError(
            f"{self.operation.name}, called with tensors of shape {shapes}: {why}. Keep the examples in one dimension "
            "of their own and put the parameter into a layer (nn.Linear, nn.Embedding, nn.LayerNorm), or into a module "
            "without children, which is run example by example."
        )


_MASKED_FILL = named("masked_fill", variants=True)
