"""Atomic writes: a file is there as a whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ovdet.errors import InputError


def require_path(path: str) -> str:
    """Refuse an empty path, as of a variable that was not set: it would be the present folder.

    Raises:
        InputError: it is empty.
    """
    if not path:
        raise InputError("expected a file or a folder, got an empty name")
    return path


def atomic_write(path: str | Path, content: bytes) -> None:
    """Write a file atomically: under a temporary name beside it, which is then renamed.

    Raises:
        InputError: the place cannot be written to.
    """
    with atomic_writer(path) as stream:
        stream.write(content)


@contextmanager
def atomic_writer(path: str | Path) -> Iterator[BinaryIO]:
    """As `atomic_write`, for content that comes piece by piece: the file is there once the `with` block is through.

    A block that fails leaves nothing, and an older file as it was.

    Raises:
        InputError: the place cannot be written to.
    """
    with temporary_path(path) as part, open(part, "xb") as stream:
        yield stream
        stream.flush()
        os.fsync(stream.fileno())  # else the name may outlive a power cut, and the content not


@contextmanager
def temporary_path(path: str | Path, suffix: str = ".part") -> Iterator[Path]:
    """As `atomic_writer`, for a writer that opens files by itself: a path to write to, which is renamed at the end.

    Args:
        path: of the whole file.
        suffix: of the part, where its writer goes by that.

    Raises:
        InputError: the place cannot be written to.
    """
    path = Path(path)
    part = path.parent / f".{uuid.uuid4().hex}{suffix}"
    try:
        with _made_for(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                yield part
                os.replace(part, path)
                _sync_folder(path.parent)
            finally:
                with contextlib.suppress(OSError):  # mostly renamed by now
                    part.unlink()
    except OSError as error:
        raise InputError(f"expected a place to write to, got {path}: {error.strerror or error}") from error


@contextmanager
def new_folder(path: str | Path) -> Iterator[None]:
    """As `make_folder`; where the `with` block fails, what was made for it goes again, unless something is in it.

    Raises:
        InputError: as of `make_folder`.
    """
    with _made_for(Path(path)):
        make_folder(path)
        yield


@contextmanager
def _made_for(folder: Path) -> Iterator[None]:
    """A block that makes a folder and those above it: where it fails, they go again, unless something is in them."""
    folder = folder.absolute()
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):  # not empty
            for each in made:
                each.rmdir()
        raise


def check_place(path: str | Path, *, is_folder: bool = False) -> str | Path:
    """The path of a file or folder that can be written, before there is anything to write: nothing is made.

    Args:
        path: of a file.
        is_folder: of a folder, made where there is none.

    Raises:
        InputError: it is empty, a folder in the place of a file or a file in that of a folder, or below something that
            is no folder or not to be written to.
    """
    above = Path(require_path(str(path))).absolute()
    if above.exists() and above.is_dir() != is_folder:
        wanted, found = ("folder", "file") if is_folder else ("file", "folder")
        raise InputError(f"expected a {wanted} to write to, {path} is a {found}")
    while not above.exists():
        above = above.parent
    if not os.access(above, os.W_OK) or (above != Path(path).absolute() and not above.is_dir()):
        raise InputError(f"expected a place to write to, got {path}")
    return path


def make_folder(path: str | Path) -> None:
    """Make a folder, where there is none, that can be written to.

    Raises:
        InputError: it cannot be made or written to.
    """
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise InputError(f"expected a place to write to, got {path}: {error.strerror}") from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise InputError(f"expected a place to write to, got {path}: no permission")


def file_sha256(path: str | Path) -> str:
    """64 hex digits of a file's content.

    Raises:
        InputError: the file cannot be read.
    """
    total = hashlib.sha256()
    try:
        with open(path, "rb") as stream:
            while piece := stream.read(1 << 20):
                total.update(piece)
    except OSError as error:
        raise InputError(f"expected a readable file, got {path}: {error.strerror or error}") from error
    return total.hexdigest()


def _sync_folder(folder: Path) -> None:
    """Make a renaming last, where folders can be synchronized (not on every file system)."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
