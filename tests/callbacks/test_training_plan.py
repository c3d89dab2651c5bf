"""The plan before the first step says what then happens: steps, epsilon, rules; and its memory is near the real one."""

from __future__ import annotations

import functools
import io

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_privacy._lightning import LightningModule, Trainer
from lightning_privacy.accounting import LaplaceRelease, PrivacyLedger
from lightning_privacy.callbacks import DifferentialPrivacy, TrainingPlan
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.federated import ClientPrivacy, IIDPartition
from lightning_privacy.models import MLP, Classifier
from lightning_privacy.strategies import FederatedStrategy

pytestmark = [
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`.*"),
    pytest.mark.filterwarnings("ignore:Logged while training.*"),
    pytest.mark.filterwarnings("ignore:.*is not below 1/.*"),
    pytest.mark.filterwarnings("ignore:.*figure of the clients without noise.*"),
]


def _model(**options):
    return Classifier(MLP(2, 2, **options), num_classes=2, optimizer=functools.partial(torch.optim.SGD, lr=0.1))


def _loader(count=64, batch_size=8):
    rows = TensorDataset(torch.randn(count, 2), torch.arange(count) % 2)
    return DataLoader(rows, batch_size=batch_size, shuffle=True)


def _trainer(*callbacks, **options):
    settings = {
        "accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_model_summary": False,
        "enable_progress_bar": False, "log_every_n_steps": 1, "max_epochs": 2,
    }  # fmt: skip
    return Trainer(callbacks=list(callbacks), **{**settings, **options})


def _plan(**options):
    output = io.StringIO()
    return TrainingPlan(output=output, **options), output


def test_the_plan_of_a_private_fit_is_what_then_happens():
    plan, output = _plan()
    privacy = DifferentialPrivacy(epsilon=3.0, delta=1e-3)
    trainer = _trainer(plan, privacy)  # before the callback whose plan it tells
    trainer.fit(_model(), _loader())
    rows = plan.rows
    assert list(rows) == ["examples", "batch", "steps", "clipping", "noise multiplier", "epsilon", "memory"]
    assert rows["examples"] == "64"
    assert rows["batch"] == "8 examples on average, each drawn with probability 0.125"
    assert rows["steps"] == f"{trainer.global_step} (2 epochs of 8)"
    assert rows["clipping"] == "FlatClipping(max_grad_norm=1)"
    assert rows["noise multiplier"] == f"{privacy.noise_multiplier:.4g}"
    told = float(rows["epsilon"].split()[0])
    assert told == pytest.approx(privacy.ledger.epsilon(exact=True), rel=1e-3)
    assert "of 3 at delta 0.001 after the last step, per example" in rows["epsilon"]
    assert {chosen.rule for chosen in plan.chosen} == {"LinearRule"}
    printed = output.getvalue()
    assert all(name in printed and value[:40] in printed for name, value in rows.items())
    assert "LinearRule" in printed


def test_what_was_spent_before_and_what_the_budget_ends_is_told():
    ledger = PrivacyLedger(delta=1e-3, budget=2.0)
    ledger.charge(LaplaceRelease(epsilon=0.5))
    plan, _ = _plan()
    trainer = _trainer(plan, DifferentialPrivacy(epsilon=2.0, delta=1e-3, noise_multiplier=1.0, ledger=ledger))
    trainer.fit(_model(), _loader())
    assert "0.498 of it is spent before" in plan.rows["epsilon"]
    assert "The budget ends training before the 16 steps" in plan.rows["epsilon"]
    assert plan.rows["steps"].split()[0] == str(trainer.global_step)
    assert 0 < trainer.global_step < 16


def test_no_noise_is_no_privacy():
    plan, _ = _plan(memory=False)
    with pytest.warns(UserWarning, match="NOT PRIVATE"):
        _trainer(plan, DifferentialPrivacy(delta=1e-3, noise_multiplier=0.0)).fit(_model(), _loader())
    assert plan.rows["noise multiplier"] == "0: NOT PRIVATE"
    assert plan.rows["epsilon"].startswith("infinite at delta")


@pytest.mark.parametrize("limits", [{"max_epochs": 2}, {"max_epochs": -1, "max_steps": 5}], ids=["epochs", "steps"])
def test_the_plan_of_a_fit_without_privacy(limits):
    plan, output = _plan()
    trainer = _trainer(plan, **limits, accumulate_grad_batches=2)
    trainer.fit(_model(), _loader())
    assert plan.rows["batch"] == "16 examples"
    assert plan.rows["steps"].split()[0] == str(trainer.global_step)
    assert plan.rows["epsilon"] == "none: this training is not private"
    assert plan.chosen == ()
    assert "Gradients of single examples" not in output.getvalue()


def test_the_plan_of_private_rounds_is_what_then_happens():
    privacy = ClientPrivacy(delta=1e-3, epsilon=8.0, max_delta_norm=1.0)
    strategy = FederatedStrategy(
        partition=IIDPartition(8), cohort_size=2, client_sampling="poisson", client_privacy=privacy
    )
    plan, _ = _plan()
    trainer = _trainer(plan, strategy=strategy, max_epochs=3)
    trainer.fit(_model(), _loader())
    assert plan.rows["clients"] == "8"
    assert plan.rows["steps"] == "3 (3 epochs of 1)"
    assert plan.rows["noise multiplier"] == f"{privacy.noise_multiplier:.4g}"
    assert float(plan.rows["epsilon"].split()[0]) == pytest.approx(privacy.ledger.epsilon(exact=True), rel=1e-3)
    assert privacy.ledger.count(privacy.release) == trainer.global_step == 3


def test_a_resumed_fit_tells_the_steps_that_are_left(tmp_path):
    def fit(epochs, **options):
        plan, _ = _plan(memory=False)
        privacy = DifferentialPrivacy(delta=1e-3, noise_multiplier=2.0)
        trainer = _trainer(plan, privacy, max_epochs=epochs, default_root_dir=tmp_path)
        trainer.fit(_model(), _loader(), **options)
        return plan, privacy, trainer

    _, _, first = fit(1)
    first.save_checkpoint(tmp_path / "one.ckpt")
    plan, privacy, _ = fit(3, ckpt_path=tmp_path / "one.ckpt")
    assert plan.rows["steps"] == "16 (2 epochs of 8), after 8 that were taken before"
    assert float(plan.rows["epsilon"].split()[0]) == pytest.approx(privacy.ledger.epsilon(exact=True), rel=1e-3)


def test_many_layers_of_one_kind_are_one_line():
    plan, output = _plan(layers=2, memory=False)
    _trainer(plan, DifferentialPrivacy(delta=1e-3, noise_multiplier=1.0)).fit(_model(hidden=[4, 4, 4]), _loader())
    assert len(plan.chosen) == 4
    (line,) = [line for line in output.getvalue().splitlines() if "LinearRule" in line]
    assert "and 3 more" in line


def test_telling_the_plan_changes_nothing():
    """The same weights with and without it: it draws from no generator, and its runs leave nothing behind."""

    def weights(*callbacks):
        torch.manual_seed(0)
        model = _WithDropout()
        _trainer(*callbacks).fit(model, _loader())
        return torch.cat([parameter.detach().flatten() for parameter in model.parameters()]), model.calls

    plain, calls = weights()
    told, calls_told = weights(_plan()[0])
    assert torch.equal(plain, told)
    assert calls == calls_told


class _WithDropout(LightningModule):
    """Draws from the global generator, and counts its steps."""

    def __init__(self):
        super().__init__()
        self.network = nn.Sequential(nn.Linear(2, 16), nn.Dropout(0.5), nn.Linear(16, 2))
        self.calls = 0

    def training_step(self, batch, batch_idx):
        self.calls += 1
        return nn.functional.cross_entropy(self.network(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01)


class _NoCopy(_WithDropout):
    def __deepcopy__(self, memo):
        raise TypeError("not to be had twice")


def test_a_module_that_cant_be_copied_gets_a_plan_without_that_figure():
    plan, _ = _plan()
    _trainer(plan).fit(_NoCopy(), _loader())
    assert plan.rows["memory"].endswith("what a batch needs was not measured (the module can't be copied)")
    # 82 numbers of 4 bytes: weights, gradients and Adam's two.
    assert plan.rows["memory"].startswith("about 1.31 kB for weights, gradients and optimizer")


def test_a_step_that_takes_batches_of_one_size_only_is_trained_all_the_same():
    class OneSize(LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def training_step(self, batch, batch_idx):
            return self.layer(batch[0].reshape(8, 2)).square().mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    plan, _ = _plan()
    trainer = _trainer(plan)
    loader = _loader()
    trainer.fit(OneSize(), DataLoader(loader.dataset, batch_sampler=loader.batch_sampler))
    assert trainer.global_step == 16
    assert "was not measured (RuntimeError: shape '[8, 2]' is invalid" in plan.rows["memory"]
    assert plan.rows["batch"] == "8 examples"


def test_the_number_of_layers_is_checked():
    with pytest.raises(ConfigurationError, match="layers must be a whole number >= 1, got 0"):
        TrainingPlan(layers=0)
