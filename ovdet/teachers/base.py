"""What a teacher is, and how one is loaded by name.

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

CHOICES = (
    '"conse", "conse:lite0", "open_clip:ARCH/TAG", "open_clip:ARCH@WEIGHTS_FILE", "open_clip:ARCH/random" or "hf:REPO"'
)


@runtime_checkable
class Teacher(Protocol):
    """Attributes are read-only.

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
        """(R, 3, H, W), normalised by `mean` and `std` -> (R, D) float32, unit norm, without gradient; R may be 0."""
        ...

    def to(self, device: str | torch.device) -> Teacher:
        """Move it there; returns itself."""
        ...


def load_teacher(name: str, device: str | torch.device = "cpu") -> Teacher:
    """A teacher by its name.

    Args:
        name: one of
            "conse": the embedded one, EfficientNet-Lite2 at 260 px (see conse.py); "conse:lite0": Lite0 at 224 px;
            "open_clip:ARCH/TAG": open_clip's architecture and pretrained tag, such as
                "open_clip:ViT-B-32-quickgelu/openai";
            "open_clip:ARCH@WEIGHTS_FILE": that architecture with weights from a file (.pt, .pth, .bin, .safetensors);
            "open_clip:ARCH/random": untrained, for tests;
            "hf:REPO": CLIP, ALIGN or SigLIP by transformers, by its id on the hub, e.g. "hf:kakaobrain/align-base", or
            a local folder.
        device: where it computes.

    Raises:
        InputError: no such teacher, or its weights cannot be had.
    """
    kind, _, rest = str(name).partition(":")
    if kind == "conse":
        from ovdet.teachers.conse import ConseTeacher

        return ConseTeacher(_conse_variant(name, rest), device=device)
    if kind == "open_clip":
        from ovdet.teachers.open_clip import OpenClipTeacher

        return OpenClipTeacher(rest, device=device)
    if kind == "hf":
        from ovdet.teachers.huggingface import HuggingFaceTeacher

        return HuggingFaceTeacher(rest, device=device)
    raise InputError(f"expected a teacher, {CHOICES}, got {name!r}")


def _conse_variant(name: str, rest: str) -> int:
    variants = {"conse": 2, "conse:lite0": 0, "conse:lite2": 2}
    if name not in variants:
        raise InputError(f"expected one of {', '.join(variants)}, got {name!r}")
    return variants[name]


def parse_device(device: str | torch.device) -> torch.device:
    """A device that is here.

    Raises:
        InputError: not a device's name, or none that torch can compute on here.
    """
    try:
        parsed = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise InputError(f"expected a device such as cpu or cuda:0, got {device!r}") from error
    if parsed.type == "cuda" and not (parsed.index or 0) < (here := torch.cuda.device_count()):
        raise InputError(f"expected one of the {here} CUDA devices here{'' if here else ', or cpu'}, got {device!r}")
    if parsed.type not in ("cpu", "cuda"):  # to touch a GPU costs memory in every process that asks
        try:
            torch.zeros(1, device=parsed).item()
        except Exception as error:  # each kind of device fails in its own way
            raise InputError(f"expected a device that torch has here, such as cpu, got {device!r}") from error
    return parsed


@contextlib.contextmanager
def plain_inference(device: torch.device) -> Iterator[None]:
    """No gradients, and nothing of the caller's precision: embeddings do not depend on who asks for them."""
    with torch.inference_mode(), torch.autocast(device.type, enabled=False), _without_tf32():
        yield


@contextlib.contextmanager
def _without_tf32() -> Iterator[None]:
    """cuDNN by itself rounds what float32 convolutions take to ten bits, as float16 would; matrix products where the
    program asked for it."""
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
