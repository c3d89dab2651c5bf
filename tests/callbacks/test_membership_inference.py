"""The callback attacks the model it was trained with: what it finds, with privacy and without, and leaves alone."""

from __future__ import annotations

import warnings
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision.transforms.v2 import RandomHorizontalFlip

from lightning_privacy._lightning import LightningDataModule, LightningModule, Trainer
from lightning_privacy.audit import AuditResult
from lightning_privacy.callbacks import DifferentialPrivacy, PrivacyAudit
from lightning_privacy.callbacks._example_losses import example_columns, example_losses
from lightning_privacy.callbacks._reference_models import losses_of_models
from lightning_privacy.callbacks.membership_inference import MembershipInference
from lightning_privacy.data import AugmentationDataModule, DigitsDataModule
from lightning_privacy.data.in_memory import InMemoryDataset, collate
from lightning_privacy.errors import ConfigurationError, UnsupportedError
from lightning_privacy.models import MLP, Classifier

pytestmark = [
    pytest.mark.filterwarnings("ignore:The number of training batches"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
]
QUIET = {
    "logger": False,
    "accelerator": "cpu",
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}
BATCH = 64


@pytest.fixture(scope="module")
def digits():
    """Half of scikit-learn's digits to train on and half held out, with a group for each."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))[:800]
    inputs, targets = torch.tensor(images[order] / 8 - 1, dtype=torch.float32), torch.tensor(labels[order])
    parts = [InMemoryDataset(inputs[rows], targets[rows], targets[rows] % 2) for rows in (slice(400), slice(400, 800))]
    return tuple(parts)


def _module() -> Classifier:
    network = MLP(in_features=64, num_classes=10, hidden=(64,))
    return Classifier(network, num_classes=10, optimizer=partial(torch.optim.Adam, lr=1e-2))


def _fit(digits, *callbacks, epochs: int = 40, **settings) -> Trainer:
    train, _ = digits
    torch.manual_seed(0)
    trainer = Trainer(max_epochs=epochs, callbacks=list(callbacks), **{**QUIET, **settings})
    trainer.fit(_module(), DataLoader(train, batch_size=BATCH, shuffle=True, collate_fn=collate))
    return trainer


def test_an_overfitted_model_is_found_out_and_a_private_one_is_not(digits, tmp_path):
    """TPR at 1% FPR at least 5% without privacy; at epsilon 3 no more than chance explains.

    The test of the private model alarms without reason with a probability of 0.1%, and would miss a TPR of eleven times
    the FPR with one below 5%.
    """
    figures = {}
    for name, privacy in (("plain", []), ("private", [DifferentialPrivacy(delta=1e-4, epsilon=3.0, probe=False)])):
        attack = MembershipInference(
            reference_models=6, holdout=digits[1], parts={"class": 1, "odd": 2}, folder=tmp_path / name, seed=0
        )
        trainer = _fit(digits, attack, *privacy, epochs=40 if name == "plain" else 6)
        figures[name] = attack.report
        result = AuditResult.read(tmp_path / name / "audit_membership.json")
        assert result == attack.result
        assert result.verdict == ("measured" if name == "plain" else "holds")
        assert set(attack.report.parts["odd"]) == {"0", "1"}
        assert len(attack.report.parts["class"]) == 10
        assert trainer.global_step == len(trainer.train_dataloader) * trainer.current_epoch or privacy
    assert figures["plain"].attacks["lira"].tpr[0.01].value >= 0.05
    assert figures["plain"].p_values["lira"][0.01] < 1e-3
    assert figures["private"].p_values["lira"][0.01] > 1e-3


def test_the_run_is_left_as_it_is(digits):
    """The same seed gives the same weights, and the same random numbers after them, with the callback and without."""
    weights = []
    for callbacks in ([], [MembershipInference(reference_models=4, holdout=digits[1])]):
        trainer = _fit(digits, *callbacks, epochs=2)
        after = torch.rand(3)
        weights.append([*trainer.lightning_module.state_dict().values(), after])
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


def test_losses_are_those_of_the_model_example_by_example(digits):
    attack = MembershipInference(reference_models=0, holdout=digits[1])
    trainer = _fit(digits, attack, epochs=3)
    model = trainer.lightning_module.eval()
    with torch.no_grad():
        expected = [
            nn.functional.cross_entropy(model(each.tensors[0]), each.tensors[1], reduction="none") for each in digits
        ]
    found = -attack.report.scores["loss"]
    assert found == pytest.approx(torch.cat(expected).numpy(), rel=1e-4, abs=1e-6)
    assert (attack.report.attacks["loss"].members, attack.report.attacks["loss"].non_members) == (400, 400)


class _MeanLoss(LightningModule):
    """Returns one loss for the batch, as most modules do; logs and changes nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Sequential(nn.Linear(64, 10), nn.Dropout(0.5))

    def training_step(self, batch):
        loss = nn.functional.cross_entropy(self.layer(batch[0]), batch[1])
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_a_module_with_one_loss_for_a_batch_is_asked_about_single_examples(digits):
    module = _MeanLoss()
    data = InMemoryDataset(*(tensor[:7] for tensor in digits[0].tensors))
    with torch.no_grad():
        expected = nn.functional.cross_entropy(module.layer[0](data.tensors[0]), data.tensors[1], reduction="none")
    assert example_losses(module, data, collate_fn=collate) == pytest.approx(expected.numpy(), rel=1e-5)
    assert module.training
    assert module.layer[1].training
    assert "log" not in vars(module)

    def own(module, batch):
        return module.layer(batch[0]).logsumexp(1)

    given = example_losses(module, data, collate_fn=collate, losses=own, batch_size=3)
    with torch.no_grad():
        assert given == pytest.approx(own(module.eval(), data.tensors).numpy(), rel=1e-5)
    with pytest.raises(ConfigurationError, match="one loss for each of 7 examples"):
        example_losses(module, data, collate_fn=collate, losses=lambda module, batch: torch.zeros(2))


def test_columns_are_found_by_place_and_by_function(digits):
    data = InMemoryDataset(*(tensor[:9] for tensor in digits[0].tensors))
    found = example_columns(
        data, {"class": 1, "bright": lambda batch: batch[0].mean(1) > 0}, batch_size=4, collate_fn=collate
    )
    assert found["class"].tolist() == data.tensors[1].tolist()
    assert found["bright"].tolist() == (data.tensors[0].mean(1) > 0).tolist()
    with pytest.raises(ConfigurationError, match=r"parts\['class'\]"):
        example_columns(data, {"class": 7}, collate_fn=collate)


def test_reference_models_are_trained_on_their_part_and_on_nothing_else(digits, recwarn):
    """A model trained on two examples by heart has a low loss on these and a high one on the rest."""
    data = InMemoryDataset(*(tensor[:20] for tensor in digits[0].tensors))
    member = np.zeros((2, 20), bool)
    member[0, :2] = member[1, 5:7] = True
    losses = losses_of_models(
        _module, data, member, make_trainer=lambda: Trainer(max_epochs=60, **QUIET), batch_size=2, collate_fn=collate,
        seed=1,
    )  # fmt: skip
    assert losses[member].max() < 0.1
    assert np.median(losses[~member]) > 1
    assert not [warning for warning in recwarn if "val_dataloader" in str(warning.message)]
    with pytest.raises(ConfigurationError, match=r"shape \(models, 20\)"):
        losses_of_models(_module, data, member[:, :3], make_trainer=Trainer, batch_size=2)
    with pytest.raises(ConfigurationError, match="one example at least"):
        losses_of_models(_module, data, member & False, make_trainer=Trainer, batch_size=2)


def test_reference_models_of_a_private_run_get_its_noise(digits):
    seen = []

    class Watching(DifferentialPrivacy):
        def on_fit_end(self, trainer, pl_module):
            seen.append(self._settings)
            super().on_fit_end(trainer, pl_module)

    import lightning_privacy.callbacks._reference_recipe as recipe

    original = recipe.DifferentialPrivacy
    recipe.DifferentialPrivacy = Watching
    try:
        privacy = DifferentialPrivacy(
            delta=1e-4, noise_multiplier=2.0, max_grad_norm=0.7, clipping="adaptive", probe=False
        )
        attack = MembershipInference(reference_models=4, holdout=digits[1])
        trainer = _fit(digits, attack, privacy, epochs=1, accumulate_grad_batches=2)
    finally:
        recipe.DifferentialPrivacy = original
    assert sum(count for _, count, _ in privacy.ledger.history) == trainer.global_step
    assert len(seen) == 4
    for settings in seen:
        assert settings.noise_multiplier == privacy.noise_multiplier
        assert settings.expected_batch_size == privacy._settings.expected_batch_size == 2 * BATCH
        assert settings.clipping == privacy._settings.clipping


def test_the_test_set_of_a_data_module_is_held_out():
    """And its validation set where there is no test set."""

    class NoTest(DigitsDataModule):
        test_dataloader = LightningDataModule.test_dataloader

    for datamodule, outside in ((DigitsDataModule(image_size=8), 270), (NoTest(image_size=8), 90)):
        attack = MembershipInference(reference_models=0)
        Trainer(max_epochs=1, callbacks=[attack], **QUIET).fit(_module(), datamodule=datamodule)
        assert (attack.report.attacks["loss"].members, attack.report.attacks["loss"].non_members) == (1437, outside)


def test_without_held_out_examples_it_says_so_before_training(digits):
    attack = MembershipInference()
    with pytest.raises(ConfigurationError, match="holdout="):
        _fit(digits, attack, epochs=1)
    assert attack.report is None


def test_layers_of_setup_and_transfer_hooks_of_the_module_are_its_own(digits):
    """The attack asks the module as it was trained, on what its hooks make of the batches."""

    class Late(_MeanLoss):
        def setup(self, stage):
            assert self.trainer is not None
            self.layer = nn.Linear(128, 10)

        def on_after_batch_transfer(self, batch, dataloader_idx):
            return torch.cat([batch[0], -batch[0]], 1), batch[1]

    attack = MembershipInference(reference_models=4, holdout=digits[1], seed=0)
    trainer = Trainer(max_epochs=1, callbacks=[attack], **QUIET)
    module = Late()
    trainer.fit(module, DataLoader(digits[0], batch_size=BATCH, collate_fn=collate))
    assert module.trainer is trainer
    inputs, targets = digits[0].tensors[:2]
    with torch.no_grad():
        expected = nn.functional.cross_entropy(module.layer(torch.cat([inputs, -inputs], 1)), targets, reduction="none")
    assert -attack.report.scores["loss"][:400] == pytest.approx(expected.numpy(), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(
    ("options", "step", "message"),
    [
        ({}, lambda module, batch: module.trainer.current_epoch, "RuntimeError: .*_Step is not attached"),
        ({}, lambda module, batch: batch[0].reshape(BATCH, 64), "RuntimeError: shape"),
        ({"parts": {"class": "label"}}, lambda module, batch: None, r"parts\['class'\]"),
    ],
)
def test_what_can_not_be_asked_at_the_end_is_refused_before_training(digits, options, step, message):
    class _Step(_MeanLoss):
        steps = 0

        def training_step(self, batch):
            step(self, batch)
            _Step.steps += self._trainer is not None
            return super().training_step(batch)

    attack = MembershipInference(reference_models=4, holdout=digits[1], **options)
    trainer = Trainer(max_epochs=1, callbacks=[attack], **QUIET)
    with pytest.raises(ConfigurationError, match=message):
        trainer.fit(_Step(), DataLoader(digits[0], batch_size=BATCH, collate_fn=collate))
    assert _Step.steps == 0


@pytest.mark.filterwarnings("ignore:.*is not below 1/.*")
def test_held_out_examples_of_another_kind_break_no_promise():
    """Told apart with ease, by what they are; with a split at random the same figures would be a broken promise."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(1200, 4, generator=generator)
    labels = (inputs[:, 0] > 0).long()
    train, other = TensorDataset(inputs[:600], labels[:600]), TensorDataset(inputs[600:], 1 - labels[600:])
    for random_split, verdict in ((False, "measured"), (True, "broken")):
        attack = MembershipInference(reference_models=0, holdout=other, random_split=random_split)
        privacy = DifferentialPrivacy(epsilon=1.0, delta=1e-3, probe=False)
        torch.manual_seed(0)
        module = Classifier(MLP(4, 2), num_classes=2, optimizer=partial(torch.optim.Adam, lr=0.02))
        Trainer(max_epochs=10, callbacks=[privacy, attack], **QUIET).fit(module, DataLoader(train, batch_size=100))
        assert attack.result.verdict == verdict
        assert ("may be of another kind" in attack.result.sentence) == (not random_split)


@pytest.mark.parametrize(("strategy", "devices"), [("ddp", 2), ("ddp_spawn", 1)])
def test_other_processes_are_refused(strategy, devices):
    trainer = Trainer(strategy=strategy, devices=devices, **QUIET)
    with pytest.raises(UnsupportedError, match=f"trains in {devices} of DDPStrategy"):
        MembershipInference().setup(trainer, _module(), "fit")


def test_data_modules_that_change_batches_are_refused():
    class Changing(DigitsDataModule):
        def on_after_batch_transfer(self, batch, dataloader_idx):
            return batch

    augmented = AugmentationDataModule(DigitsDataModule(image_size=8), transforms=[RandomHorizontalFlip()])
    for datamodule in (Changing(image_size=8), augmented):
        trainer = Trainer(max_epochs=1, callbacks=[MembershipInference(reference_models=0)], **QUIET)
        with pytest.raises(UnsupportedError, match=f"{type(datamodule).__name__} changes batches"):
            trainer.fit(_module(), datamodule=datamodule)


@pytest.mark.parametrize("show", [True, False])
def test_the_result_is_told(digits, capsys, show):
    attack = MembershipInference(reference_models=0, holdout=digits[1], show=show)
    _fit(digits, attack, epochs=1)
    assert ("Membership inference" in capsys.readouterr().out) is show
    assert attack.result is not None


def test_a_rehearsal_of_a_fit_writes_nothing(digits, tmp_path):
    attack = MembershipInference(reference_models=0, holdout=digits[1], folder=tmp_path)
    _fit(digits, attack, fast_dev_run=True)
    assert attack.result is not None
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("automatic", "dp"), [(True, False), (False, False), (True, True)], ids=["plain", "manual", "dp"]
)
def test_a_rate_that_follows_the_validation_does_so_in_reference_models(digits, automatic, dp):
    class Falling(Classifier):
        rates = ()

        def __init__(self):
            super().__init__(MLP(in_features=64, num_classes=10), num_classes=10, optimizer=torch.optim.SGD)
            self.automatic_optimization = automatic

        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            if not automatic:
                self.optimizers().zero_grad()
                self.manual_backward(loss["loss"])
                self.optimizers().step()
            return loss

        def on_train_epoch_end(self):
            if not automatic:
                self.lr_schedulers().step(self.trainer.callback_metrics["rise"])

        def validation_step(self, batch, batch_idx):
            self.log("rise", float(self.current_epoch))  # worse from epoch to epoch

        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
            scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, factor=0.5)
            monitor = {"monitor": "rise"} if automatic else {}
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler} | monitor}

        def on_train_end(self):
            Falling.rates += (self.trainer.optimizers[0].param_groups[0]["lr"],)

    def losses(module, batch):
        return nn.functional.cross_entropy(module(batch[0]), batch[1], reduction="none")

    attack = MembershipInference(reference_models=4, holdout=digits[1], losses=losses, seed=0)
    privacy = [DifferentialPrivacy(delta=1e-4, noise_multiplier=1.0, probe=False)] if dp else []
    trainer = Trainer(max_epochs=4, callbacks=[attack, *privacy], **QUIET)
    loaders = [DataLoader(data, batch_size=BATCH, collate_fn=collate) for data in digits]
    trainer.fit(Falling(), *loaders)
    assert Falling.rates == pytest.approx([0.1 / 8] * 5), "the run and its reference models"
    assert "lira" in attack.report.attacks


def test_a_rate_that_follows_a_validation_in_a_later_epoch_does_so_in_reference_models(digits):
    """Lightning asks for the validation loader in the second epoch only."""

    class Falling(_MeanLoss):
        rates = ()

        def validation_step(self, batch):
            self.log("flat", 1.0)

        def configure_optimizers(self):
            optimizer = super().configure_optimizers()
            scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, factor=0.5)
            return {
                "optimizer": optimizer,
                "lr_scheduler": {"scheduler": scheduler, "monitor": "flat", "frequency": 2},
            }

        def on_train_end(self):
            Falling.rates += (self.trainer.optimizers[0].param_groups[0]["lr"],)

    attack = MembershipInference(reference_models=4, holdout=digits[1], seed=0)
    trainer = Trainer(max_epochs=4, callbacks=[attack], num_sanity_val_steps=0, check_val_every_n_epoch=2, **QUIET)
    trainer.fit(Falling(), *(DataLoader(data, batch_size=BATCH, collate_fn=collate) for data in digits))
    assert Falling.rates == pytest.approx([0.1 / 2] * 5), "the run and its reference models"
    assert "lira" in attack.report.attacks


def test_an_iterable_data_set_is_refused(digits):
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(TensorDataset(*digits[0].tensors))

    trainer = Trainer(max_epochs=1, callbacks=[MembershipInference(holdout=digits[1])], **QUIET)
    with pytest.raises(UnsupportedError, match="Stream has no length"):
        trainer.fit(_module(), DataLoader(Stream(), batch_size=BATCH))


@pytest.mark.parametrize("number", [-1, 1, 3, True])
def test_numbers_of_reference_models_that_make_no_sense_are_refused(number):
    with pytest.raises(ConfigurationError, match="reference_models"):
        MembershipInference(reference_models=number)


@pytest.mark.parametrize(("count", "said"), [(6, ["6 reference models", "about 6 times"]), (0, [])])
def test_what_the_reference_models_cost_is_said_before_training(digits, caplog, count, said):
    class StopError(RuntimeError):
        """Ends the fit before its first step."""

    class Module(Classifier):
        def on_train_batch_start(self, batch, batch_idx):
            raise StopError

    train, holdout = digits
    module = Module(MLP(in_features=64, num_classes=10), num_classes=10, optimizer=torch.optim.SGD)
    trainer = Trainer(max_epochs=1, callbacks=[MembershipInference(reference_models=count, holdout=holdout)], **QUIET)
    with caplog.at_level("INFO"), pytest.raises(StopError):
        trainer.fit(module, DataLoader(train, batch_size=BATCH, collate_fn=collate))
    messages = " ".join(record.getMessage() for record in caplog.records if "Membership" in record.getMessage())
    assert bool(messages) is bool(said)
    assert all(part in messages for part in said)


@pytest.mark.parametrize("audit_first", [True, False])
def test_a_run_with_canaries_is_not_attacked(digits, audit_first):
    train, holdout = digits
    pair = [PrivacyAudit(num_canaries=10, num_classes=10, write=False), MembershipInference(holdout=holdout)]
    trainer = Trainer(max_epochs=1, callbacks=pair if audit_first else pair[::-1], **QUIET)
    with pytest.raises(UnsupportedError, match="canaries of PrivacyAudit"):
        trainer.fit(_module(), DataLoader(train, batch_size=BATCH, collate_fn=collate))


def test_a_run_that_fails_is_not_attacked(digits):
    class Failing(MembershipInference):
        def on_train_epoch_end(self, trainer, pl_module):
            raise RuntimeError("the disk is full")

    attack = Failing(holdout=digits[1])
    with warnings.catch_warnings(), pytest.raises(RuntimeError, match="disk"):
        _fit(digits, attack, epochs=1)
    assert attack.report is None
