"""Meetings of processes, with others that answer as they are told."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lightning_privacy.callbacks._processes import Processes
from lightning_privacy.callbacks._step_meeting import Place, StepMeeting
from lightning_privacy.errors import PrivacyViolation

TRAINER: Any = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("cpu")))


class Others(Processes):
    """Two processes, of which the other is at a place of its own."""

    there: Place = Place.RELEASE
    met: int = 0

    def meet(self, place: int, *, places: int, device: torch.device) -> bool:
        assert 0 <= place < places
        assert device == torch.device("cpu")
        object.__setattr__(self, "met", self.met + 1)
        return place == self.there


def others(count=2, there=Place.RELEASE):
    made = Others(count=count, rank=0)
    object.__setattr__(made, "there", there)
    return made


@pytest.mark.parametrize("here", Place, ids=lambda place: place.name)
@pytest.mark.parametrize("there", Place, ids=lambda place: place.name)
def test_all_must_be_at_one_place(here, there):
    processes = others(there=there)
    meeting = StepMeeting(TRAINER, processes, by_hand=True)
    if here == there:
        meeting.at(here)
    else:
        with pytest.raises(PrivacyViolation, match="do not make the same steps in the same batches"):
            meeting.at(here)
    assert processes.met == 1


@pytest.mark.parametrize(("count", "by_hand"), [(1, True), (2, False), (1, False)])
def test_one_process_and_lightnings_own_steps_need_no_meeting(count, by_hand):
    processes = others(count=count)
    StepMeeting(TRAINER, processes, by_hand=by_hand).at(Place.BATCH_END)
    assert processes.met == 0
