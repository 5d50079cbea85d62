"""Photos of a label tool's tasks: from its local storage's folder, from its own address, or within the task."""

from __future__ import annotations

import base64
import binascii
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import parse_qs, urljoin, urlsplit

from ovdet.errors import InputError

_LOCAL = "/data/local-files/"
_PATIENCE = 30.0  # seconds


class PhotoSource:
    """Reads photos by the addresses that tasks have. No task can have it read other files or ask other hosts."""

    def __init__(
        self, *, folder: Path | None = None, host: str | None = None, token: str | None = None, max_bytes: int = 2**25
    ) -> None:
        """
        Args:
            folder: Label Studio's LOCAL_FILES_DOCUMENT_ROOT; None for no local storage.
            host: Label Studio's address, for uploaded photos; None for none.
            token: of its API.
            max_bytes: of a photo.
        """
        self.folder = None if folder is None else folder.resolve()
        self.host = None if host is None else host.rstrip("/") + "/"
        self.token = token
        self.max_bytes = max_bytes
        self._opener = urllib.request.build_opener(_WithoutToken)

    def read(self, address: str) -> bytes:
        """A photo's file.

        Raises:
            InputError: it is not there, too large, or its address is none that may be read.
        """
        if not isinstance(address, str):
            raise InputError(f"expected a photo's address, got {type(address).__name__}")
        if address.startswith("data:"):
            return self._checked(_decoded(address))
        parts = urlsplit(address)
        if parts.path.endswith(_LOCAL) and not self._is_elsewhere(address):
            return self._local(parse_qs(parts.query).get("d", [""])[0])
        return self._fetched(address)

    def _is_elsewhere(self, address: str) -> bool:
        return bool(urlsplit(address).netloc) and not (self.host and address.startswith(self.host))

    def _local(self, name: str) -> bytes:
        if self.folder is None:
            raise InputError("expected --photos FOLDER to read Label Studio's local files, got none")
        path = (self.folder / name.lstrip("/")).resolve()
        if not path.is_relative_to(self.folder) or not path.is_file():
            raise InputError(f"expected a photo below {self.folder}, got {name!r}")
        if path.stat().st_size > self.max_bytes:
            raise InputError(f"expected a photo of {self.max_bytes:,} bytes at most, got {path.stat().st_size:,}")
        return path.read_bytes()

    def _fetched(self, address: str) -> bytes:
        if self.host is None or self._is_elsewhere(address) or urlsplit(address).scheme not in ("", "http", "https"):
            raise InputError(f"expected a photo of --label-studio ADDRESS or of --photos FOLDER, got {address[:200]!r}")
        request = urllib.request.Request(urljoin(self.host, address.lstrip("/")))
        if self.token:
            request.add_header("Authorization", f"Token {self.token}")
        try:
            with self._opener.open(request, timeout=_PATIENCE) as response:
                return self._checked(response.read(self.max_bytes + 1))
        except (urllib.error.URLError, OSError, ValueError) as error:
            raise InputError(f"expected a photo at {request.full_url[:200]}, it cannot be had: {error}") from error

    def _checked(self, content: bytes) -> bytes:
        if len(content) > self.max_bytes:
            raise InputError(f"expected a photo of {self.max_bytes:,} bytes at most, got more")
        return content


class _WithoutToken(urllib.request.HTTPRedirectHandler):
    """A redirection to another host, such as a cloud's storage, does not get the token."""

    def redirect_request(self, request, stream, code, message, headers, address):
        moved = super().redirect_request(request, stream, code, message, headers, address)
        if moved is not None and urlsplit(address).netloc != urlsplit(request.full_url).netloc:
            moved.remove_header("Authorization")
        return moved


def _decoded(address: str) -> bytes:
    """data:image/png;base64,..."""
    head, _, body = address.partition(",")
    try:
        if not head.endswith(";base64"):
            raise ValueError("no base64")
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError(f"expected a photo as data:...;base64,..., it cannot be read: {error}") from error
