"""Balance under privacy, through the trainer: rates as charged, counts paid for once, weights as by brute force.

Statistical checks run on fixed seeds, so their outcome is fixed; ``ERROR`` is the probability with which one of them
would fail for a fresh seed.
"""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset, WeightedRandomSampler

from lightning_privacy._lightning import Callback, LightningModule, ModelCheckpoint
from lightning_privacy.accounting import LaplaceRelease, PrivacyLedger, SampledGaussian
from lightning_privacy.callbacks import DifferentialPrivacy
from lightning_privacy.callbacks.private_balance import PrivateBalance
from lightning_privacy.errors import CheckpointError, ConfigurationError, PrivacyBudgetExceeded, UnsupportedError
from lightning_privacy.report import Guarantee, Outcome, RunSummary
from lightning_privacy.sampling import BalancedSampler

pytestmark = pytest.mark.filterwarnings("ignore:delta=0.01 is not below")

ERROR = 1e-6
SIZE, BATCH = 200, 20
LABELS = np.random.default_rng(1).permutation(np.repeat([0, 1], [180, 20]))
PUBLIC = PrivateBalance(public_counts=True)


def private(tiny: Any, **options: Any) -> DifferentialPrivacy:
    defaults = {"delta": 0.01, "noise_multiplier": 1.0, "noise": tiny.noise(), "probe": False}
    return DifferentialPrivacy(**(defaults | options))


def balanced_loader(tiny: Any, sampler: Any = None, batch_size: int = BATCH, **options: Any) -> Any:
    sampler = BalancedSampler(LABELS, **options) if sampler is None else sampler
    return tiny.loader(SIZE, batch_size, shuffle=False, sampler=sampler)


def fit(tiny: Any, privacy: DifferentialPrivacy, loader: Any = None, **options: Any) -> Any:
    module = options.pop("module", None) or tiny.Module("plain")
    ckpt_path, callbacks = options.pop("ckpt_path", None), options.pop("callbacks", [])
    trainer = tiny.trainer(**({"max_epochs": 1} | options), callbacks=[privacy, *callbacks])
    trainer.fit(module, balanced_loader(tiny) if loader is None else loader, ckpt_path=ckpt_path)
    return module


def settings(privacy: DifferentialPrivacy) -> Any:
    return privacy.state_dict()["settings"]


def inclusions(module: Any, steps: int, size: int = SIZE) -> np.ndarray:
    """How often each example reached ``training_step``; in none twice in a step."""
    members: dict[int, list[int]] = {}
    for step, indices in zip(module.steps_at_batch, module.seen, strict=True):
        members.setdefault(step, []).extend(indices)
    assert len(members) == steps
    assert all(len(set(drawn)) == len(drawn) for drawn in members.values())
    return np.bincount(np.concatenate(list(members.values())), minlength=size)


WEIGHTED = WeightedRandomSampler(torch.tensor(np.where(LABELS == 1, 3.0, 1.0)), SIZE)
CASES = {
    "public": ({"balance": PUBLIC}, {}, None, (10 / 180, 0.5)),
    "capped": ({"balance": PrivateBalance(public_counts=True, max_sample_rate=0.3)}, {}, None, (14 / 180, 0.3)),
    "shares": ({"balance": PUBLIC}, {"weighting": {0: 0.7, 1: 0.3}}, None, (14 / 180, 0.3)),
    "weights": ({"balance": PUBLIC}, {}, WEIGHTED, (20 / 240, 60 / 240)),
    "noisy": ({"balance": PrivateBalance(count_epsilon=0.5)}, {}, None, None),
}


@pytest.mark.parametrize("case", CASES)
def test_p15_every_class_reaches_the_training_step_at_the_rate_it_is_said_to_have(tiny: Any, case: str) -> None:
    """150 steps, micro-batches of at most 20; the ledger has the largest rate. Chi-squared, error probability 1e-6."""
    options, of_sampler, sampler, expected = CASES[case]
    privacy, steps = private(tiny, **options), 150
    module = fit(tiny, privacy, balanced_loader(tiny, sampler, **of_sampler), max_epochs=15)
    rates = np.array(settings(privacy)["balance"]["rates"])
    if expected is not None:
        np.testing.assert_allclose(rates, expected)
    counts, each = inclusions(module, steps), rates[LABELS]
    statistic = ((counts - steps * each) ** 2 / (steps * each * (1 - each))).sum()
    assert stats.chi2.sf(statistic, SIZE) > ERROR
    for label in (0, 1):
        seen = int(counts[label == LABELS].sum())
        assert stats.binomtest(seen, steps * int((label == LABELS).sum()), rates[label]).pvalue > ERROR
    assert privacy.ledger.count(SampledGaussian(1.0, float(rates.max()))) == steps


def test_p15_a_balanced_sampler_is_neither_ignored_nor_charged_at_the_uniform_rate(tiny: Any) -> None:
    privacy = private(tiny, balance=PUBLIC)
    fit(tiny, privacy)
    plain = private(tiny)
    fit(tiny, plain, tiny.loader(SIZE, BATCH))
    assert [release.sample_rate for release, _ in privacy.ledger.groups] == [0.5]
    assert [release.sample_rate for release, _ in plain.ledger.groups] == [0.1]
    assert privacy.ledger.epsilon() > 3 * plain.ledger.epsilon()


def test_p16_counts_are_private_by_default_and_charged_before_the_steps(tiny: Any) -> None:
    privacy = private(tiny, noise_multiplier=None, epsilon=8.0)
    fit(tiny, privacy)
    (counted, times, label), (steps, _, _) = privacy.ledger.history
    assert (counted, times, label) == (LaplaceRelease(0.4), 1, "class counts")  # 5% of epsilon
    balance = settings(privacy)["balance"]
    assert balance["counts"] != [180, 20]
    assert steps.sample_rate == max(balance["rates"])
    assert 7.9 < privacy.ledger.epsilon(exact=True) <= 8.0


def test_p16_rates_are_a_function_of_the_noisy_counts_alone(tiny: Any, monkeypatch: Any) -> None:
    """Other labels with the same released counts: the same rates and charges, bit for bit."""
    from lightning_privacy.callbacks import _balance

    found = []
    for labels in (LABELS, np.random.default_rng(5).permutation(np.repeat([0, 1], [110, 90]))):
        charged = []

        def released(cells: Any, *, epsilon: float, ledger: Any, charged: list[float] = charged, **_: Any) -> Any:
            charged.append(epsilon)
            ledger.charge(LaplaceRelease(epsilon))
            return np.array([171, 33])

        monkeypatch.setattr(_balance, "private_histogram", released)
        privacy = private(tiny)
        sampler = BalancedSampler(labels, weighting="sqrt")
        fit(tiny, privacy, balanced_loader(tiny, sampler), limit_train_batches=2)
        found.append((settings(privacy)["balance"], privacy.ledger.groups))
        assert charged == [0.1]
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("sampler", "words"),
    [
        (WEIGHTED, "WeightedRandomSampler has weights .* private labels.*public_counts=True"),
        (BalancedSampler(None, weights=np.ones(SIZE)), "BalancedSampler has weights"),
        (BalancedSampler(LABELS, replacement=False), "replacement=False.* count of private labels.*num_samples"),
    ],
    ids=["torch", "weights", "undersampled"],
)
def test_p16_what_was_computed_from_private_counts_must_be_declared(tiny: Any, sampler: Any, words: str) -> None:
    privacy = private(tiny)
    with pytest.raises(ConfigurationError, match=words):
        fit(tiny, privacy, balanced_loader(tiny, sampler))
    assert privacy.ledger.groups == ()
    fit(tiny, private(tiny, balance=PUBLIC), balanced_loader(tiny, sampler), limit_train_batches=2)


def test_public_counts_from_elsewhere_cost_nothing(tiny: Any) -> None:
    privacy = private(tiny, balance=PrivateBalance(public_counts={0: 160, "1": 40}))
    fit(tiny, privacy)
    np.testing.assert_allclose(settings(privacy)["balance"]["rates"], [10 / 160, 10 / 40])
    assert [release.kind for release, _ in privacy.ledger.groups] == ["sampled_gaussian"]
    with pytest.raises(ConfigurationError, match="public_counts has no count for '1'"):
        fit(tiny, private(tiny, balance=PrivateBalance(public_counts={"0": 160})))


def test_p16_counts_that_the_budget_does_not_cover_are_not_taken(tiny: Any) -> None:
    privacy = private(tiny, epsilon=0.2, balance=PrivateBalance(count_epsilon=0.3))
    with pytest.raises(PrivacyBudgetExceeded):
        fit(tiny, privacy)
    assert privacy.ledger.groups == ()


# Going on


def test_p16_p26_a_resumed_run_keeps_its_rates_and_pays_for_its_counts_once(tiny: Any, tmp_path: Path) -> None:
    def saver() -> Any:
        return ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1, every_n_train_steps=5)

    options = {"enable_checkpointing": True, "default_root_dir": tmp_path, "max_epochs": 2}
    first = private(tiny)
    whole = fit(tiny, first, callbacks=[saver()], **options)
    resumed = private(tiny)
    again = fit(tiny, resumed, callbacks=[saver()], ckpt_path=tmp_path / "step=10.ckpt", **options)
    assert settings(resumed) == settings(first)
    assert resumed.ledger.count(LaplaceRelease(0.1)) == 1
    torch.testing.assert_close(again.weights(), whole.weights(), rtol=0, atol=0)
    assert again.seen == whole.seen[len(whole.seen) - len(again.seen) :]

    changed = {
        "nothing": (private(tiny), tiny.loader(SIZE, BATCH)),
        "public": (private(tiny, balance=PUBLIC), None),
        "classes": (private(tiny), balanced_loader(tiny, BalancedSampler(LABELS + 1))),
        "rate": (private(tiny, balance=PrivateBalance(max_sample_rate=0.2)), None),
    }
    for privacy, loader in changed.values():
        with pytest.raises(CheckpointError, match="balance"):
            fit(tiny, privacy, loader, ckpt_path=tmp_path / "step=10.ckpt", **options)
        assert privacy.ledger.count(LaplaceRelease(0.1)) == 1, "charged for counts that were refused"


def test_a_second_fit_of_one_callback_does_not_count_again(tiny: Any) -> None:
    privacy = private(tiny)
    fit(tiny, privacy, limit_train_batches=3)
    first = settings(privacy)
    fit(tiny, privacy, limit_train_batches=3)
    assert settings(privacy) == first
    assert privacy.ledger.count(LaplaceRelease(0.1)) == 1


# What it costs


class Small(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.layer(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def rare_loader() -> Any:
    """1% of 50,000."""
    labels = torch.zeros(50_000, dtype=torch.long)
    labels[::100] = 1
    return DataLoader(TensorDataset(torch.randn(50_000, 2), labels), 500, sampler=BalancedSampler(labels))


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_one_percent_in_half_of_the_batch_and_what_it_costs(tiny: Any) -> None:
    privacy = DifferentialPrivacy(epsilon=3.0, delta=1e-5, balance=PUBLIC, noise=tiny.noise())
    tiny.trainer(max_epochs=1, callbacks=[privacy]).fit(Small(), rare_loader())
    rare, common = privacy.cell_costs()
    assert (rare.name, rare.rate, common.name) == ("1", 0.5, "0")
    assert common.rate == pytest.approx(250 / 49_500)
    assert rare.epsilon == privacy.ledger.epsilon(exact=True)
    assert 2.98 < rare.epsilon <= 3.0
    sigma = privacy.noise_multiplier
    alone = PrivacyLedger(delta=1e-5)
    alone.charge(SampledGaussian(sigma, 250 / 49_500), count=100)
    assert common.epsilon == pytest.approx(alone.epsilon(exact=True), abs=1e-9)
    assert common.epsilon < 0.05
    text = RunSummary(Outcome(100, 1.0, {}, {}), Guarantee.of(privacy.ledger, privacy.cell_costs())).text()
    told = " ".join(text.split())
    assert re.search(
        r"as charged 3.000 \(rate 0.5\); '1' alone 3.000 \(rate 0.5\), '0' alone 0.0\d+ \(rate 0.005051\)", told
    )
    assert "where the class itself is to stay secret, the guarantee is epsilon as charged" in told


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_the_largest_balance_that_fits_is_told_and_fits(tiny: Any) -> None:
    options = {"epsilon": 3.0, "delta": 1e-5, "noise_multiplier": 1.0, "noise": tiny.noise()}
    privacy = DifferentialPrivacy(**options)
    with pytest.raises(ConfigurationError) as caught:
        tiny.trainer(max_epochs=1, callbacks=[privacy]).fit(Small(), rare_loader())
    text = str(caught.value)
    found = re.search(r"max_sample_rate=([\d.]+)\), with batches of ([\d.]+)% '0', ([\d.]+)% '1'", text)
    assert found is not None, text
    rate = float(found[1])
    counts = {name: int(count) for name, count in re.findall(r"'(\d)': (\d+)", text)}
    assert "noisy counts that cost epsilon=0.15 and stay in the ledger" in text
    # The largest: a rate 1% above is refused, as the same steps then cost too much.
    steps = PrivacyLedger(delta=1e-5, budget=3.0)
    steps.charge(LaplaceRelease(0.15))
    assert steps.affords(SampledGaussian(1.0, rate), 100)
    assert not steps.affords(SampledGaussian(1.0, rate * 1.01), 100)
    assert float(found[3]) == pytest.approx(100 * rate * counts["1"] / 500, abs=0.06)
    # What the message says to do: the noisy counts are as good as public ones, and stay charged.
    balance = PrivateBalance(max_sample_rate=rate, public_counts=counts)
    again = DifferentialPrivacy(**options, balance=balance, ledger=privacy.ledger)
    trainer = tiny.trainer(max_epochs=1, callbacks=[again])
    trainer.fit(Small(), rare_loader())
    assert trainer.global_step == 100
    assert again.ledger.count(LaplaceRelease(0.15)) == 1


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_more_noise_than_wanted_is_refused_with_the_balance_that_fits(tiny: Any) -> None:
    balance = PrivateBalance(public_counts=True, max_noise_multiplier=1.5)
    privacy = DifferentialPrivacy(epsilon=3.0, delta=1e-5, balance=balance, noise=tiny.noise())
    with pytest.raises(ConfigurationError, match=r"noise multiplier of 1.5 cost more.*max_sample_rate=0\.\d+\)"):
        tiny.trainer(max_epochs=1, callbacks=[privacy]).fit(Small(), rare_loader())


def test_where_only_equal_rates_fit_that_is_told(tiny: Any) -> None:
    plain = private(tiny)
    fit(tiny, plain, tiny.loader(SIZE, BATCH))
    enough = plain.ledger.epsilon(exact=True)
    for epsilon, words in ((enough * 1.0001, "Equal rates for all would fit"), (enough / 2, "Not even equal rates")):
        with pytest.raises(ConfigurationError, match=words):
            fit(tiny, private(tiny, epsilon=epsilon, balance=PUBLIC))


def test_a_rate_that_was_chosen_stops_at_the_budget_like_any_run(tiny: Any) -> None:
    privacy = private(tiny, epsilon=4.0, balance=PrivateBalance(public_counts=True, max_sample_rate=0.4))
    module = fit(tiny, privacy, max_epochs=3)
    assert 0 < len(set(module.steps_at_batch)) < 30
    assert privacy.ledger.epsilon(exact=True) <= 4.0


def test_p24_closures_that_run_again_are_refused_however_large_the_batch(tiny: Any) -> None:
    """With public counts that are too large, a batch of the size of the data is still a random part of it."""
    module = tiny.Module()
    module.configure_optimizers = lambda: torch.optim.LBFGS(module.parameters())
    privacy = private(tiny, balance=PrivateBalance(public_counts={"0": 360, "1": 40}))
    with pytest.raises(UnsupportedError, match="LBFGS"):
        fit(tiny, privacy, balanced_loader(tiny, batch_size=SIZE), module=module)


# Weights on the losses


class Gradients(Callback):
    def __init__(self) -> None:
        self.kept: list[list[Tensor]] = []
        self.before: list[Any] = []

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self.kept.append([p.grad.clone() for p in pl_module.net.parameters()])
        self.before.append(copy.deepcopy(pl_module.net))


def brute_force(net: nn.Module, dataset: Any, indices: list[int], weights: np.ndarray, bound: float) -> list[Tensor]:
    """One autograd call per example: weighted, then clipped, then summed and divided by the expected batch size."""
    total = [torch.zeros_like(p) for p in net.parameters()]
    for index in indices:
        features, target, _ = dataset[index]
        loss = float(weights[index]) * nn.functional.mse_loss(net(features[None]), target[None])
        found = torch.autograd.grad(loss, list(net.parameters()))
        length = float(torch.sqrt(sum((g**2).sum() for g in found)))
        for part, gradient in zip(total, found, strict=True):
            part += gradient * min(1.0, bound / length)
    return [part / BATCH for part in total]


@pytest.mark.filterwarnings("ignore:noise_multiplier=0")
@pytest.mark.parametrize("micro", [1, 4])
@pytest.mark.parametrize("loss_weighting", ["inverse", {0: 0.8, 1: 0.2}], ids=["inverse", "shares"])
def test_loss_weighting_is_that_of_brute_force(tiny: Any, micro: int, loss_weighting: Any) -> None:
    balance = PrivateBalance(loss_weighting=loss_weighting, public_counts=True)
    bound, watch = 0.4, Gradients()
    privacy = private(tiny, noise_multiplier=0.0, max_grad_norm=bound, balance=balance)
    loader = balanced_loader(tiny, batch_size=BATCH // micro)
    module = fit(tiny, privacy, loader, callbacks=[watch], accumulate_grad_batches=micro)
    share = 0.5 if loss_weighting == "inverse" else 0.2
    each = np.where(LABELS == 1, share * SIZE / 20, (1 - share) * SIZE / 180)
    assert each.mean() == pytest.approx(1.0)
    drawn: dict[int, list[int]] = {}
    for step, indices in zip(module.steps_at_batch, module.seen, strict=True):
        drawn.setdefault(step, []).extend(indices)
    assert len(watch.kept) == 10
    clipped = 0
    for step, found in enumerate(watch.kept):
        expected = brute_force(watch.before[step], tiny.dataset(SIZE), drawn[step], each, bound)
        for one, two in zip(found, expected, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-9)
        unbound = brute_force(watch.before[step], tiny.dataset(SIZE), drawn[step], each, 1e9)
        clipped += any(not torch.allclose(one, two) for one, two in zip(expected, unbound, strict=True))
    assert clipped == 10


def test_p15_loss_weighting_samples_all_alike_and_costs_the_counts_alone(tiny: Any) -> None:
    """Binomial tests of both classes over 150 steps, error probability 1e-6."""
    privacy = private(tiny, balance=PrivateBalance(loss_weighting="inverse"))
    module = fit(tiny, privacy, max_epochs=15)
    assert privacy.ledger.groups == ((LaplaceRelease(0.1), 1), (SampledGaussian(1.0, 0.1), 150))
    counts = inclusions(module, 150)
    for label in (0, 1):
        members = counts[label == LABELS]
        assert stats.binomtest(int(members.sum()), 150 * len(members), 0.1).pvalue > ERROR
    assert privacy.cell_costs() == []


def test_p18_empty_batches_have_no_weights(tiny: Any) -> None:
    """With one example on average a third of the batches is empty."""
    privacy = private(tiny, balance=PrivateBalance(loss_weighting="sqrt", public_counts=True))
    module = fit(tiny, privacy, balanced_loader(tiny, batch_size=1), limit_train_batches=40)
    assert len(module.seen) >= 40
    assert bool(module.weights().isfinite().all())


def drop_one(items: list[Any]) -> Any:
    return torch.utils.data.default_collate(items[:-1] if len(items) > 5 else items)


def test_weights_need_every_example_in_its_place(tiny: Any) -> None:
    privacy = private(tiny, balance=PrivateBalance(loss_weighting="inverse", public_counts=True))
    loader = tiny.loader(SIZE, BATCH, shuffle=False, sampler=BalancedSampler(LABELS), collate_fn=drop_one)
    with pytest.raises(UnsupportedError, match=r"the batch has \d+ examples and must be the first dimension"):
        fit(tiny, privacy, loader)


# Bad input


@pytest.mark.parametrize(
    ("options", "loader", "message"),
    [
        (
            {"balance": PrivateBalance(max_sample_rate=0.1)},
            "plain",
            "RandomSampler, does not say.*BalancedSampler.labels",
        ),
        ({}, "short", "BalancedSampler is for 50 examples and its data set has 200"),
        (
            {"balance": PrivateBalance(loss_weighting="inverse", public_counts=True)},
            "weights",
            "needs to know the classes",
        ),
        (
            {"balance": PrivateBalance(max_sample_rate=0.05)},
            "balanced",
            "max_sample_rate=0.05 is too low .* 20 examples",
        ),
        ({"balance": PrivateBalance(loss_weighting={0: 1.0})}, "balanced", "weighting has no share for '1'"),
        ({"balance": PrivateBalance(loss_weighting="rare")}, "balanced", "weighting must be one of"),
    ],
    ids=["plain", "short", "weights", "low", "missing", "unknown"],
)
def test_bad_combinations_are_named_and_charge_nothing(tiny: Any, options: Any, loader: str, message: str) -> None:
    loaders = {
        "plain": lambda: tiny.loader(SIZE, BATCH),
        "short": lambda: balanced_loader(tiny, BalancedSampler(LABELS[:50])),
        "weights": lambda: balanced_loader(tiny, WEIGHTED),
        "balanced": lambda: balanced_loader(tiny),
    }
    privacy = private(tiny, **options)
    with pytest.raises(ConfigurationError, match=message):
        fit(tiny, privacy, loaders[loader]())
    assert privacy.ledger.groups == ()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_sample_rate": 0.0}, r"max_sample_rate must be a number in \(0, 1\], got 0.0"),
        ({"count_epsilon": -1}, "count_epsilon must be a finite number > 0, got -1"),
        ({"max_noise_multiplier": 0}, "max_noise_multiplier must be a finite number > 0, got 0"),
        ({"public_counts": "yes"}, "public_counts must be True, False or a mapping.*'yes'"),
        ({"public_counts": {"a": 1.5}}, "public_counts must map to whole numbers, got 1.5 for 'a'"),
        ({"public_counts": True, "count_epsilon": 0.1}, "count_epsilon=0.1 pays .* give one of the two"),
        ({"loss_weighting": "inverse", "max_sample_rate": 0.1}, "give one of the two"),
    ],
)
def test_bad_settings_are_named(options: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        PrivateBalance(**options)


def test_balance_must_be_one() -> None:
    with pytest.raises(ConfigurationError, match="balance must be a PrivateBalance or None, got 'class'"):
        DifferentialPrivacy(delta=1e-5, epsilon=1.0, balance="class")  # type: ignore[arg-type]
