from __future__ import annotations

import io
from dataclasses import replace

import pytest
import torch

from lightning_privacy.callbacks._run_state import RunProgress, RunSettings, read_state, write_state
from lightning_privacy.errors import CheckpointError

SETTINGS = RunSettings(
    delta=1e-5,
    noise_multiplier=1.1,
    num_examples=100,
    expected_batch_size=10,
    clipping={"policy": "FlatClipping", "max_grad_norm": 1.0},
)  # fmt: skip
PROGRESS = RunProgress(run_id="a", step_offset=-3, next_number=9, epoch_first_step=4, at_step_boundary=False)


def test_state_survives_a_checkpoint_loaded_with_weights_only() -> None:
    buffer = io.BytesIO()
    torch.save(write_state({"x": 1}, SETTINGS, PROGRESS), buffer)
    buffer.seek(0)
    assert read_state(torch.load(buffer, weights_only=True)) == ({"x": 1}, SETTINGS, PROGRESS)


def test_state_before_any_training_is_not_empty() -> None:
    state = write_state({}, None, None)
    assert state
    assert read_state(state) == ({}, None, None)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("delta", 1e-4),
        ("noise_multiplier", 0.5),
        ("num_examples", 99),
        ("expected_batch_size", 20),
        ("clipping", {"policy": "FlatClipping", "max_grad_norm": 2.0}),
        ("views", 2),
        ("public", ["generator"]),
        ("balance", {"names": ["a"], "rates": [0.5]}),
    ],
)
def test_p26_changed_setting_is_refused_with_both_values(name: str, value: object) -> None:
    changed = replace(SETTINGS, **{name: value})
    with pytest.raises(CheckpointError) as caught:
        changed.check_continues(SETTINGS)
    message = str(caught.value)
    assert f"{name}={getattr(SETTINGS, name)!r}" in message
    assert repr(value) in message
    SETTINGS.check_continues(SETTINGS)


def test_the_largest_rate_is_that_of_the_run() -> None:
    balanced = replace(SETTINGS, balance={"rates": [0.05, 0.4, 0.0], "loss_weights": None})
    assert balanced.sample_rate == 0.4
    assert replace(SETTINGS, balance={"rates": None, "loss_weights": [1.0]}).sample_rate == 0.1


def test_state_of_the_version_before_balance_is_read() -> None:
    state = write_state({}, SETTINGS, PROGRESS)
    del state["settings"]["balance"]
    assert read_state(state | {"version": 2}) == ({}, SETTINGS, PROGRESS)


def test_damaged_or_foreign_state_is_refused() -> None:
    with pytest.raises(CheckpointError, match="version 7"):
        read_state({"version": 7})
    with pytest.raises(CheckpointError, match="damaged"):
        read_state({"version": 2, "ledger": {}})
    with pytest.raises(CheckpointError, match="damaged"):
        read_state({"version": 2, "ledger": {}, "settings": {"delta": 1}, "progress": None})
