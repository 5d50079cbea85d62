"""PASCAL VOC 2007's test set as a COCO-format json.

VOC counts pixels from 1 and gives the first and the last pixel of a box, so that (xmin, ymin, xmax, ymax) becomes
x = xmin - 1, y = ymin - 1, width = xmax - xmin + 1, height = ymax - ymin + 1, as in detectron2. Objects marked
"difficult" become crowds (`iscrowd` = 1), which every COCO evaluation leaves out of count: they are neither to be
found nor wrong to find. (A crowd is matched by the share of the detection that it covers, more kindly than VOC's own
overlap, and by any number of detections.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from rich.console import Console
from rich.progress import track

from ovdet.data.coco import write_json
from ovdet.errors import InputError
from preparing.class_names import ClassNames, load_class_names
from preparing.counts import Count, check_counts, check_inputs

SOURCE = "http://host.robots.ox.ac.uk/pascal/VOC/voc2007/"
COUNTS = {"photos": 4_952, "objects": 14_976, "difficult objects": 2_944, "classes": 20}


def prepare_voc(folder: Path, names: Path, output: Path, *, counts: Mapping[str, int] | None = None) -> list[Count]:
    """Write the json of VOC 2007's test set.

    Args:
        folder: VOC2007, with ImageSets/Main/test.txt and Annotations/.
        names: a json of class names (see class_names.py).
        output: the file to write.
        counts: the known counts; None for COUNTS.

    Returns:
        The report.

    Raises:
        InputError: a file is missing or not VOC's, counts differ, or the place cannot be written to.
    """
    list_file = folder / "ImageSets/Main/test.txt"
    check_inputs([list_file], SOURCE)
    stems = list_file.read_text(encoding="utf-8", errors="replace").split()
    files = [folder / "Annotations" / f"{stem}.xml" for stem in stems]
    check_inputs(files[:1], SOURCE)
    content = convert_voc(files, load_class_names(names))
    found = {
        "photos": len(content["images"]),
        "objects": len(content["annotations"]),
        "difficult objects": sum(annotation["iscrowd"] for annotation in content["annotations"]),
        "classes": len({annotation["category_id"] for annotation in content["annotations"]}),
    }
    report = check_counts(list_file, found, COUNTS if counts is None else counts)
    write_json(output, content)
    return report


def convert_voc(files: Sequence[Path], names: ClassNames) -> dict[str, Any]:
    """VOC's xml files, one a photo, as a COCO-format json.

    Args:
        files: in the order of the photos; a photo's id is the number that its file is named by.
        names: the classes, whose ids are 1, 2, ... in their order.

    Raises:
        InputError: naming the file that is missing or not VOC's.
    """
    ids = {name: number for number, name in enumerate(names.classes, start=1)}
    images, annotations = [], []
    for file in track(files, "reading xml files", console=Console(stderr=True), transient=True):
        try:
            image, of_image = _read_xml(file, ids)
        except OSError as error:
            raise InputError(f"expected a file of VOC, {file} cannot be read: {error.strerror or error}") from error
        except (ElementTree.ParseError, AttributeError, TypeError, ValueError, KeyError) as error:
            raise InputError(
                f"expected an annotation file of VOC, got {file}, which is something else: {error}"
            ) from error
        images.append(image)
        annotations += of_image
    for number, annotation in enumerate(annotations, start=1):
        annotation["id"] = number
    categories = [{"id": number, "name": names.correct(name)} for name, number in ids.items()]
    return {"images": images, "annotations": annotations, "categories": categories}


def _read_xml(file: Path, ids: Mapping[str, int]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The photo's entry and those of its objects, these without `id`."""
    root = ElementTree.parse(file).getroot()
    size = {key: int(root.find(f"size/{key}").text) for key in ("height", "width")}
    image = {"id": int(file.stem), "file_name": root.find("filename").text.strip(), **size}
    return image, [_convert_object(entry, image["id"], ids) for entry in root.findall("object")]


def _convert_object(entry: ElementTree.Element, image_id: int, ids: Mapping[str, int]) -> dict[str, Any]:
    x1, y1, x2, y2 = (float(entry.find(f"bndbox/{key}").text) for key in ("xmin", "ymin", "xmax", "ymax"))
    width, height = x2 - x1 + 1, y2 - y1 + 1
    return {
        "image_id": image_id,
        "category_id": ids[entry.find("name").text.strip()],
        "bbox": [x1 - 1, y1 - 1, width, height],
        "area": width * height,
        "iscrowd": int(entry.find("difficult").text),
    }
