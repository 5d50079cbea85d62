"""The one reader of COCO-format jsons, which says in one line what is wrong with a file; and a writer."""

from __future__ import annotations

import itertools
import json
import logging
import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
import numpy as np
import pycocotools.mask as mask_util

from ovdet.errors import InputError
from ovdet.files import atomic_writer
from ovdet.progress import passing_bar
from ovdet.text.class_names import normalize_class_name
from ovdet.typed import checked

logger = logging.getLogger(__name__)

LARGE = 50_000_000  # characters; parsing takes a second or two
MANY = 100_000  # entries; writing takes a second or two
_LONGEST_RUN = 6  # characters of a number in compressed RLE: 30 bits, more pixels than a photo has
PIECE = 2000  # entries of a list that are written at once


Number = Annotated[float, msgspec.Meta(ge=-1e9, le=1e9)]
_Pixels = Annotated[float, msgspec.Meta(ge=1, le=1e6)]


class _Image(msgspec.Struct):
    id: int | str
    height: _Pixels
    width: _Pixels
    file_name: str | None = None
    coco_url: str | None = None


class _Category(msgspec.Struct):
    id: int
    name: str
    supercategory: Any = None
    frequency: Literal["r", "c", "f"] | None = None


class _Annotation(msgspec.Struct):
    id: int | str
    image_id: int | str
    category_id: int
    bbox: tuple[Number, Number, Number, Number]
    iscrowd: Literal[0, 1] | bool | None = None
    area: Annotated[float, msgspec.Meta(ge=-1e12, le=1e12)] | None = None
    score: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None  # of a pseudo-label: how sure a detector was


class _Coco(msgspec.Struct):
    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[_Category]


class CocoJson(NamedTuple):
    """A checked COCO-format json."""

    path: Path
    images: dict[Any, dict[str, Any]]  # by image id, in the order of the ids; each with file_name, height, width
    annotations: list[dict[str, Any]]  # each with image_id, category_id, bbox of four finite numbers (XYWH)
    names: dict[int, str]  # class name by category id, in the order of the ids
    frequencies: dict[int, str]  # LVIS's "r", "c" or "f" by category id; empty where the json has none


def read_json(path: str | Path, what: str, *, progress: bool = False) -> Any:
    """Parse a json file.

    Args:
        path: the file.
        what: what the file should be, for the message ("a split json").
        progress: show a bar where the file is so large that parsing takes seconds.

    Raises:
        InputError: the file is missing or not json.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
        return _parse_with_bar(text, Path(path).name) if progress and len(text) > LARGE else json.loads(text)
    except OSError as error:
        raise InputError(f"expected {what}, {path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"expected {what}, {path} is not json: {error}") from error


def _parse_with_bar(text: str, name: str) -> Any:
    """json.loads with a progress bar, which counts the objects that are parsed."""
    every = 4096
    numbers = itertools.count(1)
    with passing_bar() as bar:
        task = bar.add_task(f"reading {name}", total=text.count("{"))

        def count(entry: dict[str, Any]) -> dict[str, Any]:
            if next(numbers) % every == 0:
                bar.advance(task, every)
            return entry

        return json.loads(text, object_hook=count)


def read_coco_json(path: str | Path, *, progress: bool = False) -> CocoJson:
    """Read and check a COCO-format json.

    Args:
        path: the file.
        progress: see read_json.

    Raises:
        InputError: it is no json, a part is missing or repeated, or an annotation names what is not there.
    """
    return check_coco(read_json(path, "a COCO-format json", progress=progress), path)


def write_json(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write a json object atomically, with a progress bar where it is large.

    Raises:
        InputError: the place cannot be written to.
    """
    total = sum(len(value) for value in content.values() if isinstance(value, list))
    with atomic_writer(path) as stream, passing_bar(shown=total >= MANY) as bar:
        task = bar.add_task(f"writing {Path(path).name}", total=total)
        for position, (key, value) in enumerate(content.items()):
            stream.write(f"{',' if position else '{'}{json.dumps(key)}:".encode())
            if not isinstance(value, list):
                stream.write(_compact(value))
                continue
            stream.write(b"[")
            for start in range(0, len(value), PIECE):
                stream.write((b",\n" if start else b"") + _compact(value[start : start + PIECE])[1:-1])
                bar.advance(task, PIECE)
            stream.write(b"]")
        stream.write(b"}\n")


def _compact(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def check_coco(content: Any, path: str | Path) -> CocoJson:
    """Check the content of a COCO-format json; images without `file_name` get the end of their `coco_url` (LVIS).

    Args:
        content: the parsed json; images and annotations of the result are its own.
        path: where it was read, for the messages.

    Raises:
        InputError: as of read_coco_json.
    """
    checked(content, _Coco, "a COCO-format json", path)
    images = _images_by_id(content["images"], path)
    categories = _without_root(content["categories"], content["annotations"], path)
    names = _names_by_id(categories, path)
    _check_annotations(content["annotations"], images, names, path)
    frequencies = {each["id"]: each["frequency"] for each in categories if each.get("frequency")}
    return CocoJson(Path(path), images, content["annotations"], names, frequencies)


def _images_by_id(images: Sequence[dict[str, Any]], path: str | Path) -> dict[Any, dict[str, Any]]:
    for image in images:
        if image.get("file_name") is None and image.get("coco_url"):  # LVIS: .../val2017/000000397133.jpg
            image["file_name"] = "/".join(image["coco_url"].split("/")[-2:])
    _check_unique([image["id"] for image in images], "image id", path)
    for image in images:
        if image.get("file_name") is None:
            raise InputError(f"expected a file_name or a coco_url of image {image['id']!r} in {path}, got none")
        for key in ("height", "width"):
            if image[key] != int(image[key]):
                raise InputError(f"expected a whole {key} of image {image['id']!r} in {path}, got {image[key]!r}")
            image[key] = int(image[key])
    in_order = sorted(images, key=lambda image: (isinstance(image["id"], str), image["id"]))
    return {image["id"]: image for image in in_order}


def _without_root(
    categories: Sequence[dict[str, Any]], annotations: Sequence[dict[str, Any]], path: str | Path
) -> Sequence[dict[str, Any]]:
    """Without the heading that Roboflow puts before the classes, where one of them has its name: nothing is of it."""
    used = {str(annotation.get("category_id")) for annotation in annotations}
    above = {str(category.get("supercategory")) for category in categories}
    counts = Counter(normalize_class_name(str(category.get("name"))) for category in categories)
    kept = []
    for category in categories:
        name = str(category.get("name"))
        if counts[normalize_class_name(name)] > 1 and name in above and str(category.get("id")) not in used:
            logger.warning("%s: left out category %s, %r: a heading with the name of a class, and without an object",
                           path, category.get("id"), name)  # fmt: skip
            counts[normalize_class_name(name)] -= 1
        else:
            kept.append(category)
    return kept


def _names_by_id(categories: Sequence[dict[str, Any]], path: str | Path) -> dict[int, str]:
    if not categories:
        raise InputError(f"expected categories in {path}, the list is empty")
    _check_unique([category["id"] for category in categories], "category id", path)
    names = {category["id"]: category["name"] for category in sorted(categories, key=lambda category: category["id"])}
    _check_names(names, path)
    return names


def _check_names(names: Mapping[int, str], path: str | Path) -> None:
    """Refuse classes that would be one to the detector, told with their ids as the json has them."""
    seen: dict[str, int] = {}
    for category_id, name in names.items():
        normal = normalize_class_name(name)
        if not normal:
            raise InputError(f"expected a name of category {category_id} in {path}, got {name!r}")
        first = seen.setdefault(normal, category_id)
        if first != category_id:
            raise InputError(
                f"expected classes with different names in {path}, got {names[first]!r} (category {first}) and "
                f"{name!r} (category {category_id}), which read alike: merge or rename one"
            )


def _check_annotations(
    annotations: Sequence[dict[str, Any]], images: Mapping[Any, Any], names: Mapping[int, str], path: str | Path
) -> None:
    _check_unique([annotation["id"] for annotation in annotations], "annotation id", path)
    for key, known in (("image_id", images), ("category_id", names)):
        unknown = sorted({str(annotation[key]) for annotation in annotations if annotation[key] not in known})
        if unknown:
            raise InputError(f"expected annotations of known {key}s in {path}, unknown: {listed(unknown)}")
    for annotation in annotations:
        for key in ("iscrowd", "area"):  # null says nothing, and -1 is what annotation tools write for it
            if annotation.get(key, 0) is None or (key == "area" and annotation.get(key, 0) < 0):
                del annotation[key]


def _check_unique(values: Sequence[Any], what: str, path: str | Path) -> None:
    repeated = [value for value, count in Counter(values).items() if count > 1]
    if repeated:
        raise InputError(f"expected each {what} once in {path}, repeated: {listed(repeated)}")


def refuse_missing_photos(missing: Sequence[str], total: int, image_root: str | Path) -> None:
    """Refuse a data set with missing images, and log each of them, or the folder that is missing.

    Args:
        missing: their paths; none is fine.
        total: how many photos there should be.
        image_root: the folder of photos, for the message.

    Raises:
        InputError: some are missing: how many, and the first of them.
    """
    if not missing:
        return
    folders = Counter(os.path.dirname(file) for file in missing)
    absent = [folder for folder in folders if folder and not os.path.isdir(folder)]
    for folder in absent:
        logger.error("missing folder with %d photos: %s", folders[folder], folder)
    for file in missing:
        if os.path.dirname(file) not in absent:
            logger.error("missing photo: %s", file)
    raise InputError(f"expected {total} photos in {image_root}, {len(missing)} are missing: {listed(missing)}")


def is_degenerate(box: Sequence[float], image: Mapping[str, Any]) -> bool:
    """Whether an XYWH box has no area or lies wholly outside its image (pixels)."""
    x, y, width, height = box
    has_area = width > 0 and height > 0
    touches = x < image["width"] and y < image["height"] and x + width > 0 and y + height > 0
    return not (has_area and touches)


def usable_segmentation(segmentation: Any, image: Mapping[str, Any], of: object = "an annotation") -> Any:
    """Polygons of at least three points, or a compressed RLE; an empty list where nothing is usable.

    What does not fit the photo is none: the C library behind it would write where it must not.

    Args:
        segmentation: of an annotation, as json has it.
        image: with height and width.
        of: the annotation, for the message.

    Raises:
        InputError: a number in it is not finite.
    """
    height, width = image["height"], image["width"]
    if isinstance(segmentation, dict):
        if not is_rle_of(segmentation, height, width):
            _refuse_non_finite(segmentation.values(), of)
            return []
        counts = segmentation["counts"]
        return mask_util.frPyObjects(segmentation, height, width) if isinstance(counts, list) else segmentation
    polygons = segmentation if isinstance(segmentation, list) else []
    usable = [points for points in polygons if _is_polygon_near(points, height, width)]
    if len(usable) < len(polygons):
        _refuse_non_finite(polygons, of)
    return usable


def _refuse_non_finite(parts: Iterable[Any], of: object) -> None:
    numbers = (value for part in parts if isinstance(part, list) for value in part if isinstance(value, float))
    odd = next((value for value in numbers if not math.isfinite(value)), None)
    if odd is not None:
        raise InputError(f"expected finite numbers in the segmentation of {of}, got {odd}")


def is_rle_of(segmentation: Any, height: int, width: int) -> bool:
    """Whether a json value is a run-length encoding of a photo of this size: its runs fill the photo exactly."""
    if not isinstance(segmentation, Mapping) or segmentation.get("size") != [height, width]:
        return False
    counts = segmentation.get("counts")
    if isinstance(counts, list):
        return all(type(run) is int and run >= 0 for run in counts) and sum(counts) == height * width
    if isinstance(counts, str) and counts.isascii():
        runs = _runs(counts.encode())
        return runs is not None and bool((runs >= 0).all()) and int(runs.sum()) == height * width
    return False


def _runs(counts: bytes) -> np.ndarray | None:
    """The run lengths in COCO's compressed RLE, int64; None where it is none.

    Each is a little-endian number of 5 bits a character, bit 32 for "more follows", the difference to the last run but
    one from the fourth on (pycocotools' rleFrString).
    """
    digits = np.frombuffer(counts, dtype=np.uint8).astype(np.int64) - 48
    if digits.size == 0 or digits.min() < 0 or digits.max() > 63 or digits[-1] & 32:
        return None
    is_last = (digits & 32) == 0
    ends = np.flatnonzero(is_last)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > _LONGEST_RUN:
        return None
    place = np.arange(digits.size) - np.repeat(starts, lengths)
    numbers = np.add.reduceat((digits & 31) << (5 * place), starts)
    numbers -= np.where(digits[ends] & 16, 1 << (5 * lengths), 0)
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers


def _is_polygon_near(points: Any, height: int, width: int) -> bool:
    """Three points or more, [x, y, x, y, ...], none further from the photo than its longer side."""
    if not isinstance(points, list) or len(points) % 2 or len(points) < 6:
        return False
    if not all(type(value) in (int, float) for value in points):
        return False
    longer = max(height, width)
    return -longer <= min(points) and max(points) <= 2 * longer and math.isfinite(sum(points))


def listed(values: Sequence[Any], limit: int = 5) -> str:
    """The first values as text, and how many there are, for a message of one line."""
    more = f", ... ({len(values)} in all)" if len(values) > limit else ""
    return ", ".join(str(value) for value in values[:limit]) + more
