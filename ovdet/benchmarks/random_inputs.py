"""Random images, objects and stored regions for timings, where only sizes matter.

Shape letters: H x W pixels, K classes, M regions of one image, D embedding width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from detectron2.structures import Boxes, Instances
from torch import Tensor

from ovdet.class_embeddings import ClassEmbeddings


def random_boxes(number: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """Random boxes (number, 4) XYXY inside an image, with sides from an eighth to a half of it."""
    size = torch.tensor([width, height])
    sides = size * (0.125 + 0.375 * torch.rand(number, 2, generator=generator))
    corners = (size - sides) * torch.rand(number, 2, generator=generator)
    return torch.cat([corners, corners + sides], dim=1)


def random_classes(number: int, width: int, generator: torch.Generator) -> ClassEmbeddings:
    """K classes of no particular names, with one random row of width D each."""
    return ClassEmbeddings.of(torch.randn(number, width, generator=generator), [f"name {k}" for k in range(number)])


def random_photo(height: int, width: int, generator: torch.Generator) -> dict:
    """A test-time input of a detector: a smooth image with a little noise."""
    coarse = torch.rand(1, 3, 8, 8, generator=generator) * 255
    image = F.interpolate(coarse, (height, width), mode="bicubic")[0]
    image = (image + 8 * torch.randn(3, height, width, generator=generator)).clamp(0, 255)
    return {"image": image.to(torch.uint8), "height": height, "width": width}


def random_training_photo(
    height: int, width: int, *, num_classes: int, num_regions: int, embedding_width: int, generator: torch.Generator
) -> dict:
    """A training input of a detector: 7 objects, as COCO has on average, and `num_regions` stored regions."""
    photo = random_photo(height, width, generator)
    objects = Instances((height, width))
    objects.gt_boxes = Boxes(random_boxes(7, height, width, generator))
    objects.gt_classes = torch.randint(num_classes, (7,), generator=generator)
    regions = Instances((height, width))
    regions.proposal_boxes = Boxes(random_boxes(num_regions, height, width, generator))
    regions.teacher_embeddings = F.normalize(torch.randn(num_regions, embedding_width, generator=generator), dim=1)
    return {**photo, "instances": objects, "regions": regions}
