"""Loading a teacher by its name."""

from __future__ import annotations

import torch

from ovdet.errors import InputError
from ovdet.packable import packable
from ovdet.teachers.base import Teacher

CHOICES = (
    '"conse", "conse:lite0", "open_clip:ARCH/TAG", "open_clip:ARCH@WEIGHTS_FILE", "open_clip:ARCH/random" or "hf:REPO"'
)


@packable
def load_teacher(name: str, device: str | torch.device = "cpu") -> Teacher:
    """Load a teacher.

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
