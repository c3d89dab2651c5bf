"""Which parameters of a network train, and on what: privately, publicly, or not at all.

Private ones get their gradient from the engine, and one that reaches them in the ordinary way stops training. Public
ones were declared to never depend on private data, such as the generator of a GAN, and are left to autograd.

Example:
    >>> import torch, weakref
    >>> class Step:
    ...     def discard(self):
    ...         print("discarded")
    >>> step, network = Step(), nn.ModuleDict({"critic": nn.Linear(2, 1), "generator": nn.Linear(2, 1, bias=False)})
    >>> trained = TrainedParameters(network, public=["generator.weight"])
    >>> trained.track(weakref.WeakMethod(step.discard))
    >>> trained.private_names
    ['critic.weight', 'critic.bias']
    >>> network["generator"](torch.ones(1, 2)).sum().backward()
    >>> trained.take_public_gradient(), trained.take_public_gradient()
    (True, False)
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lightning_privacy.errors import ConfigurationError
from lightning_privacy.gradients.raw_gradients import refuse_raw_gradient
from lightning_privacy.gradients.walk import each_parameter

__all__ = ["TrainedParameters"]


class TrainedParameters:
    """Parameters by what may train them, with a guard on each.

    Args:
        module: the network.
        public: names of public parameters.

    Raises:
        ConfigurationError: a name that is no parameter of the network, or no private parameter is left.
    """

    def __init__(self, module: nn.Module, public: Collection[str]) -> None:
        self._module = module
        named = dict(module.named_parameters())
        unknown = sorted(set(public) - named.keys())
        if unknown:
            raise ConfigurationError(
                f"public names {', '.join(map(repr, unknown))}, which are no parameters of the module"
            )
        self._public = {id(named[name]) for name in public}
        if not any(p.requires_grad and id(p) not in self._public for p in named.values()):
            raise ConfigurationError(
                "public covers every trainable parameter, so nothing would be trained privately; leave out what sees "
                "private data"
            )
        self.private: list[nn.Parameter] = []
        self.private_names: list[str] = []
        self._names: dict[int, str] = {}
        self._tracked: set[int] = set()
        self._handles: list[RemovableHandle] = []
        self._public_gradient = False

    @property
    def has_public(self) -> bool:
        """Whether there are public parameters."""
        return bool(self._public)

    def track(self, discard: weakref.WeakMethod[Callable[[], None]]) -> None:
        """Guard all that trains at the moment.

        Args:
            discard: called where a raw gradient reaches a private parameter.
        """
        self._names = {id(p): name for name, p in self._module.named_parameters()}
        trainable = [(name, p) for name, p in self._module.named_parameters() if p.requires_grad]
        self._tracked = {id(p) for _, p in trainable} | self._public
        self.private = [p for _, p in trainable if id(p) not in self._public]
        self.private_names = [name for name, p in trainable if id(p) not in self._public]
        note = weakref.WeakMethod(self._note_public_gradient)
        for name, parameter in trainable:
            if id(parameter) in self._public:
                self._handles.append(parameter.register_hook(_Noting(note)))  # type: ignore[no-untyped-call]
            else:
                self._handles.append(refuse_raw_gradient(parameter, name, discard))

    def forget(self) -> None:
        """Take the guards off."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def changed(self) -> bool:
        """Return whether something trains that was not tracked; what stopped to train is no danger."""
        tracked = self._tracked
        return any(p.requires_grad and id(p) not in tracked for p in each_parameter(self._module))

    def tracks(self, parameter: nn.Parameter) -> bool:
        """Return whether ``parameter`` may have a gradient."""
        return id(parameter) in self._tracked

    def knows(self, parameter: nn.Parameter) -> bool:
        """Return whether ``parameter`` is one of the network's."""
        return id(parameter) in self._names

    def is_public(self, parameter: nn.Parameter) -> bool:
        """Return whether ``parameter`` is public."""
        return id(parameter) in self._public

    def take_public_gradient(self) -> bool:
        """Return whether a public parameter got a gradient since the last call."""
        taken, self._public_gradient = self._public_gradient, False
        return taken

    def _note_public_gradient(self) -> None:
        self._public_gradient = True


class _Noting:
    """Hook of a public parameter; it must not keep the tracker alive."""

    def __init__(self, note: weakref.WeakMethod[Callable[[], None]]) -> None:
        self._note = note

    def __call__(self, _gradient: Tensor) -> None:
        note = self._note()
        if note is not None:
            note()
