"""What another loader takes over from a user's loader: every option that does not say which examples come when."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch.utils.data import DataLoader

from lightning_privacy.sampling.loader_options import loader_options

# Which examples come, in which batches, and how a batch is put together.
OTHERS = {"dataset", "batch_size", "shuffle", "sampler", "batch_sampler", "drop_last", "collate_fn"}
# Of no effect since torch has accelerators.
DEPRECATED = {"pin_memory_device"}


def _worker(number: int) -> None:
    """Do nothing at the start of a worker."""


def test_no_option_of_torch_s_loader_is_forgotten():
    known = set(inspect.signature(DataLoader).parameters) - OTHERS - DEPRECATED
    assert set(loader_options(DataLoader(range(4)))) == known


@pytest.mark.parametrize(
    "options",
    [
        {"generator": torch.Generator()},
        {
            "num_workers": 2, "timeout": 7, "prefetch_factor": 3, "persistent_workers": True, "worker_init_fn": _worker,
            "multiprocessing_context": "spawn", "in_order": False,
        },
    ],
    ids=["alone", "workers"],
)  # fmt: skip
def test_a_loader_made_with_them_reads_alike(options):
    first = DataLoader(range(4), batch_size=2, **options)
    second = DataLoader(range(4), batch_size=2, **loader_options(first))
    for name in loader_options(first):
        assert getattr(second, name) == getattr(first, name), name
    for name, value in options.items():
        held = getattr(second, name)
        assert held == value or held.get_start_method() == value


def test_they_can_be_given_where_there_are_no_workers():
    loader = DataLoader(range(4), batch_size=2)
    assert [batch.tolist() for batch in DataLoader(range(4), batch_size=4, **loader_options(loader))] == [[0, 1, 2, 3]]
