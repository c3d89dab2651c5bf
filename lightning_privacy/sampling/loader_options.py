"""How a DataLoader reads, apart from what it reads: the options that another loader takes over from it.

Example:
    >>> from torch.utils.data import DataLoader
    >>> loader_options(DataLoader(range(10), batch_size=5, timeout=0))["num_workers"]
    0
"""

from __future__ import annotations

from typing import Any

from torch.utils.data import DataLoader

__all__ = ["loader_options"]


def loader_options(loader: DataLoader[Any]) -> dict[str, Any]:
    """Return arguments of ``DataLoader``, without the data set, the batches and ``collate_fn``.

    Args:
        loader: The user's loader, which is not touched.
    """
    return {
        "num_workers": loader.num_workers,
        "pin_memory": loader.pin_memory,
        "timeout": loader.timeout,
        "generator": loader.generator,
        "prefetch_factor": loader.prefetch_factor,
        "persistent_workers": loader.persistent_workers,
        "multiprocessing_context": loader.multiprocessing_context,
        "worker_init_fn": loader.worker_init_fn,
        "in_order": loader.in_order,
    }
