"""Adversarial debiasing as a callback: the module is trained to fool an adversary that looks for the group.

Example:
    >>> import torch, warnings, lightning_privacy._lightning as L
    >>> from torch.utils.data import DataLoader, TensorDataset
    >>> class Module(L.LightningModule):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.layer = torch.nn.Linear(1, 2)
    ...     def training_step(self, batch, batch_idx):
    ...         logits = self.layer(batch[0])
    ...         return {"loss": torch.nn.functional.cross_entropy(logits, batch[1]), "logits": logits}
    ...     def configure_optimizers(self):
    ...         return torch.optim.SGD(self.parameters(), lr=0.1)
    >>> labels, groups = torch.tensor([0, 0, 0, 1, 0, 1, 1, 1]), torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    >>> loader = DataLoader(TensorDataset(torch.randn(8, 1), labels, groups), batch_size=4)
    >>> module = Module()
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore")
    ...     trainer = L.Trainer(
    ...         max_epochs=1, callbacks=[AdversarialDebiasing(groups=2, num_groups=2)], logger=False,
    ...         accelerator="cpu", enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    ...     )
    ...     trainer.fit(module, loader)
    >>> [name for name, _ in module.named_children()]
    ['layer']
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from typing_extensions import override

from lightning_privacy._lightning import Callback, LightningModule, Trainer, check_trainer
from lightning_privacy._validate import non_negative, positive_int
from lightning_privacy.callbacks._batch_groups import Groups, groups_of
from lightning_privacy.callbacks._step_wrap import unwrap_training_step, wrap_training_step
from lightning_privacy.callbacks.run_privacy import privacy_of
from lightning_privacy.errors import ConfigurationError, UnsupportedError
from lightning_privacy.fairness.adversarial import Adversary, debiased_gradient, reverse_gradient

__all__ = ["AdversarialDebiasing"]

_NAME = "debiasing_adversary"


class AdversarialDebiasing(Callback):
    """Trains the module together with an adversary that guesses the group from its prediction (Zhang et al. 2018).

    The module's ``training_step`` returns its logits too: ``{"loss": loss, "logits": logits}``. For the time of a fit
    the adversary is a part of the module, so that its optimizer trains both (``configure_optimizers`` must take
    ``self.parameters()``). Checkpoints of the fit hold it as ``debiasing_adversary``; a trainer with this callback
    leaves that out when it tests, validates or predicts with one, and ``load_from_checkpoint`` needs ``strict=False``.

    With ``projection=True`` the module's gradient is the paper's: ``g_P - proj_{g_A} g_P - alpha g_A``. With
    ``projection=False`` the second term is left out, and each example has a gradient of its own: this is what can be
    trained with :class:`~lightning_privacy.DifferentialPrivacy`, module and adversary alike.

    Args:
        groups: Where the group of each example is in the batch: a key, a place, or a function of the batch.
        num_groups: How many groups there are.
        num_classes: How many classes the module predicts.
        labels: Where the label is, for equalised odds: the adversary is told the label. None is for demographic parity.
        alpha: How much the adversary counts, at least 0.
        hidden: Widths of the adversary's hidden layers; empty for a linear one.
        projection: See above.

    Raises:
        ConfigurationError: An argument is out of range; in training, the groups or logits are not there, or the
            module's optimizer leaves the adversary out.
        UnsupportedError: ``projection=True`` with differential privacy, gradient accumulation or float16; manual
            optimization.

    Example:
        >>> AdversarialDebiasing(groups="sex", num_groups=2, alpha=-1.0)
        Traceback (most recent call last):
            ...
        lightning_privacy.errors.ConfigurationError: alpha must be a finite number >= 0, got -1.0
    """

    def __init__(
        self,
        *,
        groups: Groups,
        num_groups: int,
        num_classes: int = 2,
        labels: Groups | None = None,
        alpha: float = 1.0,
        hidden: Sequence[int] = (),
        projection: bool = True,
    ) -> None:
        super().__init__()
        self._groups, self._labels = groups, labels
        self._num_groups = positive_int(num_groups=num_groups)
        self._num_classes = positive_int(num_classes=num_classes)
        self._alpha = non_negative(alpha=alpha)
        self._hidden = tuple(hidden)
        self._projection = projection
        self._gradients: list[Tensor] = []
        self._forget: RemovableHandle | None = None

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        check_trainer(trainer)
        if stage != "fit":
            self._forget = pl_module.register_load_state_dict_pre_hook(_without_adversary)  # type: ignore[no-untyped-call]
            return
        if not pl_module.automatic_optimization:
            raise UnsupportedError(
                f"AdversarialDebiasing changes the loss that training_step returns, and {type(pl_module).__name__} "
                "optimizes manually, where nobody uses it: use lightning_privacy.fairness.adversarial in the step"
            )
        if self._projection:
            self._refuse_what_projection_breaks(trainer)
        adversary = Adversary(
            num_classes=self._num_classes,
            num_groups=self._num_groups,
            hidden=self._hidden,
            sees_labels=self._labels is not None,
        )
        # Before optimizers are made, which take the parameters of the module.
        pl_module.add_module(_NAME, adversary)

    def _refuse_what_projection_breaks(self, trainer: Trainer) -> None:
        way_out = "; AdversarialDebiasing(projection=False) leaves the projection out"
        if privacy_of(trainer) is not None:
            raise UnsupportedError(
                "adversarial debiasing with projection can't be combined with DifferentialPrivacy: it projects the "
                f"gradient of the batch by another of its gradients, which mixes what the examples contribute{way_out}"
            )
        if trainer.accumulate_grad_batches != 1:
            raise UnsupportedError(
                "the projection is of the gradient of one batch, and "
                f"accumulate_grad_batches={trainer.accumulate_grad_batches} adds several up{way_out}"
            )
        if str(trainer.precision) == "16-mixed":
            raise UnsupportedError(f"precision='16-mixed' scales one of the gradients that are projected{way_out}")

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        held = {id(p) for optimizer in trainer.optimizers for group in optimizer.param_groups for p in group["params"]}
        if not all(id(p) in held for p in _adversary(pl_module).parameters()):
            raise ConfigurationError(
                f"configure_optimizers of {type(pl_module).__name__} leaves the adversary out, which is a part of the "
                "module during the fit: give the optimizer self.parameters()"
            )
        name = type(pl_module).__name__

        def transform(module: LightningModule, batch: Any, output: Any) -> Any:
            logits = output.get("logits") if isinstance(output, Mapping) else None
            if not isinstance(logits, Tensor):
                raise ConfigurationError(
                    f'training_step of {name} must return its logits too: {{"loss": loss, "logits": logits}}'
                )
            return {**output, "logits": logits.detach(), "loss": output["loss"] + self._contest(module, logits, batch)}

        wrap_training_step(pl_module, transform)

    def _contest(self, module: LightningModule, logits: Tensor, batch: Any) -> Tensor:
        """The adversary's loss, whose gradient reaches the module reversed, or is kept for the projection."""
        groups = groups_of(batch, self._groups, num_groups=self._num_groups).to(logits.device)
        labels = None
        if self._labels is not None:
            labels = groups_of(batch, self._labels, num_groups=self._num_classes, argument="labels").to(logits.device)
        adversary = _adversary(module)
        if not self._projection:
            return nn.functional.cross_entropy(adversary(reverse_gradient(logits, self._alpha), labels), groups)
        loss = nn.functional.cross_entropy(adversary(logits, labels), groups)
        found = torch.autograd.grad(loss, _predictor(module), retain_graph=True, allow_unused=True)
        self._gradients = [
            torch.zeros_like(parameter) if gradient is None else gradient
            for parameter, gradient in zip(_predictor(module), found, strict=True)
        ]
        return nn.functional.cross_entropy(adversary(logits.detach(), labels), groups)

    @override
    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._gradients:
            return
        parameters = _predictor(pl_module)
        own = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        adversary = self._gradients
        if trainer.world_size > 1:  # as DDP does with the other ones
            adversary = [trainer.strategy.reduce(gradient, reduce_op="mean") for gradient in adversary]
        for parameter, gradient in zip(parameters, debiased_gradient(own, adversary, alpha=self._alpha), strict=True):
            parameter.grad = gradient
        self._gradients = []

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._withdraw(pl_module)

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._withdraw(pl_module)

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._withdraw(pl_module)

    def _withdraw(self, module: LightningModule) -> None:
        unwrap_training_step(module)
        self._gradients = []
        if self._forget is not None:
            self._forget.remove()
            self._forget = None
        if hasattr(module, _NAME):
            delattr(module, _NAME)


def _adversary(module: LightningModule) -> Adversary:
    adversary = getattr(module, _NAME)
    if not isinstance(adversary, Adversary):
        raise ConfigurationError(f"the module's own attribute {_NAME!r} is in the way of the adversary; rename it")
    return adversary


def _without_adversary(_module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Leave out what a checkpoint of the fit has of the adversary, when it is loaded to validate, test or predict."""
    for name in [name for name in state_dict if name.startswith(f"{prefix}{_NAME}.")]:
        del state_dict[name]


def _predictor(module: LightningModule) -> list[nn.Parameter]:
    """The module's parameters that train, the adversary's aside."""
    others = {id(p) for p in _adversary(module).parameters()}
    return [p for p in module.parameters() if p.requires_grad and id(p) not in others]
