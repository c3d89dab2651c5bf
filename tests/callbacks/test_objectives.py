"""Objectives of fairness around a training step: what is trained, what is refused, and what is left behind."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_privacy._lightning import LightningModule, Trainer
from lightning_privacy.accounting import LaplaceRelease
from lightning_privacy.callbacks import DifferentialPrivacy, GroupDRO, PrivacyAudit, Reweighing
from lightning_privacy.callbacks.adversarial_debiasing import AdversarialDebiasing
from lightning_privacy.data.augmentation import AugmentationDataModule
from lightning_privacy.errors import ConfigurationError, UnsupportedError
from lightning_privacy.fairness.group_dro import GroupDROLoss
from lightning_privacy.fairness.reweighing import cell_counts, reweighing_weights
from lightning_privacy.mechanisms import private_histogram

N, BATCH, RATE = 24, 6, 0.1


def data(seed: int = 0) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(N, 3, generator=generator, dtype=torch.float64)
    groups = torch.arange(N) % 3
    labels = ((x[:, 0] + 0.5 * groups) > 0.6).long()
    return TensorDataset(x, labels, groups)


class Net(LightningModule):
    """A linear classifier whose step returns what it is told to."""

    def __init__(self, returns: str = "both", manual: bool = False) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.layer = nn.Linear(3, 2).double()
        self.returns = returns
        self.automatic_optimization = not manual

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        logits = self.layer(batch[0])
        losses = nn.functional.cross_entropy(logits, batch[1], reduction="none")
        if self.returns == "vector":
            return losses
        if self.returns == "logits":
            return {"loss": losses.mean(), "logits": logits}
        return losses.mean() if self.returns == "mean" else {"loss": losses.mean(), "losses": losses}

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=RATE)


def fit(module: LightningModule, *callbacks: Any, epochs: int = 2, dataset: Any = None, **data_of: Any) -> Trainer:
    trainer = Trainer(
        max_epochs=epochs,
        callbacks=list(callbacks),
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    loader = DataLoader(data() if dataset is None else dataset, batch_size=BATCH)
    trainer.fit(module, **(data_of or {"train_dataloaders": loader}))
    return trainer


def by_hand(reduce: Any, epochs: int = 2) -> Net:
    """The same training as a plain loop."""
    module = Net()
    optimizer = torch.optim.SGD(module.parameters(), lr=RATE)
    for _ in range(epochs):
        for x, y, groups in DataLoader(data(), batch_size=BATCH):
            losses = nn.functional.cross_entropy(module.layer(x), y, reduction="none")
            optimizer.zero_grad()
            reduce(losses, y, groups).backward()
            optimizer.step()
    return module


def same_weights(one: LightningModule, other: LightningModule) -> None:
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=0)


@pytest.mark.parametrize("returns", ["both", "vector"])
def test_group_dro_trains_as_a_plain_loop_with_its_objective(returns: str) -> None:
    objective = GroupDROLoss(3, step_size=0.7)
    wanted = by_hand(lambda losses, _y, groups: objective(losses, groups))
    dro, module = GroupDRO(groups=2, num_groups=3, step_size=0.7), Net(returns)
    trainer = fit(module, dro)
    same_weights(module, wanted)
    assert dro.weights == pytest.approx(objective.weights, rel=1e-12)
    assert float(trainer.callback_metrics["group_dro/weight_1"]) == pytest.approx(dro.weights[1], rel=1e-6)
    resumed = GroupDRO(groups=2, num_groups=3, step_size=0.7)
    resumed.load_state_dict(dro.state_dict())
    assert resumed.weights == pytest.approx(dro.weights, rel=1e-12)


@pytest.mark.parametrize("given", [False, True], ids=["counted", "given"])
def test_reweighing_trains_as_a_plain_loop_with_its_weights(given: bool) -> None:
    _, labels, groups = data().tensors
    counts = cell_counts(groups, labels, num_groups=3, num_classes=2)
    table = reweighing_weights(counts)
    wanted = by_hand(lambda losses, y, groups: (table[groups, y] * losses).mean())
    reweighing = Reweighing(groups=2, num_groups=3, counts=counts.tolist() if given else None)
    module = Net()
    fit(module, reweighing)
    same_weights(module, wanted)
    torch.testing.assert_close(torch.tensor(reweighing.weights, dtype=torch.float64), table)


def test_reweighing_counts_behind_an_augmentation() -> None:
    keep = nn.Identity()
    keep.per_example = True
    plain, augmented = (Reweighing(groups=2, num_groups=3) for _ in range(2))
    fit(Net(), plain)
    loader = DataLoader(data(), batch_size=BATCH)
    fit(Net(), augmented, datamodule=AugmentationDataModule(train_dataloader=loader, transforms=[keep]))
    assert augmented.weights == plain.weights


def test_reweighing_counts_examples_and_not_their_views() -> None:
    plain, augmented = (Reweighing(groups=2, num_groups=3) for _ in range(2))
    fit(Net(), plain)
    drawn: list[torch.Tensor] = []

    def draw(x: torch.Tensor) -> torch.Tensor:
        drawn.append(x)
        return x

    loader = DataLoader(data(), batch_size=BATCH)
    copies = AugmentationDataModule(train_dataloader=loader, transforms=[draw], views=2, where="workers")
    fit(Net(), augmented, epochs=1, datamodule=copies)
    assert augmented.weights == plain.weights
    assert len(drawn) == 2 * N  # those of training


@pytest.mark.parametrize("private", [False, True], ids=["plain", "private"])
def test_p16_examples_that_count_twice_or_not_at_all_are_refused(private: bool) -> None:
    def doubled(examples: list[Any]) -> list[torch.Tensor]:
        return [torch.cat([part, part]) for part in torch.utils.data.default_collate(examples)]

    reweighing = Reweighing(groups=2, num_groups=3, counts_epsilon=0.1 if private else None)
    privacy = DifferentialPrivacy(epsilon=3.0, delta=1e-3)
    loader = DataLoader(data(), batch_size=BATCH, collate_fn=doubled)
    with pytest.raises(ConfigurationError, match="48 groups and 48 labels of 24 examples"):
        fit(Net(), reweighing, *([privacy] if private else []), train_dataloaders=loader)
    assert privacy.ledger.epsilon() == 0


@pytest.mark.parametrize("behind", [False, True], ids=["before", "behind"])
def test_p16_counts_that_nobody_pays_for_are_refused_before_anything_else(behind: bool) -> None:
    class Untouched(Net):
        def configure_optimizers(self) -> Any:
            raise AssertionError("not refused in setup")

    callbacks = [Reweighing(groups=2, num_groups=3), DifferentialPrivacy(epsilon=3.0, delta=1e-3)]
    with pytest.raises(ConfigurationError, match=r"pass counts=.* or counts_epsilon"):
        fit(Untouched(), *(reversed(callbacks) if behind else callbacks))


def test_reweighing_counts_anew_for_other_data() -> None:
    reweighing = Reweighing(groups=2, num_groups=3)
    fit(Net(), reweighing)
    before = reweighing.weights
    fit(Net(), reweighing, dataset=data(seed=8))
    assert reweighing.weights != before


def test_p27_nothing_is_left_on_the_module_and_a_copy_trains_without() -> None:
    copies: list[Any] = []

    class Copying(GroupDRO):
        def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            copies.append(copy.deepcopy(pl_module))
            copies.append(pickle.loads(pickle.dumps(pl_module.layer)))
            assert type(vars(pl_module)["training_step"]).__name__ == "_WrappedStep"

    module = Net("vector")
    fit(module, Copying(groups=2, num_groups=3), epochs=1)
    assert "training_step" not in vars(module)
    assert copies[0].training_step(next(iter(DataLoader(data(), batch_size=4))), 0).shape == (4,)

    def fails(batch: Any) -> Any:
        raise RuntimeError("lost")

    with pytest.raises(RuntimeError, match="lost"):
        fit(module, GroupDRO(groups=fails, num_groups=3))
    assert "training_step" not in vars(module)
    # Private gradients stand before the step, and go after the objective.
    weights = Reweighing(groups=fails, num_groups=3, counts=[[1.0, 2.0]] * 3)
    with pytest.raises(RuntimeError, match="lost"):
        fit(module, weights, DifferentialPrivacy(epsilon=3.0, delta=1e-3, probe=False))
    assert "training_step" not in vars(module)


def test_a_private_fit_pays_for_the_counts_first_and_trains_under_the_weights() -> None:
    reweighing = Reweighing(groups=2, num_groups=3, counts_epsilon=0.5)
    privacy = DifferentialPrivacy(epsilon=3.0, delta=1e-3)
    module = Net("vector")  # the probe, too, must see the loss that is trained
    fit(module, reweighing, privacy)
    first, *others = privacy.ledger.history
    assert first[0] == LaplaceRelease(0.5)
    assert len(others) == 1
    assert 2.5 < privacy.ledger.epsilon(exact=True) <= 3.0
    exact = Reweighing(groups=2, num_groups=3)
    fit(Net(), exact)
    assert reweighing.weights != exact.weights
    # A second fit of the same run uses the counts that were paid for.
    resumed = Reweighing(groups=2, num_groups=3, counts_epsilon=0.5)
    resumed.load_state_dict(reweighing.state_dict())
    again = DifferentialPrivacy(noise_multiplier=2.0, delta=1e-3)
    fit(Net(), resumed, again, epochs=1)
    assert resumed.weights == reweighing.weights
    fit(Net(), resumed, again, epochs=1)
    assert [release for release, *_ in again.ledger.history if isinstance(release, LaplaceRelease)] == []


@pytest.mark.parametrize(("canaries", "count"), [("gradients", 8), ("mislabelled", 6)])
def test_p16_canaries_of_an_audit_count_nobody_twice(canaries: str, count: int, monkeypatch: Any) -> None:
    """Of the examples that take part each is counted once; a canary that is none borrows no one else's."""
    counted: list[torch.Tensor] = []

    def spy(values: torch.Tensor, **options: Any) -> Any:
        counted.append(values)
        return private_histogram(values, **options)

    monkeypatch.setattr("lightning_privacy.callbacks.reweighing.private_histogram", spy)
    reweighing = Reweighing(groups=2, num_groups=3, counts_epsilon=0.5)
    audit = PrivacyAudit(num_canaries=count, canaries=canaries, num_classes=2, show=False, write=False)
    fit(Net(), reweighing, DifferentialPrivacy(noise_multiplier=2.0, delta=1e-3), audit, epochs=1)
    (values,) = counted
    assert len(values) == N if canaries == "gradients" else N - count <= len(values) <= N


def test_p16_the_weights_enter_before_clipping() -> None:
    # Without noise and with a bound far away, a private run is the weighted loop over its own draws; its gradient norms
    # are those of weighted losses, so a bound between the plain and the weighted norms shows.
    counts = [[1.0, 3.0], [3.0, 1.0], [2.0, 2.0]]
    table = reweighing_weights(torch.tensor(counts))
    x, y, groups = data().tensors
    seen: list[torch.Tensor] = []

    class Watch(Net):
        def on_before_optimizer_step(self, optimizer: Any) -> None:
            seen.append(self.layer.weight.grad.clone())

    module = Watch()
    start = copy.deepcopy(module.layer)
    privacy = DifferentialPrivacy(noise_multiplier=0.0, delta=1e-3, max_grad_norm=0.4, probe=False)
    everything = DataLoader(data(), batch_size=N)
    trainer = Trainer(
        max_steps=1, callbacks=[Reweighing(groups=2, num_groups=3, counts=counts), privacy], accelerator="cpu",
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    with pytest.warns(UserWarning, match="NOT PRIVATE"):
        trainer.fit(module, everything)
    total = torch.zeros(2, 3, dtype=torch.float64)
    clipped = 0
    for i in range(N):
        loss = table[groups[i], y[i]] * nn.functional.cross_entropy(start(x[i : i + 1]), y[i : i + 1])
        gradients = torch.autograd.grad(loss, list(start.parameters()))
        norm = math.sqrt(sum(float(g.square().sum()) for g in gradients))
        clipped += norm > 0.4
        total += min(1.0, 0.4 / norm) * gradients[0]
    assert 0 < clipped < N
    torch.testing.assert_close(seen[0], total / N, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("module", "callbacks", "error", "message"),
    [
        (Net(), [GroupDRO(groups=2, num_groups=3), "private"], UnsupportedError, "weights of the groups follow the lo"),
        (
            Net(),
            [Reweighing(groups=2, num_groups=3), "private"],
            ConfigurationError,
            "pass counts=.* or counts_epsilon",
        ),
        (
            Net(),
            ["private", Reweighing(groups=2, num_groups=3, counts_epsilon=0.1)],
            ConfigurationError,
            "put Reweighing before DifferentialPrivacy",
        ),
        (Net(), [Reweighing(groups=2, num_groups=3, counts_epsilon=0.1)], ConfigurationError, "this trainer has none"),
        (
            Net("mean"),
            [GroupDRO(groups=2, num_groups=3)],
            ConfigurationError,
            r'"losses": losses}.* tensor of shape \(\)',
        ),
        (
            Net("logits"),
            [GroupDRO(groups=2, num_groups=3)],
            ConfigurationError,
            "returned a mapping with the keys 'loss'",
        ),
        (Net(), [GroupDRO(groups=3, num_groups=3)], ConfigurationError, "groups=3 is not in the batch"),
        (Net(), [GroupDRO(groups=2, num_groups=2)], ConfigurationError, "gave group 2; .* as num_groups=2"),
        (Net(manual=True), [GroupDRO(groups=2, num_groups=3)], UnsupportedError, "optimizes manually"),
        (
            Net(),
            [GroupDRO(groups=2, num_groups=3), Reweighing(groups=2, num_groups=3)],
            ConfigurationError,
            "leave one of them out",
        ),
        (Net(), [AdversarialDebiasing(groups=2, num_groups=3)], ConfigurationError, "must return its logits too"),
        (
            Net("logits"),
            [AdversarialDebiasing(groups=2, num_groups=3), "private"],
            UnsupportedError,
            r"mixes what the examples contribute; AdversarialDebiasing\(projection=False\)",
        ),
    ],
    ids=[
        *("dro", "free counts", "order", "no ledger", "scalar", "no losses", "no groups", "new group", "manual", "two"),
        *("no logits", "projection"),
    ],
)
def test_what_can_t_be_right_is_refused(module: Net, callbacks: list[Any], error: Any, message: str) -> None:
    private = DifferentialPrivacy(epsilon=3.0, delta=1e-3)
    with pytest.raises(error, match=message):
        fit(module, *(private if callback == "private" else callback for callback in callbacks))
    assert private.ledger.epsilon() == 0


def test_an_adversary_s_steps_are_the_paper_s() -> None:
    alpha, module = 0.8, Net("logits")
    start: dict[str, Any] = {}

    class Watch(AdversarialDebiasing):
        def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            start["module"] = copy.deepcopy(pl_module.layer)
            pl_module.debiasing_adversary.double()
            start["adversary"] = copy.deepcopy(pl_module.debiasing_adversary)

        def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            start["trained"] = copy.deepcopy(pl_module.debiasing_adversary)

    fit(module, Watch(groups=2, num_groups=3, labels=1, alpha=alpha), epochs=1)
    layer, adversary = start["module"], start["adversary"]
    for x, y, groups in DataLoader(data(), batch_size=BATCH):
        logits = layer(x)
        predicted = nn.functional.cross_entropy(logits, y)
        seen = logits.softmax(1)
        told = torch.stack([(y == label).double() for label in range(2)], 1)
        products = torch.stack([seen[:, a] * told[:, b] for a in range(2) for b in range(2)], 1)
        contest = nn.functional.cross_entropy(adversary.layers(torch.cat([seen, told, products], 1)), groups)
        own = torch.autograd.grad(predicted, list(layer.parameters()), retain_graph=True)
        against = torch.autograd.grad(contest, list(layer.parameters()), retain_graph=True)
        its = torch.autograd.grad(contest, list(adversary.parameters()))
        g, a = torch.cat([t.flatten() for t in own]), torch.cat([t.flatten() for t in against])
        step = g - (g @ a) / (a @ a) * a - alpha * a
        with torch.no_grad():
            layer.weight -= RATE * step[:6].view(2, 3)
            layer.bias -= RATE * step[6:]
            for parameter, gradient in zip(adversary.parameters(), its, strict=True):
                parameter -= RATE * gradient
    same_weights(module.layer, layer)
    same_weights(start["trained"], adversary)
    assert not hasattr(module, "debiasing_adversary")
    assert "training_step" not in vars(module)


def test_without_projection_an_adversary_can_be_trained_privately() -> None:
    module = Net("logits").float()
    x, y, groups = data().tensors
    privacy = DifferentialPrivacy(epsilon=3.0, delta=1e-3)
    before = module.layer.weight.detach().clone()
    fit(
        module,
        AdversarialDebiasing(groups=2, num_groups=3, projection=False),
        privacy,
        dataset=TensorDataset(x.float(), y, groups),
    )
    assert 2.5 < privacy.ledger.epsilon(exact=True) <= 3.0
    assert not torch.equal(module.layer.weight, before)
    assert "training_step" not in vars(module)


def test_a_checkpoint_with_an_adversary_is_tested_without_it(tmp_path: Any) -> None:
    class Tested(Net):
        def test_step(self, batch: Any, batch_idx: int) -> None:
            self.log("mean", self.layer(batch[0]).mean())

    class Saves(AdversarialDebiasing):
        def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            trainer.save_checkpoint(tmp_path / "last.ckpt")

    module, callback = Tested("logits").float(), Saves(groups=2, num_groups=3)
    x, *others = data().tensors
    dataset = TensorDataset(x.float(), *others)
    trainer = fit(module, callback, dataset=dataset)
    before = module.layer.weight.detach().clone()
    nn.init.zeros_(module.layer.weight)
    trainer.test(module, DataLoader(dataset, 6), ckpt_path=str(tmp_path / "last.ckpt"), weights_only=False)
    assert torch.equal(module.layer.weight, before)
    # Nothing stays behind that would hide a wrong file from the module's own loading.
    with pytest.raises(RuntimeError, match="debiasing_adversary"):
        module.load_state_dict(module.state_dict() | {"debiasing_adversary.layers.0.bias": torch.zeros(3)})
