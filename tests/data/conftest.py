"""Region stores for tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from ovdet.regions.plan import Photo, RegionPlan, write_plan
from ovdet.regions.shard import PhotoRegions, write_shard
from ovdet.regions.store import RegionStore


@pytest.fixture
def write_store(tmp_path) -> Callable[..., RegionStore]:
    """Makes a store of these (image_id, boxes, embeddings, scores), of photos of 90 x 120, in folder `name`."""

    def write(entries, name: str = "store", **settings) -> RegionStore:
        plan = make_plan([entry[0] for entry in entries], **settings)
        rows = [
            PhotoRegions(*map(torch.as_tensor, arrays), (90, 120), bytes(np.full(32, row, np.uint8)))
            for row, (_, *arrays) in enumerate(entries)
        ]
        write_plan(tmp_path / name, plan)
        for number in range(plan.num_shards):
            write_shard(tmp_path / name, plan, number, rows[plan.of_shard(number)])
        return RegionStore(tmp_path / name)

    return write


def make_plan(image_ids, root: Path | str = "/photos", **settings) -> RegionPlan:
    given = {
        "teacher": "conse",
        "fingerprint": "0123456789abcdef",
        "width": 6,
        "crops": {"scales": [1.0, 1.5]},
        "dataset": {"name": "photos", "sha256": ""},
        "proposals": {"source": "an RPN", "training_classes": ["cat", "hot_dog"]},
        "max_regions": 300,
        "photos_per_shard": 3,
        "photos": tuple(Photo(image_id, f"{image_id}.jpg", 90, 120) for image_id in image_ids),
        "photo_root": str(root),
    }
    return RegionPlan(**{**given, **settings})
