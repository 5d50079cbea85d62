"""Maps a dataset dict to the detector's input: reads and augments the image, its annotations and stored regions.

Shapes: H, W of the augmented image; M stored regions that remain; D embedding width. Boxes are XYXY float32 in pixels
of the augmented image. The json's boxes refer to the photo as EXIF turns it upright, as detectron2 assumes too.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import detectron2.data.transforms as T
import numpy as np
import torch
from detectron2.data.detection_utils import (
    annotations_to_instances,
    filter_empty_instances,
    transform_instance_annotations,
)
from detectron2.structures import Boxes, Instances
from torch import Tensor

from ovdet.data.images import check_aspect, check_size, read_image
from ovdet.errors import InputError

MIN_SIDE = 1.0  # pixels of the augmented image; a smaller region is dropped
MIN_REMAINING_AREA = 0.5  # of a region after a crop: with less in the picture its stored embedding is of something else


class RegionLookup(Protocol):
    """Regions by image id, as `regions.store.RegionStore` has them."""

    def regions(self, image_id: int | str, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        """-> boxes (S, 4) XYXY in pixels of an image of that size, embeddings (S, D), scores (S,)."""
        ...


class OpenVocabMapper:
    """Reads the image and applies the same augmentations to it, its annotations and its stored regions."""

    def __init__(
        self,
        *,
        is_train: bool,
        augmentations: Sequence[T.Augmentation | T.Transform],
        image_format: str = "BGR",
        use_masks: bool = False,
        region_store: RegionLookup | None = None,
        captions: Callable[[int | str], Tensor] | None = None,
        sentences: Callable[[int | str], tuple[str, Tensor]] | None = None,
        proposals: Callable[[int | str], tuple[Tensor, Tensor]] | None = None,
        max_regions: int = 300,
        keep_original: bool = False,
    ) -> None:
        """Set up.

        Args:
            is_train: make "instances" and "regions"; otherwise the image alone.
            augmentations: detectron2 augmentations, applied in order.
            image_format: channel order of "image", "BGR" or "RGB".
            use_masks: make "gt_masks"; every annotation must then have a segmentation.
            region_store: stored regions, looked up by image id; None makes no "regions".
            captions: image id -> (W, D), the embeddings of a caption's words, see data/captions.py; None makes no
                "caption_words".
            sentences: image id -> a caption and its embedding (D,), "" where there is none, see data/captions.py; None
                makes no "caption" and "caption_embedding".
            proposals: image id -> boxes (R, 4) in pixels of the photo and logits (R,), best first, see
                data/proposal_files.py; None makes no "proposals".
            max_regions: keep at most so many regions, the first ones of the store (ViLD: 300).
            keep_original: add "image_orig".
        """
        self.is_train = is_train
        self.augmentations = T.AugmentationList(list(augmentations))
        self.image_format = image_format
        self.use_masks = use_masks
        self.region_store = region_store
        self.captions = captions
        self.sentences = sentences
        self.proposals = proposals
        self.max_regions = max_regions
        self.keep_original = keep_original

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """Map one image.

        Args:
            dataset_dict: detectron2's dataset dict; it is not changed.

        Returns:
            The dict without "annotations" and with "image" (3, H, W) uint8; with proposals "proposals", Instances with
            `proposal_boxes` (R, 4) and `objectness_logits` (R,); in training "instances" (`gt_boxes`,
            `gt_classes`, perhaps `gt_masks`) and, with a store, "regions": Instances with `proposal_boxes` (M, 4) and
            `teacher_embeddings` (M, D) float32; with captions "caption_words" (W, D) float32; with sentences "caption"
            and "caption_embedding" (D,) float32; with keep_original "image_orig" (3, height, width) uint8 RGB.

        Raises:
            InputError: the photo cannot be read, is far too thin or not of the size that json and store say, or has no
                stored regions.
        """
        dataset_dict = copy.deepcopy(dataset_dict)
        annotations = dataset_dict.pop("annotations", [])
        image = read_image(dataset_dict["file_name"], self.image_format)
        expected = dataset_dict.setdefault("height", image.shape[0]), dataset_dict.setdefault("width", image.shape[1])
        check_size(image.shape[:2], expected, dataset_dict["file_name"])
        check_aspect(*image.shape[:2], photo=dataset_dict["file_name"])
        if self.keep_original:
            rgb = image if self.image_format == "RGB" else image[:, :, ::-1]
            dataset_dict["image_orig"] = _to_tensor(rgb)
        augmented = T.AugInput(image)
        transforms = self.augmentations(augmented)
        size = augmented.image.shape[:2]  # (height, width)
        dataset_dict["image"] = _to_tensor(augmented.image)
        if self.proposals is not None:
            dataset_dict["proposals"] = self._make_proposals(dataset_dict["image_id"], transforms, size)
        if not self.is_train:
            return dataset_dict
        dataset_dict["instances"] = self._make_instances(annotations, transforms, size, dataset_dict["file_name"])
        if self.region_store is not None:
            dataset_dict["regions"] = self._make_regions(dataset_dict["image_id"], transforms, image.shape[:2], size)
        if self.captions is not None:
            dataset_dict["caption_words"] = self.captions(dataset_dict["image_id"])
        if self.sentences is not None:
            dataset_dict["caption"], dataset_dict["caption_embedding"] = self.sentences(dataset_dict["image_id"])
        return dataset_dict

    def _make_instances(
        self, annotations: list[dict[str, Any]], transforms: T.TransformList, size: tuple[int, int], file_name: str
    ) -> Instances:
        annotations = [annotation for annotation in annotations if not annotation.get("iscrowd", 0)]
        if self.use_masks:
            if any("segmentation" not in annotation for annotation in annotations):
                raise InputError(f"expected a segmentation with every annotation to train masks, {file_name} has none")
            annotations = [annotation for annotation in annotations if annotation["segmentation"]]
        else:
            for annotation in annotations:
                annotation.pop("segmentation", None)
        annotations = [transform_instance_annotations(annotation, transforms, size) for annotation in annotations]
        all_polygons = all(isinstance(annotation.get("segmentation", []), list) for annotation in annotations)
        mask_format = "polygon" if all_polygons else "bitmask"
        return filter_empty_instances(self._of_annotations(annotations, size, mask_format))

    def _of_annotations(self, annotations: list[dict[str, Any]], size: tuple[int, int], mask_format: str) -> Instances:
        """Transformed annotations as Instances, the empty ones too."""
        return annotations_to_instances(annotations, size, mask_format=mask_format)

    def _make_proposals(self, image_id: int | str, transforms: T.TransformList, size: tuple[int, int]) -> Instances:
        boxes, logits = self.proposals(image_id)
        boxes, kept = transform_regions(boxes, transforms, size, min_remaining=0.0)
        proposals = Instances(size)
        proposals.proposal_boxes = Boxes(boxes)
        proposals.objectness_logits = logits[kept]
        return proposals

    def _make_regions(
        self, image_id: int | str, transforms: T.TransformList, size_orig: tuple[int, int], size: tuple[int, int]
    ) -> Instances:
        boxes, embeddings, _ = self.region_store.regions(image_id, size_orig)
        boxes, kept = transform_regions(boxes, transforms, size)
        regions = Instances(size)
        regions.proposal_boxes = Boxes(boxes[: self.max_regions])
        regions.teacher_embeddings = embeddings[kept][: self.max_regions]
        return regions


def transform_regions(
    boxes: Tensor, transforms: T.TransformList, size: tuple[int, int], min_remaining: float = MIN_REMAINING_AREA
) -> tuple[Tensor, Tensor]:
    """Transform stored boxes as the image was; drop those that are too small or mostly cropped away.

    Args:
        boxes: (S, 4) XYXY in pixels of the original photo.
        transforms: what the image went through.
        size: (height, width) of the augmented image.
        min_remaining: of a box's area, to be in the picture after a crop.

    Returns:
        (M, 4) float32 boxes, clipped, in the order given, and (S,) bool: which ones remain.
    """
    moved = torch.from_numpy(transforms.apply_box(boxes.numpy().astype(np.float64)).reshape(-1, 4))
    height, width = size
    clipped = torch.minimum(moved.clamp(min=0), torch.tensor([width, height, width, height], dtype=moved.dtype))
    sides = clipped[:, 2:] - clipped[:, :2]
    area = (moved[:, 2:] - moved[:, :2]).prod(dim=1)
    kept = (sides >= MIN_SIDE).all(dim=1) & (sides.prod(dim=1) >= min_remaining * area)
    return clipped[kept].float(), kept


def _to_tensor(image: np.ndarray) -> Tensor:
    """(H, W, 3) -> (3, H, W), memory of its own."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
