"""Fine-tuning on a few annotated photos, as the few-shot protocol compares it with learned rows."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovdet.engine.train import do_train
from ovdet.errors import InputError
from ovdet.evaluation.ground_truth import GroundTruth
from ovdet.hub.find import open_config
from ovdet.inference.predictor import OpenVocabPredictor
from ovdet.learning.learn import AnnotatedPhoto


@dataclass(frozen=True)
class FineTuning:
    """A short training on annotated photos.

    Attributes:
        config_file: such as lite/own_data; of the detector that `weights` fit.
        weights: a checkpoint that training begins with.
        max_iter: steps, at least 1.
        overrides: `key=value` for the config.
    """

    config_file: str
    weights: str
    max_iter: int
    overrides: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.max_iter < 1:
            raise InputError(f"expected 1 step of fine-tuning or more, got {self.max_iter}")

    @property
    def method(self) -> str:
        """The method's name in a table."""
        return f"fine-tuned, {self.max_iter} steps"

    def __call__(
        self,
        photos: Sequence[AnnotatedPhoto],
        held: Sequence[AnnotatedPhoto],
        names: Sequence[str],
        truth: GroundTruth,
        seed: int,
    ) -> OpenVocabPredictor:
        """Train on the photos' boxes and return what came of it; nothing stays on the disk.

        Args:
            photos: files, with class ids below len(names); other boxes are left out.
            held: others; training ends with a look at one of them.
            names: of K classes.
            truth: of the json that the photos are of, for their sizes.
            seed: of the training.

        Raises:
            InputError: as of `do_train`.
        """
        with tempfile.TemporaryDirectory() as folder:
            train, val, run = (Path(folder, name) for name in ("train.json", "val.json", "run"))
            train.write_text(json.dumps(_coco(photos, names, truth)))
            with_object = next(photo for photo in held if (photo.class_ids >= 0).any())
            val.write_text(json.dumps(_coco([with_object], names, truth)))
            config = open_config(self.config_file, self.overrides)
            config.dataset.update(name=folder, train=str(train), val=str(val), images="/", split=None)
            config.dataset.pop("prepare", None)
            begin = dict(init_checkpoint=self.weights, seed=seed)
            config.train.update(output_dir=str(run), max_iter=self.max_iter, **begin)
            do_train(config)
            return OpenVocabPredictor.from_config(str(run / "config.yaml"), str(run / "model_final.pth"))


def _coco(photos: Sequence[AnnotatedPhoto], names: Sequence[str], truth: GroundTruth) -> dict[str, Any]:
    """The photos as a COCO-format json with absolute file names."""
    images: list[Mapping[str, Any]] = []
    annotations: list[Mapping[str, Any]] = []
    for photo in photos:
        size = {key: truth.images[photo.image_id][key] for key in ("height", "width")}
        images.append({"id": len(images), "file_name": os.path.abspath(photo.image), **size})
        for (x1, y1, x2, y2), class_id in zip(photo.boxes.tolist(), photo.class_ids.tolist(), strict=True):
            if class_id >= 0:
                place = {"image_id": images[-1]["id"], "category_id": class_id, "bbox": [x1, y1, x2 - x1, y2 - y1]}
                annotations.append({"id": len(annotations) + 1, "area": (x2 - x1) * (y2 - y1), "iscrowd": 0, **place})
    categories = [{"id": class_id, "name": name} for class_id, name in enumerate(names)]
    return {"images": images, "annotations": annotations, "categories": categories}
