"""Evaluators for detectron2: average precision of base, novel and all classes, with all names competing."""

from __future__ import annotations

import json
import logging
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Instances
from detectron2.utils import comm

from ovdet.errors import InputError
from ovdet.evaluation.average_precision import CocoAP, LvisAP, PerClass
from ovdet.evaluation.ground_truth import GroundTruth, load_ground_truth
from ovdet.evaluation.predictions import PredictionFile, PredictionReader, PredictionWriter, check_files_shared
from ovdet.evaluation.report import (
    Summary,
    class_csv,
    describe_classes,
    flatten,
    plain_figures,
    summarize_subsets,
    summary_table,
)
from ovdet.files import atomic_write
from ovdet.progress import track

logger = logging.getLogger(__name__)

METRICS_FILE = "metrics.json"
DETECTIONS_FILE = "detections.json"
PER_CLASS_FILE = "per_class.csv"
FREQUENCIES = {"rare": "r", "common": "c", "frequent": "f"}  # the name of the subset, LVIS's letter
LVIS_DETECTIONS = 300  # of a photo that count by LVIS's rules
IMAGES_AT_ONCE = 100  # whose detections are in memory together


class OpenVocabEvaluator(DatasetEvaluator):
    """Computes COCO's AP of a registered dataset for base, novel and all classes; VOC's AP50 and AP75 (see `CocoAP`).

    Every image is searched for all K classes of the dataset's `thing_classes` at once. With base and novel classes
    among them this is the generalized setting, with the novel ones alone (the dataset registered with that subset only)
    the constrained one. Ground truth of other classes (the 15 unused ones of OV-COCO) is neither asked for nor counted.
    An image that was not run counts as one without detections; a warning says how many there are.
    """

    scorer: ClassVar[type[CocoAP]] = CocoAP

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
            output_dir: where to write metrics.json, detections.json (COCO results: original class ids, XYWH in pixels
                of the original image), per_class.csv, precision_recall.png and per_class.png. While the images are run
                it holds the detections of each process; the machines of one run share it. None writes nothing.
            iou_types: "bbox", "segm" or both.
            max_detections: that count, best first: per image and class as COCO's protocol has it.

        Raises:
            InputError: unknown iou_types, or metadata that lacks a part.
        """
        if not iou_types or isinstance(iou_types, str) or set(iou_types) - {"bbox", "segm"}:
            raise InputError(f"expected iou_types out of bbox and segm, got {iou_types!r}")
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
        novel = list(metadata.get("novel_classes", []))  # without any, base is no subset worth a figure of its own
        self.subsets = {"base": list(metadata.get("base_classes", [])) if novel else [], "novel": novel}
        self._json_file: str = metadata.json_file
        self._truth: GroundTruth | None = None  # on the main process
        self._writer: PredictionWriter | None = None
        self._num_images = 0  # that were run, of all processes

    @property
    def setting(self) -> tuple[str, str]:
        """The setting: "generalized" or "constrained", and a description."""
        asked = {subset for subset, of_subset in self.subsets.items() if set(of_subset) & set(self.names)}
        if self.subsets["novel"] and len(asked) == 1:
            return "constrained", f"{asked.pop()} names only"
        return "generalized", "all names compete"

    def reset(self) -> None:
        """Drop all detections; check that the data set can be evaluated and the folder written to."""
        self._forget()
        self._writer = PredictionWriter(self.output_dir)
        check_files_shared(comm.all_gather(self._writer.file()))
        if comm.is_main_process():
            self._truth = self._truth or load_ground_truth(self._json_file)
            self._build_scorers(None)

    def process(self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]) -> None:
        """Write the detections of a batch to this process's prediction file.

        Args:
            inputs: dicts with "image_id".
            outputs: dicts with "instances": `pred_boxes` (XYXY in pixels of the original image), `scores`,
                `pred_classes` (indices into thing_classes) and perhaps `pred_masks`.

        Raises:
            InputError: classes that the dataset has not, masks that are asked for and not there, nan or infinity.
        """
        if self._writer is None:
            self.reset()
        for image, output in zip(inputs, outputs, strict=True):
            instances = output["instances"].to("cpu")
            self._check(instances, image["image_id"])
            found = instances_to_coco_json(instances, image["image_id"])
            for detection in found:
                detection["category_id"] = self.category_ids[detection["category_id"]]
            self._writer.write(image["image_id"], found)

    def _check(self, instances: Instances, image_id: Any) -> None:
        """Refuse outputs that cannot be scored."""
        classes = instances.pred_classes
        if len(classes) and not 0 <= int(classes.min()) <= int(classes.max()) < len(self.names):
            raise InputError(
                f"expected classes 0 to {len(self.names) - 1} as {self.dataset_name!r} has {len(self.names)}, "
                f"got {int(classes.min())} to {int(classes.max())}: set the model's vocabulary to the dataset's"
            )
        if "segm" in self.iou_types and not instances.has("pred_masks"):
            raise InputError("expected a model with masks to evaluate segm, its outputs have no pred_masks")
        if not (instances.scores.isfinite().all() and instances.pred_boxes.tensor.isfinite().all()):
            raise InputError(f"expected finite boxes and scores, the model gave nan or infinity on image {image_id}")

    def evaluate(self, image_ids: Iterable[Any] | None = None) -> OrderedDict[str, dict[str, float]]:
        """Score the detections of all processes, log a table, write the files, drop the detections.

        Args:
            image_ids: evaluate on these images only; None for all.

        Returns:
            On the main process {"bbox": {"AP", "AP50", "AP75", "APs", "APm", "APl" (over all classes), "AP-base",
            "AP50-base", "AP75-base", "AP-novel", ..., "AP-all", ...}, "segm": ...} in percent, nan where there is no
            ground truth; else {}.
        """
        if self._writer is None:
            self.reset()
        files = comm.gather(self._writer.file(), dst=0)
        results: OrderedDict[str, dict[str, float]] = OrderedDict()
        if comm.is_main_process():
            per_class = self._score(files, None if image_ids is None else list(image_ids))
            if per_class:
                results = self._report(per_class)
        comm.synchronize()  # a process that went on could end, and its file with it
        self._forget()
        return results

    def _forget(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _build_scorers(self, image_ids: list[Any] | None) -> dict[str, CocoAP]:
        limits = {"max_detections": self.max_detections, "image_ids": image_ids}
        return {
            iou_type: self.scorer(self._truth, self.category_ids, iou_type, **limits) for iou_type in self.iou_types
        }

    def _score(self, files: Sequence[PredictionFile], image_ids: list[Any] | None) -> dict[str, PerClass]:
        """Write the detections as one file, then score them, a few images at a time -> by iou type."""
        scorers = self._build_scorers(image_ids)
        with PredictionReader(files) as found:
            if self.output_dir is not None:
                found.write_results(self.output_dir / DETECTIONS_FILE)
            if not self._truth.annotations:
                logger.warning("%s: %s has no annotations, nothing to evaluate", self.dataset_name, self._json_file)
                return {}
            images, number = found.image_ids, 0
            for start in track(range(0, len(images), IMAGES_AT_ONCE), "scoring", transient=True):
                detections = {image: found.read(image) for image in images[start : start + IMAGES_AT_ONCE]}
                number += sum(map(len, detections.values()))
                for scorer in scorers.values():
                    scorer.add(detections)
        self._num_images = len(images)
        self._warn(set(images), image_ids, number)
        return {iou_type: scorer.result() for iou_type, scorer in scorers.items()}

    def _warn(self, run: set[Any], image_ids: list[Any] | None, num_detections: int) -> None:
        """Warn of whatever lowers the figures or makes them differ from pycocotools'."""
        evaluated = set(self.category_ids)
        annotated = {
            image_id
            for image_id, of_image in self._truth.annotations.items()
            if any(annotation["category_id"] in evaluated for annotation in of_image)
        }
        counted = annotated if image_ids is None else annotated & set(image_ids)
        missed = len(counted - run)
        if missed:
            logger.warning("%d of %d images with ground truth were not run; they count as missed", missed, len(counted))
        if not num_detections:
            logger.warning("the model detected nothing on %d images; AP is 0", len(run))
        if any(entry.get("id") == 0 for of_image in self._truth.annotations.values() for entry in of_image):
            logger.warning("an annotation has id 0; pycocotools takes it for never found, here it is one like others")
        if self._truth.is_federated and not self.scorer.federated:
            logger.warning("LVIS annotates only some classes per photo; this AP is not LVIS's federated one and lower")

    def _report(self, per_class: Mapping[str, PerClass]) -> OrderedDict[str, dict[str, float]]:
        """Log the tables, write the files -> the results of `evaluate`."""
        subsets = self._subsets()
        setting, words = self.setting
        summaries = {
            iou_type: self._headline(summarize_subsets(found, self.names, subsets))
            for iou_type, found in per_class.items()
        }
        title = setting if setting == "generalized" else f"{setting} ({words})"
        for iou_type, summary in summaries.items():
            logger.info(
                "%s, %s, %s, %d-way:\n%s",
                *(self.dataset_name, iou_type, title, len(self.names), summary_table(summary)),
            )
        if self.output_dir is not None:
            classes = {t: describe_classes(found, self.names, subsets) for t, found in per_class.items()}
            self._write(summaries, classes)
            self._draw(per_class, summaries, subsets)
            logger.info("metrics, detections and plots are in %s", self.output_dir)
        return OrderedDict((iou_type, flatten(summary)) for iou_type, summary in summaries.items())

    def _subsets(self) -> dict[str, list[str]]:
        return self.subsets

    def _headline(self, summary: Summary) -> Summary:
        """The summary with figures that the protocol has a name for."""
        return summary

    def _write(self, summaries: Mapping[str, Summary], classes: Mapping[str, Mapping[str, Any]]) -> None:
        """metrics.json, with the first iou type's figures on top and the other's beside, and per_class.csv."""
        setting, words = self.setting
        first, *others = ({**summary, "per_class": classes[iou_type]} for iou_type, summary in summaries.items())
        content = {
            "dataset": self.dataset_name,
            "setting": setting,
            "vocabulary": len(self.names),
            "images": self._num_images,
            "protocol": f"{self.scorer.protocol.format(self.max_detections)}; {words}",
            "iou_type": self.iou_types[0],
            **first,
            **dict(zip(self.iou_types[1:], others, strict=True)),
        }
        text = json.dumps(plain_figures(content), indent=1) + "\n"
        atomic_write(self.output_dir / METRICS_FILE, text.encode())
        atomic_write(self.output_dir / PER_CLASS_FILE, class_csv(classes).encode())

    def _draw(
        self, per_class: Mapping[str, PerClass], summaries: Mapping[str, Summary], subsets: Mapping[str, list[str]]
    ) -> None:
        """precision_recall.png and per_class.png; a second iou type's are named precision_recall_segm.png, ..."""
        from ovdet.evaluation.plots import draw_per_class, draw_precision_recall  # matplotlib takes a second to import

        setting, _ = self.setting
        for iou_type, found in per_class.items():
            end = "" if iou_type == self.iou_types[0] else f"_{iou_type}"
            title = f"{self.dataset_name}, {iou_type}, {setting}, {len(self.names)}-way"
            curves = draw_precision_recall(found, self.names, subsets, title)
            atomic_write(self.output_dir / f"precision_recall{end}.png", curves)
            atomic_write(self.output_dir / f"per_class{end}.png", draw_per_class(found, self.names, subsets, title))


class OpenVocabLVISEvaluator(OpenVocabEvaluator):
    """Computes LVIS's federated AP, with APr, APc and APf of rare (that is, novel), common and frequent classes.

    The results have "APr", "APc", "APf" too, and metrics.json besides these the subsets "rare", "common", "frequent".
    """

    scorer = LvisAP

    def __init__(
        self,
        dataset_name: str,
        output_dir: str | Path | None = None,
        iou_types: Sequence[str] = ("bbox", "segm"),
        *,
        max_detections: int = LVIS_DETECTIONS,
    ) -> None:
        """As `OpenVocabEvaluator`; `max_detections` are per image, over all classes."""
        super().__init__(dataset_name, output_dir, iou_types, max_detections=max_detections)

    def reset(self) -> None:
        """As `OpenVocabEvaluator`.

        Raises:
            InputError: the json lacks what LVIS has and COCO has not.
        """
        super().reset()
        if self._truth and not (self._truth.is_federated and self._truth.frequencies):
            message = "expected an LVIS json with neg_category_ids of images and frequency of categories"
            raise InputError(f"{message}, {self._json_file} has none")

    def _subsets(self) -> dict[str, list[str]]:
        letters = [self._truth.frequencies.get(category_id) for category_id in self.category_ids]
        by_frequency = {
            subset: [name for name, of_name in zip(self.names, letters, strict=True) if of_name == letter]
            for subset, letter in FREQUENCIES.items()
        }
        return {**self.subsets, **by_frequency}

    def _headline(self, summary: Summary) -> Summary:
        by_frequency = {f"AP{letter}": summary[subset]["AP"] for subset, letter in FREQUENCIES.items()}
        return {**summary, "all": {**summary["all"], **by_frequency}}


def build_evaluator(
    dataset_name: str,
    output_dir: str | Path | None = None,
    iou_types: Sequence[str] = ("bbox",),
    *,
    max_detections: int | None = None,
) -> OpenVocabEvaluator:
    """The evaluator of the dataset's own protocol: LVIS's where its metadata's `evaluator_type` says so, else COCO's.

    Args:
        dataset_name: registered.
        output_dir: see `OpenVocabEvaluator`.
        iou_types: see there.
        max_detections: None for the protocol's: 100 per image and class, LVIS's 300 per image.
    """
    is_lvis = MetadataCatalog.get(dataset_name).get("evaluator_type") in ("lvis", "ovdet_lvis")
    evaluator = OpenVocabLVISEvaluator if is_lvis else OpenVocabEvaluator
    limit = {} if max_detections is None else {"max_detections": max_detections}
    return evaluator(dataset_name, output_dir, iou_types, **limit)
