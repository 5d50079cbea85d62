"""Several data sets in one training: names that mean the same are one class, and each photo knows its set.

Annotations with a score are pseudo-labels, see inference/pseudo_labels.py: they are objects, but nothing follows from
what has none.

A set speaks of its own names alone. Of another set's names a photo says nothing: neither that they are there nor that
they are not (federated by set, as LVIS is by class, arXiv:1908.03195; Detic and UniDet join data sets so too).

Shape letters: S sets, K classes of all sets together.
"""

from __future__ import annotations

import json
import logging
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.samplers import RepeatFactorTrainingSampler
from detectron2.structures import Instances
from detectron2.utils import comm
from omegaconf import OmegaConf
from torch import Tensor
from torch.utils.data import Sampler

from ovdet.data.coco import read_coco_json
from ovdet.data.dataset import load_coco_subsets
from ovdet.data.image_labels import LabeledPhotos
from ovdet.data.mapper import OpenVocabMapper
from ovdet.data.samplers import count_photos
from ovdet.errors import InputError
from ovdet.text.class_names import normalize_class_name
from ovdet.training_fields import LABELS_KEY, SCORES_FIELD, SET_FIELD, SET_KEY

logger = logging.getLogger(__name__)

_SYNONYMS = Path(__file__).with_name("synonyms.json")
_TRIES = 5  # to crop a photo so that an object remains


@dataclass(frozen=True)
class DataSet:
    """One data set of a mixture.

    Attributes:
        name: for the log and the report.
        json_file: COCO format.
        image_root: the folder of its photos.
        share: of the photos of a step, against the other sets' shares.
        is_exhaustive: each object of its names has a box. Elsewhere what has none may still be one.
        is_dense: nearly each object has a box, whatever it is: what has none is background to proposals, too.
        are_parts: its names are of parts of things, or of what lies over them (a windshield, a coat): a region may be
            one of them and one of another set's.
        hold_out: of the photos in the order of their file names each `hold_out`th is not trained on, from the first on;
            0 trains on all.
        split: a split json of which only the base names count; None takes all names.
    """

    name: str
    json_file: str
    image_root: str
    share: float = 1.0
    is_exhaustive: bool = False
    is_dense: bool = False
    are_parts: bool = False
    hold_out: int = 0
    split: str | None = None

    @property
    def source(self) -> str:
        """The file that says what the photos show."""
        return self.json_file

    def load(self) -> tuple[list[str], list[dict[str, Any]]]:
        """Class names, and dataset dicts of the photos with a box of them.

        Raises:
            InputError: as of load_coco_subsets.
        """
        content = load_coco_subsets(self.json_file, self.image_root, self.split, is_train=True)
        return content.thing_classes, content.dicts


class Mixture(NamedTuple):
    """Several data sets as one."""

    dicts: list[dict[str, Any]]  # detectron2's format; `category_id` indexes names, `set_index` says which set
    names: list[str]  # K
    spoken: Tensor  # (S, K) bool: which names a set speaks of
    sets: tuple[DataSet | LabeledPhotos, ...]


@cache
def load_synonyms(path: str | Path = _SYNONYMS) -> dict[str, str]:
    """Names that mean the same: normal form of a synonym -> normal form of the name.

    Args:
        path: a json of {name: [synonyms]}.

    Raises:
        InputError: it is not there or not that.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        return {
            normalize_class_name(other): normalize_class_name(name)
            for name, others in content.items()
            for other in others
        }
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise InputError(f"expected a json of names and their synonyms, {path} cannot be used: {error}") from error


def common_name(name: str, synonyms: Mapping[str, str]) -> str:
    """The name under which all sets know a class."""
    normal = normalize_class_name(name)
    return synonyms.get(normal, normal)


def is_held_out(position: int, hold_out: int) -> bool:
    """Whether the photo at this position, in the order of file names, is not trained on."""
    return hold_out > 0 and position % hold_out == 0


def load_mixture(sets: Sequence[DataSet | LabeledPhotos], synonyms: Mapping[str, str] | None = None) -> Mixture:
    """Load the training part of all sets.

    Args:
        sets: S >= 1; classes come in the order in which they are first met.
        synonyms: see load_synonyms; None takes those of the package.

    Raises:
        InputError: as of the sets' `load`, or a set has no photo left to train on.
    """
    synonyms = load_synonyms() if synonyms is None else synonyms
    loaded = [each.load() for each in sets]
    own_names = [[common_name(name, synonyms) for name in thing_classes] for thing_classes, _ in loaded]
    names = list(dict.fromkeys(name for of_set in own_names for name in of_set))
    index = {name: position for position, name in enumerate(names)}
    spoken = torch.zeros(len(sets), len(names), dtype=torch.bool)
    dicts: list[dict[str, Any]] = []
    for number, (data_set, of_set, (_, records)) in enumerate(zip(sets, own_names, loaded, strict=True)):
        to_common = [index[name] for name in of_set]
        spoken[number, to_common] = torch.tensor(_is_spoken(records, len(of_set)))
        kept = _to_train_on(data_set, records)
        for record in kept:
            annotations = [{**each, "category_id": to_common[each["category_id"]]} for each in record["annotations"]]
            common = {"image_id": f"{data_set.name}/{record['image_id']}", "annotations": annotations}
            if LABELS_KEY in record:
                common[LABELS_KEY] = [to_common[label] for label in record[LABELS_KEY]]
            dicts.append({**record, **common, SET_KEY: number})
        numbers = data_set.name, len(kept), len(records) - len(kept), len(of_set)
        logger.info("%s: %d photos to train on, %d held out, %d names", *numbers)
    return Mixture(dicts, names, spoken, tuple(sets))


def _is_spoken(dicts: Sequence[Mapping[str, Any]], num_names: int) -> list[bool]:
    """Of which of its names a set's photos say that they are there or not.

    Not of those that have pseudo-labels alone, annotations with a score: a detector misses what it does not know. A set
    of nothing else speaks of no name.
    """
    by_name: list[set[bool]] = [set() for _ in range(num_names)]
    for record in dicts:
        for annotation in record["annotations"]:
            by_name[annotation["category_id"]].add("score" in annotation)
    is_annotated = any(False in kinds for kinds in by_name) or not any(by_name)  # photos with labels have no boxes
    return [False in kinds or (is_annotated and not kinds) for kinds in by_name]


def _to_train_on(data_set: DataSet | LabeledPhotos, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A set's photos without those that are held out.

    Raises:
        InputError: none is left.
    """
    if isinstance(data_set, LabeledPhotos):
        names = ordered = [record["image_id"] for record in records]
    else:  # by the json's photos, those without a box too
        names = [Path(record["file_name"]).name for record in records]
        images = read_coco_json(data_set.json_file).images if data_set.hold_out else {}
        ordered = sorted(Path(image["file_name"]).name for image in images.values())
    held = {_composed(name) for position, name in enumerate(ordered) if is_held_out(position, data_set.hold_out)}
    kept = [record for record, name in zip(records, names, strict=True) if _composed(name) not in held]
    if not kept:
        raise InputError(f"expected photos of {data_set.name} to train on, all {len(ordered)} are held out")
    return kept


def _composed(name: str) -> str:
    """A file name in Unicode NFC: the disk may spell it otherwise than the json, see `find_photos`."""
    return unicodedata.normalize("NFC", name)


def well_known_names(mixture: Mixture, least_boxes: int) -> list[str]:
    """Names with boxes enough that their scores are those of names that were trained."""
    boxes = Counter(annotation["category_id"] for record in mixture.dicts for annotation in record["annotations"])
    return [name for index, name in enumerate(mixture.names) if boxes[index] >= least_boxes]


def register_mixture(name: str, sets: Sequence[DataSet | LabeledPhotos], *, least_boxes: int = 20) -> str:
    """Register a mixture in detectron2's catalogs. Metadata as of `register_coco_subsets`, `mixture` and `well_known`.

    Args:
        name: of the whole.
        sets: S >= 1; as a config's list holds dataclasses, too.
        least_boxes: see well_known_names.

    Returns:
        `name`.

    Raises:
        InputError: as of load_mixture, or the name is taken by another data set.
    """
    sets = tuple(
        OmegaConf.to_object(each) if OmegaConf.is_config(each) else each for each in sets
    )  # as configs hold them
    metadata = MetadataCatalog.get(name)
    if name in DatasetCatalog:
        known = metadata.get("mixture")
        if known is not None and known.sets == sets:
            return name
        raise InputError(f"expected a new dataset name, {name!r} is already registered as another dataset")
    mixture = load_mixture(sets)
    metadata.set(
        mixture=mixture,
        thing_classes=mixture.names,
        base_classes=mixture.names,
        novel_classes=[],
        well_known=well_known_names(mixture, least_boxes),
        class_image_count=count_photos(mixture.dicts, len(mixture.names)),
    )
    DatasetCatalog.register(name, lambda: mixture.dicts)
    return name


def set_labels(name: str) -> Callable[[], tuple[Tensor, Tensor, Tensor, Tensor]]:
    """A function that gives what the sets of a registered mixture speak of; read when training begins.

    Args:
        name: of `register_mixture`.

    Returns:
        () -> `spoken` (S, K), and `is_exhaustive`, `is_dense`, `are_parts` (S,) bool.
    """

    def get() -> tuple[Tensor, Tensor, Tensor, Tensor]:
        mixture = MetadataCatalog.get(name).mixture
        flags = ([getattr(each, key) for each in mixture.sets] for key in ("is_exhaustive", "is_dense", "are_parts"))
        return mixture.spoken, *(torch.tensor(flag) for flag in flags)

    return get


class MixtureMapper(OpenVocabMapper):
    """Says with each object which set its photo is of, and crops no photo so that nothing remains to say it with.

    With each object comes the score of its label, too: 1, or less of a pseudo-label.
    """

    def _of_annotations(self, annotations: list[dict[str, Any]], size: tuple[int, int], mask_format: str) -> Instances:
        instances = super()._of_annotations(annotations, size, mask_format)
        instances.set(SCORES_FIELD, torch.tensor([each.get("score", 1.0) for each in annotations], dtype=torch.float32))
        return instances

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """As OpenVocabMapper's; "instances" have `gt_set` besides, and labeled photos "image_labels" (int64)."""
        is_labeled = LABELS_KEY in dataset_dict
        for _ in range(1 if is_labeled else _TRIES):
            mapped = super().__call__(dataset_dict)
            if not self.is_train:
                return mapped
            if len(mapped["instances"]):
                break
        instances = mapped["instances"]
        if is_labeled:
            mapped[LABELS_KEY] = torch.tensor(dataset_dict[LABELS_KEY])
        instances.set(SET_FIELD, torch.full((len(instances),), dataset_dict[SET_KEY], dtype=torch.int64))
        return mapped


class MixtureSampler(Sampler[int]):
    """Photos without end: each set by its share, within a set each photo once before any comes again.

    Rare classes of a set come more often, by LVIS's repeat factors within the set. Processes take turns.
    """

    def __init__(
        self, set_indices: Sequence[int], shares: Sequence[float], factors: Sequence[float], *, seed: int = 0
    ) -> None:
        """
        Args:
            set_indices: of each photo.
            shares: of each set, S of them.
            factors: of each photo, how often it comes against others of its set.
            seed: the same on all processes.

        Raises:
            InputError: a share below 0, or none above it.
        """
        if min(shares) < 0 or not sum(shares) > 0:
            raise InputError(f"expected shares of at least 0 and one above it, got {tuple(shares)}")
        members: dict[int, list[int]] = defaultdict(list)
        for position, number in enumerate(set_indices):
            members[number].append(position)
        self._members = {number: np.array(photos) for number, photos in members.items() if shares[number] > 0}
        self._numbers = sorted(self._members)
        chosen = np.array([shares[number] for number in self._numbers], dtype=float)
        self._shares = chosen / chosen.sum()
        self._factors = np.asarray(factors, dtype=float)
        self._seed = seed
        self._rank, self._size = comm.get_rank(), comm.get_world_size()

    def __iter__(self) -> Iterator[int]:
        random = np.random.default_rng(self._seed)
        rounds = {number: self._round(number, np.random.default_rng([self._seed, number])) for number in self._numbers}
        turn = 0
        while True:
            number = self._numbers[random.choice(len(self._numbers), p=self._shares)]
            photo = next(rounds[number])
            if turn % self._size == self._rank:
                yield photo
            turn += 1

    def _round(self, number: int, random: np.random.Generator) -> Iterator[int]:
        photos = self._members[number]
        factors = self._factors[photos]
        while True:
            times = np.floor(factors + random.random(len(photos))).astype(int)
            yield from random.permutation(photos.repeat(times)).tolist()


def mixture_sampler(name: str, threshold: float = 0.0) -> partial:
    """For `dataloader.train.sampler`: the sampler of a registered mixture, made when it has been read.

    Args:
        name: of `register_mixture`.
        threshold: of repeat factors within each set, see `repeat_factor_sampler`; 0 for none.
    """
    return partial(_mixture_sampler, name=name, threshold=threshold)


def _mixture_sampler(
    dicts: Sequence[Mapping[str, Any]], *, name: str, threshold: float, seed: int = 0
) -> MixtureSampler:
    set_indices = [record[SET_KEY] for record in dicts]
    factors = np.ones(len(dicts))
    for number in sorted(set(set_indices)):
        where = [position for position, of in enumerate(set_indices) if of == number]
        of_set = [dicts[position] for position in where]
        factors[where] = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(of_set, threshold)
    shares = [each.share for each in MetadataCatalog.get(name).mixture.sets]
    return MixtureSampler(set_indices, shares, factors, seed=seed)
