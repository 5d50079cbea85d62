"""Extraction on a Ray cluster: workers compute the shards of a store; the shards of a lost worker are retried.

Each worker reads images and writes shards itself, so data set and store lie on a file system that all machines see
under the same names.
"""

from __future__ import annotations

import json
from collections import deque
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from ovdet.cluster import map_on_cluster
from ovdet.memory import reuse_freed_memory
from ovdet.progress import show_progress
from ovdet.regions.job import ExtractJob, ImageJob, Shards
from ovdet.regions.plan import read_plan
from ovdet.regions.shard import shard_path
from ovdet.regions.worker import build_extractor


def run_on_ray(config: DictConfig, job: ExtractJob, folder: Path, shards: Shards, processes: int) -> None:
    """Extract on a cluster, see `map_on_cluster`.

    Args:
        config: as for do_train.
        job: what is to be done.
        folder: the store, begun.
        shards: those that are missing.
        processes: workers.

    Raises:
        InputError: as of `map_on_cluster`, or the store cannot be written to.
    """
    rows = [{"shard": number, "images": json.dumps(jobs)} for number, jobs in shards]
    arguments = (config, str(folder), job.weights)
    done = map_on_cluster(ShardWorker, arguments, rows, processes=processes)
    show_progress("embedding regions", (int(row["images"]) for row in done), sum(len(jobs) for _, jobs in shards))


class ShardWorker:
    """Holds detector and teacher in a process of the cluster."""

    def __init__(self, config: DictConfig, folder: str, weights: str) -> None:
        reuse_freed_memory()
        self.folder = folder
        self.extractor = build_extractor(config, read_plan(folder), weights)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """One shard: its number and its images -> the number and how many images it has."""
        number, jobs = int(batch["shard"][0]), [ImageJob(*job) for job in json.loads(batch["images"][0])]
        if not shard_path(self.folder, number).exists():  # a worker may be lost after it has written
            deque(self.extractor.write_shards(self.folder, [(number, jobs)]), maxlen=0)
        return {"shard": batch["shard"], "images": [len(jobs)]}
