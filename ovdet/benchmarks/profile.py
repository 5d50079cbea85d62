"""The time of a training step, part by part, by torch.profiler."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from operator import attrgetter
from unittest.mock import patch

import torch
from torch.profiler import profile, record_function

from ovdet.benchmarks.timing import Row, describe_device, wait_for
from ovdet.files import temporary_path

PARTS = {
    # a method or a callable attribute, as seen from a Step (benchmarks/train.py); no two within each other
    "pre-processing": "model.preprocess_image",
    "backbone and pyramid": "model.backbone.forward",
    "RPN": "model.proposal_generator.forward",
    "distillation regions": "model.region_source",
    "sampling": "model.roi_heads.label_and_sample_proposals",
    "pooling": "model.roi_heads.box_pooler.forward",
    "box head": "model.roi_heads.box_head.forward",
    "losses of classes and boxes": "model.roi_heads.box_predictor.losses",
    "image branch": "model.roi_heads.image_branch.forward",
    "objectives": "model.roi_heads.objective_losses",
    "backward": "backward",
    "optimizer": "update",
}
_STEP = "the whole step"


def time_parts(
    step: Callable[[], object],
    parts: Mapping[str, str],
    *,
    rounds: int,
    device: torch.device | str,
    trace: str | None = None,
) -> list[Row]:
    """A row for each part of a step, and one for the rest of it; medians over the rounds.

    Args:
        step: has the parts as attributes of attributes; those that it lacks are passed over.
        parts: name -> path of a method.
        rounds: how often the step is taken, after once to warm up.
        device: waited for after each part, so that a step takes longer than by itself.
        trace: file for the last step's operators over time, as chrome://tracing and Perfetto read it.

    Raises:
        InputError: the trace cannot be written.
    """
    seconds: list[dict[str, float]] = []
    with ExitStack() as stack:
        for name, path in parts.items():
            stack.enter_context(_labeled(step, path, name, device))
        for _ in range(rounds + 1):
            with profile(acc_events=True) as profiler, record_function(_STEP):
                step()
                wait_for(device)
            recorded = {event.key: event.cpu_time_total / 1e6 for event in profiler.key_averages()}
            taken = {name: recorded[name] for name in parts if name in recorded}
            seconds.append({**taken, "the rest": recorded[_STEP] - sum(taken.values())})
    if trace:
        with temporary_path(trace, ".json") as file:
            profiler.export_chrome_trace(str(file))
    return _rows({name: [taken[name] for taken in seconds[1:]] for name in seconds[-1]}, device)


def _rows(seconds: Mapping[str, list[float]], device: torch.device | str) -> list[Row]:
    """Name -> seconds of each round; as rows with shares of the whole."""
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    total = sum(medians.values())
    return [
        Row(
            case=f"of it {name}, {median / total:.0%}",
            ours_s=median,
            device=describe_device(device),
            spread=(max(seconds[name]) - min(seconds[name])) / median,
        )
        for name, median in medians.items()
    ]


@contextmanager
def _labeled(root: object, path: str, name: str, device: torch.device | str) -> Iterator[None]:
    """Have the profiler record a method's calls under a name, for the time of a `with` block."""
    owner_path, _, method = path.rpartition(".")
    try:
        owner = attrgetter(owner_path)(root) if owner_path else root
        function = getattr(owner, method)
    except AttributeError:
        function = None
    if function is None:  # the model has no such part
        yield
        return

    def labeled(*arguments: object, **named: object) -> object:
        with record_function(name):
            result = function(*arguments, **named)
            wait_for(device)
        return result

    with patch.object(owner, method, labeled):
        yield
