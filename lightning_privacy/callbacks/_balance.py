"""From the balance a loader's sampler asks for to the rates and weights of a private run, and what they cost.

Example:
    >>> import torch
    >>> from torch.utils.data import DataLoader, TensorDataset
    >>> from lightning_privacy.sampling.balanced import BalancedSampler
    >>> labels = [0] * 990 + [1] * 10
    >>> loader = DataLoader(TensorDataset(torch.zeros(1000)), batch_size=10, sampler=BalancedSampler(labels))
    >>> wanted = wanted_balance(loader.sampler, num_examples=1000)
    >>> settled = settle(wanted, PrivateBalance(), counts=np.array([991, 8]), released=0.1, expected_batch_size=10)
    >>> settled["names"], [round(rate, 4) for rate in settled["rates"]]
    (['0', '1'], [0.005, 0.6244])
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import WeightedRandomSampler

from lightning_privacy.accounting import PrivacyLedger
from lightning_privacy.callbacks._processes import Processes
from lightning_privacy.callbacks.private_balance import PrivateBalance
from lightning_privacy.errors import CheckpointError, ConfigurationError
from lightning_privacy.mechanisms import NoiseSource, private_histogram
from lightning_privacy.sampling.balanced import BalancedSampler
from lightning_privacy.sampling.balanced_poisson import balanced_rates
from lightning_privacy.sampling.weighting import Weighting, cell_name, cell_shares

__all__ = [
    "MOST_SHOWN",
    "WantedBalance",
    "balance_of_run",
    "settle",
    "settled_text",
    "some",
    "wanted_balance",
]

MOST_SHOWN = 20
"""Classes that a message names at most."""

_PUBLIC = "DifferentialPrivacy(balance=PrivateBalance(public_counts=True))"

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class WantedBalance:
    """What a sampler asks for.

    Args:
        cells: Number of the class (or group, or both) of each example, shape (N,).
        names: What the cells are called.
        counts: The examples of each, shape (C,): private, unless they were declared public.
        weighting: How shares follow from counts; None where examples have weights of their own.
        weights: The weight of each cell's examples, in place of that.
        sampler: The class of the sampler, for messages.
    """

    cells: NDArray[np.int64]
    names: tuple[str, ...]
    counts: Counts
    weighting: Weighting | None
    weights: NDArray[np.float64] | None
    sampler: str

    def shares(self, counts: Counts, weighting: Weighting | None = None) -> NDArray[np.float64]:
        """Part of each batch that each cell is to have, for counts that may be noisy."""
        floored = np.maximum(counts, 1)
        if self.weights is not None:
            total = floored * self.weights
            return np.asarray(total / total.sum(), np.float64)
        chosen = weighting if weighting is not None else self.weighting
        if isinstance(chosen, Mapping):
            chosen = {cell_name(name): share for name, share in chosen.items()}
        return cell_shares(floored, "inverse" if chosen is None else chosen, names=self.names)


def wanted_balance(
    sampler: object, balance: PrivateBalance | None = None, *, num_examples: int
) -> WantedBalance | None:
    """What a sampler asks for; None where it asks for none.

    Args:
        sampler: The train loader's.
        balance: What the user said of it.
        num_examples: Size of the train data set.

    Raises:
        ConfigurationError: The sampler is for other data, or uses private counts that were not declared public, or
            there is nothing to balance although ``balance`` was given.
    """
    asked = PrivateBalance() if balance is None else balance
    if isinstance(sampler, BalancedSampler) and sampler.weights is None:
        wanted = _by_cells(sampler, asked)
    elif isinstance(sampler, BalancedSampler | WeightedRandomSampler):
        wanted = _by_weights(sampler, asked)
    elif balance is None:
        return None
    else:
        raise ConfigurationError(
            f"balance={balance!r} was given, and the train loader's sampler, {type(sampler).__name__}, does not say "
            "what is to be balanced: give the loader sampler=BalancedSampler(labels)"
        )
    if len(wanted.cells) != num_examples:
        raise ConfigurationError(
            f"the train loader's {wanted.sampler} is for {len(wanted.cells)} examples and its data set has "
            f"{num_examples}: make the sampler from the labels of this data set"
        )
    return wanted


def _by_cells(sampler: BalancedSampler, asked: PrivateBalance) -> WantedBalance:
    if asked.public_counts is False and not sampler.replacement:
        raise ConfigurationError(
            "BalancedSampler(replacement=False) may have made the epoch as long as the rarest class allows, which is a "
            "count of private labels: leave replacement=True, as a private run draws each batch anew anyway, and set "
            f"the length with num_samples; or declare the counts public with {_PUBLIC}"
        )
    names = tuple(cell_name(name) for name in sampler.cell_names)
    weighting: Weighting = sampler.weighting
    if isinstance(weighting, Mapping):
        weighting = dict(zip(names, sampler.shares.tolist(), strict=True))
    return WantedBalance(sampler.cells, names, sampler.counts, weighting, None, type(sampler).__name__)


def _by_weights(sampler: Any, asked: PrivateBalance) -> WantedBalance:
    name = type(sampler).__name__
    if asked.loss_weighting is not None:
        raise ConfigurationError(
            f"loss_weighting={asked.loss_weighting!r} needs to know the classes, and the train loader's {name} has a "
            "weight for each example: give the loader sampler=BalancedSampler(labels)"
        )
    if asked.public_counts is not True:
        raise ConfigurationError(
            f"the train loader's {name} has weights for the examples, which usually are computed from counts of "
            "private labels: then they say something about them that epsilon does not cover. Give the loader "
            "sampler=BalancedSampler(labels), whose counts are taken privately, or declare that the weights come from "
            f"public knowledge with {_PUBLIC}"
        )
    values, cells, counts = np.unique(np.asarray(sampler.weights, np.float64), return_inverse=True, return_counts=True)
    if not np.isfinite(values).all() or (values < 0).any() or not values.any():
        raise ConfigurationError(f"weights of the train loader's {name} must be finite, at least 0 and not all 0")
    names = tuple(f"weight {value:.6g}" for value in values)
    return WantedBalance(cells.astype(np.int64), names, counts.astype(np.int64), None, values, name)


def balance_of_run(
    wanted: WantedBalance | None,
    asked: PrivateBalance | None,
    *,
    epsilon: float | None,
    expected_batch_size: float,
    ledger: PrivacyLedger,
    noise: NoiseSource,
    processes: Processes,
    known: Mapping[str, Any] | None,
    resumed: bool,
) -> dict[str, Any] | None:
    """Rates and weights of a fit that is about to start, as plain values for its settings; None without balance.

    Noisy counts are taken at most once in a run: process 0 draws them for all, every ledger is charged.

    Args:
        wanted: What the sampler asks for.
        asked: What the user said of it.
        epsilon: Of the run.
        expected_batch_size: Examples of a step on average.
        ledger: Charged before noisy counts are drawn.
        noise: What they are drawn from.
        processes: Those that train together.
        known: What this gave earlier in this run.
        resumed: Whether the run goes on from a checkpoint, so that ``known`` must be continued.

    Raises:
        ConfigurationError: Rates that can't be, or public counts that lack a class.
        CheckpointError: The run that is resumed was balanced otherwise.
        PrivacyBudgetExceeded: The ledger can't pay for the counts.
    """
    balance = PrivateBalance() if asked is None else asked
    if resumed:
        _check_continues(wanted, balance, known)
    if wanted is None:
        return None
    # What can be seen without counts is refused before they are paid for.
    wanted.shares(wanted.counts * 0 + 1, balance.loss_weighting)
    everyone = len(wanted.cells)
    balanced_rates([everyone], [1.0], expected_batch_size=expected_batch_size, max_sample_rate=balance.max_sample_rate)
    counts, released = _counts_of(wanted, balance, epsilon=epsilon, ledger=ledger, noise=noise, known=known)
    counts = processes.same(counts)
    return settle(wanted, balance, counts=counts, released=released, expected_batch_size=expected_batch_size)


def _check_continues(wanted: WantedBalance | None, balance: PrivateBalance, known: Mapping[str, Any] | None) -> None:
    """Refuse before anything is charged what could not be the same as before."""
    own = None if wanted is None else (list(wanted.names), balance.public_counts is False)
    before = None if known is None else (known["names"], known["count_epsilon"] is not None)
    if own != before:
        raise CheckpointError(
            f"the checkpoint's run was balanced by {_kind(before)}, this one by {_kind(own)}: its ledger would not "
            "describe what is trained now. Give the loader the sampler it had, and the same balance, or start a new "
            "run without ckpt_path"
        )


def _kind(of: tuple[list[str], bool] | None) -> str:
    if of is None:
        return "nothing"
    names, private = of
    shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    return f"{len(names)} classes ({shown}) with {'noisy' if private else 'public'} counts"


def _counts_of(
    wanted: WantedBalance,
    balance: PrivateBalance,
    *,
    epsilon: float | None,
    ledger: PrivacyLedger,
    noise: NoiseSource,
    known: Mapping[str, Any] | None,
) -> tuple[Counts, float | None]:
    """The counts a run may use, and what was charged for them: None for public ones.

    Args:
        wanted: What the sampler asks for.
        balance: What the user said of it.
        epsilon: Of the run.
        ledger: Charged before noisy counts are drawn.
        noise: What they are drawn from.
        known: What :func:`settle` gave earlier in this run; counts that were paid for are not taken again.

    Raises:
        ConfigurationError: Public counts that lack a class.
        PrivacyBudgetExceeded: The ledger can't pay for them.
    """
    if isinstance(balance.public_counts, Mapping):
        given = balance.public_counts
        missing = [name for name in wanted.names if name not in given]
        if missing:
            raise ConfigurationError(
                f"public_counts has no count for {', '.join(map(repr, missing[:10]))}: give one to each of "
                f"{', '.join(map(repr, wanted.names[:10]))}"
            )
        return np.array([given[name] for name in wanted.names], np.int64), None
    if balance.public_counts:
        return wanted.counts, None
    if known is not None and known["count_epsilon"] is not None and known["names"] == list(wanted.names):
        return np.array(known["counts"], np.int64), float(known["count_epsilon"])
    price = balance.epsilon_of_counts(epsilon)
    counts = private_histogram(wanted.cells, num_classes=len(wanted.names), epsilon=price, ledger=ledger, noise=noise)
    return counts, price


def settle(
    wanted: WantedBalance,
    balance: PrivateBalance,
    *,
    counts: Counts,
    released: float | None,
    expected_batch_size: float,
) -> dict[str, Any]:
    """Rates and weights of a run, as plain values for its settings; a resumed run must come to the same.

    Args:
        wanted: What the sampler asks for.
        balance: What the user said of it.
        counts: Public or noisy.
        released: What the noisy ones cost; None for public ones.
        expected_batch_size: Examples of a step on average.

    Raises:
        ConfigurationError: The limit of the rate is too low for the batch.
    """
    settled: dict[str, Any] = {
        "names": list(wanted.names),
        "counts": [int(count) for count in counts],
        "count_epsilon": released,
        "rates": None,
        "loss_weights": None,
    }
    floored = np.maximum(counts, 1).astype(np.float64)
    if balance.loss_weighting is None:
        # Noisy counts are made to add up to the size of the data set, which is public.
        known = floored if released is None else floored * (len(wanted.cells) / floored.sum())
        rates = balanced_rates(
            known,
            wanted.shares(counts),
            expected_batch_size=expected_batch_size,
            max_sample_rate=balance.max_sample_rate,
        )
        return settled | {"rates": rates.tolist()}
    weights = wanted.shares(counts, balance.loss_weighting) * floored.sum() / floored
    return settled | {"loss_weights": weights.tolist()}


def settled_text(settled: Mapping[str, Any], *, expected_batch_size: float) -> str:
    """What a balanced run is about to do, in one sentence."""
    if settled["count_epsilon"] is None:
        source = "public counts"
    else:
        source = f"noisy counts, which cost epsilon={settled['count_epsilon']:g}"
    if settled["rates"] is None:
        values, kind = settled["loss_weights"], "weights on the losses"
    else:
        values, kind = settled["rates"], f"sample rates for batches of {expected_batch_size:g}"
    shown = some(sorted(zip(settled["names"], values, strict=True), key=lambda pair: -pair[1]))
    each = ", ".join(f"{value:.4g} for {name!r}" for name, value in shown)
    return f"classes are balanced by {kind}: {each} (from {source}; which classes there are is taken as public)"


def some(entries: list[Any]) -> list[Any]:
    """All entries, or the first and the last of many."""
    half = MOST_SHOWN // 2
    return entries if len(entries) <= MOST_SHOWN else entries[:half] + entries[-half:]
