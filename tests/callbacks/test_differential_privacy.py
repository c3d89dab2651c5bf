"""Arguments, refusals before the first step, budgets, and that nothing stays behind."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, WeightedRandomSampler

from lightning_privacy import _lightning
from lightning_privacy._lightning import Callback, CombinedLoader, GradientAccumulationScheduler
from lightning_privacy.accounting import GaussianRelease, PrivacyLedger, SampledGaussian
from lightning_privacy.callbacks import DifferentialPrivacy
from lightning_privacy.errors import (
    ConfigurationError,
    LightningPrivacyError,
    PrivacyBudgetExceeded,
    PrivacyViolation,
    UnsupportedError,
)

pytestmark = pytest.mark.filterwarnings("ignore:delta=0.01 is not below")


def private(**options: Any) -> DifferentialPrivacy:
    return DifferentialPrivacy(**({"delta": 0.01, "noise_multiplier": 1.0} | options))


def refused(
    tiny: Any,
    error: type[LightningPrivacyError],
    words: str,
    *,
    module: Any = None,
    loader: Any = None,
    privacy: DifferentialPrivacy | None = None,
    **options: Any,
) -> None:
    """Assert that fit raises ``error`` before any training step, and that nothing stays attached."""
    module = tiny.Module() if module is None else module
    before = {name: value.clone() for name, value in module.state_dict().items()}
    trainer = tiny.trainer(**({"max_epochs": 1} | options))
    trainer.callbacks.append(private() if privacy is None else privacy)
    loader = tiny.loader(24) if loader is None else loader
    with pytest.raises(error, match=words):
        trainer.fit(module, None if hasattr(module, "train_dataloader_made") else loader)
    assert trainer.global_step == 0
    assert getattr(module, "seen", []) == []
    after = module.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any("forward" in vars(layer) for layer in module.modules())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"delta": 0.0}, r"delta must be a number in \(0, 1\), got 0.0"),
        ({"delta": -1e-5}, "delta .*got -1e-05"),
        ({"delta": 1.0}, "delta .*got 1.0"),
        ({"epsilon": 0.0}, "epsilon must be a finite number > 0, got 0.0"),
        ({"epsilon": -3}, "epsilon .*got -3"),
        ({"epsilon": float("inf")}, "epsilon .*got inf"),
        ({"noise_multiplier": -1.0}, "noise_multiplier .*got -1.0"),
        ({"max_grad_norm": 0.0}, "max_grad_norm .*got 0.0"),
        ({"clipping": "per-layer"}, "clipping must be one of 'flat', 'per_layer', .* got 'per-layer'"),
        ({"noise_multiplier": None}, "neither epsilon nor noise_multiplier"),
        ({"noise_multiplier": 0.0, "epsilon": 1.0}, "noise_multiplier=0 can't keep epsilon=1"),
        ({"ledger": "mine"}, "ledger must be a PrivacyLedger, got 'mine'"),
        ({"noise": 3}, "noise must be a NoiseSource, got 3"),
        ({"ledger": PrivacyLedger(delta=0.1)}, "delta=0.01 differs from the ledger's delta=0.1"),
        ({"epsilon": 2.0, "ledger": PrivacyLedger(delta=0.01)}, "epsilon=2 differs from the ledger's budget=None"),
        (
            {"epsilon": 2.0, "ledger": PrivacyLedger(delta=0.01, budget=3.0)},
            "epsilon=2 differs from the ledger's budget=3.0",
        ),
    ],
)
def test_bad_argument_is_named_with_its_value(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        private(**arguments)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"precision": "16-true"}, UnsupportedError, "precision='16-true'.*'bf16-true', 'bf16-mixed' or '16-mixed'"),
        ({"overfit_batches": 2}, UnsupportedError, "overfit_batches=2"),
        ({"reload_dataloaders_every_n_epochs": 1}, UnsupportedError, "reload_dataloaders_every_n_epochs=1"),
        (
            {"callbacks": [GradientAccumulationScheduler({0: 1, 2: 2})]},
            UnsupportedError,
            "GradientAccumulationScheduler.*accumulate_grad_batches",
        ),
    ],
)
def test_unsupported_trainer_is_refused(
    tiny: Any, options: dict[str, Any], error: type[LightningPrivacyError], words: str
) -> None:
    refused(tiny, error, words, **options)


@pytest.mark.parametrize("name", ["LearningRateFinder", "BatchSizeFinder"])
def test_searches_that_train_on_private_data_are_refused(tiny: Any, name: str) -> None:
    search = getattr(_lightning.pl.callbacks, name)()
    module = tiny.Module()
    module.batch_size, module.train_dataloader_made = 4, True
    module.train_dataloader = lambda: tiny.loader(24)
    refused(tiny, UnsupportedError, f"{name} trains on the private data", module=module, callbacks=[search])


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(range(3))


@pytest.mark.parametrize(
    ("loader", "error", "words"),
    [
        (lambda tiny: DataLoader(Stream(), 2), UnsupportedError, "iterable"),
        (lambda tiny: DataLoader(tiny.dataset(8), batch_sampler=[[0, 1]]), UnsupportedError, "batch_sampler"),
        (lambda tiny: [tiny.loader(8), tiny.loader(8)], UnsupportedError, "got list"),
        (lambda tiny: CombinedLoader([tiny.loader(8)] * 2), UnsupportedError, "one torch DataLoader"),
        (
            lambda tiny: tiny.loader(8, shuffle=None, sampler=WeightedRandomSampler([1.0] * 8, 8)),
            ConfigurationError,
            "WeightedRandomSampler has weights",
        ),
        (lambda tiny: tiny.loader(3, 4, drop_last=True), ConfigurationError, "3 examples.*batch of 4"),
        (lambda tiny: tiny.loader(0, 4, shuffle=False), ConfigurationError, "empty"),
    ],
)
def test_p20_unsuitable_loader_is_refused(tiny: Any, loader: Any, error: Any, words: str) -> None:
    refused(tiny, error, words, loader=loader(tiny))


def test_p20_training_step_that_fetches_its_own_batches_is_refused(tiny: Any) -> None:
    class Fetches(tiny.Module):
        def training_step(self, dataloader_iter: Any) -> Any:
            return super().training_step(next(dataloader_iter)[0], 0)

    refused(tiny, UnsupportedError, "dataloader_iter", module=Fetches())


def test_p24_lbfgs_is_refused(tiny: Any) -> None:
    module = tiny.Module()
    module.configure_optimizers = lambda: torch.optim.LBFGS(module.parameters())
    refused(tiny, UnsupportedError, "LBFGS evaluates its closure several times", module=module)


def test_optimizer_over_unregistered_tensors_is_refused(tiny: Any) -> None:
    module = tiny.Module()
    hidden = [nn.Linear(3, 1).double()]
    module.configure_optimizers = lambda: torch.optim.SGD(hidden[0].parameters(), lr=0.1)
    refused(tiny, ConfigurationError, r"no parameters of TinyModule \(shape \(1, 3\) in group 0", module=module)


def test_p03_batch_norm_is_refused_with_its_name_and_a_fix(tiny: Any) -> None:
    module = tiny.Module()
    module.net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)).double()
    refused(tiny, UnsupportedError, r"'net.1' \(BatchNorm1d\).*ModuleValidator.fix", module=module)


def test_module_without_trainable_parameter_is_refused(tiny: Any) -> None:
    module = tiny.Module()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    module.configure_optimizers = lambda: optimizer
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    refused(tiny, ConfigurationError, "no trainable parameter", module=module)


def test_p08_compiled_module_is_refused(tiny: Any) -> None:
    module = tiny.Module()
    module._compiler_ctx = {"compiler": "dynamo"}
    refused(tiny, UnsupportedError, "torch.compile", module=module)


def test_unbounded_trainer_with_epsilon_alone_is_refused(tiny: Any) -> None:
    privacy = private(noise_multiplier=None, epsilon=1.0)
    refused(tiny, ConfigurationError, "max_epochs=-1.*set max_epochs or max_steps", privacy=privacy, max_epochs=-1)


def test_epsilon_out_of_reach_is_refused(tiny: Any) -> None:
    privacy = private(noise_multiplier=None, epsilon=1e-6, delta=1e-12)
    refused(tiny, ConfigurationError, "out of reach", privacy=privacy, max_epochs=1000)


def test_trainer_of_the_other_lightning_is_refused() -> None:
    class Other:
        pass

    other = "lightning.pytorch" if _lightning.LIGHTNING_NAME == "pytorch_lightning" else "pytorch_lightning"
    Other.__module__ = f"{other}.trainer.trainer"
    with pytest.raises(ConfigurationError, match=f"{other} Trainer.*loaded with {_lightning.LIGHTNING_NAME}"):
        private().setup(Other(), None, "fit")
    with pytest.raises(ConfigurationError, match=r"builtins\.int"):
        private().setup(3, None, "fit")


@pytest.mark.filterwarnings("default:delta=")
def test_delta_at_or_above_one_over_n_warns(tiny: Any) -> None:
    privacy = DifferentialPrivacy(delta=0.125, noise_multiplier=1.0)
    with pytest.warns(UserWarning, match="delta=0.125 is not below 1/8"):
        tiny.trainer(max_epochs=1, callbacks=[privacy]).fit(tiny.Module(), tiny.loader(8))
    assert any("delta=0.125 is not below 1/8" in caveat for caveat in privacy.ledger.caveats)


def test_no_noise_warns_and_epsilon_is_infinite(tiny: Any) -> None:
    privacy = private(noise_multiplier=0)
    with pytest.warns(UserWarning, match="NOT PRIVATE"):
        tiny.trainer(max_epochs=1, callbacks=[privacy]).fit(tiny.Module(), tiny.loader(8))
    assert privacy.ledger.epsilon() == float("inf")


def test_p30_training_stops_before_the_step_that_would_pass_the_budget(tiny: Any) -> None:
    module = tiny.Module()
    ledger = PrivacyLedger(delta=0.01, budget=3.0)
    affordable = ledger.affordable(SampledGaussian(1.0, 4 / 24), 1000)
    assert 6 < affordable < 60
    privacy = private(epsilon=3.0, ledger=ledger)
    trainer = tiny.trainer(max_epochs=-1, min_epochs=500, callbacks=[privacy])
    trainer.fit(module, tiny.loader(24), tiny.loader(4, shuffle=False))
    assert trainer.global_step == affordable
    assert ledger.epsilon(exact=True) <= 3.0
    assert not ledger.affords(SampledGaussian(1.0, 4 / 24))
    assert module.validated_at[-1] == affordable
    assert trainer.min_epochs == 500


def test_p30_the_charge_in_backward_holds_when_something_else_spends(tiny: Any) -> None:
    ledger = PrivacyLedger(delta=0.01, budget=3.0)

    class Spend(Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            if trainer.global_step == 2 and ledger.affords(GaussianRelease(2.0)):
                while ledger.affords(SampledGaussian(1.0, 4 / 24)):
                    ledger.charge(SampledGaussian(1.0, 4 / 24))

    module = tiny.Module()
    trainer = tiny.trainer(max_epochs=1, callbacks=[Spend(), private(epsilon=3.0, ledger=ledger)])
    with pytest.raises(PrivacyBudgetExceeded, match="budget is 3"):
        trainer.fit(module, tiny.loader(24))
    assert trainer.global_step == 2
    assert ledger.epsilon(exact=True) <= 3.0


def test_what_a_passed_ledger_holds_already_counts(tiny: Any) -> None:
    ledger = PrivacyLedger(delta=0.01, budget=3.0)
    ledger.charge(GaussianRelease(3.0), label="class counts")
    privacy = DifferentialPrivacy(delta=0.01, epsilon=3.0, ledger=ledger)
    tiny.trainer(max_epochs=1, callbacks=[privacy]).fit(tiny.Module(), tiny.loader(24))
    assert 2.97 < ledger.epsilon(exact=True) <= 3.0
    alone = DifferentialPrivacy(delta=0.01, epsilon=3.0)
    tiny.trainer(max_epochs=1, callbacks=[alone]).fit(tiny.Module(), tiny.loader(24))
    assert (privacy.noise_multiplier or 0) > (alone.noise_multiplier or 9)


def test_p27_second_fit_continues_the_ledger_and_the_numbers(tiny: Any) -> None:
    module = tiny.Module()
    privacy = private(noise=tiny.noise())
    for _ in range(2):
        tiny.trainer(max_epochs=2, callbacks=[privacy]).fit(module, tiny.loader(24))
    assert privacy.ledger.history[0][1] == 24
    once = tiny.Module()
    tiny.trainer(max_epochs=4, callbacks=[private(noise=tiny.noise())]).fit(once, tiny.loader(24))
    assert module.seen == once.seen  # no draw comes twice


def test_p27_second_fit_without_budget_is_refused_at_its_start(tiny: Any) -> None:
    module = tiny.Module()
    for options in ({"noise_multiplier": None}, {"noise_multiplier": 3.0}):
        privacy = private(epsilon=1.0, **options)
        tiny.trainer(max_epochs=100 if options["noise_multiplier"] else 1, callbacks=[privacy]).fit(
            module, tiny.loader(24)
        )
        spent = privacy.ledger.epsilon(exact=True)
        refused(tiny, PrivacyBudgetExceeded, "budget", module=tiny.Module(), privacy=privacy)
        assert privacy.ledger.epsilon(exact=True) == spent


def everything(trainer: Any, module: Any, loader: Any) -> dict[str, Any]:
    return {
        "forwards": [name for name, layer in module.named_modules() if "forward" in vars(layer)],
        "hooks": [len(layer._forward_hooks) + len(layer._backward_hooks) for layer in module.modules()],
        "tensor hooks": [bool(p._backward_hooks) for p in module.parameters()],
        "optimizer hooks": [
            len(o._optimizer_step_pre_hooks) + len(o._optimizer_step_post_hooks) for o in trainer.optimizers
        ],
        "accumulate": trainer.accumulate_grad_batches,
        "loader": trainer.train_dataloader is loader,
        "io": type(trainer.strategy.checkpoint_io).__name__,
        "batches": trainer.num_training_batches,
        "interval": trainer.val_check_batch,
    }


@pytest.mark.parametrize("end", ["finished", "stopped", "error", "keyboard"])
def test_p27_nothing_stays_behind(tiny: Any, end: str) -> None:
    class End(Callback):
        def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
            if trainer.global_step == 2 and end == "stopped":
                trainer.should_stop = True
            if trainer.global_step == 2 and end == "error":
                raise ZeroDivisionError
            if trainer.global_step == 2 and end == "keyboard":
                raise KeyboardInterrupt

    states = []
    for callbacks in ([End()], [End(), private()]):
        module, loader = tiny.Module(), tiny.loader(24)
        trainer = tiny.trainer(max_epochs=2, accumulate_grad_batches=2, callbacks=callbacks)
        expected = {"error": ZeroDivisionError, "keyboard": SystemExit}.get(end)
        if expected is None:
            trainer.fit(module, loader)
        else:
            with pytest.raises(expected):
                trainer.fit(module, loader)
        states.append(everything(trainer, module, loader))
        copy.deepcopy(module.net)
        pickle.loads(pickle.dumps(module.net))
    assert states[0] == states[1]


def test_p27_a_deep_copy_taken_while_training_is_clean_and_trains_on_its_own(tiny: Any) -> None:
    copies = []

    class Copy(Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
            copies.append(copy.deepcopy(pl_module.net))

    tiny.trainer(max_epochs=1, callbacks=[private(), Copy()]).fit(tiny.Module(), tiny.loader(24))
    copies[0](torch.ones(2, 3, dtype=torch.float64)).sum().backward()
    assert all(parameter.grad is not None for parameter in copies[0].parameters())


def test_validate_test_and_predict_attach_nothing(tiny: Any) -> None:
    module, privacy = tiny.Module(), private()
    trainer = tiny.trainer(callbacks=[privacy])
    trainer.validate(module, tiny.loader(8, shuffle=False), verbose=False)
    trainer.test(module, tiny.loader(8, shuffle=False), verbose=False)
    assert privacy.ledger.history == []
    assert not any("forward" in vars(layer) for layer in module.modules())


def test_p21_swapping_the_optimizer_in_mid_run_cannot_step_on_raw_gradients(tiny: Any) -> None:
    class Swap(Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            if trainer.global_step == 1:
                trainer.strategy.optimizers = [torch.optim.SGD(pl_module.parameters(), lr=0.0)]

    class Replace(Callback):
        def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
            if trainer.global_step == 1:
                for parameter in pl_module.parameters():
                    parameter.grad = torch.ones_like(parameter)

    module = tiny.Module()
    tiny.trainer(max_epochs=1, callbacks=[Swap(), private()]).fit(module, tiny.loader(24))
    for callbacks in ([private(), Replace()], [Replace(), private()], [Swap(), private(), Replace()]):
        trainer = tiny.trainer(max_epochs=1, callbacks=callbacks)
        with pytest.raises(PrivacyViolation, match="not the private one"):
            trainer.fit(tiny.Module(), tiny.loader(24))
        assert trainer.global_step == 1


@pytest.mark.parametrize("inside", [False, True])
def test_p18_training_step_that_skips_a_batch_is_refused(tiny: Any, inside: bool) -> None:
    """At the end of a step, where the optimizer would step, and in a micro-batch before it."""

    class Skips(tiny.Module):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            skip = self.trainer.global_step >= 1 and (self.trainer.accumulate_grad_batches > 1) == inside
            return None if skip else loss

    module = Skips()
    trainer = tiny.trainer(max_epochs=4, accumulate_grad_batches=2, callbacks=[private(noise=tiny.noise())])
    with pytest.raises(PrivacyViolation, match="training_step returned None"):
        trainer.fit(module, tiny.loader(24))
    assert 1 <= trainer.global_step < 12


def test_p24_closure_called_twice_is_refused(tiny: Any) -> None:
    class Twice(tiny.Module):
        def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, closure: Any = None) -> None:
            closure()
            optimizer.step(closure=closure)

    with pytest.raises(PrivacyViolation, match="second backward"):
        tiny.trainer(max_epochs=1, callbacks=[private()]).fit(Twice(), tiny.loader(24))


def test_skipping_the_rest_of_an_epoch_forgets_the_unfinished_step(tiny: Any) -> None:
    class Skip(tiny.Module):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
            return -1 if batch_idx == 3 else None

    privacy = private()
    trainer = tiny.trainer(max_epochs=3, accumulate_grad_batches=2, callbacks=[privacy])
    trainer.fit(Skip(), tiny.loader(24))
    assert trainer.current_epoch == 3
    assert sum(count for _, count, _ in privacy.ledger.history) == trainer.global_step
