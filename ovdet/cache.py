"""Text embeddings that come with the package or are in the user's cache folder, so that a text encoder runs once.

Shape letters: K names, D embedding width.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from ovdet.errors import InputError
from ovdet.files import atomic_write

VOCABULARY = "names-"  # how keys of vocabularies begin
MAX_VOCABULARIES = 1000  # that are kept, about 0.1 MB each
_SHIPPED = Path(__file__).parent / "assets/embeddings"  # of ImageNet's classes by the embedded teacher


def cache_folder() -> Path:
    """The cache folder of this user, by the XDG base directory specification."""
    configured = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (configured if configured.is_absolute() else Path(os.path.expanduser("~/.cache"))) / "ovdet"


def cached_embeddings(key: str, shape: tuple[int, int], compute: Callable[[], Tensor]) -> Tensor:
    """The embeddings kept under a key, else computed and kept; a cache that cannot be written to is no fault.

    Args:
        key: a file name's stem that stands for all that the embeddings depend on.
        shape: (K, D); what is kept in another shape, damaged, or not of unit norm counts as not there.
        compute: -> (K, D) float32, unit norm.

    Returns:
        (K, D) float32 on the CPU.
    """
    shipped, path = (folder / f"{key}.safetensors" for folder in (_SHIPPED, cache_folder()))
    embeddings = next((kept for kept in (_read(shipped, shape), _read(path, shape)) if kept is not None), None)
    if embeddings is None:
        embeddings = compute().float().cpu().contiguous()
        with contextlib.suppress(InputError):
            atomic_write(path, safetensors.torch.save({"embeddings": embeddings}))
            _remove_oldest(path.parent)
    return embeddings


def _remove_oldest(folder: Path) -> None:
    """Keep the newest MAX_VOCABULARIES: a server is asked for ever new ones."""
    with contextlib.suppress(OSError):  # of another process that removes the same
        files = sorted(folder.glob(f"{VOCABULARY}*"), key=lambda file: file.stat().st_mtime)
        for file in files[:-MAX_VOCABULARIES]:
            file.unlink(missing_ok=True)


def _read(path: Path, shape: tuple[int, int]) -> Tensor | None:
    try:
        embeddings = safetensors.torch.load(path.read_bytes())["embeddings"]
    except (OSError, KeyError, SafetensorError):
        return None
    is_unit = embeddings.shape == shape and bool(((embeddings.float().norm(dim=1) - 1).abs() <= 1e-4).all())
    return embeddings if is_unit else None
