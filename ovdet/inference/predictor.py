"""The facade: names once (expensive, remembered), then photos (cheap).

    predictor = OpenVocabPredictor.from_pretrained("ovdet-lite")
    predictor.set_vocabulary(["red kite", "wheel"])
    for detection in predictor("photo.jpg"): ...

Shape letters: H, W of the photo; R detections; K names, S columns of the classifier (see text/columns.py).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path

import numpy as np
import torch
from detectron2.config import instantiate
from detectron2.data import transforms as T
from detectron2.structures import Instances
from PIL import Image
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn
from torchvision.ops import nms

from ovdet.data.images import check_aspect, find_images, read_image, rgb_array
from ovdet.engine.config import override
from ovdet.errors import InputError
from ovdet.hub.find import find_model, open_config
from ovdet.hub.load import load_detector
from ovdet.inference.draw import draw_detections
from ovdet.modeling.acceleration import speed_up
from ovdet.modeling.postprocess import intersection_over_area_filter, nms_per_class
from ovdet.text.columns import NOBODYS, Columns, add_negatives, far_from, lay_out
from ovdet.text.embedder import NameEmbedder
from ovdet.text.embeddings import TextEmbeddings
from ovdet.text.prompts import clean_name
from ovdet.text.vocabulary import Vocabulary

logger = logging.getLogger(__name__)

Photo = str | Path | Image.Image | np.ndarray | Tensor

SAME_OBJECT = 0.5  # IoU of boxes of one name, from its synonyms


@dataclass(frozen=True, eq=False)
class Detections:
    """What was found in one photo, best first.

    Attributes:
        boxes: (R, 4) float32 XYXY, pixels of the photo as given.
        scores: (R,) float32 in [0, 1].
        class_ids: (R,) int64, the names' places in the vocabulary (`OpenVocabPredictor.names`).
        labels: R names out of the vocabulary.
        size: (height, width) of the photo.
        masks: (R, H, W) bool, or None for a detector without masks.
    """

    boxes: np.ndarray
    scores: np.ndarray
    class_ids: np.ndarray
    labels: tuple[str, ...]
    size: tuple[int, int]
    masks: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[dict]:
        """{"box": [x1, y1, x2, y2], "score", "label"} for each, as plain values."""
        for box, score, label in zip(self.boxes.tolist(), self.scores.tolist(), self.labels, strict=True):
            yield {"box": [round(value, 2) for value in box], "score": round(score, 4), "label": label}


class OpenVocabPredictor:
    """A trained detector, what embeds names for it, and how it wants its photos resized.

    Threads may share it as long as none of them sets another vocabulary.
    """

    def __init__(
        self,
        model: nn.Module,
        embed_names: NameEmbedder,
        *,
        resize: T.Augmentation | T.AugmentationList,
        training_classes: Sequence[str] = (),
    ) -> None:
        """
        Args:
            model: in evaluation mode, with `set_vocabulary` (ovdet.modeling.OpenVocabRCNN).
            embed_names: names -> (K, D), in the space that the model was trained in.
            resize: detectron2 augmentation from the photo to the network's input.
            training_classes: names that the model was trained on; fused scores weigh them as base classes.
        """
        self.model = model
        self.embed_names = embed_names
        self.resize = resize
        self.training_classes = tuple(training_classes)
        self.names: tuple[str, ...] = ()
        self._owners = torch.zeros(0, dtype=torch.int64)  # (S,)
        self._has_synonyms = False
        self._thresholds = torch.zeros(0)  # (S,)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path = "ovdet-lite",
        *,
        device: str | None = None,
        compile: bool = False,
        half: bool = False,
    ) -> OpenVocabPredictor:
        """A ready detector.

        Args:
            name: "ovdet-lite", which is part of the package; a model folder; "hf://OWNER/NAME" on the hub; or the
                folder of a training run (see `find_model`).
            device: None takes a GPU where there is one.
            compile: see `speed_up`.
            half: see `speed_up`.

        Raises:
            InputError: there is no such model, or it is damaged.
        """
        return cls.from_config(*find_model(name), device=device, compile=compile, half=half)

    @classmethod
    def from_config(
        cls,
        config_file: str,
        weights: str = "",
        *,
        overrides: Sequence[str] = (),
        device: str | None = None,
        compile: bool = False,
        half: bool = False,
    ) -> OpenVocabPredictor:
        """Build from a config (or the config.yaml of a run) and a checkpoint.

        Args:
            config_file: see `load_config`.
            weights: "" takes the last checkpoint of the config's output folder.
            overrides: `key=value` for the config.
            device: None leaves it to the config, which by default takes a GPU where there is one.
            compile: see `speed_up`.
            half: see `speed_up`.

        Raises:
            InputError: config or checkpoint are not there or do not fit each other.
        """
        config = open_config(config_file, [*overrides, *([override("train.device", str(device))] if device else [])])
        model, embed_names, header = load_detector(config, weights)
        speed_up(model, compile=compile, half=half)
        resize = T.AugmentationList(list(instantiate(config.dataloader.test.mapper.augmentations)))
        return cls(model, embed_names, resize=resize, training_classes=header.get("training_classes", ()))

    def set_vocabulary(
        self, vocabulary: Vocabulary | TextEmbeddings | Sequence[str], *, negatives: Sequence[str] | None = None
    ) -> None:
        """Detect these names from now on. Names that were embedded before cost nothing.

        Args:
            vocabulary: names; a Vocabulary, where the best of a name and its synonyms counts; or ready embeddings.
            negatives: names of other things, for what looks more like them to be left out: a detector that is asked
                for cats alone would else find some in every dog. None takes those classes that the detector was
                trained on and that are unlike all asked names; () takes none: then names that were not trained score
                far lower, as nothing says what a thing looks like.

        Raises:
            InputError: no names, names that are none, or embeddings of another space than the model's.
        """
        if isinstance(vocabulary, TextEmbeddings):
            self.embed_names.check(vocabulary)
            asked = Columns(vocabulary.names, tuple(range(len(vocabulary.names))))
            columns, embeddings = self._columns(asked, vocabulary.matrix, negatives)
        else:
            vocabulary = vocabulary if isinstance(vocabulary, Vocabulary) else Vocabulary(vocabulary)
            asked = lay_out(vocabulary)
            columns, embeddings = self._columns(asked, self.embed_names(asked.texts), negatives)
        names = vocabulary.names
        known = {clean_name(name) for name in self.training_classes}
        is_known = [clean_name(text) in known for text in columns.texts]
        base = {owner for owner, was in zip(columns.owners, is_known, strict=True) if was and owner != NOBODYS}
        is_base = [was or owner in base for owner, was in zip(columns.owners, is_known, strict=True)] if known else None
        num_asked = len(columns.owners) - columns.owners.count(NOBODYS)  # negatives come last
        self.model.set_vocabulary(columns.texts, embeddings, is_base, num_asked)
        self.names = tuple(names)
        self._owners = torch.tensor(columns.owners)
        self._thresholds = torch.tensor([default_threshold(was) for was in is_base or [True] * len(columns.owners)])
        self._has_synonyms = num_asked > len(names)

    def _columns(self, asked: Columns, embeddings: Tensor, negatives: Sequence[str] | None) -> tuple[Columns, Tensor]:
        """What is asked for and its embeddings -> the same with negatives: S columns, (S, D)."""
        if isinstance(negatives, str):
            raise InputError(f"expected the negatives to be a list of names, got {negatives!r}")
        if negatives is None:
            others = self.embed_names.known_of(self.training_classes)
            is_far = far_from(self.embed_names(others).to(embeddings), embeddings) if others else ()
            negatives = [name for name, far in zip(others, is_far, strict=True) if far]
        if not negatives:
            return asked, embeddings
        columns = add_negatives(asked, negatives)
        added = columns.texts[len(asked.texts) :]
        return columns, torch.cat([embeddings, self.embed_names(added).to(embeddings)]) if added else embeddings

    def __call__(
        self,
        image: Photo,
        *,
        threshold: float | None = None,
        overlap: float = 1.0,
        contained: float = 1.0,
        channel_order: str = "BGR",
    ) -> Detections:
        """Detect the vocabulary's names in one photo.

        Args:
            image: a file, which is turned upright where its EXIF data say so; or pixels as they are: a PIL image, an
                array (H, W, 3) of uint8, or a tensor (3, H, W) of uint8 in RGB.
            threshold: leave out detections that score below it; None takes `default_threshold` for each name.
            overlap: of boxes with an IoU above it, whatever their names, keep the best alone; 1 keeps all.
            contained: leave out boxes of which a larger share lies within a better one of their name; 1 keeps all.
            channel_order: of an array: "BGR" as OpenCV reads it, or "RGB".

        Raises:
            InputError: no vocabulary was set, or the photo cannot be used.
        """
        chosen = dict(threshold=threshold, overlap=overlap, contained=contained, channel_order=channel_order)
        return self.detect_batch([image], **chosen)[0]

    def detect_batch(
        self,
        images: Sequence[Photo],
        *,
        threshold: float | None = None,
        overlap: float = 1.0,
        contained: float = 1.0,
        channel_order: str = "BGR",
    ) -> list[Detections]:
        """Detect the vocabulary's names in several photos with one pass of the network.

        Smaller photos are padded to the largest, which moves what is found on them a little; photos of like sizes
        belong together.

        Args:
            images: as for one photo.
            threshold: likewise.
            overlap: likewise.
            contained: likewise.
            channel_order: of all arrays.

        Raises:
            InputError: no vocabulary was set, or a photo cannot be used.
        """
        if isinstance(images, (str, Path, Image.Image)) or (hasattr(images, "ndim") and images.ndim == 3):
            raise InputError("expected a list of photos, got one")
        self._check(threshold, overlap, contained)
        inputs = [self._prepare(to_rgb(image, channel_order)) for image in images]
        if not inputs:
            return []
        with torch.inference_mode():
            outputs = self.model(inputs)
        return [self._finish(output["instances"].to("cpu"), threshold, overlap, contained) for output in outputs]

    def detect_folder(
        self, folder: str | Path, *, threshold: float | None = None, overlap: float = 1.0, contained: float = 1.0
    ) -> Iterator[tuple[Path, Detections]]:
        """Detect the vocabulary's names in the photos of a folder, one after the other, behind a progress bar.

        A photo that cannot be used does not stop the others: a warning in the log names it.

        Args:
            folder: its photos are taken in the order of their names.
            threshold: as for one photo.
            overlap: likewise.
            contained: likewise.

        Raises:
            InputError: no vocabulary was set, the folder has no photos, or none that can be used.
        """
        self._check(threshold, overlap, contained)
        files, failures = find_images(folder), 0
        for file in track(files, "detecting", console=Console(stderr=True)):
            try:
                found = self(file, threshold=threshold, overlap=overlap, contained=contained)
            except InputError as error:
                failures += 1
                if failures == len(files):
                    raise
                logger.warning("left out: %s", error)
            else:
                yield file, found

    def draw(self, image: Photo, detections: Detections, *, channel_order: str = "BGR") -> Image.Image:
        """The photo with what was found in it: boxes (and masks) with names and scores, a color for each name.

        Args:
            image: as it was detected on.
            detections: of it, with the present vocabulary.
            channel_order: of an array.

        Returns:
            RGB; photos with a longest side under 800 pixels are enlarged to it, over 2560 made smaller.

        Raises:
            InputError: the photo cannot be used.
        """
        found, rgb = detections, to_rgb(image, channel_order)
        picture = draw_detections(rgb, found.boxes, found.labels, found.scores, found.masks, self.names)
        return Image.fromarray(picture)

    def _check(self, threshold: float | None, overlap: float, contained: float) -> None:
        if not self.names:
            raise InputError("expected set_vocabulary(names) before the first photo, got a photo")
        for what, value in (("threshold", threshold), ("overlap", overlap), ("contained", contained)):
            if value is not None and not (isinstance(value, Real) and 0 <= value <= 1):
                raise InputError(f"expected a {what} between 0 and 1, got {value!r}")

    def _prepare(self, rgb: np.ndarray) -> dict:
        """(H, W, 3) uint8 RGB -> what the model takes for one photo."""
        height, width = rgb.shape[:2]
        check_aspect(height, width)
        is_bgr = self.model.input_format == "BGR"
        resized = T.AugInput(np.ascontiguousarray(rgb[:, :, ::-1] if is_bgr else rgb))
        self.resize(resized)
        return {
            "image": torch.from_numpy(resized.image.transpose(2, 0, 1).copy()),
            "image_orig": torch.from_numpy(rgb.transpose(2, 0, 1).copy()),
            "height": height,
            "width": width,
        }

    def _finish(self, instances: Instances, threshold: float | None, overlap: float, contained: float) -> Detections:
        """What the model found in one photo -> what the caller asked for of it."""
        owners = self._owners[instances.pred_classes]
        least = self._thresholds[instances.pred_classes] if threshold is None else threshold
        asked = (owners != NOBODYS) & (instances.scores >= least)
        instances, owners = instances[asked], owners[asked]
        if self._has_synonyms:
            found = instances.pred_boxes.tensor, instances.scores, owners
            keep = nms_per_class(*found, SAME_OBJECT, len(owners))
            instances, owners = instances[keep], owners[keep]
        if contained < 1:
            keep = intersection_over_area_filter(instances.pred_boxes.tensor, owners, contained)
            instances, owners = instances[keep], owners[keep]
        if overlap < 1:
            keep = nms(instances.pred_boxes.tensor, instances.scores, overlap)
            instances, owners = instances[keep], owners[keep]
        return Detections(
            boxes=instances.pred_boxes.tensor.float().numpy(),
            scores=instances.scores.float().numpy(),
            class_ids=owners.numpy(),
            labels=tuple(self.names[index] for index in owners.tolist()),
            size=instances.image_size,
            masks=instances.pred_masks.numpy() if instances.has("pred_masks") else None,
        )


def default_threshold(was_trained: bool) -> float:
    """A little below where F1 is best for trained names with `ovdet-lite`, 0.30 to 0.41. Other names score far lower,
    best at 0.03 to 0.09, where most of what is found is wrong (docs/results.md).

    Args:
        was_trained: whether the name is one of the classes that the detector was trained on.
    """
    return 0.25 if was_trained else 0.08


def to_rgb(image: Photo, channel_order: str = "BGR") -> np.ndarray:
    """A file, PIL image, array or tensor -> (H, W, 3) uint8 RGB; see `OpenVocabPredictor.__call__`.

    Raises:
        InputError: unreadable, an array or tensor that is no 8-bit color image, or nothing of these kinds.
    """
    if channel_order not in ("RGB", "BGR"):
        raise InputError(f"expected channel_order RGB or BGR, got {channel_order!r}")
    if isinstance(image, Tensor):
        if image.dim() != 3 or image.shape[0] != 3 or image.dtype != torch.uint8 or image.numel() == 0:
            raise InputError(f"expected a tensor (3, H, W) of uint8, got shape {tuple(image.shape)} of {image.dtype}")
        return image.permute(1, 2, 0).cpu().numpy()
    if isinstance(image, (str, Path)):
        return read_image(image, "RGB")
    if isinstance(image, Image.Image):
        try:
            return rgb_array(image)
        except ValueError as error:
            raise InputError(f"expected a PIL image of 8 or 16 bits, got mode {image.mode}: {error}") from error
        except OSError as error:  # PIL reads the pixels only now
            raise InputError(f"expected a readable image, got a broken one: {error}") from error
    if not isinstance(image, np.ndarray):
        hint = " (cv2.imread's answer to a file that it cannot read)" if image is None else ""
        hint = " (of several photos: detect_batch)" if isinstance(image, (list, tuple)) else hint
        raise InputError(f"expected a file, a PIL image, an array or a tensor, got {type(image).__name__}{hint}")
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise InputError(f"expected an array (H, W, 3) of uint8, got shape {image.shape} of {image.dtype}")
    return image if channel_order == "RGB" else image[:, :, ::-1]
