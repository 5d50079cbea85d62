"""A region store for a training set: proposals of a detector, base ground truth, what the teacher says of them.

Shape letters: M regions of one photo, D embedding width.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from detectron2.config import instantiate
from omegaconf import DictConfig
from rich.progress import track
from torch import Tensor, nn
from torchvision.ops import nms

from ovdet.data import write_region_store
from ovdet.engine.train import load_detector, prepare_dataset, text_space
from ovdet.errors import InputError
from ovdet.teachers import RegionEmbedder, load_teacher


def propose(model: nn.Module, inputs: dict) -> tuple[Tensor, Tensor]:
    """Proposals of a detector's RPN for one photo.

    Args:
        model: with `preprocess_image`, `backbone` and `proposal_generator`, in evaluation mode.
        inputs: as OpenVocabMapper gives them, with `image_orig`.

    Returns:
        Boxes (M, 4) XYXY in pixels of the original photo, objectness (M,) in [0, 1], best first.
    """
    with torch.inference_mode():
        images = model.preprocess_image([inputs])
        proposals, _ = model.proposal_generator(images, model.backbone(images.tensor), None)
    height, width = images.image_sizes[0]
    scale = [inputs["image_orig"].shape[2] / width, inputs["image_orig"].shape[1] / height]
    boxes = proposals[0].proposal_boxes.tensor.clone()
    return boxes * boxes.new_tensor(scale).repeat(2), proposals[0].objectness_logits.sigmoid().clone()


def extract_regions(config: DictConfig, output: str | Path, *, weights: str, max_regions: int = 300) -> int:
    """Write the store for `config.dataloader.train`, with the teacher of `config.teacher`.

    Args:
        config: as for do_train.
        output: the file to write.
        weights: of the detector that proposes; trained on base classes only, which the store's header names.
        max_regions: per photo, ground truth included.

    Returns:
        The number of photos.

    Raises:
        InputError: weights, teacher or data set are not there or do not fit, or the output cannot be written.
    """
    if max_regions < 1:
        raise InputError(f"expected at least 1 region a photo, got {max_regions}")
    prepare_dataset(config)
    model, embed_names, header = load_detector(config, weights)
    if "training_classes" not in header:
        raise InputError(f"expected weights that say which classes they were trained on, {weights} do not")
    embed_crops = RegionEmbedder(load_teacher(config.teacher.name, model.device))
    mapper = instantiate({**config.dataloader.test.mapper, "keep_original": True})
    dicts = instantiate(config.dataloader.train.dataset)

    def entries() -> Iterator[tuple[int | str, Tensor, Tensor, Tensor]]:
        for record in track(dicts, "embedding regions"):
            inputs = mapper(record)
            boxes, scores = propose(model, inputs)
            known = boxes.new_tensor([a["bbox"] for a in record["annotations"]]).reshape(-1, 4)  # XYWH
            known[:, 2:] += known[:, :2]
            boxes, scores = torch.cat([known, boxes]), torch.cat([scores.new_ones(len(known)), scores])
            keep = nms(boxes, scores, 0.7)[:max_regions]
            yield record["image_id"], boxes[keep], embed_crops(inputs["image_orig"], boxes[keep]), scores[keep]

    write_region_store(
        output,
        entries(),
        {
            **text_space(config, embed_names),
            "dataset": config.dataset.name,
            "proposal_source": f"ground truth and RPN of {weights}",
            "training_classes": header["training_classes"],
        },
    )
    return len(dicts)
