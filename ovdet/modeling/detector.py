"""The detectors: detectron2's GeneralizedRCNN with a vocabulary.

Shape letters: K classes of the present vocabulary, D embedding width.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import torch
from detectron2.modeling import GeneralizedRCNN
from detectron2.structures import ImageList, Instances
from detectron2.utils.events import get_event_storage
from torch import Tensor

from ovdet.errors import InputError
from ovdet.memory_format import fast_memory_format

warnings.filterwarnings("ignore", message="torch.meshgrid: in an upcoming release")  # detectron2's anchors


class OpenVocabRCNN(GeneralizedRCNN):
    """GeneralizedRCNN whose classes are a matrix of name embeddings, to be swapped at any time."""

    def __init__(self, *, region_source: Callable[..., list[Instances]] | None = None, **parts) -> None:
        """
        Args:
            region_source: distillation regions for training, see modeling/region_sources.py; None without a teacher.
            parts: what GeneralizedRCNN takes.
        """
        super().__init__(**parts)
        if (region_source is None) != (self.roi_heads.distillation is None):
            raise InputError(
                "expected a region_source with a distillation loss and none without, got "
                f"region_source {region_source} and distillation {self.roi_heads.distillation}"
            )
        self._lay_out()
        self.region_source = region_source
        self.class_names: tuple[str, ...] = ()

    def to(self, *args, **kwargs) -> OpenVocabRCNN:
        """As torch's; the backbone's weights then lie in the order that is fast there."""
        super().to(*args, **kwargs)
        self._lay_out()
        return self

    def _lay_out(self) -> None:
        self._memory_format = fast_memory_format(self.backbone, self.device)
        self.backbone.to(memory_format=self._memory_format)

    def set_vocabulary(
        self,
        names: Sequence[str],
        class_embeddings: Tensor,
        is_base: Sequence[bool] | None = None,
        num_asked: int | None = None,
    ) -> None:
        """Detect these classes from now on.

        Args:
            names: K class names; `pred_classes` index them.
            class_embeddings: (K, D), brought to unit norm.
            is_base: which of them were trained on, where that is known: fused scores weigh base and novel differently.
            num_asked: how many of the first are to be found, None for all; where NMS goes over classes, the others are
                found too, as their boxes take the place of worse ones.

        Raises:
            ValueError: the numbers of names and embeddings differ, or the width is not the model's.
        """
        if len(names) != len(class_embeddings):
            raise ValueError(f"expected one embedding per name, got {len(class_embeddings)} for {len(names)} names")
        base = None if is_base is None else torch.as_tensor(is_base, dtype=torch.bool, device=self.device)
        self.roi_heads.set_vocabulary(class_embeddings.to(self.device), base, num_asked)
        self.class_names = tuple(names)

    def forward(self, batched_inputs: list[dict]) -> list[dict] | dict[str, Tensor]:
        """As detectron2's. In training `regions` of each input, at test time its `image_orig` (see data/mapper.py),
        are used where the method asks for them."""
        if not self.training:
            return self.inference(batched_inputs)
        images = self.preprocess_image(batched_inputs)
        targets = [x["instances"].to(self.device) for x in batched_inputs]
        features = self.backbone(images.tensor)
        proposals, losses = self.proposal_generator(images, features, targets)
        regions = None
        if self.region_source is not None:
            photos = [self._to_rgb(x["image"]) for x in batched_inputs]  # augmented, as the network sees them
            regions = self.region_source(batched_inputs, photos, proposals)
        if self.vis_period > 0 and get_event_storage().iter % self.vis_period == 0:
            self.visualize_training(batched_inputs, proposals)
        _, roi_losses = self.roi_heads(images, features, proposals, targets, regions=regions)
        return {**losses, **roi_losses}

    def preprocess_image(self, batched_inputs: list[dict]) -> ImageList:
        """As detectron2's, in memory in the order in which the backbone is fast."""
        images = super().preprocess_image(batched_inputs)
        images.tensor = images.tensor.contiguous(memory_format=self._memory_format)
        return images

    @torch.no_grad()
    def inference(self, batched_inputs: list[dict], do_postprocess: bool = True) -> list[dict] | list[Instances]:
        """As detectron2's, without `detected_instances`."""
        images = self.preprocess_image(batched_inputs)
        features = self.backbone(images.tensor)
        proposals, _ = self.proposal_generator(images, features, None)
        photos = None
        if self.roi_heads.region_teacher is not None:
            photos = [x["image_orig"] if "image_orig" in x else self._to_rgb(x["image"]) for x in batched_inputs]
            photos = [photo.to(self.device) for photo in photos]
        detections, _ = self.roi_heads(images, features, proposals, None, photos=photos)
        if not do_postprocess:
            return detections
        return self._postprocess(detections, batched_inputs, images.image_sizes)

    def _to_rgb(self, image: Tensor) -> Tensor:
        """(3, H, W) in the network's channel order -> RGB on the model's device."""
        image = image.to(self.device)
        return image.flip(0) if self.input_format == "BGR" else image


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
        self.set_vocabulary(self.training_classes)

    def set_vocabulary(
        self,
        names: Sequence[str],
        class_embeddings: Tensor | None = None,
        is_base: Sequence[bool] | None = None,
        num_asked: int | None = None,
    ) -> None:
        """Report detections as indices into `names` (K); the rest is of no use to a linear classifier."""
        self.class_names = tuple(names)
        index = {name: i for i, name in enumerate(self.class_names)}
        self.output_index = torch.tensor([index.get(name, -1) for name in self.training_classes])

    def forward(self, batched_inputs: list[dict]) -> list[dict] | dict[str, Tensor]:
        """As detectron2's."""
        if self.training and self.class_names != self.training_classes:
            raise ValueError(
                f"expected training on the classifier's {len(self.training_classes)} classes in their order, "
                f"got a vocabulary of {len(self.class_names)}"
            )
        return super().forward(batched_inputs)

    def inference(self, batched_inputs: list[dict]) -> list[dict]:
        """As detectron2's; `pred_classes` index the present vocabulary."""
        outputs = super().inference(batched_inputs)
        for output in outputs:
            instances = output["instances"]
            classes = self.output_index.to(instances.pred_classes.device)[instances.pred_classes]
            instances.pred_classes = classes
            output["instances"] = instances[classes >= 0]
        return outputs
