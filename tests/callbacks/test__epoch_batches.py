from __future__ import annotations

from torch.utils.data import DataLoader

from lightning_privacy.callbacks._epoch_batches import EpochBatches
from lightning_privacy.sampling import PoissonSampler


def make(num_examples: int = 40, seed: int = 1) -> EpochBatches:
    sampler = PoissonSampler(num_examples, sample_rate=0.25, steps=100, seed=seed)
    return EpochBatches(sampler, microbatch_size=4)


def test_plan_entries_describe_what_is_yielded() -> None:
    batches = make()
    plan = batches.plan(first_step=2, num_steps=5)
    drawn = list(batches)
    assert [len(indices) for indices in drawn] == [entry.size for entry in plan]
    assert len(batches) == len(plan)
    reference = PoissonSampler(40, sample_rate=0.25, steps=100, seed=1)
    for step in range(2, 7):
        parts = [indices for indices, entry in zip(drawn, plan, strict=True) if entry.step == step]
        assert sorted(index for part in parts for index in part) == sorted(reference.draw(step).tolist())


def test_batches_behind_a_resumed_epoch_count() -> None:
    batches = make()
    plan = batches.plan(first_step=2, num_steps=1, offset=7)
    assert len(batches) == 7 + len(plan)
    assert batches.entry(7) == plan[0]


def test_persistent_workers_see_the_plan_of_each_epoch() -> None:
    batches = make()
    loader = DataLoader(range(40), batch_sampler=batches, num_workers=1, persistent_workers=True)
    for epoch in range(3):
        plan = batches.plan(first_step=epoch * 3, num_steps=3)
        expected = list(batches)
        assert [batch.tolist() for batch in loader] == expected
        assert len(expected) == len(plan)


def test_epoch_start_is_passed_on_until_nobody_listens() -> None:
    batches, heard = make(), []
    batches.sampler.set_epoch(0)
    batches.on_epoch_start(lambda: heard.append(1))
    batches.sampler.set_epoch(1)
    batches.on_epoch_start(None)
    batches.sampler.set_epoch(2)
    assert heard == [1]
