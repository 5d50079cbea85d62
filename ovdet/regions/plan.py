"""What a region store is to hold, written before the first region is computed.

A store is a folder: `plan.json` and one shard for each run of photos. What a shard holds follows from the plan alone,
so that any process may compute any shard, in any order, and an interrupted extraction goes on with the shards that
are not there yet.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from ovdet.data.coco import read_json
from ovdet.errors import InputError
from ovdet.files import atomic_write

FORMAT = "ovdet-region-store-2"
PLAN = "plan.json"


class Photo(NamedTuple):
    """A photo of the data set as its json describes it."""

    image_id: int | str
    file_name: str  # relative to the plan's photo_root where it lies below it
    height: int
    width: int


@dataclass(frozen=True)
class RegionPlan:
    """All that the contents of a store follow from, and two notes for the reader.

    Attributes:
        teacher: its name, as `load_teacher` takes it.
        fingerprint: the teacher's.
        width: of the embeddings.
        crops: how a region becomes the teacher's input: `scales` of the box, `resize`, `size` (height, width).
        dataset: `name` and the json's `sha256`.
        proposals: where the boxes come from: `source` in words, `training_classes` whose boxes it knows, and what else
            decides about them.
        max_regions: of one photo.
        photos_per_shard: all shards but the last hold so many.
        photos: in the order of the shards.
        photo_root: a note: the folder of the photos.
        command: a note: what goes on with this extraction.
    """

    teacher: str
    fingerprint: str
    width: int
    crops: Mapping[str, Any]
    dataset: Mapping[str, Any]
    proposals: Mapping[str, Any]
    max_regions: int
    photos_per_shard: int
    photos: tuple[Photo, ...]
    photo_root: str = ""
    command: str = ""

    def __post_init__(self) -> None:
        for key, kind in _KINDS.items():
            if not isinstance(getattr(self, key), kind):
                raise InputError(f"expected a plan's {key} to be {kind.__name__}, got {getattr(self, key)!r}")
        for key in ("width", "max_regions", "photos_per_shard"):
            if getattr(self, key) < 1:
                raise InputError(f"expected a plan's {key} to be positive, got {getattr(self, key)}")
        seen: set[int | str] = set()
        for photo in self.photos:
            _check_photo(photo, seen)

    @property
    def num_shards(self) -> int:
        return -(-len(self.photos) // self.photos_per_shard)

    def of_shard(self, number: int) -> slice:
        """Which of `photos` a shard holds."""
        return slice(number * self.photos_per_shard, (number + 1) * self.photos_per_shard)

    @cached_property
    def digest(self) -> str:
        """64 hex digits of all but the notes; each shard carries it."""
        return hashlib.sha256(_dump(self, without=_NOTES)).hexdigest()

    def path_of(self, photo: Photo, photo_root: str | Path | None = None) -> Path:
        """Where a photo's file is, below another folder than the noted one if that is given."""
        return Path(photo_root or self.photo_root) / photo.file_name


_NOTES = ("photo_root", "command")
_KINDS = {
    **dict.fromkeys(("teacher", "fingerprint", *_NOTES), str),
    **dict.fromkeys(("width", "max_regions", "photos_per_shard"), int),
    **dict.fromkeys(("crops", "dataset", "proposals"), Mapping),
    "photos": tuple,
}


def _check_photo(photo: Photo, seen: set[int | str]) -> None:
    is_id = isinstance(photo.image_id, (int, str)) and not isinstance(photo.image_id, bool)
    if not is_id or not isinstance(photo.file_name, str):
        raise InputError(f"expected photos with a number or text as id, and a file name, got {tuple(photo)!r}")
    if photo.image_id in seen:
        raise InputError(f"expected each photo once, image id {photo.image_id!r} comes twice")
    seen.add(photo.image_id)


def write_plan(folder: str | Path, plan: RegionPlan) -> None:
    """Begin a store.

    Raises:
        InputError: the place cannot be written to.
    """
    atomic_write(Path(folder) / PLAN, _dump(plan))


def _dump(plan: RegionPlan, without: tuple[str, ...] = ()) -> bytes:
    content = {field.name: getattr(plan, field.name) for field in dataclasses.fields(plan) if field.name not in without}
    return json.dumps({"format": FORMAT, **content}).encode()


def read_plan(folder: str | Path) -> RegionPlan:
    """The plan of a store.

    Raises:
        InputError: there is no store, it is of another format, or its plan is damaged.
    """
    path = Path(folder) / PLAN
    if not path.is_file():
        raise InputError(f"expected a region store, a folder with {PLAN}; {folder} is none")
    content = read_json(path, "a region store's plan")
    came = content.pop("format", None) if isinstance(content, dict) else None
    if came != FORMAT:
        raise InputError(f"expected a region store ({FORMAT}), {path} says {came!r}")
    try:
        photos = tuple(Photo(*photo) for photo in content.pop("photos"))
        return RegionPlan(**content, photos=photos)
    except (TypeError, KeyError, InputError) as error:
        raise InputError(f"expected a region store, {path} is damaged: {error}") from error


def check_same_plan(found: RegionPlan, asked: RegionPlan, folder: str | Path) -> None:
    """Refuse to go on with a store that was begun with other settings.

    Args:
        found: the plan in the folder.
        asked: the plan of the present run.
        folder: for the message.

    Raises:
        InputError: the first difference, with both values.
    """
    if found.digest == asked.digest:
        return
    for (key, ours), (_, theirs) in zip(_facts(asked), _facts(found), strict=True):
        if ours != theirs:
            raise InputError(f"expected to go on with {key} {theirs!r} as {folder} was begun, got {key} {ours!r}")
    for ours, theirs in zip(asked.photos, found.photos, strict=True):
        if ours != theirs:
            raise InputError(f"expected the photo {tuple(theirs)} as {folder} was begun, got {tuple(ours)}")


def _facts(plan: RegionPlan) -> Iterator[tuple[str, Any]]:
    """Everything in the digest but the photos themselves, nested keys joined."""
    for key in ("teacher", "fingerprint", "width", "max_regions", "photos_per_shard"):
        yield key, getattr(plan, key)
    yield "number of photos", len(plan.photos)
    for part in ("dataset", "crops", "proposals"):
        yield f"keys of {part}", sorted(getattr(plan, part))
        for key, value in sorted(getattr(plan, part).items()):
            yield f"{part}.{key}", value
