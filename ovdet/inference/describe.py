"""What is in each region of a photo, in words: by a detector that was trained with captions (docs/objectives.md).

Shape letters: R regions.
"""

from __future__ import annotations

import torch

from ovdet.errors import InputError
from ovdet.inference.detections import Detections
from ovdet.inference.photo import Photo
from ovdet.inference.predictor import OpenVocabPredictor
from ovdet.modeling.detector import OpenVocabRCNN
from ovdet.modeling.region_captions import decoder_of


def check_describes(predictor: OpenVocabPredictor) -> None:
    """Refuse a detector that cannot write.

    Raises:
        InputError: it has no caption decoder, which training gives it.
    """
    if not isinstance(predictor.model, OpenVocabRCNN):
        raise InputError("expected an open-vocabulary detector that was not exported, to describe photos")
    decoder_of(predictor.model.roi_heads)


def describe_photo(
    predictor: OpenVocabPredictor,
    image: Photo,
    *,
    max_regions: int = 10,
    nms_threshold: float = 0.5,
    threshold: float = 0.0,
    channel_order: str = "BGR",
) -> Detections:
    """The most object-like regions of a photo, their texts as labels, the likeliest text first.

    Args:
        predictor: a detector with a caption decoder.
        image: as of `OpenVocabPredictor`.
        max_regions: R at most.
        nms_threshold: IoU above which the less object-like of two regions is left out.
        threshold: leave out texts that are less probable; a text's probability is the geometric mean over its tokens.
        channel_order: of an array.

    Raises:
        InputError: the detector has no decoder, or the photo cannot be used.
    """
    check_describes(predictor)
    inputs = predictor.prepare(image, channel_order)
    with torch.inference_mode():
        ((instances, texts),) = predictor.model.describe([inputs], max_regions=max_regions, nms_threshold=nms_threshold)
    instances = instances.to("cpu")
    instances = instances[instances.scores.sort(descending=True, stable=True).indices]
    instances = instances[instances.scores >= threshold]
    labels = tuple(texts[number] for number in instances.text_ids.tolist())
    ids = {text: number for number, text in enumerate(dict.fromkeys(labels))}
    return Detections(
        boxes=instances.pred_boxes.tensor.float().numpy(),
        scores=instances.scores.float().numpy(),
        class_ids=torch.tensor([ids[text] for text in labels], dtype=torch.int64).numpy(),
        labels=labels,
        size=instances.image_size,
    )
