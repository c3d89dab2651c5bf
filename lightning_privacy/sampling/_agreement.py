"""What the replicas of a sampler must have in common, compared and shared over the process group.

Replicas that draw different batches, or that take the same part of one, put an example into several shares or
into none; then its influence on the sum is not what the ledger was told, and nothing else would notice.

Example:
    >>> from lightning_privacy.sampling._agreement import group_size
    >>> group_size()  # no process group in this process
    1
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping

import torch
from torch import distributed as dist

from lightning_privacy._validate import non_negative_int, positive_int
from lightning_privacy.errors import ConfigurationError

__all__ = ["agree", "group_size", "replica_of", "share_key"]

_KEY_BYTES = 16


def group_size() -> int:
    """Number of processes of the default process group; 1 where there is none."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def replica_of(num_replicas: int | None, rank: int | None) -> tuple[int, int]:
    """Check what a sampler is told about the processes.

    Args:
        num_replicas: how many share each batch, >= 1.
        rank: which of them this is, 0 <= rank < num_replicas.

    Returns:
        Both.

    Raises:
        ConfigurationError: one is missing, or out of range.
    """
    if num_replicas is None or rank is None:
        raise ConfigurationError(
            f"num_replicas and rank must be given together, got num_replicas={num_replicas!r}, rank={rank!r}"
        )
    replicas, index = positive_int(num_replicas=num_replicas), non_negative_int(rank=rank)
    if index >= replicas:
        raise ConfigurationError(f"rank must be below num_replicas={replicas}, got {rank!r}")
    return replicas, index


def agree(parameters: Mapping[str, object], *, rank: int) -> None:
    """Compare the arguments of a sampler over the default process group. Every process must call it.

    Only 63-bit digests are exchanged.

    Args:
        parameters: name and value of what must be equal everywhere.
        rank: must be another one in each process, out of 0 to the size of the group - 1.

    Raises:
        ConfigurationError: in every process alike, something differs or a rank comes twice.
    """
    own = torch.tensor([rank, *(_digest(value) for value in parameters.values())], device=_device())
    gathered = [torch.empty_like(own) for _ in range(group_size())]
    dist.all_gather(gathered, own)
    rows = torch.stack(gathered).cpu()
    differing = [name for name, column in zip(parameters, rows.T[1:], strict=True) if (column != column[0]).any()]
    if differing:
        here = ", ".join(f"{name}={parameters[name]!r}" for name in differing)
        raise ConfigurationError(
            f"the replicas were given different {', '.join(differing)} (in this process {here}): they would not "
            "share one batch; pass the same to the sampler in every process"
        )
    ranks = rows[:, 0].tolist()
    if sorted(ranks) != list(range(len(ranks))):
        raise ConfigurationError(
            f"rank must be another one in each process, from 0 to {len(ranks) - 1}, got {ranks}: some examples would "
            "be in several shares and some in none; pass rank=torch.distributed.get_rank()"
        )


def share_key() -> int:
    """Return 128 bits that process 0 took from its operating system. Every process must call it.

    They travel like the gradients do: unencrypted, so the network between the processes must be trusted.
    """
    key = secrets.token_bytes(_KEY_BYTES) if dist.get_rank() == 0 else bytes(_KEY_BYTES)
    message = torch.tensor(list(key), dtype=torch.uint8, device=_device())
    dist.broadcast(message, src=0)
    return int.from_bytes(bytes(message.tolist()), "big")


def _digest(value: object) -> int:
    return int.from_bytes(hashlib.sha256(repr(value).encode()).digest()[:8], "big") >> 1


def _device() -> torch.device:
    """Where a tensor must be for the group to send it: NCCL knows nothing of the CPU."""
    kinds = [entry.partition(":")[0] for entry in dist.get_backend_config().split(",")]
    if "cpu" in kinds:
        return torch.device("cpu")
    return torch.device(kinds[0], torch.accelerator.current_device_index())
