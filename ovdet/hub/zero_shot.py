"""One-stage zero-shot detectors of transformers (OWL-ViT, OWLv2, Grounding DINO), called like this project's.

They read names themselves, so their classes need no embeddings: `ClassEmbeddings.texts` says what is asked for. A box
has the name of the row that scores best on it, as in the library's own post-processing. Scores are sigmoids, one for
each row, and comparable whatever else is asked for.

Shape letters: H, W of the photo; S rows of ClassEmbeddings; N boxes of the network; L tokens of a prompt.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from detectron2.config import LazyCall
from detectron2.data import build_detection_test_loader, get_detection_dataset_dicts
from detectron2.structures import Boxes, Instances
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from torch import Tensor, nn

from ovdet.class_embeddings import NEGATIVE, ClassEmbeddings
from ovdet.data.mapper import OpenVocabMapper
from ovdet.engine.options import TrainOptions
from ovdet.errors import InputError
from ovdet.teachers.huggingface import load_pretrained
from ovdet.text.embeddings import TextEmbeddings
from ovdet.text.prompts import fill_template

_TEXTS_AT_ONCE, _ROWS_AT_ONCE = 256, 4096


class Scored(NamedTuple):
    """The output for one photo: boxes (N, 4) as the network has them, and for each the best row and its logit (N,)."""

    boxes: Tensor
    logits: Tensor
    rows: Tensor


class OwlReader:
    """OWL-ViT and OWLv2: embeddings of patches against those of names. A photo is read once for any number of names."""

    template, threshold = "a photo of {article} {}", 0.1

    def __init__(self, model: nn.Module, processor: Any) -> None:
        """
        Args:
            model: transformers' OwlViTForObjectDetection or Owlv2ForObjectDetection.
            processor: its processor.
        """
        self._model, self._processor = model, processor
        self._known: tuple[tuple[str, ...], Tensor | None] = ((), None)  # the last prompts and their embeddings

    def __call__(self, pixels: dict[str, Tensor], prompts: Sequence[str], class_ids: Tensor) -> list[Scored]:
        """Score S prompts on one photo."""
        feature_map = self._model.image_embedder(pixel_values=pixels["pixel_values"])[0]
        features = feature_map.flatten(1, 2)  # (1, N, width)
        scored = []
        for queries in self._embed(tuple(prompts)).split(_ROWS_AT_ONCE):
            logits = self._model.class_predictor(features, queries[None])[0][0]  # (N, rows)
            scored.append(logits.max(1))
        logits, chunks = torch.stack([part.values for part in scored]).max(0)
        rows = torch.stack([part.indices for part in scored]).gather(0, chunks[None])[0] + chunks * _ROWS_AT_ONCE
        return [Scored(self._model.box_predictor(features, feature_map)[0], logits, rows)]

    def _embed(self, prompts: tuple[str, ...]) -> Tensor:
        """(S, width) of texts, which are cut off where the model has no more positions."""
        known, embeddings = self._known
        if known != prompts or embeddings.device != self._model.device:
            length = self._model.config.text_config.max_position_embeddings
            parts = []
            for start in range(0, len(prompts), _TEXTS_AT_ONCE):
                tokens = self._processor.tokenizer(
                    list(prompts[start : start + _TEXTS_AT_ONCE]),
                    **dict(padding="max_length", truncation=True, max_length=length, return_tensors="pt"),
                ).to(self._model.device)
                inputs = {key: tokens[key] for key in ("input_ids", "attention_mask")}
                found = self._model.base_model.get_text_features(**inputs)
                parts.append(getattr(found, "pooler_output", found))  # wrapped since version 5
            embeddings = torch.cat(parts)
            self._known = (prompts, embeddings)
        return embeddings


class GroundingReader:
    """Grounding DINO and MM-Grounding-DINO (LLMDet): names in one text, "cat. dog.", as many as it has room for.

    More names go in several texts, each a pass of the network. A name's logit is the highest of its tokens.
    """

    template, threshold = "{}", 0.25

    def __init__(self, model: nn.Module, processor: Any) -> None:
        """
        Args:
            model: transformers' GroundingDinoForObjectDetection or MMGroundingDinoForObjectDetection.
            processor: its processor.
        """
        self._model, self._tokenizer = model, processor.tokenizer
        self._stop: int = self._tokenizer.convert_tokens_to_ids(".")

    def __call__(self, pixels: dict[str, Tensor], prompts: Sequence[str], class_ids: Tensor) -> list[Scored]:
        """Score S prompts on one photo; negatives compete in every text.

        Raises:
            InputError: a name that the model's words say nothing of, or too long a one.
        """
        given, prompts = prompts, [prompt.replace(".", " ").replace("?", " ") for prompt in prompts]  # these end a name
        lengths = [len(self._tokenizer.tokenize(prompt)) + 1 for prompt in prompts]
        if odd := [name for name, length in zip(given, lengths, strict=True) if length < 2]:
            raise InputError(f"expected names that the detector has words for, got {odd[0]!r}")
        found, room = [], self._model.config.max_text_len - 2  # for the marks of begin and end
        for rows in text_chunks(lengths, class_ids.tolist(), room):
            text = ". ".join(prompts[row] for row in rows) + "."
            tokens = self._tokenizer(text, return_token_type_ids=True, return_tensors="pt").to(self._model.device)
            outputs = self._model(**pixels, **tokens)
            ids = tokens["input_ids"][0]
            is_stop = ids == self._stop
            place = is_stop.cumsum(0)[1:-1]  # of the name that a token is of
            if int(is_stop.sum()) != len(rows):
                raise InputError(f"expected {len(rows)} names that the detector can tell apart, got {text!r}")
            place = torch.where(is_stop[1:-1], len(rows), place)
            logits = outputs.logits[0, :, 1 : len(ids) - 1].float()  # (N, L)
            of_names = logits.new_full((len(logits), len(rows) + 1), -torch.inf)
            of_names.scatter_reduce_(1, place.expand_as(logits), logits, "amax")
            best = of_names[:, :-1].max(1)
            found.append(
                Scored(outputs.pred_boxes[0], best.values, torch.tensor(rows, device=ids.device)[best.indices])
            )
        return found


def text_chunks(lengths: Sequence[int], class_ids: Sequence[int], room: int) -> Iterator[list[int]]:
    """Rows of ClassEmbeddings in texts of at most `room` tokens, in their order; the negatives are in each.

    Args:
        lengths: tokens of each of S rows.
        class_ids: of S rows.
        room: of a text.

    Raises:
        InputError: a row does not fit beside the negatives.
    """
    negatives = [row for row, index in enumerate(class_ids) if index == NEGATIVE]
    room -= sum(lengths[row] for row in negatives)
    rows: list[int] = []
    for row, index in enumerate(class_ids):
        if index == NEGATIVE:
            continue
        if lengths[row] > room:
            raise InputError(
                f"expected names of {max(room, 0)} tokens at most beside the negatives, got {lengths[row]}"
            )
        if sum(lengths[each] for each in rows) + lengths[row] > room:
            yield rows + negatives
            rows = []
        rows.append(row)
    yield rows + negatives


READERS = {
    "owlvit": OwlReader,
    "owlv2": OwlReader,
    "grounding-dino": GroundingReader,
    "mm-grounding-dino": GroundingReader,
}


class ZeroShotDetector(nn.Module):
    """A zero-shot detector of transformers, called like OpenVocabRCNN."""

    input_format = "RGB"

    def __init__(self, source: str, *, template: str | None = None, max_detections: int = 300) -> None:
        """
        Args:
            source: id on the hub, such as "google/owlv2-base-patch16-ensemble", or a folder by `save_pretrained`.
            template: what names go into, see text/prompts.py; None for the family's own.
            max_detections: of a photo.

        Raises:
            InputError: no such model, or one of another kind.
        """
        super().__init__()
        parts = ("AutoModelForZeroShotObjectDetection", "AutoProcessor")
        self.model, self._processor = load_pretrained(source, tuple(READERS), parts)
        self._read = READERS[self.model.config.model_type](self.model, self._processor)
        self.template = self._read.template if template is None else template
        self.default_thresholds = (self._read.threshold, self._read.threshold)
        self.max_detections = max_detections

    def forward(self, batched_inputs: list[dict], *, classes: ClassEmbeddings) -> list[dict]:
        """As OpenVocabRCNN: "image" (3, H, W) uint8, "height" and "width" of the photo -> "instances" in it.

        Raises:
            InputError: classes that are not names alone, or names that the detector cannot read.
        """
        if classes.texts is None or classes.learned is not None:
            raise InputError("expected classes made of names, which this detector reads itself, got others")
        prompts = [fill_template(self.template, text) for text in classes.texts]
        return [{"instances": self._detect(inputs, prompts, classes.class_ids)} for inputs in batched_inputs]

    def _detect(self, inputs: dict, prompts: Sequence[str], class_ids: Tensor) -> Instances:
        image = Image.fromarray(inputs["image"].permute(1, 2, 0).cpu().numpy())
        pixels = self._processor.image_processor(images=image, return_tensors="pt").to(self.model.device)
        parts = zip(*self._read(pixels, prompts, class_ids), strict=True)
        boxes, logits, rows = (torch.cat(part) for part in parts)
        outputs = SimpleNamespace(logits=logits.float()[None, :, None], pred_boxes=boxes.float()[None])
        size = (inputs["height"], inputs["width"])
        post_process = self._processor.image_processor.post_process_object_detection
        (found,) = post_process(outputs, threshold=-1.0, target_sizes=[size])  # boxes in pixels; none left out
        instances = Instances(size)
        instances.pred_boxes, instances.scores = Boxes(found["boxes"]), found["scores"]
        instances.pred_classes = class_ids.to(rows.device)[rows]
        instances.pred_boxes.clip(size)
        instances = instances[(instances.pred_classes != NEGATIVE) & instances.pred_boxes.nonempty()]
        return instances[instances.scores.argsort(descending=True, stable=True)[: self.max_detections]]


class NamesAsTexts:
    """In the place of a NameEmbedder: the detector reads names itself, so a row holds nothing but a 1."""

    teacher_name, fingerprint, width = "", "", 1

    def __call__(self, names: Sequence[str]) -> Tensor:
        """Class names -> (K, 1) ones."""
        return torch.ones(len(names), self.width)

    def known_of(self, names: Sequence[str]) -> tuple[str, ...]:
        """All of them."""
        return tuple(names)

    def imagenet_concepts(self) -> None:
        """None: nobody says what it was trained on."""

    def check(self, embeddings: TextEmbeddings) -> None:
        """Refuse embeddings.

        Raises:
            InputError: always.
        """
        raise InputError("expected names, which this detector reads itself, got a file of embeddings")

    def warm_up(self) -> None:
        """Nothing is to be loaded."""


def zero_shot_config(source: str) -> DictConfig:
    """The config of a zero-shot detector of transformers, which detects and is evaluated.

    Args:
        source: see ZeroShotDetector.
    """
    mapper = LazyCall(OpenVocabMapper)(is_train=False, augmentations=[], image_format="RGB")
    dataset = LazyCall(get_detection_dataset_dicts)(names="", filter_empty=False)
    parts = {
        "model": LazyCall(ZeroShotDetector)(source=source, template=None, max_detections=300),
        "name_embedder": LazyCall(NamesAsTexts)(),
        "dataset": {},
        "dataloader": {"test": LazyCall(build_detection_test_loader)(dataset=dataset, mapper=mapper, num_workers=2)},
        "train": LazyCall(TrainOptions)(output_dir="", init_checkpoint="", device="auto"),
    }
    return OmegaConf.create(parts, flags={"allow_objects": True})
