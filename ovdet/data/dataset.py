"""COCO-format jsons with base, novel and ignored classes as detectron2 datasets.

The subsets come from a small split json (see splits.py).
What is not asked for never leaves the loader, so novel annotations cannot reach training by way of a later filter.
"""

from __future__ import annotations

import logging
import os
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from detectron2.utils import comm

from ovdet.data.coco import CocoJson, is_degenerate, listed, read_coco_json, refuse_missing_photos, usable_segmentation
from ovdet.data.images import check_size, photo_size
from ovdet.data.samplers import count_photos
from ovdet.data.splits import SUBSETS, load_split
from ovdet.errors import InputError
from ovdet.text.class_names import normalize_class_name, with_nearest

logger = logging.getLogger(__name__)

EVALUATOR_TYPE = "ovdet_coco"


class CocoSubsets(NamedTuple):
    """A dataset limited to some subsets of its classes."""

    dicts: list[dict[str, Any]]  # detectron2's format; category_id indexes thing_classes; boxes XYWH in original pixels
    thing_classes: list[str]  # classes of the asked subsets in the order of the json's category ids
    dataset_id_to_contiguous_id: dict[int, int]  # json category id -> index into thing_classes
    base_classes: list[str]  # all base classes of the split, asked for or not, in the same order; [] without a split
    novel_classes: list[str]


def load_coco_subsets(
    json_file: str | Path,
    image_root: str | Path,
    split: str | Path | None = None,
    subsets: Sequence[str] = ("base",),
    *,
    is_train: bool = False,
    filter_empty: bool = True,
) -> CocoSubsets:
    """Load a COCO-format json, limited to the annotations of some subsets.

    Boxes without area or wholly outside their photo are left out and counted in one warning; the evaluator reads the
    json itself, so this does not touch evaluation.

    Args:
        json_file: COCO-format annotations. The photo's name is `file_name`, or as in LVIS the end of `coco_url`.
        image_root: the folder that `file_name` is relative to.
        split: a split json (see `load_split`); classes of the json that it does not name are ignored. None counts every
            class as asked for by "base", and tells no subsets apart: `base_classes` is then empty.
        subsets: which of "base", "novel", "ignored" to keep.
        is_train: leave crowd annotations out (kept with iscrowd = 1 otherwise).
        filter_empty: drop images without a kept annotation. This is the OV-COCO protocol (OVR-CNN) for training
            (107,761 images of train2017 have a base annotation, those with nothing but crowds counted) and for
            evaluation (4,836 of the 5,000 of val2017 have a base or novel annotation, crowds counted). False keeps
            all 5,000, as in BARON, and changes the figures.

    Raises:
        InputError: the json is not COCO's format, the split does not fit it, or photos are missing.
    """
    _check_subsets(subsets)
    coco = read_coco_json(json_file, progress=comm.is_main_process())
    names_by_subset = _assign_subsets(coco, split)
    asked = {name for subset in subsets for name in names_by_subset[subset]}
    category_ids = [category_id for category_id, name in coco.names.items() if name in asked]
    if not category_ids:
        raise InputError(f"expected classes in the subsets {', '.join(subsets)} of {json_file}, there are none")
    to_contiguous = {category_id: index for index, category_id in enumerate(category_ids)}
    dicts = _build_dicts(coco, Path(image_root), to_contiguous, is_train=is_train, filter_empty=filter_empty)
    if not dicts:
        wanted = f"annotations of {', '.join(subsets)}" if split is not None else "annotations"
        raise InputError(f"expected images with {wanted} in {json_file}, there are none")
    check_within([coco.images[record["image_id"]]["file_name"] for record in dicts], image_root, json_file)
    for record, file in zip(dicts, find_photos([record["file_name"] for record in dicts], image_root), strict=True):
        record["file_name"] = file
    logger.info("%s: %d of %d images, %d classes (%s)", json_file, len(dicts), len(coco.images), len(category_ids),
                " + ".join(subsets))  # fmt: skip
    return CocoSubsets(
        dicts,
        [coco.names[category_id] for category_id in category_ids],
        to_contiguous,
        [] if split is None else names_by_subset["base"],
        names_by_subset["novel"],
    )


def _check_subsets(subsets: Sequence[str]) -> None:
    if isinstance(subsets, str) or not subsets or len(set(subsets)) != len(subsets) or set(subsets) - set(SUBSETS):
        raise InputError(f"expected subsets to be a list out of {', '.join(SUBSETS)}, each once, got {subsets!r}")


def _assign_subsets(coco: CocoJson, split: str | Path | None) -> dict[str, list[str]]:
    """The json's class names by subset, each list in the order of the category ids."""
    if split is None:
        return {"base": list(coco.names.values()), "novel": [], "ignored": []}
    named = load_split(split)
    known = {normalize_class_name(name) for name in coco.names.values()}
    unknown = sorted(name for names in named.values() for name in names if normalize_class_name(name) not in known)
    if unknown:
        told = listed(with_nearest(unknown, coco.names.values()))
        raise InputError(f"expected {split} to name classes of {coco.path}, it does not have: {told}")
    subset_of = {normalize_class_name(name): subset for subset, names in named.items() for name in names}
    subsets = {name: subset_of.get(normalize_class_name(name)) for name in coco.names.values()}
    unnamed = [name for name, subset in subsets.items() if subset is None]
    if unnamed:
        logger.info("%s does not name these classes of %s, they are ignored: %s", split, coco.path, listed(unnamed))
    return {subset: [name for name, found in subsets.items() if (found or "ignored") == subset] for subset in SUBSETS}


def _build_dicts(
    coco: CocoJson, image_root: Path, to_contiguous: Mapping[int, int], *, is_train: bool, filter_empty: bool
) -> list[dict[str, Any]]:
    """detectron2's dataset dicts in the order of the image ids; see load_coco_subsets for what is dropped."""
    annotations: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for annotation in coco.annotations:
        if annotation["category_id"] in to_contiguous and not (is_train and annotation.get("iscrowd", 0)):
            annotations[annotation["image_id"]].append(annotation)
    dicts = []
    num_degenerate = 0
    for image_id, image in coco.images.items():
        of_image = annotations.get(image_id, [])
        kept = [annotation for annotation in of_image if not is_degenerate(annotation["bbox"], image)]
        num_degenerate += len(of_image) - len(kept)
        if filter_empty and not (kept if is_train else of_image):
            continue
        dicts.append(
            {
                "file_name": str(image_root / image["file_name"]),
                "image_id": image_id,
                "height": image["height"],
                "width": image["width"],
                "annotations": [
                    _convert_annotation(annotation, image, to_contiguous, coco.path) for annotation in kept
                ],
            }
        )
    if num_degenerate:
        logger.warning("%s: left out %d boxes without area or outside their photo", coco.path, num_degenerate)
    return dicts


def _convert_annotation(
    annotation: Mapping[str, Any], image: Mapping[str, Any], to_contiguous: Mapping[int, int], path: Path
) -> dict[str, Any]:
    record = {
        "bbox": [float(value) for value in annotation["bbox"]],
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": to_contiguous[annotation["category_id"]],
        "iscrowd": int(annotation.get("iscrowd", 0)),
    }
    if annotation.get("score") is not None:
        record["score"] = float(annotation["score"])
    if annotation.get("segmentation"):
        record["segmentation"] = usable_segmentation(
            annotation["segmentation"], image, f"annotation {annotation['id']!r} in {path}"
        )
    return record


def check_within(names: Sequence[str], image_root: str | Path, json_file: str | Path) -> None:
    """Refuse photos outside of their folder: a json from somewhere else must not choose which files are read.

    Args:
        names: `file_name` of each photo, as the json has them. A link within the folder may lead anywhere.
        image_root: the folder that they are relative to; "/" allows all absolute names.
        json_file: for the message.

    Raises:
        InputError: a name that leads out of the folder.
    """
    root = os.path.join(os.path.abspath(image_root), "")
    outside = [name for name in names if not os.path.abspath(os.path.join(root, name)).startswith(root)]
    if outside:
        raise InputError(f"expected photos of {json_file} below {image_root}, got {listed(outside)}")


def check_sizes(dicts: Sequence[Mapping[str, Any]]) -> None:
    """Refuse photos that are not of the sizes that their json says, by their headers.

    Args:
        dicts: each with the file_name of a photo, height and width. Of a photo that cannot be read its reader tells.

    Raises:
        InputError: a photo of another size.
    """
    for record in dicts:
        try:
            actual = photo_size(record["file_name"])
        except InputError:
            continue
        check_size(actual, (record["height"], record["width"]), record["file_name"])


def find_photos(files: Sequence[str], image_root: str | Path) -> list[str]:
    """The photos of a data set as their folders spell them; each folder is listed once.

    A Mac writes "é" as two characters (Unicode NFD) into file names, most tools as one (NFC) into jsons: where no file
    has the very name, one whose name is the same text is taken.

    Args:
        files: paths as the json has them.
        image_root: the folder of all.

    Raises:
        InputError: the folder is missing, or photos are (see refuse_missing_photos).
    """
    if not os.path.isdir(image_root):
        raise InputError(f"expected a folder of photos, {image_root} does not exist or is not a folder")
    present: dict[str, dict[str, str]] = {}
    found, missing = [], []
    for file in files:
        folder, name = os.path.split(file)
        if folder not in present:
            names = [entry.name for entry in os.scandir(folder)] if os.path.isdir(folder) else []
            present[folder] = {unicodedata.normalize("NFC", each): each for each in names}
            present[folder].update((each, each) for each in names)
        spelt = present[folder].get(name) or present[folder].get(unicodedata.normalize("NFC", name))
        found.append(os.path.join(folder, spelt or name))
        missing += [] if spelt else [file]
    refuse_missing_photos(missing, len(files), image_root)
    return found


def register_coco_subsets(
    name: str,
    json_file: str | Path,
    image_root: str | Path,
    split: str | Path | None = None,
    subsets: Sequence[str] = ("base",),
    *,
    is_train: bool = False,
    filter_empty: bool = True,
    evaluator_type: str = EVALUATOR_TYPE,
) -> str:
    """Register a dataset in detectron2's catalogs; all but the last of the arguments are those of `load_coco_subsets`.

    The json is read now, so that a mistake shows at once. Metadata: `thing_classes`,
    `thing_dataset_id_to_contiguous_id`, `base_classes`, `novel_classes`, `json_file`, `image_root`,
    `class_image_count`, `evaluator_type`.
    Registering again with the same arguments does nothing.

    Returns:
        `name`.

    Raises:
        InputError: as `load_coco_subsets`; or the name is taken by another dataset.
    """
    source = _Source(str(json_file), str(image_root), None if split is None else str(split), tuple(subsets), is_train,
                     filter_empty)  # fmt: skip
    metadata = MetadataCatalog.get(name)
    if name in DatasetCatalog:
        registered = metadata.get("source")
        if registered == source:
            return name
        other = registered or "another dataset"
        raise InputError(f"expected a new dataset name, {name!r} is already registered as {other}")
    loaded = source.load()
    metadata.set(
        source=source,
        thing_classes=loaded.thing_classes,
        thing_dataset_id_to_contiguous_id=loaded.dataset_id_to_contiguous_id,
        base_classes=loaded.base_classes,
        novel_classes=loaded.novel_classes,
        json_file=source.json_file,
        image_root=source.image_root,
        class_image_count=count_photos(loaded.dicts, len(loaded.thing_classes)),
        evaluator_type=evaluator_type,
    )
    DatasetCatalog.register(name, _once_then_again(loaded.dicts, source))
    return name


def training_classes(dataset_name: str) -> list[str]:
    """The class names of a registered data set, in the order of its contiguous ids."""
    return list(MetadataCatalog.get(dataset_name).thing_classes)


class _Source(NamedTuple):
    """The arguments of load_coco_subsets; two datasets are the same when these are."""

    json_file: str
    image_root: str
    split: str | None
    subsets: tuple[str, ...]
    is_train: bool
    filter_empty: bool

    def load(self) -> CocoSubsets:
        *arguments, is_train, filter_empty = self
        return load_coco_subsets(*arguments, is_train=is_train, filter_empty=filter_empty)


def _once_then_again(dicts: list[dict[str, Any]], source: _Source) -> Callable[[], list[dict[str, Any]]]:
    """A loader for the catalog: the dicts that registration has read, then on later calls the file anew."""
    pending = [dicts]

    def get() -> list[dict[str, Any]]:
        return pending.pop() if pending else source.load().dicts

    return get
