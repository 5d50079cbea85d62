"""Dual-encoder teachers (an image and a text tower), whichever library they come from.

Shape letters: R images, T texts, D embedding width.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovdet.device import parse_device
from ovdet.teachers.base import check_pixels, plain_inference

_HALF = {"cuda": torch.float16}  # bfloat16 has three bits less, and on CPUs it is slower than float32 without AMX
_LOWEST_COSINE = 0.999
_TEXT_BATCH = 256


class DualEncoderTeacher(ABC):
    """Base class of dual-encoder teachers: float32, but images on GPUs in float16 where that changes nothing.

    Subclasses set `width`, `input_size`, `device` and `_model`, and say how it embeds.
    """

    width: int
    input_size: tuple[int, int]
    device: torch.device
    _model: nn.Module

    @abstractmethod
    def _embed_texts(self, texts: Sequence[str]) -> Tensor:
        """T texts, 1 or more -> (T, D), not normalized."""

    @staticmethod
    @abstractmethod
    def _embed_images(model: nn.Module, pixels: Tensor) -> Tensor:
        """`_model` or its copy, (R, 3, H, W) of the model's type -> (R, D), not normalized."""

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """T texts -> (T, D) float32, unit norm."""
        texts = list(texts)
        parts = [torch.zeros(0, self.width, device=self.device)]
        with plain_inference(self.device):
            for start in range(0, len(texts), _TEXT_BATCH):
                parts.append(F.normalize(self._embed_texts(texts[start : start + _TEXT_BATCH]).float(), dim=-1))
            embeddings = torch.cat(parts)
        return embeddings.clone()

    def encode_image(self, pixels: Tensor) -> Tensor:
        """(R, 3, H, W), normalized -> (R, D) float32, unit norm."""
        check_pixels(pixels, self.input_size)
        if len(pixels) == 0:
            return torch.zeros(0, self.width, device=self.device)
        model = self._image_model
        pixels = pixels.to(self.device, next(model.parameters()).dtype)
        with plain_inference(self.device):
            embeddings = F.normalize(self._embed_images(model, pixels).float(), dim=-1)
        return embeddings.clone()

    def to(self, device: str | torch.device) -> DualEncoderTeacher:
        self.device = parse_device(device)
        self._model.to(self.device)
        self.__dict__.pop("_image_model", None)  # chosen anew there
        return self

    @cached_property
    @torch.inference_mode(False)
    def _image_model(self) -> nn.Module:
        return image_network(self._model, self._embed_images, self.input_size, self.device)


def image_network(
    model: nn.Module, encode: Callable[[nn.Module, Tensor], Tensor], input_size: tuple[int, int], device: torch.device
) -> nn.Module:
    """The network that embeds images: on GPUs a float16 copy, unless float16 overflows or changes embeddings.

    One fingerprint stands for both.

    Args:
        model: of float32, on the device.
        encode: such a model, pixels (R, 3, *input_size) of its type -> (R, D), not normalized.
        input_size: (height, width) in pixels.
        device: where it computes.

    Returns:
        The model itself on other devices, and where the cosine of a test picture falls below 0.999. The copy has the
        text tower too, as each model has its own way of embedding images; that costs memory and no time.
    """
    if device.type not in _HALF:
        return model
    half = copy.deepcopy(model).to(_HALF[device.type])
    coarse = torch.randn(4, 3, 7, 7, generator=torch.Generator().manual_seed(0)).to(device)
    with plain_inference(device):
        pictures = F.interpolate(coarse, input_size, mode="bicubic")
        exact = encode(model, pictures).float()
        rounded = encode(half, pictures.to(_HALF[device.type])).float()
        is_near = bool((F.cosine_similarity(exact, rounded) >= _LOWEST_COSINE).all())  # NaN is not above it
    return half if is_near else model
