"""What a process sums over its clients: the sums of a loop over the clients, in the clear and by a secure sum."""

from __future__ import annotations

import math
from itertools import permutations
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_privacy.errors import ConfigurationError
from lightning_privacy.federated.secure_sum import SecureSum
from lightning_privacy.federated.secure_tally import SecureTally
from lightning_privacy.federated.tally import CohortSum, Tally

SIZE, COUNTERS = 5, 2
CPU = torch.device("cpu")


def clients(count: int = 4) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(count)
    return [
        {
            "delta": torch.randn(SIZE, generator=generator),
            "weight": float(number + 1),
            "increments": [number + 0.0, 2.0 * number],
            "extras": {"control": torch.randn(3, generator=generator)},
            # Nobody's loss counts who skipped all batches.
            "loss": math.nan if number == 1 else 0.25 * number,
            "client": number,
        }
        for number in range(count)
    ]


def plain(**options: Any) -> Tally:
    return Tally(size=SIZE, num_counters=COUNTERS, device=CPU, extras={"control": 3}, **options)


def secure(drawn: list[int]) -> SecureTally:
    return SecureTally(SecureSum(), drawn, size=SIZE, num_counters=COUNTERS, device=CPU, extras={"control": 3})


def nothing(vector: Tensor) -> None:
    """One process has nobody to add up with."""


def check(found: CohortSum, given: list[dict[str, Any]], tolerance: float) -> None:
    weights = [each["weight"] for each in given]
    torch.testing.assert_close(
        found.total, sum(each["weight"] * each["delta"] for each in given), atol=tolerance, rtol=0
    )
    torch.testing.assert_close(found.mean(), found.total / sum(weights))
    assert found.weight == pytest.approx(sum(weights), abs=tolerance)
    assert found.received == len(given)
    known = [(each["weight"], each["loss"]) for each in given if math.isfinite(each["loss"])]
    mean = sum(weight * loss for weight, loss in known) / sum(weight for weight, _ in known)
    assert found.loss == pytest.approx(mean, abs=tolerance)
    steps = [sum(each["increments"][place] for each in given) / len(given) for place in range(COUNTERS)]
    assert found.increments == pytest.approx(steps, abs=tolerance)
    assert found.extras.keys() == {"control"}
    torch.testing.assert_close(
        found.extras["control"], sum(each["extras"]["control"] for each in given), atol=tolerance, rtol=0
    )


@pytest.mark.parametrize("exact", [False, True])
def test_sums_are_those_of_a_loop(exact):
    tally, given = plain(exact=exact), clients()
    for each in given:
        tally.add(**each)
    found = tally.finish(nothing)
    check(found, given, 1e-6)
    directions = sum(each["delta"] / each["delta"].norm() for each in given)
    torch.testing.assert_close(found.directions, directions)
    mean = torch.nn.functional.cosine_similarity(torch.stack([each["delta"] for each in given]), found.mean()[None])
    assert found.cosine() == pytest.approx(float(mean.mean()), abs=1e-6)


def test_a_secure_sum_gives_the_same_but_no_directions():
    given = clients()
    tally = secure([each["client"] for each in given])
    for each in given:
        tally.add(**each)
    found = tally.finish(nothing)
    check(found, given, 1e-5)
    assert bool(found.directions.isnan().all())
    assert tally.rows == {}


def test_an_exact_sum_has_the_same_bits_in_every_order_and_over_any_processes():
    given = clients()
    expected: CohortSum | None = None
    for order in permutations(given):
        for cut in (0, 1, 3):
            there, here = plain(exact=True), plain(exact=True)
            for place, each in enumerate(order):
                (there if place < cut else here).add(**each)
            sent: list[Tensor] = []
            there.finish(lambda vector, sent=sent: sent.append(vector.clone()))
            found = here.finish(lambda vector, sent=sent: vector.add_(sent[0]))
            expected = found if expected is None else expected
            assert torch.equal(found.total, expected.total)
            assert torch.equal(found.directions, expected.directions)
            assert (found.loss, found.weight, found.increments) == (
                expected.loss,
                expected.weight,
                expected.increments,
            )


def test_an_exact_sum_rounds_to_the_nearest_multiple():
    tally, smallest = plain(exact=True), 2.0**-40
    delta = torch.tensor([0.7, -0.7, 0.3, 1.7, 0.0]) * smallest
    tally.add(**clients(1)[0] | {"delta": delta})
    assert (tally.finish(nothing).total / smallest).tolist() == [1.0, -1.0, 0.0, 2.0, 0.0]


@pytest.mark.parametrize("tally", [plain(), plain(exact=True), secure([])], ids=["plain", "exact", "secure"])
def test_p41_a_round_without_clients_changes_nothing(tally):
    found = tally.finish(nothing)
    assert torch.equal(found.mean(), torch.zeros(SIZE))
    assert (found.received, found.weight, found.increments) == (0, 0.0, [0.0, 0.0])
    assert math.isnan(found.loss)
    assert math.isnan(found.cosine())


def test_rows_are_kept_where_an_aggregator_needs_them():
    tally = plain(keep_rows=True)
    delta = torch.ones(SIZE)
    tally.add(**clients(1)[0] | {"delta": delta})
    delta.zero_()  # the caller may use its vector again
    ((row, weight),) = tally.rows.values()
    assert (row.tolist(), weight) == ([1.0] * SIZE, 1.0)


@pytest.mark.parametrize("make", [plain, lambda: secure([0, 1, 2])], ids=["plain", "secure"])
def test_a_client_with_other_vectors_than_the_others_is_refused(make):
    with pytest.raises(ConfigurationError, match=r"client 0 sent the extra vectors \['other'\], and \['control'\]"):
        make().add(**clients(1)[0] | {"extras": {"other": torch.zeros(3)}})


def test_a_client_that_nobody_drew_is_refused():
    with pytest.raises(ConfigurationError, match="client 0 sent a vector, and this process has no client"):
        secure([]).add(**clients(1)[0])


@pytest.mark.parametrize("place", ["delta", "weight"])
def test_what_is_too_large_for_an_exact_sum_is_refused(place):
    value = torch.full((SIZE,), 1e7) if place == "delta" else 1e7
    with pytest.raises(ConfigurationError, match="deterministic=True adds in fixed point"):
        plain(exact=True).add(**clients(1)[0] | {place: value})
