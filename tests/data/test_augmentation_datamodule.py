"""What the DataModule does to train batches: reproducibly, for each example, and with named errors."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from lightning_fabric.utilities.data import _replace_dunder_methods, _update_dataloader
from lightning_utilities.core.rank_zero import WarningCache
from PIL import Image
from pytorch_lightning.trainer.connectors import data_connector
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, TensorDataset
from torchvision.transforms import v2

from lightning_privacy._lightning import Callback, LightningDataModule, LightningModule, Trainer
from lightning_privacy.data.augmentation import (
    AugmentationDataModule,
    CutMix,
    DropTokens,
    Flip,
    MaskColumns,
    MaskFrequency,
    MaskTime,
    MaskTokens,
    MixUp,
    Noise,
    PerExample,
    Rescale,
    SwapViews,
    predict_with_views,
)
from lightning_privacy.data.augmentation.draws import Draws, _hashed, row_keys
from lightning_privacy.data.augmentation.fields import occurrences
from lightning_privacy.errors import ConfigurationError, UnsupportedError

RANDOM = [v2.RandomHorizontalFlip(), v2.RandomRotation(30), v2.RandomCrop(8, 2)]


def dataset(size: int = 24) -> TensorDataset:
    generator = torch.Generator().manual_seed(5)
    return TensorDataset(torch.rand(size, 3, 8, 8, generator=generator), torch.arange(size) % 3, torch.arange(size))


def loader(size: int = 24, batch_size: int = 6, **options: Any) -> DataLoader[Any]:
    return DataLoader(dataset(size), batch_size=batch_size, **options)


def augmented(transforms: Any = RANDOM, train: Any = None, **options: Any) -> AugmentationDataModule:
    return AugmentationDataModule(
        train_dataloader=loader() if train is None else train, transforms=transforms, **options
    )


class Recorder(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)
        self.seen: list[tuple[int, Any]] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.seen.append((self.current_epoch, batch))
        return self.layer(torch.zeros(1, 2)).sum()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def by_example(self) -> dict[tuple[int, int], list[Tensor]]:
        found: dict[tuple[int, int], list[Tensor]] = {}
        for epoch, (images, _, numbers) in self.seen:
            for image, number in zip(images, numbers.tolist(), strict=True):
                found.setdefault((epoch, number), []).append(image)
        return found


@pytest.fixture
def fit(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)

    def run(datamodule: Any, module: Any = None, **options: Any) -> Any:
        module = Recorder() if module is None else module
        defaults = {"max_epochs": 2, "accelerator": "cpu", "logger": False, "enable_checkpointing": False}
        quiet = {"enable_progress_bar": False, "enable_model_summary": False}
        Trainer(**(defaults | quiet | options)).fit(module, datamodule=datamodule)
        return module

    return run


def same(one: dict[Any, list[Tensor]], other: dict[Any, list[Tensor]]) -> bool:
    assert one.keys() == other.keys()
    return all(torch.allclose(a, b, atol=1e-6) for key in one for a, b in zip(one[key], other[key], strict=True))


@pytest.mark.parametrize("where", ["device", "workers"])
def test_an_example_is_augmented_the_same_way_in_any_batch_and_worker(fit: Any, where: str) -> None:
    reference = fit(augmented(where=where)).by_example()
    assert len(reference) == 48
    torch.manual_seed(123)
    for options in (
        {"shuffle": True},
        {"shuffle": True, "batch_size": 5},
        {"num_workers": 2},
        {"num_workers": 2, "persistent_workers": True, "shuffle": True},
    ):
        train = loader(**options)
        assert same(fit(augmented(train=train, where=where)).by_example(), reference), options
    epochs = [torch.stack([reference[epoch, number][0] for number in range(24)]) for epoch in (0, 1)]
    assert (epochs[0] != epochs[1]).flatten(1).any(1).float().mean() > 0.9
    assert not same(fit(augmented(where=where, seed=1)).by_example(), reference)


@pytest.mark.filterwarnings("ignore:Consider setting `persistent_workers=True`")
def test_spawned_workers_augment_as_others_do(fit: Any) -> None:
    train = loader(num_workers=1, multiprocessing_context="spawn")
    options = {"max_epochs": 1}
    assert same(
        fit(augmented(train=train, where="workers"), **options).by_example(),
        fit(augmented(where="workers"), **options).by_example(),
    )


@pytest.mark.parametrize("where", ["device", "workers"])
def test_a_part_of_the_data_is_augmented_as_in_the_whole(where: str) -> None:
    """What a rank sees with a distributed sampler: its examples, as one process has them."""
    whole = torch.cat([batch[0] for batch in augmented(where=where).train_dataloader()])
    for rank in (0, 1):
        sampler = torch.utils.data.DistributedSampler(dataset(), num_replicas=2, rank=rank, shuffle=False)
        train = DataLoader(dataset(), batch_size=4, sampler=sampler)
        for images, _, numbers in augmented(train=train, where=where).train_dataloader():
            torch.testing.assert_close(images, whole[numbers], rtol=0, atol=1e-6)


def test_without_a_trainer_batches_are_augmented_where_they_are_made(fit: Any) -> None:
    trained = fit(augmented(), max_epochs=1).by_example()
    alone = augmented()
    for workers in (0, 2):
        alone = augmented(train=loader(num_workers=workers))
        for images, _, numbers in alone.train_dataloader():
            for image, number in zip(images, numbers.tolist(), strict=True):
                torch.testing.assert_close(image, trained[0, number][0])
    first = next(iter(alone.train_dataloader()))[0]
    alone.set_epoch(1)
    assert not torch.equal(first, next(iter(alone.train_dataloader()))[0])


@pytest.mark.parametrize("where", ["device", "workers"])
def test_what_is_drawn_again_in_an_epoch_is_augmented_anew(fit: Any, where: str) -> None:
    runs = []
    for workers in (0, 2):
        generator = torch.Generator().manual_seed(2)
        sampler = RandomSampler(dataset(6), replacement=True, num_samples=60, generator=generator)
        train = DataLoader(dataset(6), batch_size=10, sampler=sampler, num_workers=workers)
        runs.append(fit(augmented(train=train, where=where), max_epochs=1).by_example())
    assert same(*runs)
    assert sum(map(len, runs[0].values())) == 60
    for images in runs[0].values():
        different = sum(bool((image != images[0]).any()) for image in images[1:])
        assert different >= len(images) - 2


@pytest.mark.parametrize("where", ["device", "workers"])
def test_views_are_next_to_each_other_and_differ(fit: Any, where: str) -> None:
    module = fit(augmented(views=3, where=where), max_epochs=1)
    for _, (images, labels, numbers) in module.seen:
        assert images.shape == (18, 3, 8, 8)
        assert torch.equal(labels, numbers % 3)
        assert torch.equal(numbers, numbers[::3].repeat_interleave(3))
    views = torch.cat([images for _, (images, *_) in module.seen]).view(24, 3, -1)
    assert (views[:, 0] != views[:, 1]).any(1).float().mean() > 0.9


class Bounded(PerExample):
    """Writes down which rows it has seen, and blackens them."""

    def augment(self, inputs: Tensor, draws: Draws) -> Tensor:
        return torch.zeros_like(inputs)


@pytest.mark.parametrize(
    ("groups", "where"),
    [(torch.arange(24) % 3, "device"), (1, "device"), (list(torch.arange(24).numpy() % 3), "workers"), (1, "workers")],
    ids=["array_device", "field_device", "list_workers", "field_workers"],
)
def test_groups_get_transforms_of_their_own(fit: Any, groups: Any, where: str) -> None:
    black = Bounded() if where == "device" else torch.zeros_like
    datamodule = augmented([v2.RandomHorizontalFlip(1.0)], by_group={2: [black]}, groups=groups, where=where)
    plain = dataset().tensors[0]
    for _, (images, labels, numbers) in fit(datamodule, max_epochs=1).seen:
        assert torch.equal(images[labels == 2], torch.zeros(2, 3, 8, 8))
        assert torch.equal(images[labels != 2], plain[numbers[labels != 2]].flip(-1))


def test_groups_that_do_not_fit_are_named() -> None:
    with pytest.raises(ConfigurationError, match="nothing says which examples"):
        augmented(by_group={1: RANDOM})
    with pytest.raises(ConfigurationError, match=r"by_group has transforms for \[7\].*there are \[0, 1, 2\]"):
        augmented(by_group={7: RANDOM}, groups=torch.arange(24) % 3)
    short = augmented(by_group={1: RANDOM}, groups=[0, 1])
    with pytest.raises(ConfigurationError, match="groups has 2 entries, and the train data set has 24"):
        short.train_dataloader()
    with pytest.raises(ConfigurationError, match="MixUp mixes examples of all groups"):
        augmented([MixUp(num_classes=3)], by_group={1: RANDOM}, groups=1)
    sizes = augmented(RANDOM, by_group={1: [v2.CenterCrop(4)]}, groups=1)
    with pytest.raises(ConfigurationError, match="give all groups transforms that end in one shape"):
        next(iter(sizes.train_dataloader()))


class Records(Dataset[dict[str, Any]]):
    """Dictionaries with an image, a mask, boxes and points."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict[str, Any]:
        mask = torch.zeros(8, 8, dtype=torch.int64)
        mask[2:5, 1 : 3 + index % 4] = 1
        return {
            "pixels": mask.float().expand(3, 8, 8).clone(),
            "mask": mask,
            "boxes": torch.tensor([[1.0, 2.0, 3.0 + index % 4, 5.0]]),
            "points": torch.tensor([[1.5, 2.5]]),
            "id": f"number {index}",
        }


@pytest.mark.parametrize("where", ["device", "workers"])
def test_masks_boxes_and_points_follow_the_image(where: str) -> None:
    datamodule = augmented(
        [v2.RandomHorizontalFlip(), v2.RandomVerticalFlip(), v2.RandomCrop(8, 1)],
        train=DataLoader(Records(), batch_size=8),
        where=where,
        input_key="pixels",
        follow={"mask": "mask", "boxes": "boxes", "points": "points"},
    )
    batch = next(iter(datamodule.train_dataloader()))
    before = next(iter(DataLoader(Records(), batch_size=8)))
    assert batch["id"] == before["id"]
    assert type(batch["boxes"]) is Tensor
    assert (batch["pixels"] != before["pixels"]).any()
    assert torch.equal(batch["pixels"][:, 0], batch["mask"].float())
    for row in range(8):
        places = batch["mask"][row].nonzero()
        x1, y1, x2, y2 = batch["boxes"][row, 0].tolist()
        assert [y1, x1] == places.amin(0).tolist()
        assert [y2 - 1, x2 - 1] == places.amax(0).tolist()


def test_mixing_works_without_privacy(fit: Any) -> None:
    for mix in (MixUp(alpha=0.5, num_classes=3), CutMix(num_classes=3), v2.MixUp(num_classes=3)):
        datamodule = augmented([mix], train=loader(batch_size=24))
        assert datamodule.mixes_examples in ("MixUp", "CutMix")
        images, labels, _ = next(iter(datamodule.train_dataloader()))
        assert labels.shape == (24, 3)
        torch.testing.assert_close(labels.sum(1), torch.ones(24))
        plain, classes, _ = next(iter(loader(batch_size=24)))
        assert (images != plain).flatten(1).any(1).float().mean() > 0.5
        # In the mean over the batch nothing is lost: each image is a partner once.
        assert labels.argmax(1).eq(classes).float().mean() > 0.5
    with pytest.raises(ConfigurationError, match="MixUp needs num_classes"):
        next(iter(augmented([MixUp()]).train_dataloader()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"views": 0}, "views must be a whole number >= 1, got 0"),
        ({"views": 1.5}, "views must be"),
        ({"where": "gpu"}, "where must be one of 'device', 'workers', got 'gpu'"),
        ({"seed": -1}, "seed must be"),
        ({"follow": {1: "masks"}}, r"follow\[1\] must be one of 'mask', 'boxes', 'points'"),
        ({"transforms": "flip"}, "transforms must be a sequence"),
        ({"transforms": [3]}, "transforms must be callable, got 3"),
        ({"transforms": [v2.ToPILImage()]}, "ToPILImage works on PIL images"),
        ({"transforms": [lambda image: image]}, "doesn't say whether it treats each example"),
        ({"transforms": [Flip()], "where": "workers"}, "Flip works on batches: use where='device'"),
        ({"transforms": [v2.MixUp(num_classes=3)], "where": "workers"}, "MixUp mixes the examples of a batch"),
    ],
)
def test_arguments_that_can_not_be_used_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        AugmentationDataModule(**({"train_dataloader": loader(), "transforms": []} | options))


class Doubling(PerExample):
    def augment(self, inputs: Tensor, draws: Draws) -> Tensor:
        return torch.cat([inputs, inputs.flip(-1)])


def test_a_transform_that_changes_the_batch_size_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"Doubling made 12 rows out of 6.*views=\.\.\."):
        next(iter(augmented([Doubling()]).train_dataloader()))


class Stream(IterableDataset[Tensor]):
    def __iter__(self) -> Any:
        yield torch.zeros(3, 8, 8)


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (DataLoader(Stream()), "Stream is iterable"),
        (DataLoader(dataset(), batch_size=None), "batch_size=None"),
        ([torch.zeros(2)], "must give a DataLoader, or a list or dict of them"),
    ],
    ids=["iterable", "no_batches", "no_loader"],
)
def test_loaders_without_numbered_examples_are_named(train: Any, message: str) -> None:
    with pytest.raises((ConfigurationError, UnsupportedError), match=message):
        augmented(train=train).train_dataloader()


def test_fields_that_are_not_there_are_named() -> None:
    records = DataLoader(Records(), batch_size=2)
    with pytest.raises(ConfigurationError, match=r"keys \['pixels', 'mask'.*input_key"):
        next(iter(augmented(train=records).train_dataloader()))
    with pytest.raises(ConfigurationError, match="no field 'image'"):
        next(iter(augmented(train=records, input_key="image").train_dataloader()))
    with pytest.raises(ConfigurationError, match="is a list: on the device it must be a tensor"):
        next(iter(augmented(train=records, input_key="id").train_dataloader()))


@pytest.mark.parametrize("kind", [dict, list])
def test_several_loaders_at_once(fit: Any, kind: Any) -> None:
    class Both(Recorder):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            parts = list(batch.values()) if isinstance(batch, dict) else list(batch)
            self.seen.append((self.current_epoch, parts))
            return self.layer(torch.zeros(1, 2)).sum()

    loaders = {"a": loader(), "b": loader(12, 3)} if kind is dict else [loader(), loader(12, 3)]
    module = fit(augmented([v2.RandomHorizontalFlip(1.0)], train=loaders), Both(), max_epochs=1)
    for size, position in ((24, 0), (12, 1)):
        plain = dataset(size).tensors[0]
        for _, parts in module.seen:
            images, _, numbers = parts[position]
            assert torch.equal(images, plain[numbers].flip(-1))


class Special(DataLoader[Any]):
    def __init__(self, dataset: Any, extra: int, **options: Any) -> None:
        super().__init__(dataset, **options)
        self.extra = extra


def test_sub_classes_of_loaders_keep_what_they_have(fit: Any) -> None:
    train = Special(
        dataset(), 3, batch_size=6, collate_fn=lambda examples: [torch.stack(x) for x in zip(*examples, strict=True)]
    )
    made = augmented([v2.RandomHorizontalFlip(1.0)], train=train).train_dataloader()
    assert type(made) is Special
    assert made.extra == 3
    assert train.dataset is not made.dataset
    module = fit(augmented([v2.RandomHorizontalFlip(1.0)], train=train), max_epochs=1)
    assert torch.equal(module.seen[0][1][0], dataset().tensors[0][:6].flip(-1))


def test_workers_of_a_loader_that_was_in_use_are_not_taken_for_its_own(fit: Any) -> None:
    train = Special(dataset(), 3, batch_size=6, num_workers=1, persistent_workers=True)
    next(iter(train))
    module = fit(augmented([v2.RandomHorizontalFlip(1.0)], train=train), max_epochs=1)
    assert torch.equal(module.seen[0][1][0], dataset().tensors[0][:6].flip(-1))


def test_one_augmentation_in_workers_behind_another_differs_between_epochs_too(fit: Any) -> None:
    inner = augmented([lambda image: image + torch.rand(1)], where="workers")
    module = fit(AugmentationDataModule(inner, transforms=[lambda image: image], where="workers"), max_epochs=2)
    first, second = (next(batch for epoch, batch in module.seen if epoch == number) for number in range(2))
    assert torch.equal(first[2], second[2])
    assert not torch.equal(first[0], second[0])


def test_attributes_of_the_data_set_are_still_there() -> None:
    data = dataset()
    data.targets = [1, 2, 3]  # type: ignore[attr-defined]
    made = augmented(train=DataLoader(data, batch_size=6, drop_last=True, num_workers=1)).train_dataloader()
    assert made.dataset.targets == [1, 2, 3]  # type: ignore[attr-defined]
    assert (len(made), made.drop_last, made.num_workers, len(made.dataset)) == (4, True, 1, 24)  # type: ignore[arg-type]


@pytest.mark.parametrize("where", ["device", "workers"])
def test_a_preview_shows_before_and_after(where: str, tmp_path: Any) -> None:
    datamodule = augmented([v2.RandomHorizontalFlip(1.0)], where=where, views=2)
    picture = datamodule.preview(tmp_path / "pictures" / "preview.png", num_examples=4)
    with Image.open(tmp_path / "pictures" / "preview.png") as saved:
        assert np.asarray(saved).shape == (*picture.shape[1:], 3)
    assert picture.shape == (3, 2 + 3 * 66, 2 + 4 * 66)  # three rows of four pictures 64 pixels wide, with 2 between
    tile = picture[:, 2:66, 2:66]
    below, last = picture[:, 68:132, 2:66], picture[:, 134:198, 2:66]
    torch.testing.assert_close(below, tile.flip(-1))
    torch.testing.assert_close(last, below)
    with pytest.raises(ConfigurationError, match="a preview needs images"):
        AugmentationDataModule(
            train_dataloader=DataLoader(TensorDataset(torch.zeros(4, 3)), 2), transforms=[]
        ).preview()


def test_predictions_are_means_over_views() -> None:
    inputs = torch.rand(5, 1, 8, 8)

    def predict(images: Tensor) -> Tensor:
        return images.flatten(1)[:, :3]

    once = predict_with_views(predict, inputs, transforms=[v2.RandomHorizontalFlip(1.0)], views=3)
    torch.testing.assert_close(once, predict(inputs.flip(-1)))
    whole = predict_with_views(predict, inputs, transforms=RANDOM, views=4, seed=2)
    parts = predict_with_views(predict, inputs, transforms=RANDOM, views=4, seed=2, max_rows=8)
    torch.testing.assert_close(whole, parts)
    torch.testing.assert_close(predict_with_views(predict, inputs[:2], transforms=RANDOM, views=4, seed=2), whole[:2])
    with pytest.raises(ConfigurationError, match="views must be"):
        predict_with_views(predict, inputs, transforms=RANDOM, views=0)
    with pytest.raises(ConfigurationError, match="predict gave 1 rows for 10"):
        predict_with_views(lambda images: images.mean(0, keepdim=True), inputs, transforms=[], views=2)


def test_numbers_are_uniform_and_keys_apart() -> None:
    """Chi-square over 100 cells (99 degrees of freedom, error probability 1e-4 each) and neighbouring keys."""
    for keys in (torch.arange(100_000), row_keys(torch.arange(100_000), seed=0, epoch=0)):
        counts = torch.histc(Draws(keys).uniform(), 100, 0, 1).double()
        assert float(((counts - 1000) ** 2 / 1000).sum()) < 160
        pairs = Draws(keys).uniform(0.0, 1.0, 2).double()
        assert abs(float(torch.corrcoef(pairs.T)[0, 1])) < 4 / 100_000**0.5
    values = Draws(torch.arange(50_000)).integers(7)
    assert sorted(values.unique().tolist()) == list(range(7))
    keys = {
        int(key) for seed in (0, 1) for epoch in (0, 1) for key in row_keys(torch.arange(99), seed=seed, epoch=epoch)
    }
    assert len(keys) == 4 * 99
    on_cpu = Draws(torch.arange(64)).field((3, 16, 16), torch.device("cpu"), normal=True)
    on_accelerator = _hashed(row_keys(torch.arange(64), seed=0, epoch=0), (3, 16, 16), normal=True)
    for noise in (on_cpu, on_accelerator):  # moments of 49,152 normals, at 5 standard errors
        assert abs(float(noise.mean())) < 5 / noise.numel() ** 0.5
        assert abs(float(noise.square().mean()) - 1) < 5 * (2 / noise.numel()) ** 0.5
        assert abs(float((noise[0] * noise[1]).mean())) < 5 / 768**0.5
    assert occurrences(torch.tensor([4, 2, 4, 4, 2])).tolist() == [0, 0, 1, 2, 1]


ROWS = torch.arange(1.0, 31.0).reshape(6, 5)


@pytest.mark.parametrize(
    ("transform", "inputs"),
    [
        (MaskColumns(0.4), ROWS),
        (Noise(0.5), ROWS),
        (DropTokens(0.4, pad_id=0), ROWS.long()),
        (MaskTokens(0.4, mask_id=99), ROWS.long()),
        (Rescale(0.5), ROWS),
        (Rescale(0.5, per_channel=True), ROWS[:, :, None].expand(6, 5, 4)),
        (MaskTime(3, masks=2), ROWS),
        (MaskFrequency(3), ROWS[:, :, None].expand(6, 5, 4)),
    ],
    ids=["mask", "noise", "drop_tokens", "mask_tokens", "rescale", "rescale_channels", "mask_time", "mask_frequency"],
)
def test_p04_tables_texts_and_signals_are_augmented_row_by_row(transform: PerExample, inputs: Tensor) -> None:
    whole = transform(inputs, Draws(torch.arange(6)))
    assert whole.shape == inputs.shape
    assert whole.dtype == inputs.dtype
    assert (whole != inputs).any()
    alone = transform(inputs[4:5], Draws(torch.arange(4, 5)))
    assert torch.equal(alone[0], whole[4])
    assert torch.equal(inputs.reshape(6, 5, -1)[..., 0].float(), ROWS)


def test_p04_columns_change_places_between_views_of_one_example_only() -> None:
    inputs = torch.arange(40.0).reshape(8, 5)  # 2 examples of 4 views
    swapped = SwapViews(0.7)(inputs, Draws(torch.arange(8), views=4))
    assert not torch.equal(swapped, inputs)
    for start in (0, 4):
        for column in range(5):
            block = slice(start, start + 4)
            assert sorted(swapped[block, column].tolist()) == sorted(inputs[block, column].tolist())
    assert torch.equal(SwapViews(1.0)(inputs, Draws(torch.arange(8))), inputs)


def test_tokens_close_up_and_special_ones_stay() -> None:
    tokens = torch.tensor([[1, 11, 12, 13, 14, 15, 2, 0, 0]]).expand(400, -1)
    dropped = DropTokens(0.3, pad_id=0, keep=[1, 2])(tokens, Draws(torch.arange(400)))
    for row in dropped.tolist():
        words = [token for token in row if token]
        assert row == words + [0] * (9 - len(words))
        assert words[0] == 1
        assert words[-1] == 2
        assert words[1:-1] == sorted(words[1:-1])
    rate = 1 - float((dropped > 2).sum()) / 2000
    assert abs(rate - 0.3) < 5 * (0.21 / 2000) ** 0.5  # error probability 6e-7
    masked = MaskTokens(1.0, mask_id=9, keep=[0, 1, 2])(tokens[:1])
    assert masked.tolist() == [[1, 9, 9, 9, 9, 9, 2, 0, 0]]


@pytest.mark.parametrize(
    ("transform", "inputs", "message"),
    [
        (MaskColumns(), torch.zeros(2, 3, 4), r"MaskColumns needs rows of a table \(B, F\), got \(2, 3, 4\)"),
        (SwapViews(), torch.zeros(2), "SwapViews needs rows"),
        (MaskTokens(mask_id=1), torch.zeros(2, 3), "MaskTokens needs token numbers"),
        (Rescale(per_channel=True), torch.zeros(2, 3), r"per_channel=True\) needs"),
        (Rescale(), torch.zeros(2, 3).long(), "Rescale needs floats"),
        (MaskFrequency(2), torch.zeros(2, 3), "MaskFrequency needs"),
        (Noise(), torch.zeros(2, 3).long(), "Noise needs floats or uint8"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, PerExample) else "",
)
def test_inputs_of_the_wrong_kind_are_named(transform: PerExample, inputs: Tensor, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        transform(inputs)


def test_kornia_draws_for_each_example_from_its_key() -> None:
    K = pytest.importorskip("kornia.augmentation", reason="kornia is not installed")  # noqa: N806
    modules = [
        K.RandomRotation(30.0),
        K.RandomAffine(10.0, translate=(0.1, 0.1), p=0.7),
        K.RandomHorizontalFlip(),
        K.RandomCrop((8, 8), padding=2),
        K.RandomErasing(p=0.5),
        K.RandomGaussianNoise(p=0.5),
        K.ColorJiggle(0.2, 0.2, 0.2, 0.1),
        K.RandomBrightness((0.5, 1.5)),
        K.ImageSequential(K.RandomHorizontalFlip(), K.RandomRotation(10.0)),
    ]
    batch = dataset().tensors[0]
    for module in modules:
        plain = augmented([module], train=loader(batch_size=24)).train_dataloader()
        whole, _, _ = next(iter(plain))
        assert (whole != batch).flatten(1).any(1).float().mean() > 0.2, module
        small = torch.cat([images for images, *_ in augmented([module], train=loader(batch_size=7)).train_dataloader()])
        torch.testing.assert_close(small, whole, rtol=0, atol=1e-5)


def test_kornia_that_draws_for_the_whole_batch_is_named() -> None:
    K = pytest.importorskip("kornia.augmentation", reason="kornia is not installed")  # noqa: N806
    with pytest.raises(ConfigurationError, match=r"same_on_batch=True"):
        augmented([K.RandomHorizontalFlip(same_on_batch=True)])
    with pytest.raises(ConfigurationError, match=r"p_batch=0.5.*use p=0.5"):
        augmented([K.RandomHorizontalFlip(p=1.0, p_batch=0.5)])
    with pytest.raises(ConfigurationError, match="random_apply"):
        augmented([K.ImageSequential(K.RandomHorizontalFlip(), K.RandomVerticalFlip(), random_apply=1)])
    batches = iter(augmented([_Multinomial()]).train_dataloader())
    with pytest.raises(UnsupportedError, match=r"multinomial.*can't be done for each"):
        next(batches)


class _Multinomial:
    per_example = True

    def __call__(self, images: Tensor) -> Tensor:
        return images * torch.multinomial(torch.ones(3), 1)


def test_masks_and_boxes_follow_kornia() -> None:
    K = pytest.importorskip("kornia.augmentation", reason="kornia is not installed")  # noqa: N806
    datamodule = augmented(
        [K.RandomHorizontalFlip(p=0.5)],
        train=DataLoader(Records(), batch_size=8),
        input_key="pixels",
        follow={"mask": "mask", "boxes": "boxes"},
    )
    batch = next(iter(datamodule.train_dataloader()))
    before = next(iter(DataLoader(Records(), batch_size=8)))
    flipped = (batch["pixels"] != before["pixels"]).flatten(1).any(1)
    assert 0 < int(flipped.sum()) < 8
    assert torch.equal(batch["mask"][flipped], before["mask"][flipped].flip(-1))
    assert torch.equal(batch["mask"][~flipped], before["mask"][~flipped])
    mirrored = before["boxes"].clone()
    mirrored[..., 0], mirrored[..., 2] = 7 - before["boxes"][..., 2], 7 - before["boxes"][..., 0]  # as kornia has it
    assert torch.equal(batch["boxes"], torch.where(flipped.view(-1, 1, 1), mirrored, before["boxes"]))


@pytest.mark.parametrize("where", ["device", "workers"])
def test_loaders_that_lightning_makes_anew_for_several_processes_stay_augmented(where: str) -> None:
    datamodule = augmented([v2.RandomHorizontalFlip(1.0)], where=where)
    with _replace_dunder_methods(DataLoader, "dataset"):
        made = datamodule.train_dataloader()
    sampler = torch.utils.data.DistributedSampler(dataset(), num_replicas=2, rank=1, shuffle=False)
    images, _, numbers = next(iter(_update_dataloader(made, sampler)))
    assert numbers.tolist() == [1, 3, 5, 7, 9, 11]
    assert torch.equal(images, dataset().tensors[0][numbers].flip(-1))


def test_train_batches_without_numbers_are_named(fit: Any) -> None:
    class Replaced(Callback):
        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            if trainer.current_epoch == 1:
                numbered = trainer.train_dataloader.collate_fn
                trainer.train_dataloader.collate_fn = lambda examples: numbered(examples).batch

    with pytest.raises(ConfigurationError, match="a train batch came without the numbers of its examples"):
        fit(augmented(), callbacks=[Replaced()])


class Hooked(Recorder):
    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return batch


class HookedData(LightningDataModule):
    def train_dataloader(self) -> Any:
        return loader()

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return batch


@pytest.mark.parametrize("fails", [False, True], ids=["ends", "fails"])
def test_lightning_s_warning_of_two_hooks_is_kept_back_for_its_own_fit_only(monkeypatch, fails: bool) -> None:
    monkeypatch.setattr(data_connector, "warning_cache", WarningCache())
    quiet = {
        "max_epochs": 1, "logger": False, "accelerator": "cpu", "enable_checkpointing": False,
        "enable_progress_bar": False, "enable_model_summary": False,
    }  # fmt: skip
    trainer, before = Trainer(**quiet), list(warnings.filters)
    module = Hooked()
    if fails:
        module.on_train_batch_start = lambda *_: 1 / 0
        with pytest.raises(ZeroDivisionError):
            trainer.fit(module, datamodule=augmented())
    else:
        trainer.fit(module, datamodule=augmented())
        assert module.seen
    assert warnings.filters == before
    trainer.fit_loop.max_epochs = 2
    data_connector.warning_cache.clear()  # Lightning gives each warning once, shown or not
    with pytest.warns(UserWarning, match="in both `LightningModule` and `LightningDataModule`"):
        trainer.fit(Hooked(), datamodule=HookedData())
