"""Work on a Ray cluster: rows in, rows out, by a pool of workers; the rows of a lost worker are retried.

Ray is imported when it is asked for, and not needed otherwise.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from typing import Any

from ovdet.errors import InputError, input_error_of

Row = dict[str, Any]


def map_on_cluster(worker: type, arguments: Sequence[Any], rows: Sequence[Row], *, processes: int = 0) -> Iterator[Row]:
    """Rows that workers make of rows, in the order in which they are done.

    It runs on the cluster of $RAY_ADDRESS, else on one that is started on this machine.

    Args:
        worker: a class, made once a process from `arguments`; called with a column of one value for each key of a row,
            it returns columns.
        arguments: that can be pickled.
        rows: what is to be done, one or more.
        processes: workers, each with a GPU of its own where the cluster has any, else with its share of the CPUs; 0 for
            one a GPU, or one a CPU.

    Raises:
        InputError: Ray is not installed, the cluster does not answer or is smaller than that; or what a worker has met.
    """
    ray = import_ray()
    connect(ray)
    try:
        ray.data.DataContext.get_current().enable_progress_bars = False
        share, processes = share_of(ray.cluster_resources(), processes)
        done = ray.data.from_items(list(rows), override_num_blocks=len(rows)).map_batches(
            worker,
            fn_constructor_args=tuple(arguments),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=processes),  # lost workers are replaced, their rows retried
            **share,
        )
        yield from done.iter_rows()
    except ray.exceptions.RayError as error:
        message = input_error_of(str(error))
        if message is None:
            raise
        raise InputError(message) from error  # without the cluster's traceback
    finally:
        ray.shutdown()


def import_ray() -> Any:
    """The package.

    Raises:
        InputError: it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # ray-project/ray#57733: an error that is none
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise InputError('expected Ray for --engine ray, run: pip install "ray[data]"') from error
    return ray


def connect(ray: Any) -> None:
    """Connect to the cluster of $RAY_ADDRESS; without that, start one here.

    Raises:
        InputError: it does not answer, or does not let this user in (Ray's own settings, RAY_AUTH_MODE and the like).
    """
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    address = os.environ.get("RAY_ADDRESS") or "local"  # never a cluster that merely happens to run here
    try:
        ray.init(address, log_to_driver=False, logging_level="ERROR", ignore_reinit_error=True)
    except Exception as error:  # Ray raises plain ones, too, such as of a node that is too slow to start
        cause = str(error.__cause__ or error).strip().splitlines()[-1]
        raise InputError(f"expected a Ray cluster at {address}, it cannot be reached: {cause}") from error


def share_of(resources: dict[str, float], processes: int) -> tuple[dict[str, float], int]:
    """The resources of each worker, and how many workers there are; 0 takes one a GPU, or one a CPU.

    Raises:
        InputError: there is not that much.
    """
    kind = "GPU" if resources.get("GPU") else "CPU"
    available = int(resources.get(kind, 0))
    processes = processes or available
    if not 0 < processes <= available:
        raise InputError(f"expected at most as many processes as the cluster's {available} {kind}s, got {processes}")
    return ({"num_gpus": 1} if kind == "GPU" else {"num_cpus": available // processes}), processes
