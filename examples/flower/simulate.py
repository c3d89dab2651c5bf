"""The same federation in one process, without Flower: ``python simulate.py`` in this folder writes simulated.pt."""

from __future__ import annotations

import torch
from digits_app.task import Classifier, Digits, strategy
from pytorch_lightning import Trainer


def main(rounds: int = 3, path: str = "simulated.pt") -> None:
    """Train and save the weights."""
    model = Classifier()
    trainer = Trainer(
        max_epochs=rounds, accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, strategy=strategy()
    )
    trainer.fit(model, datamodule=Digits())
    torch.save(model.state_dict(), path)


if __name__ == "__main__":
    main()
