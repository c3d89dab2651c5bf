"""A model as one flat vector: what clients change and the server averages.

The entries are the trainable parameters, in the module's order, and after them its floating-point buffers, such as the
running statistics of BatchNorm. A client's delta, the aggregate and the noise of client-level privacy are vectors over
these same entries, so nothing that a client sends can be left out of a clip by accident.

What is no entry: frozen parameters, which every client starts anew and nobody averages; whole-number counters of one
entry (``num_batches_tracked``), whose increments are averaged and rounded; other buffers, which every client starts
anew and nobody averages; and personal entries, which belong to a client.

Example:
    >>> import torch
    >>> from torch import nn
    >>> module = nn.Sequential(nn.Linear(2, 2, bias=False), nn.BatchNorm1d(2))
    >>> model = FlatModel(module)
    >>> model.size, model.num_parameters
    (12, 8)
    >>> model.remember()
    >>> with torch.no_grad():
    ...     _ = module[0].weight.add_(1.0)
    >>> [round(change, 3) for change in model.delta().tolist()[:5]]
    [1.0, 1.0, 1.0, 1.0, 0.0]
    >>> model.restore()
    >>> float(model.delta().norm())
    0.0
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from lightning_privacy.errors import ConfigurationError, UnsupportedError
from lightning_privacy.federated.slots import TensorSlots

__all__ = ["FlatModel", "Pattern", "copy_all", "matching"]


Pattern = str | type[nn.Module]
"""Says which parameters and buffers belong to a client: a name, a prefix, a shell pattern or a kind of layer."""


def matching(names: Iterable[str], patterns: Collection[Pattern], module: nn.Module | None = None) -> set[str]:
    """The names that one of the patterns fits: a name, a prefix of whole parts, a shell pattern, or a kind of layer.

    Args:
        names: Dotted names.
        patterns: Such as ``"head"``, ``"*.bn1.*"``, ``nn.BatchNorm2d`` or, by name, ``"BatchNorm2d"``.
        module: Whose layers are looked at for kinds.

    Raises:
        ConfigurationError: A pattern fits no name.

    Example:
        >>> sorted(matching(["head.weight", "head.bias", "body.weight"], ["head"]))
        ['head.bias', 'head.weight']
        >>> net = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
        >>> sorted(matching([name for name, _ in net.named_parameters()], [nn.LayerNorm], net))
        ['1.bias', '1.weight']
    """
    names = list(names)
    layers = [] if module is None else list(module.named_modules())
    found: set[str] = set()
    for pattern in patterns:
        fits = _of_layers(names, pattern, layers)
        if isinstance(pattern, str):
            fits |= {name for name in names if fnmatchcase(name, pattern) or name.startswith(f"{pattern}.")}
        if not fits:
            raise ConfigurationError(
                f"personal has {pattern!r}, which fits no parameter or buffer of the module; they are named "
                f"like {', '.join(map(repr, names[:3]))}"
            )
        found |= fits
    return found


class FlatModel:
    """Flat views of a module, and the copy of its weights that a round starts from.

    Everything happens in place: the module's parameters and buffers stay the objects they are, so optimizers and user
    code that hold them see the right values.

    Args:
        module: The model, on its device.
        personal: Names, prefixes or shell patterns of parameters and buffers that belong to each client, or kinds of
            layers.
        statistics_only: Take only the running statistics of normalisation layers among the buffers, and leave out
            constants that are stored as buffers, such as position tables. Needed where noise is added to every entry.

    Raises:
        ConfigurationError: A personal pattern fits nothing, or nothing that trains is shared.
        UnsupportedError: A parameter is complex, or a dense tensor it is not.
    """

    def __init__(self, module: nn.Module, *, personal: Collection[Pattern] = (), statistics_only: bool = False) -> None:
        parameters = dict(module.named_parameters())
        buffers = dict(module.named_buffers())
        own = matching([*parameters, *buffers], personal, module)
        trainable = {name: p for name, p in parameters.items() if p.requires_grad}
        statistics = _statistics(module) if statistics_only else set(buffers)
        floats = {name: b for name, b in buffers.items() if b.is_floating_point() and name in statistics}
        _refuse_unfit(trainable)
        self.module = module
        self.parameter_names = [name for name in trainable if name not in own]
        self.parameters = [trainable[name] for name in self.parameter_names]
        if not self.parameters:
            raise ConfigurationError(
                "nothing to train together: no parameter of the module requires a gradient and is shared by the clients"
            )
        self.buffer_names = [name for name in floats if name not in own]
        self.buffers = [floats[name] for name in self.buffer_names]
        self.personal = {
            name: tensor for name, tensor in (parameters | buffers).items() if name in own and _changes(tensor)
        }
        self.counters = [
            b
            for name, b in buffers.items()
            if b.ndim == 0 and not _is_float(b) and b.dtype != torch.bool and name not in own
        ]
        taken = {id(tensor) for tensor in (*self.buffers, *self.counters, *self.personal.values())}
        # Frozen parameters as well: a step may write to them (momentum encoders), and must not for the next client.
        frozen = [p.detach() for p in parameters.values() if not p.requires_grad and id(p) not in taken]
        self._kept = [*(b for b in buffers.values() if id(b) not in taken), *frozen]
        self._slots = TensorSlots(module)
        self._variances = [index for index, name in enumerate(self.buffer_names) if name.endswith("running_var")]
        tensors: list[Tensor] = [*self.parameters, *self.buffers]
        self._tensors = [tensor.detach() for tensor in tensors]
        self.num_parameters = sum(p.numel() for p in self.parameters)
        self.size = sum(tensor.numel() for tensor in tensors)
        self.device = self.parameters[0].device
        self.dtype = torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32
        self.start = torch.zeros(self.size, dtype=self.dtype, device=self.device)
        self._start_views = self.views(self.start)
        self._latest_out: tuple[Tensor, list[Tensor]] = (self.start, self._start_views)
        self._start_kept: list[Tensor] = [b.clone() for b in self._kept]
        self._start_counters: list[Tensor] = [c.clone() for c in self.counters]
        self._start_personal: dict[str, Tensor] = {name: t.detach().clone() for name, t in self.personal.items()}

    def fits(self, module: nn.Module) -> bool:
        """Whether the shared trainable parameters of ``module`` are still those of the vector, where they were."""
        known = {id(p) for p in self.parameters} | {id(t) for t in self.personal.values()}
        trainable = [p for p in module.parameters() if p.requires_grad and id(p) not in known]
        return not trainable and all(
            p.requires_grad and p.data_ptr() == t.data_ptr()
            for p, t in zip(self.parameters, self._tensors, strict=False)
        )

    def views(self, vector: Tensor) -> list[Tensor]:
        """The parts of a flat vector, shaped like the parameters and then the buffers; they share its memory."""
        pieces = torch.split(vector, [tensor.numel() for tensor in self._tensors])
        return [piece.view(tensor.shape) for piece, tensor in zip(pieces, self._tensors, strict=True)]

    @property
    def start_parameters(self) -> list[Tensor]:
        """The parameters' values at the start of the round; not to be written to."""
        return self._start_views[: len(self.parameters)]

    def parameter_views(self, vector: Tensor) -> list[Tensor]:
        """The parts of a vector over the parameters alone, shape ``(num_parameters,)``, shaped like them."""
        pieces = torch.split(vector, [p.numel() for p in self.parameters])
        return [piece.view(p.shape) for piece, p in zip(pieces, self.parameters, strict=True)]

    @torch.no_grad()
    def put(self, vector: Tensor) -> None:
        """Set the entries to those of a vector, shape ``(P,)``."""
        torch._foreach_copy_(self._tensors, self.views(vector))

    def new_vector(self) -> Tensor:
        """A vector of zeros."""
        return torch.zeros_like(self.start)

    @torch.no_grad()
    def remember(self) -> None:
        """Take the module's present values as those that a round starts from."""
        torch._foreach_copy_(self._start_views, self._tensors)
        for copies, now in ((self._start_kept, self._kept), (self._start_counters, self.counters)):
            for copy, tensor in zip(copies, now, strict=True):
                copy.copy_(tensor)
        for name, tensor in self.personal.items():
            self._start_personal[name].copy_(tensor)

    @torch.no_grad()
    def restore(self) -> None:
        """Put every parameter and every buffer back to what it was and the values the round started from."""
        self._slots.take_back()
        torch._foreach_copy_(self._tensors, self._start_views)
        for copies, now in ((self._start_kept, self._kept), (self._start_counters, self.counters)):
            for copy, tensor in zip(copies, now, strict=True):
                tensor.copy_(copy)
        for name, tensor in self.personal.items():
            tensor.copy_(self._start_personal[name])

    @torch.no_grad()
    def delta(self, out: Tensor | None = None) -> Tensor:
        """How far the entries are from where the round started.

        Args:
            out: Shape ``(P,)``, to write into.

        Returns:
            Shape ``(P,)``.
        """
        self._slots.take_back()
        vector = self.new_vector() if out is None else out
        known, views = self._latest_out
        if known is not vector:  # cutting a vector into views costs as much as a small client's change
            views = self.views(vector)
            self._latest_out = (vector, views)
        torch._foreach_copy_(views, self._tensors)
        return vector.sub_(self.start)

    def increments(self) -> list[float]:
        """How far each counter is from where the round started."""
        return [float(now - before) for now, before in zip(self.counters, self._start_counters, strict=True)]

    @torch.no_grad()
    def write_pseudo_gradient(self, aggregate: Tensor) -> None:
        """Set ``p.grad`` of every shared parameter to minus its part of the aggregate.

        An optimizer that steps against it moves the way the clients moved (Reddi et al., "Adaptive Federated
        Optimization", 2021, algorithm 1).

        Args:
            aggregate: Shape ``(P,)``.
        """
        for parameter, part in zip(self.parameters, self.views(aggregate), strict=False):
            parameter.grad = part.neg().to(parameter.dtype)

    @torch.no_grad()
    def move_buffers(self, aggregate: Tensor, increments: Iterable[float]) -> None:
        """Move the buffers by their part of the aggregate, and the counters by the rounded increments.

        A variance is never moved below zero.

        Args:
            aggregate: Shape ``(P,)``.
            increments: Of each counter, the mean over the clients.
        """
        parts = self.views(aggregate)[len(self.parameters) :]
        for index, (buffer, part) in enumerate(zip(self.buffers, parts, strict=True)):
            buffer.add_(part)
            if index in self._variances:
                buffer.clamp_(min=0)
        for counter, increment in zip(self.counters, increments, strict=True):
            counter.add_(round(increment))

    @torch.no_grad()
    def take_personal(self, values: dict[str, Tensor]) -> None:
        """Put a client's own entries in; those that are missing keep the values the round started from."""
        for name, tensor in values.items():
            self.personal[name].copy_(tensor)

    def give_personal(self) -> dict[str, Tensor]:
        """Copies of the present personal entries, on the CPU."""
        return {name: tensor.detach().to("cpu", copy=True) for name, tensor in self.personal.items()}


def _of_layers(names: list[str], pattern: Pattern, layers: Sequence[tuple[str, nn.Module]]) -> set[str]:
    """What the layers of a kind hold themselves, or in their parts."""
    prefixes = [
        f"{name}."
        for name, layer in layers
        if name and (type(layer).__name__ == pattern if isinstance(pattern, str) else isinstance(layer, pattern))
    ]
    return {name for name in names if name.startswith(tuple(prefixes))} if prefixes else set()


@torch.no_grad()
def copy_all(tensors: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Write values into tensors, in place, parameters among them."""
    torch._foreach_copy_([tensor.detach() for tensor in tensors], list(values))


def _is_float(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _changes(tensor: Tensor) -> bool:
    return tensor.requires_grad or not isinstance(tensor, nn.Parameter)


def _statistics(module: nn.Module) -> set[str]:
    """Names of the running statistics of normalisation layers."""
    return {
        f"{prefix}.{name}" if prefix else name
        for prefix, layer in module.named_modules()
        if isinstance(layer, _NormBase)
        for name in ("running_mean", "running_var")
    }


def _refuse_unfit(trainable: dict[str, nn.Parameter]) -> None:
    for name, parameter in trainable.items():
        if parameter.is_complex():
            raise UnsupportedError(
                f"parameter {name!r} is complex ({parameter.dtype}): its change can't be averaged with the others as "
                "one real vector; hold real and imaginary part in two parameters (torch.view_as_real)"
            )
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise UnsupportedError(
                f"parameter {name!r} has no shape yet: run one batch through the lazy layer in configure_model"
            )
