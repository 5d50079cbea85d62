"""Thresholds for classes, written beside them: from the detections of an evaluation, or from scores alone.

Shape letters: K classes.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog

from ovdet.class_embeddings import ClassEmbeddings
from ovdet.evaluation.evaluator import DETECTIONS_FILE
from ovdet.evaluation.ground_truth import load_ground_truth
from ovdet.evaluation.thresholds import suggest_thresholds, suggestions_csv, threshold_between
from ovdet.files import atomic_write, check_place
from ovdet.inference.predictor import OpenVocabPredictor
from ovdet.learning.classes_file import save_classes

logger = logging.getLogger(__name__)

THRESHOLDS_FILE, CLASSES_FILE = "thresholds.csv", "classes.safetensors"
_BEST = 5  # scores of a class and photo that thresholds are guessed from


def write_thresholds(
    output: str | Path, dataset_name: str, classes: ClassEmbeddings, detector: str, precision: float | None
) -> None:
    """Write thresholds.csv, and classes.safetensors with the thresholds, from the detections of an evaluation.

    Args:
        output: of the evaluation.
        dataset_name: registered; its photos count.
        classes: that were asked for.
        detector: fingerprint of the detector.
        precision: see `choose_threshold`.
    """
    metadata = MetadataCatalog.get(dataset_name)
    truth = load_ground_truth(metadata.json_file)
    run = {record["image_id"] for record in DatasetCatalog.get(dataset_name)}
    truth = replace(truth, images={key: image for key, image in truth.images.items() if key in run})
    ids = {index: category_id for category_id, index in metadata.thing_dataset_id_to_contiguous_id.items()}
    detections = json.loads((Path(output) / DETECTIONS_FILE).read_bytes())
    suggestions = suggest_thresholds(truth, detections, [ids[k] for k in range(len(ids))], precision=precision)
    atomic_write(Path(output) / THRESHOLDS_FILE, suggestions_csv(classes.names, suggestions).encode())
    pairs = zip(classes.names, suggestions, strict=True)
    thresholds = {name: each.threshold for name, each in pairs if not math.isnan(each.threshold)}
    save_classes(Path(output) / CLASSES_FILE, classes.with_thresholds(thresholds, detector))
    logger.info("%d of %d thresholds are in %s", len(thresholds), len(ids), Path(output) / CLASSES_FILE)


def suggest_without_labels(
    predictor: OpenVocabPredictor, images: str | Path, classes: ClassEmbeddings, output: str | Path
) -> dict[str, float]:
    """Suggest a threshold for each class from its scores alone, and write it: a guess, where nobody has drawn boxes.

    A class's five best scores of each photo are parted into two groups, see `threshold_between`: things, and what else
    scored. The folder should have photos with the things and photos without.

    Args:
        predictor: the detector.
        images: folder of photos.
        classes: what is asked for.
        output: folder for thresholds.csv (class, threshold, share of the photos that reach it) and classes.safetensors.

    Returns:
        By name; a class without two different scores has no threshold.

    Raises:
        InputError: photos or classes cannot be used, or the folder cannot be written to.
    """
    check_place(output, is_folder=True)
    predictor.check_detector(classes)
    every = dict(threshold=0.0, class_agnostic_iou=1.0, max_containment=1.0)
    best = []  # of each photo: K arrays, best first
    for _, found in predictor.detect_folder(images, classes=classes, **every):
        best.append([found.scores[found.class_ids == k][:_BEST] for k in range(len(classes.names))])
    stream, thresholds = io.StringIO(), {}
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["class", "threshold", "photos"])
    for name, of_photos in zip(classes.names, zip(*best, strict=True), strict=True):
        threshold = threshold_between(np.concatenate(of_photos))
        if math.isnan(threshold):
            writer.writerow([name, "", ""])
            continue
        thresholds[name] = threshold
        share = np.mean([bool((scores >= threshold).any()) for scores in of_photos])
        writer.writerow([name, f"{threshold:.4f}", f"{share:.4f}"])
    atomic_write(Path(output) / THRESHOLDS_FILE, stream.getvalue().encode())
    save_classes(Path(output) / CLASSES_FILE, classes.with_thresholds(thresholds, predictor.fingerprint))
    return thresholds
