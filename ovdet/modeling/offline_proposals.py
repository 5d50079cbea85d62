"""Proposals by a network of their own, with its own backbone, colors and weights, beside the detector's (RegionCLIP).

Shape letters: N images, H, W.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.modeling import Backbone
from detectron2.structures import ImageList, Instances
from torch import Tensor, nn

from ovdet.packable import packable


@packable
class OfflineProposals(nn.Module):
    """A backbone and a proposal generator that are not trained any more; the detector's maps are not looked at."""

    def __init__(
        self,
        backbone: Backbone,
        proposal_generator: nn.Module,
        *,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        detector_mean: Sequence[float],
        detector_std: Sequence[float],
        swap_channels: bool,
    ) -> None:
        """
        Args:
            backbone: images -> maps by name.
            proposal_generator: such as detectron2's RPN.
            pixel_mean: of the images that the backbone takes, in its order of channels.
            pixel_std: likewise.
            detector_mean: of the images as the detector passes them on, in its order of channels.
            detector_std: likewise.
            swap_channels: whether one of them takes RGB and the other one BGR.
        """
        super().__init__()
        self.backbone = backbone
        self.proposal_generator = proposal_generator
        self.swap_channels = swap_channels
        colors = dict(
            pixel_mean=pixel_mean, pixel_std=pixel_std, detector_mean=detector_mean, detector_std=detector_std
        )
        for name, value in colors.items():
            self.register_buffer(name, torch.tensor(value).view(-1, 1, 1), persistent=False)
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> OfflineProposals:
        """Do nothing: the network stays as it is in training."""
        return super().train(False)

    @torch.no_grad()
    def forward(
        self, images: ImageList, features: dict[str, Tensor], gt_instances: list[Instances] | None = None
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """Proposals of each image, and no losses."""
        images = self.own_images(images)
        proposals, _ = self.proposal_generator(images, self.backbone(images.tensor), None)
        return proposals, {}

    def own_images(self, images: ImageList) -> ImageList:
        """The detector's normalized images as the own backbone takes them."""
        pixels = [self.normalized(images[index]) for index in range(len(images))]  # without padding
        return ImageList.from_tensors(
            pixels, self.backbone.size_divisibility, padding_constraints=self.backbone.padding_constraints
        )

    def normalized(self, image: Tensor) -> Tensor:
        """(3, H, W) as the detector has it -> as the own backbone takes it."""
        pixels = image * self.detector_std + self.detector_mean
        pixels = pixels.flip(0) if self.swap_channels else pixels
        return (pixels - self.pixel_mean) / self.pixel_std
