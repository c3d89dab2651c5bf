"""Memory of a fit does not grow with the number of clients there are: it is that of one client and of the data."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import sys, warnings
warnings.simplefilter("ignore")
import torch
from torch.utils.data import DataLoader, TensorDataset
from lightning_privacy._lightning import LightningModule, Trainer
from lightning_privacy.federated.partitions import IIDPartition
from lightning_privacy.strategies import FederatedStrategy

class Model(LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(2000, 10)  # as many copies as clients would take 0.8 GB

    def training_step(self, batch, batch_idx):
        return torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

data = TensorDataset(torch.zeros(10_000, 2000), torch.zeros(10_000, dtype=torch.long))
strategy = FederatedStrategy(partition=IIDPartition(int(sys.argv[1])), cohort_size=20)
trainer = Trainer(
    strategy=strategy, accelerator="cpu", devices=1, max_epochs=5, logger=False, enable_checkpointing=False,
    enable_progress_bar=False, enable_model_summary=False,
)
trainer.fit(Model(), DataLoader(data, batch_size=10))
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def peak(clients: int, folder: str) -> int:
    command = [sys.executable, "-c", SCRIPT, str(clients)]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    return int(run.stdout.splitlines()[-1])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak is read from /proc")
def test_ten_thousand_clients_take_the_memory_of_a_hundred(tmp_path):
    few, many = peak(100, str(tmp_path)), peak(10_000, str(tmp_path))
    assert many < 1.1 * few, f"{many} KiB against {few} KiB"
