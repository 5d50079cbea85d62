"""The built-in data sets (OV-COCO, OV-LVIS, COCO, Objects365, VOC) by their registered names.

Importing this module makes every name known to detectron2's DatasetCatalog; the files are read when one is asked for.
`voc_2007_test` takes the place of detectron2's data set of that name, which counts objects marked as difficult.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from detectron2.data import DatasetCatalog, MetadataCatalog

from ovdet.data.dataset import EVALUATOR_TYPE, register_coco_subsets
from ovdet.data.root import datasets_root
from ovdet.errors import InputError

LVIS_EVALUATOR_TYPE = "ovdet_lvis"


class Builtin(NamedTuple):
    """Files of a built-in data set, relative to the folder of all data sets, and arguments of load_coco_subsets."""

    json_file: str
    images: str
    remedy: str  # where json_file and split come from
    split: str | None = None
    subsets: tuple[str, ...] = ("base",)
    is_train: bool = False
    filter_empty: bool = False
    evaluator_type: str = EVALUATOR_TYPE


_COCO = partial(
    Builtin,
    remedy="run python datasets/prepare_ov_coco.py",
    split="coco/annotations/ov_coco_2017_split.json",
    filter_empty=True,
)
_LVIS = partial(
    Builtin,
    images="coco",  # LVIS's photos are COCO's: the folder of train2017 and val2017
    remedy="run python datasets/prepare_ov_lvis.py",
    split="lvis/ov_lvis_v1_split.json",
    evaluator_type=LVIS_EVALUATOR_TYPE,
)
BASE_AND_NOVEL = ("base", "novel")
BUILTIN = {
    "ov_coco_2017_train": _COCO("coco/annotations/ov_coco_2017_train.json", "coco/train2017", is_train=True),
    "ov_coco_2017_val": _COCO("coco/annotations/ov_coco_2017_val.json", "coco/val2017", subsets=BASE_AND_NOVEL),
    "ov_lvis_v1_train": _LVIS("lvis/ov_lvis_v1_train.json", is_train=True, filter_empty=True),
    "ov_lvis_v1_val": _LVIS("lvis/ov_lvis_v1_val.json", subsets=BASE_AND_NOVEL),
    # transfer: the whole vocabulary is new, so that base and novel are not told apart
    "voc_2007_test": Builtin("VOC2007/voc_2007_test.json", "VOC2007/JPEGImages", "run python datasets/prepare_voc.py"),
    "coco80_2017_val": Builtin(
        "coco/annotations/instances_val2017.json", "coco/val2017", "it is one of COCO's own annotation files"
    ),
    "objects365_v1_val": Builtin(
        "objects365_v1/annotations/objects365_v1_val.json",
        "objects365_v1/val",
        "run python datasets/prepare_objects365.py --version 1",
    ),
    "objects365_v2_val": Builtin(
        "objects365_v2/annotations/objects365_v2_val.json",
        "objects365_v2/val",
        "run python datasets/prepare_objects365.py --version 2",
    ),
}


def register_builtin(name: str, root: str | Path | None = None) -> str:
    """Read a data set and register it, with its metadata, in detectron2's catalogs.

    Args:
        name: a key of BUILTIN.
        root: see datasets_root.

    Returns:
        `name`.

    Raises:
        InputError: an unknown name; a file is missing (the message says what writes it); what the json, the split or
            the photos lack (see load_coco_subsets); or `name` was registered with another root before.
    """
    if name not in BUILTIN:
        raise InputError(f"expected a data set out of {', '.join(BUILTIN)}, got {name!r}")
    entry, folder = BUILTIN[name], datasets_root(root)
    split = None if entry.split is None else folder / entry.split
    _check_files(entry, [folder / entry.json_file, *([split] if split else [])])
    pending = name in _pending
    if pending:
        DatasetCatalog.remove(name)
    try:
        register_coco_subsets(
            name,
            folder / entry.json_file,
            folder / entry.images,
            split,
            entry.subsets,
            is_train=entry.is_train,
            filter_empty=entry.filter_empty,
            evaluator_type=entry.evaluator_type,
        )
    except InputError:
        if pending:
            _announce(name)
        raise
    _pending.discard(name)
    return name


def _check_files(entry: Builtin, files: list[Path]) -> None:
    missing = [str(file) for file in files if not file.is_file()]
    if missing:
        raise InputError(
            f"expected {' and '.join(missing)}, not there: {entry.remedy}, or set DETECTRON2_DATASETS "
            "(see datasets/README.md)"
        )


def _load(name: str) -> list[dict[str, Any]]:
    """Register a name when the catalog is first asked for it, and give its dataset dicts."""
    return DatasetCatalog.get(register_builtin(name))


def _announce(name: str) -> None:
    """Make a name known to the catalog; nothing is read."""
    if name in DatasetCatalog:  # detectron2's own voc_2007_test
        DatasetCatalog.remove(name)
        MetadataCatalog.pop(name, None)
    DatasetCatalog.register(name, partial(_load, name))
    _pending.add(name)


_pending: set[str] = set()
for _name in BUILTIN:
    _announce(_name)
