"""Train the network."""

from __future__ import annotations

import pytorch_lightning as pl
from data import Digits
from model import DigitsNet


def main() -> None:
    """Train, then test."""
    pl.seed_everything(0)
    data = Digits(batch_size=256)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=20,
        log_every_n_steps=1,
    )
    model = DigitsNet()
    trainer.fit(model, datamodule=data)
    trainer.test(model, datamodule=data)


if __name__ == "__main__":
    main()
