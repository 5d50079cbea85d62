"""Repeat-factor sampling and class weights by frequency, for long-tailed data sets such as LVIS.

Shape letters: K training classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from detectron2.data.detection_utils import get_fed_loss_cls_weights
from detectron2.data.samplers import RepeatFactorTrainingSampler
from torch import Tensor

from ovdet.errors import InputError

MakeSampler = Callable[..., RepeatFactorTrainingSampler]


def repeat_factor_sampler(threshold: float = 1e-3) -> MakeSampler:
    """Repeat-factor sampling as of LVIS (arXiv:1908.03195, appendix B.2), built when the training set has been read.

    A photo comes `max over its classes c of max(1, sqrt(threshold / f(c)))` times as often, f(c) being the share of
    photos that show c.

    Args:
        threshold: the share of photos below which a class is shown more often; 1e-3 in the field.

    Returns:
        (dataset dicts, seed=) -> detectron2's sampler of indices into them.

    Raises:
        InputError: a threshold outside [0, 1].
    """
    if not 0 <= threshold <= 1:
        raise InputError(f"expected a threshold of repeat factors between 0 and 1, got {threshold}")
    return partial(_repeat_factor_sampler, threshold=threshold)


def _repeat_factor_sampler(
    dicts: Sequence[Mapping[str, Any]], *, threshold: float, seed: int = 0
) -> RepeatFactorTrainingSampler:
    factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(dicts, threshold)
    return RepeatFactorTrainingSampler(factors, seed=seed)


def frequency_weights(dataset_name: str, power: float = 0.5) -> Callable[[], Tensor]:
    """Weights by which the federated loss samples absent classes: image counts to a power, computed as training begins.

    Args:
        dataset_name: a data set of `register_coco_subsets`, registered by the time of the call that asks.
        power: 0.5 in Detic; 0 draws all alike.

    Returns:
        () -> (K,), in the order of the data set's `thing_classes`.
    """
    return partial(get_fed_loss_cls_weights, dataset_name, power)


def count_photos(dicts: Iterable[Mapping[str, Any]], num_classes: int) -> list[dict[str, int]]:
    """The number of images that show each class, in the format of detectron2's `class_image_count`.

    Args:
        dicts: dataset dicts, `category_id` in [0, num_classes).
        num_classes: K.

    Returns:
        [{"id": class index, "image_count": photos}, ...] of length K.
    """
    counts: Counter[int] = Counter()
    for record in dicts:
        counts.update({annotation["category_id"] for annotation in record["annotations"]})
    return [{"id": index, "image_count": counts[index]} for index in range(num_classes)]
