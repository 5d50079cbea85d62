"""Peak memory of large jobs, each in a process of its own, beside a limit."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from ovdet.errors import InputError

MIB = 2**20


@dataclass(frozen=True)
class Sizes:
    """The sizes of the jobs.

    Attributes:
        photos: of the folder, 12 megapixels each.
        megapixels: of the large photo.
        names: of the vocabulary.
        images: of LVIS, 300 detections each.
    """

    photos: int = 200
    megapixels: int = 100
    names: int = 1_000_000
    images: int = 19_809


@dataclass(frozen=True)
class Peak:
    """The peak memory of one job, beside its limit.

    Attributes:
        case: what was done, with sizes.
        peak_mib: resident memory of its process.
        limit_mib: that it must not go beyond.
    """

    case: str
    peak_mib: float
    limit_mib: float


@dataclass(frozen=True)
class Case:
    """A job.

    Attributes:
        title: in words, with fields of Sizes in braces.
        work: does it, in a folder with what is large and is read from a file.
        limit: MiB beside that of "start".
    """

    title: str
    work: Callable[[Sizes, Path], None]
    limit: Callable[[Sizes], float]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options: which jobs, and how large."""
    add = parser.add_argument
    add("cases", nargs="*", metavar="CASE", help=f"out of {', '.join(CASES)} (default: all)")
    add("--photos", type=int, default=Sizes.photos, metavar="N", help="of the folder, 12 megapixels each (%(default)s)")
    add("--megapixels", type=int, default=Sizes.megapixels, metavar="N", help="of the large photo (%(default)s)")
    add("--names", type=int, default=Sizes.names, metavar="N", help="of the vocabulary (%(default)s)")
    add("--images", type=int, default=Sizes.images, metavar="N", help="of LVIS, 300 detections each (%(default)s)")


def run(arguments: argparse.Namespace) -> list[Peak]:
    """The peak of each job, told on stderr as soon as it is there: they take minutes.

    Raises:
        InputError: no such job, a size below 1, or a job that failed.
    """
    found = []
    for each in peaks(arguments):
        print(f"{each.case}: {each.peak_mib:,.0f} MiB", file=sys.stderr, flush=True)
        found.append(each)
    return found


def peaks(arguments: argparse.Namespace) -> Iterator[Peak]:
    """As `run`, each as soon as it is there."""
    if odd := sorted(set(arguments.cases) - set(CASES)):
        raise InputError(f"expected cases out of {', '.join(CASES)}, got {odd[0]!r}")
    sizes = Sizes(**{field.name: getattr(arguments, field.name) for field in fields(Sizes)})
    if min(asdict(sizes).values()) < 1:
        raise InputError("expected numbers of at least 1")
    for name in arguments.cases or CASES:
        case = CASES[name]
        limit = case.limit(sizes) + (0 if name == "start" else CASES["start"].limit(sizes))
        with tempfile.TemporaryDirectory() as folder:
            yield Peak(case.title.format(**asdict(sizes)), peak(name, sizes, Path(folder)), limit)


def peak(name: str, sizes: Sizes, folder: Path) -> float:
    """A job's peak in MiB; what it reads is written before, by another process.

    Raises:
        InputError: it failed.
    """
    run_apart(f"memory.write_inputs({name!r}, memory.{sizes!r}, Path.cwd())", folder, name)
    work = f"memory.CASES[{name!r}].work(memory.{sizes!r}, Path.cwd())"
    return float(run_apart(f"{work}; print(memory.own_peak())", folder, name).split()[-1])


def run_apart(statement: str, folder: Path, name: str) -> str:
    """Run a statement in a process of its own, in this folder, and return what it prints.

    Raises:
        InputError: it failed, with the job's name.
    """
    script = f"from pathlib import Path; from ovdet.benchmarks import memory; {statement}"
    paths = os.pathsep.join(map(os.path.abspath, filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))))
    environment = {**os.environ, "PYTHONPATH": paths}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=folder, env=environment, stdout=subprocess.PIPE, text=True
    )
    if done.returncode:
        raise InputError(f"expected {name} to be done, its process ended with {done.returncode}")
    return done.stdout


def own_peak() -> float:
    """MiB that this process held at most so far."""
    try:  # what it held before it was this program does not count, unlike in `getrusage`
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        import resource

        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return used / (MIB if sys.platform == "darwin" else 1024)


def write_photo(folder: Path, megapixels: int) -> Path:
    """A JPEG of smooth noise, 4 : 3."""
    import numpy as np
    from PIL import Image

    height = round((megapixels * 1e6 * 3 / 4) ** 0.5)
    coarse = Image.fromarray(np.random.default_rng(0).integers(0, 255, (24, 32, 3), dtype=np.uint8))
    coarse.resize((height * 4 // 3, height), Image.BILINEAR).save(folder / "photo.jpg", quality=90)
    return folder / "photo.jpg"


def detect_on(photos: list[Path]) -> None:
    """`predictor.stream` on files."""
    from ovdet.inference.predictor import OpenVocabPredictor

    predictor = OpenVocabPredictor.from_pretrained("ovdet-lite", device="cpu")
    assert len(list(predictor.stream(photos, ["person", "dog"]))) == len(photos)


def start(sizes: Sizes, folder: Path) -> None:
    """One ordinary photo."""
    detect_on([write_photo(folder, 1)])


def many_photos(sizes: Sizes, folder: Path) -> None:
    """A folder of photos of 12 megapixels."""
    detect_on([write_photo(folder, 12)] * sizes.photos)


def large_photo(sizes: Sizes, folder: Path) -> None:
    """One large photo; another process has written it."""
    detect_on([folder / "large.jpg"])


def many_names(sizes: Sizes, folder: Path) -> None:
    """A vocabulary as a file in half precision, which is mapped; another process has written it."""
    from ovdet.inference.predictor import OpenVocabPredictor
    from ovdet.text.embeddings import load_embeddings

    predictor = OpenVocabPredictor.from_pretrained("ovdet-lite", device="cpu")
    predictor(write_photo(folder, 1), load_embeddings(folder / "names.safetensors"), negatives=())


def lvis(sizes: Sizes, folder: Path) -> None:
    """LVIS's figures of 300 detections an image, 1,203 classes; a process before has written the json."""
    import torch
    from detectron2.structures import Boxes, Instances

    from ovdet.benchmarks.random_inputs import random_boxes
    from ovdet.data.catalog import LVIS_EVALUATOR_TYPE
    from ovdet.data.dataset import register_coco_subsets
    from ovdet.evaluation.evaluator import build_evaluator

    given = dict(json_file=str(folder / "lvis.json"), image_root=str(folder), evaluator_type=LVIS_EVALUATOR_TYPE)
    register_coco_subsets(name="lvis", **given, filter_empty=False)
    evaluator, generator = build_evaluator("lvis", folder / "out", ("bbox",)), torch.Generator().manual_seed(0)
    evaluator.reset()
    for image_id in range(1, sizes.images + 1):
        found = Instances((480, 640))
        found.pred_boxes = Boxes(random_boxes(300, 480, 640, generator))
        found.scores = torch.rand(300, generator=generator)
        found.pred_classes = torch.randint(1203, (300,), generator=generator)
        evaluator.process([{"image_id": image_id}], [{"instances": found}])
    evaluator.evaluate()


def write_inputs(case: str, sizes: Sizes, folder: Path) -> None:
    """Large inputs that are read from files: writing them is no part of what is measured."""
    if case == "photo":
        write_photo(folder, sizes.megapixels).rename(folder / "large.jpg")
    elif case == "names":
        import torch
        import torch.nn.functional as F

        from ovdet.teachers.registry import load_teacher
        from ovdet.text.embeddings import TextEmbeddings

        rows = [F.normalize(torch.randn(10_000, 384), dim=1).half() for _ in range(-(-sizes.names // 10_000))]
        names = tuple(f"name {k}" for k in range(sizes.names))
        matrix = torch.cat(rows)[: sizes.names]
        fingerprint = load_teacher("conse").fingerprint
        TextEmbeddings(matrix, names, ("a {}",), "conse", fingerprint).save(folder / "names.safetensors")
    elif case == "lvis":
        import json

        from ovdet.benchmarks.evaluation import draw_boxes

        content, _ = draw_boxes(sizes.images, 1203)
        for image in content["images"]:
            image.update(neg_category_ids=[1, 2, 3], not_exhaustive_category_ids=[])
            (folder / image["file_name"]).touch()  # looked for, not read
        for category in content["categories"]:
            category["frequency"] = "rcf"[category["id"] % 3]
        (folder / "lvis.json").write_text(json.dumps(content))


CASES = {
    "start": Case("one ordinary photo", start, lambda sizes: 1300),
    "folder": Case("a folder of {photos:,} photos of 12 megapixels", many_photos, lambda sizes: 500),
    "photo": Case(
        "a photo of {megapixels} megapixels", large_photo, lambda sizes: 200 + 9.5e6 * sizes.megapixels / MIB
    ),
    "names": Case(
        "{names:,} names from a file in half precision", many_names, lambda sizes: 300 + 1000 * sizes.names / MIB
    ),
    "lvis": Case(
        "LVIS's figures of {images:,} images, 300 detections each",
        lvis,
        lambda sizes: 600 + 150 * 300 * sizes.images / MIB,
    ),
}
