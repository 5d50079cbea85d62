"""Questions about photos, asked by any number of threads: bounded in memory, in time and in what one may ask."""

from __future__ import annotations

import contextlib
import hashlib
import math
import re
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import msgspec
import numpy as np
import torch
from PIL import Image

from ovdet.class_embeddings import ClassEmbeddings
from ovdet.data.images import read_image
from ovdet.errors import InputError
from ovdet.inference.detections import Detections
from ovdet.inference.embedded_photo import EmbeddedPhoto
from ovdet.inference.nearest import nearest_regions
from ovdet.inference.predictor import OpenVocabPredictor
from ovdet.inference.shown import thresholds_of
from ovdet.learning.classes_file import classes_content, load_classes
from ovdet.learning.learn import AnnotatedPhoto
from ovdet.text.classes import join_classes
from ovdet.text.vocabulary import Vocabulary

_COMMA = re.compile("[,\uff0c\u3001\u060c]")


class Busy(Exception):
    """More questions are waiting than may."""


class UnknownPhoto(Exception):
    """A photo that was not sent, or long ago."""


@dataclass(frozen=True)
class Limits:
    """Limits on what one may ask.

    Attributes:
        megapixels: of a photo.
        names: asked for at once, with synonyms and negatives.
        characters: of the names' text.
        examples: boxes that classes are learned from at once.
        example_photos: that they are in.
        kept_bytes: memory of photos' region embeddings, after which the oldest go.
        waiting: questions at once; more are refused.
        patience: seconds that a question waits for its turn.
    """

    megapixels: float = 40.0
    names: int = 200
    characters: int = 10_000
    examples: int = 500
    example_photos: int = 20
    kept_bytes: int = 256 * 2**20
    waiting: int = 64
    patience: float = 60.0


class Example(msgspec.Struct, frozen=True):
    """A box of a thing to learn."""

    photo: int  # its place among the photos
    name: str
    box: tuple[float, float, float, float]  # XYXY, pixels of the upright photo


@dataclass
class Counts:
    """Counts of what was done so far, for monitoring."""

    photos: int = 0  # that the network ran on
    questions: int = 0
    learned: int = 0  # classes
    seconds: float = 0.0  # in the network and in scoring
    refused: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, **more: float) -> None:
        with self.lock:
            for name, value in more.items():
                setattr(self, name, getattr(self, name) + value)


class DetectionService:
    """One detector for many clients; the network runs once a photo, whatever names are asked for."""

    def __init__(self, predictor: OpenVocabPredictor, limits: Limits | None = None) -> None:
        """
        Args:
            predictor: a trained open-vocabulary detector.
            limits: what one may ask; None takes the defaults.
        """
        self.predictor = predictor
        self.limits = limits or Limits()
        self.counts = Counts()
        self._kept: OrderedDict[str, EmbeddedPhoto] = OrderedDict()
        self._lock = threading.Lock()
        self._turn = threading.Lock()  # one network at a time: torch takes all cores for it
        self._waiting = 0

    @property
    def kept_bytes(self) -> int:
        """Memory of the photos that are kept."""
        with self._lock:
            return sum(photo.num_bytes for photo in self._kept.values())

    @property
    def num_kept(self) -> int:
        """The number of photos that are kept."""
        with self._lock:
            return len(self._kept)

    def look(self, content: bytes) -> str:
        """Have the network look at a photo, unless it did.

        Args:
            content: of an image file.

        Returns:
            The photo's id for `detect`, the same for the same bytes.

        Raises:
            InputError: it is no photo, or too large a one.
            Busy: too many are waiting.
        """
        photo_id = hashlib.sha256(content).hexdigest()
        if self._find(photo_id) is not None:
            return photo_id
        rgb = self._decode(content)
        with self._my_turn():
            if self._find(photo_id) is None:  # somebody else may have sent it meanwhile
                photo = self.predictor.embed_photo(rgb, channel_order="RGB")
                self.counts.add(photos=1)
                self._keep(photo_id, photo)
        return photo_id

    def detect(
        self, photo_id: str, names: str, threshold: float | None = None, files: Sequence[bytes] = ()
    ) -> dict[str, Any]:
        """Find names and learned classes in a photo that was looked at.

        Args:
            photo_id: of `look`.
            names: see `parse_names`; may be empty with files.
            threshold: lowest score; None for each name's own.
            files: of classes, as `learn` or `ovdet learn` gave them.

        Returns:
            Plain values: photo, width, height, names with the threshold that is usual for each, detections.

        Raises:
            InputError: names, threshold or files cannot be used.
            UnknownPhoto: there is no such photo any more.
            Busy: too many are waiting.
        """
        learned = reduce(join_classes, map(_load_classes, files)) if files else None
        vocabulary, negatives = (None, None) if files and not names.strip() else self._parse(names)
        found, classes = self.ask(photo_id, vocabulary, negatives, learned=learned, threshold=threshold)
        return {"photo": photo_id, **found.to_dict(), "names": _with_thresholds(classes)}

    def ask(
        self,
        photo_id: str,
        vocabulary: Vocabulary | None,
        negatives: tuple[str, ...] | None = None,
        *,
        learned: ClassEmbeddings | None = None,
        threshold: float | None = None,
    ) -> tuple[Detections, ClassEmbeddings]:
        """As `detect`, with names that are parsed: what was found, and what was asked for.

        Raises:
            InputError: too many names, or as of `detect`.
            UnknownPhoto: as there.
            Busy: as there.
        """
        self._check_number(vocabulary, negatives, learned)
        photo = self._kept_photo(photo_id)
        with self._my_turn():
            asked = [] if vocabulary is None else [self.predictor.embed(vocabulary, negatives=negatives)]
            classes = reduce(join_classes, [*asked, *([] if learned is None else [learned])])
            found = self.predictor.detect_embedded(photo, classes=classes, threshold=threshold)
            self.counts.add(questions=1)
        return found, classes

    def nearest(self, photo_id: str, names: str, number: int = 5) -> dict[str, Any]:
        """The regions of a photo that lie nearest to names, however low their scores are.

        Args:
            photo_id: of `look`.
            names: see `parse_names`; negatives are left out.
            number: of regions for each name.

        Returns:
            Plain values: photo, width, height, regions (each name's best first) with label, cosine and box.

        Raises:
            InputError: as of `detect`.
            UnknownPhoto: as there.
            Busy: as there.
        """
        vocabulary, _ = self._parse(names)
        self._check_number(vocabulary)
        photo = self._kept_photo(photo_id)
        with self._my_turn():
            regions = nearest_regions(photo, self.predictor.embed(vocabulary, negatives=()), number)
            self.counts.add(questions=1)
        height, width = photo.size
        return {"photo": photo_id, "width": width, "height": height, "regions": regions}

    def learn(self, photos: Sequence[bytes], examples: Sequence[Example]) -> bytes:
        """A file of classes that are learned from boxes in photos: for `detect`, or for `ovdet detect --classes`.

        Args:
            photos: image files.
            examples: boxes of *all* things of the names in these photos; the rest of them is learned as what is none.

        Raises:
            InputError: photos or boxes cannot be used, or there are too many.
            Busy: too many are waiting.
        """
        for what, came, most in (
            ("boxes", len(examples), self.limits.examples),
            ("photos of examples", len(photos), self.limits.example_photos),
        ):
            if not 1 <= came <= most:
                raise InputError(f"expected 1 to {most} {what}, got {came}")
        names = list(dict.fromkeys(example.name.strip() for example in examples))
        places = range(len(photos))
        if odd := [example.photo for example in examples if example.photo not in places]:
            raise InputError(f"expected the places of {len(photos)} photos, from 0 on, got {odd[0]}")
        annotated = []
        for place, content in enumerate(photos):
            of_photo = [example for example in examples if example.photo == place]
            boxes = torch.tensor([example.box for example in of_photo], dtype=torch.float32).reshape(-1, 4)
            ids = torch.tensor([names.index(example.name.strip()) for example in of_photo], dtype=torch.long)
            annotated.append(AnnotatedPhoto(Image.fromarray(self._decode(content)), boxes, ids))
        with self._my_turn():
            classes = self.predictor.learn_classes(names, annotated)
            self.counts.add(learned=len(names))
        return classes_content(classes)

    def _parse(self, names: str) -> tuple[Vocabulary, tuple[str, ...] | None]:
        if len(names) > self.limits.characters:
            raise InputError(f"expected names of {self.limits.characters:,} characters at most, got {len(names):,}")
        return parse_names(names)

    def _check_number(
        self,
        vocabulary: Vocabulary | None,
        negatives: tuple[str, ...] | None = None,
        learned: ClassEmbeddings | None = None,
    ) -> None:
        number = len(negatives or ()) + (0 if learned is None else len(learned.names))
        if vocabulary is not None:
            number += len(vocabulary) + sum(map(len, vocabulary.synonyms.values()))
        if number > self.limits.names:
            raise InputError(f"expected {self.limits.names} names at most, got {number}")

    def _kept_photo(self, photo_id: str) -> EmbeddedPhoto:
        photo = self._find(photo_id)
        if photo is None:
            raise UnknownPhoto(photo_id)
        return photo

    def _decode(self, content: bytes) -> np.ndarray:
        """(H, W, 3) uint8 RGB."""
        with tempfile.NamedTemporaryFile(prefix="ovdet") as file:
            file.write(content)
            file.flush()
            width, height = _size(file.name)
            if width * height > 1e6 * self.limits.megapixels:
                most = f"{self.limits.megapixels:g} megapixels at most"
                raise InputError(f"expected a photo of {most}, got {width:,.0f} x {height:,.0f}")
            try:
                return read_image(file.name)
            except InputError as error:
                raise InputError(str(error).replace(file.name, "the photo")) from error

    def _find(self, photo_id: str) -> EmbeddedPhoto | None:
        with self._lock:
            if photo_id in self._kept:
                self._kept.move_to_end(photo_id)
            return self._kept.get(photo_id)

    def _keep(self, photo_id: str, photo: EmbeddedPhoto) -> None:
        """The newest, as many as memory allows; the last one in any case."""
        with self._lock:
            self._kept[photo_id] = photo
            total = sum(each.num_bytes for each in self._kept.values())
            while total > self.limits.kept_bytes and len(self._kept) > 1:
                total -= self._kept.popitem(last=False)[1].num_bytes

    @contextlib.contextmanager
    def _my_turn(self) -> Iterator[None]:
        with self._lock:
            if self._waiting >= self.limits.waiting:
                raise Busy
            self._waiting += 1
        try:
            if not self._turn.acquire(timeout=self.limits.patience):
                raise Busy
            start = time.perf_counter()
            try:
                yield
            finally:
                self._turn.release()
                self.counts.add(seconds=time.perf_counter() - start)
        finally:
            with self._lock:
                self._waiting -= 1


def _load_classes(content: bytes) -> ClassEmbeddings:
    with tempfile.NamedTemporaryFile(prefix="ovdet") as file:
        file.write(content)
        file.flush()
        try:
            return load_classes(file.name)
        except InputError as error:
            raise InputError(str(error).replace(file.name, "what was sent")) from error


def _size(path: str) -> tuple[float, float]:
    """(width, height) by a photo's header; (0, 0) of what has none that is read here."""
    try:
        with Image.open(path) as image:
            return image.size
    except Image.DecompressionBombError:
        return math.inf, math.inf
    except Exception:  # decoders meet broken bytes with nearly any exception; reading it says what is wrong
        return 0, 0


def parse_names(text: str) -> tuple[Vocabulary, tuple[str, ...] | None]:
    """ "dog; puppy, red kite, -cat" -> names with synonyms, and negatives; never a file.

    Without a negative they are None: the detector then takes its own.

    Raises:
        InputError: no names, or as of `Vocabulary.from_text`.
    """
    parts = [part.strip() for part in _COMMA.split(text)]
    negatives = tuple(part[1:].strip() for part in parts if part.startswith("-"))
    vocabulary = Vocabulary.from_text(", ".join(part for part in parts if part and not part.startswith("-")))
    return vocabulary, (Vocabulary(negatives).names if negatives else None)


def _with_thresholds(classes: ClassEmbeddings) -> list[dict[str, Any]]:
    lowest = thresholds_of(classes).tolist()
    rows = zip(classes.names, lowest, strict=True)
    return [{"name": name, "threshold": round(threshold, 4)} for name, threshold in rows]
