"""What makes a module or an optimizer unfit for private gradients, found before the first step.

Example:
    >>> from torch import nn
    >>> refuse_unfit(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))
    Traceback (most recent call last):
        ...
    lightning_privacy.errors.UnsupportedError: layer '1' (BatchNorm1d) mixes the examples of a batch, so ...
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import nn
from torch.optim import Optimizer

from lightning_privacy.errors import ConfigurationError, UnsupportedError
from lightning_privacy.gradients.rules import COMPOSITE_RULES, RULES, CompositeRule, Rule, composite_rule_for, rule_for
from lightning_privacy.gradients.walk import each_layer

__all__ = ["loss_problem", "refuse_coupling_layers", "refuse_optimizer", "refuse_unfit"]

_BATCH_NORMS = (nn.modules.batchnorm._BatchNorm,)
_CELL = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
_ATTENTION = (
    *("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight", "in_proj_bias"),
    *("bias_k", "bias_v", "out_proj.weight", "out_proj.bias"),
)
_COMPOSITE_PARAMETERS: dict[type[nn.Module], tuple[str, ...]] = {
    nn.MultiheadAttention: _ATTENTION,
    nn.RNNCell: _CELL,
    nn.LSTMCell: _CELL,
    nn.GRUCell: _CELL,
}


def refuse_coupling_layers(module: nn.Module) -> None:
    """Refuse layers that, in the mode they are in now, make one example's output depend on the others.

    Args:
        module: the network; called again before each step, because modes change.

    Raises:
        UnsupportedError: naming the layer and the way out.
    """
    for layer in each_layer(module):
        if isinstance(layer, _BATCH_NORMS) and (layer.training or layer.running_mean is None):
            name = next(name for name, one in module.named_modules() if one is layer)
            raise UnsupportedError(
                f"layer '{name}' ({type(layer).__name__}) mixes the examples of a batch, so one example's gradient "
                "can't be bounded. Replace it before the optimizer is built: model = "
                "opacus.validators.ModuleValidator.fix(model) turns BatchNorm into GroupNorm, and a network that takes "
                "norm_layer, as torchvision's do, has it from the start with norm_layer=lambda c: "
                "torch.nn.GroupNorm(math.gcd(32, c), c). Or freeze the layer with .eval()."
            )


def _layout_problem(layer: nn.Module) -> str | None:
    """Return why the layer's batch dimension can't be told, or None."""
    if not isinstance(layer, nn.RNNBase | nn.MultiheadAttention) or layer.batch_first:
        return None
    if composite_rule_for(layer) is not None:
        return None
    if not any(p.requires_grad for p in layer.parameters()):
        return None
    return (
        "takes time first, which has a rule in torch's own class only; in a subclass, or with a forward of its own, "
        "examples must be in the first dimension: set batch_first=True"
    )


def _reparametrization_problem(layer: nn.Module) -> str | None:
    """Return why a layer with a rule whose weight is remade outside its forward can't be trained, or None."""
    if rule_for(layer) is None and composite_rule_for(layer) is None:
        return None
    kind = nn.utils.parametrize.type_before_parametrizations(layer)
    known: Collection[str] = ("weight", "bias")
    if isinstance(layer, nn.RNNBase):
        known = {name for names in layer._all_weights for name in names}
    elif kind in COMPOSITE_RULES:
        if kind not in _COMPOSITE_PARAMETERS:
            return None
        known = _COMPOSITE_PARAMETERS[kind]
    for name, parameter in layer.named_parameters():
        if parameter.requires_grad and name not in known and "parametrizations." not in name:
            return (
                f"parameter '{name}' becomes part of the layer outside its forward, as torch.nn.utils.weight_norm, "
                "spectral_norm and prune do in a hook; use torch.nn.utils.parametrizations or parametrize instead"
            )
    return None


def loss_problem(layer: nn.Module) -> str | None:
    """Return why a loss kept as a layer couples the examples of a batch, or None.

    Args:
        layer: any layer.
    """
    if not isinstance(layer, nn.CrossEntropyLoss | nn.NLLLoss) or layer.reduction != "mean":
        return None
    if layer.weight is None and layer.ignore_index < 0:  # the default, -100, is no class
        return None
    return (
        "with weight or ignore_index the mean is divided by a count over the whole batch, so one example changes what "
        "the others contribute; use reduction='none' and average the result over the examples, loss(...).mean()"
    )


def refuse_unfit(module: nn.Module) -> None:
    """Refuse a module whose per-example gradients can't be had or would not mean what they say.

    Args:
        module: the network about to be trained.

    Raises:
        ConfigurationError: it has no trainable parameter, or one that is not real floating point.
        UnsupportedError: a layer couples examples, is scripted, or is wrapped by another
            privacy library; the message names the layer and the way out.
    """
    trainable = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    if not trainable:
        raise ConfigurationError(
            f"module {type(module).__name__} has no trainable parameter; set requires_grad on what should learn"
        )
    for name, parameter in trainable:
        if nn.parameter.is_lazy(parameter):
            raise ConfigurationError(f"parameter '{name}' is lazy; run one batch through the model before training")
        if not parameter.is_floating_point():
            raise UnsupportedError(
                f"parameter '{name}' has dtype {parameter.dtype}; private gradients need real floating point"
            )
    refuse_coupling_layers(module)
    for name, layer in module.named_modules():
        kind = type(layer).__name__
        if type(layer).__module__.startswith("torch.jit"):
            raise UnsupportedError(f"layer '{name}' ({kind}) is scripted; train the module it was made from")
        if kind.startswith("GradSampleModule"):
            raise UnsupportedError(
                f"layer '{name}' ({kind}) is an Opacus wrapper that clips by itself; pass the module inside it"
            )
        # A subclass computes with the same options, whatever else it does.
        rules: dict[type[nn.Module], Rule | CompositeRule] = {**RULES, **COMPOSITE_RULES}
        rule = next((rule for kind_of, rule in rules.items() if isinstance(layer, kind_of)), None)
        problem = rule.unsupported(layer) if rule is not None else None
        problem = problem or _layout_problem(layer) or _reparametrization_problem(layer)
        if problem is not None:
            raise UnsupportedError(f"layer '{name}' ({kind}): {problem}")


def refuse_optimizer(optimizer: Optimizer, module: nn.Module, *, releases_again: bool = False) -> None:
    """Refuse an optimizer that would step on something else than the private gradient of ``module``.

    Args:
        optimizer: the optimizer about to step.
        module: the network whose gradients are private.
        releases_again: whether each further evaluation of the closure is a release that is charged.

    Raises:
        UnsupportedError: it evaluates its closure more than once per step.
        ConfigurationError: it holds a tensor that is no parameter of the module.
    """
    kind = type(optimizer).__name__
    if isinstance(optimizer, torch.optim.LBFGS) and not releases_again:
        raise UnsupportedError(
            f"the optimizer {kind} evaluates its closure several times in one step, and each evaluation would release "
            "another gradient of the same random batch, whose cost nothing here accounts for. Use SGD, Adam or any "
            "other that needs one gradient per step; DifferentialPrivacy takes it where each batch is the whole data "
            "set (batch_size = number of examples)"
        )
    if isinstance(optimizer, torch.optim.LBFGS) and any(
        g["line_search_fn"] is not None for g in optimizer.param_groups
    ):
        raise UnsupportedError(
            f"the optimizer {kind} has a line search, which compares losses of the private data that have no noise; "
            "set line_search_fn=None"
        )
    known = {id(parameter) for parameter in module.parameters()}
    foreign = [
        f"{tuple(parameter.shape)} in group {number}"
        for number, group in enumerate(optimizer.param_groups)
        for parameter in group["params"]
        if id(parameter) not in known
    ]
    if foreign:
        raise ConfigurationError(
            f"the optimizer {kind} holds tensors that are no parameters of {type(module).__name__} (shape "
            f"{', '.join(foreign)}), so their gradients would not be private; register every part as a submodule, and "
            "build the optimizer over the module's parameters() after replacing layers"
        )
