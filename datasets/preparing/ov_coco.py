"""OV-COCO (48 base, 17 novel classes of COCO 2017) from COCO's own annotation files.

The protocol of OVR-CNN: training knows base annotations alone and the photos that have one; evaluation has the base and
novel annotations and the photos that have one. Crowd annotations count as annotations here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ovdet.data.coco import check_coco, listed, read_json, write_json
from ovdet.data.splits import load_split
from ovdet.errors import InputError
from ovdet.text.class_names import with_nearest
from preparing.counts import Count, check_counts, check_inputs

SOURCE = "https://cocodataset.org/#download"
PARTS = {"val": ("base", "novel"), "train": ("base",)}  # the short file first: what is wrong shows soon
COUNTS = {
    "split": {"base classes": 48, "novel classes": 17},
    "val": {"photos": 5_000, "photos kept": 4_836},
    "train": {"photos": 118_287, "photos kept": 107_761},
}


def prepare_ov_coco(
    annotations: Path,
    split: Path,
    output: Path,
    *,
    captions: bool = True,
    counts: Mapping[str, Mapping[str, int]] | None = None,
) -> list[Count]:
    """Write ov_coco_2017_{train,val,split}.json, and the captions of the same photos.

    Args:
        annotations: the folder of instances_{train,val}2017.json and captions_{train,val}2017.json.
        split: the split json; its ignored classes are left out wholly.
        output: the folder to write to.
        captions: write ov_coco_2017_captions_{train,val}.json too.
        counts: the known counts; None for COUNTS.

    Returns:
        The report.

    Raises:
        InputError: a file is missing or not COCO's, counts differ, the split does not fit, or the place cannot be
            written to.
    """
    counts = COUNTS if counts is None else counts
    kinds = ("instances", "captions") if captions else ("instances",)
    check_inputs([annotations / f"{kind}_{part}2017.json" for part in PARTS for kind in kinds], SOURCE)
    named = load_split(split)
    report = check_counts(split, {f"{subset} classes": len(named[subset]) for subset in ("base", "novel")},
                          counts["split"])  # fmt: skip
    for part, subsets in PARTS.items():
        path = annotations / f"instances_{part}2017.json"
        content = read_json(path, "COCO's annotations", progress=True)
        kept = limit_classes(content, named["base"] + named["novel"], [n for s in subsets for n in named[s]], path)
        found = {
            "photos": len(content["images"]),
            "photos kept": len(kept["images"]),
            "annotations": len(content["annotations"]),
            "annotations kept": len(kept["annotations"]),
        }
        report += check_counts(path, found, counts[part])
        write_json(output / f"ov_coco_2017_{part}.json", kept)
        if captions:
            image_ids = [image["id"] for image in kept["images"]]
            report += _prepare_captions(part, image_ids, annotations, output)
    source = read_json(split, "a split json").get("source", str(split))
    write_json(output / "ov_coco_2017_split.json", {"source": source, "base": named["base"], "novel": named["novel"]})
    return report


def limit_classes(
    content: dict[str, Any], classes: Collection[str], annotated: Collection[str], path: str | Path
) -> dict[str, Any]:
    """A COCO-format json with some of its classes, the annotations of some of these, and the photos of those.

    Args:
        content: the parsed json.
        classes: names of the categories to keep, in their old order with their old ids.
        annotated: names of the classes whose annotations to keep.
        path: where `content` was read, for the messages.

    Returns:
        The limited json; entries are those of `content`.

    Raises:
        InputError: `content` is not COCO's format, or lacks a class.
    """
    names = check_coco(content, path).names
    unknown = sorted(set(classes) - set(names.values()))
    if unknown:
        told = listed(with_nearest(unknown, names.values()))
        raise InputError(f"expected the split's classes in {path}, it does not have: {told}")
    chosen = {category_id for category_id, name in names.items() if name in set(annotated)}
    annotations = [annotation for annotation in content["annotations"] if annotation["category_id"] in chosen]
    image_ids = {annotation["image_id"] for annotation in annotations}
    return {
        **content,
        "images": [image for image in content["images"] if image["id"] in image_ids],
        "annotations": annotations,
        "categories": [category for category in content["categories"] if category["name"] in set(classes)],
    }


def _prepare_captions(part: str, image_ids: Collection[Any], annotations: Path, output: Path) -> list[Count]:
    path = annotations / f"captions_{part}2017.json"
    kept = limit_captions(read_json(path, "COCO's captions", progress=True), image_ids, path)
    described = {caption["image_id"] for caption in kept["annotations"]}
    found = {"photos with captions": len(described), "captions kept": len(kept["annotations"])}
    report = check_counts(path, found, {"photos with captions": len(image_ids)})
    write_json(output / f"ov_coco_2017_captions_{part}.json", kept)
    return report


def limit_captions(content: Any, image_ids: Collection[Any], path: str | Path) -> dict[str, Any]:
    """COCO's captions of some photos.

    Args:
        content: the parsed json, {"images": [{"id"}], "annotations": [{"id", "image_id", "caption"}]}.
        image_ids: of the photos to keep.
        path: where `content` was read, for the messages.

    Raises:
        InputError: `content` is something else.
    """
    chosen = set(image_ids)
    try:
        images = [image for image in content["images"] if image["id"] in chosen]
        captions = [entry for entry in content["annotations"] if entry["image_id"] in chosen and entry["caption"]]
    except (KeyError, TypeError) as error:
        raise InputError(
            f"expected COCO's captions (images, annotations with image_id and caption), got {path}"
        ) from error
    return {**content, "images": images, "annotations": captions}
