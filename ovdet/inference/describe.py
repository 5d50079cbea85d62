"""Words for each region of a photo, by a detector that was trained with captions (docs/objectives.md).

Shape letters: R regions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from detectron2.structures import Instances

from ovdet.errors import InputError
from ovdet.inference.detections import Detections
from ovdet.inference.photo import Photo
from ovdet.inference.predictor import OpenVocabPredictor
from ovdet.inference.stream import OnFailure, StreamedPhoto, log_failure, stream_photos
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
    inputs = [predictor.prepare(image, channel_order)]
    return _describe(inputs, predictor, max_regions, nms_threshold, threshold)[0]


def describe_stream(
    predictor: OpenVocabPredictor,
    images: Sequence[Photo],
    *,
    max_regions: int = 10,
    nms_threshold: float = 0.5,
    threshold: float = 0.0,
    on_failure: OnFailure = log_failure,
) -> Iterator[StreamedPhoto]:
    """Many photos, in their order; arguments as of `describe_photo`, `on_failure` as of `OpenVocabPredictor.stream`.

    Raises:
        InputError: the detector has no decoder.
    """
    check_describes(predictor)
    limits = dict(max_regions=max_regions, nms_threshold=nms_threshold, threshold=threshold)
    prepare = partial(predictor.prepare, channel_order="RGB")
    return stream_photos(images, prepare, partial(_describe, predictor=predictor, **limits), on_failure=on_failure)


def _describe(
    inputs: Sequence[dict],
    predictor: OpenVocabPredictor,
    max_regions: int,
    nms_threshold: float,
    threshold: float,
) -> list[Detections]:
    with torch.inference_mode():
        described = predictor.model.describe(list(inputs), max_regions=max_regions, nms_threshold=nms_threshold)
    return [_as_detections(instances.to("cpu"), texts, threshold) for instances, texts in described]


def _as_detections(instances: Instances, texts: Sequence[str], threshold: float) -> Detections:
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
