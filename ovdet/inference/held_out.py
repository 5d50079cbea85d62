"""Average precision on photos that are asked for classes again and again: their regions are embedded once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from detectron2.evaluation.coco_evaluation import instances_to_coco_json

from ovdet.class_embeddings import ClassEmbeddings
from ovdet.evaluation.average_precision import CocoAP
from ovdet.evaluation.ground_truth import GroundTruth
from ovdet.evaluation.thresholds import choose_threshold, match_detections
from ovdet.inference.embedded_photo import EmbeddedPhoto
from ovdet.inference.predictor import OpenVocabPredictor
from ovdet.learning.learn import AnnotatedPhoto
from ovdet.text.class_names import normalize_class_name


class Figures(NamedTuple):
    """Mean figures over the asked classes, and the best that one threshold for all of them gives.

    Attributes:
        AP: percent, as AP50.
        F1: percent.
        threshold: that F1 is at; None where nothing is found.
    """

    AP: float
    AP50: float
    F1: float
    threshold: float | None


class HeldOut:
    """Photos that are asked for classes again and again: regions are embedded once."""

    def __init__(
        self, predictor: OpenVocabPredictor, photos: Sequence[AnnotatedPhoto], truth: GroundTruth, names: Sequence[str]
    ) -> None:
        """
        Args:
            predictor: a trained detector.
            photos: with image ids of `truth`.
            truth: of the json.
            names: of the classes that are scored, each one of the json's.
        """
        ids = {normalize_class_name(name): category_id for category_id, name in truth.names.items()}
        self.category_ids = [ids[normalize_class_name(name)] for name in names]
        self._places = {normalize_class_name(name): place for place, name in enumerate(names)}
        self._predictor, self._photos, self._truth = predictor, photos, truth
        self._embedded: list[EmbeddedPhoto] = []

    def embed(self) -> Iterator[int]:
        """Embed photo after photo; yields 1 each."""
        for photo in self._photos:
            self._embedded.append(self._predictor.embed_photo(photo.image))
            yield 1

    @torch.no_grad()
    def score(self, classes: ClassEmbeddings) -> Figures:
        """Average precision, and the best F1 of one threshold for all classes."""
        scorer = CocoAP(self._truth, self.category_ids, image_ids=[photo.image_id for photo in self._photos])
        place = torch.tensor([self._places[normalize_class_name(name)] for name in classes.names])
        matched: list[tuple[np.ndarray, np.ndarray]] = []
        for photo, embedded in zip(self._photos, self._embedded, strict=True):
            (output,) = self._predictor.model.score_images([embedded.seen], [embedded.size], classes=classes)
            found = output["instances"].to("cpu")
            found.pred_classes = place[found.pred_classes]
            rows = instances_to_coco_json(found, photo.image_id)
            for row in rows:
                row["category_id"] = self.category_ids[row["category_id"]]
            scorer.add({photo.image_id: rows})
            matched += [self._matched(photo.image_id, category_id, rows) for category_id in self.category_ids]
        result = scorer.result()
        scores, hits = (np.concatenate(each) for each in zip(*matched, strict=True))
        threshold, precision, recall = choose_threshold(scores[hits >= 0], hits[hits >= 0], int(result.objects.sum()))
        f1 = 200 * precision * recall / max(precision + recall, 1e-9)
        means = (float(np.nanmean(result.figures[metric])) for metric in ("AP", "AP50"))
        return Figures(*means, f1, None if np.isnan(threshold) else threshold)

    def _matched(
        self, image_id: Any, category_id: int, rows: Sequence[Mapping[str, Any]]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Scores of a class's detections on a photo, and which of them find an object."""
        of_class = [row for row in rows if row["category_id"] == category_id]
        there = [each for each in self._truth.annotations.get(image_id, ()) if each["category_id"] == category_id]
        scores, crowds = [row["score"] for row in of_class], [int(each.get("iscrowd") or 0) for each in there]
        hits = match_detections([row["bbox"] for row in of_class], scores, [each["bbox"] for each in there], crowds)
        return np.asarray(scores, dtype=float), hits
