"""Processes that train together without anything wrapped around the module; one alone opens no group.

Example:
    >>> from lightning_privacy._lightning import Trainer
    >>> trainer = Trainer(strategy=UnwrappedStrategy(), accelerator="cpu", devices=1, logger=False)
    >>> trainer.world_size, torch.distributed.is_initialized()
    (1, False)
"""

from __future__ import annotations

import torch
from typing_extensions import override

from lightning_privacy._lightning import DDPStrategy, LightningModule
from lightning_privacy.errors import ConfigurationError

__all__ = ["UnwrappedStrategy"]


class UnwrappedStrategy(DDPStrategy):
    """Lightning's launchers and process groups, with the module as it is on every process."""

    @property
    def _alone(self) -> bool:
        return self.num_nodes * self.num_processes <= 1

    @override
    def _configure_launcher(self) -> None:
        if not self._alone:
            super()._configure_launcher()

    @override
    def setup_distributed(self) -> None:
        # One process needs no group, and opens no port.
        if self._alone:
            self.set_world_ranks()
        else:
            super().setup_distributed()

    def _module(self) -> LightningModule:
        module = self.lightning_module
        if module is None:
            raise ConfigurationError("the strategy has no module: it is used through Trainer.fit")
        return module

    @override
    def _setup_model(self, model: torch.nn.Module) -> torch.nn.Module:  # type: ignore[override]
        """Give every process the first one's weights and buffers; nothing is wrapped around the module."""
        if not self._alone:
            for tensor in (*model.parameters(), *model.buffers()):
                torch.distributed.broadcast(tensor.detach(), src=0)
        return model
