"""Images augmented in a batch are those torchvision makes one by one, given the same parameters."""

from __future__ import annotations

import pytest
import torch
from torchvision import transforms as v1
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tvf

from lightning_privacy.data.augmentation import (
    Affine,
    Blur,
    ColorJitter,
    Crop,
    Draws,
    Erase,
    Flip,
    Noise,
    RandAugment,
    ResizedCrop,
    TrivialAugment,
)
from lightning_privacy.data.augmentation.colour import brightened, contrasted, hue_turned, saturated, sharpened
from lightning_privacy.data.augmentation.from_torchvision import from_torchvision
from lightning_privacy.data.augmentation.sample import Follower, Sample
from lightning_privacy.data.augmentation.warp import affine_maps, warp
from lightning_privacy.errors import ConfigurationError

ANGLES = [-170.0, -30.0, 0.0, 12.5, 90.0]


def images(rows=5, channels=3, height=17, width=24, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(0, 256, (rows, channels, height, width), generator=generator)
    return values.to(torch.uint8) if dtype == torch.uint8 else values.to(dtype) / 255


def draws(rows, seed=0):
    return Draws(torch.arange(rows) + 1000 * seed)


def mostly_equal(ours, theirs, share=0.995, tolerance=1e-4):
    """Equal but for pixels that lie on the border between two, where rounding decides."""
    same = ((ours.float() - theirs.float()).abs() <= tolerance).float().mean()
    assert float(same) >= share, f"only {float(same):.4f} of the pixels agree"


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
@pytest.mark.parametrize("fill", [None, 0.0, 0.3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8], ids=["float", "uint8"])
def test_rotation_is_torchvisions(mode, fill, dtype):
    batch = images(dtype=dtype)
    fill = 77 if fill and dtype == torch.uint8 else fill
    ours = warp(
        batch, affine_maps(angle=-torch.tensor(ANGLES)), mode=mode, fill=None if fill is None else [float(fill)]
    )
    theirs = [
        tvf.rotate(image, angle, interpolation=v2.InterpolationMode(mode), fill=fill)
        for image, angle in zip(batch, ANGLES, strict=True)
    ]
    mostly_equal(ours, torch.stack(theirs), tolerance=1 if dtype == torch.uint8 else 1e-4)


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_affine_maps_are_torchvisions(mode):
    batch = images()
    translate = torch.tensor([[3.0, -2.0], [0.0, 0.0], [-5.0, 7.0], [1.0, 1.0], [0.0, 9.0]])
    scale = torch.tensor([0.5, 1.0, 1.7, 0.9, 1.2])
    shear = torch.tensor([[10.0, 0.0], [-20.0, 5.0], [0.0, 30.0], [0.0, 0.0], [15.0, -15.0]])
    maps = affine_maps(
        angle=torch.tensor(ANGLES), translate=translate, scale=scale, shear=shear, center=(4 - 12.0, 6 - 8.5)
    )
    ours = warp(batch, maps, mode=mode, fill=[0.0])
    theirs = [
        tvf.affine(
            image,
            angle=ANGLES[row],
            translate=translate[row].tolist(),
            scale=float(scale[row]),
            shear=shear[row].tolist(),
            interpolation=v2.InterpolationMode(mode),
            fill=0,
            center=[4, 6],
        )
        for row, image in enumerate(batch)
    ]
    mostly_equal(ours, torch.stack(theirs))


@pytest.mark.parametrize(
    ("given", "ours"),
    [
        (v2.RandomRotation((30, 30)), Affine((-30, -30))),
        (v1.RandomRotation((30, 30)), Affine((-30, -30))),
        (v2.RandomAffine((20, 20), scale=(1.5, 1.5), shear=(5, 5, 10, 10)), None),
        (v1.RandomAffine((20, 20), scale=(0.5, 0.5), fill=0.5), None),
        (v2.RandomHorizontalFlip(1.0), Flip(1.0)),
        (v1.RandomVerticalFlip(1.0), Flip(1.0, vertical=True)),
        (v2.CenterCrop(8), None),
        (v2.Compose([v2.RandomInvert(1.0), v2.Normalize([0.5] * 3, [0.2] * 3)]), None),
        (v2.RandomGrayscale(1.0), None),
        (v2.RandomAutocontrast(1.0), None),
        (v2.RandomEqualize(1.0), None),
        (v2.RandomPosterize(3, p=1.0), None),
        (v2.RandomSolarize(0.4, p=1.0), None),
        (v2.RandomAdjustSharpness(1.7, p=1.0), None),
        (v2.ColorJitter(brightness=(1.3, 1.3), contrast=0), None),
        (v2.ColorJitter(hue=(0.2, 0.2)), None),
        (v2.GaussianBlur((3, 5), sigma=(1.1, 1.1)), None),
        (v2.RandomApply([v2.RandomInvert(1.0)], p=1.0), None),
        (v2.RandomChoice([v2.RandomInvert(1.0), v2.RandomInvert(1.0)]), None),
    ],
    ids=lambda value: type(value).__name__ if value is not None else "",
)
def test_what_has_fixed_parameters_gives_torchvisions_image(given, ours):
    batch = images()
    theirs = torch.stack([given(image) for image in batch])
    translated = from_torchvision(given)
    mostly_equal(translated(batch, draws(5)), theirs)
    if ours is not None:
        assert torch.equal(translated(batch, draws(5)), ours(batch, draws(5)))


@pytest.mark.parametrize("padding_mode", ["constant", "edge", "reflect"])
@pytest.mark.parametrize("padding", [0, 4, (2, 3), (1, 2, 3, 4)])
def test_a_crop_is_torchvisions_at_the_same_place(padding_mode, padding):
    batch, crop = images(), Crop((12, 20), padding, fill=0.5, padding_mode=padding_mode)
    places = crop.sample(batch, draws(5))
    for row, image in enumerate(batch):
        padded = tvf.pad(image, list(padding) if padding and padding != 4 else padding, 0.5, padding_mode)
        theirs = tvf.crop(padded, int(places.top[row]), int(places.left[row]), 12, 20)
        assert torch.equal(crop.move_images(batch, places)[row], theirs)
    left, top, right, bottom = places.padding
    padded = tvf.pad(batch, [left, top, right, bottom], 0.5, padding_mode)
    assert torch.equal(crop._gathered(padded, places), crop.move_images(batch, places))  # as on an accelerator


def test_every_place_of_a_crop_is_as_likely_as_torchvision_has_it():
    """28 + 2 * 4 - 28 + 1 = 9 places each way; chi-square with 80 degrees of freedom, error probability 1e-4."""
    places = Crop(28, 4).sample(images(1).new_zeros(1, 1, 28, 28), draws(40_500))
    counts = torch.bincount(places.top * 9 + places.left, minlength=81).double()
    assert len(counts) == 81
    assert float(((counts - 500) ** 2 / 500).sum()) < 134.7


def test_a_resized_crop_is_the_piece_scaled():
    batch, crop = images(height=16, width=16), ResizedCrop(8, scale=(0.3, 1.0))
    pieces = crop.sample(batch, draws(5))
    for row, image in enumerate(batch):
        box = [int(part[row]) for part in (pieces.top, pieces.left, pieces.height, pieces.width)]
        theirs = tvf.resized_crop(image, *box, size=[8, 8], antialias=False)
        mostly_equal(crop.move_images(batch, pieces)[row], theirs, share=1.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8], ids=["float", "uint8"])
@pytest.mark.parametrize(
    ("ours", "theirs", "amounts"),
    [
        (brightened, tvf.adjust_brightness, [0.0, 0.5, 1.0, 1.5, 3.0]),
        (contrasted, tvf.adjust_contrast, [0.0, 0.5, 1.0, 1.5, 3.0]),
        (saturated, tvf.adjust_saturation, [0.0, 0.5, 1.0, 1.5, 3.0]),
        (sharpened, tvf.adjust_sharpness, [0.0, 0.5, 1.0, 1.5, 3.0]),
        (hue_turned, tvf.adjust_hue, [-0.5, -0.2, 0.0, 0.1, 0.5]),
    ],
    ids=["brightness", "contrast", "saturation", "sharpness", "hue"],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_colours_are_torchvisions(ours, theirs, amounts, dtype, channels):
    batch = images(channels=channels, dtype=dtype)
    expected = torch.stack([theirs(image, amount) for image, amount in zip(batch, amounts, strict=True)])
    mostly_equal(ours(batch, torch.tensor(amounts)), expected, share=1.0, tolerance=1 if dtype == torch.uint8 else 1e-4)


@pytest.mark.parametrize("policy", [v2.RandAugment(1, fill=0.2), v2.TrivialAugmentWide()], ids=["rand", "trivial"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8], ids=["float", "uint8"])
def test_every_operation_of_a_policy_is_torchvisions(policy, dtype):
    batch = images(2, height=32, width=32, dtype=dtype)
    ours = from_torchvision(policy)
    for number, (name, (magnitudes, signed)) in enumerate(policy._AUGMENTATION_SPACE.items()):
        for place in (0, 9, 30):
            table = magnitudes(31, 32, 32)
            amount = 0.0 if table is None else float(table[place])
            for positive in (True, False) if signed else (True,):
                theirs = policy._apply_image_or_video_transform(
                    batch, name, amount if positive else -amount, interpolation=policy.interpolation, fill=policy._fill
                )
                rows = torch.ones(2, dtype=torch.long)
                got = ours._applied(batch, rows * number, rows * place, rows.bool() if positive else ~rows.bool())
                mostly_equal(got, theirs, tolerance=1 if dtype == torch.uint8 else 1e-4)


def test_erased_rectangles_have_torchvisions_sizes():
    """Mean share of the image that is erased, over 4,000 images, against 4,000 of torchvision's (5 standard errors)."""
    blank = torch.ones(4000, 1, 20, 24)
    ours = (Erase(1.0)(blank, draws(4000)) == 0).float().mean((1, 2, 3))
    torch.manual_seed(0)
    given = v2.RandomErasing(1.0)
    theirs = torch.stack([(given(image) == 0).float().mean() for image in blank])
    error = (ours.var() / 4000 + theirs.var() / 4000).sqrt()
    assert abs(float(ours.mean() - theirs.mean())) < 5 * float(error)
    heights = (Erase(1.0)(blank, draws(4000)) == 0).any(-1).float().sum((1, 2))
    assert float(heights.min()) >= 1
    assert float(heights.max()) <= 19


def test_ranges_are_torchvisions():
    """Moments of 20,000 drawn parameters (5 standard errors: error probability below 1e-5 for each)."""
    maps = from_torchvision(v2.RandomRotation((-20, 40))).sample(images(1), draws(20_000)).maps
    angles = torch.rad2deg(torch.atan2(maps[:, 0, 1], maps[:, 0, 0]))  # against the clock
    assert float(angles.max() - angles.min()) <= 60.001
    assert abs(float(angles.mean().abs()) - 10) < 5 * 60 / 12**0.5 / 20_000**0.5
    sample = from_torchvision(v2.RandomAffine(0, translate=(0.1, 0.5))).sample(torch.zeros(1, 1, 20, 30), draws(20_000))
    shifts = -sample.maps[:, :, 2]
    assert sorted(set(shifts[:, 0].tolist())) == [-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0]
    assert shifts[:, 1].abs().max() == 10


def test_per_example_randomness():
    """64 images, flipped with probability 0.5: 20 to 44 of them in each of 20 calls.

    For one call that fails with probability 0.0018 (binomial), for one of twenty with 0.036; the keys are fixed, so it
    fails always or never.
    """
    batch = images(64, 1, 8, 8)
    for call in range(20):
        flipped = from_torchvision(v2.RandomHorizontalFlip(0.5))(batch, draws(64, seed=call))
        count = int((flipped != batch).flatten(1).any(1).sum())
        assert 20 <= count <= 44


@pytest.mark.parametrize(
    "transform",
    [
        Affine(30, translate=(0.2, 0.2), scale=(0.5, 1.5), shear=10),
        Flip(),
        Crop(10, 2),
        ResizedCrop(8),
        Erase(),
        Noise(0.2),
        ColorJitter(brightness=0.5, contrast=0.5, saturation=0.5, hue=0.2),
        Blur(3),
        RandAugment(),
        TrivialAugment(),
    ],
    ids=lambda value: type(value).__name__,
)
def test_p04_a_row_depends_on_that_row_alone(transform):
    """Other examples, fewer of them, in another order: a row comes out the same."""
    batch, keys = images(12, height=16, width=16), torch.arange(12)
    whole = transform(batch, Draws(keys))
    order = torch.tensor([7, 2, 11])
    torch.testing.assert_close(transform(batch[order], Draws(keys[order])), whole[order], rtol=0, atol=1e-6)
    changed = batch.clone()
    changed[3] = 0
    others = torch.arange(12) != 3
    torch.testing.assert_close(transform(changed, Draws(keys))[others], whole[others], rtol=0, atol=1e-6)
    assert (whole[0] != whole[1]).any()
    torch.testing.assert_close(batch, images(12, height=16, width=16))


@pytest.mark.parametrize(
    ("transform", "given"),
    [
        (Affine((25, 25), translate=(0, 0), scale=(0.8, 0.8)), v2.RandomAffine((25, 25), scale=(0.8, 0.8))),
        (Flip(1.0), v2.RandomHorizontalFlip(1.0)),
        (Flip(1.0, vertical=True), v2.RandomVerticalFlip(1.0)),
        (Crop((17, 24), 0), v2.RandomCrop((17, 24))),
    ],
    ids=["affine", "flip", "upside_down", "crop"],
)
def test_masks_boxes_and_points_follow_as_in_torchvision(transform, given):
    batch = images(2)
    masks = (batch[:, 0] * 5).long()
    boxes = torch.tensor([[[3.0, 2.0, 10.0, 12.0], [0.0, 0.0, 24.0, 17.0]]] * 2)
    points = torch.tensor([[[5.0, 5.0], [20.0, 3.0], [12.0, 8.5]]] * 2)
    sample = Sample(batch, (Follower("mask", masks), Follower("boxes", boxes), Follower("points", points)))
    done = transform.run(sample, draws(2))
    for row in range(2):
        theirs = given(
            {
                "image": tv_tensors.Image(batch[row]),
                "mask": tv_tensors.Mask(masks[row]),
                "boxes": tv_tensors.BoundingBoxes(boxes[row], format="XYXY", canvas_size=(17, 24)),
                "points": tv_tensors.KeyPoints(points[row], canvas_size=(17, 24)),
            }
        )
        mostly_equal(done.inputs[row], theirs["image"])
        mostly_equal(done.followers[0].values[row], theirs["mask"])
        torch.testing.assert_close(done.followers[1].values[row], theirs["boxes"].as_subclass(torch.Tensor))
        moved = done.followers[2].values[row]
        inside = ((moved >= 0) & (moved <= torch.tensor([23.0, 16.0]))).all(1)
        expected = theirs["points"].as_subclass(torch.Tensor)
        if isinstance(transform, Flip):
            # torchvision mirrors numbers of pixels here, and places in the image everywhere else.
            expected = expected + (torch.tensor([0.0, 1.0]) if transform.vertical else torch.tensor([1.0, 0.0]))
        torch.testing.assert_close(moved[inside], expected[inside])
    assert done.followers[0].values.dtype == torch.int64


def test_a_point_and_its_pixel_stay_together():
    """One bright pixel, and a point in its middle: after any warp and crop the point is in the bright pixel."""
    batch = torch.zeros(50, 1, 21, 21)
    batch[:, 0, 12, 9] = 1
    points = torch.full((50, 1, 2), 0.5) + torch.tensor([9.0, 12.0])
    sample = Sample(batch, (Follower("points", points),))
    sample = Affine(40, translate=(0.1, 0.1)).run(sample, draws(50))
    done = Crop(17).run(sample, draws(50, seed=1))
    rows = [row for row in range(50) if done.inputs[row].max() == 1]
    assert len(rows) > 25
    for row in rows:
        x, y = done.followers[0].values[row, 0].tolist()
        near = done.inputs[row, 0, max(0, int(y) - 1) : int(y) + 2, max(0, int(x) - 1) : int(x) + 2]
        assert float(near.max()) == 1


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (v2.ToPILImage(), "ToPILImage works on PIL images.*where='workers'"),
        (v2.PILToTensor(), "PILToTensor works on PIL images"),
        (v1.ToTensor(), "ToTensor works on PIL images"),
        (v2.ElasticTransform(), "ElasticTransform has no equivalent.*where='workers'"),
        (v2.Lambda(abs), "Lambda has no equivalent"),
        (v2.RandomRotation(10, expand=True), "expand=True.*size of its own"),
        (v2.RandomRotation(10, interpolation=v2.InterpolationMode.BILINEAR, fill={torch.Tensor: 3}), "fill=.*type"),
        (v2.RandomResizedCrop(8, interpolation=v2.InterpolationMode.BICUBIC), "interpolation='bicubic'"),
        (v2.RandomCrop(8, 2, padding_mode="symmetric"), "symmetric"),
        (v2.Compose([v2.RandomHorizontalFlip(), v2.FiveCrop(4)]), "FiveCrop has no equivalent"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "",
)
def test_what_can_not_be_done_for_each_image_of_a_batch_is_named(transform, message):
    with pytest.raises(ConfigurationError, match=message):
        from_torchvision(transform)


def test_images_too_small_for_a_crop_are_named():
    with pytest.raises(ConfigurationError, match=r"size=\(30, 30\) is larger than the images of \(17, 24\)"):
        Crop(30)(images())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Affine(degrees=-3), "degrees must be >= 0"),
        (lambda: Affine(translate=(0.1, 2.0)), "translate must be two numbers from 0 to 1"),
        (lambda: Affine(scale=(0.0, 1.0)), "scale must be above 0"),
        (lambda: Affine(interpolation="bicubic"), "interpolation must be one of"),
        (lambda: Flip(1.5), "probability must be from 0 to 1, got 1.5"),
        (lambda: Crop(0), "size must be at least 1"),
        (lambda: Crop(4, (1, 2, 3)), "padding must be 1, 2 or 4"),
        (lambda: ResizedCrop(4, scale=(0.5, 0.2)), "scale and ratio must be ranges"),
        (lambda: Erase(scale=(0.5, 2)), "scale must be a range within 0 to 1"),
        (lambda: Noise(-1.0), "sigma must be"),
        (lambda: ColorJitter(hue=0.7), "hue must be within"),
        (lambda: Blur(4), "kernel_size must be odd"),
        (lambda: RandAugment(magnitude=31), "magnitude must be below"),
    ],
)
def test_arguments_out_of_range_are_named(make, message):
    with pytest.raises(ConfigurationError, match=message):
        make()


def test_a_batch_that_is_no_image_is_named():
    with pytest.raises(ConfigurationError, match=r"Flip needs a batch of images \(B, C, H, W\), got \(4, 3\)"):
        Flip()(torch.zeros(4, 3))
