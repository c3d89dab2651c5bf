"""Federated learning without Lightning: who holds which examples, who takes part, what is summed and how.

Example:
    >>> from lightning_privacy.federated import derive_seed
    >>> derive_seed(0, "cohort", 1) == derive_seed(0, "cohort", 1)
    True
"""

from lightning_privacy.federated.keyed import client_randomness, derive_seed, generator, numpy_generator

__all__ = ["client_randomness", "derive_seed", "generator", "numpy_generator"]
