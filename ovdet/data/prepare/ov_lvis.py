"""OV-LVIS (LVIS v1: frequent and common classes are base, rare ones novel) from LVIS's own annotation files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ovdet.data.coco_json import check_coco, read_json, write_json
from ovdet.data.prepare.counts import Count, check_counts, check_inputs
from ovdet.errors import InputError

SOURCE = "https://www.lvisdataset.org/dataset"
SUBSET_OF_FREQUENCY = {"f": "base", "c": "base", "r": "novel"}
_CLASSES = {"base classes": 866, "novel classes": 337}
COUNTS = {"val": {"photos": 19_809, **_CLASSES}, "train": {"photos": 100_170, **_CLASSES}}


def prepare_ov_lvis(
    annotations: Path, output: Path, *, counts: Mapping[str, Mapping[str, int]] | None = None
) -> list[Count]:
    """Write ov_lvis_v1_{train,val,split}.json.

    Training keeps all photos and categories and loses the annotations of rare classes. Evaluation keeps everything:
    what LVIS says of each photo (`neg_category_ids`, `not_exhaustive_category_ids`) is needed to judge detections.

    Args:
        annotations: the folder of lvis_v1_{train,val}.json.
        output: the folder to write to.
        counts: the known counts; None for COUNTS.

    Returns:
        The report.

    Raises:
        InputError: a file is missing or not LVIS's, counts differ, or the place cannot be written to.
    """
    counts = COUNTS if counts is None else counts
    check_inputs([annotations / f"lvis_v1_{part}.json" for part in ("train", "val")], SOURCE)
    report, splits = [], []
    for part in ("val", "train"):  # the short file first: what is wrong shows soon
        path = annotations / f"lvis_v1_{part}.json"
        content = read_json(path, "LVIS's annotations", progress=True)
        check_coco(content, path)
        split = split_by_frequency(content["categories"], path)
        kept = content if part == "val" else drop_classes(content, split["novel"])
        found = {
            "photos": len(kept["images"]),
            "base classes": len(split["base"]),
            "novel classes": len(split["novel"]),
            "annotations": len(content["annotations"]),
            "annotations kept": len(kept["annotations"]),
        }
        report += check_counts(path, found, counts[part])
        splits.append(split)
        if splits[0] != split:
            raise InputError(
                f"expected the same frequencies in lvis_v1_train.json and lvis_v1_val.json of {annotations}"
            )
        write_json(output / f"ov_lvis_v1_{part}.json", kept)
    source = "LVIS v1, frequency of each category: frequent and common are base, rare is novel (arXiv:2104.13921)"
    write_json(output / "ov_lvis_v1_split.json", {"source": source, **splits[0]})
    return report


def split_by_frequency(categories: list[dict[str, Any]], path: str | Path) -> dict[str, list[str]]:
    """Class names by subset, in the order of the categories.

    Args:
        categories: of a json of LVIS, with `name` and `frequency` ("f", "c" or "r").
        path: where they were read, for the message.

    Raises:
        InputError: a category without frequency.
    """
    split: dict[str, list[str]] = {"base": [], "novel": []}
    for category in categories:
        subset = SUBSET_OF_FREQUENCY.get(category.get("frequency"))
        if subset is None:
            raise InputError(
                f"expected frequency f, c or r of each category in {path}, "
                f"got {category.get('frequency')!r} of {category['name']}"
            )
        split[subset].append(category["name"])
    return split


def drop_classes(content: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """A COCO-format json without the annotations of some classes; photos and categories stay."""
    dropped = {category["id"] for category in content["categories"] if category["name"] in set(names)}
    kept = [annotation for annotation in content["annotations"] if annotation["category_id"] not in dropped]
    return {**content, "annotations": kept}
