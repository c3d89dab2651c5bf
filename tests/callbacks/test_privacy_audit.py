"""The audit in a fit: canaries are one more example each, the coins move nothing else, and what is broken is seen."""

from __future__ import annotations

import io
import warnings
from unittest import mock

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn
from torch.utils.data import DataLoader, Subset, TensorDataset, WeightedRandomSampler

from lightning_privacy._lightning import LightningModule, Trainer
from lightning_privacy.accounting import PrivacyLedger
from lightning_privacy.audit.audit_file import AuditResult
from lightning_privacy.audit.canaries import MislabelledCanaries, NoiseCanaries
from lightning_privacy.audit.slots import CanarySlots
from lightning_privacy.callbacks import DifferentialPrivacy, _privacy_audit_plan
from lightning_privacy.callbacks._privacy_audit_report import show_audit
from lightning_privacy.callbacks.privacy_audit import PrivacyAudit
from lightning_privacy.errors import CheckpointError, ConfigurationError, PrivacyViolation, UnsupportedError
from lightning_privacy.federated import ClientPrivacy, ExamplePrivacy, IIDPartition
from lightning_privacy.gradients.buffers import GradientBuffers
from lightning_privacy.mechanisms.noise import NoiseSource, SeededNoiseWarning
from lightning_privacy.sampling import BalancedSampler
from lightning_privacy.strategies import FederatedStrategy
from lightning_privacy.strategies._clients import SharedOutClients

DELTA = 1e-5


class Net(LightningModule):
    """A classifier that remembers which inputs it was trained on."""

    def __init__(self, width: int = 64, lr: float = 0.01, adam: bool = True) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.net = nn.Sequential(nn.Linear(16, width), nn.ReLU(), nn.Dropout(0.1), nn.Linear(width, 4))
        self.lr, self.adam, self.num_classes = lr, adam, 4
        self.seen: list[torch.Tensor] = []

    def training_step(self, batch, batch_idx):
        if torch.is_grad_enabled():
            self.seen.append(batch[0][:, 0].detach().clone())
        loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        self.log("loss", loss.detach())
        return loss

    def configure_optimizers(self):
        return (torch.optim.Adam if self.adam else torch.optim.SGD)(self.parameters(), self.lr)


def data(size=200):
    generator = torch.Generator().manual_seed(0)
    return TensorDataset(torch.randn(size, 16, generator=generator), torch.randint(4, (size,), generator=generator))


def fit(*callbacks, module=None, loader=None, tmp_path, ckpt_path=None, **options):
    module = Net() if module is None else module
    loader = DataLoader(data(), batch_size=20, shuffle=True) if loader is None else loader
    trainer = Trainer(
        **{"max_epochs": 1, "accelerator": "cpu", "devices": 1, "enable_checkpointing": False, "logger": False}
        | options,
        callbacks=list(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(module, loader, ckpt_path=ckpt_path)
    return trainer, module


def private(**options):
    return DifferentialPrivacy(delta=DELTA, probe=False, **({"noise_multiplier": 1.0} | options))


def seeded(**options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SeededNoiseWarning)
        return private(noise=NoiseSource(seed=3), **options)


def coins_are(monkeypatch, coins, seed=5):
    coins = np.asarray(coins, dtype=bool)
    monkeypatch.setattr(_privacy_audit_plan, "draw_coins", lambda count: coins)
    monkeypatch.setattr(_privacy_audit_plan.secrets, "randbits", lambda bits: seed)


def quiet(**options):
    return PrivacyAudit(**({"show": False} | options))


def test_a_run_without_privacy_gives_its_canaries_away(tmp_path):
    audit, loader = quiet(num_canaries=300), DataLoader(data(600), batch_size=60, shuffle=True)
    fit(audit, module=Net(width=256), loader=loader, tmp_path=tmp_path, max_epochs=100)
    assert audit.result.verdict == "measured"
    # The coins are secret ones: 1.84 with a standard deviation of 0.20 in 200 runs, so this fails once in 50,000.
    assert audit.bounds.one_run > 1
    assert dict(audit.result.rows)["Cost: examples taken out of the training"] == "300"
    assert AuditResult.read(tmp_path / "audit_canaries.json") == audit.result


def test_a_private_run_keeps_its_promise(tmp_path):
    audit, privacy = quiet(num_canaries=100), private(noise_multiplier=None, epsilon=2.0)
    fit(audit, privacy, tmp_path=tmp_path, max_epochs=5)
    assert audit.result.verdict == "holds"
    assert audit.bounds.claimed == pytest.approx(privacy.ledger.epsilon(exact=True))
    assert not any("audit" in caveat for caveat in privacy.ledger.caveats)


@pytest.mark.parametrize("order", [0, 1])
def test_noise_left_out_is_seen_written_down_and_red(tmp_path, order):
    audit, privacy = quiet(num_canaries=200, canaries="gradients"), private(noise_multiplier=None, epsilon=1.0)
    with mock.patch.object(GradientBuffers, "begin", lambda buffers, *noise, **options: buffers.clear()):
        fit(*[audit, privacy][:: 1 - 2 * order], tmp_path=tmp_path, max_epochs=5)
    assert audit.result.verdict == "broken"
    assert audit.bounds.lower > 2
    assert any("the guarantee does not hold" in caveat for caveat in privacy.ledger.caveats)
    console = Console(force_terminal=True, color_system="standard", width=100, file=io.StringIO())
    show_audit(audit.result, console)
    text = console.file.getvalue()
    assert "\x1b[1;31mNOT AS PRIVATE AS PROMISED" in text


def test_strict_ends_a_broken_fit_with_an_error(tmp_path):
    audit = quiet(num_canaries=200, canaries="gradients", strict=True)
    with (
        mock.patch.object(GradientBuffers, "begin", lambda buffers, *noise, **options: buffers.clear()),
        pytest.raises(PrivacyViolation, match="NOT AS PRIVATE"),
    ):
        fit(private(noise_multiplier=None, epsilon=1.0), audit, tmp_path=tmp_path, max_epochs=5)


def test_p25_noise_that_comes_back_is_seen(tmp_path):
    kept = {}

    def normal_(source, tensor, *, std, **place):
        return tensor.copy_(kept.setdefault(tensor.numel(), torch.randn(tensor.shape)) * std)

    audit = quiet(num_canaries=200, canaries="gradients")
    with mock.patch.object(NoiseSource, "normal_", normal_):
        fit(private(noise_multiplier=None, epsilon=1.0), audit, tmp_path=tmp_path, max_epochs=20)
    assert audit.result.verdict == "broken"


@pytest.mark.parametrize("canaries", ["noise", "gradients"])
def test_coins_move_no_rate_no_divisor_no_draw(tmp_path, monkeypatch, canaries):
    """All in or all out: the same settings, steps, ledger, and the same training examples in every batch."""
    found = []
    for coin in (True, False):
        coins_are(monkeypatch, [coin] * 50)
        privacy, audit = seeded(), quiet(num_canaries=50, canaries=canaries, write=False)
        _, module = fit(privacy, audit, tmp_path=tmp_path, max_epochs=2)
        settings = privacy._settings.to_dict()
        assert settings["num_examples"] == (250 if canaries == "gradients" else 200)
        assert settings["expected_batch_size"] == 20
        originals = set(data().tensors[0][:, 0].tolist())
        drawn = [value for batch in module.seen for value in batch.tolist()]
        found.append((settings, privacy.ledger.groups, [value for value in drawn if value in originals], len(drawn)))
    (settings, groups, drawn, count), (other_settings, other_groups, other_drawn, other_count) = found
    assert settings == other_settings
    assert groups == other_groups
    assert drawn == other_drawn
    assert (count > other_count) == (canaries == "noise")
    assert other_count == len(other_drawn)  # one that is out is never trained on


def test_one_canary_moves_a_step_by_one_clipped_gradient(tmp_path, monkeypatch):
    """Neighbouring coins, one step of SGD with the same noise and draws: at most lr C / B apart, and not 0."""
    for canaries in ("noise", "mislabelled", "gradients"):
        weights = []
        for coin in (True, False):
            coins_are(monkeypatch, [True, coin, False])
            module = Net(lr=1.0, adam=False)
            module.net[2].p = 0.0
            loader = DataLoader(data(), batch_size=203 if canaries == "gradients" else 200)
            audit = quiet(num_canaries=3, canaries=canaries, write=False)
            fit(seeded(max_grad_norm=0.1), audit, module=module, loader=loader, tmp_path=tmp_path, max_steps=1)
            weights.append(torch.cat([parameter.detach().flatten() for parameter in module.parameters()]))
        distance = float((weights[0] - weights[1]).norm())
        bound = 0.1 / loader.batch_size
        assert 0.2 * bound < distance <= 1.001 * bound, canaries


def test_replaced_examples_are_not_in_the_training_twice(tmp_path, monkeypatch):
    coins_are(monkeypatch, [True, False] * 20)
    inputs = data().tensors[0][:, 0].tolist()
    for privacy in (None, private(noise_multiplier=1.0)):
        _, module = fit(*filter(None, (privacy,)), quiet(num_canaries=40, write=False), tmp_path=tmp_path, max_epochs=8)
        seen = {value for batch in module.seen for value in batch.tolist()}
        assert len(set(inputs) - seen) == 20  # those of the canaries that are out
        if privacy is None:
            assert all(len(batch.unique()) == len(batch) for batch in module.seen)


def test_nothing_is_left_behind(tmp_path):
    module, loader = Net(), DataLoader(data(), batch_size=20, shuffle=True)
    before = set(vars(module))
    fit(quiet(num_canaries=10, write=False), private(), module=module, loader=loader, tmp_path=tmp_path)
    assert set(vars(module)) - before <= {"_trainer", "_hparams"}
    assert module.training
    assert len(loader.dataset) == 200
    assert all(parameter.grad is None for parameter in module.parameters())
    trainer, _ = fit(quiet(num_canaries=10, write=False), tmp_path=tmp_path)
    module.seen.clear()
    trainer.fit_loop.max_epochs = 2
    trainer.callbacks = []
    trainer.fit(module, loader)
    assert sum(map(len, module.seen)) % 200 == 0


def test_a_fit_after_one_that_failed_plants_once(tmp_path):
    class Failing(Net):
        fails = True

        def training_step(self, batch, batch_idx):
            if self.fails:
                raise RuntimeError("the disk is full")
            return super().training_step(batch, batch_idx)

    audit, module, loader = quiet(num_canaries=40, write=False), Failing(), DataLoader(data(), batch_size=20)
    trainer = Trainer(
        max_epochs=1, callbacks=[audit], accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    with pytest.raises(RuntimeError, match="disk"):
        trainer.fit(module, loader)
    assert "dataloader" not in vars(trainer.fit_loop._data_source)
    module.fails = False
    trainer.fit(module, loader)
    assert sum(map(len, module.seen)) == 200 - 40 + audit.coins.sum()


def test_scoring_leaves_random_numbers_and_metrics_alone(tmp_path):
    """With and without an audit that adds nothing to the training, the weights are the same."""
    weights = []
    for callbacks in ((), (quiet(num_canaries=5, canaries="noise", write=False),)):
        with mock.patch.object(_privacy_audit_plan, "draw_coins", lambda count: np.zeros(count, dtype=bool)):
            torch.manual_seed(9)
            trainer, module = fit(*callbacks, loader=DataLoader(data(), batch_size=20), tmp_path=tmp_path, max_epochs=2)
        weights.append(torch.cat([parameter.detach().flatten() for parameter in module.parameters()]))
        assert trainer.callback_metrics["loss"] < 2
    assert torch.equal(*weights)


def test_a_resumed_run_has_the_same_canaries(tmp_path):
    for canaries in ("mislabelled", "gradients"):
        audit, privacy = quiet(num_canaries=20, canaries=canaries), private()
        trainer, _ = fit(audit, privacy, tmp_path=tmp_path, max_epochs=2)
        trainer.save_checkpoint(tmp_path / "last.ckpt")
        coins = audit.coins
        resumed = quiet(num_canaries=20, canaries=canaries)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fit(resumed, private(), tmp_path=tmp_path, max_epochs=4, ckpt_path=tmp_path / "last.ckpt")
        assert (resumed.coins == coins).all()
        assert resumed.bounds.claimed > audit.bounds.claimed
        if canaries == "gradients":
            assert resumed._gradients._steps == 2 * audit._gradients._steps
            assert (resumed._gradients.positions == audit._gradients.positions).all()


@pytest.mark.parametrize(
    ("audit", "fitted", "error", "message"),
    [
        ({"num_canaries": 200}, {}, ConfigurationError, "num_canaries must be at most 199"),
        ({"num_canaries": 201, "canaries": "noise"}, {}, ConfigurationError, "num_canaries must be at most 200"),
        ({"num_canaries": 5, "canaries": "gradients"}, {}, ConfigurationError, "need the DifferentialPrivacy callback"),
        ({}, {"overfit_batches": 2}, UnsupportedError, "overfit_batches"),
        ({}, {"loader": [DataLoader(data())]}, UnsupportedError, "must be one torch DataLoader"),
        (
            {},
            {"loader": DataLoader(data(), batch_size=9, sampler=BalancedSampler(data().tensors[1]))},
            UnsupportedError,
            "BalancedSampler, which knows nothing of canaries",
        ),
        (
            {},
            {"loader": DataLoader(data(), batch_size=9, sampler=WeightedRandomSampler([1.0] * 200, 200))},
            UnsupportedError,
            "WeightedRandomSampler",
        ),
        ({}, {"loader": DataLoader(Subset(data(), []), batch_size=9)}, ConfigurationError, "is empty"),
    ],
    ids=["in place", "added", "gradients", "overfit", "several", "balanced", "weighted", "empty"],
)
def test_what_can_not_be_audited_is_refused(tmp_path, audit, fitted, error, message):
    with pytest.raises(error, match=message):
        fit(quiet(**{"num_canaries": 20} | audit), tmp_path=tmp_path, **fitted)


@pytest.mark.parametrize(("strategy", "devices"), [("ddp", 2), ("ddp_spawn", 1)])
def test_other_processes_are_refused(tmp_path, strategy, devices):
    trainer = Trainer(
        strategy=strategy, devices=devices, accelerator="cpu", logger=False, enable_checkpointing=False,
        default_root_dir=tmp_path,
    )  # fmt: skip
    with pytest.raises(UnsupportedError, match=f"got {devices} of DDPStrategy"):
        quiet().setup(trainer, Net(), "fit")


def test_a_checkpoint_of_other_canaries_is_refused():
    audit = quiet(num_canaries=20)
    audit._plan = _privacy_audit_plan.CanaryPlan.draw(20)
    state = audit.state_dict()
    resumed = quiet(num_canaries=20, num_classes=4)
    resumed._fitting = True
    with pytest.raises(CheckpointError, match="labels of num_classes=None, these of 4"):
        resumed.load_state_dict(state)
    for other in (quiet(num_canaries=10), quiet(num_canaries=20, canaries="noise")):
        other._fitting = True
        with pytest.raises(CheckpointError, match="has 20 canaries of the kind 'mislabelled'"):
            other.load_state_dict(state)
    audit._fitting = True
    for damaged in ({"version": 9}, {**state, "plan": {}}, {**state, "plan": {**state["plan"], "coins": "z"}}):
        with pytest.raises(CheckpointError, match="the checkpoint's"):
            audit.load_state_dict(damaged)


def test_arguments_are_checked():
    for options, message in (
        ({"num_canaries": 0}, "num_canaries must be a whole number >= 1"),
        ({"canaries": "birds"}, "canaries must be one of"),
        ({"num_classes": 1}, "num_classes must be 2 or more"),
        ({"num_classes": 3, "canaries": MislabelledCanaries(num_classes=4)}, "not that of the canaries, 4"),
        ({"confidence": 1.0}, "confidence"),
        ({"delta": 2.0}, "delta"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            PrivacyAudit(**options)


def test_two_audits_are_one_too_many(tmp_path):
    with pytest.raises((UnsupportedError, RuntimeError), match=r"two PrivacyAudits|state_key"):
        fit(quiet(num_canaries=5), quiet(num_canaries=6), tmp_path=tmp_path)


def test_more_gradients_than_examples_are_warned_of(tmp_path):
    with pytest.warns(UserWarning, match="more than the 200 training examples"):
        fit(quiet(num_canaries=300, canaries="gradients"), private(), tmp_path=tmp_path, max_steps=2)


def test_a_step_without_a_loss_is_refused(tmp_path):
    class Lossless(Net):
        def training_step(self, batch, batch_idx):
            return None

    with pytest.raises(UnsupportedError, match="no loss, by which canaries are told apart"):
        fit(quiet(num_canaries=5), module=Lossless(), tmp_path=tmp_path)


def test_losses_that_are_no_numbers_are_the_worst(tmp_path):
    audit = quiet(num_canaries=10, write=False)
    fit(audit, module=Net(lr=float("inf")), tmp_path=tmp_path)
    assert np.isfinite(audit.scores).all()
    assert audit.bounds.lower >= 0


def test_a_ledger_that_promises_nothing_is_measured(tmp_path):
    ledger = PrivacyLedger(delta=DELTA)
    ledger.mark_not_private("published")
    audit = quiet(num_canaries=20, write=False)
    fit(audit, private(ledger=ledger), tmp_path=tmp_path)
    assert audit.result.verdict == "measured"


def test_another_delta_and_folder_are_obeyed(tmp_path):
    audit = quiet(num_canaries=20, canaries=NoiseCanaries(), delta=1e-3, write=tmp_path / "elsewhere")
    fit(audit, private(), tmp_path=tmp_path)
    assert audit.bounds.delta == 1e-3
    assert AuditResult.read(tmp_path / "elsewhere" / "audit_canaries.json").extra["bounds"]["delta"] == 1e-3
    assert not (tmp_path / "audit_canaries.json").exists()


@pytest.mark.filterwarnings("ignore:.*barebones")
@pytest.mark.parametrize(
    "options", [{"fast_dev_run": True}, {"barebones": True, "logger": None}], ids=lambda o: next(iter(o))
)
def test_a_run_without_a_folder_gets_no_file(tmp_path, options):
    audit = quiet(num_canaries=20, canaries=NoiseCanaries(), write=True)
    options = {"enable_checkpointing": None} | options
    fit(audit, tmp_path=tmp_path, **options)
    assert audit.result.verdict == "measured"
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore:.*barebones")
def test_a_folder_that_is_given_gets_the_file_of_a_barebones_run_too(tmp_path):
    audit = quiet(num_canaries=20, canaries=NoiseCanaries(), write=tmp_path / "audits")
    fit(audit, tmp_path=tmp_path, barebones=True, logger=None, enable_checkpointing=None)
    assert AuditResult.read(tmp_path / "audits" / "audit_canaries.json") == audit.result


def test_every_clipping_policy_and_views_can_be_audited_by_gradients(tmp_path):
    for clipping in ("per_layer", "adaptive"):
        audit = quiet(num_canaries=20, canaries="gradients", write=False)
        fit(private(clipping=clipping, views=2), audit, tmp_path=tmp_path)
        assert audit.result.verdict == "holds"


@pytest.mark.parametrize("dp", [False, True])
def test_a_schedule_that_asks_for_the_number_of_steps_sees_the_canaries(tmp_path, dp):
    class Scheduled(Net):
        def configure_optimizers(self):
            self.steps = self.trainer.estimated_stepping_batches
            return super().configure_optimizers()

    audit = quiet(num_canaries=40, canaries="gradients" if dp else "noise", write=False)
    trainer, module = fit(*[audit, *([private()] if dp else [])], module=Scheduled(), tmp_path=tmp_path)
    expected = 12 if dp else -(-(200 + int(audit.coins.sum())) // 20)
    assert trainer.global_step == module.steps == expected
    if dp:
        assert audit._gradients._steps == 12


def federated(**options):
    return FederatedStrategy(partition=IIDPartition(20), cohort_size=10, rounds_per_epoch=3, **options)


@pytest.mark.parametrize("private_clients", [False, True])
def test_clients_that_are_out_never_train(tmp_path, monkeypatch, private_clients):
    coins_are(monkeypatch, [True, False, False, False, True])
    options = {"seed": 1}
    if private_clients:
        privacy = ClientPrivacy(delta=1e-3, noise_multiplier=1.0, max_delta_norm=1.0)
        options = {"client_privacy": privacy, "client_sampling": "poisson"}
    audit, strategy, trained = quiet(num_canaries=5), federated(**options), set()
    epoch = SharedOutClients.epoch

    def noted(clients, client, **place):
        trained.add(client)
        return epoch(clients, client, **place)

    monkeypatch.setattr(SharedOutClients, "epoch", noted)
    fit(audit, module=Net(adam=False), strategy=strategy, tmp_path=tmp_path, max_epochs=5)
    absent = strategy._clients.absent
    assert len(absent) == 3
    assert trained == set(range(20)) - absent  # in 15 rounds of ten; one is missed with a probability below 1e-3
    assert audit.result.verdict == ("holds" if private_clients else "measured")
    assert dict(audit.result.rows)["Cost: clients taken out of the training"] == "5"
    if private_clients:
        assert privacy.expected_cohort_size == 10
        assert audit.bounds.claimed == pytest.approx(privacy.ledger.epsilon(exact=True))


@pytest.mark.parametrize(
    ("audit", "strategy", "message"),
    [
        ({"num_canaries": 21}, {}, "at most the number of clients that hold examples, 20"),
        ({"canaries": "gradients"}, {}, "need the DifferentialPrivacy callback"),
        ({}, {"example_privacy": ExamplePrivacy(delta=1e-3, noise_multiplier=1.0, max_grad_norm=1.0)}, "one ledger"),
    ],
    ids=["too many", "gradients", "example privacy"],
)
def test_federations_that_can_not_be_audited_are_refused(tmp_path, audit, strategy, message):
    with pytest.raises((ConfigurationError, UnsupportedError), match=message):
        fit(quiet(**{"num_canaries": 5} | audit), strategy=federated(**strategy), tmp_path=tmp_path)


def test_silos_are_refused(tmp_path):
    with pytest.raises(UnsupportedError, match="what real silos hold"):
        fit(quiet(num_canaries=5), strategy=FederatedStrategy(), tmp_path=tmp_path)


def test_the_slots_are_the_data_set_of_a_private_run(tmp_path):
    seen = []

    class Look(DifferentialPrivacy):
        def on_train_start(self, trainer, module):
            seen.append(trainer.train_dataloader.dataset)

    fit(quiet(num_canaries=5), Look(delta=DELTA, noise_multiplier=1.0, probe=True), tmp_path=tmp_path)
    assert isinstance(seen[0], CanarySlots)


class Undeclared(Net):
    """A module that does not say how many classes there are."""

    def __init__(self) -> None:
        super().__init__()
        del self.num_classes


@pytest.mark.parametrize("clients", [False, True])
def test_a_private_run_must_know_the_classes(tmp_path, clients):
    def promised():
        if not clients:
            return [private()], "auto"
        privacy = ClientPrivacy(delta=1e-3, noise_multiplier=1.0, max_delta_norm=1.0)
        return [], federated(client_privacy=privacy, client_sampling="poisson")

    callbacks, strategy = promised()
    with pytest.raises(ConfigurationError, match=r"need num_classes.*PrivacyAudit\(num_classes=\.\.\.\)"):
        fit(*callbacks, quiet(num_canaries=5), module=Undeclared(), strategy=strategy, tmp_path=tmp_path)
    for options in ({"num_classes": 4}, {"canaries": "noise"}):
        callbacks, strategy = promised()
        audit, module = quiet(num_canaries=5, write=False, **options), Undeclared()
        module.adam = not clients
        fit(*callbacks, audit, module=module, strategy=strategy, tmp_path=tmp_path)
        assert audit.result.verdict == "holds"
        assert dict(audit.result.rows)[f"Cost: {'clients' if clients else 'examples'} taken out of the training"] == "5"


@pytest.mark.parametrize("kind", ["mislabelled", "blank", "noise"])
def test_one_rare_record_changes_nothing_of_another_in_a_private_run(tmp_path, monkeypatch, kind):
    """The training sets of two runs, whose data differ in one record, are the same but for its slot."""
    coins_are(monkeypatch, [True] * 150)
    rare, slots = 7, []

    class Look(DifferentialPrivacy):
        def on_train_start(self, trainer, module):
            slots[-1].extend(trainer.train_dataloader.dataset[index] for index in range(200))

    for changed in (False, True):
        inputs, labels = (tensor.clone() for tensor in data().tensors)
        labels %= 2
        if changed:
            inputs[rare], labels[rare] = 1000.0, 3
        slots.append([])
        loader = DataLoader(TensorDataset(inputs, labels), batch_size=20)
        privacy = Look(delta=DELTA, noise_multiplier=1.0, probe=False)
        audit = quiet(num_canaries=150, canaries=kind, write=False)
        fit(privacy, audit, loader=loader, tmp_path=tmp_path, max_steps=1)
    differ = [
        index
        for index, (one, other) in enumerate(zip(*slots, strict=True))
        if not (torch.equal(one[0], other[0]) and int(one[1]) == int(other[1]))
    ]
    assert differ in ([], [rare])
