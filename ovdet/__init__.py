"""ovdet: open-vocabulary object detection. Any list of class names in, boxes out.

Public names are resolved on first use (PEP 562), so that `import ovdet` costs nothing.
"""

from __future__ import annotations

import importlib
import os

from ovdet.version import VERSION as __version__  # noqa: N811, F401

os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", "128000000")  # as of data/images.py; read as cv2 is imported

_PUBLIC = {
    "ClassEmbeddings": "ovdet.class_embeddings",
    "Detections": "ovdet.inference.detections",
    "InputError": "ovdet.errors",
    "OpenVocabPredictor": "ovdet.inference.predictor",
    "TextEmbeddings": "ovdet.text.embeddings",
    "Vocabulary": "ovdet.text.vocabulary",
    "embed_vocabulary": "ovdet.text.embeddings",
    "load_embeddings": "ovdet.text.embeddings",
    "load_teacher": "ovdet.teachers.registry",
}
__all__ = sorted(_PUBLIC)


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f"module 'ovdet' has no attribute {name!r}; it offers {', '.join(__all__)}")
    from ovdet.memory import imports_kept

    with imports_kept():
        return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return __all__
