"""Making a region store with one process or several; an interrupted extraction resumes."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import torch
from detectron2.engine import launch
from detectron2.utils import comm
from omegaconf import DictConfig

from ovdet.errors import InputError, command
from ovdet.progress import show_progress
from ovdet.regions.job import ExtractJob, ExtractOptions, Shards, plan_extraction
from ovdet.regions.plan import PLAN, ImageRecord, check_same_plan, read_plan, write_plan
from ovdet.regions.ray import run_on_ray
from ovdet.regions.shard import missing_shards, shard_path
from ovdet.regions.store import unreadable_by_shard, unreadable_images
from ovdet.regions.worker import build_extractor

_PATIENCE = timedelta(days=7)  # of a process that is done with its share, for the others


class Extracted(NamedTuple):
    """A finished extraction."""

    teacher: str
    num_images: int
    unreadable: list[tuple[ImageRecord, str]]  # images that could not be read, and why


def extract_regions(config: DictConfig, options: ExtractOptions, engine: str = "local") -> Extracted:
    """Make a region store, or resume one that was begun; shards with unreadable images are made again.

    Args:
        config: as for do_train.
        options: see there.
        engine: one of ENGINES, who does the work.

    Raises:
        InputError: as of plan_extraction; a store is there already and not to be resumed, or was begun with other
            settings; it cannot be written to; no image can be read.
    """
    job = plan_extraction(config, options)
    folder = Path(options.output).absolute()
    _begin(folder, job, resume=options.resume)
    shards = [(number, job.images[job.plan.of_shard(number)]) for number in missing_shards(folder, job.plan)]
    if shards:
        ENGINES[engine](config, job, folder, shards, min(options.processes, len(shards)))
    missing = missing_shards(folder, job.plan)
    if missing:
        raise InputError(f"expected {job.plan.num_shards} shards in {folder}, {len(missing)} are missing: --resume")
    for part in folder.glob(".*.part"):  # of runs that were killed while they wrote
        part.unlink(missing_ok=True)
    unreadable = unreadable_images(folder, job.plan)
    if unreadable and len(unreadable) == len(job.images):
        raise InputError(
            f"expected images that can be read, none of {len(unreadable)} can, as {unreadable[0][1]}: --resume"
        )
    return Extracted(job.plan.teacher, len(job.images), unreadable)


def _begin(folder: Path, job: ExtractJob, *, resume: bool) -> None:
    if (folder / PLAN).exists():
        found = read_plan(folder)
        if not resume:
            missing = len(missing_shards(folder, found))
            state = f"with {missing} of {found.num_shards} shards to come: add --resume to go on, or choose another"
            raise InputError(
                f"expected a new folder, {folder} holds a region store {state if missing else 'that is complete'}"
            )
        check_same_plan(found, job.plan, folder)
        for number, errors in unreadable_by_shard(folder, found).items():
            if errors:  # a disk may have been away
                shard_path(folder, number).unlink()
        return
    if folder.exists() and (not folder.is_dir() or any(file.suffix != ".part" for file in folder.iterdir())):
        raise InputError(f"expected a new or empty folder for a region store, got {folder}")
    write_plan(folder, job.plan)


def run_here(config: DictConfig, job: ExtractJob, folder: Path, shards: Shards, processes: int) -> None:
    """Extract with this process, or with several of this machine, each with a GPU of its own where there are any.

    Raises:
        InputError: more processes than GPUs, or the store cannot be written to.
        torch.multiprocessing.ProcessExitedException: one of several processes has failed, and said why.
    """
    gpus = torch.cuda.device_count()
    if gpus and processes > gpus:
        raise InputError(f"expected --num-gpus of at most {gpus} here, got {processes}")
    arguments = (config, job, folder, shards)
    if processes == 1:
        _extract_share(*arguments)
    else:
        launch(_extract_share_apart, processes, dist_url="auto", args=arguments, timeout=_PATIENCE)


@command
def _extract_share_apart(*arguments: Any) -> None:
    """`_extract_share` in a process of its own."""
    if not torch.cuda.is_available():
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // comm.get_world_size()))
    _extract_share(*arguments)
    comm.synchronize()


def _extract_share(config: DictConfig, job: ExtractJob, folder: Path, shards: Shards) -> None:
    rank, processes = comm.get_rank(), comm.get_world_size()
    extractor = build_extractor(config, job.plan, job.weights)
    steps = extractor.write_shards(folder, shards[rank::processes])
    sizes = {number: len(jobs) for number, jobs in shards}
    others = {number for other in range(processes) if other != rank for number, _ in shards[other::processes]}

    def done_by_others() -> int:
        return sum(sizes[number] for number in others.difference(missing_shards(folder, job.plan))) if others else 0

    show_progress(
        "embedding regions",
        steps,
        sum(sizes.values()),
        done_by_others=done_by_others,
        shown=comm.is_main_process(),
    )


ENGINES = {"local": run_here, "ray": run_on_ray}
