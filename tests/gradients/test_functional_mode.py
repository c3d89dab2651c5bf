"""The mode that sees calls of functions: what it says of each, and that none is lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_privacy.errors import UnsupportedError
from lightning_privacy.gradients.functional_mode import FunctionMode, uncompiled


class Listener:
    """Writes down what it is told, and calls the function."""

    def __init__(self, *tracked: Tensor, rows: int | None = None) -> None:
        self.tracked = {id(tensor) for tensor in tracked}
        self.rows = rows
        self.told: list[tuple[str, str]] = []

    def called(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.told.append(("called", function.__name__))
        return function(*args, **kwargs)

    def untouched(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.told.append(("untouched", function.__name__))
        return function(*args, **kwargs)


P, X = torch.ones(3), torch.zeros(3)


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda: torch.add(X, X), "untouched"),
        (lambda: torch.add(X, P), "called"),
        (lambda: torch.add(P.clone(), X), "untouched"),
        (lambda: torch.add(X, other=P), "called"),
        (lambda: torch.stack([X, P]), "called"),
        (lambda: torch.stack((X, X)), "untouched"),
        (lambda: torch.stack(tensors=(X, P)), "called"),
        (lambda: torch.stack(tensors=[X, X]), "untouched"),
    ],
    ids=["neither", "argument", "a copy", "keyword", "in a list", "in no tuple", "in a keyword", "in no keyword"],
)
def test_a_call_with_something_tracked_is_told_from_others(call: Callable[[], Tensor], expected: str) -> None:
    expected_value = call()
    listener = Listener(P)
    with FunctionMode(listener):
        found = call()
    assert torch.equal(found, expected_value)
    assert listener.told[-1][0] == expected


def test_what_is_tracked_may_change_from_call_to_call() -> None:
    listener = Listener()
    with FunctionMode(listener):
        torch.add(X, P)
        listener.tracked = {id(P)}
        torch.add(X, P)
        listener.tracked = set()
        torch.add(X, P)
    assert [kind for kind, _ in listener.told] == ["untouched", "called", "untouched"]


def test_p03_a_loss_that_divides_by_a_count_of_the_batch_is_refused_while_gradients_are_recorded() -> None:
    scores, target = torch.zeros(4, 3), torch.tensor([0, -100, 1, 2])
    listener = Listener(rows=4)
    with FunctionMode(listener):
        with pytest.raises(UnsupportedError, match="ignored targets"):
            F.cross_entropy(scores, target)
        listener.told.clear()
        with torch.no_grad():
            F.cross_entropy(scores, target)
    assert ("untouched", "cross_entropy") in listener.told


def test_p03_as_many_ignored_targets_in_each_row_of_the_batch_are_accepted() -> None:
    scores, target = torch.zeros(4, 3, 2), torch.tensor([[0, -100], [1, -100], [2, -100], [0, -100]])
    with FunctionMode(Listener(rows=4)):
        F.cross_entropy(scores, target)
    with FunctionMode(Listener(rows=None)), pytest.raises(UnsupportedError, match="ignored targets"):
        F.cross_entropy(scores, target)


def test_compiled_functions_run_as_they_were_written() -> None:
    compilations: list[Any] = []

    def compiler(graph: Any, _: Any) -> Any:
        compilations.append(graph)
        return graph.forward

    compiled = torch.compile(lambda x: x.exp(), backend=compiler)
    listener = Listener()
    with uncompiled(), FunctionMode(listener):
        assert torch.equal(compiled(X), torch.ones(3))
    assert compilations == []
    assert ("untouched", "exp") in listener.told
    compiled(X)
    assert len(compilations) == 1, "a test without a compilation proves nothing"
