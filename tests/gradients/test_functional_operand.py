"""Where the examples are in an operand of a function, with and without a probe that ran before."""

from __future__ import annotations

import pytest
import torch

from lightning_privacy.errors import UnsupportedError
from lightning_privacy.gradients.functional_operand import operand_layout
from lightning_privacy.gradients.layout import FIRST, Layout
from lightning_privacy.gradients.recorder import Recorder

NAME = "mul of 'scale', operand 0"
OTHER = "add of 'shift', operand 0"


def recorder(*, examples: int = 4, views: int = 1, **layouts: Layout) -> Recorder:
    made = Recorder(collector=None, views=views)
    made.layouts = {{"name": NAME, "other": OTHER}[key]: [layout] for key, layout in layouts.items()}
    made.start(examples)
    return made


@pytest.mark.parametrize(("views", "rows"), [(1, 4), (3, 12)])
def test_without_a_probe_the_rows_are_in_the_first_dimension(views: int, rows: int) -> None:
    assert operand_layout(recorder(views=views), NAME, torch.zeros(rows, 2)) is FIRST
    for shape in ((2, rows), (rows + 1, 2), (1, rows)):
        with pytest.raises(UnsupportedError, match=rf"comes from a batch of {rows} rows"):
            operand_layout(recorder(views=views), NAME, torch.zeros(shape))


@pytest.mark.parametrize("examples", [1, 4])
def test_p05_a_batch_that_was_averaged_already_is_refused_as_that(examples: int) -> None:
    with pytest.raises(UnsupportedError, match=rf"the batch of {examples} rows is averaged \(or summed\) already"):
        operand_layout(recorder(examples=examples), NAME, torch.zeros(()))


@pytest.mark.parametrize(
    ("layout", "shape"),
    [(Layout(1, 5, 3), (5, 4, 2)), (Layout(0, 14, 2), (28, 3)), (Layout(2, 4, 3), (4, 4, 4))],
    ids=["second", "folded", "last of three alike"],
)
def test_what_a_probe_found_holds(layout: Layout, shape: tuple[int, ...]) -> None:
    assert operand_layout(recorder(name=layout), NAME, torch.zeros(shape)) == layout


def test_p06_what_a_probe_found_to_be_no_batch_is_none_but_for_rows_that_were_spread() -> None:
    shared = Layout(None, 1, 2)
    assert operand_layout(recorder(name=shared), NAME, torch.zeros(4, 3)) is FIRST
    with pytest.raises(UnsupportedError, match="must have the examples in its first dimension"):
        operand_layout(recorder(name=Layout(None, 4, 2)), NAME, torch.zeros(4, 3))


def test_p06_beside_a_probe_a_constant_as_long_as_the_batch_is_no_batch() -> None:
    found = recorder(other=Layout(0, 2, 2))
    with pytest.raises(UnsupportedError, match="must have the examples in its first dimension"):
        operand_layout(found, NAME, torch.zeros(4, 3))
    assert operand_layout(found, NAME, torch.zeros(4, 3, requires_grad=True)) is FIRST


def test_while_a_probe_runs_shapes_are_written_down_and_nothing_is_refused() -> None:
    looking = recorder()
    looking.seen = {}
    assert operand_layout(looking, NAME, torch.zeros(())) is FIRST
    assert operand_layout(looking, NAME, torch.zeros(7, 4)) is FIRST
    assert looking.seen == {NAME: [torch.Size([]), torch.Size([7, 4])]}
