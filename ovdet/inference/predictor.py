"""The predictor: names in, photos in, detections out.

    predictor = OpenVocabPredictor.from_pretrained("ovdet-lite")
    for detection in predictor("photo.jpg", names=["red kite", "wheel"]): ...

Shape letters: H, W of the photo; K names; D embedding width.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from detectron2.config import instantiate
from detectron2.data import transforms as T
from detectron2.structures import Instances
from omegaconf import DictConfig
from PIL import Image
from torch import Tensor, nn

from ovdet.class_embeddings import ClassEmbeddings
from ovdet.data.images import find_images
from ovdet.device import float32_by_default
from ovdet.errors import InputError
from ovdet.hub.find import find_model, open_config
from ovdet.hub.load import load_detector
from ovdet.inference.detections import Detections
from ovdet.inference.draw import draw_detections
from ovdet.inference.embedded_photo import EmbeddedPhoto
from ovdet.inference.photo import Photo, resized, to_rgb
from ovdet.inference.shown import (
    CLASS_AGNOSTIC_IOU,
    MAX_CONTAINMENT,
    Shown,
    Threshold,
    thresholds_of,
    to_detections,
)
from ovdet.inference.stream import OnFailure, StreamedPhoto, log_failure, photos_of, stream_photos
from ovdet.inference.vocabulary_embedder import Names, VocabularyEmbedder
from ovdet.learning.examples import to_boxes
from ovdet.learning.exemplars import exemplar_photos
from ovdet.learning.learn import AnnotatedPhoto, check_learner, learn_classes, told
from ovdet.memory import collection_paused
from ovdet.modeling.acceleration import speed_up
from ovdet.modeling.fingerprint import detector_fingerprint
from ovdet.progress import track
from ovdet.text.classes import join_classes
from ovdet.text.embedder import NameEmbedder


class OpenVocabPredictor:
    """A trained detector with its text encoder and its resizing: photos and names in, detections out.

    Any number of threads may share it, each asking for names of its own.
    """

    def __init__(
        self,
        model: nn.Module,
        embed_names: NameEmbedder,
        *,
        resize: T.Augmentation | T.AugmentationList,
        training_classes: Sequence[str] = (),
        learned_classes: Sequence[str] = (),
        fingerprint: str | None = None,
    ) -> None:
        """
        Args:
            model: in evaluation mode, `model(inputs, classes=...)`, such as ovdet.modeling.detector.OpenVocabRCNN.
            embed_names: names -> (K, D), in the space that the model was trained in.
            resize: detectron2 augmentation from the photo to the network's input.
            training_classes: names that the model was trained on; fused scores weigh them as base classes.
            learned_classes: names that an expert of the model learned beside them.
            fingerprint: of the detector, where the model does not hold its weights; "" where it is not known.
        """
        self._fingerprint = fingerprint
        self.model = model
        self.embed_names = embed_names
        self.resize = resize
        self.training_classes, self.learned_classes = tuple(training_classes), tuple(learned_classes)
        self.classes: ClassEmbeddings | None = None  # what is asked for where a call does not say
        self._embed_vocabulary = VocabularyEmbedder(
            embed_names,
            training_classes=training_classes,
            learned_classes=learned_classes,
            default_thresholds=getattr(model, "default_thresholds", None),  # of a detector with scores of its own kind
        )

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path = "ovdet-lite",
        *,
        device: str | None = None,
        compile: bool = False,
        half: bool | None = False,
        int8: bool = False,
    ) -> OpenVocabPredictor:
        """A ready detector.

        Args:
            name: "ovdet-lite", which is part of the package; a model folder; "hf://OWNER/NAME" on the hub;
                "hf:OWNER/NAME", a zero-shot detector of transformers; or the folder of a training run (see
                `find_model`).
            device: None takes a GPU where there is one.
            compile: see `speed_up`.
            half: see `speed_up`.
            int8: likewise.

        Raises:
            InputError: there is no such model, or it is damaged.
        """
        return cls.from_config(*find_model(name), device=device, compile=compile, half=half, int8=int8)

    @classmethod
    @float32_by_default()
    def from_config(
        cls,
        config_file: str,
        weights: str = "",
        *,
        overrides: Sequence[str] = (),
        device: str | None = None,
        compile: bool = False,
        half: bool | None = False,
        int8: bool = False,
    ) -> OpenVocabPredictor:
        """Build from a config (or the config.yaml of a run) and a checkpoint.

        Args:
            config_file: see `load_config`.
            weights: "" takes the last checkpoint of the config's output folder.
            overrides: `key=value` for the config.
            device: None leaves it to the config, which by default takes a GPU where there is one.
            compile: see `speed_up`.
            half: see `speed_up`.
            int8: likewise.

        Raises:
            InputError: config or checkpoint are not there or do not fit each other.
        """
        with collection_paused():
            config = open_config(config_file, overrides)
            if device:
                config.train.device = str(device)
            return cls.of(config, weights, compile=compile, half=half, int8=int8)

    @classmethod
    @float32_by_default()
    def of(
        cls,
        config: DictConfig,
        weights: str = "",
        *,
        compile: bool = False,
        half: bool | None = False,
        int8: bool = False,
    ) -> OpenVocabPredictor:
        """Build from a config that was opened; arguments as of `from_config`.

        Raises:
            InputError: as there.
        """
        model, embed_names, header = load_detector(config, weights)
        speed_up(model, compile=compile, half=half, int8=int8)
        resize = T.AugmentationList(list(instantiate(config.dataloader.test.mapper.augmentations)))
        names = {key: header.get(key, ()) for key in ("training_classes", "learned_classes")}
        return cls(model, embed_names, resize=resize, **names)

    @property
    def trained_names(self) -> tuple[str, ...]:
        """The names that the detector was trained on, and those that an expert of it learned."""
        return (*self.training_classes, *self.learned_classes)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the default classes, see `set_vocabulary`; none before it."""
        return () if self.classes is None else self.classes.names

    def set_vocabulary(self, vocabulary: Names, *, negatives: Sequence[str] | None = None) -> None:
        """Set the default classes, of calls without `names` or `classes`.

        Args:
            vocabulary: see `embed`.
            negatives: see `embed`.

        Raises:
            InputError: as of `embed`.
        """
        self.classes = self.embed(vocabulary, negatives=negatives)

    @float32_by_default()
    def embed(self, vocabulary: Names, *, negatives: Sequence[str] | None = None) -> ClassEmbeddings:
        """The classes of a vocabulary, for `classes=`. Names that were embedded before cost nothing.

        Args:
            vocabulary: names, "-name" being a negative; a Vocabulary, where the best of a name and its synonyms counts;
                or ready embeddings. A trained name that means the same as one that is asked for ("people": "person")
                becomes its synonym.
            negatives: names that compete but are never returned: a region that matches one of them better is dropped.
                A detector that is asked for cats alone would else find some in every dog. None takes the training
                classes that are unlike all asked names. (): no negatives; scores of untrained names drop sharply, as
                nothing in the softmax represents other objects.

        Raises:
            InputError: no names, names that are none, or embeddings of another space than the model's.
        """
        return self._embed_vocabulary(vocabulary, negatives)

    @float32_by_default()
    def learn(self, name: str, examples: Sequence[tuple[Photo, Any]], *, use_name: bool = True) -> ClassEmbeddings:
        """A class of one's own from annotated photos, for `classes=`, alone or by `join_classes`.

        The detector stays as it is, and so do the scores of all other names.

        Args:
            name: of the class.
            examples: photos, each with its boxes (G, 4) XYXY of *all* things of this name in it, pixels of the photo;
                the rest of the photo is learned as what is none. A photo without boxes is one more of these.
            use_name: whether what the name means counts too, as far as it tells the examples from the rest.

        Raises:
            InputError: no box, one without area or of numbers that are not finite, examples that are no pairs, or a
                photo that cannot be used.
        """
        photos = []
        for example in examples:
            if not isinstance(example, (tuple, list)) or len(example) != 2:
                raise InputError(f"expected examples as pairs of a photo and its boxes, got {str(example)[:80]}")
            image, boxes = example
            boxes = to_boxes(boxes, told(image))
            photos.append(AnnotatedPhoto(image, boxes, torch.zeros(len(boxes), dtype=torch.long)))
        return self.learn_classes([name], photos, use_names=use_name)

    @float32_by_default()
    def learn_classes(
        self, names: Sequence[str], photos: Iterable[AnnotatedPhoto], *, use_names: bool = True
    ) -> ClassEmbeddings:
        """Several classes at once, each also learning from the others' examples; see `learn`.

        Raises:
            InputError: as of `learn`.
        """
        check_learner(self.model)
        embeddings = self.name_embeddings(names) if use_names else None
        return learn_classes(self.model, self.prepare, names, photos, name_embeddings=embeddings)

    def embed_exemplars(self, exemplars: Mapping[str, Sequence[Any]], *, use_names: bool = True) -> ClassEmbeddings:
        """Classes of photos or boxes in photos, for `classes=`, alone or by `join_classes`.

        They are learned on the spot, as by `learn`, a second or two a photo: `exemplars=` of a call does it anew.

        Args:
            exemplars: by name a list of photos that the thing fills, or of pairs (photo, box x1, y1, x2, y2).
            use_names: see `learn`.

        Raises:
            InputError: no exemplars, or photos or boxes that cannot be used.
        """
        return self.learn_classes(*exemplar_photos(exemplars), use_names=use_names)

    def name_embeddings(self, names: Sequence[str]) -> Tensor:
        """(K, D) of names, unit norm; zeros for names that a file of embeddings lacks."""
        known = self.embed_names.known_of(names)
        embeddings = torch.zeros(len(names), self.embed_names.width)
        if known:
            embeddings[[name in known for name in names]] = self.embed_names(known)
        return embeddings

    @cached_property
    def fingerprint(self) -> str:
        """See `detector_fingerprint`."""
        return detector_fingerprint(self.model) if self._fingerprint is None else self._fingerprint

    def __call__(
        self,
        image: Photo,
        names: Names | None = None,
        *,
        classes: ClassEmbeddings | None = None,
        exemplars: Mapping[str, Sequence[Any]] | None = None,
        negatives: Sequence[str] | None = None,
        threshold: Threshold = None,
        class_agnostic_iou: float = CLASS_AGNOSTIC_IOU,
        max_containment: float = MAX_CONTAINMENT,
        channel_order: str = "BGR",
    ) -> Detections:
        """Detect names in one photo.

        Args:
            image: a file, which is turned upright where its EXIF data say so; or pixels as they are: a PIL image, an
                array (H, W, 3) of uint8, or a tensor (3, H, W) of uint8 in RGB.
            names: what to find, for this call alone, see `embed`; None takes `classes`, or what `set_vocabulary` set.
            classes: the same as a value of `embed`, instead of names.
            exemplars: more classes, by photos or boxes in photos, see `embed_exemplars`; beside names or alone.
            negatives: with names, see `embed`.
            threshold: leave out detections that score below it; a mapping gives names their own. None, and for names
                that the mapping lacks, takes the detector's own defaults, or `default_threshold` for each name.
            class_agnostic_iou: leave out boxes with a larger IoU with one at least twice as sure, whatever their names;
                1 keeps all.
            max_containment: leave out boxes of which a larger share lies within a better one of their name; 1 keeps
                all.
            channel_order: of an array: "BGR" as OpenCV reads it, or "RGB".

        Raises:
            InputError: nothing is asked for, it cannot be used, or the photo cannot.
        """
        return self.detect_batch(
            [image],
            names,
            classes=classes,
            exemplars=exemplars,
            negatives=negatives,
            threshold=threshold,
            class_agnostic_iou=class_agnostic_iou,
            max_containment=max_containment,
            channel_order=channel_order,
        )[0]

    @float32_by_default()
    def detect_batch(
        self,
        images: Sequence[Photo],
        names: Names | None = None,
        *,
        classes: ClassEmbeddings | None = None,
        exemplars: Mapping[str, Sequence[Any]] | None = None,
        negatives: Sequence[str] | None = None,
        threshold: Threshold = None,
        class_agnostic_iou: float = CLASS_AGNOSTIC_IOU,
        max_containment: float = MAX_CONTAINMENT,
        channel_order: str = "BGR",
    ) -> list[Detections]:
        """Detect names in several photos with one pass of the network; arguments as for one photo.

        Smaller photos are padded to the largest, which moves what is found on them a little; photos of like sizes
        belong together.

        Raises:
            InputError: as for one photo.
        """
        if isinstance(images, (str, Path, Image.Image)) or (hasattr(images, "ndim") and images.ndim == 3):
            raise InputError("expected a list of photos, got one")
        classes = self._asked(names, classes, negatives, exemplars)
        shown = Shown(threshold, class_agnostic_iou, max_containment)
        return self._detect([self.prepare(image, channel_order) for image in images], classes, shown)

    @float32_by_default()
    def _detect(self, inputs: Sequence[dict], classes: ClassEmbeddings, shown: Shown) -> list[Detections]:
        """Detections of prepared photos."""
        return [to_detections(each, classes, shown) for each in self._run(inputs, classes, shown)]

    @float32_by_default()
    def _run(self, inputs: Sequence[dict], classes: ClassEmbeddings, shown: Shown) -> list[Instances]:
        """The model's output for prepared photos, on the CPU."""
        if not inputs:
            return []
        options = {}
        if getattr(self.model, "has_masks", False):  # most of the time of a detector with masks; none that is not shown
            options["mask_thresholds"] = thresholds_of(classes, shown.threshold)
        with torch.inference_mode():
            outputs = self.model(inputs, classes=classes, **options)
        return [output["instances"].to("cpu") for output in outputs]

    def _padded_size(self, inputs: dict) -> tuple[int, ...]:
        """(height, width) of a prepared photo as the network pads it where it is alone."""
        divisor = getattr(getattr(self.model, "backbone", None), "size_divisibility", 0) or 1
        return tuple(-(-side // divisor) * divisor for side in inputs["image"].shape[1:])

    @float32_by_default()
    def embed_photo(self, image: Photo, *, channel_order: str = "BGR") -> EmbeddedPhoto:
        """All of a detection that does not hang on the names, for any number of `detect_embedded`.

        Args:
            image: as for one photo.
            channel_order: likewise.

        Raises:
            InputError: the photo cannot be used, or the detector cannot be taken apart: an exported file, or a
                closed-set one.
        """
        if not hasattr(self.model, "embed_images"):
            raise InputError("expected an open-vocabulary detector of ovdet, not exported, to keep what it sees")
        inputs = self.prepare(image, channel_order)
        with torch.inference_mode():
            (seen,) = self.model.embed_images([inputs])
        return EmbeddedPhoto(seen, (inputs["height"], inputs["width"]))

    @float32_by_default()
    def detect_embedded(
        self,
        photo: EmbeddedPhoto,
        names: Names | None = None,
        *,
        classes: ClassEmbeddings | None = None,
        negatives: Sequence[str] | None = None,
        threshold: Threshold = None,
        class_agnostic_iou: float = CLASS_AGNOSTIC_IOU,
        max_containment: float = MAX_CONTAINMENT,
    ) -> Detections:
        """As a call with the photo itself, without masks, in a fraction of its time; arguments as there.

        Raises:
            InputError: as there.
        """
        classes = self._asked(names, classes, negatives)
        shown = Shown(threshold, class_agnostic_iou, max_containment)
        with torch.inference_mode():
            (output,) = self.model.score_images([photo.seen], [photo.size], classes=classes)
        return to_detections(output["instances"].to("cpu"), classes, shown)

    def stream(
        self,
        source: str | Path | Iterable[Photo],
        names: Names | None = None,
        *,
        batch_size: int = 1,
        classes: ClassEmbeddings | None = None,
        exemplars: Mapping[str, Sequence[Any]] | None = None,
        negatives: Sequence[str] | None = None,
        channel_order: str = "BGR",
        on_failure: OnFailure = log_failure,
        **limits: Any,
    ) -> Iterator[StreamedPhoto]:
        """Detect names in many photos, in their order, which are decoded and resized ahead of the network.

        What is found is what calls with one photo find. Memory does not grow with the number of photos. A photo that
        cannot be used stops no other.

        Args:
            source: a folder, a photo, a video, or any iterable of photos, which a thread iterates over.
            names: as for one photo.
            batch_size: photos of the same shape, but for padding, that go through the network together; more than 1
                helps GPUs.
            classes: as for one photo.
            exemplars: likewise.
            negatives: likewise.
            channel_order: likewise.
            on_failure: gets each photo that cannot be used, and why, in its turn; by default a warning in the log.
            limits: threshold, class_agnostic_iou and max_containment, likewise.

        Returns:
            Each photo with `source`, `detections` and `rgb()`.

        Raises:
            InputError: as for one photo, but for what is wrong with photos; no such file, a folder without photos.
        """
        classes, shown = self._asked(names, classes, negatives, exemplars), Shown(**limits)
        if batch_size < 1:
            raise InputError(f"expected a batch size of at least 1, got {batch_size}")
        return stream_photos(
            photos_of(source),
            partial(self.prepare, channel_order="RGB"),
            partial(self._run, classes=classes, shown=shown),
            partial(float32_by_default()(to_detections), classes=classes, shown=shown),
            shape_of=self._padded_size,
            batch_size=batch_size,
            on_failure=on_failure,
            channel_order=channel_order,
        )

    def detect_folder(
        self, folder: str | Path, names: Names | None = None, **options: Any
    ) -> Iterator[tuple[Path, Detections]]:
        """Detect names in the photos of a folder behind a progress bar: `stream` as pairs of file and detections.

        Args:
            folder: its photos are taken in the order of their names.
            names: as for one photo.
            options: of `stream`.

        Raises:
            InputError: as of `stream`; none of the photos can be used.
        """
        files, failures = find_images(folder), []

        def note(file: Path, error: InputError) -> None:
            failures.append(error)
            log_failure(file, error)

        photos = self.stream(files, names, on_failure=note, **options)
        for photo in track(photos, "detecting", total=len(files)):
            yield photo.source, photo.detections
        if len(failures) == len(files):
            raise failures[-1]

    def draw(self, image: Photo, detections: Detections, *, channel_order: str = "BGR") -> Image.Image:
        """The photo with what was found in it: boxes (and masks) with names and scores, a color for each name.

        Args:
            image: as it was detected on.
            detections: of it.
            channel_order: of an array.

        Returns:
            RGB; photos with a longest side under 800 pixels are enlarged to it, over 2560 made smaller.

        Raises:
            InputError: the photo cannot be used.
        """
        found, rgb = detections, to_rgb(image, channel_order)
        names = self.names if set(found.labels) <= set(self.names) else ()
        return Image.fromarray(draw_detections(rgb, found.boxes, found.labels, found.scores, found.masks, names))

    def _asked(
        self,
        names: Names | None,
        classes: ClassEmbeddings | None,
        negatives: Sequence[str] | None,
        exemplars: Mapping[str, Sequence[Any]] | None = None,
    ) -> ClassEmbeddings:
        """The classes of a call: `classes`, or those of `names`, or the default ones."""
        if names is not None and classes is not None:
            raise InputError("expected names or classes, got both")
        if names is None and negatives is not None:
            raise InputError("expected negatives with names, got them without: give them to embed or set_vocabulary")
        found = classes if names is None else self.embed(names, negatives=negatives)
        if exemplars is None:
            found = self.classes if found is None else found
        else:
            shown = self.embed_exemplars(exemplars)
            found = shown if found is None else join_classes(found, shown)
        if found is None:
            raise InputError("expected names, classes, or set_vocabulary(names) before the first photo, got none")
        if not isinstance(found, ClassEmbeddings):
            raise InputError(f"expected classes to be ClassEmbeddings, got {type(found).__name__}")
        self.check_detector(found)
        if found.width != self.embed_names.width:
            raise InputError(f"expected classes of width {self.embed_names.width}, got width {found.width}")
        return found

    def check_detector(self, classes: ClassEmbeddings) -> None:
        """Refuse classes that another detector learned.

        Raises:
            InputError: they are of another detector.
        """
        if classes.detector and classes.detector != self.fingerprint:
            raise InputError(
                f"expected classes that this detector learned ({self.fingerprint}), got another's ({classes.detector})"
            )

    def prepare(self, image: Photo, channel_order: str = "BGR") -> dict:
        """The model's input for one photo: resized image, height and width; arguments as of a call."""
        rgb = to_rgb(image, channel_order)
        height, width = rgb.shape[:2]
        image = resized(rgb, self.resize)
        image = image[:, :, ::-1] if self.model.input_format == "BGR" else image
        inputs = {"image": torch.from_numpy(image.transpose(2, 0, 1).copy()), "height": height, "width": width}
        if getattr(getattr(self.model, "roi_heads", None), "region_teacher", None) is not None:
            inputs["image_orig"] = torch.from_numpy(rgb.transpose(2, 0, 1).copy())
        return inputs
