"""No delta longer than a bound.

Example:
    >>> import torch
    >>> from lightning_privacy.federated.contexts import ClientContext
    >>> from lightning_privacy.federated.transforms import NormBounding
    >>> context = ClientContext(seed=0, round_number=0, client=0, num_examples=1)
    >>> NormBounding(1.0).on_client(torch.tensor([3.0, 4.0]), context)
    tensor([0.6000, 0.8000])
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from lightning_privacy._validate import positive
from lightning_privacy.federated.contexts import ClientContext
from lightning_privacy.federated.transforms.transform import DeltaTransform

__all__ = ["NormBounding"]


@dataclass(frozen=True)
class NormBounding(DeltaTransform):
    """Scales a delta down to ``max_norm`` where it is longer.

    Sun et al., "Can You Really Backdoor Federated Learning?", 2019, section 4. A defence against clients that boost
    their update, and no privacy by itself: that takes noise, and
    :class:`~lightning_privacy.federated.client_privacy.ClientPrivacy` clips and noises both.

    Args:
        max_norm: the bound on the L2 norm over all entries.

    Raises:
        ConfigurationError: it is not above 0.

    Example:
        >>> context = ClientContext(seed=0, round_number=0, client=0, num_examples=1)
        >>> NormBounding(10.0).on_client(torch.tensor([3.0, 4.0]), context), context.log
        (tensor([3., 4.]), {'delta_norm': 5.0, 'bounded': 0.0})
    """

    max_norm: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "max_norm", positive(max_norm=self.max_norm))

    @override
    def on_client(self, delta: Tensor, context: ClientContext) -> Tensor:
        norm = float(torch.linalg.vector_norm(delta, dtype=torch.promote_types(delta.dtype, torch.float32)))
        # Not "norm > bound": what is no number is left as it is, for the round to throw out.
        bounded = self.max_norm < norm < float("inf")
        context.log["delta_norm"] = norm
        context.log["bounded"] = float(bounded)
        return delta * (self.max_norm / norm) if bounded else delta
