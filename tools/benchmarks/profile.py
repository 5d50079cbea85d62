"""Where the time of a training step goes, part by part."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from operator import attrgetter

import torch

from benchmarks.timing import Row, describe_device, wait_for

PARTS = {
    # what is called, as seen from a Step (ovdet/benchmark/train.py); no two within each other
    "pre-processing": "model.preprocess_image",
    "backbone and pyramid": "model.backbone.forward",
    "RPN": "model.proposal_generator.forward",
    "regions to distil": "model.region_source",
    "sampling": "model.roi_heads.label_and_sample_proposals",
    "pooling": "model.roi_heads.box_pooler.forward",
    "box head": "model.roi_heads.box_head.forward",
    "losses of classes and boxes": "model.roi_heads.box_predictor.losses",
    "image branch": "model.roi_heads.image_branch.forward",
    "distillation loss": "model.roi_heads.distillation.forward",
    "backward": "backward",
    "optimizer": "update",
}


def time_parts(
    step: Callable[[], object], parts: Mapping[str, str], *, rounds: int, device: torch.device | str
) -> list[Row]:
    """A row for each part of a step, and one for all that is in none of them.

    Args:
        step: has what the parts name, as attributes of attributes; what it lacks is passed over.
        parts: name -> what is called.
        rounds: how often the step is taken.
        device: waited for before and after each part, so that a step takes longer than it would by itself.
    """
    seconds: dict[str, list[float]] = defaultdict(list)
    for number in range(rounds + 1):
        taken: dict[str, float] = defaultdict(float)
        with ExitStack() as stack:
            for name, path in parts.items():
                stack.enter_context(_timed(step, path, name, taken, device))
            wait_for(device)
            start = time.perf_counter()
            step()
            wait_for(device)
        taken["the rest"] = time.perf_counter() - start - sum(taken.values())
        if number:  # the first is to warm up
            for name, value in taken.items():
                seconds[name].append(value)
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
def _timed(root: object, path: str, name: str, taken: dict[str, float], device: torch.device | str) -> Iterator[None]:
    """For the time of a `with` block, add up how long calls of one method take."""
    owner_path, _, method = path.rpartition(".")
    try:
        owner = attrgetter(owner_path)(root) if owner_path else root
        function = getattr(owner, method)
    except AttributeError:
        function = None
    if function is None:  # the model has no such part
        yield
        return

    def timed(*arguments: object, **named: object) -> object:
        wait_for(device)
        start = time.perf_counter()
        result = function(*arguments, **named)
        wait_for(device)
        taken[name] += time.perf_counter() - start
        return result

    own = vars(owner).get(method)
    setattr(owner, method, timed)
    try:
        yield
    finally:
        if own is None:
            delattr(owner, method)  # the class's comes to light again
        else:
            setattr(owner, method, own)
