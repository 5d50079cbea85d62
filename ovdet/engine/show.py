"""Pictures of a training in TensorBoard: proposals and predictions on a few photos of the test set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import instantiate
from detectron2.data import DatasetCatalog
from detectron2.data.detection_utils import convert_image_to_rgb
from detectron2.engine import HookBase
from detectron2.evaluation import inference_context
from detectron2.modeling import GeneralizedRCNN
from omegaconf import DictConfig
from torch import Tensor

from ovdet.class_embeddings import ClassEmbeddings

_PHOTOS, _PROPOSALS, _PREDICTIONS = 2, 20, 10


class ShowPhotos(HookBase):
    """Draws proposals, predictions of base names and those of novel names, side by side under each photo's name.

    Training goes on as it would without it, to the bit: modes of the model are restored, and every step has random
    numbers of its own, see SeededSteps.
    """

    def __init__(
        self, model: GeneralizedRCNN, inputs: Sequence[dict[str, Any]], classes: ClassEmbeddings, period: int
    ) -> None:
        """
        Args:
            model: that is trained, without wrappers.
            inputs: photos as it takes them.
            classes: names to predict; of the test set.
            period: steps between two drawings.
        """
        self.model, self.inputs, self.classes, self.period = model, inputs, classes, period

    def after_step(self) -> None:
        if (self.trainer.iter + 1) % self.period == 0:
            with inference_context(self.model), torch.no_grad():
                for number, photo in enumerate(self.inputs, start=1):
                    for what, picture in draw_photo(self.model, photo, self.classes).items():
                        self.trainer.storage.put_image(f"photo_{number}/{what}", picture.transpose(2, 0, 1))


def draw_photo(model: GeneralizedRCNN, photo: dict[str, Any], classes: ClassEmbeddings) -> dict[str, np.ndarray]:
    """Pictures (H, W, 3) uint8 RGB of a photo: "proposals", "base_names" and, where there are any, "novel_names".

    Args:
        model: in evaluation mode.
        photo: as the model takes it.
        classes: names to predict.
    """
    height, width = photo["image"].shape[1:]
    photo = {**photo, "height": height, "width": width}  # boxes in pixels of what the network sees
    if model.proposal_generator is None:
        proposals = [photo["proposals"]]  # of a file
    else:
        images = model.preprocess_image([photo])
        proposals, _ = model.proposal_generator(images, model.backbone(images.tensor), None)
    found = model([photo], classes=classes)[0]["instances"]
    boxes, ids = found.pred_boxes.tensor.cpu(), found.pred_classes.cpu()
    labels = np.array([f"{classes.names[k]} {score:.2f}" for k, score in zip(ids, found.scores.tolist(), strict=True)])
    is_base = torch.ones(len(classes.names), dtype=torch.bool)
    is_base = is_base if classes.is_base_class is None else classes.is_base_class.cpu()
    rgb = convert_image_to_rgb(photo["image"].permute(1, 2, 0), model.input_format)
    pictures = {"proposals": _draw(rgb, proposals[0].proposal_boxes.tensor[:_PROPOSALS].cpu())}
    for what, wanted in (("base_names", is_base), ("novel_names", ~is_base)):
        if wanted.any():
            of_kind = wanted[ids].nonzero()[:_PREDICTIONS, 0]  # best first
            pictures[what] = _draw(rgb, boxes[of_kind], labels[of_kind.numpy()].tolist())
    return pictures


def _draw(rgb: np.ndarray, boxes: Tensor, labels: list[str] | None = None) -> np.ndarray:
    from detectron2.utils.visualizer import Visualizer  # matplotlib takes a while to import

    return Visualizer(rgb, None).overlay_instances(boxes=boxes.numpy(), labels=labels).get_image()


def photos_to_show(config: DictConfig, dataset_name: str, classes: ClassEmbeddings) -> list[dict[str, Any]]:
    """A few photos of a test set as the model takes them: first those with a box of a novel class.

    Args:
        config: as for do_train.
        dataset_name: of the registered test set.
        classes: of the test set.
    """
    dicts, is_base = DatasetCatalog.get(dataset_name), classes.is_base_class

    def has_novel(record: dict[str, Any]) -> bool:
        return is_base is not None and any(not is_base[each["category_id"]] for each in record.get("annotations", ()))

    chosen = sorted(dicts, key=lambda record: not has_novel(record))[:_PHOTOS]
    mapper = instantiate(config.dataloader.test.mapper)
    return [mapper(record) for record in chosen]
