"""What a private run computes, counts and samples, against plain Lightning."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch

from lightning_privacy._lightning import Callback
from lightning_privacy.accounting import PrivacyLedger, SampledGaussian
from lightning_privacy.callbacks import DifferentialPrivacy
from lightning_privacy.sampling import PoissonSampler

pytestmark = pytest.mark.filterwarnings("ignore:noise_multiplier=0", "ignore:delta=0.01 is not below")


def exact(**options: Any) -> DifferentialPrivacy:
    """A callback that changes nothing about training when the sample rate is 1."""
    return DifferentialPrivacy(delta=0.01, noise_multiplier=0.0, max_grad_norm=1e9, **options)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("one_cycle", [False, True])
@pytest.mark.parametrize(("batch_size", "accumulate"), [(12, 1), (4, 3)])
def test_p11_without_noise_bound_and_sampling_training_equals_plain_lightning(
    tiny: Any, optimizer: str, one_cycle: bool, batch_size: int, accumulate: int
) -> None:
    plain = tiny.Module(optimizer, one_cycle)
    tiny.trainer(max_epochs=5).fit(plain, tiny.loader(12, 12, shuffle=False))
    private = tiny.Module(optimizer, one_cycle)
    trainer = tiny.trainer(max_epochs=5, accumulate_grad_batches=accumulate, callbacks=[exact()])
    trainer.fit(private, tiny.loader(12, batch_size))
    assert trainer.global_step == 5
    torch.testing.assert_close(private.weights(), plain.weights(), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(("value", "algorithm"), [(0.02, "norm"), (0.001, "value")])
def test_p22_gradient_clip_val_acts_on_the_private_gradient_as_it_does_on_a_plain_one(
    tiny: Any, value: float, algorithm: str
) -> None:
    options = {"max_epochs": 3, "gradient_clip_val": value, "gradient_clip_algorithm": algorithm}
    plain, private, free = tiny.Module(), tiny.Module(), tiny.Module()
    tiny.trainer(**options).fit(plain, tiny.loader(12, 12, shuffle=False))
    tiny.trainer(**options, callbacks=[exact()]).fit(private, tiny.loader(12, 12))
    tiny.trainer(max_epochs=3).fit(free, tiny.loader(12, 12, shuffle=False))
    torch.testing.assert_close(private.weights(), plain.weights(), rtol=1e-12, atol=1e-13)
    assert not torch.allclose(plain.weights(), free.weights())


def test_p22_callbacks_see_private_gradients_only(tiny: Any) -> None:
    class Look(Callback):
        def __init__(self) -> None:
            self.norms: list[float] = []

        def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
            grads = [p.grad for p in pl_module.parameters()]
            if all(grad is not None for grad in grads):
                self.norms.append(float(torch.cat([grad.flatten() for grad in grads]).norm()))

    look = Look()
    privacy = DifferentialPrivacy(delta=0.01, noise_multiplier=50.0, max_grad_norm=1e-3)
    trainer = tiny.trainer(max_epochs=20, callbacks=[look, privacy])
    trainer.fit(tiny.Module(), tiny.loader(24, 8))
    # 21 coordinates of noise of standard deviation 50 * 1e-3 / 8, and a clipped sum of at most 8 * 1e-3.
    expected = 50 * 1e-3 / 8 * math.sqrt(21)
    assert len(look.norms) >= trainer.global_step
    assert 0.7 * expected < sum(look.norms) / len(look.norms) < 1.3 * expected


def test_p14_examples_reach_training_step_at_the_ledgers_rate(tiny: Any) -> None:
    """Inclusion counts and batch sizes over 500 steps.

    Each of the 30 counts is Binomial(500, 0.2): a chi-square statistic with 30 degrees of freedom. Over seeds it
    is above 73 with probability 2e-5. The variance of the 500 batch sizes is 30 * 0.2 * 0.8 = 4.8 (0 for shuffled
    batches), with a standard error of 0.3; outside of 3.3 to 6.3 it is with probability below 1e-6.
    """
    module = tiny.Module()
    ledger = PrivacyLedger(delta=0.01)
    privacy = DifferentialPrivacy(delta=0.01, noise_multiplier=5.0, ledger=ledger, noise=tiny.noise())
    tiny.trainer(max_epochs=100, callbacks=[privacy]).fit(module, tiny.loader(30, 6))
    ((release, count, _),) = ledger.history
    assert isinstance(release, SampledGaussian)
    assert count == 500
    assert release.sample_rate == 6 / 30
    steps: dict[int, list[int]] = {step: [] for step in range(500)}
    for step, ids in zip(module.steps_at_batch, module.seen, strict=True):
        steps[step] += ids
    counts = Counter(example for ids in steps.values() for example in ids)
    statistic = sum((counts[example] - 100) ** 2 / (500 * 0.2 * 0.8) for example in range(30))
    assert statistic < 73
    sizes = torch.tensor([float(len(ids)) for ids in steps.values()])
    assert 3.3 < float(sizes.var()) < 6.3


def test_p17_a_step_holds_each_example_at_most_once_and_micro_batches_fit(tiny: Any) -> None:
    module = tiny.Module()
    privacy = DifferentialPrivacy(delta=0.01, noise_multiplier=1.0)
    trainer = tiny.trainer(max_epochs=3, accumulate_grad_batches=3, limit_train_batches=7, callbacks=[privacy])
    trainer.fit(module, tiny.loader(40, 4))
    assert trainer.global_step == 3 * 3  # 7 loader batches of an epoch are 3 + 3 + 1
    steps: dict[int, list[int]] = {}
    for step, ids in zip(module.steps_at_batch, module.seen, strict=True):
        assert len(ids) <= 4
        steps.setdefault(step, []).extend(ids)
    assert sorted(steps) == list(range(9))
    assert all(len(ids) == len(set(ids)) for ids in steps.values())


def test_p17_a_draw_a_little_larger_than_the_loaders_batches_is_not_cut(tiny: Any) -> None:
    module = tiny.Module()
    privacy = DifferentialPrivacy(delta=0.01, noise_multiplier=1.0, noise=tiny.noise())
    tiny.trainer(max_epochs=4, callbacks=[privacy]).fit(module, tiny.loader(160, 16))
    steps: dict[int, list[int]] = {}
    for step, ids in zip(module.steps_at_batch, module.seen, strict=True):
        steps.setdefault(step, []).append(len(ids))
    sizes = {sum(parts) for parts in steps.values()}
    assert {17, 18} & sizes
    assert {19, 20, 21, 22} & sizes
    assert all(len(parts) == -(-sum(parts) // 18) for parts in steps.values())


def test_p17_every_step_of_a_cut_epoch_costs_and_samples_the_same(tiny: Any) -> None:
    privacy = DifferentialPrivacy(delta=0.01, noise_multiplier=2.0)
    trainer = tiny.trainer(max_epochs=2, limit_train_batches=0.5, callbacks=[privacy])
    trainer.fit(tiny.Module(), tiny.loader(41, 4))
    assert trainer.global_step == 2 * 5
    assert privacy.ledger.history == [(SampledGaussian(2.0, 4 / 41), 10, "training")]


def test_p18_an_empty_draw_is_a_step_that_adds_nothing_but_noise(tiny: Any) -> None:
    """At rate 1/40 more than a third of the 80 draws are empty; here the noise is 0."""
    privacy = exact(noise=tiny.noise())
    before = []

    class Watch(Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            if trainer.global_step == len(before):
                before.append(pl_module.weights())

    trainer = tiny.trainer(max_epochs=2, callbacks=[Watch(), privacy])
    trainer.fit(tiny.Module("plain"), tiny.loader(40, 1))
    sizes = sampled_sizes(40, 1 / 40, 80, tiny.noise().bernoulli_seed("sampling"))
    assert sizes.count(0) > 10
    assert trainer.global_step == privacy.ledger.history[0][1] == len(before) == 80
    for step in range(79):
        assert torch.equal(before[step], before[step + 1]) == (sizes[step] == 0)


def sampled_sizes(num_examples: int, rate: float, steps: int, seed: int) -> list[int]:
    sampler = PoissonSampler(num_examples, sample_rate=rate, steps=steps, seed=seed)
    return [sampler.size(step) for step in range(steps)]


def test_p23_steps_schedulers_and_estimates_count_private_steps(tiny: Any) -> None:
    module = tiny.Module(one_cycle=True)
    privacy = DifferentialPrivacy(delta=0.01, noise_multiplier=1.0)
    trainer = tiny.trainer(max_epochs=4, accumulate_grad_batches=2, callbacks=[privacy])
    trainer.fit(module, tiny.loader(20, 4))
    plain = tiny.Module(one_cycle=True)
    reference = tiny.trainer(max_epochs=4, accumulate_grad_batches=2)
    reference.fit(plain, tiny.loader(20, 4))
    assert trainer.global_step == reference.global_step == module.total_steps == plain.total_steps == 12

    def rates(which: Any) -> list[float]:
        return list(dict.fromkeys(zip(which.steps_at_batch, which.learning_rates, strict=True)))

    assert rates(module) == rates(plain)
    assert trainer.accumulate_grad_batches == 2
    assert trainer.estimated_stepping_batches == reference.estimated_stepping_batches


@pytest.mark.parametrize(
    "options",
    [
        {"val_check_interval": 1.0},
        {"val_check_interval": 0.5},
        {"val_check_interval": 0.3},
        {"val_check_interval": 2},
        {"val_check_interval": 3, "check_val_every_n_epoch": None},
        {"val_check_interval": 7, "check_val_every_n_epoch": None},
        {"check_val_every_n_epoch": 2},
        {"val_check_interval": 2, "accumulate_grad_batches": 2},
        {"val_check_interval": 4, "accumulate_grad_batches": 2, "check_val_every_n_epoch": None},
        {"max_steps": 4, "val_check_interval": 2},
        {"limit_train_batches": 3, "val_check_interval": 3},
        {"num_sanity_val_steps": 0, "limit_val_batches": 1},
    ],
)
def test_p23_validation_comes_after_the_same_steps_as_in_a_plain_run(tiny: Any, options: dict[str, Any]) -> None:
    validated = []
    for callbacks in ([], [DifferentialPrivacy(delta=0.01, noise_multiplier=1.0)]):
        module = tiny.Module()
        trainer = tiny.trainer(**({"max_epochs": 4, "callbacks": callbacks} | options))
        trainer.fit(module, tiny.loader(24, 4), tiny.loader(4, 4, shuffle=False))
        validated.append((module.validated_at, trainer.global_step, trainer.current_epoch))
    assert validated[0] == validated[1]
    assert validated[0][0]


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"max_steps": 5, "max_epochs": -1}, 5),
        ({"max_steps": 5, "max_epochs": 100}, 5),
        ({"fast_dev_run": True}, 1),
        ({"fast_dev_run": 3}, 3),
        ({"max_epochs": 2, "limit_train_batches": 1}, 2),
        ({"max_epochs": 2, "limit_train_batches": 0}, 0),
        ({"max_epochs": 1, "deterministic": True}, 6),
        ({"max_epochs": 1, "barebones": True}, 6),
        ({"max_epochs": 1, "detect_anomaly": True}, 6),
    ],
)
@pytest.mark.filterwarnings("ignore:.*barebones")
def test_trainer_limits_are_kept_and_epsilon_is_met_by_the_steps_that_run(
    tiny: Any, options: dict[str, Any], steps: int
) -> None:
    privacy = DifferentialPrivacy(delta=0.01, epsilon=2.0)
    if "barebones" in options:
        from lightning_privacy._lightning import Trainer

        trainer = Trainer(accelerator="cpu", devices=1, callbacks=[privacy], **options)
    else:
        trainer = tiny.trainer(callbacks=[privacy], **options)
    trainer.fit(tiny.Module(), tiny.loader(24, 4))
    assert trainer.global_step == steps
    assert sum(count for _, count, _ in privacy.ledger.history) == steps
    if steps:
        assert 1.98 < privacy.ledger.epsilon(exact=True) <= 2.0


def test_max_time_ends_a_run_in_order(tiny: Any) -> None:
    module = tiny.Module()
    privacy = DifferentialPrivacy(delta=0.01, noise_multiplier=1.0)
    trainer = tiny.trainer(max_time={"seconds": 4}, callbacks=[privacy])
    trainer.fit(module, tiny.loader(24, 4))
    assert trainer.global_step > 0
    assert privacy.ledger.history[0][1] == trainer.global_step


@pytest.mark.parametrize("options", [{"num_workers": 2}, {"num_workers": 1, "persistent_workers": True}])
def test_workers_deliver_the_same_batches(tiny: Any, options: dict[str, Any]) -> None:
    runs = []
    for extra in ({}, options):
        module = tiny.Module()
        privacy = DifferentialPrivacy(delta=0.01, noise_multiplier=1.0, noise=tiny.noise())
        tiny.trainer(max_epochs=3, callbacks=[privacy]).fit(module, tiny.loader(16, 4, **extra))
        runs.append((module.seen, module.weights()))
    assert runs[0][0] == runs[1][0]
    assert torch.equal(runs[0][1], runs[1][1])


def test_data_module_and_module_own_loader_work(tiny: Any) -> None:
    from lightning_privacy._lightning import LightningDataModule

    class Data(LightningDataModule):
        def train_dataloader(self) -> Any:
            return tiny.loader(16, 4)

    class WithLoader(tiny.Module):
        def train_dataloader(self) -> Any:
            return tiny.loader(16, 4)

    for arguments in ((tiny.Module(), None, None, Data()), (WithLoader(),)):
        privacy = DifferentialPrivacy(delta=0.01, noise_multiplier=1.0)
        trainer = tiny.trainer(max_epochs=2, callbacks=[privacy])
        trainer.fit(*arguments)
        assert trainer.global_step == 8
        assert trainer.train_dataloader.batch_size == 4


def test_p25_seed_everything_does_not_reach_noise_or_draws(tiny: Any) -> None:
    from lightning_privacy._lightning import seed_everything

    runs = []
    for _ in range(2):
        seed_everything(1, workers=True, verbose=False)
        module = tiny.Module()
        privacy = DifferentialPrivacy(delta=0.01, noise_multiplier=1.0)
        tiny.trainer(max_epochs=3, callbacks=[privacy]).fit(module, tiny.loader(30, 10))
        runs.append((module.seen, module.weights()))
    assert runs[0][0] != runs[1][0]
    assert not torch.allclose(runs[0][1], runs[1][1])


def test_p25_a_passed_seed_repeats_the_run_and_is_written_in_the_summary(tiny: Any) -> None:
    runs = []
    for _ in range(2):
        module = tiny.Module()
        privacy = DifferentialPrivacy(delta=0.01, noise_multiplier=1.0, noise=tiny.noise())
        tiny.trainer(max_epochs=3, callbacks=[privacy]).fit(module, tiny.loader(30, 10))
        runs.append((module.seen, module.weights()))
        assert "NOT PRIVATE" in privacy.ledger.summary()
    assert runs[0][0] == runs[1][0]
    assert torch.equal(runs[0][1], runs[1][1])


def test_epsilon_is_in_progress_bar_and_logger(tiny: Any, tmp_path: Any) -> None:
    from lightning_privacy._lightning import CSVLogger

    privacy = DifferentialPrivacy(delta=0.01, noise_multiplier=2.0)
    trainer = tiny.trainer(max_epochs=2, logger=CSVLogger(tmp_path), log_every_n_steps=1, callbacks=[privacy])
    trainer.fit(tiny.Module(), tiny.loader(24, 8))
    exact_epsilon = privacy.ledger.epsilon(exact=True)
    assert float(trainer.progress_bar_metrics["privacy/epsilon"]) == pytest.approx(exact_epsilon, rel=0.011)
    lines = (tmp_path / "lightning_logs/version_0/metrics.csv").read_text().splitlines()
    column = lines[0].split(",").index("privacy/epsilon")
    logged = [float(line.split(",")[column]) for line in lines[1:] if line.split(",")[column]]
    assert len(logged) == 6
    assert logged == sorted(logged)
    assert logged[-1] >= exact_epsilon * (1 - 1e-6)
