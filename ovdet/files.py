"""Files that are whole or not there."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from ovdet.errors import InputError


def write_whole(path: str | Path, content: bytes) -> None:
    """Write a file under a temporary name beside it, then rename it: a reader never meets half of it.

    Raises:
        InputError: the place cannot be written to.
    """
    path = Path(path)
    part = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, part = tempfile.mkstemp(prefix=f".{path.name[:100]}.", suffix=".part", dir=path.parent)
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
        os.chmod(part, 0o666 & ~_umask())  # mkstemp's own is 0600
        os.replace(part, path)
    except OSError as error:
        if part:
            Path(part).unlink(missing_ok=True)
        raise InputError(f"expected a place to write to, got {path}: {error.strerror or error}") from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
