"""Augmentation together with differential privacy: views, mixing and the independence probe."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision.transforms import v2

from lightning_privacy import DifferentialPrivacy
from lightning_privacy._lightning import LightningModule
from lightning_privacy.data.augmentation import AugmentationDataModule, CutMix, MixUp, PerExample
from lightning_privacy.data.digits import DigitsDataModule
from lightning_privacy.errors import ConfigurationError, UnsupportedError

GEOMETRIC = [v2.RandomRotation(15), v2.RandomAffine(0, translate=(0.1, 0.1)), v2.RandomCrop(8, 1)]
STRONG = [
    v2.RandomHorizontalFlip(),
    v2.ColorJitter(0.4, 0.4),
    v2.RandomErasing(0.5),
    v2.GaussianNoise(0.05),
    v2.TrivialAugmentWide(),
]


def loader(size: int = 64, batch_size: int = 16) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(5)
    images = torch.rand(size, 1, 8, 8, generator=generator)
    return DataLoader(
        TensorDataset(images, torch.arange(size) % 4, torch.arange(size)), batch_size=batch_size, shuffle=True
    )


class Classifier(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 4))
        self.seen: list[tuple[Tensor, Tensor]] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.seen.append((batch[0], batch[2]))
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(tiny: Any, datamodule: Any, *, views: int = 1, probe: bool = False, epochs: int = 1, **options: Any) -> Any:
    module = Classifier()
    privacy = DifferentialPrivacy(delta=1e-3, noise_multiplier=1.0, views=views, probe=probe, noise=tiny.noise())
    tiny.trainer(max_epochs=epochs, callbacks=[privacy], **options).fit(module, datamodule=datamodule)
    return module


def augmented(transforms: Any, **options: Any) -> AugmentationDataModule:
    return AugmentationDataModule(train_dataloader=loader(), transforms=transforms, **options)


@pytest.mark.parametrize("where", ["device", "workers"])
def test_views_come_from_the_sampler_and_are_not_doubled(tiny: Any, where: str) -> None:
    module = fit(tiny, augmented(GEOMETRIC, views=2, where=where), views=2)
    assert len(module.seen) >= 4
    differ: list[bool] = []
    for images, numbers in module.seen:
        assert len(images) == len(numbers) <= 16 + 16 // 8
        first, second = images[::2], images[1::2]
        assert torch.equal(numbers[::2], numbers[1::2])
        assert len(set(numbers[::2].tolist())) == len(numbers) // 2
        differ += (first != second).flatten(1).any(1).tolist()
    assert sum(differ) / len(differ) > 0.8


def test_a_private_run_draws_the_same_augmentation_again(tiny: Any) -> None:
    runs = [fit(tiny, augmented(GEOMETRIC, views=2), views=2, epochs=2, probe=probe).seen for probe in (False, True)]
    for (images, numbers), (again, same) in zip(*runs, strict=True):
        assert torch.equal(numbers, same)
        assert torch.equal(images, again)


def test_an_example_drawn_twice_in_an_epoch_is_not_augmented_twice_the_same(tiny: Any) -> None:
    seen: dict[int, list[Tensor]] = {}
    for images, numbers in fit(tiny, augmented(GEOMETRIC)).seen:
        for image, number in zip(images, numbers.tolist(), strict=True):
            seen.setdefault(number, []).append(image)
    twice = [images for images in seen.values() if len(images) > 1]
    assert len(twice) > 5
    assert all((images[0] != images[1]).any() for images in twice)


@pytest.mark.parametrize(("made", "drawn"), [(1, 2), (2, 1), (3, 2)])
def test_different_numbers_of_views_are_named(tiny: Any, made: int, drawn: int) -> None:
    with pytest.raises(ConfigurationError, match=f"makes views={made} of each example.*draws each views={drawn}"):
        fit(tiny, augmented(GEOMETRIC, views=made), views=drawn)


class Rolled(PerExample):
    """Says it treats each row by itself, and doesn't."""

    def augment(self, inputs: Tensor, draws: Any) -> Tensor:
        return inputs + 0.5 * inputs.roll(1, 0)


class Honest(PerExample):
    per_example = False

    def augment(self, inputs: Tensor, draws: Any) -> Tensor:
        return inputs.flip(0)


def kornia_module(name: str, **options: Any) -> Any:
    pytest.importorskip("kornia", reason="kornia is not installed")
    import kornia.augmentation

    return getattr(kornia.augmentation, name)(**options)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: MixUp(num_classes=4), "MixUp"),
        (lambda: CutMix(num_classes=4), "CutMix"),
        (lambda: v2.MixUp(num_classes=4), "MixUp"),
        (lambda: v2.CutMix(num_classes=4), "CutMix"),
        (lambda: v2.Compose([v2.RandomHorizontalFlip(), v2.RandomChoice([v2.MixUp(num_classes=4)])]), "MixUp"),
        (lambda: Honest(), "Honest"),
        (lambda: kornia_module("RandomMixUpV2"), "RandomMixUpV2"),
        (lambda: kornia_module("RandomCutMixV2", use_correct_lambda=True), "RandomCutMixV2"),
        (lambda: kornia_module("RandomMosaic", output_size=(8, 8)), "RandomMosaic"),
        (lambda: kornia_module("RandomJigsaw"), "RandomJigsaw"),
        (lambda: _sequence(), "RandomMixUpV2"),
    ],
    ids=[
        "mixup",
        "cutmix",
        "torchvision_mixup",
        "torchvision_cutmix",
        "nested",
        "declared",
        "kornia_mixup",
        "kornia_cutmix",
        "kornia_mosaic",
        "kornia_jigsaw",
        "kornia_sequence",
    ],
)
def test_p04_what_mixes_examples_is_refused(tiny: Any, make: Any, name: str) -> None:
    with pytest.raises(UnsupportedError, match=f"{name} mixes examples.*epsilon would be false"):
        fit(tiny, augmented([v2.RandomHorizontalFlip(), make()]))


def _sequence() -> Any:
    pytest.importorskip("kornia", reason="kornia is not installed")
    import kornia.augmentation as K

    return K.ImageSequential(K.RandomHorizontalFlip(), K.RandomMixUpV2())


def test_p04_what_mixes_examples_without_saying_so_is_found_by_the_probe(tiny: Any) -> None:
    with pytest.raises(UnsupportedError, match="replaced one example of a small batch"):
        fit(tiny, augmented([Rolled()]), probe=True)


def test_p04_mixing_behind_another_wrapper_is_refused(tiny: Any) -> None:
    inner = augmented([MixUp(num_classes=4)])
    with pytest.raises(UnsupportedError, match="MixUp mixes examples"):
        fit(tiny, AugmentationDataModule(inner, transforms=[v2.RandomHorizontalFlip()]))


@pytest.mark.parametrize("views", [1, 2])
@pytest.mark.parametrize("where", ["device", "workers"])
@pytest.mark.parametrize("transforms", [GEOMETRIC, STRONG], ids=["geometric", "strong"])
def test_the_probe_passes_what_is_random_for_each_example(tiny: Any, transforms: Any, where: str, views: int) -> None:
    fit(tiny, augmented(transforms, where=where, views=views), views=views, probe=True)


def test_the_probe_passes_kornia(tiny: Any) -> None:
    jitter = kornia_module("ColorJitter", brightness=0.4, contrast=0.4, p=0.7)
    fit(tiny, augmented([kornia_module("RandomRotation", degrees=15.0), jitter]), probe=True)


def test_groups_of_their_own_augmentation(tiny: Any) -> None:
    class Black(PerExample):
        def augment(self, inputs: Tensor, draws: Any) -> Tensor:
            return torch.zeros_like(inputs)

    datamodule = augmented(GEOMETRIC, views=2, by_group={3: [Black()]}, groups=torch.arange(64) % 4)
    module = fit(tiny, datamodule, views=2, probe=True)
    for images, numbers in module.seen:
        black = (images == 0).flatten(1).all(1)
        assert torch.equal(black, numbers % 4 == 3)


@pytest.mark.parametrize("where", ["device", "workers"])
def test_data_sets_that_gather_whole_batches(tiny: Any, where: str) -> None:
    digits = DigitsDataModule(batch_size=256, image_size=8)
    datamodule = AugmentationDataModule(digits, transforms=GEOMETRIC, views=2, where=where)

    class Digits(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            assert batch[0].shape[1:] == (1, 8, 8)
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1] % 4)

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            pass

    privacy = DifferentialPrivacy(delta=1e-4, noise_multiplier=1.0, views=2)
    tiny.trainer(max_epochs=1, callbacks=[privacy], limit_val_batches=0).fit(Digits(), datamodule=datamodule)
    assert privacy.ledger.epsilon() > 0
