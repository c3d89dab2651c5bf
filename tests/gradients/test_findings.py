"""What layers found in a micro-batch: norms over groups, uses that add up, examples that count for nothing."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from lightning_privacy.errors import PrivacyViolation
from lightning_privacy.gradients.contributions import Dense
from lightning_privacy.gradients.findings import Findings

A, B = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(3))
GRADIENT_A = torch.tensor([[3.0, 4.0], [1.0, 0.0]])
GRADIENT_B = torch.tensor([[0.0, 12.0, 0.0], [2.0, 1.0, 2.0]])


def found(groups: dict[int, int], *, once: bool = True) -> Findings:
    findings = Findings(groups)
    findings.add(A, Dense(GRADIENT_A.clone()), only_use=once)
    findings.add(B, Dense(GRADIENT_B.clone()), only_use=once)
    return findings


@pytest.mark.parametrize("once", [True, False], ids=["at once", "at the end"])
def test_norms_are_over_groups(once: bool) -> None:
    one = found({id(A): 0, id(B): 0}, once=once)
    assert one.squared_norms().tolist() == [[25.0 + 144.0], [1.0 + 9.0]]
    two = found({id(A): 1, id(B): 0}, once=once)
    assert two.squared_norms().tolist() == [[144.0, 25.0], [9.0, 1.0]]


def test_uses_of_one_parameter_add_up_before_the_norm() -> None:
    findings = Findings({id(A): 0})
    for _ in range(2):
        findings.add(A, Dense(GRADIENT_A.clone()), only_use=False)
    assert findings.squared_norms().tolist() == [[100.0], [4.0]]
    total = torch.ones(2)
    findings.add_weighted_sum(A, total, torch.tensor([0.5, 2.0]))
    assert total.tolist() == [1 + 3 + 4, 1 + 4]


def test_a_group_without_findings_has_norm_0_and_no_finding_no_norm() -> None:
    findings = Findings({id(A): 0, id(B): 1})
    assert findings.squared_norms() is None
    findings.add(A, Dense(GRADIENT_A.clone()), only_use=True)
    assert findings.squared_norms().tolist() == [[25.0, 0.0], [1.0, 0.0]]
    total = torch.ones(3)
    findings.add_weighted_sum(B, total, torch.ones(2))
    assert total.tolist() == [1, 1, 1]
    assert findings.per_example(B) is None


def test_p10_a_rejected_example_adds_exactly_nothing() -> None:
    findings = Findings({id(A): 0})
    findings.add(A, Dense(torch.tensor([[math.inf, math.nan], [1.0, 2.0]])), only_use=True)
    findings.squared_norms()
    findings.reject(torch.tensor([True, False]))
    total = torch.zeros(2)
    findings.add_weighted_sum(A, total, torch.tensor([0.0, 1.0]))
    assert total.tolist() == [1.0, 2.0]


def test_p08_a_change_after_the_norm_is_refused() -> None:
    gradient = GRADIENT_A.clone()
    findings = Findings({id(A): 0})
    findings.add(A, Dense(gradient), only_use=True)
    gradient.mul_(100)
    with pytest.raises(PrivacyViolation, match="modified in place"):
        findings.squared_norms()
