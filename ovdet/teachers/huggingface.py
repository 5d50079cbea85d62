"""CLIP, ALIGN and SigLIP as transformers has them, by hub id or from a local folder.

Weights are read from safetensors alone, and no code that comes with them is run.

Shape letters: R images, T texts, L tokens of a text, D embedding width.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ovdet.device import parse_device
from ovdet.errors import InputError, first_line
from ovdet.offline import offline_where_unreachable
from ovdet.quiet import quiet_libraries
from ovdet.teachers.base import digest, plain_inference
from ovdet.teachers.dual_encoder import DualEncoderTeacher


@dataclass(frozen=True)
class _TextRule:
    """Tokenizer settings that a family of models was trained with.

    Attributes:
        inputs: of the tokenizer's results, those that the text encoder is given. SigLIP attends to padding too.
        length: L at most; None: as many as the model has positions for.
    """

    inputs: tuple[str, ...] = ("input_ids", "attention_mask")
    length: int | None = None


_FAMILIES = {"clip": _TextRule(), "align": _TextRule(length=64), "siglip": _TextRule(inputs=("input_ids",))}
# what changes embeddings without a trace in the shapes of the weights
_SILENT_SETTINGS = ("hidden_act", "num_attention_heads", "layer_norm_eps")


class HuggingFaceTeacher(DualEncoderTeacher):
    """A CLIP, ALIGN or SigLIP of transformers as a teacher."""

    def __init__(self, source: str, *, device: str | torch.device = "cpu") -> None:
        """
        Args:
            source: an id on the hub, such as "kakaobrain/align-base", or a folder that `save_pretrained` wrote.
            device: where it computes.

        Raises:
            InputError: no such model, another kind of model, or its weights cannot be had.
        """
        self.device = parse_device(device)
        self.name = f"hf:{source}"
        parts = ("AutoModel", "AutoTokenizer", "AutoImageProcessor")
        model, self._tokenizer, image_processor = load_pretrained(source, tuple(_FAMILIES), parts)
        self._model = model.float().eval().requires_grad_(False).to(self.device)
        self._rule = _FAMILIES[model.config.model_type]
        self.mean, self.std, self.input_size = _pixel_rule(image_processor, source)
        self.temperature = _temperature(model)
        with plain_inference(self.device):
            self.width: int = self._embed_texts(["a"]).shape[1]

    @cached_property
    def fingerprint(self) -> str:
        config = self._model.config
        silent = [
            [getattr(part, key, None) for key in _SILENT_SETTINGS]
            for part in (config.text_config, config.vision_config)
        ]
        tokens = self._tokenize(["a photo of two small cats"])["input_ids"].tolist()
        form = [config.model_type, silent, tokens, self.input_size, self.mean, self.std]
        parts = [json.dumps(form).encode()]
        for key, value in sorted(self._model.state_dict().items()):
            if value.is_floating_point():  # the rest are positions and counts
                parts += [key.encode(), value.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()]
        return digest(parts)

    def _embed_texts(self, texts: Sequence[str]) -> Tensor:
        tokens = self._tokenize(texts)
        return _features(
            self._model.get_text_features(**{key: tokens[key].to(self.device) for key in self._rule.inputs})
        )

    @staticmethod
    def _embed_images(model: nn.Module, pixels: Tensor) -> Tensor:
        return _features(model.get_image_features(pixel_values=pixels))

    def _tokenize(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Tokenize, with padding to one length, so that an embedding does not depend on the other texts.

        -> "input_ids" and others, each (T, L).
        """
        length = self._rule.length or self._model.config.text_config.max_position_embeddings
        return self._tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=length, return_tensors="pt"
        )


def _features(output: Any) -> Tensor:
    """Embeddings out of a model's output, which version 5 of transformers wraps."""
    return getattr(output, "pooler_output", output)


def _temperature(model: nn.Module) -> float:
    """The divisor of cosines: ALIGN keeps it, the other families the logarithm of its inverse."""
    return float(model.temperature) if hasattr(model, "temperature") else 1 / float(model.logit_scale.exp())


def load_pretrained(source: str, families: Sequence[str], parts: Sequence[str]) -> list[Any]:
    """Load what transformers' classes of these names (AutoModel, ...) read from a model on the hub or in a folder.

    Args:
        source: its id on the hub, or its folder.
        families: model types that are taken.
        parts: names of classes with a `from_pretrained`. Weights are read from safetensors alone.

    Raises:
        InputError: they cannot be had, or the model is of another family.
    """
    import transformers

    if not source:
        raise InputError('expected hf: and the hub id or folder of a model, got "hf:"')
    folder = Path(source).expanduser()
    is_local = folder.is_dir()
    place = {"pretrained_model_name_or_path": str(folder) if is_local else source, "local_files_only": is_local}
    with quiet_libraries(progress_bars=False), contextlib.nullcontext() if is_local else offline_where_unreachable():
        try:
            family = transformers.AutoConfig.from_pretrained(**place, trust_remote_code=False).model_type
            loaded = []
            for part in parts if family in families else ():
                safely = {"trust_remote_code": False, **({"use_safetensors": True} if "Model" in part else {})}
                loaded.append(getattr(transformers, part).from_pretrained(**place, **safely))
        except Exception as error:  # whatever the hub's client or strange files raise
            raise InputError(
                f"expected hf: and the hub id or folder of a model in safetensors, got {source!r}: {first_line(error)}"
            ) from error
    if family not in families:
        raise InputError(f"expected hf: and a model of {', '.join(families)}, {source!r} is one of {family}")
    return loaded


def _pixel_rule(image_processor: Any, source: str) -> tuple[tuple[float, ...], tuple[float, ...], tuple[int, int]]:
    """An image processor's mean, std and size, measured on a black and a white image.

    Its fields say this in too many ways (ALIGN's rescales by an offset, or not, and may normalize twice).

    Returns:
        mean and std of RGB in [0, 1], and (height, width) of what it makes, in pixels.

    Raises:
        InputError: it makes no images (SigLIP 2 with free sizes).
    """
    from PIL import Image

    images = [Image.new("RGB", (64, 64), (level,) * 3) for level in (0, 255)]
    pixels = image_processor(images=images, return_tensors="pt")["pixel_values"]
    if pixels.dim() != 4:
        raise InputError(f"expected a model of images of one size, {source!r} takes patches {tuple(pixels.shape[1:])}")
    height, width = pixels.shape[2:]
    black, white = pixels[:, :, height // 2, width // 2].double()
    std = 1 / (white - black)
    mean = tuple(round(value, 6) + 0.0 for value in (-black * std).tolist())
    return mean, tuple(round(value, 6) for value in std.tolist()), (height, width)
