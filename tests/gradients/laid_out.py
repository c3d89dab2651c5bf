"""Running a network on batches of two sizes to find where the examples are, as the probe does before training."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import brute_force
import torch
from torch import nn

from lightning_privacy.gradients import PrivateGradients
from lightning_privacy.gradients.layout import Layout, infer_layout


def found_layouts(
    engine: PrivateGradients, run: Callable[[int], Any], sizes: tuple[int, int] = (2, 3)
) -> dict[str, list[Layout]]:
    """Return the layout of every call in ``run(number of examples)``."""
    recorder = engine._backward.recorder
    seen = []
    for size in sizes:
        recorder.seen = {}
        recorder.start(size)
        with torch.random.fork_rng():
            run(size)
        seen.append(recorder.seen)
        recorder.seen = None
        recorder.stop()
    assert seen[0].keys() == seen[1].keys()
    layouts: dict[str, list[Layout]] = {}
    for name, shapes in seen[0].items():
        pairs = zip(shapes, seen[1][name], strict=True)
        inferred = [infer_layout(first, second, sizes=sizes) for first, second in pairs]
        assert all(layout is not None for layout in inferred), (name, shapes, seen[1][name])
        layouts[name] = [layout for layout in inferred if layout is not None]
    return layouts


def check_laid_out(
    model: nn.Module,
    inputs: Sequence[Any],
    *,
    loss: brute_force.Loss = brute_force.outputs_loss,
    tolerance: float = 1e-9,
    examples: Sequence[tuple[Any, ...]] | None = None,
    of_size: Callable[[int], Sequence[Any]] | None = None,
) -> None:
    """Compare with brute force, layouts found beforehand.

    Args:
        model: in float64.
        inputs: the batch.
        loss: ``loss(model, *inputs) -> (B,)``.
        tolerance: relative.
        examples: default: the slices of the inputs along their first dimension.
        of_size: makes a batch of so many examples; default: the first ones of the inputs.
    """
    examples = brute_force.slices(inputs) if examples is None else examples
    gradients = brute_force.example_gradients(copy.deepcopy(model), examples, loss)
    norms = sorted(brute_force.norm(g) for g in gradients)
    assert norms[-1] > 0

    def run(size: int) -> None:
        loss(model, *(of_size(size) if of_size is not None else [x[:size] for x in inputs]))

    for bound in (brute_force.HUGE, norms[len(norms) // 2]):
        engine = brute_force.engine_for(model, max_grad_norm=bound)
        try:
            engine.use_layouts(found_layouts(engine, run))
            engine.arm(batch_size=len(examples), step=0)
            loss(model, *inputs).mean().backward()
            error = brute_force.relative_error(brute_force.grads(model), brute_force.clipped_sum(gradients, bound))
            assert error <= tolerance, f"max_grad_norm={bound}: relative error {error:.2e}"
        finally:
            engine.detach()
