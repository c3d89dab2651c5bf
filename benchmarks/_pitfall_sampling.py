"""Experiments P14 to P20 (without P16): which examples enter a step, and how often."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from _pitfall_lightning import Classifier, fit
from _pitfall_tools import EXPECTED, Finding, error_of, linear, loader, private, steps_charged
from opacus.data_loader import DPDataLoader
from opacus.utils.batch_memory_manager import BatchMemoryManager
from opacus.utils.uniform_sampler import DistributedUniformWithReplacementSampler
from torch.utils.data import DataLoader, IterableDataset, TensorDataset, WeightedRandomSampler

__all__ = ["EXPERIMENTS"]


def _numbered(size: int = 200, batch_size: int = 20, **options: Any) -> DataLoader[Any]:
    """A loader of examples that carry their number."""
    x = torch.zeros(size, 4)
    x[:, 0] = torch.arange(size)
    return DataLoader(TensorDataset(x, torch.zeros(size, dtype=torch.long)), batch_size=batch_size, **options)


def _inclusion(batches: DataLoader[Any], epochs: int, size: int = 200) -> tuple[torch.Tensor, torch.Tensor]:
    """How often each example was in a batch, as a share of the batches; and the sizes of the batches."""
    counts, sizes = torch.zeros(size), []
    for _ in range(epochs):
        for x, _ in batches:
            counts += torch.bincount(x[:, 0].long(), minlength=size)
            sizes.append(float(len(x)))
    return counts / len(sizes), torch.tensor(sizes)


def _charged(run: SimpleNamespace) -> float:
    """The epsilon reported after ten steps."""
    for _ in range(10):
        run.engine.accountant.step(noise_multiplier=1.0, sample_rate=1 / len(run.loader))
    return float(run.engine.get_epsilon(1e-5))


def p14() -> Finding:
    torch.manual_seed(0)
    poisson = private(linear(), data_loader=_numbered(shuffle=True), noise_multiplier=1.0)
    shuffled = private(linear(), data_loader=_numbered(shuffle=True), noise_multiplier=1.0, poisson_sampling=False)
    rate, sizes = _inclusion(poisson.loader, 60)
    _, fixed = _inclusion(shuffled.loader, 60)
    epsilons = _charged(poisson), _charged(shuffled)
    proper = abs(float(rate.mean()) - 0.1) < 0.002 and abs(float(sizes.var()) - 18) < 4
    same = abs(epsilons[0] - epsilons[1]) < 1e-9 and float(fixed.var()) == 0
    return Finding(
        "P14",
        {"default": "right" if proper else "silent", "poisson_sampling=False": "silent" if same else "right"},
        f"Default: Poisson, inclusion {float(rate.mean()):.4f} at rate 0.1, variance of the batch size "
        f"{float(sizes.var()):.1f} of 18. With poisson_sampling=False batches are shuffled (variance "
        f"{float(fixed.var()):.1f}) and the same epsilon is reported, {epsilons[1]:.2f}.",
    )


def p15() -> Finding:
    torch.manual_seed(0)
    weights = torch.ones(200)
    weights[0] = 100.0

    def batches() -> DataLoader[Any]:
        return _numbered(sampler=WeightedRandomSampler(weights.tolist(), 200))

    replaced = private(linear(), data_loader=batches(), noise_multiplier=1.0)
    kept = private(linear(), data_loader=batches(), noise_multiplier=1.0, poisson_sampling=False)
    rate, _ = _inclusion(replaced.loader, 60)
    heavy = torch.tensor([float((x[:, 0] == 0).any()) for _ in range(20) for x, _ in kept.loader]).mean()
    accounted = 1 / len(kept.loader)
    return Finding(
        "P15",
        {
            "default": "wrong" if float(rate[0]) < 0.2 else "right",
            "poisson_sampling=False": "silent" if float(heavy) > 2 * accounted else "right",
        },
        f"A WeightedRandomSampler is replaced without a word: the example of weight 100 is in {float(rate[0]):.3f} of "
        f"the batches. With poisson_sampling=False it is kept: in {float(heavy):.2f} of them, accounted at "
        f"{accounted:.2f}.",
    )


def p17() -> Finding:
    torch.manual_seed(0)
    run = private(linear(), data_loader=loader(EXPECTED, EXPECTED))
    x = torch.ones(EXPECTED, 4)
    y = torch.zeros(EXPECTED, dtype=torch.long)
    sums: list[float] = []

    def train(limit: int | None) -> None:
        with BatchMemoryManager(data_loader=run.loader, max_physical_batch_size=4, optimizer=run.optimizer) as batches:
            for number, (first, _) in enumerate(batches):
                run.optimizer.zero_grad()
                rows, charged = len(first), steps_charged(run.engine)
                for p in run.optimizer.params:
                    torch.nn.init.zeros_(p)  # the same gradient at every step, above C: the sum counts examples
                run.criterion(run.model(x[:rows]), y[:rows]).backward()
                run.optimizer.step()
                if steps_charged(run.engine) > charged:
                    gradient = torch.cat([p.grad.flatten() for p in run.optimizer.params])
                    sums.append(float(gradient.norm()) * EXPECTED)
                if number + 1 == limit:
                    break

    train(None)
    train(1)  # an epoch that ends inside of a step
    train(None)
    whole, merged = sums
    return Finding(
        "P17",
        {
            "BatchMemoryManager": "right" if abs(whole - EXPECTED) < 1e-3 else "silent",
            "loop left inside of a step": "silent" if merged > EXPECTED + 0.5 else "right",
        },
        f"Micro-batches of one step add up ({whole:.1f} C of {EXPECTED} examples). When a loop ends inside of a step, "
        f"the rest enters the next release: {merged:.1f} C from a data set of {EXPECTED}, so that some add 2 C.",
    )


@contextmanager
def _process(rank: int, processes: int) -> Iterator[None]:
    """What the sampler asks of torch.distributed."""
    with (
        mock.patch("torch.distributed.get_world_size", return_value=processes),
        mock.patch("torch.distributed.get_rank", return_value=rank),
    ):
        yield


def _draws(rank: int, *, rate: float, steps: int, seed: int) -> list[list[int]]:
    with _process(rank, 2):
        generator = torch.Generator().manual_seed(seed)
        sampler = DistributedUniformWithReplacementSampler(
            total_size=200, sample_rate=rate, steps=steps, generator=generator
        )
        return [draw.tolist() for draw in sampler]


def p18() -> Finding:
    norms = {}
    for mode in ("hooks", "ghost"):
        run = private(linear(), mode=mode, noise_multiplier=1.0)
        empty = torch.zeros(0, 4), torch.zeros(0, dtype=torch.long)

        def step(run: SimpleNamespace = run, empty: Any = empty) -> None:
            run.criterion(run.model(empty[0]), empty[1]).backward()
            run.optimizer.step()

        failed = error_of(step)
        gradient = torch.cat([p.grad.flatten() for p in run.optimizer.params if p.grad is not None])
        finite = failed is None and bool(torch.isfinite(gradient).all()) and float(gradient.norm()) > 0
        norms[mode] = "noise alone" if finite else failed or "NaN"
    lengths = [len(_draws(rank, rate=0.01, steps=100, seed=rank)) for rank in (0, 1)]
    return Finding(
        "P18",
        {
            **{mode: "right" if norm == "noise alone" else "wrong" for mode, norm in norms.items()},
            "several processes": "wrong" if lengths[0] != lengths[1] else "right",
        },
        f"An empty batch releases: {norms['hooks']} (hooks), {norms['ghost']} (ghost). With two processes the sampler "
        f"leaves empty draws out, and of 100 steps the ranks get {lengths[0]} and {lengths[1]}: they drift apart.",
    )


def p19() -> Finding:
    def positions(seeds: tuple[int, int]) -> float:
        with _process(0, 2):
            order = torch.randperm(200, generator=torch.Generator().manual_seed(0))
        place = {int(number): index // 2 for index, number in enumerate(order)}
        first, second = (_draws(rank, rate=0.1, steps=50, seed=seed) for rank, seed in enumerate(seeds))
        pairs = list(zip(first, second, strict=False))
        shared = sum(len({place[i] for i in a} & {place[i] for i in b}) for a, b in pairs)
        return shared / sum(len(a) for a, _ in pairs)

    def overlap(seed: int) -> int:
        first, second = (_draws(rank, rate=0.1, steps=50, seed=seed) for rank in (0, 1))
        return sum(len(set(a) & set(b)) for a, b in zip(first, second, strict=False))

    equal, different = positions((7, 7)), positions((7, 8))
    return Finding(
        "P19",
        {
            "equal seeds": "silent" if equal > 0.9 else "right",
            "seeds of their own": "right" if different < 0.3 else "silent",
        },
        f"Shards are disjoint ({overlap(7)} examples in both), but ranks with equal seeds, as seed_everything gives "
        f"them, draw the same places of their shards in {equal:.0%} of the draws ({different:.0%} with seeds of their "
        "own): examples come in fixed pairs, which is not the sampling that is accounted for.",
    )


def p20() -> Finding:
    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Iterator[Any]:
            yield torch.zeros(4), torch.tensor(0)

        def __len__(self) -> int:
            return 10

    iterable = error_of(lambda: DPDataLoader.from_data_loader(DataLoader(Stream(), batch_size=2)))
    several = error_of(lambda: DPDataLoader.from_data_loader([loader(), loader()]))  # type: ignore[arg-type]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run = private(linear(), data_loader=loader(100, 10), noise_multiplier=1.0)
        for number, (x, y) in enumerate(run.loader):
            if number == 3:
                break
            run.optimizer.zero_grad()
            run.criterion(run.model(x), y).backward()
            run.optimizer.step()
    limited = {}
    for option, batches in (("limit_train_batches", 4), ("overfit_batches", 2)):
        module = Classifier()
        fit(module, **{option: batches})
        limited[option] = steps_charged(module.privacy_engine)
    counted = list(limited.values()) == [4, 2] and steps_charged(run.engine) == 3
    return Finding(
        "P20",
        {
            "iterable data": "refuses" if iterable else "silent",
            "several loaders": "refuses" if several else "silent",
            "epoch cut short": "right" if counted else "silent",
        },
        f"Iterable data: {iterable}. A list of loaders: {several}. An epoch ended after 3 batches is charged "
        f"{steps_charged(run.engine)} steps, limit_train_batches=4 {limited['limit_train_batches']}, "
        f"overfit_batches=2 {limited['overfit_batches']} (drawn anew each epoch).",
    )


EXPERIMENTS = (p14, p15, p17, p18, p19, p20)
