"""Photos of which only the classes are known: a folder for each class, or a json of labels by photo."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovdet.data.dataset import check_within, find_photos
from ovdet.data.images import class_folders, photo_size
from ovdet.errors import InputError
from ovdet.text.class_names import normalize_class_name
from ovdet.text.vocabulary import Vocabulary
from ovdet.training_fields import LABELS_KEY
from ovdet.typed import decoded


@dataclass(frozen=True)
class LabeledPhotos:
    """A data set of a mixture whose photos have labels and no boxes.

    Attributes:
        name: for the log.
        image_root: the folder of its photos; without `labels` with a sub-folder for each class, which is named so.
        labels: a json of {"photo.jpg": ["cat", "dog"]}, names relative to `image_root`; a photo without labels is left
            out. None for a folder by class.
        share: of the photos of a step, against the other sets' shares.
        hold_out: of the photos in the order of their file names each `hold_out`th is not trained on, from the first on;
            0 trains on all.
    """

    name: str
    image_root: str
    labels: str | None = None
    share: float = 1.0
    hold_out: int = 0
    is_exhaustive = is_dense = are_parts = False  # what DataSet says of boxes, of which there are none

    @property
    def source(self) -> str:
        """The file or folder that says what the photos show."""
        return self.labels or self.image_root

    def load(self) -> tuple[list[str], list[dict[str, Any]]]:
        """Class names, and dataset dicts with `image_labels` (indices of the names) in the order of the file names.

        Raises:
            InputError: folder or json are not there or are something else, a photo is missing, or two classes have
                names that read alike.
        """
        by_file = self._by_folder() if self.labels is None else self._read_labels(self.labels)
        seen = {normalize_class_name(name): name for labels in by_file.values() for name in labels}
        names = Vocabulary(tuple(sorted(seen.values()))).names
        index = {normalize_class_name(name): number for number, name in enumerate(names)}
        dicts = []
        for file, labels in sorted(by_file.items()):
            of_photo = sorted({index[normalize_class_name(name)] for name in labels})
            height, width = photo_size(file)
            known = {"image_id": os.path.relpath(file, self.image_root), "height": height, "width": width}
            dicts.append({"file_name": file, **known, "annotations": [], LABELS_KEY: of_photo})
        return list(names), dicts

    def _by_folder(self) -> dict[str, list[str]]:
        """The class of each file."""
        return {str(file): [name] for name, files in class_folders(self.image_root).items() for file in files}

    def _read_labels(self, path: str) -> dict[str, list[str]]:
        """Labels by file of each photo that has some."""
        what = 'a json of labels by photo, {"photo.jpg": ["cat"]}'
        try:
            content = decoded(Path(path).read_bytes(), dict[str, list[str]], what, path)
        except OSError as error:
            raise InputError(f"expected {what}, {path} cannot be read: {error.strerror}") from error
        content = {file: labels for file, labels in content.items() if labels}
        if not content:
            raise InputError(f"expected photos with labels in {path}, got none")
        check_within(list(content), self.image_root, path)
        files = find_photos([str(Path(self.image_root) / file) for file in content], self.image_root)
        return dict(zip(files, content.values(), strict=True))
