"""Every config of configs/, and which of them stand for all where all go the same way."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CONFIGS = sorted(file for file in (ROOT / "configs").rglob("*.py") if "common" not in file.parts)
# one of each family, and of each kind: an expert, a closed set, two data sets, labels of images, a store, a fused score
SOON = {
    "lite/ovdet_lite_expert",
    "lite/closed_set",
    "lite/image_labels",
    "lite/own_data_mixed",
    "lite/vild_ensemble",
    "ov_coco/vild_text",
    "ov_lvis/vild_ensemble_federated",
    "published/detic_r50",
    "quick/vild_stored",
    "transfer/voc",
}


def name_of(file: Path) -> str:
    return str(file.relative_to(ROOT))


def in_tiers(soon: set[str] = SOON) -> list:
    """All configs as parameters of a test, those that are not named here for the slow tier."""
    stems = {str(file.relative_to(ROOT / "configs").with_suffix("")): file for file in CONFIGS}
    assert soon <= stems.keys()
    return [
        pytest.param(file, id=name_of(file), marks=[] if stem in soon else [pytest.mark.slow])
        for stem, file in stems.items()
    ]
