"""Which of a client's examples are in a private step, and the number of its noise.

Who was in which batch must stay secret; the same again under a seed, and never in a checkpoint.

Example:
    >>> draws = ClientDraws(NoiseSource())
    >>> drawn = draws.draw(3, 0, size=20, sample_rate=0.5)
    >>> 0 <= len(drawn) <= 20, draws.noise_step(3, 0) != draws.noise_step(0, 3)
    (True, True)
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lightning_privacy.errors import ConfigurationError
from lightning_privacy.federated.keyed import derive_seed
from lightning_privacy.mechanisms import NoiseSource
from lightning_privacy.sampling import PoissonSampler

__all__ = ["ClientDraws"]

_STEP_BITS = 24  # of the 48 that a noise source has for the number of a step; the others are the client's


class ClientDraws:
    """Poisson draws from the examples of each client, and numbers for the noise of their steps.

    Args:
        noise: Where the randomness of the draws comes from.
    """

    def __init__(self, noise: NoiseSource) -> None:
        self._seed = noise.bernoulli_seed("draws inside clients")

    def draw(self, client: int, step: int, *, size: int, sample_rate: float) -> NDArray[np.int64]:
        """Positions of a step's examples: each with the sample rate, independently.

        Args:
            client: The client.
            step: Number of its step over the whole run.
            size: Examples it holds.
            sample_rate: Probability of each to be drawn.
        """
        sampler = PoissonSampler(
            size,
            sample_rate=sample_rate,
            steps=step + 1,
            seed=derive_seed(self._seed, "draws", client),
            num_replicas=1,
            rank=0,
        )
        return sampler.draw(step)

    def noise_step(self, client: int, step: int) -> int:
        """The number under which a step's noise is drawn: no two steps of any clients have the same.

        Raises:
            ConfigurationError: There are too many clients or steps for that.
        """
        if client >> _STEP_BITS or step >> _STEP_BITS:
            raise ConfigurationError(f"client {client} at step {step}: both must be below 2**{_STEP_BITS}")
        return client << _STEP_BITS | step
