"""Average precision per class by the rules of pycocotools and of lvis-api.

hotcoco, written in Rust, matches and accumulates; its precision is equal to theirs to the last bit (the tests hold it).
It is given one image after the other, so masks need not be in memory together, under ids of its own, so any ids do.
Here stands what differs between the protocols: which objects and which detections count.

Shapes: K classes, T = 10 IoU thresholds (0.50, 0.55, ..., 0.95), R = 101 recall levels (0, 0.01, ..., 1), A = 4 ranges
of the object's area (all, under 32^2 pixels, between, over 96^2).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ovdet.data.coco import is_rle_of, usable_segmentation
from ovdet.errors import InputError
from ovdet.evaluation.ground_truth import GroundTruth, check_known

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
LARGEST = 1e5**2  # where both protocols' range "all" of areas ends


@dataclass(frozen=True)
class PerClass:
    """Average precision of each of K classes.

    Attributes:
        figures: each of METRICS -> (K,) float64 in percent; nan for a class without objects (in that range of areas), 0
            for one without detections.
        curves: (R, K) precision at IoU 0.5 and each recall level, 0 to 1; nan as above.
        objects: (K,) number of objects that count.
    """

    figures: dict[str, np.ndarray]
    curves: np.ndarray
    objects: np.ndarray


class CocoAP:
    """Average precision by COCO's rules: each image is annotated for all classes, crowds are ignored.

    PASCAL VOC's AP50 and AP75 come out of it too: COCO's average over 101 recall levels, on a json that marks the
    "difficult" objects as crowds.
    """

    protocol: ClassVar[str] = "COCO: at most {} detections per image and class"
    federated: ClassVar[bool] = False

    def __init__(
        self,
        ground_truth: GroundTruth,
        category_ids: Sequence[int],
        iou_type: str = "bbox",
        *,
        max_detections: int = 100,
        image_ids: Iterable[Any] | None = None,
    ) -> None:
        """Begin an evaluation.

        Args:
            ground_truth: not changed. Annotations without `iscrowd` are ordinary objects, without `area` they have
                their box's.
            category_ids: the K classes, category ids of the json.
            iou_type: "bbox", or "segm" (masks; boxes are then not looked at).
            max_detections: how many count, best first; see `protocol`.
            image_ids: the images that count; None for all of the json.

        Raises:
            InputError: an unknown or repeated class, an unknown image, masks that are not there.
        """
        if iou_type not in ("bbox", "segm"):
            raise ValueError(f"expected iou_type 'bbox' or 'segm', got {iou_type!r}")
        if max_detections < 1:
            raise InputError(f"expected at least 1 detection per image, got {max_detections}")
        if not category_ids or len(set(category_ids)) != len(category_ids):
            raise InputError(f"expected class ids, each once, got {list(category_ids)}")
        check_known(category_ids, ground_truth.names, "class ids of the ground truth, unknown")
        if iou_type == "segm" and not ground_truth.has_masks(category_ids):
            raise InputError("expected ground truth with a segmentation in every annotation to evaluate masks")
        self._truth = ground_truth
        self._iou_type = iou_type
        self._max_detections = max_detections
        self._class_number = {category_id: number for number, category_id in enumerate(category_ids, 1)}
        self._image_number = {image_id: number for number, image_id in enumerate(ground_truth.images, 1)}
        self._left = dict.fromkeys(ground_truth.images if image_ids is None else image_ids)
        check_known(self._left, ground_truth.images, "images of the ground truth, unknown image ids")
        self._objects = np.zeros(len(category_ids), dtype=np.int64)
        self._number = 0  # of the last annotation that the engine got
        from hotcoco import Params, StreamingEval  # not where a config is only read

        parameters = Params(iou_type)
        parameters.max_dets = [max_detections]
        classes = [{"id": number, "name": str(number)} for number in self._class_number.values()]
        self._engine = StreamingEval(classes, iou_type, self.federated, parameters)

    def add(self, detections: Mapping[Any, Sequence[Mapping[str, Any]]]) -> None:
        """Score the detections of some images, each image once.

        Args:
            detections: image id -> COCO results: `category_id`, `score` and `bbox` (XYWH) or `segmentation` (RLE of the
                photo's size). Those of other classes of the json are left out; so are images that do not count.

        Raises:
            InputError: an unknown image or class, a part that lacks, a number that is none.
        """
        check_known(detections, self._truth.images, "detections on images of the ground truth, unknown image ids")
        used = {detection.get("category_id") for found in detections.values() for detection in found}
        check_known(used, self._truth.names, "detections of classes of the ground truth, unknown category ids")
        now = [image_id for image_id in detections if image_id in self._left]
        for image_id in now:
            del self._left[image_id]
        self._feed(now, self._boxes(detections, now) if self._iou_type == "bbox" else self._masks(detections, now))

    def result(self) -> PerClass:
        """The figures over all images; those that were not added count as without detections. Ends the evaluation."""
        self._feed(list(self._left), [])
        engine = self._engine.finalize()
        engine.accumulate()
        precision = np.asarray(engine.eval["precision"])[..., 0]  # (T, R, K, A), -1 without objects
        precision = np.where(precision < 0, np.nan, precision)
        by_threshold = precision.mean(axis=1) * 100  # (T, K, A)
        by_area = by_threshold.mean(axis=0)  # (K, A)
        values = (by_area[:, 0], by_threshold[0, :, 0], by_threshold[5, :, 0], *by_area[:, 1:].T)
        return PerClass(dict(zip(METRICS, values, strict=True)), precision[0, :, :, 0], self._objects)

    def _feed(self, image_ids: Sequence[Any], detections: Any) -> None:
        images = [self._image(self._truth.images[image_id], self._image_number[image_id]) for image_id in image_ids]
        self._engine.update(images, [entry for image_id in image_ids for entry in self._entries(image_id)], detections)

    def _image(self, image: Mapping[str, Any], number: int) -> dict[str, Any]:
        return {"id": number, "height": image.get("height", 0), "width": image.get("width", 0)}

    def _entries(self, image_id: Any) -> Iterator[dict[str, Any]]:
        """The annotations of an image that count, in hotcoco's format."""
        for annotation in self._truth.annotations.get(image_id, ()):
            class_number = self._class_number.get(annotation["category_id"])
            if class_number is None:
                continue
            box, area = annotation["bbox"], annotation.get("area")
            area, iscrowd = self._counted_area(annotation, box[2] * box[3] if area is None else area)
            if area is None:
                continue
            self._number += 1
            self._objects[class_number - 1] += not iscrowd and area <= LARGEST
            entry = {"id": self._number, "image_id": self._image_number[image_id], "category_id": class_number}
            entry.update(bbox=box, area=area, iscrowd=iscrowd)
            if self._iou_type == "segm":
                entry["segmentation"] = self._segmentation(annotation, image_id)
            yield entry

    def _segmentation(self, annotation: Mapping[str, Any], image_id: Any) -> Any:
        named = f"annotation {annotation['id']!r}"
        if not usable_segmentation(annotation["segmentation"], self._truth.images[image_id], named):
            raise InputError(
                f"expected polygons or run lengths that fit the photo to evaluate masks, those of {named} do not"
            )
        return annotation["segmentation"]

    def _counted_area(self, annotation: Mapping[str, Any], area: float) -> tuple[float | None, int]:
        """(area, iscrowd) by which an object counts; an area of None leaves it out."""
        return area, int(annotation.get("iscrowd") or 0)

    def _boxes(self, detections: Mapping[Any, Sequence[Mapping[str, Any]]], image_ids: Sequence[Any]) -> np.ndarray:
        """(N, 7): image, x, y, width, height, score, class."""
        numbers, images = self._class_number, self._image_number
        try:
            rows = [
                (images[image_id], *detection["bbox"], detection["score"], numbers[detection["category_id"]])
                for image_id in image_ids
                for detection in self._select(image_id, detections[image_id])
                if detection["category_id"] in numbers
            ]
        except KeyError as error:
            raise InputError(f"expected detections with bbox and score to evaluate boxes, one has no {error}") from None
        table = np.array(rows, dtype=np.float64).reshape(-1, 7)
        if not np.isfinite(table).all():
            raise InputError("expected finite boxes and scores of detections, got nan or infinity")
        return table

    def _masks(
        self, detections: Mapping[Any, Sequence[Mapping[str, Any]]], image_ids: Sequence[Any]
    ) -> list[dict[str, Any]]:
        """Detections with masks in hotcoco's format, without boxes: an object's area is then its mask's."""
        numbers, images = self._class_number, self._image_number
        try:
            rows = [
                {
                    "image_id": images[image_id],
                    "category_id": numbers[detection["category_id"]],
                    "score": detection["score"],
                    "segmentation": self._mask(detection["segmentation"], image_id),
                }
                for image_id in image_ids
                for detection in self._select(image_id, detections[image_id])
                if detection["category_id"] in numbers
            ]
        except KeyError as error:
            message = "expected detections with a segmentation and a score to evaluate masks"
            raise InputError(f"{message}, one has no {error}") from None
        if not np.isfinite([row["score"] for row in rows]).all():
            raise InputError("expected finite scores of detections, got nan or infinity")
        return rows

    def _mask(self, mask: Mapping[str, Any], image_id: Any) -> Mapping[str, Any]:
        image = self._truth.images[image_id]
        size = [image.get("height"), image.get("width")]
        if not isinstance(mask, Mapping) or list(mask.get("size", ())) != size:
            raise InputError(f"expected masks of {size} pixels on image {image_id}, got {str(mask)[:60]}")
        if not is_rle_of({**mask, "size": size}, *size):
            raise InputError(f"expected masks whose run lengths fill image {image_id}, got {str(mask)[:60]}")
        return mask

    def _select(self, image_id: Any, found: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
        """The detections of an image that count, of all classes."""
        return found


class LvisAP(CocoAP):
    """Average precision by LVIS's federated rules: an image is annotated for some classes only, others do not count.

    A detection counts where its class has an object on the photo or is in the photo's `neg_category_ids`; one that
    finds nothing does not count against classes in `not_exhaustive_category_ids`. Objects and detections without area
    are left out, objects marked `ignore` neither found nor missed. The limit is per image, over all classes that were
    given.
    """

    protocol = "LVIS, federated: at most {} detections per image"
    federated = True

    def _image(self, image: Mapping[str, Any], number: int) -> dict[str, Any]:
        lists = {
            key: [self._class_number[category] for category in image.get(key, ()) if category in self._class_number]
            for key in ("neg_category_ids", "not_exhaustive_category_ids")
        }
        return {**super()._image(image, number), **lists}

    def _counted_area(self, annotation: Mapping[str, Any], area: float) -> tuple[float | None, int]:
        if area <= 0:
            return None, 0
        return (2 * LARGEST if annotation.get("ignore") else area), 0  # beyond all ranges: neither found nor missed

    def _select(self, image_id: Any, found: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
        best = sorted(found, key=lambda detection: -detection["score"])[: self._max_detections]
        # the engine would leave the other classes out too; most are such, and their masks need not be looked at
        annotated = {annotation["category_id"] for annotation in self._truth.annotations.get(image_id, ())}
        annotated.update(self._truth.images[image_id].get("neg_category_ids", ()))
        best = [detection for detection in best if detection["category_id"] in annotated]
        if self._iou_type == "bbox":
            return [detection for detection in best if detection["bbox"][2] * detection["bbox"][3] > 0]
        from hotcoco import mask as rle

        areas = rle.area([detection["segmentation"] for detection in best])
        return [detection for detection, area in zip(best, areas, strict=True) if area > 0]


def average_precision(
    ground_truth: GroundTruth,
    detections: Iterable[Mapping[str, Any]],
    category_ids: Sequence[int],
    iou_type: str = "bbox",
    *,
    protocol: type[CocoAP] = CocoAP,
    max_detections: int = 100,
    image_ids: Iterable[Any] | None = None,
) -> PerClass:
    """Average precision of each class, for detections that are all in memory; see `CocoAP` and `LvisAP`.

    Args:
        ground_truth: what is there.
        detections: COCO results: `image_id`, `category_id`, `score` and `bbox` (XYWH) or `segmentation` (RLE).
        category_ids: the K classes.
        iou_type: "bbox" or "segm".
        protocol: CocoAP or LvisAP.
        max_detections: best first; LVIS has 300.
        image_ids: the images that count; None for all of the json.

    Raises:
        InputError: what does not fit.
    """
    by_image: dict[Any, list[Mapping[str, Any]]] = defaultdict(list)
    for detection in detections:
        by_image[detection["image_id"]].append(detection)
    scorer = protocol(ground_truth, category_ids, iou_type, max_detections=max_detections, image_ids=image_ids)
    scorer.add(by_image)
    return scorer.result()
