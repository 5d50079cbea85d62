"""Choosing the share of a fine-tuned detector in an average with the one before: own names against others."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from ovdet.class_embeddings import ClassEmbeddings
from ovdet.device import float32_by_default
from ovdet.engine.checkpoint import average_checkpoints
from ovdet.errors import InputError
from ovdet.evaluation.ground_truth import load_ground_truth
from ovdet.files import atomic_write
from ovdet.inference.held_out import HeldOut
from ovdet.inference.predictor import OpenVocabPredictor
from ovdet.learning.learn import AnnotatedPhoto, read_examples
from ovdet.progress import show_progress


class Data(NamedTuple):
    """A COCO-format json, the folder of its photos, and how many of these count at most."""

    annotations: str
    images: str
    max_photos: int | None = None


class Share(NamedTuple):
    """AP50 in percent of the weights (1 - share) * before + share * after."""

    share: float
    own: float
    control: float


def choose_share(shares: Sequence[Share], max_loss: float) -> Share:
    """The share with the best AP50 of own names among those whose control loses at most so many points.

    Args:
        shares: the first of them is 0.
        max_loss: points of AP50 below the first one's control.

    Raises:
        InputError: no share was tried beside the first, or all lose more.
    """
    before, *tried = shares
    kept = [each for each in tried if each.control >= before.control - max_loss]
    if not kept:
        lost = ", ".join(f"{each.share:g}: {before.control - each.control:.1f}" for each in tried)
        raise InputError(f"expected a share that loses at most {max_loss:g} AP50 of the control, got losses {lost}")
    return max(kept, key=lambda each: each.own)


@float32_by_default()
def compare_shares(
    open_predictor: Callable[[str], OpenVocabPredictor],
    before: tuple[str, OpenVocabPredictor],
    after: str,
    shares: Sequence[float],
    own: Data,
    control: Data,
    tell: Callable[[str], None] = print,
) -> list[Share]:
    """AP50 of own and of control names for each share, share 0 first.

    Args:
        open_predictor: a checkpoint file -> a predictor with it.
        before: a checkpoint, and a predictor with it.
        after: the fine-tuned checkpoint.
        shares: above 0, up to 1.
        own: photos of one's own that were not trained on.
        control: photos with names that should stay.
        tell: gets a line a share.

    Raises:
        InputError: a share, a checkpoint or data that cannot be used.
    """
    if not shares or not all(0 < share <= 1 for share in shares):
        raise InputError(f"expected shares above 0 and up to 1, got {list(shares)}")
    read = [(data, *_read(data)) for data in (own, control)]
    asked: dict[bool, list[ClassEmbeddings]] = {}  # of the detector before; of the averages, which all know the same
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for share in (0.0, *sorted(shares)):
            predictor = before[1]
            if share:
                file = str(Path(folder) / "averaged.pth")
                average_checkpoints(before[0], after, share, file)
                predictor = open_predictor(file)
            if (share > 0) not in asked:
                asked[share > 0] = [predictor.embed(names, negatives=()) for _, names, _ in read]
            sets = zip(read, asked[share > 0], strict=True)
            results.append(Share(share, *(_ap50(predictor, *each, classes) for each, classes in sets)))
            tell(f"share {share:g}: own {results[-1].own:.1f}, control {results[-1].control:.1f}")
    return results


def _read(data: Data) -> tuple[list[str], list[AnnotatedPhoto]]:
    names, photos = read_examples(data.annotations, data.images)
    return names, photos[: data.max_photos]


def _ap50(
    predictor: OpenVocabPredictor,
    data: Data,
    names: Sequence[str],
    photos: Sequence[AnnotatedPhoto],
    classes: ClassEmbeddings,
) -> float:
    held_out = HeldOut(predictor, photos, load_ground_truth(data.annotations), names)
    show_progress("reading photos", held_out.embed(), len(photos))
    return held_out.score(classes).AP50


def write_share(before: str, after: str, share: float, output: str | Path) -> None:
    """Write the averaged checkpoint; a share of 1 is a copy of `after`.

    Raises:
        InputError: as of `average_checkpoints`.
    """
    if share == 1 and Path(after).suffix == Path(output).suffix == ".pth":
        atomic_write(output, Path(after).read_bytes())
    else:
        average_checkpoints(before, after, share, output)
