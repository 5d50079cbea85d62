"""Reading a region store: regions of each image with their teacher embeddings, by image id.

See plan.py for the folder and shard.py for its files.

Shapes: M regions of one image, D embedding width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from torch import Tensor

from ovdet.data.coco import listed
from ovdet.errors import InputError
from ovdet.regions.plan import RegionPlan, read_plan
from ovdet.regions.shard import ImageRegions, Shard, missing_shards
from ovdet.teachers.embedding_space import space_difference


class RegionStore:
    """Reads a complete region store, in any order and from any number of processes.

    Opening costs the plan; shards are memory-mapped when they are first needed, and a store may be handed to DataLoader
    workers.
    """

    def __init__(self, path: str | Path) -> None:
        """Open the store in folder `path`.

        Raises:
            InputError: there is none, it is damaged, or not complete yet.
        """
        self.path = Path(path)
        self.plan = read_plan(self.path)
        missing = missing_shards(self.path, self.plan)
        if missing:
            raise InputError(
                f"expected a complete region store, {self.path} lacks {len(missing)} of {self.plan.num_shards} shards; "
                f"finish it with: {self.plan.command or 'ovdet extract ... --resume'}"
            )
        self._rows = {image.image_id: row for row, image in enumerate(self.plan.images)}
        self._shards: dict[int, Shard] = {}

    @property
    def header(self) -> dict[str, Any]:
        """Teacher, data set and proposals that the store was made with, as plain values."""
        return {
            **{key: getattr(self.plan, key) for key in ("teacher", "fingerprint", "width", "max_regions")},
            "dataset": self.plan.dataset["name"],
            "proposal_source": self.plan.proposals["source"],
            "training_classes": list(self.plan.proposals["training_classes"]),
        }

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_shards": {}}

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, image_id: object) -> bool:
        return image_id in self._rows

    def entry(self, image_id: int | str) -> ImageRegions:
        """All that is stored of one image; embeddings come as float32.

        Raises:
            InputError: the image is not in the store, or its shard is damaged.
        """
        if image_id not in self._rows:
            raise InputError(f"expected regions of image {image_id!r}, {self.path} holds {len(self)} images without it")
        number, position = divmod(self._rows[image_id], self.plan.images_per_shard)
        if number not in self._shards:
            self._shards[number] = Shard(self.path, self.plan, number)
        return self._shards[number].entry(position)

    def regions(self, image_id: int | str, size: tuple[int, int] | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """The stored regions of one image.

        Args:
            image_id: as in the data set's json.
            size: (height, width) of the image that the boxes are wanted for; None: not compared.

        Returns:
            boxes (M, 4) float32 XYXY in pixels of the upright image, embeddings (M, D) float32 (stored as float16),
            scores (M,) float32.

        Raises:
            InputError: the image is not in the store, could not be read when the store was made, or had another size.
        """
        entry = self.entry(image_id)
        if entry.error:
            raise InputError(f"expected regions of image {image_id!r}, {self.path} has none: {entry.error}")
        if size is not None and tuple(size) != entry.size:
            raise InputError(
                f"expected image {image_id!r} of (height, width) {entry.size} as in {self.path}, got {tuple(size)}"
            )
        return entry.boxes, entry.embeddings, entry.scores

    def check(
        self,
        *,
        teacher: str | None = None,
        fingerprint: str | None = None,
        width: int | None = None,
        images: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """Refuse a store that does not fit; what is not given is not checked.

        Args:
            teacher: the name of the teacher in use.
            fingerprint: that teacher's fingerprint.
            width: the embedding width D in use.
            images: the training set's, as detectron2's dataset dicts. Each must be in the store under its image id,
                with the same file name and size.

        Raises:
            InputError: naming what was expected and what the store holds.
        """
        expected = {"teacher": teacher, "fingerprint": fingerprint, "width": width}
        if key := space_difference(expected, self.header):
            raise InputError(
                f"expected a region store with {key} {expected[key]!r}, {self.path} was made with {self.header[key]!r}"
            )
        for record in images:
            self._check_image(record)
        self._check_readable({record["image_id"] for record in images})

    def _check_image(self, record: Mapping[str, Any]) -> None:
        made_of = f"{self.path}, made of {self.header['dataset']},"
        if record["image_id"] not in self:
            raise InputError(
                f"expected a region store of the training set, {made_of} lacks image {record['image_id']!r}"
            )
        image = self.plan.images[self._rows[record["image_id"]]]
        stored = (PurePath(image.file_name).name, image.height, image.width)
        name, height, width = PurePath(record["file_name"]).name, record.get("height"), record.get("width")
        expected = (name, height or image.height, width or image.width)
        if expected != stored:
            raise InputError(
                f"expected a region store of the training set, whose image {record['image_id']!r} is "
                f"{_describe(*expected)}; in {made_of} it is {_describe(*stored)}"
            )

    def _check_readable(self, image_ids: set[int | str]) -> None:
        errors = [
            f"{image.image_id!r} ({error})" for image, error in unreadable_images(self.path, self.plan)
            if image.image_id in image_ids
        ]  # fmt: skip
        if errors:
            raise InputError(f"expected regions of all images, {self.path} could not be made of {listed(errors)}; "
                             "ovdet extract --resume tries again")  # fmt: skip


def _describe(file_name: str, height: int, width: int) -> str:
    return f"{file_name} of {width} x {height} pixels"


def unreadable_images(folder: Path, plan: RegionPlan) -> list[tuple[Any, str]]:
    """The images that could not be read, with the reason each, of the shards that are there.

    Raises:
        InputError: a shard is damaged.
    """
    return [
        (plan.images[plan.of_shard(number)][position], error)
        for number, errors in unreadable_by_shard(folder, plan).items()
        for position, error in errors.items()
    ]


def unreadable_by_shard(folder: Path, plan: RegionPlan) -> dict[int, dict[int, str]]:
    """Unreadable images of the shards that are there: shard number -> position in it -> error.

    Raises:
        InputError: a shard is damaged.
    """
    missing = set(missing_shards(folder, plan))
    return {number: Shard(folder, plan, number).errors for number in range(plan.num_shards) if number not in missing}
