"""A run that is resumed is charged for the rounds after the checkpoint, also where its logs have a new place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import DataLoader

from lightning_privacy import ClientPrivacy, ExamplePrivacy, FederatedStrategy, IIDPartition
from lightning_privacy._lightning import ModelCheckpoint, pl

PRIVACY: dict[str, Any] = {
    "client_privacy": lambda: ClientPrivacy(delta=1e-5, noise_multiplier=1.0, max_delta_norm=1.0),
    "example_privacy": lambda: ExamplePrivacy(delta=1e-5, noise_multiplier=1.0, max_grad_norm=1.0, probe=False),
}


def charged(privacy: Any) -> int:
    if isinstance(privacy, ClientPrivacy):
        return sum(count for _, count, _ in privacy.ledger.history)
    return sum(count for client in privacy.clients for _, count, _ in privacy.ledger(client).history)


@pytest.mark.parametrize("name", sorted(PRIVACY))
@pytest.mark.filterwarnings("ignore:Experiment logs directory")
@pytest.mark.filterwarnings("ignore:.*is interrupted")
def test_p26_rounds_after_the_checkpoint_are_charged_where_logs_have_versions(
    tools: Any, tmp_path: Path, name: str
) -> None:
    def fit(rounds: int, ckpt_path: str | None = None) -> Any:
        privacy = PRIVACY[name]()
        strategy = FederatedStrategy(partition=IIDPartition(4), cohort_size=4, client_sampling="all", **{name: privacy})
        trainer = pl.Trainer(
            accelerator="cpu",
            devices=1,
            enable_progress_bar=False,
            enable_model_summary=False,
            strategy=strategy,
            max_epochs=rounds,
            logger=pl.loggers.CSVLogger(tmp_path / "logs"),
            callbacks=[ModelCheckpoint(tmp_path / "kept", filename="{epoch}", save_top_k=-1)],
        )
        loader = DataLoader(tools.data(), batch_size=3)
        trainer.fit(tools.Regression(), loader, ckpt_path=ckpt_path)
        return privacy

    whole = charged(fit(4))
    again = charged(fit(2, str(tmp_path / "kept" / "epoch=0.ckpt")))
    # One round before the checkpoint, three that were lost, one done again.
    assert again == whole // 4 * 5
