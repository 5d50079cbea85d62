"""The box head of detectors on one map of stride 16 ("C4"): a ResNet's last stage on each region.

Shape letters: R regions over all images, C channels of the map, P pooled side, F region features.
"""

from __future__ import annotations

from detectron2.modeling.backbone.resnet import BottleneckBlock, ResNet
from torch import Tensor, nn

from ovdet.packable import packable


@packable
class Res5BoxHead(nn.Module):
    """ResNet-50's fifth stage and the mean over what it gives, as detectron2's Res5ROIHeads does it."""

    def __init__(
        self,
        *,
        in_channels: int = 1024,
        out_channels: int = 2048,
        num_blocks: int = 3,
        norm: str = "FrozenBN",
        stride_in_1x1: bool = True,
    ) -> None:
        """
        Args:
            in_channels: C.
            out_channels: F.
            num_blocks: of the stage; the first has stride 2.
            norm: see detectron2's `get_norm`.
            stride_in_1x1: whether the stride is in the first convolution of a block, as in MSRA's weights.
        """
        super().__init__()
        blocks = ResNet.make_stage(
            BottleneckBlock,
            num_blocks,
            stride_per_block=[2] + [1] * (num_blocks - 1),
            in_channels=in_channels,
            bottleneck_channels=out_channels // 4,
            out_channels=out_channels,
            norm=norm,
            stride_in_1x1=stride_in_1x1,
        )
        self.res5 = nn.Sequential(*blocks)

    def stage(self, pooled: Tensor) -> Tensor:
        """(R, C, P, P) -> (R, F, P / 2, P / 2), what masks are read off, too."""
        return self.res5(pooled)

    def forward(self, pooled: Tensor) -> Tensor:
        """(R, C, P, P) -> (R, F)."""
        return self.stage(pooled).mean(dim=(2, 3))
