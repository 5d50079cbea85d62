"""Batch norm over all GPUs for heads whose input may be empty: a photo without objects has no masks to learn from."""

from __future__ import annotations

from collections.abc import Callable

from detectron2.layers.batch_norm import NaiveSyncBatchNorm
from torch import Tensor, nn

from ovdet.packable import packable


class SyncBatchNorm(NaiveSyncBatchNorm):
    """detectron2's, each GPU counting as much as it has inputs, in float32 whatever autocast makes of them.

    torch's own would do, but detectron2's convolutions refuse it empty inputs.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, stats_mode="N")

    def forward(self, input: Tensor) -> Tensor:
        """(R, channels, H, W), with the same H and W on all GPUs -> the same shape and type; R may be 0."""
        return super().forward(input.float()).to(input.dtype)


@packable
def sync_batch_norm() -> Callable[[int], nn.Module]:
    """For a config's `conv_norm`, which takes a name or what makes a norm for a number of channels."""
    return SyncBatchNorm
