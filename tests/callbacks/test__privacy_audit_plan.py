"""Canaries of a private run: each depends on what one person gave, whatever makes them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lightning_privacy.audit.canaries import (
    BlankCanaries,
    CanaryMaker,
    MislabelledCanaries,
    NoiseCanaries,
    TokenCanaries,
)
from lightning_privacy.callbacks._privacy_audit_plan import CanaryPlan, plant_clients, plant_examples

RARE = 11


class Curious(CanaryMaker):
    """A user's own, which looks at all it is given."""

    def make(self, examples, generator):
        highest = max(int(label) for _, label in examples)
        return [(inputs, highest + int(generator.integers(10))) for inputs, _ in examples]


MAKERS = {
    "mislabelled": MislabelledCanaries(num_classes=4),
    "blank": BlankCanaries(),
    "noise": NoiseCanaries(),
    "tokens": TokenCanaries(unused=list(range(90, 99))),
    "of a user": Curious(),
}


def _people(maker, rare):
    """Sixty records; the rare one has a label, values and a length that nobody else has."""
    numbers, records = np.random.default_rng(3), []
    for person in range(60):
        odd = rare and person == RARE
        inputs = torch.as_tensor(numbers.random(6))[: 3 if odd else 6] * (1000 if odd else 1)
        tokens = isinstance(maker, TokenCanaries)
        records.append((inputs.long() if tokens else inputs, torch.tensor(3 if odd else person % 2)))
    return records


def _differences(one, other):
    assert len(one) == len(other)
    return {
        index
        for index, (a, b) in enumerate(zip(one, other, strict=True))
        if not (torch.equal(a[0], b[0]) and int(a[1]) == int(b[1]))
    }


@pytest.mark.parametrize("maker", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize("seed", range(3))
def test_a_rare_record_changes_its_own_canary_alone(maker, seed):
    plan, slots = CanaryPlan(seed, (True,) + (False, True) * 29), []  # all but the first
    for rare in (False, True):
        planted, canaries = plant_examples(plan, maker, _people(maker, rare), private=True)
        assert len(planted) == 60  # each in the place of its example
        slots.append((list(map(planted.__getitem__, range(60))), canaries, planted.present().tolist()))
    (one, made, present), (other, made_other, present_other) = slots
    assert _differences(one, other) <= {RARE}
    assert len(_differences(made, made_other)) == len(_differences(one, other))
    assert present == present_other


@pytest.mark.parametrize("maker", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize("held", [1, 5, 0], ids=["same", "more", "none"])
def test_a_rare_client_changes_its_own_canaries_alone(maker, held):
    """Clients of one record each; the rare one has others, more of them, or none."""
    plan, found = CanaryPlan(2, (True, False) * 25), []
    for rare in (False, True):
        people = _people(maker, rare) + [(torch.zeros(6), torch.tensor(2))] * 4
        if isinstance(maker, TokenCanaries):
            people = [(inputs.long(), label) for inputs, label in people]
        parts = [np.array([person]) for person in range(60)]
        if rare:
            parts[RARE] = np.array([RARE, 60, 61, 62, 63][:held], dtype=np.int64)
        planted = plant_clients(plan, maker, people, parts, most=64, private=True)
        found.append(planted.canaries)
    one, other = ({index: found[k][index] for index in found[k] if index < 60 and index != RARE} for k in (0, 1))
    assert set(one) == set(other)
    assert not _differences([one[index] for index in sorted(one)], [other[index] for index in sorted(one)])


def test_a_client_that_holds_nothing_moves_no_coin_and_no_other_client():
    maker, plan = MAKERS["mislabelled"], CanaryPlan(7, tuple(number % 2 == 0 for number in range(6)))
    people = _people(maker, False) * 4
    parts = [np.arange(10 * client, 10 * client + 10) for client in range(20)]
    whole = plant_clients(plan, maker, people, parts, most=64, private=True)
    chosen = {index // 10 for index in whole.canaries}
    assert len(chosen) == 6
    for gone in chosen:
        left = plant_clients(
            plan, maker, people, [part[: 0 if client == gone else 10] for client, part in enumerate(parts)], most=64,
            private=True,
        )  # fmt: skip
        assert {index // 10 for index in left.canaries} == chosen - {gone}
        assert left.absent == whole.absent
        assert [len(held) for held in left.holdings].count(0) == 1
        assert not _differences(
            [whole.canaries[index] for index in sorted(left.canaries)],
            list(map(left.canaries.get, sorted(left.canaries))),
        )
