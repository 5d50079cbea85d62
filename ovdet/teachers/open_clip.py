"""Every model of open_clip (CLIP, CoCa, SigLIP, EVA, ...) as a teacher.

Shape letters: R images, T texts, D embedding width.
"""

from __future__ import annotations

import contextlib
import difflib
import json
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from ovdet.device import parse_device
from ovdet.errors import InputError, first_line
from ovdet.offline import offline_where_unreachable
from ovdet.quiet import quiet_libraries
from ovdet.teachers.base import digest
from ovdet.teachers.dual_encoder import DualEncoderTeacher

_SUFFIXES = (".pt", ".pth", ".bin", ".safetensors")
_CLIP_TEMPERATURE = 0.01  # where there is no trained one


class OpenClipTeacher(DualEncoderTeacher):
    """A model of open_clip as a teacher."""

    def __init__(self, source: str, *, device: str | torch.device = "cpu") -> None:
        """
        Args:
            source: "ARCH/TAG", "ARCH@WEIGHTS_FILE" or "ARCH/random", see `load_teacher`.
            device: where it computes.

        Raises:
            InputError: no such architecture or tag, the two do not fit, or the weights cannot be had.
        """
        architecture, tag, file = _parse_source(source)
        self.device = parse_device(device)
        self.name = f"open_clip:{architecture}@{file}" if file else f"open_clip:{architecture}/{tag}"
        self._architecture = architecture
        with (
            quiet_libraries(),
            offline_where_unreachable() if _asks_hub(architecture, tag) else contextlib.nullcontext(),
        ):
            self._model = _create_model(architecture, tag, file).eval().requires_grad_(False).to(self.device)
            self._tokenizer = _create_tokenizer(architecture)
        self._read_model(is_trained=tag != "random")
        if file is not None:
            self.mean, self.std = _usual_colors(architecture) or (self.mean, self.std)

    def _read_model(self, is_trained: bool) -> None:
        import open_clip

        self._config = open_clip.get_model_config(self._architecture)
        self.width: int = self._config["embed_dim"]
        preprocess = open_clip.get_model_preprocess_cfg(self._model)
        size = preprocess["size"]
        self.input_size: tuple[int, int] = (size, size) if isinstance(size, int) else tuple(size)
        self.mean, self.std = tuple(preprocess["mean"]), tuple(preprocess["std"])
        self.temperature = 1 / float(self._model.logit_scale.exp()) if is_trained else _CLIP_TEMPERATURE

    @cached_property
    def fingerprint(self) -> str:
        form = json.dumps([self._config, self.input_size, self.mean, self.std], sort_keys=True)
        parts = [form.encode()]
        for key, value in sorted(self._model.state_dict().items()):
            parts += [key.encode(), value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()]
        return digest(parts)

    def _embed_texts(self, texts: Sequence[str]) -> Tensor:
        return self._model.encode_text(self._tokenizer(texts).to(self.device))

    @staticmethod
    def _embed_images(model: nn.Module, pixels: Tensor) -> Tensor:
        return model.encode_image(pixels)


def _parse_source(source: str) -> tuple[str, str, Path | None]:
    """Parse a source into architecture, pretrained tag ("" for a file) and weights file.

    Raises:
        InputError: no such architecture, tag or file, or a tag that does not fit the architecture.
    """
    import open_clip

    architecture, _, file = source.partition("@")
    tag = ""
    if not file:
        architecture, _, tag = source.rpartition("/") if "/" in source else (source, "", "")
    architecture = architecture.replace("/", "-")  # as open_clip does: ViT-B/32 is ViT-B-32
    known = open_clip.list_models()
    if architecture not in known:
        near = _nearest(architecture, known, "open_clip.list_models()")
        raise InputError(
            f"expected open_clip:ARCH/TAG or open_clip:ARCH@WEIGHTS_FILE, got ARCH {architecture!r}; {near}"
        )
    if file:
        return architecture, "", _check_file(Path(file).expanduser())
    tags = [*open_clip.list_pretrained_tags_by_model(architecture), "random"]
    if tag not in tags:
        near = _nearest(tag, tags, f"open_clip.list_pretrained_tags_by_model({architecture!r})")
        raise InputError(f"expected a pretrained tag of {architecture}, as in open_clip:ARCH/TAG, got {tag!r}; {near}")
    _check_activation(architecture, tag)
    return architecture, tag, None


def _check_activation(architecture: str, tag: str) -> None:
    """Refuse weights trained with QuickGELU where the architecture has GELU, of which open_clip only warns."""
    import open_clip

    needs = open_clip.get_pretrained_cfg(architecture, tag).get("quick_gelu", False)
    if needs and not open_clip.get_model_config(architecture).get("quick_gelu", False):
        fitting = f"{architecture}-quickgelu"
        use = f"; use open_clip:{fitting}/{tag}" if fitting in open_clip.list_models() else ""
        raise InputError(f"expected an architecture with QuickGELU for the weights {tag!r}, got {architecture}{use}")


def _usual_colors(architecture: str) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and standard deviation of most pretrained weights of an architecture; None where there are none.

    open_clip keeps them with the tag, and takes OpenAI's for any file: wrong for a third of the architectures (SigLIP,
    MobileCLIP, ...). Within one they agree but for ViT-L-14, whose tag laion2b_s32b_b82k has others.
    """
    import open_clip
    from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

    tags = open_clip.list_pretrained_tags_by_model(architecture)
    configs = [open_clip.get_pretrained_cfg(architecture, tag) for tag in tags]
    colors = Counter(
        (tuple(config.get("mean") or OPENAI_DATASET_MEAN), tuple(config.get("std") or OPENAI_DATASET_STD))
        for config in configs
    )
    return colors.most_common(1)[0][0] if colors else None


def _nearest(given: str, known: Sequence[str], where: str) -> str:
    by_lower = {name.lower(): name for name in known}
    near = difflib.get_close_matches(given.lower(), by_lower, n=3, cutoff=0.5)
    return f"near ones: {', '.join(by_lower[name] for name in near)}" if near else f"see {where}"


def _check_file(file: Path) -> Path:
    if not file.is_file():
        raise InputError(f"expected a file of open_clip weights, got {file}, which is no file")
    if file.suffix not in _SUFFIXES:
        raise InputError(f"expected weights in one of {', '.join(_SUFFIXES)}, got {file}")
    return file


def _asks_hub(architecture: str, tag: str) -> bool:
    """Whether weights, a tokenizer or a text tower come from the Hugging Face hub."""
    import open_clip

    text = open_clip.get_model_config(architecture).get("text_cfg", {})
    return tag not in ("", "random") or any(key in text for key in ("hf_tokenizer_name", "hf_model_name"))


def _create_model(architecture: str, tag: str, file: Path | None) -> nn.Module:
    import open_clip

    if tag == "random":
        return open_clip.create_model(architecture, pretrained=None, pretrained_text=False)
    try:
        return open_clip.create_model(architecture, pretrained=str(file or tag), weights_only=True)
    except Exception as error:  # whatever the hub's client or a strange file raises
        reason = first_line(error)
        if file:
            raise InputError(
                f"expected the weights of {architecture} in {file}, which do not load: {reason}"
            ) from error
        raise InputError(
            f"could not fetch the weights {tag!r} of {architecture} ({reason}); "
            f"with a file of them at hand, use open_clip:{architecture}@WEIGHTS_FILE"
        ) from error


def _create_tokenizer(architecture: str):
    import open_clip

    try:
        return open_clip.get_tokenizer(architecture)
    except Exception as error:  # some tokenizers come from a hub
        raise InputError(f"could not fetch the tokenizer of {architecture} ({first_line(error)})") from error
