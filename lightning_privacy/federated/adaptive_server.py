"""Adam, Yogi and Adagrad as the literature on federated learning means them.

Reddi et al., "Adaptive Federated Optimization", 2021, Algorithm 2. With delta the aggregate of a round (minus the
gradient the optimizer sees), all entry by entry:

    ``m <- beta1 m + (1 - beta1) delta``, ``v <- one of three rules``, ``x <- x + lr m / (sqrt(v) + tau)``.

They differ from the optimizers of torch in that neither m nor v is corrected for its bias, v starts at ``tau^2``
and not at 0, and tau is large (1e-3): it says how adaptive the step is, and not only keeps it from dividing by 0.

Example:
    >>> import torch
    >>> from lightning_privacy.federated.adaptive_server import FedAdagradOptimizer
    >>> weight = torch.nn.Parameter(torch.tensor([1.0]))
    >>> optimizer = FedAdagradOptimizer([weight], lr=0.1, betas=(0.0, 0.0), tau=1e-3)
    >>> weight.grad = -torch.tensor([2.0])
    >>> optimizer.step()
    >>> weight.detach()
    tensor([1.1000])
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import overload

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from typing_extensions import override

__all__ = ["AdaptiveServerOptimizer", "FedAdagradOptimizer", "FedAdamOptimizer", "FedYogiOptimizer"]


class AdaptiveServerOptimizer(Optimizer):
    """What the three have in common; they differ in :meth:`accumulate`.

    Args:
        params: the global parameters.
        lr: the server's learning rate.
        betas: decay of the mean and of the squares.
        tau: added to the root of the squares, which start at ``tau^2``.

    Example:
        >>> optimizer = FedAdamOptimizer([torch.nn.Parameter(torch.zeros(3))], lr=0.1)
        >>> isinstance(optimizer, AdaptiveServerOptimizer)
        True
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float = 0.01,
        betas: tuple[float, float] = (0.9, 0.99),
        tau: float = 1e-3,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "tau": tau})

    @abstractmethod
    def accumulate(self, squares: Tensor, squared: Tensor, beta: float) -> None:
        """Take the squares of a round into those kept, in place.

        Args:
            squares: v, of the shape of the parameter.
            squared: square of the aggregate, of the same shape; may be changed.
            beta: beta2.
        """

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @override
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Move the parameters by one round.

        Args:
            closure: recomputes the gradients and returns the loss.
        """
        loss: float | None = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["mean"] = torch.zeros_like(parameter)
                    state["squares"] = torch.full_like(parameter, group["tau"] ** 2)
                delta = -parameter.grad
                state["mean"].lerp_(delta, 1.0 - beta1)
                self.accumulate(state["squares"], delta.square_(), beta2)
                parameter.addcdiv_(state["mean"], state["squares"].sqrt().add_(group["tau"]), value=group["lr"])
        return loss


class FedAdamOptimizer(AdaptiveServerOptimizer):
    """``v <- beta2 v + (1 - beta2) delta^2``.

    Example:
        >>> weight = torch.nn.Parameter(torch.zeros(1))
        >>> weight.grad = -torch.ones(1)
        >>> FedAdamOptimizer([weight], lr=1.0).step()
        >>> weight.detach()  # 0.1 / (0.1 + 0.001), and the start of v adds its part
        tensor([0.9901])
    """

    @override
    def accumulate(self, squares: Tensor, squared: Tensor, beta: float) -> None:
        squares.lerp_(squared, 1.0 - beta)


class FedYogiOptimizer(AdaptiveServerOptimizer):
    """``v <- v - (1 - beta2) delta^2 sign(v - delta^2)``: v moves by what is new and not by how much too large it is.

    Example:
        >>> weight = torch.nn.Parameter(torch.zeros(1))
        >>> weight.grad = -torch.ones(1)
        >>> FedYogiOptimizer([weight], lr=1.0).step()
        >>> weight.detach()
        tensor([0.9900])
    """

    @override
    def accumulate(self, squares: Tensor, squared: Tensor, beta: float) -> None:
        squares.addcmul_(squared, (squares - squared).sign_(), value=beta - 1.0)


class FedAdagradOptimizer(AdaptiveServerOptimizer):
    """``v <- v + delta^2``; beta2 has no part in it.

    Example:
        >>> weight = torch.nn.Parameter(torch.zeros(1))
        >>> weight.grad = -torch.ones(1)
        >>> FedAdagradOptimizer([weight], lr=1.0, betas=(0.0, 0.0)).step()
        >>> weight.detach()
        tensor([0.9990])
    """

    @override
    def accumulate(self, squares: Tensor, squared: Tensor, beta: float) -> None:
        squares.add_(squared)
