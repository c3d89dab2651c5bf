"""Group DRO as a callback: training looks after the group that is worst off.

Example:
    >>> import warnings, torch, lightning_privacy._lightning as L
    >>> from torch.utils.data import DataLoader, TensorDataset
    >>> class Regression(L.LightningModule):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.layer = torch.nn.Linear(1, 1)
    ...     def training_step(self, batch, batch_idx):
    ...         losses = (self.layer(batch[0]) - batch[1]).square().squeeze(1)
    ...         return {"loss": losses.mean(), "losses": losses}
    ...     def configure_optimizers(self):
    ...         return torch.optim.SGD(self.parameters(), lr=0.01)
    >>> x, groups = torch.ones(8, 1), torch.tensor([0, 0, 0, 0, 0, 0, 1, 1])
    >>> loader = DataLoader(TensorDataset(x, 10.0 * groups[:, None], groups), batch_size=8)
    >>> dro = GroupDRO(groups=2, num_groups=2)
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore")
    ...     trainer = L.Trainer(
    ...         max_epochs=3, callbacks=[dro], logger=False, accelerator="cpu",
    ...         enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    ...     )
    ...     trainer.fit(Regression(), loader)
    >>> dro.weights[1] > 0.5
    True
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from typing_extensions import override

from lightning_privacy._lightning import LightningModule, Trainer
from lightning_privacy.callbacks._batch_groups import Groups, groups_of
from lightning_privacy.callbacks._objective import ObjectiveCallback
from lightning_privacy.callbacks.run_privacy import privacy_of
from lightning_privacy.errors import ConfigurationError, UnsupportedError
from lightning_privacy.fairness.group_dro import GroupDROLoss

__all__ = ["GroupDRO"]


class GroupDRO(ObjectiveCallback):
    """Trains on the losses of the groups under weights that grow with them (Sagawa et al., ICLR 2020, Algorithm 1).

    The module's ``training_step`` returns the loss of each example: ``{"loss": losses.mean(), "losses": losses}``, or
    the vector alone. Nothing else of it changes. The group losses of a step are those of all processes. The weights
    are in checkpoints, and logged at the end of each epoch as ``group_dro/weight_0`` and so on.

    Small groups must be seen: draw batches balanced over the groups (``BalancedSampler(balance="group")``), and let
    weight decay or early stopping on the worst group keep the network from fitting every training example, or there
    is no worst group to look after (section 3 there).

    Args:
        groups: Where the group of each example is in the batch: a key, a place, or a function of the batch.
        num_groups: How many groups there are.
        step_size: How fast the weights move, above 0; the paper uses 0.01.
        adjustment: Asks for a lower loss of small groups: this over the root of the group's size is added to its
            loss (section 3.3 there); needs ``group_sizes``.
        group_sizes: Number of training examples of each group.

    Raises:
        ConfigurationError: An argument is out of range; in training, the groups or losses are not there.
        UnsupportedError: With :class:`~lightning_privacy.DifferentialPrivacy`, or manual optimization.

    Example:
        >>> GroupDRO(groups="sex", num_groups=2).weights
        (0.5, 0.5)
    """

    def __init__(
        self,
        *,
        groups: Groups,
        num_groups: int,
        step_size: float = 0.01,
        adjustment: float = 0.0,
        group_sizes: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if not callable(groups) and not isinstance(groups, str | int):
            raise ConfigurationError(f"groups must be a key, a place or a function of the batch, got {groups!r}")
        self._groups = groups
        self._objective = GroupDROLoss(num_groups, step_size=step_size, adjustment=adjustment, group_sizes=group_sizes)

    @property
    def weights(self) -> tuple[float, ...]:
        """The weight of each group; their sum is 1."""
        return self._objective.weights

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit" and privacy_of(trainer) is not None:
            raise UnsupportedError(
                "GroupDRO can't be combined with DifferentialPrivacy: the weights of the groups follow the losses of "
                "private examples without noise, and each example's share is divided by the number of its group in the "
                "batch. Fixed weights cost nothing (Reweighing with counts, or DifferentialPrivacy(loss_weighting=...))"
                "; clipping='global_adapt' treats groups more alike"
            )

    @override
    def reduce(self, trainer: Trainer, losses: Tensor, batch: Any) -> Tensor:
        groups = groups_of(batch, self._groups, num_groups=self._objective.num_groups).to(losses.device)
        if groups.shape != losses.shape:
            raise ConfigurationError(
                f"groups={self._groups!r} gives {len(groups)} groups for {len(losses)} losses; both must have one for "
                "each example"
            )
        several = trainer.world_size > 1

        def add_up(values: Tensor) -> Tensor:
            summed = trainer.strategy.reduce(values, reduce_op="sum")
            if not isinstance(summed, Tensor):
                raise UnsupportedError(f"{type(trainer.strategy).__name__} can't add tensors over its processes")
            return summed

        return self._objective(losses, groups, add_up=add_up if several else None, processes=trainer.world_size)

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.barebones:
            return
        weights = {f"group_dro/weight_{group}": weight for group, weight in enumerate(self.weights)}
        # Equal in all processes, so that an average over them changes nothing; Lightning asks for one.
        pl_module.log_dict(weights, on_step=False, on_epoch=True, sync_dist=trainer.world_size > 1)

    @override
    def state_dict(self) -> dict[str, Any]:
        return self._objective.state_dict()

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._objective.load_state_dict(state_dict)
