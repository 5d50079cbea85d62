"""The protocol of a teacher, and what its implementations share.

A teacher is an image-level vision-language model: it embeds whole images and texts into one space of unit vectors.

Shape letters: R images (crops of regions), T texts, D embedding width, H x W pixels.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from ovdet.errors import InputError


@runtime_checkable
class Teacher(Protocol):
    """An image-level vision-language model with one space for images and texts; attributes are read-only.

    Attributes:
        name: what `load_teacher` takes to get it again.
        width: D.
        input_size: (height, width) in pixels of what `encode_image` takes.
        mean: of RGB in [0, 1].
        std: of RGB in [0, 1].
        temperature: divides the cosines of a zero-shot softmax.
        device: where it computes and where its embeddings are.
        fingerprint: 16 hex digits; two teachers with the same one give the same embeddings up to rounding.
    """

    name: str
    width: int
    input_size: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    temperature: float
    device: torch.device

    @property
    def fingerprint(self) -> str: ...

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """T texts -> (T, D) float32, unit norm, without gradient; T may be 0."""
        ...

    def encode_image(self, pixels: Tensor) -> Tensor:
        """(R, 3, H, W), normalized by `mean` and `std` -> (R, D) float32, unit norm, without gradient; R may be 0."""
        ...

    def to(self, device: str | torch.device) -> Teacher:
        """Move it there; returns itself."""
        ...


@contextlib.contextmanager
def plain_inference(device: torch.device) -> Iterator[None]:
    """Inference in full float32, whatever precision the caller has set: no gradients, no autocast, no TF32."""
    with torch.inference_mode(), torch.autocast(device.type, enabled=False), _without_tf32():
        yield


@contextlib.contextmanager
def _without_tf32() -> Iterator[None]:
    """Turn off TF32, in which cuDNN computes float32 convolutions by default with a mantissa of ten bits."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    is_new = hasattr(cudnn, "conv")
    places, name = ((cudnn.conv, matmul), "fp32_precision") if is_new else ((cudnn, matmul), "allow_tf32")
    before = [getattr(place, name) for place in places]
    for place in places:
        setattr(place, name, "ieee" if is_new else False)
    try:
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            setattr(place, name, value)


def check_pixels(pixels: Tensor, input_size: tuple[int, int]) -> None:
    """Refuse what is not a float (R, 3, *input_size)."""
    expected = (3, *input_size)
    if pixels.dim() != 4 or tuple(pixels.shape[1:]) != expected or not pixels.is_floating_point():
        got = f"{pixels.dtype} {tuple(pixels.shape)}"
        raise InputError(f"expected float pixels of shape (R, {', '.join(map(str, expected))}), got {got}")


def digest(parts: Iterable[bytes]) -> str:
    """16 hex digits of a sha256; each part is preceded by its length."""
    total = hashlib.sha256()
    for part in parts:
        total.update(len(part).to_bytes(8, "little"))
        total.update(part)
    return total.hexdigest()[:16]
