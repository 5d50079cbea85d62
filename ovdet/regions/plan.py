"""The plan of a region store, plan.json: everything that its contents follow from, written first.

A store is a folder: the plan, and one shard for each run of images. What a shard holds follows from the plan alone, so
that any process may compute any shard, in any order, and an interrupted extraction goes on with the missing shards.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec

from ovdet.data.coco import read_json
from ovdet.errors import InputError
from ovdet.files import atomic_write
from ovdet.typed import checked

FORMAT = "ovdet-region-store-3"
PLAN = "plan.json"
Count = Annotated[int, msgspec.Meta(ge=1, le=2**31)]


class ImageRecord(NamedTuple):
    """An image of the data set as its json describes it."""

    image_id: int | str
    file_name: str  # relative to the plan's image_root where it lies below it
    height: int
    width: int


@dataclass(frozen=True)
class RegionPlan:
    """Everything that the contents of a store follow from, and two notes for the reader.

    Attributes:
        teacher: its name, as `load_teacher` takes it.
        fingerprint: the teacher's.
        width: of the embeddings.
        crops: how a region becomes the teacher's input: `scales` of the box, `resize`, `size` (height, width).
        dataset: `name` and the json's `sha256`.
        proposals: where the boxes come from: `source` in words, `training_classes` whose boxes it knows, and what else
            decides about them.
        max_regions: of one image.
        images_per_shard: all shards but the last hold so many.
        images: in the order of the shards.
        image_root: a note: the folder of the images.
        command: a note: what goes on with this extraction.
    """

    teacher: str
    fingerprint: str
    width: Count
    crops: Mapping[str, Any]
    dataset: Mapping[str, Any]
    proposals: Mapping[str, Any]
    max_regions: Count
    images_per_shard: Count
    images: tuple[ImageRecord, ...]
    image_root: str = ""
    command: str = ""

    def __post_init__(self) -> None:
        counts = Counter(image.image_id for image in self.images)
        if len(counts) < len(self.images):
            raise InputError(f"expected each image once, image id {counts.most_common(1)[0][0]!r} comes twice")
        checked(self.dataset, _Dataset, "a plan's dataset", "it")
        checked(self.proposals, _Proposals, "a plan's proposals", "it")

    @property
    def num_shards(self) -> int:
        return -(-len(self.images) // self.images_per_shard)

    def of_shard(self, number: int) -> slice:
        """The slice of `images` that a shard holds."""
        return slice(number * self.images_per_shard, (number + 1) * self.images_per_shard)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of everything but the notes, 64 hex digits; each shard carries it."""
        return hashlib.sha256(_dump(self, without=_NOTES)).hexdigest()

    def path_of(self, image: ImageRecord, image_root: str | Path | None = None) -> Path:
        """The path of an image's file, below `image_root` if given, else below the noted folder."""
        return Path(image_root or self.image_root) / image.file_name


_NOTES = ("image_root", "command")


class _Dataset(msgspec.Struct):
    name: str


class _Proposals(msgspec.Struct):
    source: str
    training_classes: list[str]


def write_plan(folder: str | Path, plan: RegionPlan) -> None:
    """Write plan.json, which begins a store.

    Raises:
        InputError: the place cannot be written to.
    """
    atomic_write(Path(folder) / PLAN, _dump(plan))


def _dump(plan: RegionPlan, without: tuple[str, ...] = ()) -> bytes:
    names = [field.name for field in dataclasses.fields(plan) if field.name not in without]
    return json.dumps({"format": FORMAT, **{name: getattr(plan, name) for name in names}}).encode()


def read_plan(folder: str | Path) -> RegionPlan:
    """Read plan.json of a store.

    Raises:
        InputError: there is no store, it is of another format, or its plan is damaged.
    """
    path = Path(folder) / PLAN
    if not path.is_file():
        raise InputError(f"expected a region store, a folder with {PLAN}; {folder} is none")
    content = read_json(path, "a region store's plan")
    actual = content.pop("format", None) if isinstance(content, dict) else None
    if actual != FORMAT:
        raise InputError(f"expected a region store ({FORMAT}), {path} says {actual!r}: extract it anew")
    return checked(content, RegionPlan, "a region store", path)


def check_same_plan(stored: RegionPlan, current: RegionPlan, folder: str | Path) -> None:
    """Refuse to go on with a store that was begun with other settings.

    Args:
        stored: the plan in the folder.
        current: the plan of the present run.
        folder: for the message.

    Raises:
        InputError: the first difference, with both values.
    """
    if stored.digest == current.digest:
        return
    for (key, expected), (_, actual) in zip(_settings(stored), _settings(current), strict=True):
        if expected != actual:
            raise InputError(f"expected to go on with {key} {expected!r} as {folder} was begun, got {key} {actual!r}")
    for expected, actual in zip(stored.images, current.images, strict=True):
        if expected != actual:
            raise InputError(f"expected the image {tuple(expected)} as {folder} was begun, got {tuple(actual)}")


def _settings(plan: RegionPlan) -> Iterator[tuple[str, Any]]:
    """Names and values of the plan's settings (all of the digest but the images), nested keys joined."""
    for key in ("teacher", "fingerprint", "width", "max_regions", "images_per_shard"):
        yield key, getattr(plan, key)
    yield "number of images", len(plan.images)
    for part in ("dataset", "crops", "proposals"):
        yield f"keys of {part}", sorted(getattr(plan, part))
        for key, value in sorted(getattr(plan, part).items()):
            yield f"{part}.{key}", value
