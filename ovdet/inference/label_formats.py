"""Labels of a folder in the formats that labeling and training tools read.

Each writer takes `Labels` and an output folder, and writes whole files. Boxes are in pixels of the upright photo.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, count
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote
from xml.etree import ElementTree

import numpy as np

from ovdet.errors import InputError
from ovdet.files import atomic_write, temporary_path
from ovdet.inference.labels import Box, LabeledPhoto, Labels
from ovdet.inference.mask_formats import (
    from_run_lengths,
    to_brush_run_lengths,
    to_cvat_run_lengths,
    to_segmentation,
)
from ovdet.integrations.label_studio import MASKS, to_prediction

_T = TypeVar("_T")
VAL_SHARE = 0.2  # of the photos, in YOLO's split


def write_coco(labels: Labels, folder: Path) -> Path:
    """coco.json: COCO's detection format with a score at each annotation, masks as run lengths; ids count from 1."""
    ids = {name: number for number, name in enumerate(labels.names, start=1)}
    images, annotations = [], []
    for number, photo in enumerate(labels.photos, start=1):
        size = {"width": photo.width, "height": photo.height}
        images.append({"id": number, "file_name": photo.image, **size})
        for box in photo.detections:
            row = {"id": len(annotations) + 1, "image_id": number, "category_id": ids[box.label]}
            annotations.append({**row, **coco_annotation(box, photo)})
    categories = [{"id": number, "name": name} for name, number in ids.items()]
    content = {"images": images, "annotations": annotations, "categories": categories}
    return _write_json(folder / "coco.json", content)


def coco_annotation(box: Box, photo: LabeledPhoto) -> dict[str, Any]:
    """A detection as an annotation of a COCO json, without ids: box, area, mask where there is one, score."""
    x, y, width, height = _xywh(box)
    row = {"bbox": [x, y, width, height], "area": round(width * height, 2), "iscrowd": 0, "score": box.score}
    if not box.mask:
        return row
    segmentation = to_segmentation(box.mask, photo.height, photo.width)
    return {**row, "area": int(_mask(box, photo).sum()), "segmentation": segmentation}


def write_yolo(labels: Labels, folder: Path) -> Path:
    """yolo/: data.yaml, images/ and labels/ in train and val; a file's split hangs on its name alone.

    Photos are hard links where the file system has them, else copies.
    """
    ids, root = {name: number for number, name in enumerate(labels.names)}, folder / "yolo"
    for photo, stem in _with_stems(labels.photos):
        part = _split(photo.image)
        rows = []
        for box in photo.detections:
            x, y, width, height = _xywh(box)
            center = ((x + width / 2) / photo.width, (y + height / 2) / photo.height)
            numbers = (*center, width / photo.width, height / photo.height)
            rows.append(f"{ids[box.label]} {' '.join(f'{number:.6f}' for number in numbers)}\n")
        _link(labels.folder / photo.image, root / "images" / part / f"{stem}{Path(photo.image).suffix}")
        atomic_write(root / "labels" / part / f"{stem}.txt", "".join(rows).encode())
    for part in ("train", "val"):  # readers want both
        for kind in ("images", "labels"):
            (root / kind / part).mkdir(parents=True, exist_ok=True)
    names = "".join(f"  {number}: {json.dumps(name, ensure_ascii=False)}\n" for name, number in ids.items())
    text = f"path: {json.dumps(str(root.resolve()))}\ntrain: images/train\nval: images/val\nnames:\n{names}"
    atomic_write(root / "data.yaml", text.encode())
    return root / "data.yaml"


def write_voc(labels: Labels, folder: Path) -> Path:
    """voc/: an XML file a photo in Pascal VOC's format; its pixels are whole numbers and count from 1."""
    for photo, stem in _with_stems(labels.photos):
        root = ElementTree.Element("annotation")
        _add(root, "folder", labels.folder.name)
        _add(root, "filename", photo.image)
        size = _add(root, "size")
        for key, value in (("width", photo.width), ("height", photo.height), ("depth", 3)):
            _add(size, key, value)
        for box in photo.detections:
            item = _add(root, "object")
            for key, value in (("name", box.label), ("pose", "Unspecified"), ("truncated", 0), ("difficult", 0)):
                _add(item, key, value)
            corners = _add(item, "bndbox")
            for key, value in zip(("xmin", "ymin", "xmax", "ymax"), box.box, strict=True):
                _add(corners, key, round(value) + key.endswith("min"))
        _write_xml(folder / "voc" / f"{stem}.xml", root)
    (folder / "voc").mkdir(parents=True, exist_ok=True)
    return folder / "voc"


def write_label_studio(labels: Labels, folder: Path) -> Path:
    """label_studio.json: tasks with predictions, in percent; label_studio.xml: the project's label config.

    A mask is a brush region in the place of its box.

    Photos are named as Label Studio's local storage serves them, with the folder of the photos as the storage's.
    """
    tasks = []
    for photo in labels.photos:
        rows = [
            {"box": box.box, "score": box.score, "label": box.label, "rle": _mask_as(to_brush_run_lengths, box, photo)}
            for box in photo.detections
        ]
        names = {"model": labels.model, "from_name": "label", "to_name": "image"}
        prediction = to_prediction(rows, photo.width, photo.height, **names)
        where = f"/data/local-files/?d={quote(f'{labels.folder.name}/{photo.image}')}"
        tasks.append({"data": {"image": where}, "predictions": [prediction]})
    view = ElementTree.Element("View")
    ElementTree.SubElement(view, "Image", name="image", value="$image")
    controls = {"RectangleLabels": "label"}
    if any(box.mask for photo in labels.photos for box in photo.detections):
        controls["BrushLabels"] = MASKS
    for kind, name in controls.items():
        control = ElementTree.SubElement(view, kind, name=name, toName="image")
        for label in labels.names:
            ElementTree.SubElement(control, "Label", value=label)
    ElementTree.indent(view)  # without a declaration: the config is pasted, and read as text
    atomic_write(folder / "label_studio.xml", ElementTree.tostring(view, encoding="utf-8") + b"\n")
    return _write_json(folder / "label_studio.json", tasks)


def write_cvat(labels: Labels, folder: Path) -> Path:
    """cvat.xml: "CVAT for images 1.1"; a mask stands in the place of its box."""
    root = ElementTree.Element("annotations")
    _add(root, "version", "1.1")
    task = _add(_add(root, "meta"), "task")
    _add(task, "size", len(labels.photos))
    known = _add(task, "labels")
    for name in labels.names:
        label = _add(known, "label")
        _add(label, "name", name)
        _add(label, "attributes")
    for number, photo in enumerate(labels.photos):
        size = {"width": str(photo.width), "height": str(photo.height)}
        image = ElementTree.SubElement(root, "image", id=str(number), name=photo.image, **size)
        for box in photo.detections:
            mask = _mask_as(to_cvat_run_lengths, box, photo)
            place = mask or dict(zip(("xtl", "ytl", "xbr", "ybr"), map(str, box.box), strict=True))
            said = {"label": box.label, "source": "auto", "occluded": "0", **place, "z_order": "0"}
            ElementTree.SubElement(image, "mask" if mask else "box", said)
    return _write_xml(folder / "cvat.xml", root)


def write_csv(labels: Labels, folder: Path) -> Path:
    """labels.csv: a row a box."""
    stream = io.StringIO()
    table = csv.writer(stream, lineterminator="\n")
    table.writerow(("image", "width", "height", "label", "score", "xmin", "ymin", "xmax", "ymax"))
    for photo in labels.photos:
        for box in photo.detections:
            table.writerow((photo.image, photo.width, photo.height, box.label, box.score, *box.box))
    atomic_write(folder / "labels.csv", stream.getvalue().encode())
    return folder / "labels.csv"


FORMATS: dict[str, Callable[[Labels, Path], Path]] = {
    "coco": write_coco,
    "yolo": write_yolo,
    "voc": write_voc,
    "labelstudio": write_label_studio,
    "cvat": write_cvat,
    "csv": write_csv,
}


def _xywh(box: Box) -> tuple[float, float, float, float]:
    """Left, top, width, height in pixels."""
    x1, y1, x2, y2 = box.box
    return x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)


def _mask(box: Box, photo: LabeledPhoto) -> np.ndarray:
    return from_run_lengths(box.mask, photo.height, photo.width)


def _mask_as(to_format: Callable[[np.ndarray], _T], box: Box, photo: LabeledPhoto) -> _T | None:
    return to_format(_mask(box, photo)) if box.mask else None


def _split(name: str) -> str:
    """ "train" or "val", by a hash of the name: more photos never move one from one to the other."""
    share = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") / 2**32
    return "val" if share < VAL_SHARE else "train"


def _with_stems(photos: Sequence[LabeledPhoto]) -> Iterator[tuple[LabeledPhoto, str]]:
    """Photos and names for files of their own: a.jpg -> a; a.png beside it -> a_png, as the stem is taken."""
    taken: set[str] = set()
    for photo in photos:
        names = chain([Path(photo.image).stem], (photo.image.replace(".", "_") + "_" * more for more in count()))
        stem = next(name for name in names if name not in taken)
        taken.add(stem)
        yield photo, stem


def _link(source: Path, target: Path) -> None:
    with temporary_path(target) as part:
        try:
            os.link(source, part)
        except OSError:  # another file system, or one without links
            try:
                shutil.copyfile(source, part)
            except OSError as error:
                raise InputError(f"expected a photo, {source} cannot be copied: {error.strerror}") from error


def _add(parent: ElementTree.Element, tag: str, text: object = None) -> ElementTree.Element:
    child = ElementTree.SubElement(parent, tag)
    child.text = None if text is None else str(text)
    return child


def _write_xml(path: Path, root: ElementTree.Element) -> Path:
    ElementTree.indent(root)
    atomic_write(path, ElementTree.tostring(root, encoding="utf-8", xml_declaration=True) + b"\n")
    return path


def _write_json(path: Path, content: object) -> Path:
    atomic_write(path, (json.dumps(content, ensure_ascii=False) + "\n").encode())
    return path
