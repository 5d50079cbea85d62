"""The detectors: detectron2's GeneralizedRCNN with classes as an argument."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import torch
from detectron2.modeling import GeneralizedRCNN
from detectron2.structures import ImageList, Instances
from detectron2.utils.events import get_event_storage
from torch import Tensor

from ovdet.class_embeddings import NEGATIVE, ClassEmbeddings
from ovdet.errors import InputError
from ovdet.memory_format import fast_memory_format
from ovdet.modeling.region_captions import describe_regions
from ovdet.modeling.region_detection import score_image
from ovdet.modeling.region_embedding import EmbeddedImage, embed_images
from ovdet.objectives.base import TEACHER
from ovdet.packable import packable
from ovdet.text.class_names import normalize_class_name

warnings.filterwarnings("ignore", message="torch.meshgrid: in an upcoming release")  # detectron2's anchors


@packable
class OpenVocabRCNN(GeneralizedRCNN):
    """GeneralizedRCNN that is asked for classes with every call: `model(inputs, classes=classes)`."""

    def __init__(self, *, region_source: Callable[..., list[Instances]] | None = None, **parts) -> None:
        """
        Args:
            region_source: regions that the teacher saw, for training, see modeling/region_sources.py; given where an
                objective of the ROI heads needs the teacher, else None.
            parts: what GeneralizedRCNN takes.
        """
        super().__init__(**parts)
        if (region_source is not None) != (TEACHER in self.roi_heads.needs):
            names = ", ".join(type(each).__name__ for each in self.roi_heads.objectives) or "none"
            raise InputError(
                "expected a region_source with an objective that needs the teacher and none without, got "
                f"region_source {region_source} and objectives {names}"
            )
        self._lay_out()
        self.region_source = region_source

    @property
    def default_thresholds(self) -> tuple[float, float] | None:
        """The default lowest scores to show of trained and other names where they are calibrated, else None."""
        calibration = self.roi_heads.calibration
        return None if calibration is None else calibration.thresholds

    def to(self, *args, **kwargs) -> OpenVocabRCNN:
        """As torch's; the backbone's weights then lie in the order that is fast there."""
        super().to(*args, **kwargs)
        self._lay_out()
        return self

    def _lay_out(self) -> None:
        self.memory_format = fast_memory_format(self.backbone, self.device)
        self.backbone.to(memory_format=self.memory_format)

    @property
    def has_masks(self) -> bool:
        """Whether detections come with masks."""
        return self.roi_heads.mask_on

    def forward(
        self, batched_inputs: list[dict], *, classes: ClassEmbeddings, mask_thresholds: Tensor | None = None
    ) -> list[dict] | dict[str, Tensor]:
        """detectron2's losses in training, its list of {"instances"} at test time.

        Args:
            batched_inputs: as detectron2's. In training `regions` of each input, at test time its `image_orig` (see
                data/mapper.py), are used where the method asks for them.
            classes: what is asked for; `pred_classes` are indices into its names.
            mask_thresholds: (K,) the lowest score of each name from which on a detection gets a mask at test time, in a
                detector that has masks; those below get an empty one, as nobody looks at them. None: all get theirs.
        """
        if not self.training:
            return self.inference(batched_inputs, classes=classes, mask_thresholds=mask_thresholds)
        classes = classes.to(self.device)
        images = self.preprocess_image(batched_inputs)
        targets = [x["instances"].to(self.device) for x in batched_inputs]
        features = self.backbone(images.tensor)
        proposals, losses = self._proposals(batched_inputs, images, features, targets)
        regions = None
        if self.region_source is not None:
            photos = [self._to_rgb(x["image"]) for x in batched_inputs]  # augmented, as the network sees them
            regions = self.region_source(batched_inputs, photos, proposals)
        if self.vis_period > 0 and get_event_storage().iter % self.vis_period == 0:
            self.visualize_training(batched_inputs, proposals)
        words = captions = None
        if all("caption_words" in x for x in batched_inputs):
            words = [x["caption_words"].to(self.device) for x in batched_inputs]
        if all("caption" in x for x in batched_inputs):
            captions = [(x["caption"], x["caption_embedding"].to(self.device)) for x in batched_inputs]
        given = dict(classes=classes, regions=regions, words=words, captions=captions)
        _, roi_losses = self.roi_heads(images, features, proposals, targets, **given)
        return {**losses, **roi_losses}

    def preprocess_image(self, batched_inputs: list[dict]) -> ImageList:
        """As detectron2's, in memory in the order in which the backbone is fast."""
        images = super().preprocess_image(batched_inputs)
        images.tensor = images.tensor.contiguous(memory_format=self.memory_format)
        return images

    @torch.no_grad()
    def inference(
        self,
        batched_inputs: list[dict],
        *,
        classes: ClassEmbeddings,
        mask_thresholds: Tensor | None = None,
        do_postprocess: bool = True,
    ) -> list[dict] | list[Instances]:
        """As detectron2's, without `detected_instances`; masks see `forward`."""
        classes = classes.to(self.device)
        images, features, proposals, photos = self._propose(batched_inputs)
        given = dict(classes=classes, photos=photos, mask_thresholds=mask_thresholds)
        detections, _ = self.roi_heads(images, features, proposals, None, **given)
        if not do_postprocess:
            return detections
        return self._postprocess(detections, batched_inputs, images.image_sizes)

    @torch.no_grad()
    def embed_images(self, batched_inputs: list[dict]) -> list[EmbeddedImage]:
        """All of a detection that does not hang on the classes, for `score_images`: most of the time goes here."""
        _, features, proposals, photos = self._propose(batched_inputs)
        return embed_images(self.roi_heads, features, proposals, photos)

    @torch.no_grad()
    def score_images(
        self, seen: Sequence[EmbeddedImage], sizes: Sequence[tuple[int, int]], *, classes: ClassEmbeddings
    ) -> list[dict]:
        """Detections as of `inference`, but for masks, which would need the network's maps.

        Args:
            seen: of `embed_images`.
            sizes: (height, width) of each image as it was given.
            classes: what is asked for.
        """
        classes = classes.to(self.device)
        detections = [score_image(self.roi_heads, each, classes) for each in seen]
        given = [{"height": height, "width": width} for height, width in sizes]
        return self._postprocess(detections, given, [each.image_size for each in seen])

    @torch.no_grad()
    def describe(
        self, batched_inputs: list[dict], *, max_regions: int, nms_threshold: float
    ) -> list[tuple[Instances, list[str]]]:
        """Texts on the most object-like regions of each image, see `describe_regions`; boxes in pixels as it was given.

        `text_ids` are indices into the texts.
        """
        images, features, proposals, _ = self._propose(batched_inputs)
        limits = dict(max_regions=max_regions, nms_threshold=nms_threshold)
        found = describe_regions(self.roi_heads, features, proposals, **limits)
        outputs = self._postprocess([each for each, _ in found], batched_inputs, images.image_sizes)
        return [(output["instances"], texts) for output, (_, texts) in zip(outputs, found, strict=True)]

    def _propose(
        self, batched_inputs: list[dict]
    ) -> tuple[ImageList, dict[str, Tensor], list[Instances], list[Tensor] | None]:
        """Images, their maps, proposals, and photos where a region_teacher wants them."""
        images = self.preprocess_image(batched_inputs)
        features = self.backbone(images.tensor)
        proposals, _ = self._proposals(batched_inputs, images, features, None)
        photos = None
        if self.roi_heads.region_teacher is not None:
            photos = [x["image_orig"] if "image_orig" in x else self._to_rgb(x["image"]) for x in batched_inputs]
            photos = [photo.to(self.device) for photo in photos]
        return images, features, proposals, photos

    def _proposals(
        self,
        batched_inputs: list[dict],
        images: ImageList,
        features: dict[str, Tensor],
        targets: list[Instances] | None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """By the generator, with its losses; else those that the inputs bring, as in detectron2."""
        if self.proposal_generator is not None:
            return self.proposal_generator(images, features, targets)
        if not all("proposals" in each for each in batched_inputs):
            raise InputError(
                "expected precomputed proposals of each photo, got none: this detector makes none of its own and is "
                "evaluated with a file of them (dataloader.test.mapper.proposals)"
            )
        return [each["proposals"].to(self.device) for each in batched_inputs], {}

    def _to_rgb(self, image: Tensor) -> Tensor:
        """(3, H, W) in the network's channel order -> RGB on the model's device."""
        image = image.to(self.device)
        return image.flip(0) if self.input_format == "BGR" else image


@packable
class ClosedSetRCNN(GeneralizedRCNN):
    """The supervised baseline: a linear classifier over the classes it was trained on, judged on any vocabulary.

    Names that it was not trained on are never detected.
    """

    def __init__(self, *, training_classes: Sequence[str], **parts) -> None:
        """
        Args:
            training_classes: in the order of the classifier's outputs.
            parts: what GeneralizedRCNN takes.
        """
        super().__init__(**parts)
        self.training_classes = tuple(training_classes)
        if len(self.training_classes) != self.roi_heads.num_classes:
            raise InputError(
                f"expected a classifier of {len(self.training_classes)} classes as the training set has, "
                f"got one of {self.roi_heads.num_classes}: set dataset.num_base"
            )

    def forward(self, batched_inputs: list[dict], *, classes: ClassEmbeddings) -> list[dict] | dict[str, Tensor]:
        """As detectron2's; `pred_classes` are indices into `classes.names`, other classes are left out."""
        if not self.training:
            return self.inference(batched_inputs, classes=classes)
        if classes.names != self.training_classes:
            raise ValueError(
                f"expected training on the classifier's {len(self.training_classes)} classes in their order, "
                f"got {len(classes.names)} classes"
            )
        return super().forward(batched_inputs)

    def inference(self, batched_inputs: list[dict], *, classes: ClassEmbeddings) -> list[dict]:
        """As detectron2's, see forward."""
        index = {normalize_class_name(name): i for i, name in enumerate(classes.names)}
        for text, i in zip(classes.texts or (), classes.class_ids.tolist(), strict=False):  # synonyms, too
            if i != NEGATIVE:
                index.setdefault(normalize_class_name(text), i)
        known = [index.get(normalize_class_name(name), NEGATIVE) for name in self.training_classes]
        class_of_output = torch.tensor(known, device=self.device)
        outputs = super().inference(batched_inputs)
        for output in outputs:
            instances = output["instances"]
            instances.pred_classes = class_of_output[instances.pred_classes]
            output["instances"] = instances[instances.pred_classes != NEGATIVE]
        return outputs
