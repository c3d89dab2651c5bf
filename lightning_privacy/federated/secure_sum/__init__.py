"""Secure sums: the server learns the sum of the clients' vectors, and of no vector anything else.

Bonawitz et al., "Practical Secure Aggregation for Privacy-Preserving Machine Learning", 2017, Figure 4. Every two
parties agree on a seed of 256 bits (X25519, HKDF); one adds its stream (AES-256 in counter mode) to its vector, the
other takes it away, so the masks cancel in the sum. For parties that drop out, the secrets are shared (Shamir) in a way
that a threshold of parties can open: of one that sent its vector the seed of a further mask of its own, of one that
didn't the key of its masks, and never both.

**What it promises.** Against a server and up to ``threshold - 1`` parties that keep to the protocol, but put together
all they see to find out what they can: they learn the sum over the survivors, and what follows from it and their own
vectors. At least two survivors must be outside of them, as the sum of one is its vector.

**What it does not.** A server that lies about who is who (keys are not signed here: the transport must authenticate
them), or that tells parties different survivors, is outside of this; so are parties that send wrong vectors, which
change the sum and can't be told. Changed shares are noticed. The sum itself is not private: noise is added to it, see
:class:`~lightning_privacy.federated.client_privacy.ClientPrivacy`. In a simulation everything happens in one process,
which shows what a run would do and protects nobody.

Example:
    >>> import torch
    >>> from lightning_privacy.federated.secure_sum import SecureSum
    >>> session = SecureSum(threshold=2).open(range(3))
    >>> session.submit(0, torch.tensor([1.0]))
    >>> session.submit(2, torch.tensor([-0.5]))
    >>> session.close()  # party 1 never came
    tensor([0.5000], dtype=torch.float64)
"""

from __future__ import annotations

from lightning_privacy.federated.secure_sum.collector import Collector
from lightning_privacy.federated.secure_sum.fixed_point import FixedPoint
from lightning_privacy.federated.secure_sum.party import Party
from lightning_privacy.federated.secure_sum.ranks import Exchange, sum_over_ranks
from lightning_privacy.federated.secure_sum.roll import Roll
from lightning_privacy.federated.secure_sum.session import SecureSum, SecureSumSession

__all__ = ["Collector", "Exchange", "FixedPoint", "Party", "Roll", "SecureSum", "SecureSumSession", "sum_over_ranks"]
