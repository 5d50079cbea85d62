"""Objects365's validation sets (v1 and v2) as the transfer evaluation reads them.

Class names lose misspellings and spaces around them. Releases and unpacked archives differ in where photos are
("images/v1/patch8/x.jpg", "patch8/x.jpg", "x.jpg"), so each is looked up by its name in the folder of photos.
Annotations are numbered from 1: ids repeat in some releases, and pycocotools takes an object with id 0 for undetected.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from ovdet.data.coco import check_coco, read_json, refuse_missing_photos, write_json
from ovdet.errors import InputError
from preparing.class_names import ClassNames, load_class_names
from preparing.counts import Count, check_counts, check_inputs

SOURCE = "https://www.objects365.org"
COUNTS = {1: {"photos": 30_000, "classes": 365}, 2: {"photos": 80_000, "classes": 365}}


def prepare_objects365(
    annotations: Path,
    photos: Path,
    names: Path,
    output: Path,
    *,
    counts: Mapping[str, int],
    skip_missing: bool = False,
) -> list[Count]:
    """Write the json of a validation set.

    Args:
        annotations: the official json.
        photos: the folder of photos; `file_name` is written relative to it.
        names: a json of class names (see class_names.py).
        output: the file to write.
        counts: the known counts, such as COUNTS[1].
        skip_missing: leave out photos that are not there; else they are refused.

    Returns:
        The report.

    Raises:
        InputError: a file is missing or not Objects365's, counts differ, photos are missing, or the place cannot be
            written to.
    """
    check_inputs([annotations], SOURCE)
    class_names = load_class_names(names)
    if not photos.is_dir():
        raise InputError(f"expected a folder of photos, {photos} does not exist or is not a folder")
    content = read_json(annotations, "Objects365's annotations", progress=True)
    if isinstance(content, dict) and isinstance(content.get("annotations"), list):
        content["annotations"] = [
            {**entry, "id": number} for number, entry in enumerate(content["annotations"], start=1)
        ]
    check_coco(content, annotations)
    found = {"photos": len(content["images"]), "classes": len(content["categories"])}
    report = check_counts(annotations, found, counts)
    content["categories"] = correct_categories(content["categories"], class_names, annotations)
    places = find_photos([image["file_name"] for image in content["images"]], photos)
    absent = [image["file_name"] for image, place in zip(content["images"], places, strict=True) if place is None]
    if not skip_missing or len(absent) == len(places):
        refuse_missing_photos([PurePosixPath(name).name for name in absent], len(places), photos)
    content = _with_places(content, places)
    check_coco(content, annotations)  # corrected names differ
    write_json(output, content)
    kept = {"photos kept": len(content["images"]), "annotations kept": len(content["annotations"])}
    return report + check_counts(annotations, kept, {})


def correct_categories(
    categories: Sequence[dict[str, Any]], names: ClassNames, path: str | Path
) -> list[dict[str, Any]]:
    """Categories in the order of their ids, with better names.

    Raises:
        InputError: the names, in the order of the ids, are not those of the official release.
    """
    categories = sorted(categories, key=lambda category: category["id"])
    official = [category["name"].strip() for category in categories]
    differing = [pair for pair in zip(names.classes, official, strict=False) if pair[0] != pair[1]]
    if differing:
        raise InputError(f"expected class {differing[0][0]!r} of the official {path}, got {differing[0][1]!r}")
    return [{**category, "name": names.correct(category["name"])} for category in categories]


def find_photos(file_names: Sequence[str], folder: Path) -> list[str | None]:
    """The places of photos: files of the same name, in the subfolder that most of the given path agrees with.

    Args:
        file_names: with any folders before the name.
        folder: looked through with all that is below it, linked folders too.

    Returns:
        Paths relative to `folder`, None for a photo that is not there.
    """
    by_name = defaultdict(list)
    seen = set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:  # a link into what was looked through, or in a circle
            folders.clear()
            continue
        seen.add(real)
        for file in files:
            by_name[file].append(PurePosixPath(Path(parent, file).relative_to(folder).as_posix()))
    return [_closest(by_name.get(PurePosixPath(name).name, []), PurePosixPath(name)) for name in file_names]


def _closest(places: Sequence[PurePosixPath], name: PurePosixPath) -> str | None:
    if not places:
        return None
    return str(max(places, key=lambda place: len(os.path.commonprefix([place.parts[::-1], name.parts[::-1]]))))


def _with_places(content: dict[str, Any], places: Sequence[str | None]) -> dict[str, Any]:
    """The json with the photos that have a place, and their annotations."""
    images = [
        {**image, "file_name": place}
        for image, place in zip(content["images"], places, strict=True)
        if place is not None
    ]
    kept = {image["id"] for image in images}
    annotations = [annotation for annotation in content["annotations"] if annotation["image_id"] in kept]
    return {**content, "images": images, "annotations": annotations}
