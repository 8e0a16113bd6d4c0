"""Image transforms of a whole batch: uint8 (n, 256, 256) in, float32 (n, 3, 224, 224) out.

Training: random horizontal flip, random rotation up to 45 degrees, scale 0.85 to 1.15, translation up to 0.15 of the
side, then centre crop. Evaluation: centre crop. Both end with the ImageNet normalisation. The random numbers are drawn
on the CPU, so that a seed gives the same images on every device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from flexcare_data.modalities import IMAGE_SIDE
from flexcare_model.data.batch import CROP_SIDE

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MAX_DEGREES, MAX_TRANSLATION, SCALE = 45.0, 0.15, (0.85, 1.15)
FLIP_PROBABILITY = 0.5
_GAIN = torch.tensor([1.0 / (255.0 * std) for std in STD]).view(1, 3, 1, 1)
_BIAS = torch.tensor([-mean / std for mean, std in zip(MEAN, STD, strict=True)]).view(1, 3, 1, 1)


@dataclass(frozen=True)
class Affine:
    """One flip and affine map per image, about the image centre; the map of torchvision's ``affine``, shear 0.

    Attributes:
        flip: (n,) bool, mirrored left to right before the map.
        degrees: (n,) rotation, clockwise where positive.
        shift: (n, 2) whole pixels to the right and down.
        scale: (n,) factor.
    """

    flip: Tensor
    degrees: Tensor
    shift: Tensor
    scale: Tensor

    def inverse(self) -> Tensor:
        """(n, 2, 2) from a pixel of the result, shifted back, to its source; both (right, down) of the centre."""
        radians = self.degrees * (math.pi / 180.0)
        cos, sin = radians.cos() / self.scale, radians.sin() / self.scale
        mirror = torch.where(self.flip, -1.0, 1.0)
        return torch.stack([torch.stack([mirror * cos, mirror * sin], -1), torch.stack([-sin, cos], -1)], -2)


def draw_affine(n: int, generator: torch.Generator | None = None) -> Affine:
    """Draw ``n`` maps from the ranges above (CPU). ``generator`` None: torch's global one, seeded per worker."""
    uniform = torch.rand(n, 5, generator=generator)
    reach = MAX_TRANSLATION * IMAGE_SIDE
    return Affine(
        flip=uniform[:, 0] < FLIP_PROBABILITY,
        degrees=(2.0 * uniform[:, 1] - 1.0) * MAX_DEGREES,
        shift=((2.0 * uniform[:, 2:4] - 1.0) * reach).round(),
        scale=SCALE[0] + uniform[:, 4] * (SCALE[1] - SCALE[0]),
    )


def centre_crop(images: Tensor) -> Tensor:
    """The middle (n, 224, 224) of ``images`` (n, 256, 256)."""
    first = (IMAGE_SIDE - CROP_SIDE) // 2
    return images[:, first : first + CROP_SIDE, first : first + CROP_SIDE]


def warp(images: Tensor, affine: Affine) -> Tensor:
    """Flip, map and centre crop uint8 ``images`` (n, 256, 256) to float32 (n, 224, 224), levels 0 to 255.

    Nearest neighbour, black outside, as torchvision's ``RandomAffine`` does by default. Only the pixels of the crop
    are computed.
    """
    device = images.device
    inverse = affine.inverse().to(device)
    middle = (CROP_SIDE - 1) / 2.0
    steps = torch.arange(CROP_SIDE, device=device, dtype=torch.float32) - middle
    down, right = torch.meshgrid(steps, steps, indexing="ij")
    pixels = torch.stack([right, down], -1).reshape(1, -1, 2)  # (1, 224 * 224, 2)
    source = (pixels - affine.shift.to(device).unsqueeze(1)) @ inverse.transpose(1, 2)  # (n, 224 * 224, 2)
    grid = (source * (2.0 / IMAGE_SIDE)).view(-1, CROP_SIDE, CROP_SIDE, 2)
    levels = images.unsqueeze(1).float()
    return functional.grid_sample(levels, grid, mode="nearest", padding_mode="zeros", align_corners=False).squeeze(1)


def normalise(levels: Tensor) -> Tensor:
    """Grey ``levels`` (n, 224, 224) of 0 to 255 to three equal channels, ImageNet normalised (n, 3, 224, 224)."""
    return torch.addcmul(_BIAS.to(levels.device), levels.unsqueeze(1).float(), _GAIN.to(levels.device))


def model_images(
    stored: Tensor, rows: Tensor, batch: int, *, augment: bool, generator: torch.Generator | None = None
) -> Tensor:
    """Model input of the images of a batch: (``batch``, 3, 224, 224), zeros where a sample has none.

    Args:
        stored: (n, 256, 256) uint8, the images that exist.
        rows: (n,) int64, sample of the batch that each belongs to.
        batch: samples in the batch.
        augment: random flip and affine map (training), else the centre crop alone.
        generator: source of the random numbers, on the CPU.
    """
    if not len(rows):
        # A view of one zero: no sample has an image, so nothing is allocated.
        return torch.zeros(1, device=stored.device).expand(batch, 3, CROP_SIDE, CROP_SIDE)
    affine = draw_affine(len(rows), generator) if augment else None
    images = normalise(centre_crop(stored) if affine is None else warp(stored, affine))
    if len(rows) == batch:
        return images
    return torch.zeros(batch, *images.shape[1:], device=images.device).index_copy_(0, rows, images)
