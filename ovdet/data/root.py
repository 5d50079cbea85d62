"""The folder of all data sets."""

from __future__ import annotations

import os
from pathlib import Path


def datasets_root(root: str | Path | None = None) -> Path:
    """The folder of all data sets: `root`, else $DETECTRON2_DATASETS, else "datasets"."""
    return Path(root or os.environ.get("DETECTRON2_DATASETS") or "datasets")
