"""Experiments P25, P28 and P29: where noise comes from, on one process and on two."""

from __future__ import annotations

import os
import tempfile
import warnings

import pytorch_lightning as pl
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from _pitfall_tools import EXPECTED, Finding, empty_step, error_of, linear, loader, private
from opacus import PrivacyEngine
from opacus.distributed import DifferentiallyPrivateDistributedDataParallel as Distributed
from torch import Tensor, nn

__all__ = ["EXPERIMENTS"]


def _noise(seed: int) -> Tensor:
    """The noise of a step after the global seed was set."""
    run = private(linear(), noise_multiplier=1.0)
    pl.seed_everything(seed, verbose=False)
    empty_step(run)
    return torch.cat([p.grad.flatten() for p in run.optimizer.params]) * EXPECTED


def p25() -> Finding:
    left = float((_noise(7) - _noise(7)).norm())
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        PrivacyEngine()
    warned = [str(each.message) for each in told if "Secure RNG turned off" in str(each.message)]
    secure = error_of(lambda: PrivacyEngine(secure_mode=True), 60)
    return Finding(
        "P25",
        {"default": "caveat" if warned and left == 0 else "silent" if left == 0 else "right"},
        f"After seed_everything(7) the noise of two runs differs by {left:.1f}: who knows the seed subtracts it, and a "
        "resumed run repeats it. One warning, at every start, says that secure RNG is off, for production; "
        f"secure_mode=True: {secure}.",
    )


def _process(rank: int, folder: str) -> None:
    """One of two processes: the noise each of them has in its gradient after a step on empty data."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    torch.manual_seed(rank)
    model = Distributed(nn.Linear(1000, 2))
    run = private(model, noise_multiplier=1.0, data_loader=loader(100, 100, features=1000))
    x = torch.zeros(5, 1000)
    run.criterion(run.model(x), torch.zeros(5, dtype=torch.long)).backward()
    run.optimizer.step()
    weight = next(iter(run.optimizer.params))
    torch.save(weight.grad * run.optimizer.expected_batch_size * 2, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def p28() -> Finding:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    with tempfile.TemporaryDirectory() as folder:
        mp.start_processes(_process, args=(folder,), nprocs=2, start_method="fork")
        first, second = (torch.load(f"{folder}/{rank}.pt", weights_only=True) for rank in (0, 1))
    spread, apart = float(first.std()), float((first - second).abs().max())
    return Finding(
        "P28",
        {"its own DDP wrapper": "right" if abs(spread - 1) < 0.08 and apart == 0 else "silent"},
        f"Two processes: the noise on the sum has {spread:.2f} of the standard deviation that is charged, and the "
        f"ranks' gradients differ by {apart:.1f}.",
    )


def _on_grid(draws: Tensor) -> float:
    """Share of large pairs whose radius is one that a 24-bit uniform number gives; about 0.1 for other numbers.

    torch fills blocks of 16 with 8 pairs (r cos t, r sin t), r = sqrt(-2 log u), u a multiple of 2^-24.
    """
    pairs = draws.double().view(-1, 2, 8)
    squares = (pairs**2).sum(1).flatten()
    uniform = torch.exp(-squares[squares > 15] / 2) * 2**24
    return float(((uniform - uniform.round()).abs() < 0.05).double().mean())


def p29() -> Finding:
    secure = error_of(lambda: PrivacyEngine(secure_mode=True), 60)
    torch.manual_seed(0)
    model = nn.Linear(2**22, 1, bias=False)
    run = private(model, noise_multiplier=1.0, data_loader=loader(4, 4))
    for p in run.optimizer.params:
        p.summed_grad = torch.zeros_like(p)
    run.optimizer.add_noise()
    noise = next(iter(run.optimizer.params)).grad.flatten()
    alone, moved = _on_grid(noise), _on_grid(noise + 1e-3)
    return Finding(
        "P29",
        {"default": "caveat" if alone > 0.5 else "right", "secure_mode": "refuses" if secure else "right"},
        f"Default: Mersenne Twister in float32. Of the large pairs of noise values {alone:.0%} are ones that the "
        f"generator can give; with a gradient of 0.001 beneath them {moved:.0%} are, so low bits tell the gradient. A "
        f"warning says that secure RNG is off; secure_mode=True: {secure}.",
    )


EXPERIMENTS = (p25, p28, p29)
