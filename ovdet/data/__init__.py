"""Datasets with base / novel subsets, the reader of photos, the mapper, stored regions, drawn data.

Names are resolved on first use (PEP 562): photos, stored regions and drawn data work without detectron2.
"""

from __future__ import annotations

import importlib

_PUBLIC = {
    "OpenVocabMapper": "ovdet.data.mapper",
    "RegionStore": "ovdet.data.region_store",
    "build_synthetic": "ovdet.data.synthetic",
    "check_no_leak": "ovdet.data.leaks",
    "find_leaks": "ovdet.data.leaks",
    "frequency_weights": "ovdet.data.sampling",
    "load_coco_subsets": "ovdet.data.coco_subsets",
    "load_split": "ovdet.data.split",
    "read_image": "ovdet.data.images",
    "register_builtin": "ovdet.data.builtin",
    "register_coco_subsets": "ovdet.data.coco_subsets",
    "repeat_factor_sampler": "ovdet.data.sampling",
}
__all__ = sorted(_PUBLIC)


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f"module 'ovdet.data' has no attribute {name!r}; it offers {', '.join(__all__)}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return __all__
