"""Downloading one file: goes on where it was stopped, is there as a whole or not at all."""

from __future__ import annotations

import http.client
import os
import urllib.error
import urllib.request
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from ovdet.errors import InputError, first_line
from ovdet.files import file_sha256, make_folder

_AT_ONCE = 2**20  # bytes
_PATIENCE = 30  # seconds without an answer
_UNSATISFIABLE = 416  # HTTP: there is nothing from that byte on


def download(url: str, path: str | Path, *, sha256: str = "") -> Path:
    """Fetch a file, with a progress bar.

    What was fetched before a stop lies beside `path` as NAME.part; the next call asks for the rest.

    Args:
        url: http(s):// or file://.
        path: where it goes; what lies there already is taken for it.
        sha256: 64 hex digits that its content must have; "" where they are not known.

    Returns:
        `path`.

    Raises:
        InputError: it cannot be had, ends too early, or has another sha256.
    """
    path = Path(path)
    if path.is_file():
        return path
    make_folder(path.parent)
    part = path.with_name(f"{path.name}.part")
    try:
        expected = _fetch(url, part)
    except urllib.error.HTTPError as error:
        if error.code != _UNSATISFIABLE:
            raise InputError(f"expected to fetch {url}, got: HTTP {error.code} {error.reason}") from error
        part.unlink(missing_ok=True)  # longer than the file is now
        raise InputError(f"expected to go on with {url}, which has changed since: run it again") from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise InputError(f"expected to fetch {url}, got: {first_line(error)}") from error
    actual = part.stat().st_size
    if expected is not None and actual != expected:
        raise InputError(f"expected {expected:,} bytes of {url}, got {actual:,}: run it again, it goes on from there")
    if sha256 and file_sha256(part) != sha256:
        part.unlink()
        raise InputError(f"expected {url} with sha256 {sha256}, got another file: it was deleted")
    os.replace(part, path)
    return path


def _fetch(url: str, part: Path) -> int | None:
    """Add to `part` what it lacks; the number of bytes that the whole has, None where the server does not say."""
    begun = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={begun}-"} if begun else {})
    with urllib.request.urlopen(request, timeout=_PATIENCE) as answer:
        goes_on = getattr(answer, "status", None) == http.HTTPStatus.PARTIAL_CONTENT
        begun = begun if goes_on else 0
        length = answer.headers.get("Content-Length")
        expected = None if length is None else begun + int(length)
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        with (
            Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as progress,
            open(part, "ab" if goes_on else "wb") as stream,
        ):
            task = progress.add_task(url.rpartition("/")[2], total=expected, completed=begun)
            while piece := answer.read(_AT_ONCE):
                stream.write(piece)
                progress.advance(task, len(piece))
            stream.flush()
            os.fsync(stream.fileno())
    return expected
