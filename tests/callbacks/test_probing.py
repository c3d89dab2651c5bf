"""The independence probe on real training steps: what it refuses, what it accepts, and that it leaves no traces."""

from __future__ import annotations

import copy
import random
import threading
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from probe_cases import Case, Listed, Probed, sequences, vectors
from probe_faults import FAULTS, classifier, entropy, recurrent
from probe_sound import SOUND, Counting, time_first
from torch import nn
from torch.utils.data import DataLoader, Dataset, default_collate

from lightning_privacy.callbacks import DifferentialPrivacy
from lightning_privacy.callbacks._rehearsing import StandingOptimizer
from lightning_privacy.errors import ConfigurationError, UnsupportedError

pytestmark = pytest.mark.filterwarnings("ignore:noise_multiplier=0", "ignore:delta=0.01 is not below")


def of(pitfall: str) -> Any:
    """Parametrizes a test with the faults of one pitfall."""
    cases = [case for case in FAULTS if case.pitfall == pitfall]
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.name)


def fit(tiny: Any, case: Case, *, steps: int = 1, **options: Any) -> Any:
    privacy = DifferentialPrivacy(delta=0.01, noise_multiplier=1.0, **options)
    module, trainer = case.module(), tiny.trainer(max_steps=steps, callbacks=[privacy])
    trainer.fit(module, case.loader())
    assert trainer.global_step == steps or not module.automatic_optimization
    return module


def check_refused(tiny: Any, case: Case) -> None:
    privacy = DifferentialPrivacy(delta=0.01, noise_multiplier=1.0)
    trainer = tiny.trainer(max_steps=1, callbacks=[privacy])
    with pytest.raises(UnsupportedError, match=case.says):
        trainer.fit(case.module(), case.loader())
    assert trainer.global_step == 0
    assert privacy.ledger.epsilon() == 0


@of("p02")
def test_p02_losses_whose_mean_couples_examples_are_refused(tiny: Any, case: Case) -> None:
    check_refused(tiny, case)


@of("p03")
def test_p03_steps_that_couple_examples_are_refused(tiny: Any, case: Case) -> None:
    check_refused(tiny, case)


@of("p04")
def test_p04_augmentation_that_mixes_examples_is_refused(tiny: Any, case: Case) -> None:
    check_refused(tiny, case)


@of("p05")
def test_p05_terms_of_the_loss_that_belong_to_no_example_are_refused(tiny: Any, case: Case) -> None:
    check_refused(tiny, case)


@of("p11")
def test_p11_losses_that_are_no_mean_are_refused(tiny: Any, case: Case) -> None:
    check_refused(tiny, case)


@of("p12")
def test_p12_steps_that_need_several_examples_are_refused(tiny: Any, case: Case) -> None:
    check_refused(tiny, case)


def test_enough_faults_are_planted_and_each_is_of_a_tested_pitfall() -> None:
    assert len(FAULTS) >= 25
    assert len(SOUND) >= 25
    assert {case.pitfall for case in FAULTS} == {"p02", "p03", "p04", "p05", "p11", "p12"}
    assert all(case.says for case in FAULTS)


@pytest.mark.parametrize("case", SOUND, ids=lambda case: case.name)
def test_sound_steps_are_accepted(tiny: Any, case: Case) -> None:
    fit(tiny, case)


SILENT = [
    *("functional_batch_norm", "standardising_module", "median_loss", "contrastive", "mixup", "cutmix", "summed"),
    *("over_positives", "batch_before", "centre_loss", "reversed_gradients", "over_padded_length", "sorted_batch"),
]


@pytest.mark.parametrize("case", [case for case in FAULTS if case.name in SILENT], ids=lambda case: case.name)
def test_without_the_probe_faulty_steps_train(tiny: Any, case: Case) -> None:
    """It is the probe that refuses them, and nothing else."""
    fit(tiny, case, probe=False)


@pytest.mark.filterwarnings("ignore:'.*', which no gradient trains, changed")
def test_the_probe_leaves_no_traces(tiny: Any) -> None:
    """Everything is compared right after the probe, at the first batch, with what it was before the fit."""

    class Leaving(Counting):
        def __init__(self, case: Case) -> None:
            super().__init__(case)
            self.register_buffer("count", torch.zeros(()))
            self.generator = torch.Generator().manual_seed(3)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.count += 1
            torch.rand(2, generator=self.generator), np.random.rand(), random.random()
            return super().training_step(batch, batch_idx)

        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            if self.trainer.fit_loop.epoch_loop._results or batch_idx:
                return
            self.found = (*self.generators(), self.generator.get_state(), list(self.seen), self.losses[:])
            self.after = copy.deepcopy(self.state_dict())
            self.metric_updates = self.accuracy.update_count

        def generators(self) -> Any:
            return torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()

    runs = []
    for probe in (False, True):
        torch.manual_seed(0), np.random.seed(0), random.seed(0)
        case = Case("leaving", entropy, classifier, base=Leaving)
        loader_generator = torch.Generator().manual_seed(5)
        loader = DataLoader(Listed(case.examples()), batch_size=8, shuffle=True, generator=loader_generator)
        module = case.module()
        before = copy.deepcopy(module.state_dict())
        privacy = DifferentialPrivacy(delta=0.01, noise_multiplier=1.0, noise=tiny.noise(), probe=probe)
        trainer = tiny.trainer(max_steps=3, callbacks=[privacy])
        trainer.fit(module, loader)
        assert all(torch.equal(before[name], module.after[name]) for name in before)
        assert module.metric_updates == 0
        assert module.found[4:] == ([], [])
        found = [*module.found[:4], loader_generator.get_state(), torch.tensor(module.losses)]
        runs.append((found, trainer.callback_metrics["loss"], [p.detach().clone() for p in module.parameters()]))
    for without, with_probe in zip(runs[0][0], runs[1][0], strict=True):
        assert without == with_probe if isinstance(without, tuple) else np.array_equal(without, with_probe)
    assert torch.equal(runs[0][1], runs[1][1])
    assert all(torch.equal(one, two) for one, two in zip(runs[0][2], runs[1][2], strict=True))


def test_the_step_is_rehearsed_some_dozens_of_times_and_counts_of_the_module_are_put_back(tiny: Any) -> None:
    runs: list[tuple[int, ...]] = []
    trained: list[tuple[int, ...]] = []

    class Counted(Probed):
        count = 0

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.count += 1
            if type(self) is not Counted:  # a copy
                runs.append((self.count, self.current_epoch, self.global_step, batch_idx, len(batch[1])))
            elif not trained:
                trained.append((self.count, self.current_epoch, self.global_step, batch_idx))
            return super().training_step(batch, batch_idx)

    fit(tiny, Case("counted", entropy, classifier, base=Counted))
    assert trained == [(1, 0, 0, 0)]
    assert 20 <= len(runs) <= 45
    assert {count for count, *_ in runs} == {1, 2}  # each time from the same state, or after one batch
    assert {run[1:4] for run in runs} == {(0, 0, 0), (1, 1, 1), (999, 0, 0)}
    assert {run[4] for run in runs} == {1, 2, 3, 4, 8}


def test_no_larger_batch_is_rehearsed_than_may_come(tiny: Any) -> None:
    sizes = []

    def noting(m: Any, batch: Any) -> Any:
        sizes.append(len(batch[1]))
        return entropy(m, batch)

    case = Case("noting", noting, classifier)
    loader = DataLoader(Listed(case.examples()), batch_size=6, shuffle=True)
    privacy = DifferentialPrivacy(delta=0.01, noise_multiplier=1.0)
    tiny.trainer(max_steps=1, callbacks=[privacy]).fit(case.module(), loader)
    assert max(sizes[:-1]) == 6


def test_what_was_seen_at_another_time_only_is_told(tiny: Any) -> None:
    by_name = {case.name: case for case in FAULTS}
    for name, says in (
        ("mixed_when_large", "in a batch of 8 examples, and not in smaller ones"),
        ("mixed_from_epoch_one", "examples in epoch 1, at step 1, with batch_idx 1, and not before"),
    ):
        with pytest.raises(UnsupportedError) as caught:
            fit(tiny, by_name[name])
        assert says in caught.value.__notes__[-1]


class _ByItem(Dataset[Any]):
    def __init__(self) -> None:
        self.examples = vectors()

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Any:
        return self.examples[index]


class _ByItems(_ByItem):
    """Gives lists of examples; one by one there are none to be had."""

    def __getitem__(self, index: int) -> Any:
        raise NotImplementedError

    def __getitems__(self, indices: list[int]) -> Any:
        return [self.examples[index] for index in indices]


class _Batches(_ByItems):
    """Gives batches that are put together already."""

    def __getitems__(self, indices: list[int]) -> Any:
        return default_collate(super().__getitems__(indices))


@pytest.mark.parametrize("kind", [_ByItem, _ByItems])
def test_examples_come_one_by_one_or_as_lists(tiny: Any, kind: type[_ByItem]) -> None:
    privacy = DifferentialPrivacy(delta=0.01, noise_multiplier=1.0)
    trainer = tiny.trainer(max_steps=1, callbacks=[privacy])
    trainer.fit(Case("plain", entropy, classifier).module(), DataLoader(kind(), batch_size=8, shuffle=True))
    assert trainer.global_step == 1


def test_a_data_set_that_gives_whole_batches_is_told_what_it_should_give(tiny: Any) -> None:
    loader = DataLoader(_Batches(), batch_size=8, shuffle=True, collate_fn=lambda batch: batch)
    trainer = tiny.trainer(max_steps=1, callbacks=[DifferentialPrivacy(delta=0.01, noise_multiplier=1.0)])
    with pytest.raises(UnsupportedError, match=r"_Batches\.__getitems__ .* returned list of 2: .* list of examples"):
        trainer.fit(Case("plain", entropy, classifier).module(), loader)


def test_layouts_let_time_first_layers_train_as_plain_ones(tiny: Any) -> None:
    case = Case("time_first", time_first, lambda: recurrent(batch_first=False), examples=lambda: sequences(count=8))
    whole = DataLoader(Listed(case.examples()), batch_size=8)
    plain, private = case.module(), case.module()
    tiny.trainer(max_steps=3).fit(plain, whole)
    privacy = DifferentialPrivacy(delta=0.01, noise_multiplier=0.0, max_grad_norm=1e9)
    tiny.trainer(max_steps=3, callbacks=[privacy]).fit(private, whole)
    for one, two in zip(plain.parameters(), private.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)


def test_a_module_that_cannot_be_copied_is_refused_with_the_way_out(tiny: Any) -> None:
    class Locked(Probed):
        def __init__(self, case: Case) -> None:
            super().__init__(case)
            self.lock = threading.Lock()

    case = Case("locked", entropy, classifier, base=Locked)
    with pytest.raises(ConfigurationError, match=r"Locked can't be copied.*lock.*probe=False"):
        fit(tiny, case)
    fit(tiny, case, probe=False)


def test_an_error_of_the_step_itself_comes_through_with_a_note(tiny: Any) -> None:
    def broken(m: Any, batch: Any) -> Any:
        raise KeyError("nobody")

    with pytest.raises(KeyError, match="nobody") as caught:
        fit(tiny, Case("broken", broken, classifier))
    assert "independence probe" in caught.value.__notes__[0]


def test_a_batch_size_that_is_written_into_the_step_is_told(tiny: Any) -> None:
    def fixed(m: Any, batch: Any) -> Any:
        return F.cross_entropy(m(batch[0].view(8, 6)), batch[1])

    with pytest.raises(RuntimeError, match="shape") as caught:
        fit(tiny, Case("fixed", fixed, classifier))
    assert "any size" in caught.value.__notes__[0]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_examples_are_enough(tiny: Any, count: int) -> None:
    loader = DataLoader(Listed(vectors(count=count)), batch_size=1)
    sound = Case("sound", entropy, classifier)
    tiny.trainer(max_steps=1, callbacks=[DifferentialPrivacy(delta=0.01, noise_multiplier=1.0)]).fit(
        sound.module(), loader
    )


def test_several_views_of_an_example_are_one_example(tiny: Any) -> None:
    fit(tiny, Case("plain", entropy, classifier), views=2)
    by_name = {case.name: case for case in FAULTS}
    with pytest.raises(UnsupportedError, match="before the first layer"):
        fit(tiny, by_name["standardised_input"], views=2)


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_p03_half_precision_hides_no_small_coupling(tiny: Any, precision: str) -> None:
    def fit_in(case: Case) -> None:
        privacy = DifferentialPrivacy(delta=0.01, noise_multiplier=1.0)
        tiny.trainer(max_steps=1, callbacks=[privacy], precision=precision).fit(case.module(), case.loader())

    def weak(m: Any, batch: Any) -> Any:
        out = m(batch[0])
        return F.cross_entropy(out + 0.01 * out.detach().mean(0), batch[1])

    def own_types(m: Any, batch: Any) -> Any:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return F.cross_entropy(m(batch[0]), batch[1])

    fit_in(Case("sound", entropy, classifier))
    fit_in(Case("own_types", own_types, classifier))
    with pytest.raises(UnsupportedError, match="the loss couples"):
        fit_in(Case("weak", weak, classifier))


def test_a_step_that_needs_half_precision_is_probed_in_it(tiny: Any) -> None:
    def strict(m: Any, batch: Any) -> Any:
        if m.net[0].weight.dtype != torch.bfloat16:
            raise TypeError("no bfloat16")
        return entropy(m, batch)

    for step, refused in ((strict, False), (lambda m, batch: strict(m, (batch[0] - batch[0].mean(0), batch[1])), True)):
        case = Case("strict", step, classifier)
        privacy = DifferentialPrivacy(delta=0.01, noise_multiplier=1.0)
        trainer = tiny.trainer(max_steps=1, callbacks=[privacy], precision="bf16-true")
        with pytest.raises(UnsupportedError, match="before the first layer") if refused else nullcontext():
            trainer.fit(case.module(), case.loader())


def test_a_second_fit_is_probed_again(tiny: Any) -> None:
    case = Case("plain", entropy, classifier)
    module, privacy = case.module(), DifferentialPrivacy(delta=0.01, noise_multiplier=1.0)
    trainer = tiny.trainer(max_steps=1, callbacks=[privacy])
    trainer.fit(module, case.loader())
    module.case = Case("summed", lambda m, batch: len(batch[1]) * entropy(m, batch), classifier)
    trainer.fit_loop.epoch_loop.max_steps = 2
    with pytest.raises(UnsupportedError, match="the loss adds up its examples"):
        trainer.fit(module, case.loader())


def test_nothing_is_probed_where_nothing_is_trained(tiny: Any) -> None:
    case = next(case for case in FAULTS if case.name == "class_weights")
    privacy = DifferentialPrivacy(delta=0.01, noise_multiplier=1.0)
    tiny.trainer(max_epochs=1, limit_train_batches=0, callbacks=[privacy]).fit(case.module(), case.loader())
    tiny.trainer(fast_dev_run=True, callbacks=[privacy]).fit(
        Case("plain", entropy, classifier).module(), Case("plain", entropy, classifier).loader()
    )


def test_two_optimizers_of_manual_optimisation_stand_still() -> None:
    layers = nn.ModuleList([nn.Linear(2, 1), nn.Linear(2, 1)])
    copied = copy.deepcopy(layers)
    counterparts = {id(one): two for one, two in zip(layers.parameters(), copied.parameters(), strict=True)}
    standing = StandingOptimizer(torch.optim.Adam(layers[0].parameters(), lr=0.5), counterparts)
    assert all(one is two for one, two in zip(standing.param_groups[0]["params"], copied[0].parameters(), strict=True))
    copied[0](torch.ones(1, 2)).sum().backward()
    before = copied[0].weight.detach().clone()
    assert standing.step(lambda: "loss") == "loss"
    assert torch.equal(before, copied[0].weight)
    standing.zero_grad()
    assert copied[0].weight.grad is None
