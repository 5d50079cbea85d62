"""Extraction on a Ray cluster: workers compute the shards of a store; the shards of a lost worker are retried.

Each worker reads images and writes shards itself, so data set and store lie on a file system that all machines see
under the same names. Ray is imported when it is asked for, and not needed otherwise.
"""

from __future__ import annotations

import json
import logging
import os
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from ovdet.errors import InputError, input_error_of
from ovdet.memory import reuse_freed_memory
from ovdet.progress import show_progress
from ovdet.regions.job import ExtractJob, ImageJob, Shards
from ovdet.regions.plan import read_plan
from ovdet.regions.shard import shard_path
from ovdet.regions.worker import build_extractor


def run_on_ray(config: DictConfig, job: ExtractJob, folder: Path, shards: Shards, processes: int) -> None:
    """Extract on the cluster of $RAY_ADDRESS, else on one that is started on this machine.

    Args:
        config: as for do_train.
        job: what is to be done.
        folder: the store, begun.
        shards: those that are missing.
        processes: workers, each with a GPU of its own where the cluster has any, else with its share of the CPUs.

    Raises:
        InputError: Ray is not installed, the cluster does not answer or is smaller than that, or the store cannot be
            written to.
    """
    ray = _import_ray()
    _connect(ray)
    try:
        ray.data.DataContext.get_current().enable_progress_bars = False
        rows = [{"shard": number, "images": json.dumps(jobs)} for number, jobs in shards]
        done = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            ShardWorker,
            fn_constructor_args=(config, str(folder), job.weights),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=processes),  # lost workers are replaced, their shards retried
            **_share_of(ray.cluster_resources(), processes),
        )
        show_progress("embedding regions", _images_done(ray, done), sum(len(jobs) for _, jobs in shards))
    finally:
        ray.shutdown()


def _import_ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # ray-project/ray#57733: an error that is none
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise InputError('expected Ray for --engine ray, run: pip install "ray[data]"') from error
    return ray


def _connect(ray: Any) -> None:
    """Connect to the cluster of $RAY_ADDRESS; without that, start one here.

    Raises:
        InputError: it does not answer, or does not let this user in (Ray's own settings, RAY_AUTH_MODE and the like).
    """
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    address = os.environ.get("RAY_ADDRESS") or "local"  # never a cluster that merely happens to run here
    try:
        ray.init(address, log_to_driver=False, logging_level="ERROR", ignore_reinit_error=True)
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        cause = str(error.__cause__ or error).strip().splitlines()[-1]
        raise InputError(f"expected a Ray cluster at {address}, it cannot be reached: {cause}") from error


def _share_of(resources: dict[str, float], processes: int) -> dict[str, float]:
    """The resources of each worker.

    Raises:
        InputError: there is not that much.
    """
    kind = "GPU" if resources.get("GPU") else "CPU"
    available = int(resources.get(kind, 0))
    if processes > available:
        raise InputError(f"expected --num-gpus of at most the cluster's {available} {kind}s, got {processes}")
    return {"num_gpus": 1} if kind == "GPU" else {"num_cpus": available // processes}


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


def _images_done(ray: Any, done: Any) -> Iterator[int]:
    """The number of images of each finished shard.

    Raises:
        InputError: one that a worker has met, without the cluster's traceback.
    """
    try:
        for row in done.iter_rows():
            yield int(row["images"])
    except ray.exceptions.RayError as error:
        message = input_error_of(str(error))
        if message is None:
            raise
        raise InputError(message) from error
