"""Parameters that are used outside of a layer's own forward: ``F.linear(x, embedding.weight)``, ``x + self.position``.

While the network's code runs, every function of torch goes past a :class:`FollowedParameters`. What is made of
parameters and constants alone is computed on stand-ins and followed (:mod:`~lightning_privacy.gradients.followed`).
Where that meets the batch, the call is listened to (:mod:`~lightning_privacy.gradients.functional_call`).

What is the batch? Whatever was computed from the arguments that the network or ``training_step`` was given, or from
what a layer returned. Its first dimension must be the examples; where a probe found out about each call, it may be
another one. Constants, whatever their shape, are never taken for it: a mask of 64 positions by 64 is none, in a batch
of 64.

Example:
    >>> import torch
    >>> from torch import nn
    >>> from lightning_privacy.gradients import PrivateGradients
    >>> from lightning_privacy.mechanisms.noise import NoiseSource
    >>> class Scaled(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.linear, self.scale = nn.Linear(3, 3), nn.Parameter(torch.zeros(3))
    ...
    ...     def forward(self, x):
    ...         return self.linear(x) * self.scale.exp()
    >>> model = Scaled()
    >>> engine = PrivateGradients(
    ...     model, max_grad_norm=1.0, noise_multiplier=1.0, expected_batch_size=8, noise=NoiseSource()
    ... )
    >>> engine.attach()
    >>> engine.arm(batch_size=8, step=0)
    >>> model(torch.randn(8, 3)).mean().backward()
    >>> model.scale.grad.shape
    torch.Size([3])
    >>> engine.detach()
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import _get_current_function_mode, _get_current_function_mode_stack
from torch.utils._pytree import tree_flatten, tree_unflatten

from lightning_privacy.errors import PrivacyViolation, UnsupportedError
from lightning_privacy.gradients.followed import Followed, recording
from lightning_privacy.gradients.functional_call import MixedCall
from lightning_privacy.gradients.functional_mode import FunctionMode, uncompiled
from lightning_privacy.gradients.functional_operand import operand_layout
from lightning_privacy.gradients.functional_operation import Operation
from lightning_privacy.gradients.functional_tables import LIKE_OTHER, PLAIN
from lightning_privacy.gradients.nested import tensors_in
from lightning_privacy.gradients.recorder import Recorder

__all__ = ["FollowedParameters"]


class FollowedParameters:
    """Follows the private parameters of a network through the functions of torch.

    Args:
        network: the network.
        recorder: the sites' shared state.
        private: ``id`` of the parameters to follow.
    """

    def __init__(self, network: nn.Module, recorder: Recorder, private: Container[int]) -> None:
        self._network = network
        self._recorder = recorder
        self._parameters = {name: p for name, p in network.named_parameters() if id(p) in private}
        self._names = {id(p): name for name, p in self._parameters.items()}
        # The tensors that calls are searched for, by id: None stands for a parameter that was not used yet.
        self.tracked: dict[int, Followed | None] = dict.fromkeys(self._names)
        self._data: dict[int, weakref.ref[Tensor]] = {}
        self._mode = FunctionMode(self)

    @property
    def active(self) -> bool:
        """Whether calls of functions are followed at the moment."""
        # Within a function that is being followed the mode is off, and so it is where a checkpoint recomputes.
        recorder = self._recorder
        if not recorder.armed or recorder.bypass:
            return False
        return self._mode in _get_current_function_mode_stack()  # type: ignore[no-untyped-call]

    def rest(self) -> bool:
        """Let functions be called unseen from now on to :meth:`wake`, where nothing else watches them meanwhile.

        For what a layer's site calls itself, on detached parameters: every look at an attribute of a tensor is a call.
        """
        if _get_current_function_mode() is not self._mode:  # type: ignore[no-untyped-call]
            return False
        self._mode.__exit__(None, None, None)
        return True

    def wake(self) -> None:
        """See calls of functions again."""
        self._mode.__enter__()  # type: ignore[no-untyped-call]

    @property
    def rows(self) -> int | None:
        """Rows of the batch, where their number is known."""
        examples = self._recorder.examples
        return None if examples is None else examples * self._recorder.views

    def reset(self) -> None:
        """Forget what was made of parameters, and what was computed from a batch."""
        self.tracked = dict.fromkeys(self._names)
        self._data = {}

    @contextmanager
    def watching(self, arguments: Any) -> Iterator[None]:
        """Watch what runs inside; does nothing where it is watched already, or nothing is expected.

        Args:
            arguments: what the batch is.
        """
        recorder = self._recorder
        if not recorder.armed or recorder.bypass or self.active:
            yield
            return
        for tensor in tensors_in(arguments):
            self.note(tensor)
        with uncompiled(), self._mode:
            yield

    def note(self, tensor: Tensor) -> None:
        """Take note of a tensor that was computed from the batch."""
        if id(tensor) not in self.tracked:
            self._data[id(tensor)] = weakref.ref(tensor)

    def note_output(self, output: Any) -> None:
        """Take note of what a layer returned; see :class:`~lightning_privacy.gradients.recorder.Watch`."""
        for tensor in tensors_in(output):
            if not tensor.requires_grad:
                self.note(tensor)

    def is_data(self, tensor: Tensor) -> bool:
        """Return whether ``tensor`` was computed from the batch."""
        if tensor.requires_grad:
            # Parameters are detached or followed, so what still has a gradient came out of a layer.
            return id(tensor) not in self.tracked
        noted = self._data.get(id(tensor))
        return noted is not None and noted() is tensor

    def follows(self, arguments: Any) -> bool:
        """Return whether something in ``arguments`` was made of parameters alone."""
        return any(id(tensor) in self.tracked for tensor in tensors_in(arguments))

    def without_data(self, arguments: Any) -> bool:
        """Return whether nothing in ``arguments`` was computed from the batch."""
        return not any(self.is_data(tensor) for tensor in tensors_in(arguments))

    def only_data(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Return whether arguments hold something computed from the batch, and nothing made of parameters alone."""
        if kwargs or any(type(value) is not Tensor for value in args):
            return not self.without_data((args, kwargs)) and not self.follows((args, kwargs))
        tracked = self.tracked  # the usual case, without looking into anything
        return not any(id(value) in tracked for value in args) and any(self.is_data(value) for value in args)

    def with_rows(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Return the arguments of a layer; see :class:`~lightning_privacy.gradients.recorder.Watch`."""
        leaves, spec = tree_flatten((args, kwargs))
        for index, leaf in enumerate(leaves):
            if isinstance(leaf, Tensor) and id(leaf) in self.tracked:
                leaves[index] = self._in_rows_of_layer(name, leaf)
        changed: tuple[Any, dict[str, Any]] = tree_unflatten(leaves, spec)
        return changed

    def called(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Stand in for a function that was called with something that is followed."""
        recorder = self._recorder
        if function in PLAIN or recorder.bypass or not recorder.armed or not torch.is_grad_enabled():
            return self.untouched(function, args, kwargs)
        leaves, spec = tree_flatten((args, kwargs))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        followed = {id(leaf): self._followed(leaf) for leaf in tensors if id(leaf) in self.tracked}
        followed = {key: one for key, one in followed.items() if one.graph.requires_grad}
        if not followed:
            return self.untouched(function, args, kwargs)
        data = [leaf for leaf in tensors if id(leaf) not in followed and self.is_data(leaf)]
        if function in LIKE_OTHER and data:
            if id(args[0]) not in followed:
                return self.untouched(function, *tree_unflatten(self._detached(leaves, followed), spec))
            data = []
        if not data:
            return self._made(function, leaves, spec, followed)
        return self._meets(function, args, kwargs, followed, data)

    def untouched(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a function as it is, and note whether what it returns was computed from the batch."""
        output = function(*args, **kwargs) if kwargs else function(*args)
        kind = type(output)
        if kind is Tensor:
            if not output.requires_grad and self._any_data(args, kwargs):
                self._data[id(output)] = weakref.ref(output)
        elif kind not in _PLAIN_TYPES and isinstance(output, Tensor | tuple | list) and self._any_data(args, kwargs):
            self.note_output(output)
        return output

    def _any_data(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Return whether the batch is among the arguments; as ``without_data``, for the many calls of functions."""
        noted = self._data
        for value in args:
            kind = type(value)
            if kind is Tensor:
                known = noted.get(id(value))
                if (known is not None and known() is value) or (value.requires_grad and id(value) not in self.tracked):
                    return True
            elif kind not in _PLAIN_TYPES and not self.without_data(value):
                return True
        return bool(kwargs) and not self.without_data(kwargs)

    def _followed(self, tensor: Tensor) -> Followed:
        known = self.tracked[id(tensor)]
        name = self._names.get(id(tensor))
        if known is not None and name is not None and known.graph.requires_grad != tensor.requires_grad:
            known = None  # switched on or off since
        if known is None:
            name = self._names[id(tensor)]
            # A parameter that is switched off for one loss is a constant.
            stand_in = tensor.detach().requires_grad_(tensor.requires_grad)
            if tensor.requires_grad:
                stand_in.register_post_accumulate_grad_hook(_Refusing(name))  # type: ignore[no-untyped-call]
            known = Followed(tensor, stand_in, {name: stand_in})
            self.tracked[id(tensor)] = known
        return known

    @staticmethod
    def _detached(leaves: list[Any], followed: Mapping[int, Followed]) -> list[Any]:
        return [followed[id(leaf)].graph.detach() if id(leaf) in followed else leaf for leaf in leaves]

    def _made(
        self, function: Callable[..., Any], leaves: list[Any], spec: Any, followed: Mapping[int, Followed]
    ) -> Any:
        """Compute with parameters and constants alone, and follow what comes out."""
        changed = [followed[id(leaf)].graph if id(leaf) in followed else leaf for leaf in leaves]
        data = {id(tensor) for tensor in tensors_in(leaves) if self.is_data(tensor)}
        args, kwargs = tree_unflatten(changed, spec)
        with recording():
            output = _repeat(*args, **kwargs) if function is Tensor.repeat else function(*args, **kwargs)
        sources: dict[str, Tensor] = {}
        for one in followed.values():
            sources.update(one.sources)
        # What was changed in place is made of parameters from now on, too.
        for tensor in (*tensors_in(output), *tensors_in(leaves)):
            if tensor.requires_grad and id(tensor) not in self.tracked and id(tensor) not in data:
                self.tracked[id(tensor)] = Followed(tensor, tensor, sources)
        return output

    def _meets(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        followed: Mapping[int, Followed],
        data: list[Tensor],
    ) -> Any:
        """Call a function in which parameters meet the batch."""
        names = sorted(set().union(*(one.names for one in followed.values())))
        spelled = getattr(function, "__name__", str(function)).strip("_")
        operation = Operation(
            f"{spelled} of {', '.join(repr(name) for name in names)}",
            self._network,
            self._recorder,
            {name: self._parameters[name] for name in names},
        )
        if any(isinstance(leaf, nn.Parameter) for leaf in data):
            raise UnsupportedError(
                f"{operation.name} is called with a public parameter as well, which is neither the batch nor private; "
                "give the private part the output of a public layer, or declare both private"
            )
        layouts = {
            id(leaf): operand_layout(self._recorder, f"{operation.name}, operand {k}", leaf)
            for k, leaf in enumerate(data)
        }
        if self._recorder.seen is not None:
            call = MixedCall(operation, function, args, kwargs, followed, {})
            output = call.run()
            self.note_output(output)
            return output
        return MixedCall(operation, function, args, kwargs, followed, layouts).result()

    def _in_rows_of_layer(self, name: str, tensor: Tensor) -> Tensor:
        """Return what stands for a tensor made of parameters in the arguments of a layer that also get the batch."""
        recorder = self._recorder
        followed = self._followed(tensor)
        names = sorted(followed.names)
        label = f"{', '.join(repr(one) for one in names)} as input of layer '{name}'"
        layout = recorder.operand(label, tensor.shape)
        if recorder.seen is not None:
            return followed.graph.detach()
        if layout is None or layout.dimension is None:
            raise UnsupportedError(
                f"{label}: a tensor of shape {tuple(tensor.shape)} made of parameters alone is given to a layer "
                "together with the batch, and it can't be told whether it has a row for each example. Expand it to the "
                "batch and train with probe=True, or add it to zeros of the batch (x.new_zeros(len(x), 1, 1) + "
                "parameter), and pass the result."
            )
        operation = Operation(label, self._network, recorder, {one: self._parameters[one] for one in names})
        return operation.in_rows(followed, tensor.dim(), layout.dimension, tensor.shape[layout.dimension])


def _repeat(tensor: Tensor, *sizes: Any) -> Tensor:
    """Return ``tensor.repeat(*sizes)``, with dimensions of size 1 expanded: then they are known to be one in memory."""
    counts = list(sizes[0]) if len(sizes) == 1 and not isinstance(sizes[0], int) else list(sizes)
    shape = [1] * (len(counts) - tensor.dim()) + list(tensor.shape)
    inner = [1 if size == 1 else count for size, count in zip(shape, counts, strict=True)]
    repeated = tensor.reshape(shape).repeat(inner)
    return repeated.expand([size * count for size, count in zip(shape, counts, strict=True)])


class _Refusing:
    """Stands guard at a stand-in: a gradient that arrives there by itself was told apart by nobody."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, stand_in: Tensor) -> None:
        stand_in.grad = None
        raise PrivacyViolation(
            f"parameter '{self._name}' received a gradient in a way that can't be followed: through a torch.autograd."
            "Function, scripted code, a penalty on the weights, a tensor kept from an earlier batch or a second "
            "backward of the same batch. Compute with it by functions of torch or put it into a module, use "
            "weight_decay in place of a penalty, and add losses up before one backward."
        )


_PLAIN_TYPES = frozenset({int, float, bool, str, slice, type(None), type(...), torch.Size, torch.dtype, torch.device})
