"""What the independence probe says when it refuses a step: what it found, where, and what to do instead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from lightning_privacy.errors import LightningPrivacyError, UnsupportedError
from lightning_privacy.gradients.probe_trace import Key

__all__ = [
    "depends_on_length",
    "fails_for_one",
    "fails_per_example",
    "mixed_by_layer",
    "mixed_by_loss",
    "mixed_on_the_way_back",
    "no_layout",
    "not_a_mean",
    "not_per_example",
    "other_order",
    "reaches_public",
    "remembers",
    "unexplained",
    "varying_path",
]

_FOUND = "the independence probe replaced one example of a small batch, and the gradients of the others changed: "
_WHY = " As it is, clipping does not bound what one example does, and epsilon is not what is reported."


def _layer(modules: Mapping[str, nn.Module], name: str) -> str:
    module = modules.get(name)
    return f"'{name or 'the module itself'}'" + (f" ({type(module).__name__})" if module is not None else "")


def mixed_by_layer(modules: Mapping[str, nn.Module], key: Key, before: Key | None) -> UnsupportedError:
    """Return the refusal of a step in which a value of one example depends on another example.

    Args:
        modules: of the network, by name.
        key: the first tensor that changed.
        before: the last one before that did not.
    """
    name, _, place, _ = key
    advice = (
        " Compute statistics over each example alone (LayerNorm, GroupNorm, InstanceNorm) or from public constants; "
        "sort, attend and pool within an example (batch_first=True, softmax over the right dimension)."
    )
    if place == "out":
        what = f"layer {_layer(modules, name)} mixes them: what it returns for an example depends on the others."
    elif before is None:
        what = (
            f"they are mixed before the first layer, {_layer(modules, name)}: in training_step, in collate_fn or in a "
            "batch transfer hook (MixUp, CutMix, statistics of the batch, rows in another order)."
        )
        advice = (
            " Augment each example by itself, and standardise with public constants. Mixing with examples of a public "
            "data set is no problem."
        )
    elif before[0] == name:
        what = (
            f"they are mixed by code that is no layer, after {_layer(modules, name)} was called for the time number "
            f"{before[1]} and before it is called again (a second batch made of the first, a statistic over the batch)."
        )
    elif before[2] == "in":
        what = (
            f"they are mixed in the forward of {_layer(modules, before[0])}, before it calls {_layer(modules, name)}."
        )
    else:
        what = (
            f"they are mixed between {_layer(modules, before[0])} and {_layer(modules, name)}, by code that is no "
            "layer (a statistic over the batch, a permutation, a view that puts batch and time in one another's "
            "place)."
        )
    return UnsupportedError(_FOUND + what + advice + _WHY)


def other_order(modules: Mapping[str, nn.Module], key: Key) -> UnsupportedError:
    """Return the refusal of a step that moves the examples of a batch to other places.

    Args:
        modules: of the network, by name.
        key: the first tensor in which they have other places.
    """
    return UnsupportedError(
        "the independence probe replaced one example of a small batch, and the examples turned out to have other "
        f"places where they reach layer {_layer(modules, key[0])} than in the batch: they are sorted by something in "
        "them, such as their length, or moved, by collate_fn, training_step or a forward. Sorting alone costs no "
        "privacy, but examples are told apart by their place, and where labels or lengths stay behind, they meet those "
        "of others. Keep the batch in the order in which it comes: pad without sorting, and let "
        "pack_padded_sequence(..., enforce_sorted=False) sort and put back by itself."
    )


def mixed_on_the_way_back(modules: Mapping[str, nn.Module], key: Key) -> UnsupportedError:
    """Return the refusal of a step whose values keep examples apart and whose gradients do not; see above."""
    does = "returns" if key[2] == "out" else "is given"
    return UnsupportedError(
        f"{_FOUND}values stay the same, but the gradient of what {_layer(modules, key[0])} {does} "
        "depends on the other examples: a term of the loss computed from it compares examples, or a custom autograd "
        "function or a hook on a gradient uses the whole batch. Let it treat each row by itself." + _WHY
    )


def mixed_by_loss() -> UnsupportedError:
    """Return the refusal of a loss that couples examples."""
    return UnsupportedError(
        f"{_FOUND}what the network returns for an example stays the same, but the loss couples the examples. Class "
        "weights, ignore_index, and dividing by a sum of weights, a count of positives or of tokens make a mean whose "
        "divisor depends on the batch; contrastive losses, in-batch negatives and batch statistics compare examples. "
        "Average one loss for each example: cross_entropy(..., weight=w, reduction='none').mean() divides by a "
        "constant; divide tokens by their number in the example, or by a fixed length." + _WHY
    )


def reaches_public(name: str) -> UnsupportedError:
    """Return the refusal of a step in which an example decides how the public parameter ``name`` is trained."""
    return UnsupportedError(
        f"the independence probe replaced an example, and the gradient of '{name}' changed, which is declared public, "
        "or how often or with which settings an optimizer steps on it, in that batch or in the next one: nothing "
        "clips it and adds noise, so the data must not reach it. Take it out of public, or take the data, and what "
        "the step remembers of them, out of the losses that train it and out of what decides about its steps."
    )


def remembers() -> UnsupportedError:
    """Return the refusal of a step that carries examples over to the next."""
    return UnsupportedError(
        "the independence probe replaced an example of one batch, and the gradients of the next batch changed: the "
        "step remembers examples from batch to batch, as memory banks, queues and running means of the data "
        "do. What they take from an example is neither bounded nor noised. Keep such a state out of the loss, or "
        "compute it from public data." + _WHY
    )


def depends_on_length() -> UnsupportedError:
    """Return the refusal of a step in which the padding changes the gradients."""
    return UnsupportedError(
        "the independence probe put a longer example into a batch, and the gradients of the shorter ones changed with "
        "the length to which they are padded: a mean over all positions divides by that length, or a layer reads the "
        "padding. Pad all batches to one fixed length, or mask the padding everywhere and divide by each example's own "
        "length." + _WHY
    )


def not_a_mean(factor: float | None, *, reduction: str) -> UnsupportedError:
    """Return the refusal of a loss with another scale than declared.

    Args:
        factor: how often the gradient in a batch of several fits in that of the example alone, over the number of
            examples; None where the two are not multiples of each other.
        reduction: what was declared.
    """
    if factor is None:
        return UnsupportedError(
            "the independence probe ran an example alone and in a batch, and its gradient points elsewhere: the step "
            "does something else depending on the number of examples. The batches of private training have any "
            f"size; let the loss be the {reduction} over the batch of one loss for each example."
        )
    if reduction == "mean" and factor == 0:
        found = (
            "the loss adds up its examples (reduction='sum', .sum(), or a sum divided by a constant) where a mean is "
            "expected, so that gradients would be clipped as if they were larger by the number of examples: return "
            "loss.mean(), or divide by len(batch)"
        )
    elif reduction == "sum" and factor == 1:
        found = "loss_reduction='sum' was declared, but the loss is a mean over the batch: declare 'mean'"
    else:
        found = (
            "the loss is neither the mean nor the sum over the batch: the weight of an example depends on the number "
            f"of examples in another way. Let it be the {reduction} over the batch of one loss for each example"
        )
    return UnsupportedError(f"the independence probe ran an example alone and in a batch and compared: {found}.")


def not_per_example(modules: Mapping[str, nn.Module], name: str, worst: Sequence[str]) -> UnsupportedError:
    """Return the refusal of a layer that computes something else on a batch than on its examples.

    Args:
        modules: of the network, by name.
        name: the layer.
        worst: parameters with the largest differences.
    """
    return UnsupportedError(
        f"layer {_layer(modules, name)} returns something else for a batch than for its examples one by one, so it "
        f"mixes them; the gradients of the examples don't add up to the gradient of the batch ({', '.join(worst)}). "
        "Compute statistics over each example alone, and keep the batch in the first dimension."
    )


def unexplained(worst: Sequence[str]) -> UnsupportedError:
    """Return the refusal of a step whose gradient is not the sum of those of its examples.

    Args:
        worst: parameters with the largest differences.
    """
    return UnsupportedError(
        "the independence probe compared the gradient of a batch with the sum of the gradients of its examples, and "
        f"they differ in {', '.join(worst)}: part of the gradient comes from no example, as that of a penalty on the "
        "weights (use the optimizer's weight_decay), or reaches the parameter past the layer it belongs to (call the "
        "layer itself)."
    )


def no_layout(modules: Mapping[str, nn.Module], name: str, shapes: Sequence[tuple[int, ...]]) -> UnsupportedError:
    """Return the refusal of a layer in whose output the examples can't be told apart.

    Args:
        modules: of the network, by name.
        name: the layer.
        shapes: of its output in batches of two and of three examples.
    """
    return UnsupportedError(
        f"layer {_layer(modules, name)} returned shape {shapes[0]} for 2 examples and {shapes[1]} for 3, so it can't "
        "be told which rows belong to which example. Give each example the same number of rows in one dimension: pad "
        "instead of concatenating texts, nodes or boxes of different numbers."
    )


def varying_path(modules: Mapping[str, nn.Module], name: str) -> UnsupportedError:
    """Return the refusal of a step that calls a layer more or less often depending on the batch, by its name."""
    return UnsupportedError(
        f"layer {_layer(modules, name)} is called {'' if name else 'by the step '}a different number of times in "
        "batches of two and of three examples, and not always with the examples in the same dimension. Let every "
        "batch go through the layers in the same way."
    )


def fails_per_example(error: BaseException, shared: Sequence[str]) -> UnsupportedError:
    """Return the refusal of a step that runs by itself, but not while gradients of examples are taken.

    Args:
        error: what was raised.
        shared: layers that return one tensor for all examples.
    """
    if shared:
        hint = (
            f" Layers that are called once for all examples ({', '.join(shared)}) return a copy for each of them here: "
            "give them an input with a batch dimension, such as indices.expand(batch, -1)."
        )
    elif isinstance(error, LightningPrivacyError):
        hint = ""
    else:
        hint = (
            " Not possible are: torch.autograd.grad with respect to parameters, second derivatives (gradient "
            "penalties), and a backward for a part of the batch."
        )
    return UnsupportedError(
        f"training_step runs on a small batch, but not while the gradients of its examples are taken: {error}{hint}"
    )


def fails_for_one(error: BaseException) -> UnsupportedError:
    """Return the refusal of a step that can't run on a batch of one example.

    Args:
        error: what it raised.
    """
    return UnsupportedError(
        f"training_step runs on a batch of several examples and not on one ({type(error).__name__}: {error}). "
        "Batches are drawn at random and have any size, one included: look for squeeze() without a dimension, "
        "statistics over the batch, and splits of the batch."
    )
