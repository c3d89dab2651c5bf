"""The data, as they were before: scikit-learn's digits in a LightningDataModule."""

from __future__ import annotations

import pytorch_lightning as pl
import torch
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset, random_split


class Digits(pl.LightningDataModule):
    """1,437 images to train on, 90 to validate on, 270 to test on.

    Args:
        batch_size: Images of a batch.
    """

    def __init__(self, batch_size: int = 256) -> None:
        super().__init__()
        self.batch_size = batch_size

    def setup(self, stage: str) -> None:
        """Load and split."""
        digits = load_digits()
        images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 8 - 1
        whole = TensorDataset(images, torch.tensor(digits.target))
        self.train, self.val, self.test = random_split(whole, (1437, 90, 270), torch.Generator().manual_seed(0))

    def train_dataloader(self) -> DataLoader[tuple[torch.Tensor, ...]]:
        """Shuffled batches."""
        return DataLoader(self.train, batch_size=self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader[tuple[torch.Tensor, ...]]:
        """All at once."""
        return DataLoader(self.val, batch_size=90)

    def test_dataloader(self) -> DataLoader[tuple[torch.Tensor, ...]]:
        """All at once."""
        return DataLoader(self.test, batch_size=270)
