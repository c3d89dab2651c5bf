"""Experiments P21 to P23, P27 and P31: Opacus in a LightningModule, as its own Lightning example has it.

Opacus' ``examples/mnist_lightning.py`` makes the module private in ``configure_optimizers`` and takes its batches from
``DPLightningDataModule``. It was written for an older Lightning; the one thing changed here is where the train loader
is asked for (``fit_loop._data_source`` in place of an attribute that is gone).
"""

from __future__ import annotations

import copy
import logging
import warnings
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from _pitfall_tools import Finding, error_of, linear, loader, steps_charged
from opacus import PrivacyEngine
from opacus.data_loader import DPDataLoader
from opacus.lightning import DPLightningDataModule
from torch import Tensor, nn

__all__ = ["EXPERIMENTS", "Classifier", "fit"]

logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)


class Classifier(pl.LightningModule):
    """The example's module with a smaller network; ``steps_on`` chooses the optimizer that is returned."""

    def __init__(self, *, noise: float = 1.0, steps_on: str = "private", lr: float = 0.1) -> None:
        super().__init__()
        self.net, self.noise, self.steps_on, self.lr = linear(), noise, steps_on, lr
        self.privacy_engine = PrivacyEngine(accountant="rdp")

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def configure_optimizers(self) -> Any:
        plain = torch.optim.SGD(self.parameters(), lr=self.lr)
        data_loader = self.trainer.fit_loop._data_source.dataloader()
        if hasattr(self, "dp"):
            self.dp["model"].remove_hooks()
        model, optimizer, _ = self.privacy_engine.make_private(
            module=self,
            optimizer=plain,
            data_loader=data_loader,
            noise_multiplier=self.noise,
            max_grad_norm=1.0,
            poisson_sampling=isinstance(data_loader, DPDataLoader),
        )
        self.dp = {"model": model}
        return optimizer if self.steps_on == "private" else plain

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = F.cross_entropy(self(batch[0]), batch[1])
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss


class _Data(pl.LightningDataModule):
    def train_dataloader(self) -> Any:
        return loader(100, 10)


def fit(module: Classifier, *, data: Any = None, **options: Any) -> pl.Trainer:
    """Train with the example's data module."""
    settings: dict[str, Any] = {"max_epochs": 1, "logger": False, "enable_checkpointing": False} | options
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quiet = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
        trainer = pl.Trainer(**quiet, **settings)
        trainer.fit(module, data or DPLightningDataModule(_Data()))
    return trainer


class _Gradients(pl.Callback):
    """What a gradient logger sees, and what was released."""

    def __init__(self) -> None:
        self.seen: list[float] = []
        self.stepped: list[float] = []
        self.before: Tensor | None = None

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self.seen.append(float(torch.cat([p.grad.flatten() for p in pl_module.parameters()]).norm()))
        self.before = nn.utils.parameters_to_vector(pl_module.parameters()).detach().clone()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        after = nn.utils.parameters_to_vector(pl_module.parameters()).detach()
        if self.before is not None:
            self.stepped.append(float((after - self.before).norm()) / pl_module.lr)


def p21() -> Finding:
    poisson = error_of(lambda: fit(Classifier(steps_on="plain")))
    weights = []
    for noise in (1.0, 100.0):
        torch.manual_seed(0)
        shuffled = Classifier(steps_on="plain", noise=noise)
        shuffled_error = error_of(lambda module=shuffled: fit(module, data=_Data()))  # the module's own loader
        weights.append(nn.utils.parameters_to_vector(shuffled.net.parameters()).detach())
    same = float((weights[0] - weights[1]).norm())
    epsilon = float(shuffled.privacy_engine.get_epsilon(1e-5))
    return Finding(
        "P21",
        {
            "Poisson loader": "refuses" if poisson else "silent",
            "shuffled loader": "silent" if same == 0 and shuffled_error is None else "refuses",
        },
        f"The plain optimizer goes on stepping. With the Poisson loader the second step ends in {poisson}; with a "
        f"shuffled one training ends normally, noise 1 and 100 give weights that differ by {same:.1f}, and epsilon is "
        f"reported as {epsilon:.1f}.",
    )


def p22() -> Finding:
    free, clipped = _Gradients(), _Gradients()
    torch.manual_seed(1)
    fit(Classifier(noise=0.0), callbacks=[free])
    torch.manual_seed(1)
    fit(Classifier(noise=0.0), callbacks=[clipped], gradient_clip_val=1e-6)
    loud = _Gradients()
    fit(Classifier(noise=1000.0), callbacks=[loud])
    return Finding(
        "P22",
        {
            "gradient loggers": "silent" if loud.seen[0] < 0.01 * loud.stepped[0] else "right",
            "gradient_clip_val": "wrong" if clipped.stepped[0] > 1e-3 else "right",
        },
        f"on_before_optimizer_step sees the raw gradient (norm {loud.seen[0]:.2f} where the released one has "
        f"{loud.stepped[0]:.0f}); gradient_clip_val=1e-6 does nothing: the step is {clipped.stepped[0]:.2f} with it "
        f"and {free.stepped[0]:.2f} without.",
    )


def p23() -> Finding:
    accumulated = error_of(lambda: fit(Classifier(), accumulate_grad_batches=2))
    shuffled = Classifier()
    trainer = fit(shuffled, data=_Data(), accumulate_grad_batches=2)
    _, rate, steps = shuffled.privacy_engine.accountant.history[0]
    return Finding(
        "P23",
        {
            "Poisson loader": "refuses" if accumulated else "silent",
            "shuffled loader, P14 apart": "right" if trainer.global_step == steps == 5 and rate == 0.2 else "silent",
        },
        f"accumulate_grad_batches=2: {accumulated}. With a shuffled loader of 10 batches global_step is "
        f"{trainer.global_step}, and {steps} steps at rate {rate:g} are charged, as if they were Poisson.",
    )


def p27() -> Finding:
    module = Classifier()
    fit(module)
    first = steps_charged(module.privacy_engine)
    again = error_of(lambda: fit(module))
    second = steps_charged(module.privacy_engine)
    left = sum(len(each._forward_hooks) + len(each._backward_hooks) for each in module.modules())
    twin = copy.deepcopy(module.net)
    copied = error_of(lambda: F.cross_entropy(twin(torch.ones(3, 4)), torch.zeros(3, dtype=torch.long)).backward())

    def plain_training() -> None:
        for rows in (3, 3):
            F.cross_entropy(module.net(torch.ones(rows, 4)), torch.zeros(rows, dtype=torch.long)).backward()

    failed = error_of(plain_training)
    module.dp["model"].remove_hooks()
    removed = sum(len(each._forward_hooks) + len(each._backward_hooks) for each in module.modules())
    return Finding(
        "P27",
        {
            "fit twice": "right" if again is None and second == 2 * first else "silent",
            "deep copy": "refuses" if copied else "right",
            "plain training afterwards": "refuses" if failed else "right",
        },
        f"Two fits are charged {first} and {second} steps. {left} hooks stay on the module until remove_hooks() "
        f"({removed} then): plain training of it: {failed or 'goes on'}; of a deep copy: {copied or 'goes on'}.",
    )


def p31() -> Finding:
    logged = []
    for scale in (1.0, 50.0):
        x, y = (tensor.clone() for tensor in loader(100, 100).dataset.tensors)
        x[0], y[0] = scale, 0

        class Changed(pl.LightningDataModule):
            def __init__(self, data: Any) -> None:
                super().__init__()
                self.data = data

            def train_dataloader(self) -> Any:
                return torch.utils.data.DataLoader(self.data, batch_size=100)

        torch.manual_seed(0)
        stop = pl.callbacks.EarlyStopping("train_loss", patience=9, check_on_train_epoch_end=True)
        module = Classifier(noise=1.0, lr=1.0)
        data = DPLightningDataModule(Changed(torch.utils.data.TensorDataset(x, y)))
        trainer = fit(module, data=data, max_epochs=2, callbacks=[stop])
        logged.append((float(trainer.callback_metrics["train_loss"]), module.privacy_engine.get_epsilon(1e-5)))
    (first, epsilon), (second, _) = logged
    return Finding(
        "P31",
        {"Lightning": "silent" if abs(first - second) > 0.1 else "right"},
        f"The example logs train_loss and EarlyStopping may watch it: one example changes what is logged by "
        f"{abs(second - first):.2f}, and neither a warning nor the epsilon of {epsilon:.1f} tells of it.",
    )


EXPERIMENTS = (p21, p22, p23, p27, p31)
