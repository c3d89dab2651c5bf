from __future__ import annotations

import pytest

from lightning_privacy.callbacks._schedule import StepSchedule, accumulation_value


def simulate_plain(loader_batches: int, accumulate: int, epochs: int, interval: int, across: bool) -> list[int]:
    """Steps after which a plain run has validated, by walking through its loader batches one by one."""
    validated, step, total = [], 0, 0
    for _ in range(epochs):
        for batch in range(1, loader_batches + 1):
            total += 1
            steps_now = batch % accumulate == 0 or batch == loader_batches
            if (total if across else batch) % interval == 0:
                validated.append(step + 1)  # the step this batch is part of
            step += steps_now
    return sorted(set(validated))


@pytest.mark.parametrize("loader_batches", [1, 4, 5, 9])
@pytest.mark.parametrize("accumulate", [1, 2, 3, 7])
@pytest.mark.parametrize("interval", [1, 2, 3, 4])
@pytest.mark.parametrize("across", [False, True])
def test_validation_comes_at_the_steps_in_which_a_plain_run_validates(
    loader_batches: int, accumulate: int, interval: int, across: bool
) -> None:
    schedule = StepSchedule(loader_batches, accumulate)
    per_epoch = schedule.steps_per_epoch
    found = [
        step
        for step in range(1, 3 * per_epoch + 1)
        if schedule.validates_after(
            step if across else (step - 1) % per_epoch + 1, interval=interval, across_epochs=across
        )
    ]
    assert found == simulate_plain(loader_batches, accumulate, 3, interval, across)


def test_p23_an_epoch_has_as_many_steps_as_a_plain_one() -> None:
    assert [StepSchedule(batches, 3).steps_per_epoch for batches in (1, 2, 3, 4, 6, 7)] == [1, 1, 1, 2, 2, 3]


@pytest.mark.parametrize(
    ("max_epochs", "max_steps", "epochs_done", "steps_done", "left"),
    [(3, -1, 0, 0, 9), (3, 5, 0, 0, 5), (-1, 7, 0, 2, 5), (-1, -1, 0, 0, None), (3, -1, 1, 3, 6), (2, -1, 2, 6, 0)],
)
def test_steps_left(max_epochs: int, max_steps: int, epochs_done: int, steps_done: int, left: int | None) -> None:
    schedule = StepSchedule(loader_batches=9, accumulate=3)
    assert left == schedule.steps_left(
        max_epochs=max_epochs, max_steps=max_steps, epochs_done=epochs_done, steps_done=steps_done
    )


def test_p23_accumulation_value_steps_exactly_where_a_step_closes() -> None:
    """Lightning steps when the value divides ``ready`` and zeroes gradients when it divides ``ready - 1``."""
    for ready in range(1, 300):
        closing, open_ = (accumulation_value(ready, closes_step=closes) for closes in (True, False))
        assert ready % closing == 0
        assert (ready - 1) % closing == 0
        assert ready % open_ != 0
        assert ready == 1 or (ready - 1) % open_ != 0
        assert 1.0 / open_ * open_ == 1.0
        assert open_ & (open_ - 1) == 0
