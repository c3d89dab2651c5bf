"""Both names of Lightning, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import warnings
warnings.simplefilter("ignore")
{imports}
import torch
from torch.utils.data import DataLoader, TensorDataset
from lightning_privacy import _lightning
from lightning_privacy.callbacks import DifferentialPrivacy

class Module({base}.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, 1)
    def training_step(self, batch, batch_idx):
        return torch.nn.functional.mse_loss(self.layer(batch[0]), batch[1])
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

data = TensorDataset(torch.randn(24, 3), torch.randn(24, 1))
privacy = DifferentialPrivacy(delta=0.01, noise_multiplier=1.0)
trainer = {base}.Trainer(max_epochs=2, callbacks=[privacy], logger=False, enable_checkpointing=False, accelerator="cpu",
                     enable_progress_bar=False, enable_model_summary=False)
try:
    trainer.fit(Module(), DataLoader(data, 8, shuffle=True))
except Exception as error:
    print(type(error).__name__, error)
print(_lightning.LIGHTNING_NAME, isinstance(privacy, pl.Callback), privacy.ledger.history and
privacy.ledger.history[0][1])
"""


def run(imports: str, base: str = "pl") -> str:
    script = SCRIPT.format(imports=imports, base=base)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("imports", "name"),
    [
        ("import pytorch_lightning as pl", "pytorch_lightning"),
        ("import lightning as pl", "lightning.pytorch"),
    ],
)
def test_private_training_runs_under_either_name(imports: str, name: str) -> None:
    assert run(imports).splitlines()[-1] == f"{name} True 6"


def test_trainer_of_the_other_name_is_refused_with_the_way_out() -> None:
    output = run("import pytorch_lightning as pl\nimport lightning_privacy._lightning, lightning", "lightning")
    assert "ConfigurationError trainer is a lightning.pytorch Trainer" in output
    assert "put `import lightning` before" in output
    assert output.splitlines()[-1].endswith("[]")
