"""Private fits in half and double precision."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_privacy import DifferentialPrivacy
from lightning_privacy._lightning import LightningModule, pl
from lightning_privacy.errors import UnsupportedError

MixedPrecision = pl.plugins.precision.MixedPrecision


class Single(LightningModule):
    """A regression in whatever precision the trainer sets."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(11)
        self.net = nn.Sequential(nn.Linear(3, 16), nn.LayerNorm(16), nn.Tanh(), nn.Linear(16, 1))
        self.scale = scale
        self.dtypes: set[torch.dtype] = set()
        self.gradients: list[Tensor] = []

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        output = self.net(batch[0])
        self.dtypes.add(output.dtype)
        return self.scale * (output.float() - batch[1]).square().mean()

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        self.gradients.append(torch.cat([p.grad.detach().float().flatten() for p in self.parameters()]).clone())

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


def _loader(rows: int = 32, batch_size: int = 32) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(rows, 3, generator=generator)
    return DataLoader(TensorDataset(x, x.sum(1, keepdim=True).sin()), batch_size=batch_size)


def _fp16() -> Any:
    return MixedPrecision("16-mixed", device="cpu", scaler=torch.amp.GradScaler("cpu"))


def _fit(tiny: Any, precision: str, module: Single, privacy: DifferentialPrivacy | None, **options: Any) -> Any:
    chosen = {"plugins": [_fp16()]} if precision == "16-mixed" else {"precision": precision}
    trainer = tiny.trainer(max_epochs=3, callbacks=[privacy] if privacy else [], **chosen, **options)
    trainer.fit(module, _loader())
    return trainer


@pytest.mark.filterwarnings("ignore:noise_multiplier=0")
@pytest.mark.parametrize(
    ("precision", "computed", "tolerance"),
    [
        ("64-true", torch.float64, 1e-6),
        ("bf16-mixed", torch.bfloat16, 0.02),
        ("16-mixed", torch.float16, 0.005),
        ("bf16-true", torch.bfloat16, 0.05),
    ],
)
def test_p09_without_noise_a_fit_is_the_plain_fit_in_that_precision(
    tiny: Any, precision: str, computed: torch.dtype, tolerance: float
) -> None:
    gradients = []
    for private in (False, True):
        privacy = DifferentialPrivacy(delta=0.01, noise_multiplier=0.0, max_grad_norm=1e9) if private else None
        module = Single()
        trainer = _fit(tiny, precision, module, privacy)
        assert module.dtypes == {computed}
        assert trainer.global_step == 3
        gradients.append(torch.stack(module.gradients))
    error = (gradients[0] - gradients[1]).norm() / gradients[0].norm()
    assert error < tolerance


@pytest.mark.parametrize("precision", ["32-true", "64-true", "bf16-mixed", "16-mixed", "bf16-true"])
@pytest.mark.filterwarnings("ignore:noise_multiplier=0")
def test_p09_the_bound_holds_in_every_precision(tiny: Any, precision: str) -> None:
    module = Single(scale=300.0)
    _fit(tiny, precision, module, DifferentialPrivacy(delta=0.01, noise_multiplier=0.0, max_grad_norm=0.25))
    norms = torch.stack(module.gradients).norm(dim=1)
    # Every example is clipped to 0.25 and their mean is no longer; bfloat16 parameters have a gradient rounded to 2^-9.
    assert float(norms.max()) <= 0.25 * (1.004 if precision == "bf16-true" else 1.00001)
    assert float(norms.max()) > 0.1


def test_p09_an_example_that_overflows_adds_nothing_and_no_step_is_skipped(tiny: Any) -> None:
    """The loss scale would fall, and the step be left out, because of what is in the data."""

    class Overflows(Single):
        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            output = self.net(batch[0])
            scale = torch.ones_like(output.float())
            scale[0] = 1e7
            return (scale * output.float()).mean()

    module = Overflows()
    privacy = DifferentialPrivacy(delta=0.01, noise_multiplier=1.0, max_grad_norm=1.0, probe=False)
    trainer = _fit(tiny, "16-mixed", module, privacy)
    assert trainer.global_step == 3
    assert all(torch.isfinite(gradient).all() for gradient in module.gradients)
    assert sum(count for _, count in privacy.ledger.groups) == 3


def test_p09_the_user_s_scaler_comes_back(tiny: Any) -> None:
    plugin = _fp16()
    scaler = plugin.scaler
    trainer = tiny.trainer(
        max_epochs=1, plugins=[plugin], callbacks=[DifferentialPrivacy(delta=0.01, noise_multiplier=1.0)]
    )
    trainer.fit(Single(), _loader())
    assert plugin.scaler is scaler
    assert scaler.get_scale() == 65536.0


def test_p09_float16_without_a_scaler_is_refused(tiny: Any) -> None:
    plugin = _fp16()
    plugin.scaler = None
    trainer = tiny.trainer(
        max_epochs=1, plugins=[plugin], callbacks=[DifferentialPrivacy(delta=0.01, noise_multiplier=1.0)]
    )
    with pytest.raises(UnsupportedError, match="'16-mixed' has no gradient scaler"):
        trainer.fit(Single(), _loader())


def test_p09_a_precision_plugin_of_unknown_kind_is_refused(tiny: Any) -> None:
    class Own(MixedPrecision):
        """Does something else."""

    trainer = tiny.trainer(
        max_epochs=1,
        plugins=[Own("bf16-mixed", device="cpu")],
        callbacks=[DifferentialPrivacy(delta=0.01, noise_multiplier=1.0)],
    )
    with pytest.raises(UnsupportedError, match=r"precision='bf16-mixed'\) with Own is not supported"):
        trainer.fit(Single(), _loader())
