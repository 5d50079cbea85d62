"""Evaluation of a detector over its whole vocabulary at once, reported for base, novel and all classes."""

from __future__ import annotations

import json
import logging
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.utils import comm
from pycocotools.coco import COCO
from tabulate import tabulate

from ovdet.errors import InputError
from ovdet.evaluation.coco_ap import METRICS, average_precision, load_ground_truth, summarise_subsets
from ovdet.files import write_whole

logger = logging.getLogger(__name__)

RESULTS_FILE = "coco_instances_results.json"
PER_CLASS_FILE = "per_class_ap.json"


class OpenVocabEvaluator(DatasetEvaluator):
    """AP, AP50 and AP75 of a registered dataset for base, novel and all classes.

    The setting is the generalised one: every image is searched for all K classes of the dataset's `thing_classes`, base
    and novel together. Ground truth of other classes (the 15 unused ones of OV-COCO) is neither asked for nor counted.
    An image that was not run counts as one without detections; a warning says how many there are.
    """

    def __init__(
        self,
        dataset_name: str,
        output_dir: str | Path | None = None,
        iou_types: Sequence[str] = ("bbox",),
        *,
        max_detections: int = 100,
    ) -> None:
        """Set up from the dataset's metadata.

        Args:
            dataset_name: registered, with the metadata of `register_coco_subsets`.
            output_dir: where to write the detections (COCO results: original class ids, XYWH) and each class's AP; None
                writes nothing.
            iou_types: "bbox", "segm" or both.
            max_detections: per image and class, best first; COCO's protocol has 100.

        Raises:
            InputError: unknown iou_types, or metadata that lacks a part.
        """
        if not iou_types or set(iou_types) - {"bbox", "segm"}:
            raise InputError(f"expected iou_types out of bbox and segm, got {tuple(iou_types)}")
        metadata = MetadataCatalog.get(dataset_name)
        needed = ("json_file", "thing_classes", "thing_dataset_id_to_contiguous_id")
        missing = [key for key in needed if metadata.get(key) is None]
        if missing:
            raise InputError(f"expected a dataset registered with {', '.join(missing)}, {dataset_name!r} has none")
        self.dataset_name = dataset_name
        self.output_dir = None if output_dir is None else Path(output_dir)
        self.iou_types = tuple(iou_types)
        self.max_detections = max_detections
        self.names: list[str] = list(metadata.thing_classes)
        by_index = {index: category_id for category_id, index in metadata.thing_dataset_id_to_contiguous_id.items()}
        self.category_ids = [by_index[index] for index in range(len(self.names))]
        self.subsets = {"base": metadata.get("base_classes", []), "novel": metadata.get("novel_classes", [])}
        self._json_file: str = metadata.json_file
        self.reset()

    def reset(self) -> None:
        """Forget all detections."""
        self._detections: dict[Any, list[dict[str, Any]]] = {}  # by image id; classes are indices until evaluate()

    def process(self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]) -> None:
        """Keep the detections of a batch.

        Args:
            inputs: dicts with "image_id".
            outputs: dicts with "instances": `pred_boxes` (XYXY in pixels of the original image), `scores`,
                `pred_classes` (indices into thing_classes) and perhaps `pred_masks`.
        """
        for image, output in zip(inputs, outputs, strict=True):
            instances = output["instances"].to("cpu")
            classes = instances.pred_classes
            if len(classes) and not 0 <= int(classes.min()) <= int(classes.max()) < len(self.names):
                raise InputError(
                    f"expected classes 0 to {len(self.names) - 1} as {self.dataset_name!r} has {len(self.names)}, "
                    f"got {int(classes.min())} to {int(classes.max())}: set the model's vocabulary to the dataset's"
                )
            self._detections[image["image_id"]] = instances_to_coco_json(instances, image["image_id"])

    def evaluate(self, image_ids: Iterable[Any] | None = None) -> OrderedDict[str, dict[str, float]]:
        """Gather from all ranks, evaluate, log a table.

        Args:
            image_ids: evaluate on these images only; None for all.

        Returns:
            On the main process {"bbox": {"AP", "AP50", "AP75" (over all classes), "AP-base", "AP50-base", "AP75-base",
            "AP-novel", ..., "AP-all", ...}, "segm": ...} in percent, nan where there is no ground truth; else {}.
        """
        comm.synchronize()
        gathered = comm.gather(self._detections, dst=0)
        if not comm.is_main_process():
            return OrderedDict()
        by_image = {image_id: found for part in gathered for image_id, found in part.items()}
        detections = [
            {**detection, "category_id": self.category_ids[detection["category_id"]]}
            for _, found in sorted(by_image.items(), key=lambda item: str(item[0]))
            for detection in found
        ]
        self._write(RESULTS_FILE, detections)
        ground_truth = load_ground_truth(self._json_file)
        if not ground_truth.dataset.get("annotations"):
            logger.warning("%s: %s has no annotations, nothing to evaluate", self.dataset_name, self._json_file)
            return OrderedDict()
        image_ids = None if image_ids is None else list(image_ids)
        self._warn(ground_truth, by_image, image_ids, len(detections))
        results: OrderedDict[str, dict[str, float]] = OrderedDict()
        per_class_by_type = {}
        for iou_type in self.iou_types:
            per_class = average_precision(
                ground_truth, detections, self.category_ids, iou_type, self.max_detections, image_ids
            )
            summary = summarise_subsets(per_class, self.names, self.subsets)
            per_class_by_type[iou_type] = _by_name(per_class, self.names)
            results[iou_type] = _flatten(summary)
            logger.info(
                "%s, %s, generalised (%d-way):\n%s", self.dataset_name, iou_type, len(self.names), _table(summary)
            )
        self._write(PER_CLASS_FILE, per_class_by_type)
        return results

    def _warn(
        self, ground_truth: COCO, by_image: Mapping[Any, Any], image_ids: list[Any] | None, num_detections: int
    ) -> None:
        """Say what would make the figures look worse than the model is."""
        wanted = set(self.category_ids)
        annotated = {a["image_id"] for a in ground_truth.anns.values() if a["category_id"] in wanted}
        counted = annotated if image_ids is None else annotated & set(image_ids)
        missed = len(counted - set(by_image))
        if missed:
            logger.warning("%d of %d images with ground truth were not run; they count as missed", missed, len(counted))
        if not num_detections:
            logger.warning("the model detected nothing on %d images; AP is 0", len(by_image))
        if 0 in ground_truth.anns:
            logger.warning("an annotation has id 0; pycocotools takes it for undetected, number them from 1")
        if any("neg_category_ids" in image for image in ground_truth.imgs.values()):
            logger.warning("LVIS annotates only some classes per photo; this AP is not LVIS's federated one and lower")

    def _write(self, name: str, content: Any) -> None:
        """Write json into the output folder, whole or not at all."""
        if self.output_dir is not None:
            write_whole(self.output_dir / name, json.dumps(content).encode())


def _flatten(summary: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """{"all": {"AP": 1.0}, "base": ...} -> {"AP": 1.0, "AP-all": 1.0, "AP-base": ...}."""
    flat = {metric: summary["all"][metric] for metric in METRICS}
    for subset, values in summary.items():
        flat.update({f"{metric}-{subset}": values[metric] for metric in METRICS})
    return flat


def _by_name(per_class: Mapping[str, np.ndarray], names: Sequence[str]) -> dict[str, dict[str, float | None]]:
    """{"cat": {"AP": 12.3, ...}}; None (json has no nan) for a class without ground truth."""
    return {
        name: {metric: None if np.isnan(values[k]) else float(values[k]) for metric, values in per_class.items()}
        for k, name in enumerate(names)
    }


def _table(summary: Mapping[str, Mapping[str, float]]) -> str:
    rows = [
        [subset, *(summary[subset][metric] for metric in METRICS), summary[subset]["classes"]]
        for subset in ("base", "novel", "all")
    ]
    return tabulate(rows, headers=["", *METRICS, "classes"], floatfmt=".2f", tablefmt="simple")
