"""The memory format (channels last or contiguous) in which a network's convolutions are fast."""

from __future__ import annotations

import torch
from torch import nn


def fast_memory_format(network: nn.Module, device: torch.device) -> torch.memory_format:
    """Channels last, but where depthwise convolutions run on CUDA.

    Those cuDNN takes over in that order alone, and compiles each anew for every size of input: 0.15 s a layer, over a
    second a photo of a new size (torch 2.11, H100). In the other order torch's own kernels compute them, at once.

    Args:
        network: whose weights and inputs are to be in that order.
        device: where it computes.
    """
    if device.type == "cuda" and any(map(_is_depthwise, network.modules())):
        return torch.contiguous_format
    return torch.channels_last


def _is_depthwise(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and 1 < module.groups == module.in_channels
