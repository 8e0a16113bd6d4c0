"""Image transforms: the same map as torchvision's affine, the same distribution as its random transforms."""

from __future__ import annotations

import pytest
import torch
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as vision

from flexcare_model.data.image_transforms import (
    MEAN,
    STD,
    Affine,
    centre_crop,
    draw_affine,
    model_images,
    normalise,
    warp,
)

TORCHVISION = v2.Compose(
    [
        v2.RandomHorizontalFlip(),
        v2.RandomAffine(degrees=45, scale=(0.85, 1.15), translate=(0.15, 0.15)),
        v2.CenterCrop(224),
    ]
)


def smooth_images(n: int) -> torch.Tensor:
    """Images with structure at all sides: products of waves, no two alike."""
    steps = torch.linspace(0, 6.0, 256)
    waves = [torch.sin(steps[:, None] * (1 + i % 3) + i) * torch.cos(steps[None] * (1 + i % 2)) for i in range(n)]
    return ((torch.stack(waves) + 1) * 127).to(torch.uint8)


@pytest.fixture(autouse=True)
def one_thread():
    """Single images are too small to share among threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("flip", [False, True])
def test_warp_equals_torchvision_affine(flip):
    images, drawn = smooth_images(6), draw_affine(6, torch.Generator().manual_seed(3))
    affine = Affine(torch.full((6,), flip), drawn.degrees, drawn.shift, drawn.scale)
    ours = warp(images, affine)
    for i in range(6):
        image = images[i : i + 1].flip(-1) if flip else images[i : i + 1]
        moved = vision.affine(
            image, angle=float(affine.degrees[i]), translate=[int(s) for s in affine.shift[i]],
            scale=float(affine.scale[i]), shear=[0.0, 0.0], interpolation=InterpolationMode.NEAREST,
        )  # fmt: skip
        expected = vision.center_crop(moved, [224, 224])[0].float()
        # A source exactly between two pixels may be rounded either way.
        assert (ours[i] != expected).float().mean() < 0.002


def test_no_map_is_the_centre_crop():
    images = smooth_images(2)
    zeros = torch.zeros(2)
    same = Affine(zeros.bool(), zeros, torch.zeros(2, 2), torch.ones(2))
    assert torch.equal(warp(images, same), centre_crop(images).float())


def test_augmentation_agrees_with_torchvision_in_distribution():
    """Mean and spread of many draws, in 16 blocks of the image and in the share of black (outside) pixels."""
    torch.manual_seed(5)
    image, n = smooth_images(3)[2:].clamp(min=1), 200

    def summary(levels):
        blocks = torch.nn.functional.avg_pool2d(levels.unsqueeze(1), 56).flatten(1)
        return torch.cat([blocks, (levels == 0).float().mean(dim=(1, 2)).unsqueeze(1) * 255], dim=1)

    ours = summary(warp(image.expand(n, -1, -1), draw_affine(n)))
    theirs = summary(torch.stack([TORCHVISION(image)[0].float() for _ in range(n)]))
    error = (ours.var(0) / n + theirs.var(0) / n).sqrt()
    assert ((ours.mean(0) - theirs.mean(0)).abs() < 4 * error).all()
    torch.testing.assert_close(ours.std(0), theirs.std(0), rtol=0.3, atol=1.0)


def test_ranges_of_the_draws():
    drawn = draw_affine(20_000, torch.Generator().manual_seed(0))
    assert abs(drawn.flip.float().mean() - 0.5) < 0.02
    for values, low, high in ((drawn.degrees, -45, 45), (drawn.shift, -38, 38), (drawn.scale, 0.85, 1.15)):
        assert values.min() >= low and values.max() <= high
        assert values.min() < low + 0.01 * (high - low) and values.max() > high - 0.01 * (high - low)
        assert abs(values.mean() - (low + high) / 2) < 0.02 * (high - low)


def test_normalise_equals_torchvision():
    images = smooth_images(2)
    grey = vision.to_dtype(centre_crop(images).unsqueeze(1).expand(-1, 3, -1, -1), torch.float32, scale=True)
    torch.testing.assert_close(normalise(centre_crop(images)), vision.normalize(grey, list(MEAN), list(STD)))


def test_absent_images_are_zeros_and_rows_keep_their_place():
    images = smooth_images(2)
    out = model_images(images, torch.tensor([0, 2]), 4, augment=False)
    assert not out[1].any() and not out[3].any()
    torch.testing.assert_close(out[[0, 2]], normalise(centre_crop(images)))
    assert model_images(images[:0], torch.zeros(0, dtype=torch.int64), 3, augment=True).shape == (3, 3, 224, 224)


def test_a_generator_repeats_the_augmentation():
    images, rows = smooth_images(3), torch.arange(3)
    one, two, other = (
        model_images(images, rows, 3, augment=True, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(one, two) and not torch.equal(one, other)
