"""Learning classes from annotated photos: labeled regions, a linear probe, and ClassEmbeddings with learned rows.

Shape letters: G annotated boxes of a photo, K classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovdet.class_embeddings import ClassEmbeddings, LearnedRows
from ovdet.data.dataset import CocoSubsets, check_sizes, load_coco_subsets
from ovdet.errors import InputError
from ovdet.learning.examples import LabeledRegions, check_boxes, join_regions, labeled_regions
from ovdet.learning.probe import BACKGROUND, IGNORED, fit_probe
from ovdet.modeling.detector import OpenVocabRCNN
from ovdet.modeling.fingerprint import detector_fingerprint
from ovdet.text.class_names import distinct_names, names_among, names_not_among, normalize_class_name, with_nearest
from ovdet.text.vocabulary import Vocabulary

_MANY = 5  # boxes, of one photo
_BACKGROUND = 12_000  # background regions in all, about; more change little and take time
_BACKGROUND_OF_A_VIEW, _LEAST_BACKGROUND = 60, 10
_LEAST = 1e-9


class AnnotatedPhoto(NamedTuple):
    """A photo whose objects of the learned classes all have boxes.

    Attributes:
        image: what the predictor takes.
        boxes: (G, 4) XYXY, pixels of the photo.
        class_ids: (G,) the learned class of each; IGNORED (-2) for objects of other classes.
        image_id: in the json that it is from.
    """

    image: Any
    boxes: Tensor
    class_ids: Tensor
    image_id: Any = None


def learn_classes(
    model: nn.Module,
    prepare: Callable[[Any], dict],
    names: Sequence[str],
    photos: Iterable[AnnotatedPhoto],
    *,
    name_embeddings: Tensor | None = None,
    seed: int = 0,
) -> ClassEmbeddings:
    """Classes with a learned row each; the model is left as it is.

    Args:
        model: in evaluation mode.
        prepare: a photo -> what the model takes for it.
        names: of K classes.
        photos: their examples; a photo without boxes is background.
        name_embeddings: see `with_names`; None learns from the examples alone.
        seed: of the background that is drawn.

    Raises:
        InputError: no detector that learned rows fit, names that are none, a name without an example, or a box that is
            none.
    """
    check_learner(model)
    names = Vocabulary(tuple(names)).names
    regions = regions_of(model, prepare, names, list(photos), seed=seed)
    classes = fit_classes(model, names, regions, detector_fingerprint(model))
    return classes if name_embeddings is None else with_names(classes, regions, name_embeddings)


def regions_of(
    model: OpenVocabRCNN,
    prepare: Callable[[Any], dict],
    names: Sequence[str],
    photos: Sequence[AnnotatedPhoto],
    *,
    seed: int = 0,
    track: Callable[[Sequence[AnnotatedPhoto]], Iterable[AnnotatedPhoto]] = iter,
) -> LabeledRegions:
    """Labeled regions of annotated photos; arguments and errors of `learn_classes`, `track` goes through them."""
    if not photos:
        raise InputError("expected photos to learn from, got none")
    shown = {index for photo in photos for index in photo.class_ids.tolist()}
    if without := [name for index, name in enumerate(names) if index not in shown]:
        raise InputError(f"expected a box of each name to learn from, got none of {', '.join(without[:5])}")
    generator = torch.Generator().manual_seed(seed)
    most = max_background(len(photos))
    parts = []
    for photo in track(photos):
        inputs = prepare(photo.image)
        boxes = check_boxes(photo.boxes, inputs["height"], inputs["width"], told(photo.image))
        parts.append(labeled_regions(model, inputs, boxes, photo.class_ids, max_background=most, generator=generator))
    return join_regions(parts)


def check_learner(model: nn.Module) -> None:
    """Refuse a model that has no region features to learn on.

    Raises:
        InputError: an exported detector, one with fixed classes, or one without proposals of its own.
    """
    if isinstance(model, OpenVocabRCNN) and model.proposal_generator is None:
        raise InputError("expected a detector that makes proposals to learn with, got one of precomputed proposals")
    if not isinstance(model, OpenVocabRCNN):
        raise InputError(f"expected a trained open-vocabulary detector to learn with, got {type(model).__name__}")


def max_background(num_photos: int) -> int:
    """Background regions of one view of a photo, so that all photos have about 12,000."""
    return min(_BACKGROUND_OF_A_VIEW, max(_BACKGROUND // (2 * max(num_photos, 1)), _LEAST_BACKGROUND))


def fit_classes(model: OpenVocabRCNN, names: Sequence[str], regions: LabeledRegions, detector: str) -> ClassEmbeddings:
    """Classes with a row each, from labeled regions that show each of them; see `fit_probe`.

    Args:
        model: whose regions they are.
        names: of K classes.
        regions: with labels in [0, K) or BACKGROUND.
        detector: the model's fingerprint.
    """
    width = model.roi_heads.box_predictor.classifier.width
    features = regions.features[:, :-width]  # the embeddings are for `with_names`
    blocks = feature_blocks(model, features.shape[1])
    weights, biases = fit_probe(features, regions.labels, regions.weights, len(names), blocks=blocks)
    rows = LearnedRows(F.pad(weights, (0, width)), biases, torch.arange(len(names)))
    no_ids, no_base = torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.bool)
    return ClassEmbeddings(torch.zeros(0, width), no_ids, tuple(names), no_base, rows, detector=detector, texts=())


def feature_blocks(model: OpenVocabRCNN, width: int) -> list[int]:
    """Widths of the blocks of features without embeddings, `width` in all: the box head's, the image branch's."""
    box_width = model.roi_heads.box_predictor.in_features
    return [part for part in (box_width, width - box_width) if part]


def with_names(classes: ClassEmbeddings, regions: LabeledRegions, name_embeddings: Tensor) -> ClassEmbeddings:
    """Learned classes that look at what their names mean, too.

    The similarity of the image branch's embeddings to its name, less its mean over background, is added to each class's
    logit, times its share, see `name_shares`.

    Args:
        classes: of `fit_classes`.
        regions: that they were learned from.
        name_embeddings: (K, D), unit norm; zeros for names that mean nothing.
    """
    learned, embeddings = classes.learned, regions.features[:, -classes.width :]
    similarities = embeddings @ name_embeddings.t()  # (N, K)
    shares = name_shares(similarities, regions.features @ learned.weights.t() + learned.biases, regions)
    of_names = shares[:, None] * name_embeddings
    weights = torch.cat([learned.weights[:, : -classes.width], of_names], dim=1)
    mean = similarities[_around(regions)].mean(0)
    return replace(classes, learned=LearnedRows(weights, learned.biases - shares * mean, learned.class_ids))


def name_shares(similarities: Tensor, logits: Tensor, regions: LabeledRegions) -> Tensor:
    """(K,), how much the similarity to its name counts beside a class's logit.

    It is brought to the scale that the logits have on background, and multiplied by the square of Somers' D: 1 where a
    name tells all examples from the background of their photos and from the other classes' examples, 0 where it does
    not tell them from either at all, or says the contrary. The lower of both counts.

    Args:
        similarities: (N, K) of the regions to the names.
        logits: (N, K) of what was learned without the names.
        regions: N of them.
    """
    around = _around(regions)
    shares = torch.zeros(similarities.shape[1])
    for class_id, scores in enumerate(similarities.t()):
        is_own = regions.labels == class_id
        others = [part for part in (around, (regions.labels >= 0) & ~is_own) if part.any()]
        own, weights = scores[is_own], regions.weights[is_own]
        lowest = min(float(somers_d(own, weights, scores[part])) for part in others)
        shares[class_id] = max(lowest, 0.0) ** 2
    scales = [part[around].std(0, correction=0) for part in (logits, similarities)]
    return shares * scales[0] / scales[1].clamp(min=_LEAST)


def somers_d(scores: Tensor, weights: Tensor, others: Tensor) -> Tensor:
    """Somers' D, 2 AUC - 1: 1 where all of the scores (P,), which count `weights` (P,), are above the others (Q,).

    Ties count as below.
    """
    below = torch.searchsorted(others.sort().values, scores.contiguous()) / len(others)
    return 2 * (below * weights).sum() / weights.sum().clamp(min=_LEAST) - 1


def _around(regions: LabeledRegions) -> Tensor:
    """(N,) bool, the background; all regions where there is none."""
    is_background = regions.labels == BACKGROUND
    return is_background if is_background.any() else torch.ones_like(is_background)


def read_examples(
    annotations: str | Path, images: str | Path, names: Sequence[str] = ()
) -> tuple[list[str], list[AnnotatedPhoto]]:
    """Names and AnnotatedPhotos of a COCO-format json; see `read_example_sets`."""
    ((found, photos),) = read_example_sets([(annotations, images)], names)
    return found, photos


def read_example_sets(
    sets: Sequence[tuple[str | Path, str | Path]], names: Sequence[str] = ()
) -> list[tuple[list[str], list[AnnotatedPhoto]]]:
    """Names and AnnotatedPhotos of COCO-format jsons; crowds are no examples, and no background.

    Args:
        sets: of each the json, and the folder that its photos' names are relative to.
        names: the classes to learn, spelled as the jsons' or nearly so; a json gives examples of those that it has
            boxes of, and is left out where it has none. No names take all that have a box.

    Raises:
        InputError: as of `load_coco_subsets`, a photo of another size than its json says, names that read alike, a name
            that no json has as a class, or none has a box of.
    """
    names = Vocabulary(tuple(names)).names if names else ()
    read = [load_coco_subsets(*files) for files in sets]
    jsons = ", ".join(str(annotations) for annotations, _ in sets)
    if odd := names_not_among(names, [name for data in read for name in data.thing_classes]):
        classes = distinct_names(name for data in read for name in data.thing_classes)
        told = f"{', '.join(classes[:8])}{', ...' if classes[8:] else ''}"
        raise InputError(f"expected a class of {jsons} ({told}), got {with_nearest(odd[:1], classes)[0]}")
    with_boxes = [_classes_with_boxes(data) for data in read]
    if odd := names_not_among(names, [name for each in with_boxes for name in each]):
        raise InputError(f"expected a box of each name to learn from in {jsons}, got none of {', '.join(odd[:5])}")
    if bare := [annotations for (annotations, _), each in zip(sets, with_boxes, strict=True) if not (each or names)]:
        raise InputError(f"expected boxes with an area to learn from in {bare[0]}, got none")
    chosen = [names_among(names, each) if names else each for each in with_boxes]
    return [(of, _annotated_photos(data, of)) for data, of in zip(read, chosen, strict=True) if of]


def _classes_with_boxes(data: CocoSubsets) -> list[str]:
    used = {each["category_id"] for record in data.dicts for each in record["annotations"] if not each["iscrowd"]}
    return [data.thing_classes[index] for index in sorted(used)]


def _annotated_photos(data: CocoSubsets, names: Sequence[str]) -> list[AnnotatedPhoto]:
    """The photos of a json with boxes of some of its classes."""
    check_sizes(data.dicts)
    known = {normalize_class_name(name): index for index, name in enumerate(data.thing_classes)}
    place = {known[normalize_class_name(name)]: position for position, name in enumerate(names)}
    photos = []
    for record in data.dicts:
        boxes = torch.tensor([each["bbox"] for each in record["annotations"]]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        shown = [IGNORED if each["iscrowd"] else each["category_id"] for each in record["annotations"]]
        ids = torch.tensor([place.get(index, IGNORED) for index in shown], dtype=torch.long)
        photos.append(AnnotatedPhoto(record["file_name"], boxes, ids, record["image_id"]))
    return photos


def of_one_photo(sets: Sequence[tuple[Sequence[str], Sequence[AnnotatedPhoto]]]) -> list[str]:
    """A line for each class of which many boxes, but one photo, are there: on others it looks different.

    Args:
        sets: see `read_example_sets`.
    """
    spelled = distinct_names(name for names, _ in sets for name in names)
    counts: dict[str, list[int]] = {normalize_class_name(name): [] for name in spelled}
    for names, photos in sets:
        for photo in photos:
            for name, number in Counter(names[index] for index in photo.class_ids.tolist() if index >= 0).items():
                counts[normalize_class_name(name)].append(number)
    of_one = [(name, found[0]) for name, found in zip(spelled, counts.values(), strict=True) if len(found) == 1]
    told = "boxes are of one photo, boxes of other photos teach more"
    return [f"{name}: all {number} {told}" for name, number in of_one if number >= _MANY]


def read_negatives(annotations: str | Path, images: str | Path, names: Sequence[str]) -> list[AnnotatedPhoto]:
    """The photos of a COCO-format json that show none of the names, as background.

    Raises:
        InputError: as of `load_coco_subsets`, or a photo of another size than the json says.
    """
    data = load_coco_subsets(annotations, images, filter_empty=False)
    asked = {normalize_class_name(name) for name in names}
    is_asked = [normalize_class_name(name) in asked for name in data.thing_classes]
    nothing = torch.zeros(0, 4), torch.zeros(0, dtype=torch.long)
    check_sizes(data.dicts)
    records = [each for each in data.dicts if not any(is_asked[a["category_id"]] for a in each["annotations"])]
    return [AnnotatedPhoto(record["file_name"], *nothing) for record in records]


def told(image: Any) -> str:
    """A photo as messages call it."""
    return str(image) if isinstance(image, (str, Path)) else "the photo"
