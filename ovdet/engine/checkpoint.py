"""Checkpoints: read without running code from them, written atomically, refused where they do not fit the model."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import pickletools
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import safetensors
import torch
from detectron2.checkpoint import DetectionCheckpointer
from omegaconf import DictConfig
from safetensors.torch import load_file
from torch import nn

from ovdet.arrays import load_arrays
from ovdet.errors import InputError, first_line
from ovdet.files import atomic_write, atomic_writer
from ovdet.teachers.embedding_space import space_difference
from ovdet.text.embedder import NameEmbedder
from ovdet.typed import checked

_INTEGERS = ("BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "LONG4")  # of pickle
HEADER = "ovdet"  # the entry of a checkpoint that says what it was trained with


class Header(msgspec.Struct, frozen=True):
    """The header of a checkpoint: facts about its detector."""

    teacher: str = ""
    width: int | None = None
    fingerprint: str = ""
    training_classes: Sequence[str] | None = None
    known_classes: Sequence[str] | None = None


class _Plain(msgspec.Struct, frozen=True):
    """The entries of a checkpoint that are not tensors, and are read."""

    ovdet: Header = Header()
    iteration: int = -1
    run: dict[str, int] = {}


def read_checkpoint(path: str) -> dict[str, Any]:
    """Read .pth (`weights_only`), .safetensors, or detectron2's .pkl (arrays only).

    Returns:
        A dict with "model" (state dict) and what else the file holds; HEADER is {} where it says nothing.

    Raises:
        InputError: no such file, damaged, or it holds more than tensors and plain values.
    """
    if not Path(path).is_file():
        raise InputError(f"expected a checkpoint file, {path} does not exist")
    try:
        content = _read(path)
    except Exception as error:  # each reader has its own family of errors, and a damaged file raises any of them
        raise InputError(
            f"expected a checkpoint of tensors (.pth, .safetensors, .pkl), {path} is not: {first_line(error)}"
        ) from error
    if not isinstance(content, dict):
        raise InputError(f"expected a checkpoint with named tensors, {path} holds a {type(content).__name__}")
    if "model" not in content:
        content = {"model": content}
    if not isinstance(content["model"], dict) or not all(isinstance(key, str) for key in content["model"]):
        raise InputError(f"expected a checkpoint with named tensors, {path} holds others")
    content.setdefault(HEADER, {})
    plain = {key: content[key] for key in _Plain.__struct_fields__ if key in content}
    checked(plain, _Plain, "a checkpoint", path)
    return content


def text_space(config: DictConfig, embed_names: NameEmbedder) -> dict[str, Any]:
    """A checkpoint header's teacher, embedding width and fingerprint."""
    return {
        "teacher": config.teacher.name,
        "width": config.teacher.width,
        "fingerprint": embed_names.fingerprint,
    }


def known_classes(header: Mapping[str, Any]) -> list[str] | None:
    """The classes that weights, and those they began from, were trained on; None if the header does not say.

    Args:
        header: of their checkpoint.
    """
    before, own = header.get("known_classes"), header.get("training_classes")
    return None if before is None and own is None else classes_of_both(before, own)


def classes_of_both(first: Sequence[str] | None, second: Sequence[str] | None) -> list[str]:
    """The classes that weights have seen in both trainings, each once, those of the second training first."""
    return list(dict.fromkeys([*(second or ()), *(first or ())]))


def _read(path: str) -> Any:
    if path.endswith(".safetensors"):
        with safetensors.safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get(HEADER, "{}"))
        return {"model": load_file(path), HEADER: header}
    if not path.endswith(".pkl"):
        _check_sizes(path)
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:  # torch's message advises to read it all the same, code included
            raise pickle.UnpicklingError("damaged, or more than tensors and plain values is in it") from error
    content = load_arrays(Path(path).read_bytes())
    if "model" in content and "__author__" in content:
        return content
    blobs = {key: value for key, value in content.get("blobs", content).items() if not key.endswith("_momentum")}
    return {"model": blobs, "__author__": "Caffe2", "matching_heuristics": True}


def _check_sizes(path: str) -> None:
    """Refuse a .pth that would unpack to more than it holds, before torch takes the memory.

    Raises:
        pickle.UnpicklingError: it is one.
    """
    size = os.path.getsize(path)
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
            names = archive.namelist() if unpacked <= size else ()
            pickles = [archive.read(name) for name in names if name.endswith("/data.pkl")]
    else:  # as torch wrote them before 1.6
        pickles = [Path(path).read_bytes()]
        unpacked = _count_elements(pickles[0])
    if unpacked > size or any(b"bytearray" in each for each in pickles):
        raise pickle.UnpicklingError(f"it would unpack to more than its {size} bytes")


def _count_elements(content: bytes) -> int:
    """The number of elements of all storages that torch's pickles in this content speak of, a byte each at least."""
    stream, total, is_storage = io.BytesIO(content), 0, False
    with contextlib.suppress(Exception):  # behind the last pickle come the numbers themselves
        while True:
            for opcode, argument, _ in pickletools.genops(stream):
                if opcode.name == "GLOBAL":
                    is_storage = str(argument).endswith("Storage")
                elif is_storage and opcode.name in _INTEGERS:
                    total, is_storage = total + argument, False
    return total


def find_parts(model: nn.Module, names: Sequence[str], option: str) -> list[nn.Module]:
    """A model's submodules by their names.

    Args:
        model: any.
        names: of submodules, with dots.
        option: that says so, for the message.

    Raises:
        InputError: the model has no such part.
    """
    try:
        return [model.get_submodule(name) for name in names]
    except AttributeError as error:
        odd = next(name for name in names if name not in dict(model.named_modules()))
        children = ", ".join(name for name, _ in model.named_children())
        raise InputError(f"expected {option} to name parts of the model ({children}), got {odd!r}") from error


class SafeCheckpointer(DetectionCheckpointer):
    """detectron2's checkpointer with safe reading, atomic writes and a header."""

    def __init__(
        self, model: nn.Module, save_dir: str = "", *, header: dict[str, Any] | None = None, **checkpointables
    ) -> None:
        """
        Args:
            model: as in detectron2.
            save_dir: as in detectron2.
            header: plain values (teacher, width, fingerprint, training classes) that go into each checkpoint. A
                checkpoint that is read must be of the space of the first three; vocabularies are free.
            checkpointables: as in detectron2.
        """
        super().__init__(model, save_dir, **checkpointables)
        self.header = header or {}

    def save(self, name: str, **extra: Any) -> None:
        """Write `name`.pth atomically.

        Raises:
            InputError: the folder cannot be written to, or is full.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        content = {"model": self.model.state_dict(), HEADER: self.header, **extra}
        content.update({key: part.state_dict() for key, part in self.checkpointables.items()})
        target = os.path.join(self.save_dir, f"{name}.pth")
        _save_atomically(content, target)
        self.logger.info("saved %s", target)
        self.tag_last_checkpoint(f"{name}.pth")

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """As fvcore's, written atomically."""
        atomic_write(self._last_file, last_filename_basename.encode())

    def forget_last_checkpoint(self) -> None:
        """No checkpoint of the folder is the last one of a run that is to be resumed."""
        Path(self._last_file).unlink(missing_ok=True)

    def get_checkpoint_file(self) -> str:
        """The run's last checkpoint; "" where there is none.

        Raises:
            InputError: the file that names it names none.
        """
        try:
            found = super().get_checkpoint_file()
        except UnicodeDecodeError:
            found = "what is no text"
        if found and not Path(found).is_file():
            raise InputError(f"expected the name of a checkpoint in {self._last_file}, {found} is no file")
        return found

    @property
    def _last_file(self) -> str:
        return os.path.join(self.save_dir, "last_checkpoint")

    def load(self, path: str, *args, **options) -> dict[str, Any]:
        """As detectron2's; a local file that does not exist is an InputError."""
        if path and "://" not in path and not Path(path).is_file():
            raise InputError(f"expected a checkpoint file, {path} does not exist")
        return super().load(path, *args, **options)

    def load_weights(self, path: str) -> dict[str, Any]:
        """Load a trained detector: every parameter must be there.

        Returns:
            The checkpoint's header.

        Raises:
            InputError: unreadable, of another teacher or width, or parameters are missing.
        """
        self._complete = True
        try:
            return self.load(path, checkpointables=[]).get(HEADER, {})
        finally:
            self._complete = False

    def load_parts(self, path: str, parts: Sequence[str]) -> dict[str, Any]:
        """Load all parameters of some submodules.

        Args:
            path: a checkpoint of a model that has these parts too.
            parts: submodules by their names.

        Returns:
            The checkpoint's header.

        Raises:
            InputError: the model has no such part, the checkpoint is unreadable, of another teacher or width, or
                parameters of a part are missing.
        """
        find_parts(self.model, parts, "train.init_parts")
        if not path:
            raise InputError(f"expected a checkpoint with {', '.join(parts)} as train.init_checkpoint, got none")
        self._parts = tuple(f"{part}." for part in parts)
        try:
            return self.load_weights(path)
        finally:
            self._parts = ("",)

    _complete = False
    _parts: tuple[str, ...] = ("",)  # prefixes

    def _load_file(self, filename: str) -> dict[str, Any]:
        content = read_checkpoint(filename)
        stored = content[HEADER]
        if key := space_difference(self.header, stored):
            raise InputError(
                f"expected a checkpoint for {key} {self.header[key]!r}, got {key} {stored[key]!r} in {filename}"
            )
        return content

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        named = checkpoint["model"].items()
        weights = {key: value for key, value in named if key.startswith(self._parts) and hasattr(value, "shape")}
        checkpoint["model"] = weights
        incompatible = super()._load_model(checkpoint)
        if incompatible.incorrect_shapes:
            key, actual, expected = incompatible.incorrect_shapes[0]
            raise InputError(f"expected a checkpoint of this model with {key} of shape {expected}, got shape {actual}")
        missing = [key for key in incompatible.missing_keys if key.startswith(self._parts)]
        if missing and self._complete:
            raise InputError(f"expected a checkpoint of this model, it lacks {missing[0]} (+{len(missing) - 1} more)")
        if missing and len(missing) == len(self.model.state_dict()):
            raise InputError(f"expected a checkpoint of this model or of parts of it, it has nothing like {missing[0]}")
        return incompatible


def average_checkpoints(before: str, after: str, share: float, output: str | Path) -> None:
    """Interpolate two checkpoints (WiSE-FT, arXiv:2109.01903) and write `(1 - share) * before + share * after`.

    Header and precision are those of `after`, with the classes that either has seen. Entries that `before` lacks, and
    integers, are those of `after`.

    Args:
        before: a checkpoint, see read_checkpoint.
        after: another one of the same detector, trained on from it.
        share: 0 to 1.
        output: a .pth file.

    Raises:
        InputError: a share outside of that, unreadable or of different detectors, or the place cannot be written to.
    """
    if not 0 <= share <= 1:
        raise InputError(f"expected a share between 0 and 1, got {share}")
    if Path(output).suffix != ".pth":
        raise InputError(f"expected a .pth file to write to, got {output}")
    first, second = read_checkpoint(before), read_checkpoint(after)
    if key := space_difference(first[HEADER], second[HEADER]):
        raise InputError(f"expected two checkpoints of one detector, {before} and {after} differ in {key}")
    model = dict(second["model"])
    for key, value in first["model"].items():
        if key not in model or model[key].shape != value.shape:
            raise InputError(f"expected two checkpoints of one detector, {after} has no {key} of {tuple(value.shape)}")
        if value.is_floating_point():
            model[key] = torch.lerp(value.float(), model[key].float(), share).to(model[key].dtype)
    header = dict(second[HEADER])
    if known := classes_of_both(known_classes(first[HEADER]), known_classes(header)):
        header["known_classes"] = known
    _save_atomically({"model": model, HEADER: header}, output)


def _save_atomically(content: dict[str, Any], path: str | Path) -> None:
    try:
        with atomic_writer(path) as stream:
            torch.save(content, stream)
    except RuntimeError as error:
        if not isinstance(error.__context__, OSError):  # which torch.save turns into its own
            raise
        raise InputError(f"expected a place to write to, got {path}: {error.__context__.strerror}") from error
